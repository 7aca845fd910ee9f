"""A trial that is stopped anywhere, as often as one likes, and ends as if it never was."""

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pgsearch
from pgsearch.config import TrialSpec
from pgsearch.errors import EXIT_INTERRUPTED, OutOfMemory, StorageError, TrialInterrupted
from pgsearch.models.digits_resnet import DigitsResNet
from pgsearch.results import EpochRecord
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from pgsearch.training.state import CHECKPOINT_VERSION, EpochProgress
from tests.records import spec
from tests.training.test_fit import TIMES, comparable

EPOCHS, STEPS = 3, 4
ASKS_PER_EPOCH = 1 + STEPS + 1
"""How often an epoch asks whether to stop: before it, before each step, before the evaluation."""

SETTINGS: dict[str, dict[str, Any]] = {
    "class_aware": {"photometric": 0.5, "crop_min": 0.7},
    "class_aware_fixed": {"iterations_per_epoch": STEPS, "checkpoint_every": 2, "workers": 1},
    "uniform": {"sampler": "uniform", "checkpoint_every": 2, "validate_every": 2},
    "uniform_fixed": {"sampler": "uniform", "iterations_per_epoch": STEPS, "precision": "bf16"},
    "frozen": {"trunk": "frozen", "views": 2, "checkpoint_every": 2},
    "frozen_stages": {"trunk": "frozen_through_layer2", "views": 2, "workers": 1},
}


def small(weights: str = "random", **training: Any) -> TrialSpec:
    """Return a trial of 12 steps with all that remembers: momentum, dropout, a loss that adapts."""
    search = spec(
        data={"name": "digits", "max_count": 40, "image_size": 32, "head_min": 20,
              "tail_below": 5},
        model={"backbone": "digits_resnet", "weights": weights, "bn_eval": False},
        loss={"name": "pg", "lambda1_neg_mode": "adaptive", "lambda2_pos": {"tail": 2.0},
              "focusing": {"head": "none", "medium": "fixed", "tail": "adaptive"}},
        space={},
        training={"epochs": EPOCHS, "batch_size": 16, "sampler_reduce": 6, "warmup_iterations": 9,
                  "learning_rate": 0.05, **training},
    )  # fmt: skip
    return search.trial(0, {})


@dataclass
class Case:
    """A trial, and what becomes of it if nobody stops it."""

    trial: TrialSpec
    records: list[str]
    eve: dict[str, Any]
    """Its state after the last step, with all that remembers, before the last evaluation."""
    state: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module", params=SETTINGS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(7)
    torch.save(DigitsResNet().state_dict(), folder / "trunk.pth")
    is_frozen = "trunk" in SETTINGS[request.param]
    weights = str(folder / "trunk.pth") if is_frozen else "random"
    trial = small(weights, **SETTINGS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        if is_frozen:
            patch.setenv("PGSEARCH_CACHE", str(folder / "cache"))
        records, _ = sit(trial, folder / "straight.pt")
        state = Checkpoints(folder / "straight.pt").load()
        assert records[-1].iterations == EPOCHS * STEPS
        assert state is not None
        sit(trial, folder / "eve.pt", stop_at=EPOCHS * ASKS_PER_EPOCH)
        eve = Checkpoints(folder / "eve.pt").load()
        assert eve is not None
        assert steps_left(eve) == 0
        yield Case(trial, [comparable(r) for r in records], eve, state, folder)


def sit(
    trial: TrialSpec, path: Path, *, stop_at: int | None = None
) -> tuple[list[EpochRecord], bool]:
    """Train until it is asked for the given time whether to stop.

    Returns what was reported, and whether the trial ended.
    """
    records: list[EpochRecord] = []
    asked = itertools.count(1)
    torch.manual_seed(12345)  # what happens in between must not matter
    try:
        fit(
            trial,
            report=records.append,
            checkpoints=Checkpoints(path),
            should_stop=lambda: next(asked) == stop_at,
        )
    except TrialInterrupted:
        return records, False
    return records, True


def steps_left(state: dict[str, Any]) -> int:
    done = state["progress"]["steps_done"] if state["progress"] else 0
    return EPOCHS * STEPS - state["epoch"] * STEPS - done


def stop_on_the_eve(state: dict[str, Any]) -> int:
    """Return at which time that it is asked a trial stands before its last evaluation."""
    begun = state["progress"] is not None
    asked = 1 + state["progress"]["steps_done"] if begun else 0
    return (EPOCHS - state["epoch"]) * ASKS_PER_EPOCH - asked


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Compare all that two states hold but times, to the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - TIMES - {"seconds"}:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, (mine, its) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, its, f"{where}[{i}]")
    else:
        assert repr(one) == repr(other), where  # NaN equals NaN in text


