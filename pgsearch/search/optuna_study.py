"""Optuna's study of one search, in memory: what to try next, and whom to end early.

Of a search with stages Optuna knows the screen alone: values of two stages do not compare.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState as OptunaState

from pgsearch.config import SearchSpec, flatten
from pgsearch.distributions import distribution
from pgsearch.results import TrialRecord, TrialState
from pgsearch.search.bounded_tpe import Standing
from pgsearch.search.frozen import frozen_trial
from pgsearch.search.samplers import build_pruner, build_sampler
from pgsearch.search.spaces import canonical, suggest

_UNSAVED_ATTRIBUTES = {"fixed_params"}


class OptunaStudy:
    """The trials that Optuna knows, by the numbers that they have in the search.

    Args:
        spec: the search.
    """

    def __init__(self, spec: SearchSpec) -> None:
        self._spec = spec
        self._context = {
            v: (spec.dimensions(v), flatten(spec.base(v))) for v in spec.variant_names()
        }
        self._distributions = {
            v: {d.name: distribution(d) for d in dimensions}
            for v, (dimensions, _) in self._context.items()
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = optuna.storages.InMemoryStorage()
        self._standing = Standing()
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=spec.name,
            directions=[objective.direction for objective in spec.objective],
            sampler=build_sampler(spec.sampler, spec.sampler.seed, self._standing),
            pruner=build_pruner(spec),
        )
        self.num_known = 0
        """Trials of another search that its sampler learns from; they come first."""
        self._places: dict[int, int] = {}  # numbers in Optuna's study, by ours

    def __contains__(self, number: int) -> bool:
        """Whether Optuna knows a trial: a promoted one it does not."""
        return number in self._places

    def distributions(self, variant: str | None) -> Mapping[str, BaseDistribution]:
        """Return the space by dimension; empty for a variant that the search does not have."""
        return self._distributions.get(variant, {})

    def teach(self, record: TrialRecord, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put in a trial of another search, before any of its own."""
        self._add(record, rows)
        self.num_known += 1

    def add(self, record: TrialRecord, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put in a trial as it stands."""
        self._places[record.number] = self.num_known + len(self._places)
        self._add(record, rows)

    def _add(self, record: TrialRecord, rows: Sequence[Mapping[str, Any]]) -> None:
        self.study.add_trial(
            frozen_trial(
                record,
                rows,
                distributions=self.distributions(record.variant),
                objectives=self._spec.objective,
            )
        )

    def ask(
        self, number: int, variant: str | None, known: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Begin a trial with known values, or such as the sampler chooses; return its values."""
        dimensions, base = self._context[variant]
        if known is not None:
            self.study.enqueue_trial(canonical(known, dimensions))
        # Seeded by the trials before it, so that a resumed search chooses as an uninterrupted one.
        seed = _derived_seed(self._spec.sampler.seed, len(self._places))
        self.study.sampler = build_sampler(self._spec.sampler, seed, self._standing)
        asked = self.study.ask()
        self._places[number] = asked.number
        return suggest(asked, dimensions, base)

    def observe(self, number: int, epoch: int, value: float) -> bool:
        """Take an epoch's objective to the pruner; return whether to end the trial now.

        An epoch may come again, after a resume; the first one counts.
        """
        trial = optuna.Trial(self.study, self._trial_id(number))
        known = self._frozen(number).intermediate_values
        if epoch not in known:
            trial.report(value, epoch)
        elif epoch < max(known):
            return False  # told again by a new attempt: decided long ago
        return trial.should_prune()

    def tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial, if it is one that Optuna knows."""
        if number in self:
            self.study.tell(self._places[number], values, state=OptunaState[state.value])

    def memory_of(self, number: int) -> dict[str, Any]:
        """Return what sampler and pruner remember of a trial (generation, rungs)."""
        if number not in self:
            return {}
        attributes = self._frozen(number).system_attrs
        return {k: v for k, v in attributes.items() if k not in _UNSAVED_ATTRIBUTES}

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._storage.get_trial(self._trial_id(number))

    def _trial_id(self, number: int) -> int:
        # Asked of the storage: of the study it would be a list of all trials, each time.
        return self._storage.get_trial_id_from_study_id_trial_number(
            self.study._study_id, self._places[number]
        )


def _derived_seed(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
