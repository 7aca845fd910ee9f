"""How many checkpoints lie on disk while a search goes on: never more than it promises."""

import contextlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.results import DriverLease, EpochWriter, Ledger, TrialState
from pgsearch.search import trainable, tune
from pgsearch.search.control import SearchControl
from pgsearch.search.packing import Packing
from pgsearch.search.study import SearchStudy
from pgsearch.training.best_epoch import BestEpoch
from pgsearch.training.checkpoint import Checkpoints
from tests.records import epoch_record, spec
from tests.studies import score

pytestmark = pytest.mark.promise(11)

PRUNER = {"name": "successive_halving", "min_resource": 1, "reduction_factor": 2}


def num_checkpoints(ledger: Ledger) -> int:
    return len(list(ledger.storage.entries("checkpoints/")))


# ------------------------------------------------------------ several at a time, made-up epochs


def execution(
    study: SearchStudy, ledger: Ledger, trial: TrialSpec, *, with_best: bool
) -> Iterator[None]:
    """Execute a trial as `fit` and the driver do, and pause after every write and removal."""
    writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
    for epoch in range(len(ledger.epochs(trial.number)) + 1, trial.training.epochs + 1):
        if with_best:
            ledger.best_file(trial.number).write(b"best")
            yield
        ledger.checkpoint_file(trial.number).write(b"newest")
        yield
        last = epoch == trial.training.epochs
        row = writer.append(epoch_record(epoch, score(trial, epoch), last=last))
        if last:
            study.complete(trial.number)
        elif study.observe(trial.number, epoch, row):
            study.prune(trial.number)
        elif trial.number % 5 == 4 and epoch == 3:
            study.fail(trial.number, "made to fail")
        if study.records[trial.number].state.is_finished:
            yield  # a kill here leaves the files of an ended trial
            study.remove_checkpoints(trial.number)
            return


@pytest.mark.parametrize("keep_checkpoints", [0, 1, 3])
@pytest.mark.parametrize("keep_best_epoch", [False, True])
def test_checkpoints_are_bounded_at_every_moment(
    tmp_path: Path, keep_checkpoints: int, keep_best_epoch: bool
) -> None:
    """Over drivers that are killed at random, with trials that are pruned and that fail."""
    search = spec(trials=20, pruner=PRUNER, keep_checkpoints=keep_checkpoints,
                  keep_best_epoch=keep_best_epoch)  # fmt: skip
    ledger, draw = Ledger(tmp_path), random.Random(keep_checkpoints)
    places, per_trial, seen = 3, 1 + keep_best_epoch, 0
    study, running = SearchStudy(search, ledger), []
    while running or study.unfinished:
        if draw.random() < 0.02:  # kill -9, and the same command
            study, running = SearchStudy(search, ledger), []
            study.remove_checkpoints()
        while len(running) < places and (trial := study.next_trial()) is not None:
            running.append(execution(study, ledger, trial, with_best=keep_best_epoch))
        one = draw.choice(running)
        if next(one, "ended") == "ended":
            running.remove(one)
            assert num_checkpoints(ledger) <= (len(running) + keep_checkpoints) * per_trial
        assert num_checkpoints(ledger) <= (places + keep_checkpoints) * per_trial
        seen = max(seen, num_checkpoints(ledger))
    assert seen > places * per_trial - 1  # the bound is one that is met
    states = {record.state for record in study.records.values()}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert num_checkpoints(ledger) == keep_checkpoints * per_trial


# ------------------------------------------------------------ what Ray is given, without Ray


class Ended(BaseException):
    """As Tune ends a trial in its report."""


@pytest.fixture(autouse=True)
def _process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def tiny(**changes: Any) -> SearchSpec:
    training = {"epochs": 3, "batch_size": 16, "sampler_reduce": 6, "iterations_per_epoch": 2}
    return spec(
        data={"name": "digits", "max_count": 40, "image_size": 32, "head_min": 20, "tail_below": 5},
        model={"backbone": "digits_resnet", "weights": "random", "bn_eval": False},
        **{"training": training | changes.pop("training", {}), **changes},
    )


def adapter_of(study: SearchStudy, ledger: Ledger, lease: DriverLease) -> tune.Adapter:
    control, packing = SearchControl(lease=lease), Packing(study.spec, [])
    return tune.Adapter(ledger, study, control, Mock(), packing)


@pytest.mark.parametrize("keep_best_epoch", [False, True])
def test_trials_in_their_workers_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_best_epoch: bool
) -> None:
    """`train_trial` with what `Adapter.place` gives it, one at a time; a pruned one among them."""
    ledger = Ledger(tmp_path)
    search = tiny(trials=4, keep_checkpoints=2, keep_best_epoch=keep_best_epoch, pruner=PRUNER)
    per_trial, numbers = 1 + keep_best_epoch, itertools.count()
    with DriverLease(ledger.storage) as lease:
        ledger.begin(search)
        study = SearchStudy(search, ledger)
        adapter = adapter_of(study, ledger, lease)

        def report(facts: dict[str, Any]) -> None:
            assert num_checkpoints(ledger) <= (1 + search.keep_checkpoints) * per_trial
            if not adapter.take_report(config["number"], facts):
                raise Ended

        monkeypatch.setattr(trainable.tune, "report", report)
        while isinstance(config := adapter.place(str(next(numbers))), dict):
            with contextlib.suppress(Ended):
                trainable.train_trial(config)
            adapter.running.clear()
            assert num_checkpoints(ledger) <= search.keep_checkpoints * per_trial
    assert adapter.control.reason_to_fail is None
    states = [record.state for record in study.records.values()]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    kept = ledger.kept_checkpoints()
    assert len(kept) == min(2, states.count(TrialState.COMPLETE)) > 0
    for number in kept:
        assert ledger.best_file(number).exists() == keep_best_epoch
        if not keep_best_epoch:
            continue
        state = Checkpoints(ledger.best_file(number)).load()
        assert state is not None
        values = [row["map.validation.total"] for row in ledger.epochs(number)]
        assert state["epoch"] == 1 + values.index(max(values))
        assert state["record"]["map"]["validation"]["total"] == max(values)


def test_only_the_newest_attempt_of_a_trial_writes_its_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)
    search = tiny(trials=1, keep_best_epoch=True, training={"checkpoint_every": 3})
    monkeypatch.setattr(BestEpoch, "is_best", lambda *arguments: True)
    reported: list[dict[str, Any]] = []

    def report(facts: dict[str, Any]) -> None:
        reported.append(facts)
        ledger.claim_attempt(0)  # another worker takes it over

    monkeypatch.setattr(trainable.tune, "report", report)
    with DriverLease(ledger.storage) as lease:
        ledger.begin(search)
        study = SearchStudy(search, ledger)
        config = adapter_of(study, ledger, lease).place("0")
        assert isinstance(config, dict)
        trainable.train_trial(config)
    assert [facts.get("epoch", "interrupted") for facts in reported] == [1, "interrupted"]
    state = Checkpoints(ledger.best_file(0)).load()
    assert state is not None
    assert state["epoch"] == 1
