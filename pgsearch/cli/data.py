"""Commands about data sets: `data build`, `data check`, `data stats`. They import no torch."""

import json
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pgsearch.class_groups import GROUPS, HEAD_MIN_COUNT, TAIL_BELOW_COUNT, class_groups
from pgsearch.cli.options import Json
from pgsearch.errors import InvalidData, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

    from pgsearch.data.manifest_table import Problems
    from pgsearch.data.pool import LabelledImages
    from pgsearch.data.published import PublishedSplit
    from pgsearch.data.split import SplitTable

PLOT_FORMATS = (".png", ".svg", ".pdf")
CO_OCCURRENCES_SHOWN = 10

app = typer.Typer(
    help="Build, check and describe data sets.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
build = typer.Typer(
    help="Write the manifest of a long-tailed data set, for `data.manifest` of a spec.",
    no_args_is_help=True,
)
app.add_typer(build, name="build")


class Split(StrEnum):
    """Splits of a manifest."""

    train = "train"
    validation = "validation"
    test = "test"


class Kind(StrEnum):
    """Data sets that have published numbers."""

    voc_lt = "voc-lt"
    coco_lt = "coco-lt"


Manifest: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="MANIFEST", help="CSV or Parquet manifest.", show_default=False),
]
Root: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Folder of the images.", show_default="the manifest's own"),
]
Ids: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Published list of the train ids, one per line, in place of the random draw.",
        show_default=False,
    ),
]
Validation: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        help="Images of the validation split: stratified, from the pool's images that train does "
        "not have.",
    ),
]
AllowOtherCounts: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-other-counts",
        help="Only warn where numbers differ from the published: for a part of the data.",
    ),
]


@build.command("voc-lt")
def voc_lt(
    root: Annotated[
        Path,
        typer.Option(help="VOCdevkit, which holds VOC2012 and VOC2007.", show_default=False),
    ],
    ids: Ids = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Parquet file to write.", show_default="ROOT/voc_lt.parquet"),
    ] = None,
    validation: Validation = 0,
    allow_other_counts: AllowOtherCounts = False,
) -> None:
    """Write VOC-LT: train from VOC2012 trainval, test is VOC2007 test.

    The train images are drawn as the published code draws them: the same 1142
    in the same order. Every number is compared with the published one, and
    every chosen image is decoded.
    """
    from pgsearch.cli.progress import data_progress
    from pgsearch.data.choose import choose_published
    from pgsearch.data.manifest_table import Problems
    from pgsearch.data.published import VOC_LT
    from pgsearch.data.voc import read_voc

    output = _parquet(output or root / "voc_lt.parquet")
    problems = Problems()
    with data_progress(what="reading VOC2012") as advance:
        pool = read_voc(root, year=2012, image_set="trainval", problems=problems, progress=advance)
    with data_progress(what="reading VOC2007") as advance:
        test = read_voc(root, year=2007, image_set="test", problems=problems, progress=advance)
    rows = _read_ids(ids, pool, problems)
    if problems:  # the images that are chosen for sure are checked too, to name all at once
        _check_files(root, [*test.paths, *(pool.paths[n] for n in rows or ())], problems)
    problems.raise_if_any()
    table = choose_published(VOC_LT, pool, test, ids=rows, num_validation=validation)
    _finish(table, root=root, output=output, published=VOC_LT, allow=allow_other_counts)


