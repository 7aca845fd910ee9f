"""Each configuration of a loss against the reference: no setting lands in another's place."""

from typing import Any

import pytest
import torch

from pgsearch.config.loss import PGLossConfig
from pgsearch.losses.build import build_loss
from tests import reference
from tests.losses.cases import COUNTS_C, GROUPS_C, NUM_IMAGES, batch
from tests.records import spec

ONES, FIXED = (1.0, 1.0, 1.0), (False, False, False)
PLAIN: dict[str, Any] = {
    "settings": dict.fromkeys(
        ("lambda1_neg", "lambda2_neg", "lambda1_pos", "lambda2_pos"), (ONES, FIXED)
    )
    | dict.fromkeys(("focusing_neg", "focusing_pos"), ((0.0, 0.0, 0.0), FIXED)),
    "focal_logit": "scaled",
    "kappa": 0.0,
    "over_scale": False,
    "max_ratio": None,
    "rebalance": None,
    "balance": 1.0,
}


def settings(**changes: Any) -> dict[str, Any]:
    return {"settings": PLAIN["settings"] | changes}


CASES = {
    "bce": ({"name": "bce"}, PLAIN),
    "focal": (
        {"name": "focal", "gamma": {"head": 1.0, "tail": 0.5}, "balance": 2.0},
        PLAIN
        | settings(
            focusing_neg=((1.0, 2.0, 0.5), FIXED), focusing_pos=((1.0, 2.0, 0.5), FIXED)
        )
        | {"balance": 2.0},
    ),
    "ntr": (
        {"name": "ntr", "scale": 4.0, "kappa": 0.07, "bias_over_scale": True,
         "rebalance_alpha": 0.2, "rebalance_beta": 7.0, "rebalance_mu": 0.4},
        PLAIN
        | settings(lambda1_neg=((4.0,) * 3, FIXED), lambda2_neg=((4.0,) * 3, FIXED))
        | {"kappa": 0.07, "over_scale": True, "rebalance": (0.2, 7.0, 0.4)},
    ),
    "pg": (
        {"name": "pg", "rebalance_weight": False, "focal_logit": "shifted", "max_ratio": 8.0,
         "lambda1_neg": {"head": 2.0, "tail": 3.0}, "lambda2_neg": {"medium": 1.5},
         "lambda1_pos": {"tail": 0.7}, "lambda2_pos": {"head": 4.0},
         "lambda1_neg_mode": {"tail": "adaptive"}, "lambda2_neg_mode": {"head": "adaptive"},
         "lambda1_pos_mode": {"medium": "adaptive"}, "lambda2_pos_mode": "adaptive",
         "focusing": {"head": "none", "medium": "fixed", "tail": "adaptive"},
         "gamma": 1.3, "lambda0": {"tail": 0.6}},
        PLAIN
        | {"settings": {
            "lambda1_neg": ((2.0, 1.0, 3.0), (False, False, True)),
            "lambda2_neg": ((1.0, 1.5, 1.0), (True, False, False)),
            "lambda1_pos": ((1.0, 1.0, 0.7), (False, True, False)),
            "lambda2_pos": ((4.0, 1.0, 1.0), (True, True, True)),
            "focusing_neg": ((0.0, 1.3, 0.6), (False, False, True)),
            "focusing_pos": ((0.0, 1.3, 0.6), (False, False, True)),
        }}
        | {"focal_logit": "shifted", "kappa": 0.05, "max_ratio": 8.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_builds_the_loss_that_it_says(case: str) -> None:
    config, expected = CASES[case]
    loss = build_loss(
        spec(loss=config, space={}).loss,
        COUNTS_C,
        GROUPS_C,
        num_images=NUM_IMAGES,
        class_names=tuple("abcdef"),
    )
    logits_BC, targets_BC = batch(seed=3)
    value, factors = loss(logits_BC.float(), targets_BC.float())
    wanted, wanted_factors = reference.pg_module(
        logits_BC.float().double().numpy(),
        targets_BC.numpy().astype(int),
        counts=COUNTS_C,
        num_images=NUM_IMAGES,
        groups=GROUPS_C,
        **expected,
    )
    assert float(value) == pytest.approx(wanted, rel=2e-5)
    for name, factor_C in factors.items():
        torch.testing.assert_close(
            factor_C.double(), torch.tensor(wanted_factors[name]).double(), rtol=1e-4, atol=1e-6
        )


def test_the_defaults_of_pg_are_the_papers() -> None:
    config = PGLossConfig(name="pg")
    assert (config.kappa, config.focal_logit, config.bias_over_scale) == (0.05, "scaled", False)
    assert (config.rebalance_alpha, config.rebalance_beta, config.rebalance_mu) == (0.1, 10.0, 0.3)
    assert config.rebalance_weight
    assert config.lambda0.values_G == (2.0, 2.0, 2.0)
    assert config.max_ratio is None
