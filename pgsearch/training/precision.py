"""The arithmetic of a network: as asked for, or for `auto` what a trial of both shows here.

What decides is speed alone. It is decided once per machine and kind of network and remembered on
its disk, so that all trials of a machine agree; a trial keeps its own in its checkpoint.
"""

import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.cache_dir import default_cache_dir
from pgsearch.config import Configuration
from pgsearch.data.cache import Array, ArrayPlan, cached_arrays
from pgsearch.models.build import build_model_to_load
from pgsearch.provenance import fingerprint
from pgsearch.training.optim import build_optimiser

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Specified = TypeVar("Specified", bound=Configuration)

PROBE_VERSION = 1
"""Part of cache keys: raise it with every change of what is measured."""

WORTHWHILE_GAIN = 1.1
"""bf16 has to be so many times as fast: less is not worth eight bits of mantissa."""

MOST_PIXELS = {"cpu": 4 * 224 * 224, "cuda": 32 * 224 * 224}
"""Of a batch of the probe: a full one of a large network takes a CPU many seconds."""

FEWEST_REPEATS, MOST_REPEATS, SECONDS = 3, 15, 2.0
NUM_CLASSES = 20
"""Of the probe; it shows in no time."""


def resolve_precision(configuration: Configuration, device: torch.device) -> Precision:
    """Return the arithmetic of a network on a device: what is asked for, or what `auto` is there.

    The first call on a machine for a kind of network takes some seconds.

    Raises StorageError where the cache cannot be written.
    """
    asked = configuration.training.precision
    if asked != "auto":
        return asked
    if not has_bf16(device):
        return "fp32"
    gain = cached_arrays(
        default_cache_dir(),
        f"precision-{_probe_key(configuration, device)}",
        plan={"gain": ArrayPlan((1,), "float64")},
        build=lambda: _gain_block(configuration, device),
    )["gain"]
    return "bf16" if float(gain[0]) > WORTHWHILE_GAIN else "fp32"


def with_precision(configuration: Specified, precision: Precision) -> Specified:
    """Return a configuration, or a trial, that asks for this precision."""
    training = configuration.training.model_copy(update={"precision": precision})
    return configuration.model_copy(update={"training": training})


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a network computes with this precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes with bf16: elsewhere it is emulated, and never gains."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _probe_key(configuration: Configuration, device: torch.device) -> str:
    """Return what identifies all that the speeds depend on."""
    model, training = configuration.model, configuration.training
    facts: list[Any] = [
        PROBE_VERSION,
        torch.__version__,
        device.type,
        torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        model.backbone,
        model.pool,
        configuration.data.image_size,
        training.trunk,
        training.channels_last,
    ]
    if _is_trained(configuration):
        # Features are computed before there is a trial, so with any number of threads.
        threads = torch.get_num_threads() if device.type == "cpu" else None
        facts += [training.batch_size, threads, model.frozen_stages, model.bn_eval]
    return fingerprint(facts)


def _is_trained(configuration: Configuration) -> bool:
    return configuration.training.trunk == "trained"


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _gain_block(configuration: Configuration, device: torch.device) -> Iterator[dict[str, Array]]:
    yield {"gain": np.array([measure_gain(configuration, device)])}


def measure_gain(configuration: Configuration, device: torch.device) -> float:
    """Return how many times as fast bf16 is: the median over interleaved repeats.

    It takes training steps with a network of this kind, or computes features where a
    trunk is frozen. Torch's random streams are left where they were.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run = _probe(configuration, device)
        for precision in PRECISIONS:  # kernels are chosen and memory is taken
            run(precision)
        gains: list[float] = []
        start = time.perf_counter()
        while len(gains) < FEWEST_REPEATS or (
            len(gains) < MOST_REPEATS and time.perf_counter() - start < SECONDS
        ):
            fp32, bf16 = (_seconds(run, precision, device) for precision in PRECISIONS)
            gains.append(fp32 / bf16)
    return statistics.median(gains)


def _seconds(run: Callable[[Precision], None], precision: Precision, device: torch.device) -> float:
    start = time.perf_counter()
    run(precision)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _probe(configuration: Configuration, device: torch.device) -> Callable[[Precision], None]:
    """Return what takes one step with a network of this kind, on noise."""
    training, side = configuration.training, configuration.data.image_size
    network = build_model_to_load(configuration.model, num_classes=NUM_CLASSES).to(device)
    if training.channels_last:
        network.to(memory_format=torch.channels_last)
    num_images = max(2, min(training.batch_size, MOST_PIXELS[device.type] // side**2))
    images_BCHW = torch.randn(num_images, 3, side, side, device=device)
    targets_BC = torch.zeros(num_images, NUM_CLASSES, device=device)
    if not _is_trained(configuration):
        network.eval()

        @torch.inference_mode()
        def compute_features(precision: Precision) -> None:
            with autocast(device, precision):
                network.backbone(images_BCHW)

        return compute_features
    network.train()
    optimiser = build_optimiser(network.parameters(), training)

    def train(precision: Precision) -> None:
        with autocast(device, precision):
            logits_BC: Tensor = network(images_BCHW)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(binary_cross_entropy_with_logits(logits_BC.float(), targets_BC))
        optimiser.step()

    return train
