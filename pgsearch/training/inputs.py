"""What the trained network sees of an image: its augmented pixels, or the features of a trunk.

Shapes: B images of a batch, D features.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.config.training import TrainingConfig
from pgsearch.data.augment import augment_batch, normalise_batch
from pgsearch.data.dataset import MultiLabelDataset
from pgsearch.training.features import Features

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
            torch.from_numpy(self._data.train.images_NHWC[indices_B]).to(self._device),
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
        return normalise_batch(images_BHWC.to(self._device), *self._statistics)


class FeatureInputs:
    """Pooled features `[B, D]` of a frozen trunk, the same in training and evaluation."""

    def __init__(self, features: Mapping[str, Features], device: torch.device) -> None:
        # Into memory: some kB per image, and every step reads at random.
        self._features = {
            split: torch.from_numpy(np.array(features_ND)).to(device)
            for split, features_ND in features.items()
        }
        self._device = device

    def training_batch(self, indices_B: Indices, positions_B: Indices, *, epoch: int) -> Tensor:  # noqa: ARG002
        """Return features; there is no augmentation."""
        return self._features["train"][torch.from_numpy(indices_B).to(self._device)]

    def evaluation_batch(self, split: str, rows: slice) -> Tensor:
        """Return features."""
        return self._features[split][rows]
