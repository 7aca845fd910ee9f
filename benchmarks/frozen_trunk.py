"""Time of a training step on a frozen trunk, as a ratio to fine-tuning in one interleaved run.

python benchmarks/frozen_trunk.py

ResNet-18 with random weights at 64 pixels, batches of 32, one thread: step is forward, loss,
backward and update, without preparing the batch. The frozen step starts from cached features.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.config.model import ModelConfig
from pgsearch.models.build import build_model, build_trunk
from pgsearch.provenance import provenance, utc_now

REPEATS, BATCH, CLASSES, SIDE = 30, 32, 20, 64
RESULT = Path(__file__).parent / "results" / "frozen_trunk.json"


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = measure()
    ran = {fact: value for fact, value in provenance().items() if fact != "host"}
    report = {"utc": utc_now().isoformat(), "provenance": ran, "rows": rows}
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        print(f"{row['step']:34} {row['milliseconds']:8.2f} ms  {row['ratio']:7.4f} x fine-tuning "
              f"(quartiles {row['ratio_low']:.4f}..{row['ratio_high']:.4f})")  # fmt: skip


def measure() -> list[dict[str, object]]:
    config = ModelConfig(backbone="resnet18", weights="random", frozen_stages=1)
    targets_NC = np.eye(CLASSES, dtype=np.uint8)
    names = [str(c) for c in range(CLASSES)]
    whole = build_model(config, class_names=names, train_targets_NC=targets_NC)
    trunk = build_trunk(config)
    frozen = build_model(config, class_names=names, train_targets_NC=targets_NC, trunk=trunk)
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    whole.to(memory_format=torch.channels_last)
    features = torch.randn(BATCH, trunk.num_features)
    targets = (torch.rand(BATCH, CLASSES) < 0.1).float()
    head = nn.Sequential(frozen.neck, frozen.head)
    steps: dict[str, Callable[[], None]] = {
        "fine-tuning, stem and layer1 frozen": step(whole, images, targets),
        "frozen trunk, cached features": step(head, features, targets),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    base = seconds["fine-tuning, stem and layer1 frozen"]
    rows: list[dict[str, object]] = []
    for name, times in seconds.items():
        ratios = [t / b for t, b in zip(times, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {"step": name, "ratio": middle, "ratio_low": low, "ratio_high": high,
             "milliseconds": 1e3 * statistics.median(times)}
        )  # fmt: skip
    return rows


def step(network: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.01, momentum=0.9, fused=True)
    network.train()

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        binary_cross_entropy_with_logits(network(inputs), targets).backward()
        optimiser.step()

    return run


if __name__ == "__main__":
    main()