@build.command("coco-lt")
def coco_lt(
    root: Annotated[
        Path,
        typer.Option(
            help="Folder that holds annotations/, train2017/ and val2017/.", show_default=False
        ),
    ],
    ids: Ids = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Parquet file to write.", show_default="ROOT/coco_lt.parquet"),
    ] = None,
    validation: Validation = 0,
    allow_other_counts: AllowOtherCounts = False,
) -> None:
    """Write COCO-LT: train from train2017, test is val2017.

    The train images are drawn as the published code draws them. Every number
    is compared with the published one, and every chosen image is decoded. If
    the counts differ although the data are complete, give the published list
    with --ids. Reading the annotations takes about 1.2 GB of memory.
    """
    from pgsearch.data.choose import choose_published
    from pgsearch.data.coco import read_coco
    from pgsearch.data.manifest_table import Problems
    from pgsearch.data.published import COCO_LT

    output = _parquet(output or root / "coco_lt.parquet")
    problems = Problems()
    typer.echo("reading the annotations of train2017 and val2017", err=True)
    pool = read_coco(root, image_set="train2017", problems=problems)
    test = read_coco(root, image_set="val2017", problems=problems)
    rows = _read_ids(ids, pool, problems)
    if problems:  # the images that are chosen for sure are checked too, to name all at once
        _check_files(root, [*test.paths, *(pool.paths[n] for n in rows or ())], problems)
    problems.raise_if_any()
    table = choose_published(COCO_LT, pool, test, ids=rows, num_validation=validation)
    _finish(table, root=root, output=output, published=COCO_LT, allow=allow_other_counts)


