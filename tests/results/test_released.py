"""Results of every released schema stay readable, and can be gone on with."""

import shutil
from pathlib import Path

import pytest

from pgsearch.results import Ledger, TrialState, read_epochs, read_trials
from pgsearch.results.schema import SCHEMA_VERSION, epoch_schema
from pgsearch.results.verify import verify
from pgsearch.search.study import SearchStudy

RELEASED = Path(__file__).parent / "released"

pytestmark = pytest.mark.promise(7)


@pytest.fixture(params=[str(version) for version in range(1, SCHEMA_VERSION + 1)])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A search of 3 trials and up to 3 epochs, as the version of the parameter wrote it."""
    shutil.copytree(RELEASED / request.param / "small", tmp_path / "small")
    return Ledger(tmp_path / "small")


def test_its_rows_are_read(old: Ledger) -> None:
    trials = read_trials(old).to_pylist()
    assert {row["state"] for row in trials} == {"COMPLETE", "PRUNED"}
    assert [row["retry_of"] for row in trials] == [None] * 3
    epochs = read_epochs(old)
    assert epochs.column_names[: len(epoch_schema())] == epoch_schema().names
    recorded = list(zip(epochs["number"].to_pylist(), epochs["epoch"].to_pylist(), strict=True))
    assert recorded == [(t["number"], e + 1) for t in trials for e in range(t["epochs"])]
    assert all(0 < value < 1 for value in epochs["map.validation.total"].to_pylist())


def test_it_goes_on(old: Ledger) -> None:
    spec = old.spec()
    more = spec.model_copy(update={"trials": 4})
    old.begin(more)
    study = SearchStudy(more, old)
    assert len(study.records) == 3
    trial = study.next_trial()
    assert trial is not None
    assert trial.number == 3
    study.fail(3, "enough")
    assert [t.state for t in old.trials()][3] is TrialState.FAIL


def test_it_is_sound(old: Ledger) -> None:
    assert verify(old) == []
