"""The table of a manifest: read from CSV or Parquet, and every cell checked."""

import csv
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pgsearch.data.class_names import class_name_problems
from pgsearch.errors import InvalidData
from pgsearch.untrusted import has_unseen, one_line, shown

IMAGE, SPLIT, LABELS = "image", "split", "labels"
SPLIT_NAMES: Final = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}
LABEL_SEPARATOR: Final = ";"
SHOWN_OF_A_KIND: Final = 20
MAX_ROWS: Final = 10_000_000
"""A few bytes of Parquet can stand for any number of rows."""
MAX_CELLS: Final = 300_000_000
ROWS_AT_A_TIME: Final = 1024
MAX_BYTES_AT_A_TIME: Final = 256_000_000


class Problems:
    """Problems found so far, by kind: a mistake made 10,000 times should not hide the others."""

    def __init__(self) -> None:
        self._shown: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, problem: str) -> None:
        self._counts[kind] += 1
        shown_of_kind = self._shown.setdefault(kind, [])
        if len(shown_of_kind) < SHOWN_OF_A_KIND:
            shown_of_kind.append(one_line(problem))

    def __contains__(self, kind: str) -> bool:
        return kind in self._shown

    def __bool__(self) -> bool:
        return bool(self._shown)

    def raise_if_any(self) -> None:
        """Raise InvalidData with the first few of every kind."""
        lines: list[str] = []
        for kind, problems in self._shown.items():
            lines += problems
            if self._counts[kind] > len(problems):
                lines.append(f"... and {self._counts[kind] - len(problems)} more: {kind}")
        if lines:
            raise InvalidData(lines)


@dataclass(frozen=True)
class ImageFile:
    """A file that a row names. `place` is the row, in words."""

    place: str
    image_id: str
    path: Path
    num_bytes: int
    modified_ns: int


@dataclass(frozen=True, eq=False)
class Rows:
    """The checked rows. Where there were problems, a row may lack its file or label."""

    class_names: tuple[str, ...]
    splits_N: npt.NDArray[np.str_]
    targets_NC: npt.NDArray[np.uint8]
    files: list[ImageFile]


def read_rows(
    manifest: Path, *, root: Path, class_names: Sequence[str] | None, problems: Problems
) -> Rows:
    """Read a manifest and add to `problems` what is wrong with its rows.

    Raises:
        InvalidData: the table as a whole cannot be used.
    """
    table = _read_table(manifest, problems)
    problems.raise_if_any()
    _check_header(manifest, list(table.columns), class_names, problems)
    if not table.places:
        problems.add(
            "no rows",
            f"{manifest}: has no rows; a manifest needs one row per image, for train and for test "
            f"at least; add them",
        )
    problems.raise_if_any()

    read_targets = _targets_of_lists if LABELS in table.columns else _targets_of_columns
    names, targets_NC = read_targets(table, class_names, problems)
    return Rows(
        class_names=names,
        splits_N=_splits(table, problems),
        targets_NC=targets_NC,
        files=_files(table, root, problems),
    )


@dataclass(frozen=True)
class _Table:
    columns: dict[str, list[Any]]
    places: list[str]


def _read_table(manifest: Path, problems: Problems) -> _Table:
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(manifest.suffix.lower())
    if reader is None:
        problems.add(
            "extension",
            f"{manifest}: has the extension {manifest.suffix!r}; a manifest is a .csv or a "
            f".parquet file; convert or rename it",
        )
    elif not stat.S_ISREG(mode_of(manifest)):
        problems.add(
            "no manifest",
            f"{manifest}: does not exist or is no file; a manifest is a .csv or a .parquet file; "
            f"correct the path",
        )
    else:
        return reader(manifest, problems)
    return _Table({}, [])


def _read_csv(manifest: Path, problems: Problems) -> _Table:
    header: list[str] = []
    rows: list[list[str]] = []
    places: list[str] = []
    try:
        # utf-8-sig: Excel puts a byte order mark before the first column name.
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                place = f"{manifest}, line {reader.line_num}"
                if row and len(row) != len(header):
                    problems.add(
                        "number of cells",
                        f"{place}: has {len(row)} cells; every row needs the {len(header)} cells "
                        f"of the header; correct the row or quote commas in it",
                    )
                elif row:
                    rows.append(row)
                    places.append(place)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add(
            "unreadable",
            f"{manifest}: cannot be read after line {len(rows) + 1}: {error}; a CSV manifest is "
            f"text in UTF-8 with commas; save it as such",
        )
    _check_no_repeats(manifest, header, problems)
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return _Table(
        {name: list(column) for name, column in zip(header, columns, strict=True)}, places
    )


