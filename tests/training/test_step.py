"""A step that is not finite, where it is known at once and where a GPU is not waited for."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from pgsearch.errors import NonFiniteLoss
from pgsearch.training import step
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from tests.training.test_fit import comparable, small, train

DIVERGES: dict[str, Any] = {"learning_rate": 1e12, "warmup_iterations": 0}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "is_asked_at_once", lambda device: False)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_watching_without_waiting_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = small(epochs=2).trial(0, {})
    records = train(trial)
    monkeypatch.undo()
    assert [comparable(r) for r in records] == [comparable(r) for r in train(trial)]


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("clip_norm", [None, 35.0])
def test_the_first_bad_step_is_told_after_the_epoch_as_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip_norm: float | None
) -> None:
    trial = small(clip_norm=clip_norm, **DIVERGES).trial(0, {})
    path = tmp_path / "c.pt"
    with pytest.raises(NonFiniteLoss) as late:
        train(trial, checkpoints=Checkpoints(path))
    assert not path.exists()
    monkeypatch.undo()
    with pytest.raises(NonFiniteLoss, match=r"in epoch 1, step [1-5] of .*lambda1_neg") as at_once:
        train(trial)
    assert str(late.value) == str(at_once.value)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_an_interruption_keeps_no_state_after_a_bad_step(tmp_path: Path) -> None:
    asked = itertools.count(1)
    trial = small(**DIVERGES).trial(0, {})
    with pytest.raises(NonFiniteLoss):
        fit(
            trial,
            report=print,
            checkpoints=Checkpoints(tmp_path / "c.pt"),
            should_stop=lambda: next(asked) == 8,
        )
    assert not (tmp_path / "c.pt").exists()
