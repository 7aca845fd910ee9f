import json
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest

from pgsearch.export import Target
from pgsearch.export.export import export
from pgsearch.results import Ledger
from pgsearch.results.read import DamagedFileWarning
from tests.export.reference import HOSTILE, raw, raw_epochs
from tests.records import spec
from tests.studies import run_to_end

MAPS = [f"map.{s}.{p}" for s in ("validation", "test") for p in ("total", "head", "medium", "tail")]

STATES = ["COMPLETE", "FAIL", "COMPLETE", "PRUNED", "COMPLETE", "RUNNING"]


def exported(ledger: Ledger, folder: Path) -> optuna.Study:
    file = folder / "study.db"
    export(ledger, Target.optuna, file)
    return optuna.load_study(study_name=ledger.name, storage=f"sqlite:///{file}")


def test_every_trial_is_as_the_parquet_has_it(all_states: Ledger, tmp_path: Path) -> None:
    study = exported(all_states, tmp_path)
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE
    assert study.metric_names == ["map.validation.total"]
    rows = raw(Path(all_states.url) / "trials")
    assert [row["state"] for row in rows] == STATES
    assert len(study.trials) == len(rows)
    for trial, row in zip(study.trials, rows, strict=True):
        epochs = raw_epochs(Path(all_states.url), row["number"])
        by_epoch = {e["epoch"]: e["map.validation.total"] for e in epochs}
        assert trial.number == row["number"]
        assert trial.state.name == row["state"]
        assert trial.params == json.loads(row["params"])
        assert trial.intermediate_values == by_epoch
        expected = {"PRUNED": [by_epoch[max(by_epoch)]]}.get(row["state"], row["values"])
        assert trial.values == expected
        assert utc(trial.datetime_start) == row["started_utc"]
        assert utc(trial.datetime_complete) == row["ended_utc"]
        attributes = {
            n: row[n] for n in ("seed", "configuration_id", "variant", "error", "retry_of")
        }
        attributes |= {"uid": row["trial"], "epochs": len(epochs)}
        attributes |= {name: epochs[-1][name] for name in MAPS}
        assert trial.user_attrs == {n: v for n, v in attributes.items() if v is not None}


def utc(local: datetime | None) -> datetime | None:
    return None if local is None else local.astimezone(UTC)


def test_distributions_are_those_of_the_space_and_optuna_can_go_on(
    all_states: Ledger, tmp_path: Path
) -> None:
    study = exported(all_states, tmp_path)
    distributions = study.trials[4].distributions
    assert distributions["loss.lambda1_neg.tail"] == optuna.distributions.FloatDistribution(
        0.5, 8.0, log=True
    )
    assert distributions["loss.focusing"].choices == ("none", "adaptive")
    assert 0.5 <= study.ask(distributions).params["loss.lambda0"] <= 4.0


def test_variants_are_a_choice_whatever_their_names(ablation: Ledger, tmp_path: Path) -> None:
    study = exported(ablation, tmp_path)
    assert [t.params["variant"] for t in study.trials] == [n for n in HOSTILE for _ in (1, 2)]
    assert [t.user_attrs["variant"] for t in study.trials] == [n for n in HOSTILE for _ in (1, 2)]
    assert [t.user_attrs["seed"] for t in study.trials] == [1, 2] * len(HOSTILE)
    assert study.trials[0].distributions["variant"].choices == HOSTILE


def test_several_objectives(tmp_path: Path) -> None:
    objective = [{"metric": "map_head"}, {"metric": "map_tail", "direction": "minimize"}]
    ledger = Ledger(tmp_path / "two")
    search = spec(name="two", trials=2, objective=objective)
    ledger.begin(search)
    run_to_end(search, ledger)
    study = exported(ledger, tmp_path)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["map.validation.head", "map.validation.tail"]
    rows = raw(Path(ledger.url) / "trials")
    assert [t.values for t in study.trials] == [row["values"] for row in rows]


def test_numbers_stay_where_rows_are_damaged_or_missing(damaged: Ledger, tmp_path: Path) -> None:
    with pytest.warns(DamagedFileWarning) as warned:
        study = exported(damaged, tmp_path)
    assert ["trials/00001" in str(w.message) for w in warned] == [True, False]
    assert ["epochs/00004" in str(w.message) for w in warned] == [False, True]
    names = [t.state.name for t in study.trials]
    assert names == ["COMPLETE", "FAIL", "FAIL", "PRUNED", "COMPLETE", "RUNNING"]
    for number in (1, 2):
        assert "damaged or missing" in study.trials[number].user_attrs["error"]
        assert study.trials[number].params == {}
    assert study.trials[4].intermediate_values == {}
    assert study.trials[4].value is not None
