"""Each loss of the family becomes a simpler one at its neutral setting, in value and gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.losses import (
    apaf_loss,
    bce_loss,
    class_bias,
    focal_loss,
    ntr_loss,
    pg_loss,
    pr_loss,
)
from tests.losses.cases import COUNTS_C, FOCAL_LOGITS, NUM_CLASSES, NUM_IMAGES, batch, per_class

ONES = torch.ones(NUM_CLASSES, dtype=torch.float64)
ZEROS = torch.zeros(NUM_CLASSES, dtype=torch.float64)
BIAS = class_bias(COUNTS_C, NUM_IMAGES)
FACTORS = {
    "lambda1_neg_C": per_class(5.0, 2.0, 0.5),
    "lambda2_neg_C": per_class(3.0, 0.7, 1.1),
    "lambda1_pos_C": per_class(1.3, 4.0, 0.2),
    "lambda2_pos_C": per_class(0.9, 1.0, 6.0),
}
ALL_ONE = dict.fromkeys(FACTORS, ONES)


def scaled_negatives(scale: Tensor) -> dict[str, Tensor]:
    """λ₁⁻ = λ₂⁻ = scale, λ₁⁺ = λ₂⁺ = 1"""
    return ALL_ONE | {"lambda1_neg_C": scale, "lambda2_neg_C": scale}


def assert_same(one, other, logits, targets):
    results = []
    for loss in (one, other):
        z = logits.clone().requires_grad_()
        value = loss(z, targets)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        results.append((value.detach(), gradient))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.fixture(params=[0, 1, 2])
def data(request):
    return batch(request.param, size=16, spread=4.0)


def test_bce_is_torchs_bce(data):
    def torchs(z, y):
        return binary_cross_entropy_with_logits(z, y.double(), reduction="none")

    assert_same(bce_loss, torchs, *data)


@pytest.mark.parametrize("focal_logit", FOCAL_LOGITS)
def test_pg_without_focusing_is_pr(data, focal_logit):
    def pg(z, y):
        return pg_loss(
            z,
            y,
            **FACTORS,
            focusing_neg_C=ZEROS,
            focusing_pos_C=ZEROS,
            bias_C=BIAS,
            focal_logit=focal_logit,
        )

    assert_same(pg, lambda z, y: pr_loss(z, y, **FACTORS, bias_C=BIAS), *data)


def test_pr_with_one_lambda_for_negatives_is_ntr(data):
    scale = per_class(5.0, 2.0, 0.5)
    assert_same(
        lambda z, y: pr_loss(z, y, **scaled_negatives(scale), bias_C=BIAS),
        lambda z, y: ntr_loss(z, y, lambda_C=scale, bias_C=BIAS),
        *data,
    )


def test_ntr_of_one_is_bce_of_the_shifted_logit(data):
    assert_same(
        lambda z, y: ntr_loss(z, y, lambda_C=ONES, bias_C=BIAS),
        lambda z, y: bce_loss(z - BIAS, y),
        *data,
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("focal_logit", FOCAL_LOGITS)
def test_pg_with_neutral_factors_is_focal(data, focal_logit, gamma):
    def pg(z, y):
        return pg_loss(
            z,
            y,
            **ALL_ONE,
            focusing_neg_C=gamma * ONES,
            focusing_pos_C=gamma * ONES,
            bias_C=ZEROS,
            focal_logit=focal_logit,
        )

    assert_same(pg, lambda z, y: focal_loss(z, y, gamma=gamma), *data)


@pytest.mark.parametrize("focal_logit", FOCAL_LOGITS)
def test_pg_with_neutral_factors_is_apaf(data, focal_logit):
    focusing = {
        "focusing_neg_C": per_class(0.3, 2.0, 1.0),
        "focusing_pos_C": per_class(2.5, 0.1, 3.0),
    }

    def pg(z, y):
        return pg_loss(z, y, **ALL_ONE, **focusing, bias_C=ZEROS, focal_logit=focal_logit)

    assert_same(pg, lambda z, y: apaf_loss(z, y, **focusing), *data)


def test_focal_of_zero_is_bce(data):
    assert_same(lambda z, y: focal_loss(z, y, gamma=0.0), bce_loss, *data)


@pytest.mark.parametrize("scale", [5.0, 2.0])
def test_twice_pg_is_db_focal_without_its_weight(data, scale):
    def db_focal(z, y):
        """2 (1−p_t(u))² ω BCE(u, y); u = s, ω = 1 for y = 1 and u = λs, ω = 1/λ for y = 0."""
        s = z - BIAS / scale
        u = torch.where(y, s, scale * s)
        omega = torch.where(y, ONES, ONES / scale)
        p_t = torch.where(y, u.sigmoid(), 1 - u.sigmoid())
        bce = binary_cross_entropy_with_logits(u, y.double(), reduction="none")
        return 2 * (1 - p_t) ** 2 * omega * bce

    def twice_pg(z, y):
        return 2 * pg_loss(
            z,
            y,
            **scaled_negatives(scale * ONES),
            focusing_neg_C=2 * ONES,
            focusing_pos_C=2 * ONES,
            bias_C=BIAS / scale,
            focal_logit="scaled",
        )

    assert_same(db_focal, twice_pg, *data)


def test_the_focal_logits_differ(data):
    """Otherwise the tests above would not tell them apart."""
    logits, targets = data
    values = [
        pg_loss(
            logits,
            targets,
            **FACTORS,
            focusing_neg_C=2 * ONES,
            focusing_pos_C=2 * ONES,
            bias_C=BIAS,
            focal_logit=focal_logit,
        )
        for focal_logit in FOCAL_LOGITS
    ]
    assert (values[0] - values[1]).abs().max() > 1e-3
    assert (values[1] - values[2]).abs().max() > 1e-3
