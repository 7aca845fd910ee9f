"""What a frozen trunk gives for every image: computed once per node, then read by every trial.

Shapes: N images, D features, h×w maps of K channels.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pgsearch.cache_dir import default_cache_dir
from pgsearch.config import Configuration
from pgsearch.config.model import ModelConfig
from pgsearch.config.training import TrainingConfig
from pgsearch.data.augment import augment_batch, normalise_batch
from pgsearch.data.cache import Array, ArrayPlan, cached_arrays, require_space
from pgsearch.data.dataset import SPLITS, MultiLabelDataset, Split
from pgsearch.errors import InvalidData
from pgsearch.models.backbones import Backbone, build_backbone
from pgsearch.models.build import build_trunk, model_statistics, trunk_fingerprint
from pgsearch.models.stages import split_after
from pgsearch.provenance import fingerprint
from pgsearch.training.precision import resolve_precision, with_precision

FEATURES_VERSION = 1
"""Part of cache keys: raise it with every change that moves a feature."""

VIEW_SEED = 0
"""Of the augmented views: a node's trials share them, whatever their seeds."""

BATCH_SIZE = 64
"""Fixed, since sums over another batch size differ in the last bits."""


@dataclass(frozen=True, eq=False)
class Features:
    """Memory-mapped and read-only: pooled features `[N, D]`, float32, or maps of a stage.

    Maps are `[N, h, w, K]`, float32, or the bits of bfloat16 as uint16 where that is the network's
    arithmetic: see `maps_of`.
    """

    splits: dict[str, Array]
    """By split: one view of each image, as evaluation sees it."""
    views: tuple[Array, ...]
    """Of the training images: `splits["train"]`, then the augmented ones."""


