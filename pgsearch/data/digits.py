"""The embedded data set: scenes of real handwritten digits with long-tailed labels.

It needs no download, trains in a minute on two cores, and has what the losses are about: several
labels per image, and classes from hundreds of training images down to a few. The handwriting is
scikit-learn's copy of the UCI set (doi:10.24432/C50P49): 1797 images of 8×8 pixels. Each split
draws from handwriting of its own, so that a test scene never shows a digit seen in training.

Everything here is integer arithmetic on integers from PCG64, so that a seed gives the same bytes
on every machine.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pgsearch.data.cache import Array, ArrayPlan, cached_arrays
from pgsearch.data.dataset import SPLITS, MultiLabelDataset, Split
from pgsearch.data.long_tail import pareto_profile
from pgsearch.provenance import fingerprint

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

GENERATOR_VERSION: Final = 1
"""Part of the cache key: raise it with every change that moves a pixel."""

STREAMS: Final = (
    "handwriting",
    "train labels",
    "validation labels",
    "test labels",
    "train scenes",
    "validation scenes",
    "test scenes",
)
NUM_CLASSES: Final = 10
MAX_DIGITS: Final = 4

# Of 100 scenes of validation and test, how many show 1, 2, 3 and 4 digits.
SCENES_WITH_DIGITS: Final = (50, 30, 15, 5)
# Percent of the handwriting of each class by split.
GLYPH_SHARES: Final = {"train": 50, "validation": 15, "test": 35}

# How hard the scenes are. Levels, shades and contrasts are of 255; glyph sizes are in percent of
# the side of the scene. A pair (low, high) excludes the high end.
BACKGROUND_LEVELS: Final = (30, 110)
BLOTCHES_PER_SIDE: Final = 6
BLOTCH: Final = 25
GRAIN: Final = 8
CONTRAST: Final = (80, 140)
DISTRACTOR_CONTRAST: Final = (30, 70)
TINT: Final = 30
MAX_DISTRACTORS: Final = 1
GLYPH_SIZES: Final = (44, 56)
OVERLAP_PERCENT: Final = 10
PLACES_TRIED: Final = 100

WEIGHT_SUM: Final = 64


def load_digits_scenes(
    *,
    cache_dir: Path,
    seed: int = 0,
    image_size: int = 48,
    max_count: int = 800,
    min_count: int = 4,
    num_validation: int = 400,
    num_test: int = 1000,
) -> MultiLabelDataset:
    """The digits as a data set; drawn once and then read from the cache.

    The classes are "0" to "9". Their training counts are exactly `pareto_profile(10)`; which digit
    is how frequent is drawn from the seed. In validation and test all digits are equally likely.

    Args:
        cache_dir: see `cached_arrays`.
        seed: of everything that is drawn.
        image_size: side of the square scenes in pixels; at least 32.
        max_count: training images of the most frequent class.
        min_count: lower end of the profile.
        num_validation: scenes of the validation split.
        num_test: scenes of the test split.
    """
    if image_size < 32:
        raise ValueError(f"four digits need scenes of at least 32 pixels, got {image_size}")
    counts_C = pareto_profile(NUM_CLASSES, max_count=max_count, min_count=min_count)
    targets = {
        "train": _long_tailed_targets(counts_C, _stream(seed, "train labels")),
        "validation": _uniform_targets(num_validation, _stream(seed, "validation labels")),
        "test": _uniform_targets(num_test, _stream(seed, "test labels")),
    }
    key = fingerprint(
        [GENERATOR_VERSION, seed, image_size, max_count, min_count, num_validation, num_test]
    )
    images = cached_arrays(
        cache_dir,
        f"digits-{key}",
        plan={
            split: ArrayPlan((len(targets[split]), image_size, image_size, 3), "uint8")
            for split in SPLITS
        },
        build=lambda: _draw_splits(targets, image_size=image_size, seed=seed),
    )
    dataset = MultiLabelDataset(
        name="digits",
        class_names=tuple(str(digit) for digit in range(NUM_CLASSES)),
        train=_split("train", images, targets),
        validation=_split("validation", images, targets),
        test=_split("test", images, targets),
        fingerprint=_contents_fingerprint(images, targets),
    )
    dataset.check()
    return dataset


def _split(split: str, images: Mapping[str, Array], targets: Mapping[str, Bytes]) -> Split:
    ids = tuple(f"{split}-{number:05d}" for number in range(len(targets[split])))
    return Split(images[split], targets[split], ids)


def _contents_fingerprint(images: Mapping[str, Array], targets: Mapping[str, Bytes]) -> str:
    # Of the bytes, not of the arguments: another NumPy might draw otherwise from the same seed.
    digest = hashlib.sha256()
    for split in SPLITS:
        for array in (images[split], targets[split]):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _stream(seed: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64((seed, STREAMS.index(purpose))))


def _long_tailed_targets(counts_C: Ints, rng: np.random.Generator) -> Bytes:
    """Scenes with exactly the given images per rank, the ranks dealt to digits at random.

    Half of the images of a class are new scenes and half join scenes that have room. So most
    scenes show one digit, and rare digits often stand beside frequent ones.
    """
    digit_of_rank_C = rng.permutation(NUM_CLASSES)
    targets_NC = np.zeros((0, NUM_CLASSES), dtype=np.uint8)
    for digit, count in zip(digit_of_rank_C, counts_C, strict=True):
        with_room = np.flatnonzero(targets_NC.sum(axis=1) < MAX_DIGITS)
        num_joined = min(count // 2, with_room.size)
        targets_NC[rng.permutation(with_room)[:num_joined], digit] = 1
        new_NC = np.zeros((count - num_joined, NUM_CLASSES), dtype=np.uint8)
        new_NC[:, digit] = 1
        targets_NC = np.concatenate([targets_NC, new_NC])
    return targets_NC[rng.permutation(len(targets_NC))]


def _uniform_targets(num_scenes: int, rng: np.random.Generator) -> Bytes:
    targets_NC = np.zeros((num_scenes, NUM_CLASSES), dtype=np.uint8)
    num_digits_of_percent = np.repeat(np.arange(1, MAX_DIGITS + 1), SCENES_WITH_DIGITS)
    for targets_C, percent in zip(targets_NC, rng.integers(100, size=num_scenes), strict=True):
        targets_C[rng.permutation(NUM_CLASSES)[: num_digits_of_percent[percent]]] = 1
    return targets_NC


def _draw_splits(
    targets: Mapping[str, Bytes], *, image_size: int, seed: int
) -> Iterator[dict[str, Bytes]]:
    glyphs = _handwriting_by_split(_stream(seed, "handwriting"))
    for split in SPLITS:
        rng = _stream(seed, f"{split} scenes")
        for targets_C in targets[split]:
            digits = rng.permutation(np.flatnonzero(targets_C))
            yield {split: _draw_scene(digits, glyphs[split], image_size, rng)[None]}


def _handwriting_by_split(rng: np.random.Generator) -> dict[str, list[Ints]]:
    """For each split and class its own glyphs, shape `[G, 8, 8]`, ink from 0 to 16."""
    from sklearn.datasets import load_digits  # it takes a second to import

    handwriting = load_digits()
    images_G88 = handwriting.images.astype(np.int64)
    glyphs: dict[str, list[Ints]] = {split: [] for split in SPLITS}
    for digit in range(NUM_CLASSES):
        of_digit = rng.permutation(np.flatnonzero(handwriting.target == digit))
        ends = np.cumsum([GLYPH_SHARES[split] for split in SPLITS]) * of_digit.size // 100
        for split, part in zip(SPLITS, np.split(of_digit, ends[:-1]), strict=True):
            glyphs[split].append(images_G88[part])
    return glyphs


def _draw_scene(digits: Ints, glyphs: list[Ints], side: int, rng: np.random.Generator) -> Bytes:
    """The digits, then strokes that mean nothing, over a background."""
    scene_HWC = _background(side, rng)
    boxes: list[Box] = []
    for digit in digits:
        boxes.append(_free_box(_glyph_size(side, rng), boxes, side, rng))
        shade_C = _shade(CONTRAST, rng)
        _add_ink(scene_HWC, _pick(glyphs[digit], rng), boxes[-1], shade_C)
    for _ in range(rng.integers(MAX_DISTRACTORS + 1)):
        boxes.append(_free_box(_glyph_size(side, rng), boxes, side, rng))
        glyph = _scrambled(_pick(glyphs[rng.integers(NUM_CLASSES)], rng), rng)
        _add_ink(scene_HWC, glyph, boxes[-1], _shade(DISTRACTOR_CONTRAST, rng))
    return scene_HWC.clip(0, 255).astype(np.uint8)


def _background(side: int, rng: np.random.Generator) -> Ints:
    """A colour with smooth blotches and fine grain."""
    colour_C = rng.integers(*BACKGROUND_LEVELS, size=3)
    blotches = rng.integers(-BLOTCH, BLOTCH + 1, size=(BLOTCHES_PER_SIDE, BLOTCHES_PER_SIDE, 3))
    stretch = _stretching(BLOTCHES_PER_SIDE, side)
    rows_H = (stretch @ blotches.reshape(BLOTCHES_PER_SIDE, -1)).reshape(side, -1, 3)
    smooth_HWC: Ints = stretch @ rows_H
    grain_HW1 = rng.integers(-GRAIN, GRAIN + 1, size=(side, side, 1))
    return colour_C + smooth_HWC // WEIGHT_SUM**2 + grain_HW1


def _glyph_size(side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels."""
    height, width = rng.integers(*GLYPH_SIZES, size=2) * side // 100
    return int(height), int(width)


