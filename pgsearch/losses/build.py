"""From the configuration of a loss to the loss."""

from functools import partial
from typing import Any

import numpy.typing as npt
from torch import nn

from pgsearch.config.base import PerGroup
from pgsearch.config.loss import (
    ASLLossConfig,
    BCELossConfig,
    CBFocalLossConfig,
    DBFocalLossConfig,
    DBLossConfig,
    FocalLossConfig,
    LDAMLossConfig,
    LossConfig,
    Mode,
    PGLossConfig,
    RWLossConfig,
)
from pgsearch.losses.baselines import ASLLoss, CBFocalLoss, LDAMLoss, RWLoss
from pgsearch.losses.factors import Bias, Factor, Factors, Focusing
from pgsearch.losses.pg import PGLoss
from pgsearch.losses.reweighted import Rebalance

NO_BIAS = Bias(kappa=0.0)


def build_loss(
    config: LossConfig,
    class_counts_C: npt.ArrayLike,
    class_groups_C: npt.ArrayLike,
    *,
    num_images: int,
    class_names: tuple[str, ...],
    epoch: int = 1,
) -> nn.Module:
    """Return the loss of a configuration, for a training set with these counts and groups.

    A loss holds no state and counts no epochs. One whose configuration changes in training (LDAM
    with `reweight_after`) is built again for each epoch, counted from 1.

    Raises InvalidData naming a class that has no bias, weight or margin: one in none of the images
    (or in all of them, for a bias).
    """
    family = partial(
        PGLoss, class_counts_C, class_groups_C, num_images=num_images, class_names=class_names
    )
    match config:
        case BCELossConfig():
            return family(bias=NO_BIAS)
        case FocalLossConfig():
            focusing = Focusing(mode_G=("fixed",) * 3, gamma_G=config.gamma.values_G)
            return family(bias=NO_BIAS, focusing=focusing, balance=config.balance)
        case RWLossConfig():
            return RWLoss(
                class_counts_C,
                num_images=num_images,
                weighting=config.weighting,
                class_names=class_names,
            )
        case CBFocalLossConfig():
            return CBFocalLoss(
                class_counts_C,
                beta=config.beta,
                mode=config.mode,
                gamma=config.gamma,
                balance=config.balance,
                class_names=class_names,
            )
        case LDAMLossConfig():
            reweight = config.reweight_after is not None and epoch > config.reweight_after
            return LDAMLoss(
                class_counts_C,
                scale=config.scale,
                margin=config.margin,
                reweight_beta=config.reweight_beta if reweight else None,
                class_names=class_names,
            )
        case ASLLossConfig():
            return ASLLoss(
                gamma_pos=config.gamma_pos,
                gamma_neg=config.gamma_neg,
                clip=config.clip,
                clamp=config.clamp,
            )
        case DBFocalLossConfig():
            focusing = Focusing(("fixed",) * 3, (config.gamma,) * 3, focal_logit="scaled")
            return family(**_db(config), focusing=focusing, balance=config.balance)
        case DBLossConfig():
            return family(**_db(config))
        case PGLossConfig():
            return family(**_pg(config))


def _db(config: DBLossConfig | DBFocalLossConfig) -> dict[str, Any]:
    # BCE(λs)/λ for a negative label is λ₁⁻ = λ₂⁻ = λ.
    scale = Factor(base_G=(config.scale,) * 3)
    return _biased(config) | {"factors": Factors(lambda1_neg=scale, lambda2_neg=scale)}


def _pg(config: PGLossConfig) -> dict[str, Any]:
    return _biased(config) | {
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


def _biased(config: DBLossConfig | DBFocalLossConfig | PGLossConfig) -> dict[str, Any]:
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
