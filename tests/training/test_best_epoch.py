"""What of a trial stays on disk: no resume state once it has ended, and its best epoch if asked."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pgsearch.config import Objective, TrialSpec
from pgsearch.data.build import build_dataset
from pgsearch.errors import AttemptReplaced, StorageError, TrialInterrupted
from pgsearch.models.digits_resnet import DigitsResNet
from pgsearch.results import EpochRecord, EpochWriter, Ledger, TrialState
from pgsearch.search.study import SearchStudy
from pgsearch.training.best_epoch import BestEpoch, best_epoch_of
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.evaluate import evaluate
from pgsearch.training.fit import fit
from pgsearch.training.trained import load_trained
from tests.records import epoch_record, spec, trial
from tests.training.test_fit import comparable
from tests.training.test_interrupt import ASKS_PER_EPOCH, EPOCHS, SETTINGS, assert_same, small

pytestmark = pytest.mark.promise(11)

RESUME_KEYS = {"progress", "optimiser", "sampler", "drawn", "random", "random_cuda"}


class Killed(BaseException):
    """Ends a trial where no handler of it runs."""


def load(path: Path) -> dict[str, Any]:
    state = Checkpoints(path).load()
    assert state is not None
    return state


def train(configuration: TrialSpec, path: Path, **arguments: Any) -> list[EpochRecord]:
    records: list[EpochRecord] = []
    torch.manual_seed(12345)  # what happens before must not matter
    report = arguments.pop("report", records.append)
    fit(configuration, report=report, checkpoints=Checkpoints(path), **arguments)
    return records


def of_kind(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrialSpec:
    """Return a small trial with settings of test_interrupt."""
    if kind != "frozen":
        return small(**SETTINGS[kind])
    monkeypatch.setenv("PGSEARCH_CACHE", str(folder / "cache"))
    torch.manual_seed(7)
    torch.save(DigitsResNet().state_dict(), folder / "trunk.pth")
    return small(str(folder / "trunk.pth"), **SETTINGS[kind])


# ------------------------------------------------------------ after the last epoch


def test_a_finished_trial_keeps_no_resume_state(tmp_path: Path) -> None:
    """With momentum, what only a resume needs is more than half of it."""
    path = tmp_path / "c.pt"
    sizes: list[int] = []

    def report(record: EpochRecord) -> None:
        sizes.append(path.stat().st_size)
        assert (load(path).keys() >= RESUME_KEYS) == (record.epoch < EPOCHS)

    train(small(momentum=0.9), path, report=report)
    assert sizes[-1] < 0.55 * sizes[-2]
    state = load(path)
    assert not RESUME_KEYS & state.keys()
    assert {"trial", "configuration_id", "pgsearch", "schema_version"} < state.keys()
    assert [record["epoch"] for record in state["records"]] == [1, 2, 3]


def test_a_finished_checkpoint_of_version_2_is_still_read(tmp_path: Path) -> None:
    """It had the resume state too."""
    path, old = tmp_path / "c.pt", tmp_path / "old.pt"
    expected = train(small(), path)

    def stop(record: EpochRecord) -> None:
        if record.epoch == EPOCHS - 1:
            raise Killed

    with pytest.raises(Killed):
        train(small(), old, report=stop)
    resume_state = {key: value for key, value in load(old).items() if key in RESUME_KEYS}
    Checkpoints(old).save({**load(path), **resume_state, "schema_version": 2})
    assert list(map(comparable, train(small(), old))) == list(map(comparable, expected))
    assert load_trained(old).epoch == EPOCHS


@pytest.mark.parametrize("recorded", [False, True], ids=["before_its_row", "after_its_row"])
def test_a_kill_after_the_last_checkpoint_still_ends_complete(
    tmp_path: Path, recorded: bool
) -> None:
    search = spec(
        data={"name": "digits", "max_count": 40, "image_size": 32, "head_min": 20, "tail_below": 5},
        model={"backbone": "digits_resnet", "weights": "random", "bn_eval": False},
        training={"epochs": 2, "batch_size": 16, "sampler_reduce": 6},
        trials=1,
    )
    ledger = Ledger(tmp_path)
    configuration = SearchStudy(search, ledger).next_trial()
    assert configuration is not None
    checkpoint = tmp_path / ledger.checkpoint_file(0).key

    def execute(*, killed: bool) -> None:
        writer = EpochWriter(ledger, configuration, ledger.claim_attempt(0))

        def report(record: EpochRecord) -> None:
            if recorded or not killed or record.epoch < 2:
                writer.append(record)
            if killed and record.epoch == 2:
                raise Killed

        train(configuration, checkpoint, report=report)

    with pytest.raises(Killed):
        execute(killed=True)
    assert len(ledger.epochs(0)) == 1 + recorded
    assert "optimiser" not in load(checkpoint)
    study = SearchStudy(search, ledger)  # a new driver
    assert study.next_trial() == configuration
    execute(killed=False)
    record = study.complete(0)
    assert (record.state, record.epochs, record.attempts) == (TrialState.COMPLETE, 2, 2)
    assert [row["attempt"] for row in ledger.epochs(0)] == [1, 1 if recorded else 2]


# ------------------------------------------------------------ which epoch is best


def made_up(epoch: int, value: float | None) -> EpochRecord:
    record = epoch_record(epoch, value or 0.0)
    return dataclasses.replace(record, map={}) if value is None else record


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.2, 0.5, 0.4], [1, 2]),
        ([0.2, 0.5, 0.5], [1, 2]),  # of equal ones the earlier
        ([None, 0.3, None, 0.4], [2, 4]),  # not evaluated
        ([NAN, 0.3, NAN], [2]),  # undefined
        ([None, NAN], []),
        ([0.0, 0.0], [1]),  # 0 is a number
    ],
)
def test_the_best_epoch(tmp_path: Path, values: list[float | None], kept: list[int]) -> None:
    records = [made_up(epoch, value) for epoch, value in enumerate(values, 1)]

    def best(**objective: Any) -> list[int]:
        judge = BestEpoch(Checkpoints(tmp_path / "b.pt"), Objective(**objective))
        return [n for n in range(1, len(records) + 1) if judge.is_best(records[:n])]

    assert best() == kept
    assert best(split="test") == []  # which these epochs did not evaluate
    records = [made_up(n, None if v is None else 1 - v) for n, v in enumerate(values, 1)]
    assert best(direction="minimize", metric="map_head") == kept


# ------------------------------------------------------------ what is kept


class Picked(BestEpoch):
    """Judges by a table, so that any epoch may be the best."""

    def __init__(self, path: Path, best: int) -> None:
        super().__init__(Checkpoints(path), Objective())
        self._best = best

    def _score(self, record: EpochRecord) -> float:
        return -abs(record.epoch - self._best)


@pytest.mark.parametrize("kind", ["uniform", "frozen"])
def test_it_is_the_whole_classifier_of_that_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of the last epoch too, and then it is what the last checkpoint is."""
    configuration = of_kind(kind, tmp_path, monkeypatch)
    configuration = configuration.model_copy(
        update={"training": configuration.training.model_copy(update={"validate_every": 1})}
    )
    for best in (1, EPOCHS):
        path = tmp_path / f"{best}.best.pt"
        records = train(configuration, tmp_path / f"{best}.pt", best_epoch=Picked(path, best))
        state, last = load(path), load(tmp_path / f"{best}.pt")
        assert state.keys() == last.keys()
        assert [record["epoch"] for record in state["records"]] == list(range(1, best + 1))
        trained = load_trained(path)
        assert trained.epoch == best
        data = build_dataset(trained.trial.data)
        logits_NC = trained.logits(data.validation.images_NHWC)
        found = evaluate(logits_NC, data.validation.targets_NC, trained.class_groups_C)
        assert found.map == pytest.approx(records[best - 1].map["validation"], abs=1e-5)
    assert_same(state, last)


