"""TPE whose questions stay as quick after thousands of trials as after one thousand.

Optuna's TPE sorts all trials for every question, builds a density from all of them, and does so
again for each group of a conditional space: a tenth of a second for each trial when there are
5,000, while workers wait. What it draws from, though, are the best 25 at most, and of the others it
weighs the newest most.
"""

import bisect
import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
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

    Args:
        standing: of the study's trials, kept from question to question.
        options: of Optuna's TPE.
    """

    def __init__(self, standing: "Standing", **options: Any) -> None:
        super().__init__(**options)
        self._standing = standing
        self._shown: _Shown | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See Optuna. It takes the space from the parameters that trials have together."""
        return super().infer_relative_search_space(self._show(study).one_of_each_shape(), trial)

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

    def _show(self, study: optuna.Study) -> "_Shown":
        if self._shown is None:
            self._shown = _Shown(study, self._standing.show(study))
        return self._shown


class Standing:
    """The ended trials of a study by what TPE takes for good, each ranked once, and those that run.

    It says nothing that the trials do not say: it may be begun at any time.
    """

    def __init__(self) -> None:
        self._num_seen = 0
        self._running: list[int] = []
        self._ranked: list[tuple[tuple[int, int, float], int]] = []

    def show(self, study: optuna.Study) -> list[FrozenTrial]:
        """Return the trials that TPE is shown, in order: of Hyperband, of the bracket asked for."""
        trials = study.get_trials(deepcopy=False)
        if len(study.directions) > 1:
            return trials
        self._look(study._storage.get_all_trials(study._study_id, deepcopy=False), study.direction)
        if len(trials) <= NEWEST:
            return trials
        best = itertools.islice(_places(trials, (number for _, number in self._ranked)), BEST)
        first = len(trials) - NEWEST
        older = {p for p in (*best, *_places(trials, self._running)) if p < first}
        return [*(trials[place] for place in sorted(older)), *trials[first:]]

    def _look(self, trials: list[FrozenTrial], direction: StudyDirection) -> None:
        """Take in what ended and what was begun since the last look."""
        running = []
        for number in [*self._running, *range(self._num_seen, len(trials))]:
            trial = trials[number]
            if not trial.state.is_finished():
                running.append(number)
            elif trial.state is not TrialState.FAIL:
                bisect.insort(self._ranked, (_rank(trial, direction), number))
        self._num_seen, self._running = len(trials), running


def _places(trials: Sequence[FrozenTrial], numbers: Iterable[int]) -> Iterator[int]:
    """Yield where the trials of some numbers are, leaving out those that are not there."""
    for number in numbers:
        place = bisect.bisect_left(trials, number, key=lambda trial: trial.number)
        if place < len(trials) and trials[place].number == number:
            yield place


def _rank(trial: FrozenTrial, direction: StudyDirection) -> tuple[int, int, float]:
    """Return what TPE orders trials by: complete by value, pruned by epochs, then by value."""
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    if trial.state is TrialState.COMPLETE:
        return 0, 0, sign * (trial.value or 0.0)
    if trial.intermediate_values:
        step, value = max(trial.intermediate_values.items())
        return 1, -step, sign * value
    return 2, 0, 0.0


class _Shown(optuna.Study):
    """A study of some of the trials of another, as they were when a question was begun."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._trials = trials

    def one_of_each_shape(self) -> "_Shown":
        """Return a study of the first ended trial with each set of parameters."""
        shapes: dict[tuple[str, ...], FrozenTrial] = {}
        for trial in self._get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)):
            shapes.setdefault(tuple(trial.distributions), trial)
        return _Shown(self, list(shapes.values()))

    def _get_trials(
        self,
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        return [t for t in self._trials if states is None or t.state in states]
