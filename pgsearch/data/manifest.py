"""A user's own data set: a folder of images and a CSV or Parquet manifest.

Columns: `image` (path relative to the root), `split` (train, validation or val, test), and either
one 0/1 column per class or one column `labels` that lists class names (a list of strings in
Parquet, joined by ";" in CSV).

In order: read the manifest and check every row and path, hold out a validation split if it has
none, and only then decode the images into the cache. What is wrong is raised all together: first
all problems of the manifest, then all of the images.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pgsearch.data.cache import Array, ArrayPlan, cached_arrays
from pgsearch.data.dataset import MultiLabelDataset, Split, class_count_problems
from pgsearch.data.image_files import (
    DECODER_VERSION,
    SHA256_BYTES,
    DecodedImage,
    UnreadableImage,
    decode_image,
)
from pgsearch.data.manifest_table import ImageFile, Problems, Rows, read_rows
from pgsearch.data.stratify import stratified_holdout
from pgsearch.provenance import fingerprint

Indices = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

NUM_DECODING_THREADS: Final = min(8, os.cpu_count() or 1)
BLOCK_SIZE: Final = 128
"""Images that are decoded before they are written: what has to fit into memory at a time."""


def load_manifest(
    manifest: Path,
    *,
    root: Path | None,
    image_size: int,
    validation_fraction: float,
    split_seed: int,
    cache_dir: Path,
    class_names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> MultiLabelDataset:
    """Load the data set that a manifest describes; its images are decoded once and then cached.

    Args:
        manifest: a `.csv` or `.parquet` file.
        root: folder that the image paths are relative to; None is the manifest's own.
        image_size: side of the decoded images; the aspect ratio is not kept.
        validation_fraction: part of train that is held out if no row is validation; 0 leaves the
            data set without validation.
        split_seed: of that split.
        cache_dir: see `cached_arrays`.
        class_names: classes and their order; None takes all that the manifest has.
        progress: called with the number of images that are decoded and that there are.

    Raises:
        InvalidData: with all problems of the manifest, or all of the images.
        StorageError: the cache cannot be written.
    """
    root = _root(manifest, root)
    problems = Problems()
    rows = read_rows(manifest, root=root, class_names=class_names, problems=problems)
    rows_of_split: dict[str, Indices] = {}
    if "split" not in problems and "label" not in problems:
        rows_of_split = _divide(rows, validation_fraction, split_seed)
        _check_splits(manifest, rows, rows_of_split, problems)
    problems.raise_if_any()

    # In the order of the splits, so that each is one stretch of the mapped file.
    files = [rows.files[row] for rows_of in rows_of_split.values() for row in rows_of]
    arrays = _decoded(files, root, image_size, cache_dir, progress)
    splits: dict[str, Split] = {}
    start = 0
    for name, rows_of in rows_of_split.items():
        end = start + len(rows_of)
        ids = tuple(file.image_id for file in files[start:end])
        splits[name] = Split(arrays["images"][start:end], rows.targets_NC[rows_of], ids)
        start = end
    return MultiLabelDataset(
        name=manifest.stem,
        class_names=rows.class_names,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=_contents_fingerprint(rows.class_names, splits, image_size, arrays["sha256"]),
    )


def load_manifest_split(
    manifest: Path,
    *,
    root: Path | None,
    split: str,
    image_size: int,
    class_names: Sequence[str],
    cache_dir: Path,
    progress: Progress | None = None,
) -> Split:
    """Load one split of a manifest that need not have others: to score it, not to train.

    Args:
        manifest: a `.csv` or `.parquet` file.
        root: folder that the image paths are relative to; None is the manifest's own.
        split: train, validation or test.
        image_size: side of the decoded images; the aspect ratio is not kept.
        class_names: classes and their order; the manifest may hold more.
        cache_dir: see `cached_arrays`.
        progress: called with the number of images that are decoded and that there are.

    Raises:
        InvalidData: with all problems of the manifest, or all of the images.
        StorageError: the cache cannot be written.
    """
    root = _root(manifest, root)
    problems = Problems()
    rows = read_rows(manifest, root=root, class_names=class_names, problems=problems)
    of_split = np.flatnonzero(rows.splits_N == split)
    if not of_split.size and not problems:
        problems.add(
            "empty split",
            f"{manifest}: no row has the split {split!r}; choose another split or add rows",
        )
    problems.raise_if_any()
    files = [rows.files[row] for row in of_split]
    arrays = _decoded(files, root, image_size, cache_dir, progress)
    ids = tuple(file.image_id for file in files)
    return Split(arrays["images"], rows.targets_NC[of_split], ids)


def _root(manifest: Path, root: Path | None) -> Path:
    return Path(os.path.normpath((manifest.parent if root is None else root).absolute()))


def _divide(rows: Rows, validation_fraction: float, split_seed: int) -> dict[str, Indices]:
    """Rows of each split, in the manifest's order."""
    rows_of_split = {
        name: np.flatnonzero(rows.splits_N == name) for name in ("train", "validation", "test")
    }
    if not rows_of_split["validation"].size:
        pool = rows_of_split["train"]
        held_out_N = stratified_holdout(
            rows.targets_NC[pool], fraction=validation_fraction, seed=split_seed
        )
        rows_of_split |= {"train": pool[~held_out_N], "validation": pool[held_out_N]}
    return rows_of_split


