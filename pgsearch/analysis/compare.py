"""Configurations against a reference, paired by seed: differences, intervals, tests, effect sizes.

The first configuration is compared with each of the others. Holm's correction has three families:
mAP total of all others; head, medium and tail of all others; the classes of all others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from pgsearch.analysis.comparable import COMPARABLE_COLUMNS, differences
from pgsearch.analysis.formats import MISSING, Cell, Table, missing, number, percent
from pgsearch.analysis.paired import Paired, holm, pairs_needed
from pgsearch.analysis.pairs import CLASS_FAMILY, Contrast, Pairs, final_rows
from pgsearch.analysis.replicates import selected_on
from pgsearch.analysis.selection import Selection
from pgsearch.errors import UsageError


@dataclass(frozen=True)
class Comparison:
    """What pairs of runs say of configurations."""

    reference: str
    """Label of the configuration that the others are compared with."""
    descriptions: Mapping[str, str]
    """Variant and parameters of each configuration, by label."""
    split: str
    confidence: float
    """Of the intervals; 1 minus it is the level of the tests."""
    contrasts: tuple[Contrast, ...]
    """Total and groups of each other configuration, then its classes if asked for."""
    notes: tuple[str, ...]
    """What a reader has to know, in sentences."""

    @property
    def alpha(self) -> float:
        """The level of the tests, without the rounding of the subtraction."""
        return round(1 - self.confidence, 12)


def compare(
    reference: Selection,
    *others: Selection,
    split: str = "test",
    confidence: float = 0.95,
    allow_mixed: bool = False,
    by_class: bool = False,
) -> Comparison:
    """Compare configurations with a reference over the seeds that both have, at the last epoch.

    Args:
        reference: what the others are compared with.
        others: at least one.
        split: test or validation.
        confidence: of the intervals, in (0, 1).
        allow_mixed: compare other data sets, epochs or iterations too.
        by_class: compare the AP of each class too.

    Raises:
        UsageError: they are not comparable, are one and the same, or have no seed in common.
    """
    selections = [reference, *others]
    labels = [s.label for s in selections]
    if len(others) == 0 or len(set(labels)) < len(labels):
        raise UsageError(f"compare needs two or more configurations, got {', '.join(labels)}")
    rows = {s.label: final_rows(s, split) for s in selections}
    notes = [note for s in selections for note in _notes_on(s, rows[s.label], split)]
    notes += _mixed(selections, rows, allow_mixed=allow_mixed)
    all_pairs = [Pairs(reference.label, o.label, rows, split) for o in others]
    notes += list(dict.fromkeys(note for pairs in all_pairs for note in pairs.notes()))
    contrasts = [c for pairs in all_pairs for c in pairs.contrasts(confidence, by_class=by_class)]
    if all(contrast.difference.n == 0 for contrast in contrasts):
        raise UsageError(f"these trials have no mAP on {split}; pass another --split")
    comparison = Comparison(
        reference=reference.label,
        descriptions={s.label: s.description for s in selections},
        split=split,
        confidence=confidence,
        contrasts=tuple(_after_holm(contrasts)),
        notes=(),
    )
    return replace(comparison, notes=(*notes, *_notes_on_tests(comparison)))


def facts(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data, as JSON holds it; mAP and differences in [0, 1]."""
    return asdict(comparison)


def as_tables(comparison: Comparison) -> list[Table]:
    """Return the table of total and groups and, if asked for, the one of the classes; in %."""
    against = (
        f"against {comparison.reference}, on {comparison.split} after the last epoch, in %, paired "
        "by seed"
    )
    described = [
        f"{label}: {description}"
        for label, description in comparison.descriptions.items()
        if description and not label.endswith(f":{description}")
    ]
    parts = [c for c in comparison.contrasts if c.family != CLASS_FAMILY]
    tables = [
        Table(
            title=f"mAP {against}",
            columns=("configuration", "part", *_columns("mAP", comparison.confidence)),
            rows=tuple((Cell(c.other), Cell(c.over), *_cells(c, comparison.alpha)) for c in parts),
            notes=(*described, *comparison.notes, *_legend(comparison.alpha)),
            text_columns=frozenset({"configuration", "part"}),
        )
    ]
    if classes := [c for c in comparison.contrasts if c.family == CLASS_FAMILY]:
        columns = ("configuration", "class", "group", "images")
        tables.append(
            Table(
                title=f"AP per class {against}",
                columns=(*columns, *_columns("AP", comparison.confidence)),
                rows=tuple((*_class_cells(c), *_cells(c, comparison.alpha)) for c in classes),
                notes=_legend(comparison.alpha),
                text_columns=frozenset(columns[:3]),
            )
        )
    return tables


def _class_cells(contrast: Contrast) -> tuple[Cell, ...]:
    group = Cell(contrast.group or MISSING)
    return (Cell(contrast.other), Cell(contrast.over), group, number(contrast.count, 0))


def _legend(alpha: float) -> tuple[str, ...]:
    return (
        "t: paired t test; W: Wilcoxon's signed-rank test, exact; Holm: p after his correction; "
        "w/t/l: wins, ties and losses",
        f"bold: Holm (t) is at most {alpha:g}",
    )


def _columns(metric: str, confidence: float) -> tuple[str, ...]:
    interval = f"{100 * confidence:g}% interval"
    tests = ("p (t)", "Holm (t)", "p (W)", "Holm (W)")
    return ("n", "reference", metric, "difference", interval, *tests, "dz", "w/t/l")


