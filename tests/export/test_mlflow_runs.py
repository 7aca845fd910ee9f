import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pgsearch.errors import UsageError
from pgsearch.export import Target
from pgsearch.export.export import export
from pgsearch.results import Ledger, TrialRecord, TrialState
from pgsearch.results.read import DamagedFileWarning
from tests.export.reference import HOSTILE, raw, raw_epochs
from tests.records import spec
from tests.studies import run_to_end

mlflow = pytest.importorskip("mlflow.tracking", reason="pip install 'pgsearch[mlflow]'")
MlflowClient: TypeAlias = mlflow.MlflowClient

# Its own, of an older SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PREFIXES = ("data.", "model.", "loss.", "training.")
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}


def read_back(ledger: Ledger, file: Path) -> tuple[MlflowClient, list[Any]]:
    """A client of the exported database, and its runs by number."""
    export(ledger, Target.mlflow, file)
    client = MlflowClient(tracking_uri=f"sqlite:///{file}")
    return client, runs_by_number(client, ledger.name)


def runs_by_number(client: MlflowClient, name: str) -> list[Any]:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return sorted(runs, key=lambda run: int(run.data.tags["number"]))


def test_every_run_is_as_the_parquet_has_it(all_states: Ledger, tmp_path: Path) -> None:
    client, runs = read_back(all_states, tmp_path / "mlflow.db")
    rows = raw(Path(all_states.url) / "trials")
    assert len(runs) == len(rows)
    for run, row in zip(runs, rows, strict=True):
        assert run.info.status == STATUS[row["state"]]
        assert run.info.start_time == round(row["started_utc"].timestamp() * 1000)
        ended = row["ended_utc"] and round(row["ended_utc"].timestamp() * 1000)
        assert run.info.end_time == ended
        for tag, column in {"uid": "trial", "state": "state", "error": "error"}.items():
            assert run.data.tags.get(tag) == row[column]
        settings = {n: v for n, v in row.items() if n.startswith(PREFIXES) and v is not None}
        expected = {n: str(v) for n, v in {**settings, "seed": row["seed"]}.items()}
        assert run.data.params == expected
        epochs = raw_epochs(Path(all_states.url), row["number"])
        for metric in ("map.validation/total", "p_pos/tail", "loss/test", "learning_rate"):
            column = metric.replace("/", ".")
            history = client.get_metric_history(run.info.run_id, metric)
            assert sorted((m.step, m.timestamp, m.value) for m in history) == [
                (e["epoch"], round(e["recorded_utc"].timestamp() * 1000), e[column])
                for e in epochs
                if e[column] is not None
            ]
        assert "p_neg/tail" not in run.data.metrics  # undefined everywhere


@pytest.mark.slow
def test_more_epochs_than_mlflow_takes_at_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "long")
    search = spec(name="long", trials=1, training={"epochs": 60})
    ledger.begin(search)
    run_to_end(search, ledger)
    client, (run,) = read_back(ledger, tmp_path / "mlflow.db")
    history = client.get_metric_history(run.info.run_id, "map.validation/total")
    assert sorted(m.step for m in history) == list(range(1, 61))


@pytest.mark.slow
def test_hostile_names_in_a_path_that_no_url_can_say(ablation: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "what?#%20 mine" / "mlflow.db"
    export(ablation, Target.mlflow, file)
    assert list(file.parent.iterdir()) == [file]
    client = MlflowClient(tracking_uri=f"sqlite:///{file.rename(tmp_path / 'mlflow.db')}")
    runs = runs_by_number(client, "ablation")
    assert [run.data.params["variant"] for run in runs] == [n for n in HOSTILE for _ in (1, 2)]
    assert runs[0].info.run_name == f"00000 {HOSTILE[0]}"


@pytest.mark.slow
def test_damaged_files_are_left_out(damaged: Ledger, tmp_path: Path) -> None:
    with pytest.warns(DamagedFileWarning):
        _, runs = read_back(damaged, tmp_path / "mlflow.db")
    assert [run.data.tags["number"] for run in runs] == ["0", "3", "4", "5"]
    assert not runs[2].data.metrics


def test_without_mlflow(
    all_states: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"pip install 'pgsearch\[mlflow\]'"):
        export(all_states, Target.mlflow, tmp_path / "mlflow.db")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_values_that_do_not_go_together(tmp_path: Path) -> None:
    """Such a trial has parameters but no configuration, and MLflow takes no + in a name."""
    both = {"type": "float", "low": 1.0, "high": 2.0, "tied": True, "groups": ["head", "medium"]}
    ledger = Ledger(tmp_path / "odd")
    ledger.begin(spec(name="odd", space={"loss.lambda1_neg": both}))
    ledger.write_trial(
        TrialRecord(
            number=0, uid="odd-00000", state=TrialState.FAIL, seed=7, variant=None,
            configuration_id="", params={"loss.lambda1_neg.head+medium": 1.5},
        )
    )  # fmt: skip
    _, (run,) = read_back(ledger, tmp_path / "mlflow.db")
    assert run.data.params == {
        "seed": "7",
        "loss.lambda1_neg.head": "1.5",
        "loss.lambda1_neg.medium": "1.5",
    }
