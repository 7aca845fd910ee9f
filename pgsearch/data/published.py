"""VOC-LT and COCO-LT as published: the facts that a rebuilt split is compared with.

Source: Wu et al., ECCV 2020 (doi:10.1007/978-3-030-58548-8_10), section 4.1, and the class counts
published with its code. Test counts are those of VOC2007 test, difficult objects included, and of
COCO val2017, by the label rules of `voc` and `coco`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pgsearch.class_groups import GROUPS, class_groups
from pgsearch.data.voc import VOC_CLASSES


@dataclass(frozen=True)
class PublishedSplit:
    """A published long-tailed data set: numbers of images, per class in the order of the names."""

    kind: str
    title: str
    class_names: tuple[str, ...]
    train_counts_C: tuple[int, ...]
    test_counts_C: tuple[int, ...]
    num_train: int
    num_test: int
    max_count: int
    """Of the profile that it was drawn with; the smallest count of both is 1."""


COCO_CLASSES: Final = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic_light", "fire_hydrant", "stop_sign", "parking_meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports_ball", "kite",
    "baseball_bat", "baseball_glove", "skateboard", "surfboard", "tennis_racket", "bottle",
    "wine_glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot_dog", "pizza", "donut", "cake", "chair", "couch", "potted_plant",
    "bed", "dining_table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell_phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy_bear", "hair_drier", "toothbrush",
)  # fmt: skip

_VOC_LT_TRAIN: Final = (
    6, 34, 8, 14, 154, 17, 249, 29, 479, 4, 240, 48, 11, 20, 775, 100, 5, 82, 7, 64,
)  # fmt: skip
_VOC_LT_TEST: Final = (
    205, 250, 289, 176, 240, 183, 775, 332, 545, 127, 247, 433, 279, 233, 2097, 254, 98, 355,
    259, 255,
)  # fmt: skip

VOC_LT: Final = PublishedSplit(
    kind="voc-lt",
    title="VOC-LT",
    class_names=VOC_CLASSES,
    train_counts_C=_VOC_LT_TRAIN,
    test_counts_C=_VOC_LT_TEST,
    num_train=1142,
    num_test=4952,
    max_count=800,
)

_COCO_LT_TRAIN: Final = (
    1128, 37, 276, 32, 9, 41, 18, 87, 20, 50, 11, 13, 8, 97, 19, 49, 70, 17, 7, 10, 8, 6, 7, 7,
    100, 39, 189, 31, 24, 11, 12, 8, 35, 10, 25, 21, 17, 10, 20, 460, 84, 498, 126, 207, 173,
    366, 39, 35, 44, 36, 29, 25, 14, 45, 16, 73, 585, 153, 164, 44, 624, 25, 200, 137, 70, 89,
    73, 127, 91, 175, 9, 237, 119, 292, 87, 113, 15, 21, 6, 11,
)  # fmt: skip
_COCO_LT_TEST: Final = (
    2693, 149, 535, 159, 97, 189, 157, 250, 121, 191, 86, 69, 37, 235, 125, 184, 177, 128, 65,
    87, 89, 49, 85, 101, 228, 174, 292, 145, 105, 84, 120, 49, 169, 91, 97, 100, 127, 149, 167,
    379, 110, 390, 155, 181, 153, 314, 103, 76, 98, 85, 71, 81, 51, 153, 62, 124, 580, 195, 172,
    149, 501, 149, 207, 183, 88, 145, 106, 214, 54, 115, 8, 187, 101, 230, 204, 137, 28, 94, 9,
    34,
)  # fmt: skip

COCO_LT: Final = PublishedSplit(
    kind="coco-lt",
    title="COCO-LT",
    class_names=COCO_CLASSES,
    train_counts_C=_COCO_LT_TRAIN,
    test_counts_C=_COCO_LT_TEST,
    num_train=1909,
    num_test=5000,
    max_count=1200,
)

PUBLISHED: Final = {split.kind: split for split in (VOC_LT, COCO_LT)}


def differences(
    published: PublishedSplit,
    class_names: Sequence[str],
    splits_N: npt.NDArray[np.str_],
    targets_NC: npt.NDArray[np.uint8],
) -> list[str]:
    """One line for each number that is not as published; each class that differs is named.

    Rows of the split "validation" are not compared: the published sets have none.
    """
    if tuple(class_names) != published.class_names:
        return [_other_classes(published, class_names)]
    lines = []
    counts_of = {}
    wanted = {
        "train": (published.num_train, published.train_counts_C),
        "test": (published.num_test, published.test_counts_C),
    }
    for split, (num_images, _) in wanted.items():
        of_split_N = splits_N == split
        counts_of[split] = targets_NC[of_split_N].sum(axis=0, dtype=np.int64).tolist()
        if of_split_N.sum() != num_images:
            lines.append(f"{split} images: published {num_images}, found {of_split_N.sum()}")
    sizes = {
        name: np.bincount(class_groups(counts_C), minlength=len(GROUPS)).tolist()
        for name, counts_C in (
            ("published", published.train_counts_C),
            ("found", counts_of["train"]),
        )
    }
    if sizes["published"] != sizes["found"]:
        shown = {name: "/".join(map(str, size)) for name, size in sizes.items()}
        lines.append(
            f"classes in {'/'.join(GROUPS)}: published {shown['published']}, found {shown['found']}"
        )
    for c, name in enumerate(class_names):
        found = [
            f"{split} images published {counts_C[c]}, found {counts_of[split][c]}"
            for split, (_, counts_C) in wanted.items()
            if counts_C[c] != counts_of[split][c]
        ]
        if found:
            lines.append(f"class {name!r}: {'; '.join(found)}")
    return lines


def _other_classes(published: PublishedSplit, class_names: Sequence[str]) -> str:
    missing = [name for name in published.class_names if name not in class_names]
    unknown = [name for name in class_names if name not in published.class_names]
    if not missing and not unknown:
        return f"classes: are those of {published.title}, but in another order"
    return (
        f"classes: those of {published.title} are {len(published.class_names)}, found "
        f"{len(class_names)}; missing: {', '.join(missing) or 'none'}; not among them: "
        f"{', '.join(unknown) or 'none'}"
    )
