"""Time of the PG loss, forward and backward, as a ratio to torch's BCE in one interleaved run.

python benchmarks/losses.py
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.losses import Factor, Factors, Focusing, PGLoss, Rebalance
from pgsearch.provenance import provenance, utc_now

SHAPES = ((32, 20), (32, 80), (256, 80))
REPEATS = 60
STEPS = 20
RESULT = Path(__file__).parent / "results" / "losses.json"


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for shape in SHAPES for row in measure(*shape)]
    RESULT.parent.mkdir(exist_ok=True)
    ran = {fact: value for fact, value in provenance().items() if fact != "host"}
    report = {"utc": utc_now().isoformat(), "provenance": ran, "rows": rows}
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        print(f"[{row['batch']}, {row['classes']}]  {row['loss']:22} "
              f"{row['microseconds']:7.0f} µs  {row['ratio']:5.2f} x BCE "
              f"(quartiles {row['ratio_low']:.2f}..{row['ratio_high']:.2f})")  # fmt: skip


def measure(batch: int, classes: int) -> list[dict[str, object]]:
    counts = torch.linspace(400, 4, classes).int().numpy()
    groups = [0 if n >= 100 else 1 if n >= 20 else 2 for n in counts]
    adaptive = Factor(adaptive_G=(True, True, True))

    def pg(**settings: object) -> Callable[[Tensor, Tensor], Tensor]:
        loss = PGLoss(counts, groups, num_images=1000, **settings)  # type: ignore[arg-type]
        return lambda z, y: loss(z, y).loss

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "torch BCE": binary_cross_entropy_with_logits,
        "PG fixed": pg(focusing=Focusing(mode_G=("fixed",) * 3)),
        "PG adaptive": pg(
            factors=Factors(lambda1_neg=adaptive), focusing=Focusing(mode_G=("adaptive",) * 3)
        ),
        "PG adaptive, weighted": pg(
            factors=Factors(lambda1_neg=adaptive),
            focusing=Focusing(mode_G=("adaptive",) * 3),
            rebalance=Rebalance(mu=0.3),
        ),
    }
    logits = torch.randn(batch, classes, requires_grad=True)
    targets = (torch.rand(batch, classes) < 0.1).float()
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(REPEATS):
        for name, loss in losses.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                loss(logits, targets).backward()
            seconds[name].append((time.perf_counter() - start) / STEPS)
    rows: list[dict[str, object]] = []
    for name, times in seconds.items():
        ratios = [t / bce for t, bce in zip(times, seconds["torch BCE"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {"batch": batch, "classes": classes, "loss": name, "ratio": middle, "ratio_low": low,
             "ratio_high": high, "microseconds": 1e6 * statistics.median(times)}
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
