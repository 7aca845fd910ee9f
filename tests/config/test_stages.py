"""What a spec with stages refuses, and what its screen is."""

from pathlib import Path

import pytest

from pgsearch.config import load_spec
from pgsearch.errors import InvalidSpec
from tests.records import spec, write_spec

SPEC = """\
trials: 10
data: {name: digits}
model: {backbone: digits_resnet, weights: weights.pth}
loss: {name: pg}
training: {epochs: 4}
space:
  loss.lambda1_neg: {type: float, low: 0.5, high: 8, tied: true}
  training.flip: {type: float, low: 0.1, high: 0.5}
  training.momentum: {type: float, low: 0.5, high: 0.9, when: {training.sampler: uniform}}
stages:
  screen: {training: {epochs: 2}}
  best: 3
"""
WITHOUT_SAMPLER = ", when: {training.sampler: uniform}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{epochs: 2}", "{epochs: 2, flip: 0}", "stages.screen.training.flip: the space varies "),
        ("{epochs: 2}", "{trunk: frozen}", r"space gives training.flip 0.1, .* does not go with"),
        ("{epochs: 2}", "{sampler: uniform}", "training.sampler: the space's training.momentum is"),
        ("{epochs: 2}", "{epochs: 4}", "stages.screen: changes nothing"),
        ("{epochs: 2}", "{epochs: 0}", r"stages.screen.training.epochs: .* greater than"),
        ("{training: {epochs: 2}}", "{loss: {name: bce}}", "stages.screen.loss: unknown key"),
        ("best: 3", "best: 7", r"stages.best: best \+ check is 11, more than the 10 trials"),
        ("best: 3", "best: 3\nobjective: [{metric: map_head}, {metric: map_tail}]",
         "the best of a screen are the best by one number"),
        ("trials: 10", "method: grid", "stages belong to method: search"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_both_names(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = SPEC.replace(old, new)
    if "sampler" not in new:
        text = text.replace(WITHOUT_SAMPLER, "")
    assert text != SPEC
    with pytest.raises(InvalidSpec, match=message):
        load_spec(write_spec(tmp_path, text))


def test_a_screen_with_a_frozen_trunk_is_not_augmented_and_the_base_is() -> None:
    search = spec(
        model={"backbone": "digits_resnet", "weights": "weights.pth"},
        stages={"screen": {"training": {"trunk": "frozen"}}, "best": 2, "check": 1},
    )
    values = {"loss.lambda1_neg.tail": 3.0}
    screen = search.trial(0, values, stage="screen")
    full = search.trial(0, values, stage="full")
    assert (screen.training.trunk, screen.training.photometric) == ("frozen", 0.0)
    assert (full.training.trunk, full.training.photometric) == ("trained", 0.5)
    assert screen.loss == full.loss
    assert full.configuration_id == search.trial(0, values).configuration_id
    through = {"training": {"trunk": "frozen_through_layer3"}}
    search = search.model_validate(
        {**search.model_dump(mode="json"), "stages": {"screen": through, "best": 2}}
    )
    assert search.trial(0, {}, stage="screen").training.flip == 0.0
    assert search.bases() == [(None, "screen"), (None, "full")]