def _check_splits(
    manifest: Path, rows: Rows, rows_of_split: dict[str, Indices], problems: Problems
) -> None:
    for name in ("train", "test"):
        if not rows_of_split[name].size:
            problems.add(
                "empty split",
                f"{manifest}: no row has the split {name!r}; a data set needs images of train and "
                f"of test; add some or correct the column 'split'",
            )
    train_targets_NC = rows.targets_NC[rows_of_split["train"]]
    if len(train_targets_NC):
        for problem in class_count_problems(str(manifest), rows.class_names, train_targets_NC):
            problems.add("class count", problem)


def _decoded(
    files: Sequence[ImageFile],
    root: Path,
    image_size: int,
    cache_dir: Path,
    progress: Progress | None,
) -> dict[str, Array]:
    """`images` `[N, H, W, 3]` and the `sha256` `[N, 32]` of their files, from the cache."""
    facts = [[file.image_id, file.num_bytes, file.modified_ns] for file in files]
    key = fingerprint([DECODER_VERSION, str(root), image_size, facts])
    return cached_arrays(
        cache_dir,
        f"images-{key}",
        plan={
            "images": ArrayPlan((len(files), image_size, image_size, 3), "uint8"),
            "sha256": ArrayPlan((len(files), SHA256_BYTES), "uint8"),
        },
        build=lambda: _decode_in_blocks(files, image_size, progress),
    )


def _decode_in_blocks(
    files: Sequence[ImageFile], image_size: int, progress: Progress | None
) -> Iterator[dict[str, Array]]:
    problems = Problems()
    with ThreadPoolExecutor(NUM_DECODING_THREADS) as pool:
        for start in range(0, len(files), BLOCK_SIZE):
            block = files[start : start + BLOCK_SIZE]
            futures = [
                pool.submit(decode_image, file.path, image_size=image_size) for file in block
            ]
            decoded: list[DecodedImage] = []
            for file, future in zip(block, futures, strict=True):
                try:
                    decoded.append(future.result())
                except UnreadableImage as error:
                    problems.add("image", f"{file.place}: {file.path}: {error}")
            if progress is not None:
                progress(start + len(block), len(files))
            if not problems:  # otherwise go on only to find the rest of them
                yield {
                    "images": np.stack([image.pixels_HWC for image in decoded]),
                    "sha256": np.stack([image.file_sha256 for image in decoded]),
                }
    problems.raise_if_any()


def _contents_fingerprint(
    class_names: Sequence[str],
    splits: dict[str, Split],
    image_size: int,
    sha256_N32: npt.NDArray[np.uint8],
) -> str:
    """Of the files' bytes, not of their times or place: nodes with a copy each agree."""
    digest = hashlib.sha256(fingerprint([DECODER_VERSION, image_size, list(class_names)]).encode())
    for name, split in splits.items():
        digest.update(fingerprint([name, list(split.ids)]).encode())
        digest.update(split.targets_NC.tobytes())
    digest.update(sha256_N32.tobytes())
    return digest.hexdigest()[:16]
