"""A small long-tailed data set, batches of it, and every loss under its contract."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pgsearch.losses import (
    ASLLoss,
    Bias,
    CBFocalLoss,
    Factor,
    Factors,
    Focusing,
    LDAMLoss,
    PGLoss,
    Rebalance,
    RWLoss,
)

NUM_IMAGES = 500
COUNTS_C = (400, 150, 60, 30, 12, 5)
GROUPS_C = (0, 0, 1, 1, 2, 2)
NUM_CLASSES = len(COUNTS_C)
NUM_GROUPS = 3

FOCAL_LOGITS = ("raw", "shifted", "scaled")


def batch(seed: int = 0, size: int = 9, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Random float64 logits and bool targets. Class 5 has no positive, class 0 no negative."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, NUM_CLASSES, generator=generator, dtype=torch.float64) * spread
    targets = torch.rand(size, NUM_CLASSES, generator=generator) < 0.4
    targets[:, 0] = True
    targets[:, 5] = False
    targets[0] = torch.tensor([True, True, False, True, False, False])
    targets[1] = torch.tensor([True, False, True, False, True, False])
    return logits, targets


def per_class(*values: float) -> Tensor:
    """A factor for each class from one for each group, float64."""
    return torch.tensor([values[g] for g in GROUPS_C], dtype=torch.float64)


@dataclass(frozen=True)
class Setting:
    """The arguments of one PGLoss, also as the reference wants them."""

    factors: Factors = field(default_factory=Factors)
    focusing: Focusing = field(default_factory=Focusing)
    bias: Bias = field(default_factory=Bias)
    rebalance: Rebalance | None = None
    balance: float = 1.0
    max_ratio: float | None = None

    def module(self, dtype: torch.dtype = torch.float32) -> PGLoss:
        return PGLoss(COUNTS_C, GROUPS_C, num_images=NUM_IMAGES, dtype=dtype, **vars(self))

    def for_reference(self) -> dict[str, Any]:
        settings = {name: (f.base_G, f.adaptive_G) for name, f in vars(self.factors).items()}
        base = {
            "none": (0, 0, 0),
            "fixed": self.focusing.gamma_G,
            "adaptive": self.focusing.lambda0_G,
        }
        modes = self.focusing.mode_G
        row = (
            [base[mode][g] for g, mode in enumerate(modes)],
            [mode == "adaptive" for mode in modes],
        )
        r = self.rebalance
        return {
            "counts": COUNTS_C,
            "num_images": NUM_IMAGES,
            "groups": GROUPS_C,
            "settings": settings | {"focusing_neg": row, "focusing_pos": row},
            "focal_logit": self.focusing.focal_logit,
            "kappa": self.bias.kappa,
            "over_scale": self.bias.over_scale,
            "max_ratio": self.max_ratio,
            "rebalance": None if r is None else (r.alpha, r.beta, r.mu),
            "balance": self.balance,
        }


ALL = (True, True, True)
FIXED_FACTORS = Factors(
    Factor((2.0, 1.0, 5.0)),
    Factor((1.0, 3.0, 0.5)),
    Factor((1.5, 1.0, 0.7)),
    Factor((1.0, 2.0, 4.0)),
)
ADAPTIVE_FACTORS = Factors(
    Factor((2.0, 1.0, 5.0), ALL),
    Factor((1.0, 3.0, 0.5), ALL),
    Factor((1.5, 1.0, 0.7), ALL),
    Factor((1.0, 2.0, 4.0), ALL),
)
FOCAL = Focusing(("fixed",) * 3, gamma_G=(2.0, 1.0, 0.5))
APAF = Focusing(("adaptive",) * 3, lambda0_G=(2.0, 1.0, 0.3))
MIXED = Focusing(("none", "fixed", "adaptive"))
REBALANCE = Rebalance(mu=0.3)

SETTINGS = {
    "bce": Setting(bias=Bias(kappa=0.0)),
    "pr": Setting(FIXED_FACTORS),
    "focal": Setting(focusing=FOCAL, bias=Bias(kappa=0.0), balance=2.0),
    "pg-fixed": Setting(FIXED_FACTORS, FOCAL),
    "apr": Setting(ADAPTIVE_FACTORS),
    "apaf": Setting(focusing=APAF),
    "paper-voc": Setting(
        Factors(lambda1_neg=Factor((1.0, 1.0, 5.0), (False, False, True))),
        MIXED,
        rebalance=REBALANCE,
    ),
    "pg-adaptive": Setting(ADAPTIVE_FACTORS, APAF, rebalance=REBALANCE),
    "pg-bounded": Setting(ADAPTIVE_FACTORS, APAF, max_ratio=10.0),
    "db": Setting(
        Factors(Factor((5.0,) * 3), Factor((5.0,) * 3)),
        bias=Bias(over_scale=True),
        rebalance=REBALANCE,
    ),
    "db-focal": Setting(
        Factors(Factor((5.0,) * 3), Factor((5.0,) * 3)),
        Focusing(("fixed",) * 3),
        Bias(over_scale=True),
        REBALANCE,
        balance=2.0,
    ),
}
ADAPTIVE_SETTINGS = [name for name, setting in SETTINGS.items() if setting.module().is_adaptive]


def with_focal_logit(setting: Setting, focal_logit: Any) -> Setting:
    return replace(setting, focusing=replace(setting.focusing, focal_logit=focal_logit))


CB_MODES: tuple[Any, ...] = ("by_class", "average_w", "average_n", "min_n")

BASELINES: dict[str, Callable[[], nn.Module]] = {
    "rw-sqrt": partial(RWLoss, COUNTS_C, num_images=NUM_IMAGES),
    "rw-inv": partial(RWLoss, COUNTS_C, num_images=NUM_IMAGES, weighting="inv"),
    **{f"cb-focal-{mode}": partial(CBFocalLoss, COUNTS_C, mode=mode) for mode in CB_MODES},
    "cb-focal-under-one": partial(CBFocalLoss, COUNTS_C, beta=0.9999, gamma=0.5, balance=1.0),
    "ldam": partial(LDAMLoss, COUNTS_C),
    "ldam-drw": partial(LDAMLoss, COUNTS_C, scale=10.0, margin=0.2, reweight_beta=0.9999),
    "asl": ASLLoss,
    "asl-unclipped": partial(ASLLoss, gamma_pos=0.5, gamma_neg=0.3, clip=0.0),
}

LOSSES: dict[str, Callable[[], nn.Module]] = {
    name: setting.module for name, setting in SETTINGS.items()
} | BASELINES
