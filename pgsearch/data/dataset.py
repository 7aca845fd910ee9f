"""What every data set of this room gives: three splits of square RGB images with 0/1 targets.

Shapes: N images, H = W pixels, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pgsearch.data.class_names import class_name_problems
from pgsearch.data.manifest_table import Problems

SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, in a fixed order.

    `images_NHWC` is usually a read-only view of a memory-mapped file: index it with an integer
    array to get a writable copy of a batch.
    """

    images_NHWC: npt.NDArray[np.uint8]
    targets_NC: npt.NDArray[np.uint8]
    ids: tuple[str, ...]

    @property
    def num_images(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class MultiLabelDataset:
    """A data set with its splits, of which validation may be empty.

    `fingerprint` identifies the contents: the same on every machine and after every rebuild.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        return int(self.train.images_NHWC.shape[1])

    @property
    def class_counts_C(self) -> npt.NDArray[np.int64]:
        """Training images that contain each class."""
        counts_C: npt.NDArray[np.int64] = self.train.targets_NC.sum(axis=0, dtype=np.int64)
        return counts_C

    def split(self, name: str) -> Split:
        """Return a split by its name, one of `SPLITS`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def check(self) -> None:
        """Raise InvalidData naming each class that may not have its name or cannot be learned."""
        problems = Problems()
        names = ((f"{self.name}, class {c}", name) for c, name in enumerate(self.class_names))
        for problem in class_name_problems(names):
            problems.add("class name", problem)
        for problem in class_count_problems(self.name, self.class_names, self.train.targets_NC):
            problems.add("class count", problem)
        problems.raise_if_any()


def class_count_problems(
    source: str, class_names: Sequence[str], train_targets_NC: npt.NDArray[np.uint8]
) -> list[str]:
    """One line for each class that is in none or in all of the training images."""
    num_images = len(train_targets_NC)
    counts_C = train_targets_NC.sum(axis=0, dtype=np.int64)
    return [
        f"{source}: class {name!r} is in {count} of {num_images} training images; a class needs "
        f"training images with it and without it; add such images or leave the class out"
        for name, count in zip(class_names, counts_C.tolist(), strict=True)
        if count in (0, num_images)
    ]
