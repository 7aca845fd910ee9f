"""Manifests that the project writes: the table, its checks and its file.

A manifest is one Parquet file: columns `image` (path relative to the root), `split` and one 0/1
column per class. Its metadata say how it was made and what it held then.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

import pgsearch
from pgsearch.data.dataset import class_count_problems
from pgsearch.data.manifest_table import IMAGE, LABELS, SPLIT, Problems, mode_of, read_rows
from pgsearch.data.published import PublishedSplit, differences
from pgsearch.errors import InvalidData
from pgsearch.provenance import fingerprint
from pgsearch.results.local_storage import replace_file

METADATA_PREFIX: Final = "pgsearch."


@dataclass(frozen=True, eq=False)
class SplitTable:
    """The rows of a manifest, and how they came about, in words."""

    kind: str
    procedure: str
    class_names: tuple[str, ...]
    images: tuple[str, ...]
    splits_N: npt.NDArray[np.str_]
    targets_NC: npt.NDArray[np.uint8]

    def targets_of(self, split: str) -> npt.NDArray[np.uint8]:
        """Targets of the rows of one split, shape `[N of the split, C]`."""
        targets_NC: npt.NDArray[np.uint8] = self.targets_NC[self.splits_N == split]
        return targets_NC

    def without_empty_classes(self) -> "SplitTable":
        """Return the table without the classes that no training image has."""
        kept = np.flatnonzero(self.targets_of("train").sum(axis=0))
        names = tuple(self.class_names[c] for c in kept)
        return replace(self, class_names=names, targets_NC=self.targets_NC[:, kept])

    @property
    def fingerprint(self) -> str:
        """Of classes, images, splits and labels; not of the files' bytes."""
        labels = ["".join(map(str, targets_C)) for targets_C in self.targets_NC.tolist()]
        rows = list(zip(self.images, self.splits_N.tolist(), labels, strict=True))
        return fingerprint([list(self.class_names), rows])


# ------------------------------------------------------------------ checking


def count_problems(published: PublishedSplit, table: SplitTable, *, source: str) -> list[str]:
    """Say where a table has other numbers than the published one: each class, then what to do."""
    found = differences(published, table.class_names, table.splits_N, table.targets_NC)
    if not found:
        return []
    return [
        *(f"{source}: {line}" for line in found),
        f"{source}: this is not {published.title} as published; use the complete original data, "
        f"or allow it with --allow-other-counts (for a part of the data)",
    ]


def training_problems(table: SplitTable, *, source: str) -> list[str]:
    """Say which classes and splits would keep training from starting."""
    problems = [
        f"{source}: no row has the split {split!r}; a data set needs images of train and of test; "
        f"add some"
        for split in ("train", "test")
        if not len(table.targets_of(split))
    ]
    train_targets_NC = table.targets_of("train")
    if len(train_targets_NC):
        problems += class_count_problems(source, table.class_names, train_targets_NC)
    return problems


def add_missing_images(root: Path, images: Sequence[str], problems: Problems) -> None:
    """Add to `problems` each image that is not on disk."""
    for image in images:
        if not stat.S_ISREG(mode_of(root / image)):
            problems.add(
                "missing image",
                f"{root / image}: is not a file; every image that is chosen must be there; "
                f"extract the archive of images again",
            )


# ------------------------------------------------------------------ the file


def write_split(path: Path, table: SplitTable) -> None:
    """Write a table as a Parquet manifest, whole or not at all.

    Raises:
        InvalidData: a class has the name of another column.
        StorageError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    taken = [name for name in table.class_names if name in (IMAGE, SPLIT, LABELS)]
    if taken:
        raise InvalidData(
            [
                f"{path}: would have a class {name!r}; a manifest has a column of that name; "
                f"rename the class"
                for name in taken
            ]
        )
    columns = {IMAGE: list(table.images), SPLIT: table.splits_N.tolist()}
    types = {IMAGE: pa.string(), SPLIT: pa.string()}
    columns |= {name: table.targets_NC[:, c] for c, name in enumerate(table.class_names)}
    types |= {name: pa.uint8() for name in table.class_names}
    metadata = {
        "kind": table.kind,
        "procedure": table.procedure,
        "fingerprint": table.fingerprint,
        "version": pgsearch.__version__,
    }
    schema = pa.schema(
        list(types.items()),
        metadata={f"{METADATA_PREFIX}{key}": value for key, value in metadata.items()},
    )
    arrow = pa.table(columns, schema=schema)
    replace_file(path, lambda file: pq.write_table(arrow, file))


def read_metadata(manifest: Path) -> dict[str, str]:
    """Return what `write_split` noted in a manifest; empty for a manifest of another origin."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if manifest.suffix.lower() != ".parquet" or not stat.S_ISREG(mode_of(manifest)):
        return {}
    try:
        metadata = pq.read_schema(manifest).metadata or {}
    except (OSError, pa.ArrowException):
        return {}  # reading its rows says what is wrong
    texts = {key.decode(errors="replace"): value for key, value in metadata.items()}
    return {
        key.removeprefix(METADATA_PREFIX): value.decode(errors="replace")
        for key, value in texts.items()
        if key.startswith(METADATA_PREFIX)
    }


class ProblemsOfRows(Problems):
    """Leaves out the images that are not on disk, for what needs only the labels."""

    def add(self, kind: str, problem: str) -> None:
        """Note a problem, unless it is one of the image files."""
        if kind not in ("missing image", "root"):
            super().add(kind, problem)


def read_split(manifest: Path, *, root: Path | None, problems: Problems) -> SplitTable:
    """Read the rows of any manifest and add to `problems` what is wrong with them.

    If something is, `images` may lack some.

    Raises:
        InvalidData: the table as a whole cannot be used.
    """
    root = Path(os.path.normpath((manifest.parent if root is None else root).absolute()))
    rows = read_rows(manifest, root=root, class_names=None, problems=problems)
    metadata = read_metadata(manifest)
    return SplitTable(
        kind=metadata.get("kind", ""),
        procedure=metadata.get("procedure", ""),
        class_names=rows.class_names,
        images=tuple(file.image_id for file in rows.files),
        splits_N=rows.splits_N,
        targets_NC=rows.targets_NC,
    )
