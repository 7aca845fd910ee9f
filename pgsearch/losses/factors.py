"""What the PG loss is made of, by class group: its factors, their focusing term and the bias."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from pgsearch.class_groups import GROUPS
from pgsearch.losses.adaptive import RATIO_EXPONENTS
from pgsearch.losses.equations import FocalLogit

FocusingMode: TypeAlias = Literal["none", "fixed", "adaptive"]

FACTOR_NAMES: Final = tuple(RATIO_EXPONENTS)


def _check_per_group(name: str, values_G: Sequence[object]) -> None:
    if len(values_G) != len(GROUPS):
        raise ValueError(f"{name} needs one value for each of {GROUPS}, got {values_G}")


@dataclass(frozen=True)
class Factor:
    """One factor of probability re-balancing, by class group: its base and whether it adapts."""

    base_G: tuple[float, ...] = (1.0,) * len(GROUPS)
    adaptive_G: tuple[bool, ...] = (False,) * len(GROUPS)

    def __post_init__(self) -> None:
        _check_per_group("base_G", self.base_G)
        _check_per_group("adaptive_G", self.adaptive_G)
        if not all(0 < base < math.inf for base in self.base_G):
            raise ValueError(f"a factor scales and divides: base_G needs values > 0, got {self}")


NEUTRAL: Final = Factor()


@dataclass(frozen=True)
class Factors:
    """The four factors of Eq. 5; neutral, they leave BCE of the shifted logit."""

    lambda1_neg: Factor = NEUTRAL
    lambda2_neg: Factor = NEUTRAL
    lambda1_pos: Factor = NEUTRAL
    lambda2_pos: Factor = NEUTRAL


NEUTRAL_FACTORS: Final = Factors()


@dataclass(frozen=True)
class Focusing:
    """The focusing term, by class group, for both signs.

    "none" has exponent 0, "fixed" is focal with exponent `gamma_G`, "adaptive" is APAF with
    λ₀ = `lambda0_G`. `focal_logit` is that of `pg_loss`.
    """

    mode_G: tuple[FocusingMode, ...] = ("none", "none", "none")
    gamma_G: tuple[float, ...] = (2.0,) * len(GROUPS)
    lambda0_G: tuple[float, ...] = (2.0,) * len(GROUPS)
    focal_logit: FocalLogit = "scaled"

    def __post_init__(self) -> None:
        _check_per_group("mode_G", self.mode_G)
        _check_per_group("gamma_G", self.gamma_G)
        _check_per_group("lambda0_G", self.lambda0_G)
        if not all(0 <= exponent < math.inf for exponent in (*self.gamma_G, *self.lambda0_G)):
            raise ValueError(f"focusing exponents need values >= 0, got {self}")
        if unknown := set(self.mode_G) - set(get_args(FocusingMode)):
            raise ValueError(f"focusing modes are {get_args(FocusingMode)}, got {sorted(unknown)}")
        if self.focal_logit not in get_args(FocalLogit):
            raise ValueError(f"focal_logit is {get_args(FocalLogit)}, got {self.focal_logit!r}")

    def base_G(self) -> tuple[float, ...]:
        """The exponent of each group before adaptation."""
        return tuple(
            {"none": 0.0, "fixed": gamma, "adaptive": lambda0}[mode]
            for mode, gamma, lambda0 in zip(self.mode_G, self.gamma_G, self.lambda0_G, strict=True)
        )

    def adaptive_G(self) -> tuple[bool, ...]:
        return tuple(mode == "adaptive" for mode in self.mode_G)


NO_FOCUSING: Final = Focusing()


@dataclass(frozen=True)
class Bias:
    """The class-specific bias: its κ, and whether it is divided by the base of λ₁⁻.

    The published numbers of distribution balance were obtained with v/λ, a slip that its maintainer
    acknowledges.
    """

    kappa: float = 0.05
    over_scale: bool = False


PAPER_BIAS: Final = Bias()


def group_table(factors: Factors, focusing: Focusing) -> tuple[Tensor, Tensor]:
    """Base and exponent of p̄⁺/p̄⁻ (0 where not adaptive), each `[K, G]`, of every factor."""
    focusing_row = (focusing.base_G(), focusing.adaptive_G())
    rows = {
        "lambda1_neg": (factors.lambda1_neg.base_G, factors.lambda1_neg.adaptive_G),
        "lambda2_neg": (factors.lambda2_neg.base_G, factors.lambda2_neg.adaptive_G),
        "lambda1_pos": (factors.lambda1_pos.base_G, factors.lambda1_pos.adaptive_G),
        "lambda2_pos": (factors.lambda2_pos.base_G, factors.lambda2_pos.adaptive_G),
        "focusing_neg": focusing_row,
        "focusing_pos": focusing_row,
    }
    base_KG = [rows[name][0] for name in FACTOR_NAMES]
    exponent_KG = [[RATIO_EXPONENTS[name] * on for on in rows[name][1]] for name in FACTOR_NAMES]
    return (
        torch.tensor(base_KG, dtype=torch.float64),
        torch.tensor(exponent_KG, dtype=torch.float64),
    )
