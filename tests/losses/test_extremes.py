"""Finite, and right, at logits of ±100 and 0 in every precision."""

import numpy as np
import pytest
import torch

from pgsearch.losses import Bias, Factor, Factors, Focusing
from tests import reference
from tests.losses.cases import (
    BASELINES,
    FOCAL_LOGITS,
    LOSSES,
    NUM_CLASSES,
    SETTINGS,
    Setting,
    batch,
    with_focal_logit,
)

SIZE = 8
TARGETS = batch(size=SIZE)[1]
ALTERNATING = torch.ones(SIZE, NUM_CLASSES)
ALTERNATING[::2, ::2] = -1
ALTERNATING[1::2, 1::2] = -1
PATTERNS = {
    "zero": torch.zeros(SIZE, NUM_CLASSES),
    "high": torch.full((SIZE, NUM_CLASSES), 100.0),
    "low": torch.full((SIZE, NUM_CLASSES), -100.0),
    "alternating": ALTERNATING * 100,
    "right": torch.where(TARGETS, 100.0, -100.0),
    "wrong": torch.where(TARGETS, -100.0, 100.0),
}
UNDER_ONE = Setting(
    Factors(Factor((5.0, 0.1, 1.0)), Factor((0.1, 5.0, 1.0)), Factor((5.0, 0.1, 1.0))),
    Focusing(("fixed",) * 3, gamma_G=(0.1, 0.5, 0.9)),
)
EXTREME_SETTINGS = SETTINGS | {"under-one": UNDER_ONE}
VARIANTS = {
    f"{name}-{focal_logit}": with_focal_logit(setting, focal_logit)
    for name, setting in EXTREME_SETTINGS.items()
    for focal_logit in FOCAL_LOGITS
}


def assert_finite(module, logits):
    logits = logits.clone().requires_grad_()
    loss, factors = module(logits, TARGETS)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert all(factor.isfinite().all() for factor in factors.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_contract(name, dtype):
    for pattern in PATTERNS.values():
        assert_finite(LOSSES[name](), pattern.to(dtype))


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name):
    """What the PG family is tested for below: other precisions, and autocast."""
    for pattern in PATTERNS.values():
        assert_finite(BASELINES[name](), pattern.half())
        assert_finite(BASELINES[name](), pattern.double())
        outside = BASELINES[name]()(pattern, TARGETS).loss
        for lowered in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=lowered):
                assert_finite(BASELINES[name](), pattern)
                inside = BASELINES[name]()(pattern, TARGETS).loss
            assert torch.equal(inside, outside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name, dtype):
    for pattern in PATTERNS.values():
        assert_finite(VARIANTS[name].module(), pattern.to(dtype))


@pytest.mark.parametrize("name", VARIANTS)
def test_float16(name):
    """Gradients up to 8.4e6² do not fit into float16 (65504): there the ratios are bounded."""
    setting = VARIANTS[name]
    if setting.module().is_adaptive:
        setting = Setting(**(vars(setting) | {"max_ratio": 10.0}))
    for pattern in PATTERNS.values():
        assert_finite(setting.module(), pattern.half())


@pytest.mark.parametrize("lowered", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", VARIANTS)
def test_autocast_changes_nothing(name, lowered):
    module = VARIANTS[name].module()
    for pattern in [*PATTERNS.values(), batch(size=SIZE)[0].float()]:
        outside = module(pattern, TARGETS)
        with torch.autocast("cpu", dtype=lowered):
            inside = module(pattern, TARGETS)
        assert inside.loss.isfinite()
        assert inside.loss.dtype == torch.float32
        assert torch.equal(inside.loss, outside.loss)
        for factor, value in outside.factors.items():
            assert torch.equal(inside.factors[factor], value)


@pytest.mark.parametrize("lowered", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EXTREME_SETTINGS)
def test_gradient_under_autocast(name, lowered):
    for pattern in PATTERNS.values():
        with torch.autocast("cpu", dtype=lowered):
            assert_finite(EXTREME_SETTINGS[name].module(), pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", EXTREME_SETTINGS)
def test_value_in_float32_is_that_of_the_reference(name, pattern):
    """κ = 0, because reference and float32 round s = z − v differently before a factor of 8e6."""
    setting = Setting(**(vars(EXTREME_SETTINGS[name]) | {"bias": Bias(kappa=0.0)}))
    logits = PATTERNS[pattern]
    expected, _ = reference.pg_module(
        logits.double().tolist(), TARGETS.tolist(), **setting.for_reference()
    )
    actual = setting.module()(logits, TARGETS).loss
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-37)
