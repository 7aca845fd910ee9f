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
from pgsearch.losses.output import LossOutput
from pgsearch.losses.pg import (
    FACTOR_NAMES,
    Bias,
    Factor,
    Factors,
    FocalLogit,
    Focusing,
    FocusingMode,
    PGLoss,
    apaf_loss,
    bce_loss,
    class_bias,
    focal_loss,
    ntr_loss,
    pg_loss,
    pr_loss,
)
from pgsearch.losses.reweighted import Rebalance, rebalanced_weight

__all__ = [
    "FACTOR_NAMES",
    "RATIO_EXPONENTS",
    "Bias",
    "Factor",
    "Factors",
    "FocalLogit",
    "Focusing",
    "FocusingMode",
    "LossOutput",
    "PGLoss",
    "Rebalance",
    "adaptive_factors",
    "apaf_loss",
    "batch_probabilities",
    "bce_loss",
    "class_bias",
    "focal_loss",
    "ntr_loss",
    "pg_loss",
    "pr_loss",
    "probability_ratio",
    "rebalanced_weight",
]
