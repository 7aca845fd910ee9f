"""Features of a frozen trunk: computed once per node, then read by every trial.

Shapes: N images, D features.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from pgsearch.cache_dir import default_cache_dir
from pgsearch.config import Configuration
from pgsearch.config.model import ModelConfig
from pgsearch.data.augment import normalise_batch
from pgsearch.data.cache import ArrayPlan, cached_arrays
from pgsearch.data.dataset import SPLITS, MultiLabelDataset
from pgsearch.errors import InvalidData
from pgsearch.models.backbones import Backbone
from pgsearch.models.build import build_trunk, model_statistics, trunk_fingerprint
from pgsearch.provenance import fingerprint

FEATURES_VERSION = 1
"""Part of cache keys: raise it with every change that moves a feature."""

BATCH_SIZE = 64
"""Fixed, since sums over another batch size differ in the last bits."""

Features = npt.NDArray[np.float32]


def cached_features(
    configuration: Configuration,
    data: MultiLabelDataset,
    device: torch.device,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Features]:
    """Return the pooled features `[N, D]` of every split, memory-mapped and read-only.

    One view of each image, as evaluation sees it. They are computed the first time on a node, and
    again where images, weights, pooling or precision differ.

    Args:
        configuration: names the trunk and its precision.
        data: the images.
        device: where to compute.
        progress: called with the number of images that are done and that there are.

    Raises:
        InvalidData: a feature is not finite.
        StorageError: the cache cannot be written.
    """
    model, precision = configuration.model, configuration.training.precision
    key = fingerprint(
        [
            FEATURES_VERSION,
            model.backbone,
            trunk_fingerprint(model),
            model.pool,
            model_statistics(model),
            precision,
            device.type,  # a GPU's arithmetic differs in the last digits
            data.fingerprint,
        ]
    )
    trunk = shared_trunk(model, device)
    splits = {name: data.split(name) for name in SPLITS}
    num_images = sum(split.num_images for split in splits.values())
    features_ND = cached_arrays(
        default_cache_dir(),
        f"features-{key}",
        plan={"features": ArrayPlan((num_images, trunk.num_features), "float32")},
        build=lambda: _compute(configuration, data, trunk, device, progress),
    )["features"]
    ends = np.cumsum([split.num_images for split in splits.values()])
    return dict(zip(splits, np.split(features_ND, ends[:-1]), strict=True))


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


def _compute(
    configuration: Configuration,
    data: MultiLabelDataset,
    trunk: Backbone,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> Iterator[dict[str, Features]]:
    statistics = model_statistics(configuration.model)
    precision = configuration.training.precision
    num_images = sum(data.split(name).num_images for name in SPLITS)
    done = 0
    for name in SPLITS:
        split = data.split(name)
        for start in range(0, split.num_images, BATCH_SIZE):
            images_BHWC = torch.from_numpy(np.array(split.images_NHWC[start : start + BATCH_SIZE]))
            images_BCHW = normalise_batch(images_BHWC.to(device), *statistics)
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
            ):
                features_BD = trunk.network(images_BCHW).float().cpu()
            if not torch.isfinite(features_BD).all():
                raise InvalidData(
                    [
                        f"{data.name}: {configuration.model.backbone} gives features that are not "
                        f"finite for an image of {name}; check the weights, or use precision: fp32"
                    ]
                )
            done += len(features_BD)
            if progress is not None:
                progress(done, num_images)
            yield {"features": features_BD.numpy()}