def test_nothing_goes_on_from_a_best_epoch(tmp_path: Path) -> None:
    train(small(), tmp_path / "c.pt", best_epoch=Picked(tmp_path / "c.best.pt", 2))
    with pytest.raises(StorageError, match="classifier after epoch 2 of 3 and nothing to go on fr"):
        train(small(), tmp_path / "c.best.pt")


# ------------------------------------------------------------ kills and stops


class KillsOnce(Checkpoints):
    """Ends the trial before, or after, the state of an epoch is written."""

    def __init__(self, path: Path, epoch: int, *, after: bool) -> None:
        super().__init__(path)
        self._epoch, self._after = epoch, after

    def save(self, state: dict[str, Any]) -> None:
        if state["epoch"] != self._epoch:
            super().save(state)
            return
        if self._after:
            super().save(state)
        raise Killed


@pytest.mark.parametrize(
    ("kind", "best"),
    [
        ("class_aware", 2),
        ("class_aware", 3),
        ("class_aware_fixed", 1),  # it checkpoints every other epoch
        ("class_aware_fixed", 3),
        ("frozen", 2),
    ],
)
def test_kills_between_and_stops_within_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, best: int
) -> None:
    configuration = of_kind(kind, tmp_path, monkeypatch)
    path, kept = tmp_path / "c.pt", tmp_path / "c.best.pt"
    train(configuration, path, best_epoch=Picked(kept, best))
    expected = {file: load(file) for file in (path, kept)}
    assert expected[kept]["epoch"] == best

    def end(die: Callable[[], None]) -> None:
        """Let a trial die, and the next attempt come to its end."""
        for file in expected:
            file.unlink(missing_ok=True)
        with pytest.raises((Killed, TrialInterrupted)):
            die()
        train(configuration, path, best_epoch=Picked(kept, best))
        for file, state in expected.items():
            assert_same(load(file), state)

    def killed_in_a_checkpoint(epoch: int, *, after: bool) -> None:
        checkpoints = KillsOnce(path, epoch, after=after)
        fit(configuration, report=print, checkpoints=checkpoints, best_epoch=Picked(kept, best))

    def killed_in_its_report(epoch: int) -> None:
        def report(record: EpochRecord) -> None:
            if record.epoch == epoch:
                raise Killed

        train(configuration, path, best_epoch=Picked(kept, best), report=report)

    def stopped(at: int) -> None:
        asked = itertools.count(1)
        train(configuration, path, best_epoch=Picked(kept, best),
              should_stop=lambda: next(asked) == at)  # fmt: skip

    for epoch in range(1, EPOCHS + 1):
        if epoch % configuration.training.checkpoint_every == 0 or epoch == EPOCHS:
            end(lambda epoch=epoch: killed_in_a_checkpoint(epoch, after=epoch == best))
    end(lambda: killed_in_its_report(best))
    end(lambda: stopped(ASKS_PER_EPOCH + 3))


