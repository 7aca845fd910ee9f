"""Checkpoints, best epochs and scores: whose they are, and which of them nothing needs."""

import pytest

from pgsearch.results import Ledger
from pgsearch.results.garbage import find_garbage
from pgsearch.results.ledger import owner
from pgsearch.results.verify import verify
from pgsearch.search.study import SearchStudy
from tests.records import spec
from tests.results.test_verify import checkpoint_bytes
from tests.studies import execute, run_to_end

pytestmark = pytest.mark.promise(11)


@pytest.fixture
def ledger(tmp_path: object) -> Ledger:
    """Three complete trials, of which one keeps its files, and one that goes on."""
    ledger = Ledger(f"{tmp_path}/small")
    search = spec(trials=4, keep_best_epoch=True)
    ledger.begin(search)
    run_to_end(spec(trials=3), ledger)
    study = SearchStudy(search, ledger)
    trial = study.next_trial()
    assert trial is not None
    execute(study, ledger, trial, epochs=2)
    for number in range(4):
        ledger.checkpoint_file(number).write(checkpoint_bytes())
        ledger.best_file(number).write(checkpoint_bytes())
    return ledger


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("checkpoints/00003.pt", 3),
        ("checkpoints/00003.best.pt", 3),
        ("checkpoints/123456.best.pt", 123456),
        ("scores/00003.parquet", 3),
        ("epochs/00003.parquet", None),
        ("checkpoints/00003.parquet", None),
        ("checkpoints/00003.old.pt", None),
        ("checkpoints/00003.best.pt.bak", None),
        ("checkpoints/mine/00003.pt", None),
        ("checkpoints/².pt", None),
        ("scores/00003.best.pt", None),
        ("damaged/x/checkpoints/00003.pt", None),
    ],
)
def test_whose_a_file_is(key: str, number: int | None) -> None:
    assert owner(key) == number


def test_the_names_are_told_apart(ledger: Ledger) -> None:
    ledger.checkpoint_file(1).delete()
    ledger.scores_file(7).write(b"")
    ledger.storage.write("checkpoints/of_mine.pt", b"")
    assert ledger.kept_checkpoints() == [0, 2, 3]
    assert ledger.with_weights_or_scores() == {0, 1, 2, 3, 7}


def test_garbage_is_what_ended_trials_left(ledger: Ledger) -> None:
    complete = [record for record in ledger.trials() if record.state.is_finished]
    best = max(complete, key=lambda record: (record.values or [0.0])[0]).number
    ledger.storage.write("checkpoints/of_mine.pt", b"")
    ledger.best_file(9).write(b"")
    found = {item.file.key: item.reason for item in find_garbage(ledger)}
    ended = [r.number for r in complete if r.number != best]
    assert found.keys() == {
        *(file_of(n).key for n in ended for file_of in (ledger.checkpoint_file, ledger.best_file)),
        ledger.best_file(9).key,
    }
    assert found[ledger.best_file(9).key] == "of a trial that is not there"
    assert "has ended (COMPLETE) and is not kept" in found[ledger.best_file(ended[0]).key]


def test_a_best_epoch_is_verified_as_a_checkpoint_is(ledger: Ledger) -> None:
    assert verify(ledger) == []
    data = checkpoint_bytes()
    ledger.best_file(3).write(data[:400] + bytes([data[400] ^ 1]) + data[401:])
    assert [problem.file for problem in verify(ledger)] == [ledger.best_file(3)]
