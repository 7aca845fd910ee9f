"""The losses that a spec can name, with their settings per class group."""

from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import Field

from pgsearch.config.base import Config, PerGroup

Mode: TypeAlias = Literal["fixed", "adaptive"]
Focus: TypeAlias = Literal["none", "fixed", "adaptive"]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0)]
FractionBelowOne: TypeAlias = Annotated[float, Field(ge=0, lt=1)]

_ONE = PerGroup[Positive].of(1.0)
_TWO = PerGroup[NonNegative].of(2.0)
_FIXED = PerGroup[Mode].of("fixed")


class BCELossConfig(Config):
    """Binary cross-entropy: ERM, and RS with the class-aware sampler."""

    name: Literal["bce"]


class FocalLossConfig(Config):
    """Focal loss (Eq. 4) times a constant."""

    name: Literal["focal"]
    gamma: PerGroup[NonNegative] = Field(_TWO, description="exponent of the focusing term")
    balance: Positive = Field(1.0, description="constant factor of the loss (Table 2 uses 2)")


class RWLossConfig(Config):
    """Re-weighted BCE: each class has a constant weight by its frequency, not normalised."""

    name: Literal["rw"]
    weighting: Literal["sqrt", "inv"] = Field(
        "sqrt", description="weight of a class: sqrt is sqrt(N/n) (Table 2), inv is N/n"
    )


class CBFocalLossConfig(Config):
    """Focal loss with the class-balanced weight (1 - beta)/(1 - beta^n) of Cui et al."""

    name: Literal["cb_focal"]
    beta: FractionBelowOne = Field(0.9, description="of the effective number; 0 is no weight")
    mode: Literal["by_class", "average_w", "average_n", "min_n"] = Field(
        "average_w",
        description="weight of a label: of its class; or for the whole image, the mean weight, the "
        "weight of the mean count or that of the least count of its positive classes",
    )
    gamma: NonNegative = Field(2.0, description="exponent of the focusing term")
    balance: Positive = Field(2.0, description="constant factor of the loss")


class LDAMLossConfig(Config):
    """Label-distribution-aware margin loss, for a model with a cosine classifier."""

    name: Literal["ldam"]
    scale: Positive = Field(30.0, description="scale of the cosine, equal to that of the model")
    margin: NonNegative = Field(0.5, description="margin of the rarest class, as a cosine")
    reweight_after: Annotated[int, Field(ge=0)] | None = Field(
        None, description="epochs before the deferred re-weighting begins; null is never"
    )
    reweight_beta: FractionBelowOne = Field(
        0.9999, description="of the effective number, for the deferred re-weighting"
    )


class ASLLossConfig(Config):
    """Asymmetric loss; a mean, where its authors sum over images and classes."""

    name: Literal["asl"]
    gamma_pos: NonNegative = Field(1.0, description="exponent of positive labels")
    gamma_neg: NonNegative = Field(4.0, description="exponent of negative labels")
    clip: FractionBelowOne = Field(
        0.05, description="probability below which a negative label has no loss"
    )
    clamp: float = Field(1e-8, gt=0, le=1, description="least argument of the logarithms")


class _BiasedLossConfig(Config):
    """The class-specific bias and the re-balanced weight that DB and PG share."""

    kappa: NonNegative = Field(0.05, description="strength of the class-specific bias; 0 is none")
    bias_over_scale: bool = Field(
        False, description="divide the bias by lambda1_neg, as the published DB code does"
    )
    rebalance_weight: bool = Field(True, description="DB's re-balanced weight")
    rebalance_alpha: float = Field(0.1, ge=0, description="its lift")
    rebalance_beta: float = Field(10.0, ge=0, description="its slope")
    rebalance_mu: float = Field(0.3, ge=0, description="its centre (0.3 VOC-LT, 0.2 COCO-LT)")


class _DBConfig(_BiasedLossConfig):
    """What DB has with and without focusing."""

    bias_over_scale: bool = Field(
        True, description="divide the bias by the scale, as the published DB code does"
    )
    scale: Positive = Field(5.0, description="lambda of negative labels (5 VOC-LT, 2 COCO-LT)")


class DBLossConfig(_DBConfig):
    """Distribution-balanced loss without focusing, as its code has it.

    NTR (Eq. 3) is this with `rebalance_weight: false` and `bias_over_scale: false`.
    """

    name: Literal["db"]


class DBFocalLossConfig(_DBConfig):
    """Distribution-balanced focal loss, as its code has it."""

    name: Literal["db_focal"]
    gamma: NonNegative = Field(2.0, description="exponent of the focusing term")
    balance: Positive = Field(2.0, description="constant factor of the loss")


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
    BCELossConfig
    | FocalLossConfig
    | RWLossConfig
    | CBFocalLossConfig
    | LDAMLossConfig
    | ASLLossConfig
    | DBLossConfig
    | DBFocalLossConfig
    | PGLossConfig,
    Field(discriminator="name"),
]

LOSS_NAMES: Final[tuple[str, ...]] = tuple(
    get_args(loss.model_fields["name"].annotation)[0] for loss in get_args(get_args(LossConfig)[0])
)
"""What `loss.name` may be."""
