"""Images of an original data set with their labels, before anything is chosen from them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The images of one list of an original data set, in the order of that list.

    Attributes:
        class_names: classes, in the order of the targets.
        ids: what the data set calls its images.
        paths: where the images lie, relative to the root of the data set, with "/".
        targets_NC: 0/1 targets.
        smaller_sides_N: pixels of each image's smaller side, as annotated.
    """

    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    paths: tuple[str, ...]
    targets_NC: npt.NDArray[np.uint8]
    smaller_sides_N: npt.NDArray[np.int64]

    @property
    def num_images(self) -> int:
        return len(self.ids)


def is_plain_name(name: str) -> bool:
    """Whether a name of a data set's file can be joined to a folder without leading out of it."""
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\\0")
