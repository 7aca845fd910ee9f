"""The rank correlation of a screen, and that nothing mixes its trials with fully trained ones."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import optuna
import pytest
from scipy import stats
from typer.testing import CliRunner

from pgsearch.analysis import stages
from pgsearch.analysis.replicates import replicates
from pgsearch.analysis.selection import select
from pgsearch.analysis.tables import best_configuration, leaderboard
from pgsearch.cli.main import app
from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.errors import UsageError
from pgsearch.export import Target
from pgsearch.export.export import export
from pgsearch.results import EpochWriter, Ledger
from pgsearch.search.study import SearchStudy
from tests.records import epoch_record, spec

TRIALS = 12


def staged(**changes: object) -> SearchSpec:
    screen = {"training": {"epochs": 2}}
    return spec(trials=TRIALS, stages={"screen": screen, "best": 3, "check": 5, **changes})


Value: TypeAlias = Callable[[TrialSpec, int], float]
"""Of a trial, and the number of its configuration's trial in the screen."""


def trained(folder: Path, search: SearchSpec, value_of: Value) -> Ledger:
    """Run a search to its end with made-up values."""
    ledger = Ledger(folder / search.name)
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    while (trial := study.next_trial()) is not None:
        screened = study.records[trial.number].promoted_from
        writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
        value = value_of(trial, trial.number if screened is None else screened)
        for epoch in range(1, trial.training.epochs + 1):
            writer.append(epoch_record(epoch, value, last=epoch == trial.training.epochs))
        study.complete(trial.number)
    return ledger


def agreeing(trial: TrialSpec, screened: int) -> float:
    """The screen sees all too low, in the right order but for its first two."""
    swapped = {10: 11, 11: 10}.get(screened, screened) if trial.stage == "full" else screened
    return (swapped + 1) / (20 if trial.stage == "full" else 40)


def contrary(trial: TrialSpec, screened: int) -> float:
    return (screened + 1) / 40 if trial.stage == "screen" else 1 - (screened + 1) / 20


def test_the_correlation_is_that_of_the_promoted_pairs(tmp_path: Path) -> None:
    search = staged()
    ledger = trained(tmp_path, search, agreeing)
    found = stages.agreement(ledger)
    assert found is not None
    records = {r.number: r for r in ledger.trials()}
    pairs = np.array([
        ((records[r.promoted_from].values or [0])[0], (r.values or [0])[0])
        for r in records.values() if r.promoted_from is not None
    ])  # fmt: skip
    assert found.n == len(pairs) == 8
    assert found.rho == pytest.approx(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
    of_best = pairs[np.argsort(-pairs[:, 0])[:3]]
    assert found.rho_of_best == pytest.approx(stats.spearmanr(*of_best.T).statistic)
    assert found.rho_of_best < found.rho
    draws = np.random.default_rng(1).integers(8, size=(2000, 8))
    rhos = [stats.spearmanr(pairs[d, 0], pairs[d, 1]).statistic for d in draws]
    low, high = np.nanquantile(rhos, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
    assert found.predicts
    assert found.rank_of_best == 2
    said = stages.sentences(search, found)
    assert said[0].startswith("the screen predicts the full training (Spearman's ρ 0.98 over 8")
    assert "was number 2 of 12 in the screen" in said[2]


@pytest.mark.parametrize(
    ("changes", "value_of", "message"),
    [
        ({}, contrary, "does not predict the full training .* so it may have left out the best: "
                       "train the screen for more epochs .*, or raise stages.check"),
        ({}, lambda trial, n: 0.5 if trial.stage == "full" else n / 40, "does not predict"),
        ({"best": 2, "check": 1}, agreeing, "cannot be told from 3 configurations, 5 are the"),
        ({"best": 6, "check": 0}, agreeing, "best of the screen alone; their range is restricted"),
    ],
)  # fmt: skip
def test_a_screen_that_does_not_predict_is_called_so(
    tmp_path: Path,
    changes: dict[str, object],
    value_of: Value,
    message: str,
) -> None:
    said = "\n".join(stages.lines(trained(tmp_path, staged(**changes), value_of)))
    assert re.search(message, said), said


def best_fails(trial: TrialSpec, screened: int) -> float:
    is_best = trial.stage == "full" and screened == TRIALS - 1
    return float("nan") if is_best else agreeing(trial, screened)


def test_what_counts_are_fully_trained_trials(tmp_path: Path) -> None:
    ledger = trained(tmp_path, staged(), best_fails)
    full = set(range(TRIALS + 1, TRIALS + 8))
    board = leaderboard(ledger)
    assert list(board["stage"]) == ["full"] * 8 + ["screen"] * TRIALS
    assert list(board["state"])[6:9] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert set(best_configuration(ledger)["number"]) <= full
    found = replicates([ledger], ["map.test.total"])
    assert set(found.frame["number"]) == full
    assert f"{TRIALS} trials of its screen" in found.notes[0]
    with pytest.raises(UsageError, match="trial 3 is of the screen"):
        select("small:3", tmp_path)
    assert export(ledger, Target.csv, tmp_path / "csv") == 8
    with (tmp_path / "csv" / "epochs.csv").open() as file:
        assert {row["stage"] for row in csv.DictReader(file)} == {"full"}
    for stage, count in (("full", 8), ("screen", TRIALS)):
        place = tmp_path / f"{stage}.db"
        assert export(ledger, Target.optuna, place, stage=stage) == count
        study = optuna.load_study(study_name="small", storage=f"sqlite:///{place}")
        assert len(study.trials) == count


def test_commands_show_the_stage_and_what_it_says(tmp_path: Path) -> None:
    trained(tmp_path, staged(), contrary)

    def said(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--results", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.output

    assert "screen: 12 of 12 trials begun: 12 COMPLETE" in said("status", "small")
    assert "does not predict" in said("status", "small")
    rows = json.loads(said("table", "small", "--leaderboard", "--json"))
    assert [row["stage"] for row in rows] == ["full"] * 8 + ["screen"] * TRIALS
    assert len(json.loads(said("table", "small", "--where", "stage=screen", "--json"))) == TRIALS
    assert len(json.loads(said("table", "small", "--json"))) == 8
    assert json.loads(said("best", "small", "--json"))["number"] >= TRIALS
