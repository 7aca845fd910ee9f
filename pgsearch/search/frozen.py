"""A trial of the ledger as Optuna holds it: in the study that a driver asks, and in an export."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from pgsearch.config.search import Objective
from pgsearch.results import TrialRecord, TrialState


def frozen_trial(
    record: TrialRecord,
    rows: Sequence[Mapping[str, Any]],
    *,
    distributions: Mapping[str, BaseDistribution],
    objectives: Sequence[Objective],
) -> FrozenTrial:
    """Return a trial with its parameters, epochs and objectives; its times are now.

    Args:
        record: its row.
        rows: its epochs, with `epoch` and the column of the first objective.
        distributions: of the space, by dimension; those that are not active in it are left out.
        objectives: of the search. With several of them Optuna knows no intermediate values.

    Raises ValueError for a value outside its distribution.
    """
    column = objectives[0].column
    by_epoch = {row["epoch"]: row[column] for row in rows if row[column] is not None}
    if len(objectives) > 1:
        by_epoch = {}
    values = record.values
    if record.state is TrialState.PRUNED and by_epoch:
        values = [by_epoch[max(by_epoch)]]  # what Optuna gives a pruned trial
    return create_trial(
        state=OptunaState[record.state.value],
        values=values,
        params=record.params,
        distributions={name: d for name, d in distributions.items() if name in record.params},
        intermediate_values=by_epoch,
        system_attrs=record.optuna_state,
    )
