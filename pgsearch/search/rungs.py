"""Successive halving whose decisions stay as quick after thousands of trials as early.

Optuna's collects the values of a rung from all trials and sorts them, for every decision.
"""

import bisect
import math

import optuna
from optuna.pruners import SuccessiveHalvingPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial


class SortedRungs(SuccessiveHalvingPruner):
    """Optuna's successive halving, with the values of each rung kept sorted.

    It decides as Optuna's does, and remembers nothing that the trials do not: a rung is collected
    from them when it is first asked about. Its study must get all trials that were not asked for
    before its first decision.
    """

    def __init__(
        self,
        *,
        min_resource: int,
        reduction_factor: int,
        min_early_stopping_rate: int,
        bootstrap_count: int,
    ) -> None:
        super().__init__(min_resource, reduction_factor, min_early_stopping_rate, bootstrap_count)
        self._first_step = min_resource * reduction_factor**min_early_stopping_rate
        self._rungs: dict[str, list[float]] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """See Optuna."""
        step = trial.last_step
        if step is None:
            return False
        value, rung = trial.intermediate_values[step], 0
        sign = -1 if study.direction is StudyDirection.MAXIMIZE else 1
        while step >= self._first_step * self._reduction_factor**rung:
            key = f"completed_rung_{rung}"
            rung += 1
            if key in trial.system_attrs:
                continue
            if math.isnan(value):
                return True
            competing = self._competing(study, key, sign)
            study._storage.set_trial_system_attr(trial._trial_id, key, value)
            bisect.insort(competing, sign * value)
            num_promotable = max(len(competing) // self._reduction_factor, 1)
            is_promotable = sign * value <= competing[num_promotable - 1]
            if len(competing) <= self._bootstrap_count or not is_promotable:
                return True
        return False

    def _competing(self, study: optuna.Study, key: str, sign: int) -> list[float]:
        """Return the values of a rung, the best first."""
        if key not in self._rungs:
            trials = study.get_trials(deepcopy=False)
            values = (t.system_attrs[key] for t in trials if key in t.system_attrs)
            self._rungs[key] = sorted(sign * value for value in values)
        return self._rungs[key]
