"""`data build`: manifests of long-tailed data sets. They import no torch."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pgsearch.class_groups import GROUPS, HEAD_MIN_COUNT, TAIL_BELOW_COUNT, class_groups
from pgsearch.cli.options import Split
from pgsearch.errors import UsageError

if TYPE_CHECKING:
    from pgsearch.data.manifest_table import Problems
    from pgsearch.data.pool import LabelledImages
    from pgsearch.data.published import PublishedSplit
    from pgsearch.data.split import SplitTable

app = typer.Typer(
    help="Write the manifest of a long-tailed data set, for `data.manifest` of a spec.",
    no_args_is_help=True,
)

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


@app.command("voc-lt")
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
    _raise_if_any(problems, root, [*test.paths, *(pool.paths[n] for n in rows or ())])
    table = choose_published(VOC_LT, pool, test, ids=rows, num_validation=validation)
    _finish(table, root=root, output=output, published=VOC_LT, allow=allow_other_counts)


@app.command("coco-lt")
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
    _raise_if_any(problems, root, [*test.paths, *(pool.paths[n] for n in rows or ())])
    table = choose_published(COCO_LT, pool, test, ids=rows, num_validation=validation)
    _finish(table, root=root, output=output, published=COCO_LT, allow=allow_other_counts)


@app.command("custom")
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


def _raise_if_any(problems: "Problems", root: Path, chosen: Sequence[str]) -> None:
    """Raise problems of annotations with those of the images that are chosen all the same."""
    if problems:
        _check_files(root, chosen, problems)
    problems.raise_if_any()


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
            warn(problem)
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
        warn(f"{table.kind}: left out, for want of a training image: {', '.join(left_out)}")
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


def warn(problem: str) -> None:
    """Print a warning."""
    typer.secho("warning: ", fg="yellow", nl=False, err=True)
    typer.echo(problem, err=True)
