"""Successive halving with sorted rungs against Optuna's, decision by decision."""

import random
from typing import Any

import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner

from pgsearch.search.rungs import SortedRungs


def told(pruner: optuna.pruners.BasePruner, direction: str) -> optuna.Study:
    return optuna.create_study(direction=direction, pruner=pruner)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(
    "options",
    [
        {"min_resource": 1, "reduction_factor": 2},
        {"min_resource": 2, "reduction_factor": 3, "bootstrap_count": 4},
        {"min_resource": 1, "reduction_factor": 2, "min_early_stopping_rate": 1},
    ],
    ids=str,
)
def test_it_decides_as_optunas(direction: str, options: dict[str, Any]) -> None:
    """Several trials at a time, equal values, a NaN now and then, and a new driver on the way."""
    options = {"min_early_stopping_rate": 0, "bootstrap_count": 0, **options}
    chance = random.Random(1)
    studies = [
        told(SuccessiveHalvingPruner(**options), direction),
        told(SortedRungs(**options), direction),
    ]
    running: dict[int, int] = {}  # epochs, by number
    decisions = []
    for turn in range(600):
        if turn in (150, 400):  # made anew from what the trials say
            studies[1].pruner = SortedRungs(**options)
        while len(running) < 4:
            running |= {studies[0].ask().number: 0, studies[1].ask().number: 0}
        number = chance.choice(sorted(running))
        running[number] += 1
        value = float("nan") if chance.random() < 0.01 else round(chance.random(), 2)
        said = []
        for study in studies:
            trial = optuna.Trial(study, study.trials[number]._trial_id)
            trial.report(value, running[number])
            said.append(trial.should_prune())
        assert said[0] == said[1]
        decisions.append(said[0])
        if said[0] or running[number] == 9:
            state = optuna.trial.TrialState.PRUNED if said[0] else optuna.trial.TrialState.FAIL
            for study in studies:
                study.tell(number, state=state)
            del running[number]
    rungs = [[t.system_attrs for t in study.trials] for study in studies]
    assert repr(rungs[0]) == repr(rungs[1])  # a NaN is not equal to itself
    assert 20 < sum(decisions) < 580