@settings(max_examples=2, deadline=None)
@example(stops=[2] * EPOCHS * ASKS_PER_EPOCH)  # at every place there is, one after another
@example(stops=[1, ASKS_PER_EPOCH, 1, 2, 1])  # before all; before evaluation; between epochs
@given(stops=st.lists(st.integers(1, EPOCHS * ASKS_PER_EPOCH - 1), min_size=1, max_size=4))
@pytest.mark.promise(3)
def test_stops_change_nothing(case: Case, stops: list[int]) -> None:
    path, stops, seen_eve = case.folder / "stopped.pt", stops.copy(), False
    path.unlink(missing_ok=True)
    ended = False
    while not ended:
        before = Checkpoints(path).load()
        stop_at = stops.pop(0) if stops else None
        if before is not None and steps_left(before):
            stop_at = min(stop_at or sys.maxsize, stop_on_the_eve(before))
        records, ended = sit(case.trial, path, stop_at=stop_at)
        # Each sitting reports from the first epoch on, so that a row that was lost comes again.
        assert [comparable(r) for r in records] == case.records[: len(records)]
        after = Checkpoints(path).load()
        assert after is not None
        if not ended and steps_left(after) == 0:
            assert_same(after, case.eve)
            seen_eve = True
    assert seen_eve
    assert len(records) == EPOCHS
    assert_same(Checkpoints(path).load(), case.state)


@pytest.mark.promise(8)
def test_an_interruption_says_where_it_is_and_how_it_goes_on(tmp_path: Path) -> None:
    def message(stop_at: int, checkpoints: Checkpoints | None) -> str:
        asked = itertools.count(1)
        with pytest.raises(TrialInterrupted) as caught:
            fit(
                small(),
                report=lambda record: None,
                checkpoints=checkpoints,
                should_stop=lambda: next(asked) == stop_at,
            )
        assert caught.value.exit_code == EXIT_INTERRUPTED
        return str(caught.value)

    saved = "; its checkpoint is saved: the same command goes on from there"
    checkpoints = Checkpoints(tmp_path / "c.pt")
    assert message(1, checkpoints) == f"small-00000: interrupted before epoch 1{saved}"
    where = f"interrupted in epoch 1, after step 3 of {STEPS}"
    assert message(5, checkpoints) == f"small-00000: {where}{saved}"
    assert message(STEPS - 3 + 2, checkpoints) == f"small-00000: interrupted after epoch 1{saved}"
    lost = "; it keeps no checkpoint: the same command begins it again"
    assert message(5, None) == f"small-00000: {where}{lost}"


def test_a_trial_that_is_complete_is_not_interrupted(tmp_path: Path) -> None:
    records: list[EpochRecord] = []
    checkpoints = Checkpoints(tmp_path / "c.pt")
    arguments = {"report": records.append, "checkpoints": checkpoints}
    fit(small(), should_stop=lambda: len(records) == EPOCHS, **arguments)
    fit(small(), should_stop=lambda: True, **arguments)
    assert [r.epoch for r in records] == 2 * [1, 2, 3]


def test_a_state_tells_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"

    def state() -> dict[str, Any]:
        return Checkpoints(path).load() or {}

    sit(small(), path, stop_at=4)
    assert (state()["epoch"], state()["iteration"]) == (0, 2)
    assert (state()["progress"]["epoch"], state()["progress"]["steps_done"]) == (1, 2)
    assert (state()["record"], state()["records"]) == (None, [])
    assert (state()["schema_version"], state()["pgsearch"]) == (3, pgsearch.__version__)
    sit(small(), path, stop_at=STEPS - 2 + 2)
    assert (state()["epoch"], state()["progress"]) == (1, None)
    sit(small(), path)
    assert [record["epoch"] for record in state()["records"]] == [1, 2, 3]
    assert_same(state()["record"], state()["records"][-1])


def test_progress_goes_on_on_another_device() -> None:
    """A state is read onto the processor; the meta device mixes with no other."""
    groups, cpu, meta = [0, 1], torch.device("cpu"), torch.device("meta")
    progress = EpochProgress.begin(3, np.arange(6).reshape(3, 2), groups, cpu)
    progress.add(torch.tensor(1.0), torch.tensor(2.0), {"lambda1_neg": torch.ones(2)})
    moved = EpochProgress.from_state(progress.state_dict(), groups, meta)
    sums = (moved.loss_sum, moved.norm_sum, moved.factor_sums["lambda1_neg"])
    assert {sum_.device for sum_ in sums} == {meta}
    moved.add(*torch.zeros(2, device=meta), {"lambda1_neg": torch.ones(2, device=meta)})
    assert (moved.steps_done, moved.num_steps) == (2, 3)