def _free_box(size: tuple[int, int], taken: list[Box], side: int, rng: np.random.Generator) -> Box:
    """A random place that hides little of the digits there, or the best of those tried."""
    height, width = size
    tops = rng.integers(side - height + 1, size=PLACES_TRIED)
    lefts = rng.integers(side - width + 1, size=PLACES_TRIED)
    worst_P = np.zeros(PLACES_TRIED, dtype=np.int64)
    for top, left, taken_height, taken_width in taken:
        rows_P = np.minimum(tops + height, top + taken_height) - np.maximum(tops, top)
        columns_P = np.minimum(lefts + width, left + taken_width) - np.maximum(lefts, left)
        common_P = rows_P.clip(0) * columns_P.clip(0)
        percent_P = 100 * common_P // min(height * width, taken_height * taken_width)
        worst_P = np.maximum(worst_P, percent_P)
    place = (worst_P - OVERLAP_PERCENT).clip(0).argmin()
    return int(tops[place]), int(lefts[place]), height, width


def _scrambled(glyph_88: Ints, rng: np.random.Generator) -> Ints:
    """The four quarters of a glyph, each moved on by one place: handwriting, but no digit."""
    quarters = glyph_88.reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(4, 4, 4)
    # By one or three places, not two: top and bottom swapped, a 6 would pass for a 9.
    moved = np.roll(quarters, 1 + 2 * rng.integers(2), axis=0)
    return moved.reshape(2, 2, 4, 4).transpose(0, 2, 1, 3).reshape(8, 8)


