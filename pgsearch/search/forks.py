"""Which trials of the search that it was forked from a search can learn from."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from pydantic import ValidationError

from pgsearch.config import SearchSpec, flatten
from pgsearch.config.trial import LATER_SETTINGS
from pgsearch.results import TrialRecord


def teaches(
    known: TrialRecord, spec: SearchSpec, distributions: Mapping[str, BaseDistribution]
) -> bool:
    """Return whether a search could have a trial of another one, and its value compares.

    Args:
        known: the other search's trial.
        spec: the search that is to learn from it.
        distributions: its space, by dimension; empty where it lacks the trial's variant.
    """
    num_values = None if known.values is None else len(known.values)
    return (
        known.params.keys() <= distributions.keys()
        and all(_contains(distributions[name], value) for name, value in known.params.items())
        and _was_trained_alike(known, spec)
        and num_values in (None, len(spec.objective))
    )


def _contains(kind: BaseDistribution, value: Any) -> bool:
    """Whether a value is one that the distribution could give."""
    try:
        return bool(kind._contains(kind.to_internal_repr(value)))
    except ValueError:
        return False


def _was_trained_alike(known: TrialRecord, spec: SearchSpec) -> bool:
    """Whether values of another search compare, which of stages only those of one kind do."""
    if spec.stages is None and known.stage is None:
        return True  # who forks says so
    try:
        trial = spec.trial(
            known.number, known.params, known.variant, seed=known.seed, stage=spec.first_stage
        )
    except ValidationError:
        return False
    parts = ("data.", "model.", "training.")
    mine = {k: v for k, v in flatten(trial.configuration).items() if v is not None}
    theirs = LATER_SETTINGS | known.configuration
    return {k: v for k, v in mine.items() if k.startswith(parts)} == {
        k: v for k, v in theirs.items() if k.startswith(parts)
    }
