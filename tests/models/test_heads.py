"""The cosine head against loops, and what it must never do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pgsearch.models.heads import CosineHead
from tests.models import reference
from tests.models.models import build, model_config


def cosine_head(num_features=6, num_classes=4, *, scale=30.0, seed=0):
    torch.manual_seed(seed)
    return CosineHead(num_features, num_classes, scale=scale).double()


@given(
    seed=st.integers(0, 2**31),
    num_images=st.integers(1, 5),
    num_classes=st.integers(1, 5),
    num_features=st.integers(1, 7),
    scale=st.floats(0.1, 100),
    spread=st.floats(-3, 3),
)
def test_cosine_head_equals_loops(seed, num_images, num_classes, num_features, scale, spread):
    head = cosine_head(num_features, num_classes, scale=scale, seed=seed)
    with torch.no_grad():
        head.weight.mul_(10**-spread)
    features_BD = torch.randn(num_images, num_features, dtype=torch.float64) * 10**spread
    expected = reference.cosine_logits(features_BD.numpy(), head.weight.detach().numpy(), scale)
    np.testing.assert_allclose(head(features_BD).detach().numpy(), expected, atol=1e-12 * scale)


def test_cosine_head_knows_direction_alone():
    head = cosine_head()
    features_BD = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(head(1e3 * features_BD), head(features_BD))
    with torch.no_grad():
        logits_BC = head(head.weight)
    torch.testing.assert_close(logits_BC.diagonal(), torch.full((4,), 30.0, dtype=torch.float64))
    assert bool((logits_BC.abs() <= 30 + 1e-9).all())


def test_cosine_head_has_the_right_gradient():
    head = cosine_head()
    features_BD = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    weight_CD = head.weight.detach().clone().requires_grad_()

    def logits(features_BD, weight_CD):
        return torch.func.functional_call(head, {"weight": weight_CD}, features_BD)

    assert torch.autograd.gradcheck(logits, (features_BD, weight_CD))


def test_features_of_zeros_give_logits_of_zeros_and_finite_gradients():
    head = cosine_head().float()
    features_BD = torch.zeros(2, 6, requires_grad=True)
    logits_BC = head(features_BD)
    assert not logits_BC.any()
    logits_BC.sum().backward()
    assert bool(features_BD.grad.isfinite().all())
    assert bool(head.weight.grad.isfinite().all())


def test_class_weights_start_with_length_one_in_all_directions():
    torch.manual_seed(0)
    weight_CD = CosineHead(50, 4000, scale=30.0).weight.detach()
    torch.testing.assert_close(weight_CD.norm(dim=1), torch.ones(4000))
    # Each coordinate of a random direction in 50 dimensions has mean 0 and variance 1/50.
    assert weight_CD.mean(dim=0).abs().max().item() < 0.01
    torch.testing.assert_close(weight_CD.var(dim=0), torch.full((50,), 0.02), rtol=0.15, atol=0)


def test_cosine_head_of_a_classifier_has_the_configured_scale_and_no_bias():
    model = build(head="cosine", cosine_scale=7.0).eval()
    assert {name for name, _ in model.head.named_parameters()} == {"weight"}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features_BD = model.neck(model.backbone(images))
        expected = reference.cosine_logits(features_BD.numpy(), model.head.weight.numpy(), 7.0)
        np.testing.assert_allclose(model(images).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "gcn"},
        {"cosine_scale": 0.0},
        {"pool": "sum"},
        {"word_vectors": ""},
        {"gcn_threshold": 1.1},
        {"gcn_weight": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        model_config(**settings)
