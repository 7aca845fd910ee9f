"""Commands about manifests: `data check`, `data stats`. They import no torch."""

import json
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pgsearch.class_groups import GROUPS, HEAD_MIN_COUNT, TAIL_BELOW_COUNT, class_groups
from pgsearch.cli import data_build as build
from pgsearch.cli.data_build import AllowOtherCounts, Root, warn
from pgsearch.cli.options import Json, Split
from pgsearch.errors import InvalidData, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from rich.text import Text

    from pgsearch.data.published import PublishedSplit

PLOT_FORMATS = (".png", ".svg", ".pdf")
CO_OCCURRENCES_SHOWN = 10

app = typer.Typer(
    help="Build, check and describe data sets.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(build.app, name="build")


class Kind(StrEnum):
    """Data sets that have published numbers."""

    voc_lt = "voc-lt"
    coco_lt = "coco-lt"


Manifest: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="MANIFEST", help="CSV or Parquet manifest.", show_default=False),
]


@app.command("check")
def check(
    manifest: Manifest,
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--as",
            help="Compare with the published numbers of this data set.",
            show_default="what the manifest says it is",
        ),
    ] = None,
    root: Root = None,
    allow_other_counts: AllowOtherCounts = False,
    as_json: Json = False,
) -> None:
    """Check a manifest: its rows, that every image decodes, and the published numbers.

    A manifest written by `data build` is also compared with the fingerprint noted in it.
    """
    from pgsearch.data.published import PUBLISHED
    from pgsearch.data.split import read_metadata

    metadata = read_metadata(manifest)
    name = kind.value if kind is not None else metadata.get("kind", "")
    problems, other = _check(manifest, root, metadata, PUBLISHED.get(name))
    warnings = other if allow_other_counts else []
    problems += [] if allow_other_counts else other
    if as_json:
        facts = {"manifest": str(manifest), "kind": name or None, "metadata": metadata}
        typer.echo(
            json.dumps({**facts, "problems": problems, "warnings": warnings, "ok": not problems})
        )
    else:
        for warning in warnings:
            warn(warning)
        compared = f", as {PUBLISHED[name].title} is published" if name in PUBLISHED else ""
        verdict = "ok but for the warnings" if warnings else f"ok{compared}"
        typer.echo("\n".join(problems or [f"{manifest}: {verdict}"]))
    if problems:
        raise typer.Exit(InvalidData.exit_code)


def _check(
    manifest: Path,
    root: Path | None,
    metadata: dict[str, str],
    published: "PublishedSplit | None",
) -> tuple[list[str], list[str]]:
    """All problems, and apart from them those of numbers, which may be allowed."""
    from pgsearch.cli.progress import data_progress
    from pgsearch.data.image_check import check_images
    from pgsearch.data.manifest_table import Problems
    from pgsearch.data.split import count_problems, read_split, training_problems

    problems = Problems()
    other: list[str] = []
    folder = manifest.parent if root is None else root
    try:
        table = read_split(manifest, root=root, problems=problems)
        if "split" not in problems and "label" not in problems:
            other = training_problems(table, source=str(manifest))
            if published is not None:
                other += count_problems(published, table, source=str(manifest))
        if not table.images and "missing image" in problems:
            problems.add(
                "root",
                f"{manifest}: none of its images is under {folder}; image paths are relative to "
                f"the root; name it with --root",
            )
        noted = metadata.get("fingerprint")
        if not problems and noted is not None and noted != table.fingerprint:
            problems.add(
                "fingerprint",
                f"{manifest}: its rows have the fingerprint {table.fingerprint}, and {noted} was "
                f"noted when it was built; a manifest stays as it was built; build it again",
            )
        with data_progress(what="decoding images") as advance:
            check_images([folder / image for image in table.images], problems, progress=advance)
        problems.raise_if_any()
    except InvalidData as error:
        return error.problems, other
    return [], other


