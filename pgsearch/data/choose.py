"""Which images make a long-tailed split: drawn as published, listed, or drawn from a user's own."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pgsearch.data.dataset import SPLITS
from pgsearch.data.long_tail import (
    long_tailed_selection,
    pareto_profile,
    rng_of_coco_lt,
    rng_of_voc_lt,
)
from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import LabelledImages
from pgsearch.data.published import PublishedSplit
from pgsearch.data.split import SplitTable, read_split
from pgsearch.data.stratify import stratified_holdout
from pgsearch.errors import InvalidData
from pgsearch.untrusted import read_file, shown

Indices = npt.NDArray[np.int64]

MIN_SIDE: Final = 32
"""The published reader drops smaller images from the pool; the official pools have none."""
VALIDATION_SEED: Final = 0
MAX_LIST_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class Profile:
    """A sampled Pareto profile and the seed of the draw; the defaults are the published ones."""

    max_count: int
    min_count: int = 1
    b: float = 6.0
    alpha: float = 0.01
    seed: int = 0

    def counts(self, num_classes: int) -> Indices:
        """Return the counts to reach, shape `[C]`; see `pareto_profile`."""
        return pareto_profile(
            num_classes,
            max_count=self.max_count,
            min_count=self.min_count,
            b=self.b,
            alpha=self.alpha,
        )

    def in_words(self) -> str:
        """Say what was drawn."""
        return (
            f"sampled Pareto profile with max {self.max_count}, min {self.min_count}, "
            f"b {self.b:g}, alpha {self.alpha:g}; seed {self.seed}"
        )


def choose_published(
    published: PublishedSplit,
    pool: LabelledImages,
    test: LabelledImages,
    *,
    ids: tuple[int, ...] | None = None,
    num_validation: int = 0,
) -> SplitTable:
    """Put VOC-LT or COCO-LT together: train from the pool, in the published order.

    Args:
        published: which of the two.
        pool: the images to choose from.
        test: the images of the test split.
        ids: rows of the pool that make train; None draws them by the published procedure.
        num_validation: images of the rest of the pool that make the validation split.

    Raises:
        InvalidData: the two have other classes, or the pool is too small for the validation split.
    """
    if pool.class_names != test.class_names:
        raise InvalidData(
            [
                f"{published.kind}: the pool and the test images have other classes: "
                f"{', '.join(sorted({*pool.class_names} ^ {*test.class_names})) or 'the order'}; "
                f"both come from one data set; extract its archives again"
            ]
        )
    if ids is None:
        train = _draw(published, pool)
        procedure = (
            f"generated: {Profile(published.max_count).in_words()}"
            f"{', after VOC-LT' if published.kind == 'coco-lt' else ''}"
        )
    else:
        train = np.array(ids, dtype=np.int64)
        listed = "\n".join(pool.ids[n] for n in ids)
        digest = hashlib.sha256(listed.encode()).hexdigest()
        procedure = f"imported: {len(ids)} ids with the sha256 {digest}"
    validation = _hold_out(pool, train, num_validation)
    if num_validation:
        procedure += (
            f"; validation: {num_validation} others of the pool, stratified, seed {VALIDATION_SEED}"
        )
    chosen = (*train.tolist(), *validation.tolist())
    counts = (len(train), len(validation), test.num_images)
    return SplitTable(
        kind=published.kind,
        procedure=procedure,
        class_names=pool.class_names,
        images=(*(pool.paths[n] for n in chosen), *test.paths),
        splits_N=np.repeat(SPLITS, counts),
        targets_NC=np.concatenate([pool.targets_NC[list(chosen)], test.targets_NC]),
    )


def _draw(published: PublishedSplit, pool: LabelledImages) -> Indices:
    candidates = np.flatnonzero(pool.smaller_sides_N >= MIN_SIDE)
    chosen = long_tailed_selection(
        pool.targets_NC[candidates],
        profile_C=Profile(published.max_count).counts(len(pool.class_names)),
        rng=rng_of_coco_lt() if published.kind == "coco-lt" else rng_of_voc_lt(),
    )
    return candidates[chosen]


def _hold_out(pool: LabelledImages, train: Indices, num_images: int) -> Indices:
    """Rows of the pool, outside of train, that make the validation split."""
    rest = np.setdiff1d(np.arange(pool.num_images), train)
    if num_images > len(rest):
        raise InvalidData(
            [
                f"--validation {num_images}: the pool has {pool.num_images} images, of which "
                f"{len(rest)} are not in train; validation is taken from those; ask for fewer"
            ]
        )
    if num_images == len(rest):
        return rest
    targets_NC = pool.targets_NC[rest]
    held_out_N = stratified_holdout(
        targets_NC, fraction=num_images / len(rest), seed=VALIDATION_SEED
    )
    _make_exact(targets_NC, held_out_N, num_images)
    return rest[held_out_N]


def _make_exact(
    targets_NC: npt.NDArray[np.uint8], held_out_N: npt.NDArray[np.bool_], num_images: int
) -> None:
    """Stratification misses the number by a few: move images whose classes it hardly concerns."""
    surplus = int(held_out_N.sum()) - num_images
    counts_C = targets_NC[held_out_N].sum(axis=0, dtype=np.int64)
    rarest_N = np.where(targets_NC > 0, counts_C, len(targets_NC)).min(axis=1, initial=num_images)
    movable = np.flatnonzero(held_out_N if surplus > 0 else ~held_out_N)
    moved = movable[np.argsort(-rarest_N[movable], kind="stable")[: abs(surplus)]]
    held_out_N[moved] = surplus < 0


def choose_custom(
    manifest: Path,
    *,
    root: Path | None,
    profile: Profile,
) -> SplitTable:
    """Make the train split of a manifest long-tailed; its other rows stay as they are.

    Raises:
        InvalidData: with what is wrong with the manifest.
    """
    problems = Problems()
    source = read_split(manifest, root=root, problems=problems)
    pool = np.flatnonzero(source.splits_N == "train")
    counts_C = source.targets_NC[pool].sum(axis=0, dtype=np.int64)
    for name, count in zip(source.class_names, counts_C.tolist(), strict=True):
        if not count:
            problems.add(
                "class without images",
                f"{manifest}: class {name!r} is in no row of the split train; each class of a "
                f"long tail needs images to choose from; add some or remove the class",
            )
    problems.raise_if_any()
    chosen = long_tailed_selection(
        source.targets_NC[pool],
        profile_C=profile.counts(len(source.class_names)),
        rng=random.Random(profile.seed),  # noqa: S311  it draws a data set
    )
    train = pool[chosen]
    others = [np.flatnonzero(source.splits_N == name) for name in SPLITS[1:]]
    rows = np.concatenate([train, *others])
    return SplitTable(
        kind="custom",
        procedure=(
            f"generated: {profile.in_words()}; from the rows with the fingerprint "
            f"{source.fingerprint}"
        ),
        class_names=source.class_names,
        images=tuple(source.images[n] for n in rows.tolist()),
        splits_N=source.splits_N[rows],
        targets_NC=source.targets_NC[rows],
    )


def read_ids(path: Path, pool: LabelledImages, problems: Problems) -> tuple[int, ...]:
    """Rows of the pool that a list of ids names: one per line; "#" begins a comment.

    An id may be written as the file name too, and a number with leading zeros.
    """
    try:
        lines = read_file(path, max_bytes=MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        problems.add(
            "id list",
            f"{path}: cannot be read: {reason}; a list of ids is text, one id per line; correct "
            f"the path",
        )
        return ()
    row_of = {image_id: n for n, image_id in enumerate(pool.ids)}
    line_of: dict[int, int] = {}
    num_ids = 0
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        num_ids += 1
        row = row_of.get(text, row_of.get(_bare_id(text)))
        if row is None:
            problems.add(
                "unknown id",
                f"{path}, line {number}: the id {shown(text)} is not in the pool of "
                f"{pool.num_images} images; train is chosen from the pool; correct or remove the "
                "line",
            )
        elif row in line_of:
            problems.add(
                "repeated id",
                f"{path}, line {number}: the id {shown(text)} was named before (line "
                f"{line_of[row]}); an image is listed once; remove one of the lines",
            )
        else:
            line_of[row] = number
    if not num_ids:
        problems.add(
            "id list",
            f"{path}: names no id; a list of ids has one per line; add them",
        )
    return tuple(line_of)


def _bare_id(text: str) -> str:
    name = text.removesuffix(".jpg")
    is_number = name.isascii() and name.isdigit()
    return (name.lstrip("0") or "0") if is_number else name
