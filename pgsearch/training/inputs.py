"""What the trained network sees of an image: its augmented pixels, or what a frozen trunk gives.

Shapes: B images of a batch, D features, h×w maps of K channels.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.config.training import TrainingConfig
from pgsearch.data.augment import augment_batch, draw_views, normalise_batch
from pgsearch.data.dataset import MultiLabelDataset
from pgsearch.training.device import to_device
from pgsearch.training.features import Features, maps_of

Indices = npt.NDArray[np.int64]
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


class Inputs(Protocol):
    """Inputs of a network, on its device."""

    def training_batch(self, indices_B: Indices, positions_B: Indices, *, epoch: int) -> Tensor:
        """Return training images; `positions_B` is where each stands in the draws of the epoch."""

    def evaluation_batch(self, split: str, rows: slice) -> Tensor:
        """Return a range of a split, in its one view."""


class ImageInputs:
    """Pixels `[B, 3, H, W]`, augmented in training."""

    def __init__(
        self,
        data: MultiLabelDataset,
        statistics: Statistics,
        config: TrainingConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._data, self._statistics, self._config = data, statistics, config
        self._seed, self._device = seed, device

    def training_batch(self, indices_B: Indices, positions_B: Indices, *, epoch: int) -> Tensor:
        """Return augmented images; the same ones for the same seed, epoch and positions."""
        return augment_batch(
            to_device(torch.from_numpy(self._data.train.images_NHWC[indices_B]), self._device),
            seed=self._seed,
            epoch=epoch,
            positions_B=positions_B,
            photometric=self._config.photometric,
            crop_min=self._config.crop_min,
            flip=self._config.flip,
            mean=self._statistics[0],
            std=self._statistics[1],
        )

    def evaluation_batch(self, split: str, rows: slice) -> Tensor:
        """Return images as they are."""
        images_BHWC = torch.from_numpy(np.array(self._data.split(split).images_NHWC[rows]))
        return normalise_batch(to_device(images_BHWC, self._device), *self._statistics)


class FeatureInputs:
    """Pooled features `[B, D]` of a frozen trunk; in training, of one of an image's views."""

    def __init__(self, features: Features, *, seed: int, device: torch.device) -> None:
        # Into memory: some kB per image, and every step reads at random.
        views_VND = torch.from_numpy(np.stack(features.views)).to(device)
        self._num_views, self._num_images = views_VND.shape[:2]
        self._views = views_VND.flatten(0, 1)
        self._splits = {
            split: torch.from_numpy(np.array(features_ND)).to(device)
            for split, features_ND in features.splits.items()
            if split != "train"
        }
        self._splits["train"] = views_VND[0]
        self._seed, self._device = seed, device

    def training_batch(self, indices_B: Indices, positions_B: Indices, *, epoch: int) -> Tensor:
        """Return features of the views that are drawn by seed, epoch and position."""
        views_B = draw_views(self._num_views, seed=self._seed, epoch=epoch, positions_B=positions_B)
        rows_B = torch.from_numpy(views_B * self._num_images + indices_B)
        return self._views[to_device(rows_B, self._device)]

    def evaluation_batch(self, split: str, rows: slice) -> Tensor:
        """Return features."""
        return self._splits[split][rows]


class MapInputs:
    """Maps `[B, K, h, w]` after the frozen stages; in training, of one of an image's views."""

    def __init__(self, features: Features, *, seed: int, device: torch.device) -> None:
        self._features, self._seed, self._device = features, seed, device

    def training_batch(self, indices_B: Indices, positions_B: Indices, *, epoch: int) -> Tensor:
        """Return maps of the views that are drawn by seed, epoch and position."""
        views = self._features.views
        views_B = draw_views(len(views), seed=self._seed, epoch=epoch, positions_B=positions_B)
        rows = [views[view][row] for view, row in zip(views_B, indices_B, strict=True)]
        return to_device(maps_of(np.stack(rows)), self._device)

    def evaluation_batch(self, split: str, rows: slice) -> Tensor:
        """Return maps."""
        return to_device(maps_of(np.array(self._features.splits[split][rows])), self._device)