def _read_parquet(manifest: Path, problems: Problems) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names: list[str] = []
    columns: list[list[Any]] = []
    try:
        with pq.ParquetFile(manifest) as file:
            names = file.schema_arrow.names
            columns = [[] for _ in names]
            _require_not_more(file.metadata.num_rows, "rows", MAX_ROWS)
            _require_not_more(file.metadata.num_rows * len(names), "cells", MAX_CELLS)
            for rows in file.iter_batches(batch_size=ROWS_AT_A_TIME):
                _require_not_more(
                    rows.nbytes, f"bytes in {ROWS_AT_A_TIME} rows", MAX_BYTES_AT_A_TIME
                )
                for cells, column in zip(columns, rows.columns, strict=True):
                    cells += column.to_pylist()
    # ValueError: text that is not UTF-8. OverflowError: a date that does not exist.
    except (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException) as error:
        problems.add(
            "unreadable",
            f"{manifest}: is not a whole Parquet file of a manifest: "
            f"{str(error) or type(error).__name__}; write it again",
        )
        return _Table({}, [])
    _check_no_repeats(manifest, names, problems)
    return _Table(
        dict(zip(names, columns, strict=True)),
        [f"{manifest}, row {n}" for n in range(1, max(map(len, columns), default=0) + 1)],
    )


def _require_not_more(count: int, what: str, limit: int) -> None:
    if count > limit:
        raise ValueError(f"it has {count:,} {what}, and {limit:,} are the most")


def _check_no_repeats(manifest: Path, names: Sequence[str], problems: Problems) -> None:
    for name, count in sorted(Counter(names).items()):
        if count > 1:
            problems.add(
                "repeated column",
                f"{manifest}: column {shown(name)} is there {count} times; a column "
                f"name may appear once; rename or remove the others",
            )


def _check_header(
    manifest: Path, names: Sequence[str], class_names: Sequence[str] | None, problems: Problems
) -> None:
    for name in (IMAGE, SPLIT):
        if name not in names:
            problems.add(
                "missing column",
                f"{manifest}: has no column {name!r} (it has {_listed(names)}); a manifest needs "
                f"the columns 'image' and 'split'; add or rename it",
            )
    for name, count in sorted(Counter(class_names or ()).items()):
        if count > 1:
            problems.add(
                "repeated class",
                f"class_names: {name!r} is there {count} times; a class is named once; remove the "
                f"others",
            )
    label_columns = [name for name in names if name not in (IMAGE, SPLIT, LABELS)]
    if LABELS in names:
        if label_columns:
            problems.add(
                "two kinds of labels",
                f"{manifest}: has a column 'labels' and also {_listed(label_columns)}; labels "
                f"are either one list column or one 0/1 column per class; remove one of the two",
            )
        return
    wanted = label_columns if class_names is None else class_names
    if not wanted:
        problems.add(
            "missing column",
            f"{manifest}: has no labels (its columns are {_listed(names)}); a manifest needs one "
            f"0/1 column per class or one column 'labels'; add them",
        )
    if class_names is None:
        places = ((f"{manifest}, column {number}", name) for number, name in enumerate(names, 1))
        for problem in class_name_problems(
            (place, name) for place, name in places if name not in (IMAGE, SPLIT)
        ):
            problems.add("class name", problem)
    known = set(label_columns)
    for name in wanted:
        if name not in known:
            problems.add(
                "missing column",
                f"{manifest}: has no column for the class {name!r} (it has {_listed(names)}); "
                f"every class that is asked for needs one; add it or leave the class out",
            )


def _targets_of_columns(
    table: _Table, class_names: Sequence[str] | None, problems: Problems
) -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
    """Columns that are not asked for are ignored, so that a manifest may hold more."""
    if class_names is None:
        class_names = [name for name in table.columns if name not in (IMAGE, SPLIT)]
    targets_NC = np.zeros((len(table.places), len(class_names)), dtype=np.uint8)
    for c, name in enumerate(class_names):
        for n, cell in enumerate(table.columns[name]):
            target = _zero_or_one(cell)
            if target is None:
                problems.add(
                    "label",
                    f"{table.places[n]}: column {name!r} is {shown(cell)}; a label is 0 or 1; "
                    f"correct the cell, or remove the column if it is not a class",
                )
            elif target:
                targets_NC[n, c] = 1
    return tuple(class_names), targets_NC


def _zero_or_one(cell: Any) -> int | None:
    if isinstance(cell, str):
        return {"0": 0, "1": 1}.get(cell.strip())
    if isinstance(cell, (bool, int, float)) and cell in (0, 1):
        return int(cell)
    return None