def test_the_best_epoch_is_written_before_its_checkpoint(tmp_path: Path) -> None:
    """A kill between them leaves the best epoch that is, and a checkpoint that repeats it."""
    with pytest.raises(Killed):
        fit(
            small(),
            report=print,
            checkpoints=KillsOnce(tmp_path / "c.pt", 2, after=False),
            best_epoch=Picked(tmp_path / "c.best.pt", 2),
        )
    assert load(tmp_path / "c.pt")["epoch"] == 1
    assert load(tmp_path / "c.best.pt")["epoch"] == 2


# ------------------------------------------------------------ of a ledger


def test_only_the_newest_attempt_writes_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    attempt = ledger.claim_attempt(0)
    best = best_epoch_of(
        trial(), ledger, Objective(), may_write=lambda: ledger.attempts(0).is_newest(attempt)
    )
    assert best is not None
    best.save({"epoch": 1})
    ledger.claim_attempt(0)
    with pytest.raises(AttemptReplaced):
        best.save({"epoch": 2})
    assert load(tmp_path / "checkpoints/00000.best.pt") == {"epoch": 1}


def test_one_that_is_kept_no_longer_does_not_go_stale(tmp_path: Path) -> None:
    ledger, configuration = Ledger(tmp_path), trial()
    for epoch in range(1, configuration.training.epochs + 1):
        ledger.best_file(0).write(b"best")
        assert best_epoch_of(configuration, ledger, None) is None
        assert not ledger.best_file(0).exists()
        writer = EpochWriter(ledger, configuration, ledger.claim_attempt(0))
        writer.append(epoch_record(epoch))
    ledger.best_file(0).write(b"best")
    assert best_epoch_of(configuration, ledger, None) is None
    assert ledger.best_file(0).exists()  # the trial is complete: no epoch comes after it


def test_one_that_was_not_kept_from_the_start_is_the_best_of_all_or_not_there(
    tmp_path: Path,
) -> None:
    """The best epoch was before it was asked for: no other passes for it."""
    path, kept = tmp_path / "c.pt", tmp_path / "c.best.pt"

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise Killed

    for best in (2, 3):
        path.unlink(missing_ok=True)
        with pytest.raises(Killed):
            train(small(), path, report=stop)
        train(small(), path, best_epoch=Picked(kept, best))
        assert kept.exists() == (best == 3)
    assert load(kept)["epoch"] == 3