def test_the_time_of_all_sittings_counts(tmp_path: Path) -> None:
    asked = itertools.count(1)

    def slow_then_stop() -> bool:
        time.sleep(0.1)
        return next(asked) == 5

    trial, checkpoints = small(epochs=1), Checkpoints(tmp_path / "c.pt")
    with pytest.raises(TrialInterrupted):
        fit(trial, report=print, checkpoints=checkpoints, should_stop=slow_then_stop)
    (record,), _ = sit(trial, tmp_path / "c.pt")
    assert 0.4 < record.train_seconds < 30


@pytest.mark.promise(7)
def test_a_checkpoint_of_version_1_is_taken_up(tmp_path: Path) -> None:
    """It has the newest record only, and stands between epochs."""
    path = tmp_path / "c.pt"
    expected, _ = sit(small(), path)
    path.unlink()
    sit(small(), path, stop_at=2 * ASKS_PER_EPOCH + 1)
    state = Checkpoints(path).load()
    assert state is not None
    for key in ("schema_version", "pgsearch", "progress", "records"):
        del state[key]
    Checkpoints(path).save(state)
    records, ended = sit(small(), path)
    assert ended
    assert [comparable(r) for r in records] == [comparable(r) for r in expected[1:]]


@pytest.mark.promise(7)
def test_a_checkpoint_of_a_newer_pgsearch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    sit(small(epochs=1), path)
    state = Checkpoints(path).load()
    assert state is not None
    newer = {"schema_version": CHECKPOINT_VERSION + 1, "pgsearch": "9.1"}
    Checkpoints(path).save(state | newer)
    with pytest.raises(
        StorageError,
        match=r"checkpoint of small-00000 was written by pgsearch 9\.1 with checkpoint version 4; "
        "this version knows 3: update pgsearch",
    ):
        sit(small(epochs=1), path)


MORE_THAN_THERE_IS = 10**15

ALLOCATIONS = {
    "torch": lambda: torch.empty(MORE_THAN_THERE_IS),
    "numpy": lambda: np.empty(MORE_THAN_THERE_IS),
    "python": lambda: bytearray(MORE_THAN_THERE_IS),
}


@pytest.mark.parametrize("allocate", ALLOCATIONS.values(), ids=ALLOCATIONS)
@pytest.mark.promise(4)
def test_too_little_memory_says_where_and_what_helps(allocate: Any, tmp_path: Path) -> None:
    """Asked inside an epoch, the hook stands for a step; the trial goes on from its checkpoint."""
    asked = itertools.count(1)

    def run_out() -> bool:
        if next(asked) == ASKS_PER_EPOCH + 4:
            allocate()
        return False

    checkpoints = Checkpoints(tmp_path / "c.pt")
    with pytest.raises(OutOfMemory) as caught:
        fit(small(), report=print, checkpoints=checkpoints, should_stop=run_out)
    message = str(caught.value)
    assert message.startswith("small-00000: cpu is out of memory in epoch 2, after step 2 of 4, ")
    assert 0.1 < float(message.partition("with a peak of ")[2].partition(" GB")[0]) < 100
    for remedy in ("batch_size (16)", "image_size (32)", "bf16", "resources.gpus"):
        assert remedy in message
    assert isinstance(caught.value.__cause__, MemoryError | RuntimeError)
    records, ended = sit(small(), tmp_path / "c.pt")
    assert ended
    assert len(records) == EPOCHS


def test_a_network_that_does_not_fit_is_out_of_memory() -> None:
    trial = small()
    model = trial.model.model_copy(update={"neck": True, "neck_dim": MORE_THAN_THERE_IS})
    with pytest.raises(OutOfMemory, match=r"before its first step, .*you tried to allocate \d+ "):
        fit(trial.model_copy(update={"model": model}), report=print)


def test_memory_that_is_the_cause_of_another_error_is_out_of_memory() -> None:
    def fail(record: EpochRecord) -> None:
        raise RuntimeError("what a compiler makes of it") from MemoryError()

    with pytest.raises(OutOfMemory):
        fit(small(), report=fail)


def test_other_errors_stay_what_they_are() -> None:
    def fail(record: EpochRecord) -> None:
        raise RuntimeError("the shapes do not fit")

    with pytest.raises(RuntimeError, match="the shapes do not fit"):
        fit(small(), report=fail)
