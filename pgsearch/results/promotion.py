"""Which configurations of a screen are trained as the spec says: a rule over the ledger's rows.

Nothing of it is remembered, so a new driver, and a repair, decide as the one before them.
"""

import itertools
from collections.abc import Collection, Sequence

from pgsearch.config import SearchSpec
from pgsearch.results.schema import TrialRecord, TrialState


def next_promotion(
    spec: SearchSpec, records: Collection[TrialRecord]
) -> tuple[TrialRecord, int] | None:
    """Return the next trial of the full stage: one of the screen, and the seed to train it with.

    None while the screen is not over, where nothing is left, and for a search without stages.

    Args:
        spec: the search.
        records: its trials.
    """
    if not _screen_is_over(spec, records):
        return None
    begun = {(r.promoted_from, r.seed) for r in records if r.stage == "full"}
    for screened in _chosen(spec, records):
        for seed in spec.seeds_of("full"):
            if (screened.number, seed) not in begun:
                return screened, seed
    return None


def ranked_screen(spec: SearchSpec, records: Collection[TrialRecord]) -> list[TrialRecord]:
    """Return the complete trials of a screen, the best first, each configuration once.

    A pruned trial has no last epoch that compares; of equal values the first trained comes first.
    """
    sign = -1 if spec.objective[0].direction == "maximize" else 1
    complete: dict[str, TrialRecord] = {}
    for record in sorted(records, key=lambda r: r.number):
        if record.stage == "screen" and record.state is TrialState.COMPLETE and record.values:
            complete.setdefault(record.configuration_id, record)
    return sorted(complete.values(), key=lambda r: (sign * (r.values or [0.0])[0], r.number))


def _screen_is_over(spec: SearchSpec, records: Collection[TrialRecord]) -> bool:
    if spec.stages is None:
        return False
    screen = [r for r in records if r.stage == "screen"]
    num_regular = sum(r.retry_of is None for r in screen)
    return num_regular >= spec.num_trials_of("screen") and all(r.state.is_finished for r in screen)


def _chosen(spec: SearchSpec, records: Collection[TrialRecord]) -> Sequence[TrialRecord]:
    """Return the trials of a screen that are to be trained fully: the best, then those to check.

    The others are cut by rank into as many equal parts as are to be checked. A part that has one
    that was trained, as the best of fewer trials or for fewer parts, is checked; else its middle.
    """
    if spec.stages is None:
        return []
    ranked = ranked_screen(spec, records)
    best, others = ranked[: spec.stages.best], ranked[spec.stages.best :]
    promoted = {r.promoted_from for r in records if r.stage == "full"}
    num_parts = min(spec.stages.check, len(others))
    ends = [i * len(others) // num_parts for i in range(num_parts + 1)] if num_parts else []
    parts = [others[begin:end] for begin, end in itertools.pairwise(ends)]
    checks = [
        record
        for part in parts
        for record in [r for r in part if r.number in promoted] or [part[len(part) // 2]]
    ]
    return [*best, *checks]
