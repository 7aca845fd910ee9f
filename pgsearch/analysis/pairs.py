"""Runs of two configurations in pairs of one seed, and what each pair of numbers says."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pandas as pd

from pgsearch.analysis.comparable import COMPARABLE_COLUMNS
from pgsearch.analysis.paired import Paired, paired
from pgsearch.analysis.replicates import trial_rows
from pgsearch.analysis.selection import Selection
from pgsearch.analysis.tables import PARTS
from pgsearch.errors import UsageError

TOTAL: Final = "total"
GROUP_FAMILY: Final = "head, medium and tail"
CLASS_FAMILY: Final = "the classes"


@dataclass(frozen=True)
class Contrast:
    """One configuration against the reference, over some classes."""

    other: str
    """Label of the configuration."""
    over: str
    """total, head, medium, tail; or the name of a class."""
    family: str
    """The comparisons that its p is corrected with."""
    reference_mean: float | None
    """Over the pairs, in [0, 1]; None without a pair."""
    other_mean: float | None
    difference: Paired
    """The other minus the reference, in [-1, 1]."""
    t_holm: float | None = None
    """p of the paired t test after Holm; None without one."""
    wilcoxon_holm: float | None = None
    group: str | None = None
    """Of a class: head, medium or tail."""
    count: int | None = None
    """Of a class: its training images."""


class Pairs:
    """The runs of two configurations that have the same seed.

    Args:
        reference: label of the first.
        other: label of the second.
        rows: what `final_rows` returns, by label.
        split: test or validation.

    Raises:
        UsageError: they have no seed in common.
    """

    def __init__(
        self, reference: str, other: str, rows: Mapping[str, pd.DataFrame], split: str
    ) -> None:
        labels = (reference, other)
        self._labels, self._split = labels, split
        self._seeds = [set(rows[label].index) for label in labels]
        common = sorted(set.intersection(*self._seeds))
        if not common:
            first, second = (_listed(sorted(seeds)) for seeds in self._seeds)
            raise UsageError(
                f"{labels[0]} (seeds {first}) and {labels[1]} (seeds {second}) have no seed in "
                "common, so there are no pairs; train one of them with the seeds of the other "
                "(seeds: […] in its spec)"
            )
        self._reference, self._other = (rows[label].loc[common] for label in labels)
        self._common = common

    def notes(self) -> Iterator[str]:
        """Yield which runs have no partner, and which classes."""
        yield f"{self._labels[1]} and {self._labels[0]}: pairs of seeds {_listed(self._common)}"
        for label, seeds in zip(self._labels, self._seeds, strict=True):
            alone = sorted(seeds - set(self._common))
            if alone:
                yield f"left out, without a partner: seeds {_listed(alone)} of {label}"
        classes = [set(rows.iloc[0]["classes"]) for rows in (self._reference, self._other)]
        if single := sorted(classes[0] ^ classes[1]):
            yield f"left out, of one of the two only: classes {_listed(single)}"

    def contrasts(self, confidence: float, *, by_class: bool) -> Iterator[Contrast]:
        """Yield the parts, then the classes that both have, in the reference's order."""
        for part in PARTS:
            column = f"map.{self._split}.{part}"
            family = TOTAL if part == TOTAL else GROUP_FAMILY
            values = self._reference[column], self._other[column]
            yield self._contrast(part, family, values, confidence)
        if not by_class:
            return
        first, second = (_ap_per_class(r, self._split) for r in (self._reference, self._other))
        about = self._reference.iloc[0]
        for name, group, count in zip(
            about["classes"], about["class.group"], about["class.count"], strict=True
        ):
            if name in second:
                contrast = self._contrast(
                    name, CLASS_FAMILY, (first[name], second[name]), confidence
                )
                yield replace(contrast, group=group, count=int(count))

    def _contrast(
        self, over: str, family: str, values: tuple["pd.Series[Any]", ...], confidence: float
    ) -> Contrast:
        """Compare over the pairs that have both values: AP without a positive is missing."""
        both = pd.DataFrame({"reference": values[0], "other": values[1]}, dtype=float).dropna()
        means = both.mean() if len(both) else {"reference": None, "other": None}
        return Contrast(
            other=self._labels[1],
            over=over,
            family=family,
            reference_mean=means["reference"],
            other_mean=means["other"],
            difference=paired((both["other"] - both["reference"]).tolist(), confidence=confidence),
        )


def _ap_per_class(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return AP by seed and class; NaN where a class has no positive."""
    by_seed = [
        dict(zip(classes, () if ap is None else ap, strict=ap is not None))
        for classes, ap in zip(rows["classes"], rows[f"class.ap.{split}"], strict=True)
    ]
    return pd.DataFrame(by_seed, index=rows.index, dtype=float)


def final_rows(selection: Selection, split: str) -> pd.DataFrame:
    """Return the last epoch of each replicate that has one, by seed."""
    columns = ["seed", *COMPARABLE_COLUMNS, *(f"map.{split}.{part}" for part in PARTS)]
    columns += ["classes", "class.group", "class.count", f"class.ap.{split}"]
    rows = trial_rows(selection.ledger, columns)
    is_one = rows["number"].isin(selection.replicates["number"]) & rows["iterations"].notna()
    return rows[is_one].set_index("seed")


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
