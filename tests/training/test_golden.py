"""Short training curves that a refactoring must not move.

Changing one is a change of numerics: it needs a line in the changelog. The tolerance is for the
arithmetic of other processors.
"""

from typing import Any

import pytest

from tests.records import spec
from tests.training.test_fit import small, train

LOSSES: dict[str, dict[str, Any]] = {
    "bce": {"name": "bce"},
    "db": {"name": "db", "scale": 2.0},
    "pg": {"name": "pg", "lambda1_neg": {"tail": 3.0}, "lambda1_neg_mode": {"tail": "adaptive"}},
}
# Training loss of epochs 1 and 2, then mean validation BCE after epoch 2.
GOLDEN = {
    "bce": (0.677465, 0.624122, 0.597064),
    "db": (0.320564, 0.290594, 0.611534),
    "pg": (0.112560, 0.110253, 0.647419),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_curve_stays_where_it_was(name: str) -> None:
    loss = spec(loss=LOSSES[name], space={}).loss
    trial = small(epochs=2, crop_min=0.9).trial(0, {}).model_copy(update={"loss": loss})
    first, second = train(trial)
    curve = (first.train_loss, second.train_loss, second.loss["validation"])
    assert curve == pytest.approx(GOLDEN[name], rel=2e-3)
