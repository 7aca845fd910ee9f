"""TPE whose questions stay as quick after thousands of trials as after one thousand.

Optuna's TPE sorts all trials for every question, builds a density from all of them, and does so
again for each group of a conditional space: a tenth of a second for each trial when there are
5,000, while workers wait. What it draws from, though, are the best 25 at most, and of the others it
weighs the newest most.
"""

import heapq
from collections.abc import Container
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

NEWEST: Final = 1000
"""Up to so many trials, it is Optuna's TPE."""
BEST: Final = 25
"""As many as Optuna's TPE draws from at most (`default_gamma`)."""


class BoundedTPESampler(optuna.samplers.TPESampler):
    """Optuna's TPE, shown the newest trials, those that run, and the best of all.

    So what it takes for good is what Optuna's takes for good; the rest is described by fewer. With
    several objectives it is shown all trials. Make one for each question.
    """

    _shown: "_Shown | None" = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See Optuna."""
        return super().infer_relative_search_space(self._show(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        return super().sample_relative(self._show(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See Optuna."""
        return super().sample_independent(self._show(study), trial, param_name, param_distribution)

    def _show(self, study: optuna.Study) -> optuna.Study:
        if self._shown is None:
            self._shown = _Shown(study)
        return self._shown


class _Shown(optuna.Study):
    """A study of some of the trials of another, as they were when a question was begun."""

    def __init__(self, study: optuna.Study) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._trials = study.get_trials(deepcopy=False)
        if len(self._trials) > NEWEST and len(self.directions) == 1:
            older, newest = self._trials[:-NEWEST], self._trials[-NEWEST:]
            shown = {t.number for t in older if not t.state.is_finished()}
            shown |= {t.number for t in heapq.nsmallest(BEST, self._trials, key=self._rank)}
            self._trials = [t for t in older if t.number in shown] + newest

    def _get_trials(
        self,
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        return [t for t in self._trials if states is None or t.state in states]

    def _rank(self, trial: FrozenTrial) -> tuple[int, int, float]:
        """Return what TPE orders trials by: complete by value, pruned by epochs, then by value."""
        sign = 1 if self.direction == StudyDirection.MINIMIZE else -1
        match trial.state:
            case TrialState.COMPLETE:
                return 0, 0, sign * (trial.value or 0.0)
            case TrialState.PRUNED if trial.intermediate_values:
                step, value = max(trial.intermediate_values.items())
                return 1, -step, sign * value
        return 2, 0, 0.0