def _targets_of_lists(
    table: _Table, class_names: Sequence[str] | None, problems: Problems
) -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
    lists = [
        _label_list(cell, place, problems)
        for cell, place in zip(table.columns[LABELS], table.places, strict=True)
    ]
    if class_names is None:
        place_of: dict[str, str] = {}
        for labels, place in zip(lists, table.places, strict=True):
            for label in labels:
                place_of.setdefault(label, place)
        class_names = sorted(place_of)
        for problem in class_name_problems((place_of[name], name) for name in class_names):
            problems.add("class name", problem)
        problems.raise_if_any()
    index_of = {name: c for c, name in enumerate(class_names)}
    targets_NC = np.zeros((len(lists), len(class_names)), dtype=np.uint8)
    for n, labels in enumerate(lists):
        for label in labels:
            if label not in index_of:
                problems.add(
                    "label",
                    f"{table.places[n]}: names the class {shown(label)}; labels must be among the "
                    f"classes asked for ({_listed(class_names)}); correct the label or add the "
                    f"class",
                )
            elif targets_NC[n, index_of[label]]:
                problems.add(
                    "label",
                    f"{table.places[n]}: names the class {shown(label)} twice; an image has a "
                    f"class once or not at all; remove one",
                )
            else:
                targets_NC[n, index_of[label]] = 1
    return tuple(class_names), targets_NC


def _label_list(cell: Any, place: str, problems: Problems) -> list[str]:
    if isinstance(cell, str):
        return [label.strip() for label in cell.split(LABEL_SEPARATOR) if label.strip()]
    if isinstance(cell, list) and all(isinstance(label, str) and label for label in cell):
        return cell
    problems.add(
        "label",
        f"{place}: column 'labels' is {shown(cell)}; it must be a list of class names, empty for "
        f"an image without any; correct the cell",
    )
    return []


def _splits(table: _Table, problems: Problems) -> npt.NDArray[np.str_]:
    splits = []
    for cell, place in zip(table.columns[SPLIT], table.places, strict=True):
        split = SPLIT_NAMES.get(cell.strip()) if isinstance(cell, str) else None
        if split is None:
            problems.add(
                "split",
                f"{place}: column 'split' is {shown(cell)}; it must be train, validation (or val) "
                f"or test; correct the cell",
            )
        splits.append(split or "")
    return np.array(splits, dtype=np.str_)


def _files(table: _Table, root: Path, problems: Problems) -> list[ImageFile]:
    if not stat.S_ISDIR(mode_of(root)):
        problems.add(
            "root",
            f"{root}: is not a folder; the image paths of a manifest are relative to one; "
            f"correct the root",
        )
        return []
    files: list[ImageFile] = []
    place_of: dict[str, str] = {}
    for cell, place in zip(table.columns[IMAGE], table.places, strict=True):
        path = _path_inside(cell, root)
        if path is None:
            problems.add(
                "path",
                f"{place}: image {shown(cell)} is not a path inside {root}; images lie under the "
                f"root; correct the path or the root",
            )
            continue
        image_id = path.relative_to(root).as_posix()
        if image_id in place_of:
            problems.add(
                "repeated image",
                f"{place}: image {shown(cell)} was named before ({place_of[image_id]}); an image "
                f"is in one row and one split; remove one of the rows",
            )
            continue
        place_of[image_id] = place
        file = _existing_file(path, image_id, place)
        if file is None:
            problems.add(
                "missing image",
                f"{place}: image {shown(cell)} is not a file under {root}; every row needs its "
                f"image; add the file, correct the path or remove the row",
            )
            continue
        if has_unseen(image_id):
            problems.add(
                "path",
                f"{place}: image {shown(cell)} has characters that do not show; the "
                f"name of a file is shown in messages and results; rename the file",
            )
            continue
        files.append(file)
    return files


def _path_inside(cell: Any, root: Path) -> Path | None:
    """The path without "." and "..", or None if it leads out of the root; links are followed."""
    if not isinstance(cell, str) or not cell.strip():
        return None
    path = Path(os.path.normpath(root / cell.strip()))
    return path if path != root and path.is_relative_to(root) else None


def _existing_file(path: Path, image_id: str, place: str) -> ImageFile | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a null character in the path
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return ImageFile(place, image_id, path, status.st_size, status.st_mtime_ns)


def mode_of(path: Path) -> int:
    """Return the mode of a file; 0 if there is none, or none can have this path."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a null character in the path
        return 0


def _listed(names: Sequence[str]) -> str:
    first = ", ".join(shown(name) for name in names[:SHOWN_OF_A_KIND])
    hidden = len(names) - SHOWN_OF_A_KIND
    return f"{first} and {hidden} more" if hidden > 0 else first or "none"