@app.command("stats")
def stats(
    manifest: Manifest,
    split: Annotated[Split, typer.Option(help="Rows to describe.")] = Split.train,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the long tail: a .png, .svg or .pdf.", show_default=False),
    ] = None,
    head_min: Annotated[
        int, typer.Option(min=1, help="Train images that make a head class.")
    ] = HEAD_MIN_COUNT,
    tail_below: Annotated[
        int, typer.Option(min=1, help="Fewer make a tail class.")
    ] = TAIL_BELOW_COUNT,
    as_json: Json = False,
) -> None:
    """Describe a manifest: images per class and group, labels per image, what goes together.

    Groups are always those of the train images. The image files need not be there.
    """
    from pgsearch.analysis import long_tail
    from pgsearch.data.split import ProblemsOfRows, read_split

    if tail_below > head_min:
        raise UsageError(f"--tail-below {tail_below} must not be above --head-min {head_min}")
    if plot is not None and plot.suffix.lower() not in PLOT_FORMATS:
        raise UsageError(f"--plot {plot}: name a file that ends with {', '.join(PLOT_FORMATS)}")
    problems = ProblemsOfRows()
    table = read_split(manifest, root=None, problems=problems)
    problems.raise_if_any()
    targets_NC = table.targets_of(split)
    if not len(targets_NC):
        raise InvalidData(
            [f"{manifest}: no row has the split {split.value!r}; name another with --split"]
        )
    groups_C = class_groups(
        table.targets_of("train").sum(axis=0), head_min=head_min, tail_below=tail_below
    )
    frame = long_tail.classes_by_count(table.class_names, targets_NC.sum(axis=0), groups_C)
    facts: dict[str, Any] = {
        "manifest": str(manifest),
        "kind": table.kind or None,
        "images": {name: len(table.targets_of(name)) for name in Split},
        "split": split.value,
    }
    facts |= _tail_facts(frame, table.class_names, targets_NC)
    if plot is not None:
        title = f"{table.kind or manifest.stem}, {split.value}: {len(targets_NC)} images"
        thresholds = (head_min, tail_below) if split is Split.train else ()
        _save_plot(frame, plot, title=title, thresholds=thresholds)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    _print_stats(facts)
    if plot is not None:
        typer.echo(f"\ndrawn: {plot}")


def _tail_facts(
    frame: "pd.DataFrame", class_names: Sequence[str], targets_NC: "npt.NDArray[np.uint8]"
) -> dict[str, Any]:
    from pgsearch.analysis import long_tail

    sizes = frame["group"].value_counts()
    ratio = long_tail.imbalance_ratio(frame["count"])
    pairs = long_tail.co_occurrences(class_names, targets_NC).head(CO_OCCURRENCES_SHOWN)
    return {
        "groups": {group: int(sizes.get(group, 0)) for group in GROUPS},
        "imbalance_ratio": None if math.isnan(ratio) else ratio,
        "labels_per_image": long_tail.labels_per_image(targets_NC).to_dict(),
        "classes": frame.to_dict("records"),
        "co_occurrences": pairs.to_dict("records"),
    }


def _save_plot(frame: "pd.DataFrame", path: Path, *, title: str, thresholds: Sequence[int]) -> None:
    from matplotlib.figure import Figure

    from pgsearch.analysis.long_tail import draw_long_tail
    from pgsearch.results.local_storage import replace_file

    # A figure of its own, without pyplot: it needs no display and no global state.
    width = max(6.4, min(0.17 * len(frame) + 3.0, 40.0))
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    draw_long_tail(frame, figure.add_subplot(), title=title, thresholds=thresholds)
    suffix = path.suffix.lower().removeprefix(".")
    replace_file(path, lambda file: figure.savefig(file, format=suffix, dpi=150))


def _print_stats(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    images = ", ".join(f"{count} {split}" for split, count in facts["images"].items())
    console.print(Text(f"{facts['manifest']}: {images} images"), soft_wrap=True)
    groups = ", ".join(f"{size} {group}" for group, size in facts["groups"].items())
    console.print(f"classes, by their train images: {groups}")
    ratio = facts["imbalance_ratio"]
    empty = [row["class"] for row in facts["classes"] if not row["count"]]
    shown = f"undefined, without images: {', '.join(empty)}" if ratio is None else f"{ratio:.1f}"
    console.print(Text(f"largest by smallest class: {shown}"), soft_wrap=True)

    console.print(f"\n{facts['split']} images per class (length of the bars: logarithm)")
    for line in _bars(facts["classes"], console.width):
        console.print(line, soft_wrap=True)

    console.print("\nlabels per image")
    histogram = facts["labels_per_image"]
    total = sum(histogram.values())
    for labels, count in histogram.items():
        console.print(f"{labels:>4} {count:>7}  {100 * count / total:5.1f} %")

    console.print("\nclasses that most often go together")
    width = max((len(pair["given"]) for pair in facts["co_occurrences"]), default=0)
    for pair in facts["co_occurrences"]:
        text = f"with {pair['given']:{width}}  {100 * pair['p']:5.1f} % have {pair['other']}"
        console.print(Text(f"{text}  ({pair['images']} of {pair['of']})"), soft_wrap=True)


def _bars(classes: Sequence[dict[str, Any]], width: int) -> "Iterator[Text]":
    from rich.text import Text

    styles = {"head": "blue", "medium": "yellow", "tail": "green"}
    name_width = max(len(row["class"]) for row in classes)
    room = max(10, min(50, width - name_width - 18))
    longest = math.log1p(max(1, *(row["count"] for row in classes)))
    for row in classes:
        length = round(room * math.log1p(row["count"]) / longest)
        text = Text(f"{row['class']:{name_width}}  {row['group']:6} {row['count']:>6}  ")
        yield text.append("█" * length, style=styles[row["group"]])
