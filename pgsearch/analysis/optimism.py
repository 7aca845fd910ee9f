"""The optimism of a selection: what the best of a search lose when other seeds train them.

The best of many noisy numbers is partly the luckiest (the winner's curse). Nothing is modelled
here: the configurations were trained again with seeds that the search has not seen.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from pgsearch.analysis.compare import Comparison, compare, interval_cell, p_cell, points
from pgsearch.analysis.formats import Cell, Table, missing, number, percent
from pgsearch.analysis.ranking import complete_trials, ranked_configurations
from pgsearch.analysis.selection import selection_of
from pgsearch.config import Objective
from pgsearch.errors import UsageError
from pgsearch.results import Ledger


@dataclass(frozen=True)
class Candidate:
    """One of the best configurations of a search."""

    rank: int
    """By the search, from 1."""
    number: int
    """Of its first trial in the search."""
    variant: str | None
    """Its variant in the search."""
    params: Mapping[str, Any]
    value: float
    """Mean of the first objective over the search's seeds, which selected it."""
    num_seeds: int
    """Seeds that it had in the search."""
    wall_seconds: float
    """Training and evaluation of one trial, mean over its trials in the search."""

    @property
    def name(self) -> str:
        """What it is called where it is trained again."""
        return f"top {self.rank}, trial {self.number}"


def candidates(ledger: Ledger, top: int) -> list[Candidate]:
    """Return the best configurations of a search, the best first.

    Raises UsageError: the search has several objectives, or too few complete configurations.
    """
    spec = ledger.spec()
    if len(spec.objective) > 1:
        raise UsageError(
            f"{ledger.name} has several objectives and so no best configurations; compare those "
            f"that you mean with pgsearch compare {ledger.name}:TRIAL {ledger.name}:TRIAL"
        )
    ranked = ranked_configurations(complete_trials(ledger), spec)
    if len(ranked) < top:
        raise UsageError(
            f"--top {top}: {ledger.name} has {len(ranked)} configurations that are complete with "
            f"all their seeds; lower --top, or see pgsearch status {ledger.name}"
        )
    return [
        Candidate(
            rank=rank,
            number=int(row["number"]),
            variant=row["variant"] if isinstance(row["variant"], str) else None,
            params=row["params"],
            value=float(row["value"]),
            num_seeds=int(row["n"]),
            wall_seconds=float(row["wall_seconds"]),
        )
        for rank, row in enumerate(ranked.head(top).to_dict("records"), 1)
    ]


@dataclass(frozen=True)
class Optimism:
    """A candidate's value in the search against its mean over fresh seeds."""

    candidate: Candidate
    n: int
    """Fresh seeds."""
    fresh_mean: float
    fresh_std: float | None
    """None for n = 1."""
    optimism: float
    """How much better the search saw it, in [-1, 1]; luck is above 0, also where less is better."""
    standard_error: float | None
    """std · √(1/m + 1/n) for m seeds in the search, which are taken to be as noisy as the fresh
    ones; None for n = 1."""
    low: float | None
    """Lower end of its t interval with n - 1 degrees of freedom."""
    high: float | None
    rank_after: int
    """By the mean over the fresh seeds, from 1."""


def optimism_of(
    found: Sequence[Candidate], fresh: Ledger, *, confidence: float = 0.95
) -> list[Optimism]:
    """Return the optimism of each candidate that has a complete trial among the fresh ones.

    Args:
        found: the best of a search.
        fresh: the grid in which each is trained again, as the variant of its name.
        confidence: of the intervals, in (0, 1).
    """
    complete = complete_trials(fresh)
    sign = 1 if fresh.spec().objective[0].direction == "maximize" else -1
    values = {
        c.name: complete.loc[complete["variant"] == c.name, "value"].to_numpy() for c in found
    }
    means = {name: float(v.mean()) for name, v in values.items() if len(v)}
    return [
        _optimism(
            candidate,
            values[candidate.name],
            sign=sign,
            confidence=confidence,
            rank_after=1
            + sum(sign * mean > sign * means[candidate.name] for mean in means.values()),
        )
        for candidate in found
        if candidate.name in means
    ]


def _optimism(
    candidate: Candidate, fresh_N: np.ndarray, *, sign: int, confidence: float, rank_after: int
) -> Optimism:
    n, mean = len(fresh_N), float(fresh_N.mean())
    optimism = sign * (candidate.value - mean)
    std = error = low = high = None
    if n > 1:
        std = float(fresh_N.std(ddof=1))
        error = std * math.sqrt(1 / candidate.num_seeds + 1 / n)
        reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
        low, high = optimism - reach, optimism + reach
    return Optimism(candidate, n, mean, std, optimism, error, low, high, rank_after)


def against_baseline(
    baseline: str, found: Sequence[Candidate], fresh: Ledger, confidence: float
) -> Comparison | None:
    """Compare the candidates with the baseline on test, labelled with their variants.

    None where no candidate has a complete trial with a seed of the baseline.
    """
    complete = complete_trials(fresh)
    ids = dict(zip(complete["variant"], complete["configuration_id"], strict=True))
    names = [name for name in (baseline, *(c.name for c in found)) if name in ids]
    seeds = {name: set(complete.loc[complete["variant"] == name, "seed"]) for name in names}
    paired_names = [name for name in names if seeds[name] & seeds.get(baseline, set())]
    if len(paired_names) < 2:
        return None
    selections = [
        replace(selection_of(fresh, ids[name]), label=name, description="") for name in paired_names
    ]
    # That they are comparable was required, or waived, before they were trained.
    return compare(*selections, confidence=confidence, allow_mixed=True)


