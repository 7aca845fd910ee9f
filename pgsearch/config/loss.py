"""The losses that a spec can name, with their settings per class group."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from pgsearch.config.base import Config, PerGroup

Mode: TypeAlias = Literal["fixed", "adaptive"]
Focus: TypeAlias = Literal["none", "fixed", "adaptive"]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0)]

_ONE = PerGroup[Positive].of(1.0)
_TWO = PerGroup[NonNegative].of(2.0)
_FIXED = PerGroup[Mode].of("fixed")


class BCELossConfig(Config):
    """Binary cross-entropy."""

    name: Literal["bce"]


class FocalLossConfig(Config):
    """Focal loss (Eq. 4) times a constant."""

    name: Literal["focal"]
    gamma: PerGroup[NonNegative] = Field(_TWO, description="exponent of the focusing term")
    balance: Positive = Field(1.0, description="constant factor of the loss (Table 2 uses 2)")


class _BiasedLossConfig(Config):
    """The class-specific bias and the re-balanced weight that NTR and PG share."""

    kappa: NonNegative = Field(0.05, description="strength of the class-specific bias; 0 is none")
    bias_over_scale: bool = Field(
        False, description="divide the bias by lambda1_neg, as the published DB code does"
    )
    rebalance_weight: bool = Field(True, description="DB's re-balanced weight")
    rebalance_alpha: float = Field(0.1, ge=0, description="its lift")
    rebalance_beta: float = Field(10.0, ge=0, description="its slope")
    rebalance_mu: float = Field(0.3, ge=0, description="its centre (0.3 VOC-LT, 0.2 COCO-LT)")


class NTRLossConfig(_BiasedLossConfig):
    """Negative-tolerant regularisation (Eq. 3); with the re-balanced weight it is DB's loss."""

    name: Literal["ntr"]
    scale: Positive = Field(5.0, description="lambda of Eq. 3 (5 VOC-LT, 2 COCO-LT)")


class PGLossConfig(_BiasedLossConfig):
    """The probability-guided loss (Eq. 10); PR, APR and APAF are settings of it.

    PR: focusing none. APR: that, with factors of mode adaptive. APAF: factors 1, kappa 0, no
    re-balanced weight, focusing adaptive.
    """

    name: Literal["pg"]
    lambda1_neg: PerGroup[Positive] = Field(_ONE, description="slope factor of negative labels")
    lambda2_neg: PerGroup[Positive] = Field(_ONE, description="divisor of negative labels")
    lambda1_pos: PerGroup[Positive] = Field(_ONE, description="slope factor of positive labels")
    lambda2_pos: PerGroup[Positive] = Field(_ONE, description="divisor of positive labels")
    lambda1_neg_mode: PerGroup[Mode] = Field(_FIXED, description="fixed, or adaptive as in APR")
    lambda2_neg_mode: PerGroup[Mode] = Field(_FIXED, description="fixed, or adaptive as in APR")
    lambda1_pos_mode: PerGroup[Mode] = Field(_FIXED, description="fixed, or adaptive as in APR")
    lambda2_pos_mode: PerGroup[Mode] = Field(_FIXED, description="fixed, or adaptive as in APR")
    focusing: PerGroup[Focus] = Field(
        PerGroup[Focus].of("adaptive"),
        description="exponents of the focusing term: none, fixed (gamma) or adaptive (APAF)",
    )
    gamma: PerGroup[NonNegative] = Field(_TWO, description="exponent where focusing is fixed")
    lambda0: PerGroup[NonNegative] = Field(_TWO, description="lambda0 where focusing is adaptive")
    focal_logit: Literal["raw", "shifted", "scaled"] = Field(
        "scaled", description="logit that feeds the focusing term"
    )
    max_ratio: Annotated[float, Field(ge=1)] | None = Field(
        None, description="clamp of the probability ratios into [1/r, r]; null is off"
    )


LossConfig: TypeAlias = Annotated[
    BCELossConfig | FocalLossConfig | NTRLossConfig | PGLossConfig, Field(discriminator="name")
]