def cached_features(
    configuration: Configuration,
    data: MultiLabelDataset,
    device: torch.device,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Return what the frozen trunk of a configuration gives for every image.

    It is computed the first time on a node, and again where images, weights, stages or pooling,
    precision or augmentation differ. More views use those that are there.

    Args:
        configuration: names the trunk, its precision, and the views of training images.
        data: the images.
        device: where to compute.
        progress: called with the number of images that are done and that there are.

    Raises:
        InvalidData: a feature is not finite.
        InvalidSpec: the backbone cannot be split after the stages that are frozen.
        StorageError: the cache cannot be written, or will not fit the disk.
    """
    configuration = with_precision(configuration, resolve_precision(configuration, device))
    trunk = _Trunk(configuration, data, device)
    splits = [data.split(name) for name in SPLITS]
    contents = [splits, *([data.train] for _ in range(1, configuration.training.views))]
    entries = {trunk.key(view): trunk.plan(contents[view]) for view in range(len(contents))}
    cache = default_cache_dir()
    require_space(cache, entries, remedy=_less_space(configuration.training))
    num_images = sum(split.num_images for part in contents for split in part)
    arrays: list[Array] = []
    for view, (key, plan) in enumerate(entries.items()):
        before = sum(map(len, arrays))

        def count(done: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, num_images)

        build = functools.partial(trunk.compute, contents[view], view, count)
        arrays.append(cached_arrays(cache, key, plan=plan, build=build)["features"])
    ends = itertools.accumulate(split.num_images for split in splits[:-1])
    by_split = dict(zip(SPLITS, np.split(arrays[0], list(ends)), strict=True))
    return Features(by_split, (by_split["train"], *arrays[1:]))


def maps_of(rows_BHWK: Array) -> Tensor:
    """Return cached maps as `[B, K, h, w]`, channels last, sharing their memory."""
    maps_BHWK = torch.from_numpy(rows_BHWK)
    if maps_BHWK.dtype == torch.uint16:
        maps_BHWK = maps_BHWK.view(torch.bfloat16)
    return maps_BHWK.permute(0, 3, 1, 2)


def shared_trunk(config: ModelConfig, device: torch.device) -> Backbone:
    """Return the trunk of a model; the trials of one process share it."""
    # What a trunk depends on, and nothing of the head that differs from trial to trial.
    trunk = ModelConfig(backbone=config.backbone, weights=config.weights, pool=config.pool)
    return _shared_trunk(trunk, trunk_fingerprint(trunk), device)


@functools.lru_cache(maxsize=2)
def _shared_trunk(config: ModelConfig, weights: str, device: torch.device) -> Backbone:  # noqa: ARG001
    """Build a trunk; `weights` tells files apart whose bytes changed under one name."""
    trunk = build_trunk(config)
    trunk.network.to(device)
    trunk.network.to(memory_format=torch.channels_last)
    return trunk


class _Trunk:
    """What computes, and what that is called in the cache."""

    def __init__(
        self, configuration: Configuration, data: MultiLabelDataset, device: torch.device
    ) -> None:
        self._model, self._training = configuration.model, configuration.training
        self._data, self._device = data, device
        self._precision = configuration.training.precision
        self._weights = trunk_fingerprint(self._model)
        stages = self._training.cached_stages
        self._shape = (
            (shared_trunk(self._model, device).num_features,)
            if stages is None
            else _shape_of_maps(self._model.backbone, stages, data.image_size)
        )

    @property
    def _is_bf16(self) -> bool:
        return self._precision == "bf16"

    def key(self, view: int) -> str:
        """Name of a view in the cache: all that it depends on."""
        model, training, stages = self._model, self._training, self._training.cached_stages
        facts: list[Any] = [
            FEATURES_VERSION,
            model.backbone,
            self._weights,
            model.pool if stages is None else stages,
            model_statistics(model),
            self._precision,
            self._device.type,  # a GPU's arithmetic differs in the last digits
            self._data.fingerprint,
        ]
        if view:
            facts += [view, VIEW_SEED, training.photometric, training.crop_min, training.flip]
        return f"features-{fingerprint(facts)}"

    def plan(self, splits: Sequence[Split]) -> dict[str, ArrayPlan]:
        """Shape and type of an entry."""
        num_images = sum(split.num_images for split in splits)
        is_bits = self._training.cached_stages is not None and self._is_bf16
        return {
            "features": ArrayPlan((num_images, *self._shape), "uint16" if is_bits else "float32")
        }

    def compute(
        self, splits: Sequence[Split], view: int, count: Callable[[int], None]
    ) -> Iterator[dict[str, Array]]:
        """Yield a view of the images of splits in batches; `count` is told how many are done."""
        network, done = self._network(), 0
        for split in splits:
            for start in range(0, split.num_images, BATCH_SIZE):
                indices_B = np.arange(start, min(start + BATCH_SIZE, split.num_images))
                with (
                    torch.inference_mode(),
                    torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16),
                ):
                    features_B = network(self._images(split, indices_B, view))
                yield {"features": self._stored(features_B)}
                done += len(indices_B)
                count(done)

    def _network(self) -> nn.Module:
        trunk, stages = shared_trunk(self._model, self._device), self._training.cached_stages
        if stages is None:
            return trunk.network
        return split_after(trunk.network, self._model.backbone, stages)[0]

    def _images(self, split: Split, indices_B: npt.NDArray[np.int64], view: int) -> Tensor:
        images_BHWC = torch.from_numpy(split.images_NHWC[indices_B]).to(self._device)
        mean, std = model_statistics(self._model)
        if not view:
            return normalise_batch(images_BHWC, mean, std)
        return augment_batch(
            images_BHWC,
            seed=VIEW_SEED,
            epoch=view,
            positions_B=indices_B,
            photometric=self._training.photometric,
            crop_min=self._training.crop_min,
            flip=self._training.flip,
            mean=mean,
            std=std,
        )

    def _stored(self, features_B: Tensor) -> Array:
        """Return features as the cache has them."""
        if not torch.isfinite(features_B).all():
            raise InvalidData(
                [
                    f"{self._data.name}: {self._model.backbone} gives features that are not finite "
                    "for one of the images; check the weights, or use precision: fp32"
                ]
            )
        if self._training.cached_stages is None:
            return features_B.float().cpu().numpy()
        maps_BHWK = features_B.permute(0, 2, 3, 1).cpu()
        if self._is_bf16:
            return maps_BHWK.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
        return maps_BHWK.float().contiguous().numpy()


@functools.lru_cache(maxsize=2)
def _shape_of_maps(backbone: str, stages: int, image_size: int) -> tuple[int, int, int]:
    """Height, width and channels of the maps after a stage; nothing is allocated."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        first, _ = split_after(build_backbone(backbone).network, backbone, stages)
        _, channels, height, width = first(torch.empty(2, 3, image_size, image_size)).shape
        return height, width, channels


def _less_space(training: TrainingConfig) -> str:
    """Say what takes less space than what a trial asks for."""
    ways = [
        "set PGSEARCH_CACHE to a folder on a larger disk",
        "free some (pgsearch gc --cache-days)",
    ]
    if training.views > 1:
        ways.append(f"lower training.views ({training.views})")
    if training.cached_stages is not None:
        if training.precision == "fp32":
            ways.append("set training.precision: bf16, which takes half")
        ways.append("freeze through a later layer, or the whole trunk (trunk: frozen)")
    return f"{'; '.join(ways)}; or use a smaller data.image_size"