def facts(measured: Sequence[Optimism]) -> list[dict[str, Any]]:
    """Return optimisms as plain data, as JSON holds it."""
    return [asdict(one) for one in measured]


def as_table(
    measured: Sequence[Optimism],
    objective: Objective,
    confidence: float,
    *,
    conclusion: Sequence[str],
) -> Table:
    """Return the table of the optimism, in %, with the conclusion among its notes."""
    interval = f"{100 * confidence:g}% interval"
    rows = (
        (
            Cell(f"trial {one.candidate.number}"),
            number(one.candidate.rank, 0),
            number(one.rank_after, 0),
            number(one.candidate.num_seeds, 0),
            percent(one.candidate.value),
            number(one.n, 0),
            percent(one.fresh_mean, std=one.fresh_std),
            points(one.optimism),
            percent(one.standard_error),
            _interval(one),
        )
        for one in measured
    )
    return Table(
        title=f"Optimism of the selection: mAP {objective.part} on {objective.split}, in %",
        columns=(
            "configuration",
            "rank",
            "rank, fresh",
            "m",
            "selected with",
            "n",
            "fresh seeds",
            "optimism",
            "standard error",
            interval,
        ),
        rows=tuple(rows),
        notes=(
            *conclusion,
            "selected with: the mean over the m seeds of the search; fresh seeds: mean ± std over "
            "n seeds that the search has not seen; optimism: how much better the search saw it",
            "standard error: std · √(1/m + 1/n), which takes the seeds of the search to be as "
            "noisy as the fresh ones",
            *_one_seed(measured),
        ),
        text_columns=frozenset({"configuration"}),
    )


def _one_seed(measured: Sequence[Optimism]) -> Iterator[str]:
    if any(one.candidate.num_seeds == 1 for one in measured):
        yield (
            "the search had one seed, so what that seed did to all its configurations alike is in "
            "the optimism too"
        )


def conclusion(measured: Sequence[Optimism], comparison: Comparison | None) -> Iterator[str]:
    """Yield in plain sentences whether the winner of the search holds, and against the baseline.

    The winner was luck where the interval of its optimism is above 0; it holds where it lost no
    more than a standard error. Between them these seeds cannot tell.

    Args:
        measured: in the order of the search.
        comparison: of the candidates with the baseline, labelled with their names; None where no
            seed is complete of both.
    """
    if not measured or measured[0].candidate.rank != 1:
        yield "the winner of the search has no complete trial with a fresh seed"
        return
    winner, num = measured[0], len(measured)
    yield _verdict(winner)
    first = min(measured, key=lambda one: one.rank_after)
    if num > 1:
        mean = sum(one.optimism for one in measured) / num
        yield f"the search overstated its best {num} by {100 * mean:+.2f} points on average"
        yield (
            f"the first of the {num} by the mean over fresh seeds is trial "
            f"{first.candidate.number}, "
            + ("the winner" if first is winner else f"the winner has rank {winner.rank_after}")
        )
    if comparison is not None:
        yield from _against_baseline(measured, comparison)


def _verdict(winner: Optimism) -> str:
    low, error = winner.low, winner.standard_error
    reached = (
        f"trial {winner.candidate.number}, selected with {100 * winner.candidate.value:.2f}, has "
        f"{100 * winner.fresh_mean:.2f} over {winner.n} fresh seeds"
    )
    if low is None or error is None:
        return f"{reached}; one seed cannot tell merit from luck: pass --seeds 5 and a new --name"
    measured = f"optimism {100 * winner.optimism:+.2f} ± {100 * error:.2f}"
    if low > 0:
        return f"the winner of the search was luck: {reached} ({measured})"
    if winner.optimism <= error:
        return f"the winner of the search holds: {reached} ({measured})"
    return (
        f"the winner of the search may have been luck, and {winner.n} fresh seeds cannot tell: "
        f"{reached} ({measured}, interval {_interval(winner).text})"
    )


def _against_baseline(measured: Sequence[Optimism], comparison: Comparison) -> Iterator[str]:
    """Yield what the paired tests on mAP total say, by the paired t test after Holm."""
    total = {c.other: c for c in comparison.contrasts if c.over == "total"}
    for one in measured:
        contrast = total.get(one.candidate.name)
        gain = None if contrast is None else contrast.difference.mean
        if contrast is None or gain is None:
            continue
        text = (
            f"trial {one.candidate.number} against the {comparison.reference}, on "
            f"{comparison.split}: {100 * gain:+.2f} over {contrast.difference.n} seeds"
        )
        if contrast.t_holm is None:
            yield f"{text}; without a test"
            continue
        p = f"p {p_cell(contrast.t_holm).text} after Holm"
        if contrast.t_holm > comparison.alpha:
            yield f"{text}, which these seeds cannot tell from 0 ({p})"
        else:
            yield f"{text}: {'better' if gain > 0 else 'worse'} ({p})"


def _interval(one: Optimism) -> Cell:
    if one.low is None or one.high is None:
        return missing()
    return interval_cell(one.low, one.high)