@build.command("custom")
def custom(
    manifest: Annotated[
        Path,
        typer.Option(
            help="CSV or Parquet manifest whose train rows are the pool.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option(help="Parquet file to write.", show_default=False)],
    max_count: Annotated[
        int,
        typer.Option("--max", min=1, help="Images of the most frequent class.", show_default=False),
    ],
    min_count: Annotated[int, typer.Option("--min", min=1, help="Lower end of the counts.")] = 1,
    alpha: Annotated[
        float,
        typer.Option(help="Share of the density cut off at its end: nearer to 0 is a longer tail."),
    ] = 0.01,
    b: Annotated[float, typer.Option("--b", help="Shape of the Pareto density.")] = 6.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    root: Root = None,
) -> None:
    """Write a long-tailed version of labelled images of your own.

    The train rows are drawn so that the counts per class follow a sampled
    Pareto density, as in VOC-LT; rows of validation and test stay as they are.
    A class that has fewer images than its place in the tail asks for gets all
    of them.
    """
    from pgsearch.data.choose import Profile, choose_custom

    if min_count > max_count:
        raise UsageError(f"--min {min_count} must not be above --max {max_count}")
    if not 0 < alpha <= 1 or not 0 < b < math.inf:
        raise UsageError(f"0 < --alpha <= 1 and --b > 0 are needed, got --alpha {alpha} --b {b}")
    output = _parquet(output)
    if output.absolute() == manifest.absolute():
        raise UsageError(f"--output {output} is the manifest itself; name another file")
    profile = Profile(max_count, min_count, b=b, alpha=alpha, seed=seed)
    try:
        profile.counts(2)
    except ValueError as error:
        raise UsageError(f"--alpha {alpha} --b {b}: {error}") from None
    table = choose_custom(manifest, root=root, profile=profile)
    _finish(table, root=root or manifest.parent, output=output)


def _parquet(output: Path) -> Path:
    if output.suffix.lower() != ".parquet":
        raise UsageError(f"--output {output}: a manifest is written as .parquet; name it so")
    return output


def _read_ids(ids: Path | None, pool: "LabelledImages", problems: Any) -> tuple[int, ...] | None:
    from pgsearch.data.choose import read_ids

    if ids is None or not pool.ids:  # without a pool, every id would be called unknown
        return None
    return read_ids(ids, pool, problems)


def _finish(
    table: "SplitTable",
    *,
    root: Path,
    output: Path,
    published: "PublishedSplit | None" = None,
    allow: bool = False,
) -> None:
    """Check what was chosen, write it and say so."""
    from pgsearch.data.manifest_table import Problems
    from pgsearch.data.split import (
        count_problems,
        training_problems,
        write_split,
    )

    problems = Problems()
    other = training_problems(table, source=table.kind)
    if published is not None:
        other += count_problems(published, table, source=table.kind)
    for problem in other:
        if allow:
            _warn(problem)
        else:
            problems.add(problem, problem)  # each is of its own kind: all are shown
    _check_files(root, table.images, problems)
    problems.raise_if_any()
    if allow:
        table = _without_empty_classes(table)
    write_split(output, table)
    _say_what_was_written(table, root=root, output=output)


def _check_files(root: Path, images: Sequence[str], problems: "Problems") -> None:
    """Add to `problems` each image that is not there or does not decode."""
    from pgsearch.cli.progress import data_progress
    from pgsearch.data.image_check import check_images
    from pgsearch.data.split import add_missing_images

    add_missing_images(root, images, problems)
    paths = [path for image in images if (path := root / image).is_file()]
    with data_progress(what="decoding images") as advance:
        check_images(paths, problems, progress=advance)


def _without_empty_classes(table: "SplitTable") -> "SplitTable":
    """Leave out what cannot be trained, so that a part of a data set still can."""
    kept = table.without_empty_classes()
    left_out = [name for name in table.class_names if name not in kept.class_names]
    if left_out:
        _warn(f"{table.kind}: left out, for want of a training image: {', '.join(left_out)}")
    return kept


def _say_what_was_written(table: "SplitTable", *, root: Path, output: Path) -> None:
    import yaml

    spec = {"name": "manifest", "manifest": str(output.resolve())}
    is_elsewhere = output.resolve().parent != root.resolve()
    if is_elsewhere:
        spec["root"] = str(root.resolve())
    line = yaml.safe_dump(spec, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    num_images = {split: len(table.targets_of(split)) for split in Split}
    sizes = _group_sizes(table, HEAD_MIN_COUNT, TAIL_BELOW_COUNT)
    for name, value in (
        ("data set", f"{table.kind}, {table.procedure}"),
        ("images", ", ".join(f"{count} {split}" for split, count in num_images.items())),
        ("classes", f"{', '.join(f'{size} {group}' for group, size in sizes.items())}"),
        ("fingerprint", table.fingerprint),
        ("written", str(output)),
    ):
        typer.echo(f"{name:12} {value}")
    typer.echo(f"\nin a spec:\n  data: {line}")
    if is_elsewhere:
        typer.echo(f"The images are not beside it: data.root={root.resolve()} is needed.")
    if not num_images[Split.validation]:
        typer.echo(
            "It has no validation split: data.validation_fraction of train is held out; 0 trains "
            "on all."
        )


def _group_sizes(table: "SplitTable", head_min: int, tail_below: int) -> dict[str, int]:
    groups_C = class_groups(
        table.targets_of("train").sum(axis=0), head_min=head_min, tail_below=tail_below
    )
    return {group: int((groups_C == g).sum()) for g, group in enumerate(GROUPS)}


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
            _warn(warning)
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
    pairs = long_tail.co_occurrences(table.class_names, targets_NC).head(CO_OCCURRENCES_SHOWN)
    sizes = frame["group"].value_counts()
    ratio = long_tail.imbalance_ratio(frame["count"])
    facts = {
        "manifest": str(manifest),
        "kind": table.kind or None,
        "images": {name: len(table.targets_of(name)) for name in Split},
        "split": split.value,
        "groups": {group: int(sizes.get(group, 0)) for group in GROUPS},
        "imbalance_ratio": None if math.isnan(ratio) else ratio,
        "labels_per_image": long_tail.labels_per_image(targets_NC).to_dict(),
        "classes": frame.to_dict("records"),
        "co_occurrences": pairs.to_dict("records"),
    }
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


def _save_plot(frame: "pd.DataFrame", path: Path, *, title: str, thresholds: Sequence[int]) -> None:
    from matplotlib.figure import Figure

    from pgsearch.analysis.long_tail import draw_long_tail
    from pgsearch.results.storage import replace_file

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


def _warn(problem: str) -> None:
    typer.secho("warning: ", fg="yellow", nl=False, err=True)
    typer.echo(problem, err=True)
