"""The paper's Tables 2 to 5 beside a search's own numbers.

Published rows: Lin, AAAI 2023, with what is known to be wrong or lost in its printed tables. They
are single runs, scored on test after the last epoch.
"""

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

import pandas as pd

from pgsearch.analysis.caveats import caveats, epoch_words
from pgsearch.analysis.columns import plain_text
from pgsearch.analysis.formats import MISSING, Cell, Table, missing, percent
from pgsearch.analysis.metric import Metric, MetricColumn
from pgsearch.analysis.replicates import Replicates
from pgsearch.analysis.shown import n_cell
from pgsearch.analysis.tables import PARTS
from pgsearch.errors import UsageError
from pgsearch.provenance import fingerprint
from pgsearch.results import Ledger, read_epochs

PaperDataset: TypeAlias = Literal["voc-lt", "coco-lt"]

MAPS: Final = {part: f"map.test.{part}" for part in PARTS}
"""The metrics that the paper prints, by part."""
TITLES: Final[dict[PaperDataset, str]] = {"voc-lt": "VOC-LT", "coco-lt": "COCO-LT"}
SETTINGS: Final = {
    "model.backbone": "resnet50",
    "data.image_size": 224,
    "training.batch_size": 32,
}
"""What the paper trained with, by column."""
# Class names and training counts, in order, of the sets that Wu et al. published.
_FINGERPRINTS: Final[dict[str, PaperDataset]] = {
    "38984dfb9c567a4a": "voc-lt",
    "c54121ec675ea402": "coco-lt",
}


def published(table: int, dataset: PaperDataset) -> pd.DataFrame:
    """Return the rows of a table of the paper: method, total, head, medium, tail in %, note.

    Methods are in the signs of this project's specs: PR(l1-+) of the paper is PR(λ1-).
    """
    file = importlib.resources.files("pgsearch.analysis") / "paper_results.csv"
    with file.open(encoding="utf-8") as text:
        rows = pd.read_csv(text)
    rows = rows[(rows["table"] == table) & (rows["dataset"] == dataset)]
    texts = {name: rows[name].map(_in_our_signs, na_action="ignore") for name in ("method", "note")}
    return rows.assign(**texts)[["method", *PARTS, "note"]].reset_index(drop=True)


def paper_dataset(ledgers: Sequence[Ledger]) -> PaperDataset | None:
    """Return which data set of the paper all these searches trained on, by classes and counts."""
    found = set()
    for ledger in ledgers:
        epochs = read_epochs(ledger, ["classes", "class.count"])
        for row in epochs.slice(0, 1).to_pylist():
            found.add(_FINGERPRINTS.get(fingerprint([row["classes"], row["class.count"]])))
    return found.pop() if len(found) == 1 else None