def _shade(contrast: tuple[int, int], rng: np.random.Generator) -> Ints:
    """How much lighter full ink makes a pixel, with a little colour."""
    shade_C: Ints = rng.integers(*contrast) + rng.integers(-TINT, TINT + 1, size=3)
    return shade_C


def _add_ink(scene_HWC: Ints, glyph_88: Ints, box: Box, shade_C: Ints) -> None:
    top, left, height, width = box
    padded = np.pad(glyph_88, 1)  # a stroke that ends at the glyph's edge fades out there
    rows, columns = _stretching(len(padded), height), _stretching(len(padded), width)
    ink_HW1 = (rows @ padded @ columns.T)[:, :, None]  # from 0 to 16·WEIGHT_SUM²
    area_HWC = scene_HWC[top : top + height, left : left + width]
    area_HWC += ink_HW1 * shade_C // (16 * WEIGHT_SUM**2)


@functools.cache
def _stretching(num_in: int, num_out: int) -> Ints:
    """Integer weights `[num_out, num_in]` of linear interpolation; each row sums to WEIGHT_SUM."""
    weights = np.zeros((num_out, num_in), dtype=np.int64)
    for i in range(num_out):
        # The centre of output pixel i among the input pixels, in units of 1/(2·num_out).
        lower, rest = divmod((2 * i + 1) * num_in - num_out, 2 * num_out)
        upper_weight = rest * WEIGHT_SUM // (2 * num_out)
        weights[i, max(lower, 0)] += WEIGHT_SUM - upper_weight
        weights[i, min(lower + 1, num_in - 1)] += upper_weight
    return weights


def _pick(glyphs_G88: Ints, rng: np.random.Generator) -> Ints:
    glyph_88: Ints = glyphs_G88[rng.integers(len(glyphs_G88))]
    return glyph_88