def _cells(contrast: Contrast, alpha: float) -> tuple[Cell, ...]:
    difference = contrast.difference
    is_clear = contrast.t_holm is not None and contrast.t_holm <= alpha
    return (
        number(difference.n, 0),
        percent(contrast.reference_mean),
        percent(contrast.other_mean),
        replace(points(difference.mean), bold=is_clear),
        _interval(difference),
        p_cell(difference.t_p),
        p_cell(contrast.t_holm),
        p_cell(difference.wilcoxon_p),
        p_cell(contrast.wilcoxon_holm),
        number(difference.dz),
        Cell(f"{difference.wins}/{difference.ties}/{difference.losses}"),
    )


def points(fraction: float | None) -> Cell:
    """Return a difference in points of %, with its sign."""
    cell = percent(fraction)
    return cell if fraction is None else replace(cell, text=f"{100 * fraction:+.2f}")


def _interval(difference: Paired) -> Cell:
    if difference.low is None or difference.high is None:
        return missing()
    return interval_cell(difference.low, difference.high)


def interval_cell(low: float, high: float) -> Cell:
    """Return the cell of an interval of fractions, in points of %."""
    ends = {"low": 100 * low, "high": 100 * high}
    return Cell(f"[{ends['low']:+.2f}, {ends['high']:+.2f}]", details=ends)


def p_cell(p: float | None) -> Cell:
    """Return the cell of a p; a small one shows as <0.001."""
    if p is not None and p < 0.001:
        return Cell("<0.001", value=p)
    return number(p, 3)


def _notes_on(selection: Selection, rows: pd.DataFrame, split: str) -> Iterator[str]:
    lost = sorted(set(selection.replicates["seed"]) - set(rows.index))
    if lost:
        yield f"{selection.label}: the epochs of seeds {', '.join(map(str, lost))} cannot be read"
    if rows.empty:
        raise UsageError(
            f"{selection.label}: no epoch of its trials can be read; see pgsearch verify "
            f"{selection.ledger.name}"
        )
    optimised = selected_on(selection.ledger.spec()) or ""
    if split in (*optimised.split(", "), selection.chosen_on):
        yield (
            f"{selection.label} was chosen by its mAP on {split}, so its mean there is too high by "
            f"luck; pgsearch confirm {selection.ledger.name} measures by how much"
        )


def _mixed(
    selections: Sequence[Selection], rows: Mapping[str, pd.DataFrame], *, allow_mixed: bool
) -> list[str]:
    """Return in what the runs differ that should be equal; refuse it unless it is allowed."""
    frames = [
        rows[s.label][[*COMPARABLE_COLUMNS]]
        .assign(search=s.label, selected_on=selected_on(s.ledger.spec()))
        .dropna(axis="columns", how="all")
        for s in selections
    ]
    found = differences(pd.concat(frames))
    if found and not allow_mixed:
        raise UsageError(
            f"these trials have different {'; and different '.join(found.values())}, so their mAP "
            "do not compare; name configurations of one kind, or pass --allow-mixed"
        )
    return [f"mixed: different {difference}" for difference in found.values()]


def _after_holm(contrasts: Sequence[Contrast]) -> list[Contrast]:
    corrected = list(contrasts)
    for places in _families(contrasts).values():
        t = holm([contrasts[i].difference.t_p for i in places])
        wilcoxon = holm([contrasts[i].difference.wilcoxon_p for i in places])
        for i, t_p, wilcoxon_p in zip(places, t, wilcoxon, strict=True):
            corrected[i] = replace(contrasts[i], t_holm=t_p, wilcoxon_holm=wilcoxon_p)
    return corrected


def _families(contrasts: Sequence[Contrast]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for i, contrast in enumerate(contrasts):
        places.setdefault(contrast.family, []).append(i)
    return places


def _notes_on_tests(comparison: Comparison) -> Iterator[str]:
    """Yield what the tests can and cannot say with so few pairs."""
    contrasts = comparison.contrasts
    if any(contrast.difference.n == 1 for contrast in contrasts):
        yield "one pair shows a difference; an interval and a test need two or more"
    equal = [c for c in contrasts if c.difference.n > 1 and c.difference.t_p is None]
    if equal:
        yield (
            "no interval, t test and dz where all differences are equal, as there is no variance: "
            + ", ".join(f"{c.over} of {c.other}" for c in equal)
        )
    for family, places in _families(contrasts).items():
        differences = [contrasts[i].difference for i in places]
        smallest = [p for d in differences if (p := d.smallest_wilcoxon_p) is not None]
        if smallest:
            yield _reach(family, min(smallest), len(smallest), comparison.alpha)


def _reach(family: str, smallest: float, num_comparisons: int, alpha: float) -> str:
    """Say what Wilcoxon's p can be at least, and how many pairs could reach alpha."""
    pairs = round(1 - math.log2(smallest))
    least = min(1.0, num_comparisons * smallest)
    text = f"{family}: Wilcoxon's p of {pairs} pairs is {smallest:.3g} or more"
    if num_comparisons > 1:
        text += f", {least:.3g} after Holm over {num_comparisons} comparisons"
    if least <= alpha:
        return text
    needed = pairs_needed(alpha, num_comparisons)
    return f"{text}, so no data can bring it to {alpha:g}; {needed} pairs could"