def beside_the_paper(rows: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Join configurations with the published rows of the same method.

    Args:
        rows: what `by_configuration` returns for `MAPS`.
        theirs: what `published` returns.

    Returns:
        The published rows in their order, each as often as a configuration has its name, then the
        configurations without one: method, search, label, n, seeds (missing where there is no
        configuration), note, and for each part `PART.mean`, `PART.std`, `PART.n`, `PART.paper` and
        `PART.difference` (mean - paper), all in [0, 1].
    """
    names = [variant if isinstance(variant, str) else "" for variant in rows["variant"]]
    ours = rows.assign(key=[_key(name) for name in names])
    paper = theirs.assign(key=[_key(method) for method in theirs["method"]])
    paper = paper.rename(columns={part: f"{part}.paper" for part in PARTS})
    paper = paper.assign(**{f"{part}.paper": paper[f"{part}.paper"] / 100 for part in PARTS})
    joined = paper.merge(ours, on="key", how="outer", sort=False)
    order = {key: place for place, key in enumerate(dict.fromkeys([*paper["key"], *ours["key"]]))}
    joined = joined.sort_values("key", key=lambda keys: keys.map(order), kind="stable")
    for part in PARTS:
        joined[f"{part}.difference"] = joined[f"{part}.mean"] - joined[f"{part}.paper"]
    numbers = [f"{p}.{name}" for p in PARTS for name in ("mean", "std", "n", "paper", "difference")]
    first = ["method", "search", "label", "n", "seeds", "note"]
    return joined[[*first, *numbers]].reset_index(drop=True)


def paper_table(
    rows: pd.DataFrame, found: Replicates, table: int, dataset: PaperDataset, *, is_same: bool
) -> Table:
    """Return configurations beside the published rows.

    Args:
        rows: what `beside_the_paper` returns.
        found: the trials that the configurations are of; with the columns of `SETTINGS`.
        table: of the paper, 2 to 5.
        dataset: whose published rows they are.
        is_same: whether the searches trained on that data set.
    """
    ours = {p: MetricColumn(Metric(MAPS[p]), rows[f"{p}.mean"], not found.is_mixed) for p in PARTS}
    best = {part: rows[f"{part}.paper"].max() for part in PARTS}
    several = len(found.specs) > 1
    cells = [
        (
            *([Cell(_or_missing(row["search"]))] if several else []),
            Cell(row["label"] if isinstance(row["label"], str) else row["method"]),
            missing() if pd.isna(row["n"]) else n_cell(int(row["n"]), int(row["seeds"])),
            *(cell for part in PARTS for cell in _part_cells(row, part, ours[part], best[part])),
        )
        for row in rows.to_dict("records")
    ]
    titles = [title for part in PARTS for title in (part, f"{part} paper", f"{part} Δ")]
    return Table(
        title=f"mAP in % on test {epoch_words(found)}, mean ± std over n seeds, beside Table "
        f"{table} of the paper on {TITLES[dataset]}; Δ: ours - paper",
        columns=(*(["search"] if several else []), "method", "n", *titles),
        rows=tuple(cells),
        notes=(
            *_other_setting(found, TITLES[dataset], is_same=is_same),
            "the paper's numbers are of single runs",
            *_notes_of_the_paper(rows),
            *caveats(found, map(Metric, MAPS.values())),
        ),
        text_columns=frozenset({"search", "method"}),
    )


def require_paper_dataset(found: PaperDataset | None, named: PaperDataset | None) -> PaperDataset:
    """Return whose published rows to show. Raises UsageError where neither data nor user say."""
    dataset = named or found
    if dataset is None:
        raise UsageError(
            "the data set is none of the paper's (its classes and training counts differ); say "
            "whose published rows to show with --paper-dataset voc-lt or --paper-dataset coco-lt"
        )
    return dataset


def _part_cells(
    row: Mapping[Any, Any], part: str, ours: MetricColumn, best: float
) -> tuple[Cell, Cell, Cell]:
    paper = percent(row[f"{part}.paper"])
    difference = percent(row[f"{part}.difference"])
    if isinstance(difference.value, float):
        difference = replace(difference, text=f"{difference.value:+.2f}")
    return (
        ours.cell(row[f"{part}.mean"], row[f"{part}.std"], row[f"{part}.n"], of=row["n"]),
        replace(paper, bold=row[f"{part}.paper"] == best),
        difference,
    )


def _other_setting(found: Replicates, title: str, *, is_same: bool) -> list[str]:
    """Say in what the searches differ from the paper: else they look like a reproduction."""
    others = [] if is_same else [f"the data set is not {title}"]
    for column, theirs in SETTINGS.items():
        ours = [plain_text(value) for value in found.frame[column].unique()]
        if ours != [plain_text(theirs)]:
            others.append(f"{column} is {', '.join(ours)} and not {theirs}")
    if not others:
        return []
    return [f"{'; '.join(others)}: so the differences say nothing of a reproduction"]


def _notes_of_the_paper(rows: pd.DataFrame) -> list[str]:
    noted = rows[rows["note"].notna()]
    return [
        f"{', '.join(dict.fromkeys(methods))} in the paper: {note}"
        for note, methods in noted.groupby("note", sort=False)["method"]
    ]


def _in_our_signs(method: str) -> str:
    """Return PR(λ1-,λ2+) for PR(l1-+,l2++), where the last + is of what is raised."""
    return re.sub(r"l([12])([FA]?)([+-])\+?", r"λ\1\2\3", method)


def _key(method: str) -> str:
    """Return what two spellings of a method share; BCE (ERM) is ERM."""
    plain = re.sub(r"\s", "", method).casefold()
    named = re.fullmatch(r"bce\((.+)\)", plain)
    return named[1] if named else plain


def _or_missing(text: object) -> str:
    return text if isinstance(text, str) else MISSING
