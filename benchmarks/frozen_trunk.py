"""Time of a training step on a frozen trunk, as a ratio to fine-tuning in one interleaved run.

python benchmarks/frozen_trunk.py

Networks with random weights, batches of 32: ResNet-18 at 64 pixels in fp32 on one thread, and
ResNet-50 at 224 pixels in bf16 on two. A step is forward, loss, backward and update; the images
are there already, cached maps are drawn from 256 images in memory, as from a warm cache.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from measure import compared, interleave, seconds_of, write
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.config.model import ModelConfig
from pgsearch.models.build import after_stages, build_model, build_trunk
from pgsearch.models.classifier import Classifier
from pgsearch.models.stages import split_after
from pgsearch.training.features import Features
from pgsearch.training.inputs import MapInputs

BATCH, CLASSES, CACHED_IMAGES = 32, 20, 256
BASE = "fine-tuning, stem and layer1 frozen"
CPU = torch.device("cpu")


class Setting(NamedTuple):
    """A network, its images and its arithmetic."""

    backbone: str
    side: int
    precision: str
    threads: int
    repeats: int


SETTINGS = (Setting("resnet18", 64, "fp32", 1, 30), Setting("resnet50", 224, "bf16", 2, 12))


def main() -> None:
    write(__file__, [row for setting in SETTINGS for row in measure(setting)], batch_size=BATCH)


def measure(setting: Setting) -> list[dict[str, object]]:
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    steps = {name: seconds_of(run) for name, run in steps_of(setting).items()}
    seconds = interleave(steps, rounds=setting.repeats)
    rows = compared(seconds, subject="step", unit="milliseconds", scale=1e3)
    return [{**setting._asdict(), **row} for row in rows]


def steps_of(setting: Setting) -> dict[str, Callable[[], None]]:
    """Return what is compared, by what it is called."""

    def config(frozen_stages: int) -> ModelConfig:
        return ModelConfig(backbone=setting.backbone, weights="random", frozen_stages=frozen_stages)

    def classifier(frozen_stages: int) -> Classifier:
        whole = build_model(config(frozen_stages), class_names=names, train_targets_NC=targets_NC)
        return whole.to(memory_format=torch.channels_last)

    def from_maps(stages: int) -> Callable[[], None]:
        whole = classifier(stages)
        first, _ = split_after(whole.backbone, setting.backbone, stages)
        maps = MapInputs(cached_maps(first, images, setting.precision), seed=0, device=CPU)
        rest = after_stages(whole, config(stages), stages)
        return step(rest, lambda: draw(maps), setting.precision)

    names, targets_NC = [str(c) for c in range(CLASSES)], np.eye(CLASSES, dtype=np.uint8)
    images = torch.randn(BATCH, 3, setting.side, setting.side)
    images = images.to(memory_format=torch.channels_last)
    trunk = build_trunk(config(0))
    heads = build_model(config(0), class_names=names, train_targets_NC=targets_NC, trunk=trunk)
    features = torch.randn(BATCH, trunk.num_features)
    head = nn.Sequential(heads.neck, heads.head)
    return {
        BASE: step(classifier(1), lambda: images, setting.precision),
        "frozen through layer3, computed anew": step(
            classifier(3), lambda: images, setting.precision
        ),
        "frozen through layer2, cached maps": from_maps(2),
        "frozen through layer3, cached maps": from_maps(3),
        "frozen trunk, cached features": step(head, lambda: features, setting.precision),
    }


def cached_maps(first: nn.Module, images: Tensor, precision: str) -> Features:
    """Return maps of as many images as are in the cache, all of this one batch."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
        maps_BHWK = first.eval()(images).permute(0, 2, 3, 1).contiguous()
    stored = maps_BHWK.view(torch.uint16) if maps_BHWK.dtype == torch.bfloat16 else maps_BHWK
    return Features({}, (np.concatenate([stored.numpy()] * (CACHED_IMAGES // BATCH)),))


def draw(maps: MapInputs) -> Tensor:
    indices_B = np.random.default_rng().integers(CACHED_IMAGES, size=BATCH)
    return maps.training_batch(indices_B, np.arange(BATCH), epoch=1)


def step(network: nn.Module, inputs: Callable[[], Tensor], precision: str) -> Callable[[], None]:
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.01, momentum=0.9, fused=True)
    targets = (torch.rand(BATCH, CLASSES) < 0.1).float()
    network.train()

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(inputs())
        binary_cross_entropy_with_logits(logits.float(), targets).backward()
        optimiser.step()

    return run


if __name__ == "__main__":
    main()
