"""Which training images an epoch shows, and in which order.

Both samplers draw from streams that are numbered by what they are for, so their whole state is
how far they have come: it fits into a checkpoint as plain integers, and a resumed run sees the
same images as one that was never stopped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class UniformSampler:
    """Every image once per epoch, in random order."""

    def __init__(self, num_images: int, *, seed: int) -> None:
        if num_images < 1:
            raise ValueError(f"a sampler needs at least one image, got num_images={num_images}")
        self._num_images = num_images
        self._seed = seed
        self._epoch = 0

    @property
    def epoch_length(self) -> int:
        return self._num_images

    def next_epoch(self) -> Indices:
        """Indices of the images of the next epoch; shape `[epoch_length]`."""
        indices = _shuffled(self._num_images, self._seed, 0, self._epoch)
        self._epoch += 1
        return indices

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed, "num_images": self._num_images, "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _require_same("seed", state["seed"], self._seed)
        _require_same("num_images", state["num_images"], self._num_images)
        self._epoch = state["epoch"]


class ClassAwareSampler:
    """Every class equally often, whatever its size.

    Goes round a shuffled list of the classes; each class gives the next few images of its own
    shuffled list. A list that is exhausted is shuffled again, and lists carry over from one epoch
    to the next. The last class of an epoch may give fewer images; the rest of its turn is dropped.

    Source: Shen et al., ECCV 2016 (doi:10.1007/978-3-319-46478-7_29), as in the code of Wu et al.,
    ECCV 2020 (doi:10.1007/978-3-030-58548-8_10): 3 images per turn, and an epoch as long as
    `num_classes` times the images of the largest class, reduced by 4.

    Args:
        targets_NC: 0/1 targets of the training images, shape `[N, C]`.
        seed: of all shuffles.
        num_samples_per_class: images that a class gives when it is its turn.
        reduce: divides the length of an epoch.
    """

    def __init__(
        self,
        targets_NC: npt.NDArray[np.uint8],
        *,
        seed: int,
        num_samples_per_class: int = 3,
        reduce: int = 4,
    ) -> None:
        if num_samples_per_class < 1 or reduce < 1:
            raise ValueError(
                "class-aware sampling needs num_samples_per_class >= 1 and reduce >= 1, got "
                f"num_samples_per_class={num_samples_per_class} and reduce={reduce}"
            )
        self._images_of_class = [np.flatnonzero(column) for column in targets_NC.T]
        empty = [c for c, images in enumerate(self._images_of_class) if not images.size]
        if empty or not self._images_of_class:
            raise ValueError(f"class-aware sampling needs images of every class, none of {empty}")
        self._seed = seed
        self._num_samples_per_class = num_samples_per_class
        largest = max(images.size for images in self._images_of_class)
        self._epoch_length = int(largest * len(self._images_of_class) / reduce)
        if self._epoch_length < 1:
            raise ValueError(f"reduce={reduce} leaves no image for an epoch; use a smaller one")
        self._turns_taken = 0
        self._images_taken_C = [0] * len(self._images_of_class)

    @property
    def epoch_length(self) -> int:
        return self._epoch_length

    def next_epoch(self) -> Indices:
        """Indices of the images of the next epoch; shape `[epoch_length]`."""
        per_turn = self._num_samples_per_class
        num_turns = -(-self._epoch_length // per_turn)
        class_of_turn_T = _cycled(
            np.arange(len(self._images_of_class)), self._turns_taken, num_turns, (self._seed, 0)
        )
        drawn_TK = np.empty((num_turns, per_turn), dtype=np.int64)
        for c, images in enumerate(self._images_of_class):
            turns = np.flatnonzero(class_of_turn_T == c)
            num_drawn = turns.size * per_turn
            drawn = _cycled(images, self._images_taken_C[c], num_drawn, (self._seed, 1 + c))
            drawn_TK[turns] = drawn.reshape(-1, per_turn)
            self._images_taken_C[c] += num_drawn
        self._turns_taken += num_turns
        return drawn_TK.reshape(-1)[: self._epoch_length]

    def state_dict(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "class_counts": [int(images.size) for images in self._images_of_class],
            "turns_taken": self._turns_taken,
            "images_taken": list(self._images_taken_C),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = self.state_dict()
        _require_same("seed", state["seed"], own["seed"])
        _require_same("class_counts", list(state["class_counts"]), own["class_counts"])
        self._turns_taken = state["turns_taken"]
        self._images_taken_C = list(state["images_taken"])


def _cycled(items: Indices, start: int, count: int, stream: tuple[int, int]) -> Indices:
    """`count` items from position `start` of an endless list: all items shuffled, again and again.

    Round `r` of the list depends on `stream` and `r` only, so no generator has to be stored.
    """
    first_round, offset = divmod(start, items.size)
    num_rounds = -(-(offset + count) // items.size)
    rounds = [
        items[_shuffled(items.size, *stream, round_)]
        for round_ in range(first_round, first_round + num_rounds)
    ]
    return np.concatenate(rounds or [items[:0]])[offset : offset + count]


def _shuffled(num_items: int, seed: int, stream: int, round_: int) -> Indices:
    return np.random.default_rng((seed, stream, round_)).permutation(num_items)


def _require_same(what: str, saved: object, own: object) -> None:
    if saved != own:
        raise ValueError(
            f"a sampler resumes only with its own data and seed: saved {what}={saved}, now {own}"
        )
