"""Losses, forward and backward, as multiples of torch's BCE: pgsearch's and other libraries'.

python benchmarks/losses.py

One thread, eager. PG is in four settings, from fixed factors to adaptive ones with the re-balanced
weight; peers have their defaults. A peer that is not installed is left out.
"""

import importlib.metadata
from collections.abc import Callable

import torch
from measure import compared, interleave, seconds_of, write
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.losses import ASLLoss, Factor, Factors, Focusing, PGLoss, Rebalance

SHAPES = ((32, 20), (32, 80), (4096, 1000))
SECONDS_PER_CALL = {(32, 20): 100e-6, (32, 80): 100e-6, (4096, 1000): 0.1}
ROUNDS, SECONDS_PER_ROUND = 40, 0.003
PEERS = ("timm", "torchvision", "kornia")
TARGETS = {("PG, fixed factors", 32, 80): "≤ 2.5", ("PG, adaptive", 32, 80): "≤ 2.5"}

Loss = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row for shape in SHAPES for row in measure(*shape)]
    versions = {peer: importlib.metadata.version(peer) for peer in PEERS if is_installed(peer)}
    write(__file__, rows, threads=1, peers=versions)


def measure(batch: int, classes: int) -> list[dict[str, object]]:
    logits = torch.randn(batch, classes, requires_grad=True)
    targets = (torch.rand(batch, classes) < 0.1).float()

    def step(loss: Loss) -> Callable[[], None]:
        return lambda: loss(logits, targets).backward()

    times = max(1, round(SECONDS_PER_ROUND / SECONDS_PER_CALL[batch, classes]))
    losses = {"torch BCE": binary_cross_entropy_with_logits, **own(classes), **peers()}
    measured = interleave(
        {name: seconds_of(step(loss), times=times) for name, loss in losses.items()},
        rounds=ROUNDS if times > 1 else ROUNDS // 4,
    )
    rows = compared(measured, subject="loss", unit="microseconds", scale=1e6)
    return [
        {"batch": batch, "classes": classes, **row,
         "target": TARGETS.get((row["loss"], batch, classes))}
        for row in rows
    ]  # fmt: skip


def own(classes: int) -> dict[str, Loss]:
    counts = torch.linspace(400, 4, classes).int().numpy()
    groups = [0 if n >= 100 else 1 if n >= 20 else 2 for n in counts]
    every, adaptive = (True, True, True), Focusing(mode_G=("adaptive",) * 3)
    factors = Factors(lambda1_neg=Factor(adaptive_G=every))

    def pg(**settings: object) -> Loss:
        module = PGLoss(counts, groups, num_images=1000, **settings)  # type: ignore[arg-type]
        return lambda z, y: module(z, y).loss

    return {
        "PG, fixed factors": pg(),
        "PG, fixed factors, focal": pg(focusing=Focusing(mode_G=("fixed",) * 3)),
        "PG, adaptive": pg(factors=factors, focusing=adaptive),
        "PG, adaptive, re-balanced": pg(
            factors=factors, focusing=adaptive, rebalance=Rebalance(mu=0.3)
        ),
        "pgsearch ASL": lambda z, y: ASLLoss()(z, y).loss,
    }


def peers() -> dict[str, Loss]:
    losses: dict[str, Loss] = {}
    if is_installed("timm"):
        from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy

        asl = AsymmetricLossMultiLabel()
        losses["timm AsymmetricLossMultiLabel"] = lambda z, y: asl(z, y) / z.numel()  # it sums
        losses["timm BinaryCrossEntropy"] = BinaryCrossEntropy(smoothing=0)
    if is_installed("torchvision"):
        from torchvision.ops import sigmoid_focal_loss

        losses["torchvision sigmoid_focal_loss"] = lambda z, y: sigmoid_focal_loss(
            z, y, reduction="mean"
        )
    if is_installed("kornia"):
        from kornia.losses import BinaryFocalLossWithLogits

        losses["kornia BinaryFocalLossWithLogits"] = BinaryFocalLossWithLogits(
            alpha=0.25, reduction="mean"
        )
    return losses


def is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
