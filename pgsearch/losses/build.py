"""From the configuration of a loss to the loss."""

from typing import Any

import numpy.typing as npt
from torch import nn

from pgsearch.config.base import PerGroup
from pgsearch.config.loss import (
    BCELossConfig,
    FocalLossConfig,
    LossConfig,
    Mode,
    NTRLossConfig,
    PGLossConfig,
)
from pgsearch.losses.pg import Bias, Factor, Factors, Focusing, PGLoss
from pgsearch.losses.reweighted import Rebalance

NO_BIAS = Bias(kappa=0.0)


def build_loss(
    config: LossConfig,
    class_counts_C: npt.ArrayLike,
    class_groups_C: npt.ArrayLike,
    *,
    num_images: int,
    class_names: tuple[str, ...],
) -> nn.Module:
    """Return the loss of a configuration, for a training set with these counts and groups.

    Raises InvalidData naming a class that is in none or in all of the images.
    """
    settings: dict[str, Any]
    match config:
        case BCELossConfig():
            settings = {"bias": NO_BIAS}
        case FocalLossConfig():
            focusing = Focusing(mode_G=("fixed",) * 3, gamma_G=config.gamma.values_G)
            settings = {"bias": NO_BIAS, "focusing": focusing, "balance": config.balance}
        case NTRLossConfig():
            scale = Factor(base_G=(config.scale,) * 3)
            settings = _biased(config) | {"factors": Factors(lambda1_neg=scale, lambda2_neg=scale)}
        case PGLossConfig():
            settings = _biased(config) | {
                "factors": Factors(
                    lambda1_neg=_factor(config.lambda1_neg, config.lambda1_neg_mode),
                    lambda2_neg=_factor(config.lambda2_neg, config.lambda2_neg_mode),
                    lambda1_pos=_factor(config.lambda1_pos, config.lambda1_pos_mode),
                    lambda2_pos=_factor(config.lambda2_pos, config.lambda2_pos_mode),
                ),
                "focusing": Focusing(
                    mode_G=config.focusing.values_G,
                    gamma_G=config.gamma.values_G,
                    lambda0_G=config.lambda0.values_G,
                    focal_logit=config.focal_logit,
                ),
                "max_ratio": config.max_ratio,
            }
    return PGLoss(
        class_counts_C,
        class_groups_C,
        num_images=num_images,
        class_names=class_names,
        **settings,
    )


def _biased(config: NTRLossConfig | PGLossConfig) -> dict[str, Any]:
    rebalance = Rebalance(
        alpha=config.rebalance_alpha, beta=config.rebalance_beta, mu=config.rebalance_mu
    )
    return {
        "bias": Bias(kappa=config.kappa, over_scale=config.bias_over_scale),
        "rebalance": rebalance if config.rebalance_weight else None,
    }


def _factor(base: PerGroup[float], mode: PerGroup[Mode]) -> Factor:
    return Factor(
        base_G=base.values_G, adaptive_G=tuple(value == "adaptive" for value in mode.values_G)
    )
