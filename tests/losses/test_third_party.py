"""Values and gradients of other people's implementations, where they have the published formula."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from pgsearch.losses import asl_loss, focal_loss
from tests.losses.cases import batch


def value_and_gradient(loss, z):
    z = z.clone().requires_grad_()
    value = loss(z)
    return value.detach(), *torch.autograd.grad(value.sum(), z)


def assert_same(one, other, z, *, rtol, atol):
    for a, b in zip(value_and_gradient(one, z), value_and_gradient(other, z), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_torchvisions(gamma):
    """Without α (−1). It takes a power of 1 − p_t: where that rounds to 0 (a positive at z = 40)
    its value is 0, and for γ < 1 its gradient NaN; before, it loses digits. Compared at |z| ≤ 12.
    """
    logits, targets = batch(size=32)
    z = logits.clamp(-12, 12)
    assert_same(
        lambda z: focal_loss(z, targets, gamma=gamma),
        lambda z: sigmoid_focal_loss(z, targets.double(), alpha=-1, gamma=gamma),
        z,
        rtol=1e-9,
        atol=1e-14,
    )


SETTINGS = [
    {},  # the published defaults
    {"gamma_pos": 0.0, "gamma_neg": 2.0, "clip": 0.2},
    {"gamma_pos": 2.0, "gamma_neg": 3.0, "clip": 0.0},
    {"gamma_pos": 0.0, "gamma_neg": 0.0, "clip": 0.05},
]


def timms(targets, **settings):
    timm_loss = pytest.importorskip("timm.loss")
    loss = timm_loss.AsymmetricLossMultiLabel(**settings)
    # Image by image, as its versions differ: a sum over the batch, or the mean of such sums.
    return lambda z: torch.stack(
        [loss(z[i : i + 1], targets[i : i + 1].float()) for i in range(len(z))]
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_asl_is_timms(settings):
    """Its mode `disable_torch_grad_focal_loss`, the published one; it sums over the classes.

    It computes in float32 and by 1 − σ(z), so a negative of a large logit without a clip loses its
    digits (from z = 17 on, 1 − σ is 0 and the clamp acts): compared at |z| < 7.
    """
    logits, targets = batch(size=32)
    z = logits.clamp(-7, 7).float()
    assert_same(
        lambda z: asl_loss(z, targets, **settings).sum(dim=1),
        timms(targets, disable_torch_grad_focal_loss=True, **settings),
        z,
        rtol=2e-4,
        atol=2e-6,
    )


def test_timms_default_has_the_same_value_and_another_gradient():
    """There the factors are not detached."""
    logits, targets = batch(size=32)
    z = logits.clamp(-7, 7).float()
    one = value_and_gradient(lambda z: asl_loss(z, targets).sum(dim=1), z)
    other = value_and_gradient(timms(targets, disable_torch_grad_focal_loss=False), z)
    torch.testing.assert_close(one[0], other[0], rtol=2e-4, atol=2e-6)
    assert (one[1] - other[1]).abs().max() > 0.01
