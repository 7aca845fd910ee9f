"""Each loss of the family becomes a simpler one at its neutral setting, in value and gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.losses import (
    ASLLoss,
    CBFocalLoss,
    LDAMLoss,
    RWLoss,
    apaf_loss,
    asl_loss,
    bce_loss,
    class_bias,
    focal_loss,
    ldam_loss,
    ldam_margin,
    ntr_loss,
    pg_loss,
    pr_loss,
    rebalanced_weight,
)
from tests.losses.cases import (
    CB_MODES,
    COUNTS_C,
    FOCAL_LOGITS,
    NUM_CLASSES,
    NUM_IMAGES,
    SETTINGS,
    batch,
    per_class,
)

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


# ---------------------------------------------------------------- the baselines, as modules


def mean_of(loss):
    return lambda z, y: loss(z, y).mean()


def of_module(module):
    return lambda z, y: module(z, y).loss


@pytest.mark.parametrize(("weighting", "constant"), [("sqrt", 2.0), ("inv", 4.0)])
def test_rw_of_equal_counts_is_a_constant_times_bce(data, weighting, constant):
    module = RWLoss([25] * NUM_CLASSES, num_images=100, weighting=weighting, dtype=torch.float64)
    assert_same(of_module(module), mean_of(lambda z, y: constant * bce_loss(z, y)), *data)


@pytest.mark.parametrize("mode", CB_MODES)
def test_cb_focal_without_weight_and_focusing_is_bce(data, mode):
    module = CBFocalLoss(COUNTS_C, beta=0.0, mode=mode, gamma=0.0, balance=1.0)
    assert_same(of_module(module), mean_of(bce_loss), *data)


@pytest.mark.parametrize("mode", CB_MODES)
def test_cb_focal_without_weight_is_focal(data, mode):
    module = CBFocalLoss(COUNTS_C, beta=0.0, mode=mode, gamma=1.5)
    assert_same(of_module(module), mean_of(lambda z, y: 2 * focal_loss(z, y, gamma=1.5)), *data)


@pytest.mark.parametrize("mode", CB_MODES)
def test_cb_focal_of_equal_counts_has_one_weight(data, mode):
    """(1 − 0.9)/(1 − 0.9²) for every label, in every mode."""
    module = CBFocalLoss([2] * NUM_CLASSES, mode=mode, gamma=0.0, balance=1.0)
    assert_same(of_module(module), mean_of(lambda z, y: bce_loss(z, y) / 1.9), *data)


def test_ldam_without_margin_is_bce(data):
    module = LDAMLoss(COUNTS_C, margin=0.0, dtype=torch.float64)
    assert_same(of_module(module), mean_of(bce_loss), *data)


def test_ldam_of_one_count_is_bce_of_the_logit_less_its_margin(data):
    """Of positives alone. Reweighting equal counts changes nothing: its mean is 1."""
    module = LDAMLoss(
        [7] * NUM_CLASSES, scale=3.0, margin=0.4, reweight_beta=0.99, dtype=torch.float64
    )
    assert_same(of_module(module), mean_of(lambda z, y: bce_loss(z - 1.2 * y.double(), y)), *data)


def test_ldam_is_bce_of_a_bias_on_positives(data):
    margin_C = ldam_margin(torch.tensor(COUNTS_C).double())

    def shifted(z, y):
        return bce_loss(z - 30.0 * margin_C * y, y)

    assert_same(lambda z, y: ldam_loss(z, y, margin_C=margin_C), shifted, *data)


def test_asl_without_its_settings_is_bce(data):
    """Within its clamp: at these logits p > 1e-8."""
    assert data[0].abs().max() < 18
    module = ASLLoss(gamma_pos=0.0, gamma_neg=0.0, clip=0.0)
    assert_same(of_module(module), mean_of(bce_loss), *data)


def test_asl_of_equal_exponents_has_the_value_of_focal(data):
    """Not its gradient: the factors of ASL are constants."""
    z, y = data
    actual = asl_loss(z, y, gamma_pos=1.5, gamma_neg=1.5, clip=0.0)
    torch.testing.assert_close(actual, focal_loss(z, y, gamma=1.5), rtol=1e-12, atol=1e-12)


def test_db_focal_is_twice_the_special_case_of_pg(data):
    """With its weight; the test of the unweighted one is above."""
    counts_C = torch.tensor(COUNTS_C, dtype=torch.float64)

    def twice_pg(z, y):
        loss_BC = pg_loss(
            z,
            y,
            **scaled_negatives(5.0 * ONES),
            focusing_neg_C=2 * ONES,
            focusing_pos_C=2 * ONES,
            bias_C=BIAS / 5.0,
        )
        return (2 * rebalanced_weight(y, counts_C, alpha=0.1, beta=10.0, mu=0.3) * loss_BC).mean()

    assert_same(of_module(SETTINGS["db-focal"].module(torch.float64)), twice_pg, *data)


def test_db_is_weighted_ntr(data):
    counts_C = torch.tensor(COUNTS_C, dtype=torch.float64)

    def weighted_ntr(z, y):
        weight_BC = rebalanced_weight(y, counts_C, alpha=0.1, beta=10.0, mu=0.3)
        return (weight_BC * ntr_loss(z, y, lambda_C=5.0 * ONES, bias_C=BIAS / 5.0)).mean()

    assert_same(of_module(SETTINGS["db"].module(torch.float64)), weighted_ntr, *data)
