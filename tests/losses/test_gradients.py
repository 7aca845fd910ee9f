"""Gradients: by finite differences, by the paper's slope, and with constant statistics."""

import pytest
import torch
from torch.autograd import gradcheck

from pgsearch.losses import (
    apaf_loss,
    asl_loss,
    bce_loss,
    cb_focal_loss,
    class_bias,
    focal_loss,
    ldam_loss,
    ntr_loss,
    pg_loss,
    pr_loss,
    rebalanced_weight,
    rw_loss,
)
from tests.losses.cases import (
    ADAPTIVE_SETTINGS,
    COUNTS_C,
    FOCAL_LOGITS,
    NUM_IMAGES,
    SETTINGS,
    batch,
    per_class,
    with_focal_logit,
)

BIAS = class_bias(COUNTS_C, NUM_IMAGES)
A, B = per_class(5.0, 2.0, 0.5), per_class(3.0, 0.7, 1.1)
FUNCTIONS = {
    "bce": bce_loss,
    "ntr": lambda z, y: ntr_loss(z, y, lambda_C=A, bias_C=BIAS),
    "pr": lambda z, y: pr_loss(
        z, y, lambda1_neg_C=A, lambda2_neg_C=B, lambda1_pos_C=B, lambda2_pos_C=A, bias_C=BIAS
    ),
    "focal": lambda z, y: focal_loss(z, y, gamma=0.5),
    "apaf": lambda z, y: apaf_loss(z, y, focusing_neg_C=A, focusing_pos_C=B),
    "rw": lambda z, y: rw_loss(z, y, weight_C=A),
    "cb-focal": lambda z, y: cb_focal_loss(z, y, weight=B, gamma=1.5),
    "ldam": lambda z, y: ldam_loss(z, y, margin_C=A / 10, scale=7.0),
    # With exponents, its gradient is not the slope of its value: the factors are detached.
    "asl": lambda z, y: asl_loss(z, y, gamma_pos=0.0, gamma_neg=0.0),
}


def with_constant_factors(module, factors):
    """The module's loss of a batch as a function of the logits alone."""

    def loss(logits, targets):
        loss_BC = pg_loss(
            logits,
            targets,
            **{f"{name}_C": factor for name, factor in factors.items()},
            bias_C=module.bias_C,
            focal_logit=module.focal_logit,
        )
        if module.rebalance is not None:
            loss_BC = loss_BC * rebalanced_weight(
                targets, module.class_counts_C.double(), **vars(module.rebalance)
            )
        return module.balance * loss_BC.mean()

    return loss


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_against_finite_differences(name):
    logits, targets = batch(size=4)
    assert gradcheck(lambda z: FUNCTIONS[name](z, targets), logits.requires_grad_())


@pytest.mark.parametrize("focal_logit", FOCAL_LOGITS)
@pytest.mark.parametrize("name", SETTINGS)
def test_pg_against_finite_differences(name, focal_logit):
    """With the factors that the batch gives, held constant."""
    logits, targets = batch(size=4, spread=1.5)
    module = with_focal_logit(SETTINGS[name], focal_logit).module(torch.float64)
    loss = with_constant_factors(module, module(logits, targets).factors)
    assert gradcheck(lambda z: loss(z, targets), logits.requires_grad_())


@pytest.mark.parametrize("focal_logit", FOCAL_LOGITS)
@pytest.mark.parametrize("name", SETTINGS)
def test_module_is_the_function_with_constant_factors(name, focal_logit):
    """Value and gradient: the statistics of the batch are constants for the gradient."""
    logits, targets = batch()
    logits.requires_grad_()
    module = with_focal_logit(SETTINGS[name], focal_logit).module(torch.float64)
    output = module(logits, targets)
    assert not any(factor.requires_grad for factor in output.factors.values())
    expected = with_constant_factors(module, output.factors)(logits, targets)
    torch.testing.assert_close(output.loss, expected, rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(output.loss, logits)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-14, atol=1e-18)


@pytest.mark.parametrize("name", ADAPTIVE_SETTINGS)
def test_statistics_do_depend_on_the_logits(name):
    """So that the test above has something to find: the factors move with the batch."""
    logits, targets = batch()
    module = SETTINGS[name].module(torch.float64)
    one, other = module(logits, targets).factors, module(logits * 0.9, targets).factors
    assert any(not torch.equal(one[factor], other[factor]) for factor in one)


def test_slope_of_probability_rebalancing():
    """(λ₁⁻/λ₂⁻) σ(λ₁⁻ s) for y = 0 and −(λ₁⁺/λ₂⁺) σ(−λ₁⁺ s) for y = 1."""
    logits, targets = batch(size=16)
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(FUNCTIONS["pr"](logits, targets).sum(), logits)
    s = logits.detach() - BIAS
    expected = torch.where(
        targets, -(B / A) * torch.sigmoid(-B * s), (A / B) * torch.sigmoid(A * s)
    )
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_gradient_points_towards_its_label(name):
    """As printed, Eq. 10 fails this."""
    logits, targets = batch(spread=2.0)
    logits.requires_grad_()
    loss = SETTINGS[name].module(torch.float64)(logits, targets).loss
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[targets] < 0).all()
    assert (gradient[~targets] > 0).all()


def test_second_derivative_is_refused():
    """The slope is given in closed form: derived again, it would count as a constant."""
    logits, targets = batch()
    loss = SETTINGS["pg-fixed"].module(torch.float64)(logits.requires_grad_(), targets).loss
    with pytest.raises(RuntimeError, match="leave out create_graph"):
        torch.autograd.grad(loss, logits, create_graph=True)
