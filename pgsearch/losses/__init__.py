"""Losses for long-tailed multi-label classification.

Every loss is a pure function `[B, C]` of logits and targets and a module around it that carries
what is constant per class and returns a `LossOutput`.
"""

from pgsearch.losses.adaptive import (
    RATIO_EXPONENTS,
    adaptive_factors,
    batch_probabilities,
    probability_ratio,
)
from pgsearch.losses.baselines import (
    ASLLoss,
    CBFocalLoss,
    LDAMLoss,
    RWLoss,
    asl_loss,
    cb_focal_loss,
    ldam_loss,
    ldam_margin,
    rw_loss,
)
from pgsearch.losses.equations import (
    FocalLogit,
    apaf_loss,
    bce_loss,
    class_bias,
    focal_loss,
    ntr_loss,
    pg_loss,
    pr_loss,
)
from pgsearch.losses.factors import (
    FACTOR_NAMES,
    Bias,
    Factor,
    Factors,
    Focusing,
    FocusingMode,
)
from pgsearch.losses.output import LossOutput
from pgsearch.losses.pg import PGLoss
from pgsearch.losses.reweighted import (
    LabelWeighting,
    Rebalance,
    Weighting,
    class_balanced_weight,
    class_balanced_weight_of_labels,
    inverse_frequency_weight,
    rebalanced_weight,
)

__all__ = [
    "FACTOR_NAMES",
    "RATIO_EXPONENTS",
    "ASLLoss",
    "Bias",
    "CBFocalLoss",
    "Factor",
    "Factors",
    "FocalLogit",
    "Focusing",
    "FocusingMode",
    "LDAMLoss",
    "LabelWeighting",
    "LossOutput",
    "PGLoss",
    "RWLoss",
    "Rebalance",
    "Weighting",
    "adaptive_factors",
    "apaf_loss",
    "asl_loss",
    "batch_probabilities",
    "bce_loss",
    "cb_focal_loss",
    "class_balanced_weight",
    "class_balanced_weight_of_labels",
    "class_bias",
    "focal_loss",
    "inverse_frequency_weight",
    "ldam_loss",
    "ldam_margin",
    "ntr_loss",
    "pg_loss",
    "pr_loss",
    "probability_ratio",
    "rebalanced_weight",
    "rw_loss",
]
