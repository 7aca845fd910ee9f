"""The baselines of Table 2 outside the PG family: against the reference, by hand, and refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgsearch.errors import InvalidData
from pgsearch.losses import (
    ASLLoss,
    Bias,
    CBFocalLoss,
    Factor,
    Factors,
    Focusing,
    LDAMLoss,
    PGLoss,
    Rebalance,
    RWLoss,
    asl_loss,
    cb_focal_loss,
    class_balanced_weight,
    class_balanced_weight_of_labels,
    inverse_frequency_weight,
    ldam_loss,
    ldam_margin,
    rw_loss,
)
from tests import reference
from tests.losses.cases import (
    BASELINES,
    CB_MODES,
    COUNTS_C,
    GROUPS_C,
    NUM_IMAGES,
    Setting,
    batch,
)
from tests.losses.test_against_reference import batches, by_class, exponents

examples = settings(max_examples=50, deadline=None)
F64 = torch.float64
SMOOTHING = ("alpha", "beta", "mu")

class_counts = by_class(st.integers(1, 10**5))
betas = st.one_of(st.just(0.0), st.floats(0.01, 0.9999))


def assert_agree(module, data, expected, *, balance=1.0, atol=1e-100):
    """The mean and its gradient are those of the elements and slopes that the reference gives."""
    value_BC, slope_BC = expected
    z = torch.tensor(data[0], requires_grad=True)
    output = module(z, torch.tensor(data[1]))
    (gradient,) = torch.autograd.grad(output.loss, z)
    mean = balance * math.fsum(value_BC.ravel()) / value_BC.size
    np.testing.assert_allclose(output.loss.item(), mean, rtol=1e-10, atol=atol)
    slope_BC = balance * slope_BC / slope_BC.size
    np.testing.assert_allclose(gradient.numpy(), slope_BC, rtol=1e-10, atol=atol)
    assert output.factors == {}


# ---------------------------------------------------------------- against the reference


@examples
@given(batches(bound=100.0), class_counts, st.sampled_from(["sqrt", "inv"]))
def test_rw(data, counts, weighting):
    module = RWLoss(counts, num_images=10**5, weighting=weighting, dtype=F64)
    weights = reference.class_weights(counts, 10**5, weighting)
    assert_agree(module, data, reference.rw(*data, weights))


@examples
@given(
    batches(bound=100.0),
    class_counts,
    betas,
    st.sampled_from(CB_MODES),
    exponents,
    st.floats(0.5, 4.0),
)
def test_cb_focal(data, counts, beta, mode, gamma, balance):
    module = CBFocalLoss(counts, beta=beta, mode=mode, gamma=gamma, balance=balance)
    expected = reference.cb_focal(*data, counts, beta, mode, gamma)
    assert_agree(module, data, expected, balance=balance)


@examples
@given(
    batches(bound=60.0),
    class_counts,
    st.floats(1.0, 40.0),
    st.floats(0.0, 1.0),
    st.one_of(st.none(), betas),
)
def test_ldam(data, counts, scale, margin, reweight_beta):
    module = LDAMLoss(counts, scale=scale, margin=margin, reweight_beta=reweight_beta, dtype=F64)
    # An ulp of z − sΔ is worth 1e-14 of a slope at z − sΔ = 100.
    assert_agree(module, data, reference.ldam(*data, counts, scale, margin, reweight_beta))


@examples
@given(
    batches(bound=100.0),
    exponents,
    exponents,
    st.one_of(st.just(0.0), st.floats(0.001, 0.5)),
    st.sampled_from([1e-8, 1e-4]),
)
def test_asl(data, gamma_pos, gamma_neg, clip, clamp):
    # In the corners, where the clip or the clamp begins, the side is a matter of rounding.
    p = 1 / (1 + np.exp(-data[0]))
    assume(abs(p - clip).min() > 1e-9)
    assume(abs(p / clamp - 1).min() > 1e-9)
    assume(abs((1 - p + clip) / clamp - 1).min() > 1e-9)
    module = ASLLoss(gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip, clamp=clamp)
    expected = reference.asl(*data, gamma_pos, gamma_neg, clip, clamp)
    # p − m and log(1 − p_m) cancel at the clip, so there an ulp of p is all that can be asked.
    assert_agree(module, data, expected, atol=1e-15)


@examples
@given(
    batches(),
    by_class(st.integers(1, 10**5 - 1)),
    st.floats(0.2, 8.0),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.booleans(),
    st.one_of(st.none(), st.tuples(st.floats(0, 1), st.floats(0.1, 20), st.floats(0.1, 0.6))),
    exponents,
    st.sampled_from([1.0, 2.0]),
)
def test_db(data, counts, scale, kappa, over_scale, rebalance, gamma, balance):
    """The special case of PGLoss is DB as DB writes it."""
    one_scale = Factor((scale,) * 3)
    setting = Setting(
        Factors(lambda1_neg=one_scale, lambda2_neg=one_scale),
        Focusing(("fixed",) * 3, (gamma,) * 3),
        Bias(kappa, over_scale),
        None if rebalance is None else Rebalance(**dict(zip(SMOOTHING, rebalance, strict=True))),
        balance,
    )
    module = PGLoss(counts, GROUPS_C, num_images=10**5, dtype=F64, **vars(setting))
    z = torch.tensor(data[0], requires_grad=True)
    output = module(z, torch.tensor(data[1]))
    (gradient,) = torch.autograd.grad(output.loss, z)
    value_BC, slope_BC = reference.db(
        *data,
        counts=counts,
        num_images=10**5,
        scale=scale,
        kappa=kappa,
        over_scale=over_scale,
        rebalance=rebalance,
        gamma=gamma,
        balance=balance,
    )
    np.testing.assert_allclose(output.loss.item(), value_BC.mean(), rtol=1e-10)
    np.testing.assert_allclose(gradient.numpy(), slope_BC / slope_BC.size, rtol=1e-10, atol=1e-100)


# ---------------------------------------------------------------- by hand


def test_inverse_frequency_weights():
    counts = torch.tensor([4, 25, 100])
    assert inverse_frequency_weight(counts, 100).tolist() == [5.0, 2.0, 1.0]
    assert inverse_frequency_weight(counts, 100, weighting="inv").tolist() == [25.0, 4.0, 1.0]


def test_effective_number():
    """1 + 0.9 = 1.9 effective samples of 2; from 1 at n = 1 to 1 − β."""
    weights = class_balanced_weight(torch.tensor([1.0, 2.0, math.inf], dtype=F64), beta=0.9)
    assert weights.tolist() == pytest.approx([1.0, 1 / 1.9, 0.1], rel=1e-14)
    assert class_balanced_weight(torch.tensor([1, 7]), beta=0.0).tolist() == [1.0, 1.0]


def test_effective_number_keeps_the_digits_of_float32():
    """1 − βⁿ as written is 5e-4 off at n = 1."""
    counts = torch.tensor([1.0, 3.0, 50.0, 1e4])
    expected = [reference.effective_number_weight(n, 0.9999) for n in counts.tolist()]
    actual = class_balanced_weight(counts, beta=0.9999).tolist()
    assert actual == pytest.approx(expected, rel=3e-7)


ONE, TWO, FOUR = 1.0, 1 / 1.5, 1 / 1.875  # (1 − β)/(1 − βⁿ) at β = 1/2 and n = 1, 2, 4
ROWS = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("by_class", [ONE, TWO, FOUR]),
        ("average_w", [[(ONE + FOUR) / 2], [TWO], [0.5]]),
        ("average_n", [[0.5 / (1 - 0.5**2.5)], [TWO], [0.5]]),
        ("min_n", [[ONE], [TWO], [0.5]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16])
def test_modes_of_the_class_balanced_weight(mode, expected, dtype):
    """The last image has no positives: the weight of an infinite count."""
    actual = class_balanced_weight_of_labels(
        torch.tensor(ROWS).to(dtype), torch.tensor([1.0, 2.0, 4.0], dtype=F64), beta=0.5, mode=mode
    )
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64), rtol=1e-14, atol=0)


def test_margins():
    """m for the rarest class; n^(−1/4): 16 times the images is half the margin."""
    margins = ldam_margin(torch.tensor([81 * 16, 81, 1]), margin=0.6)
    assert margins.tolist() == pytest.approx([0.1, 0.2, 0.6])
    assert ldam_margin(torch.tensor([160, 10])).tolist() == pytest.approx([0.25, 0.5])


def test_the_deferred_weight_has_mean_one():
    """So that the loss keeps its size when it begins."""
    module = LDAMLoss(COUNTS_C, reweight_beta=0.9999, dtype=F64)
    assert module.weight_C.mean().item() == pytest.approx(1.0, rel=1e-14)
    assert module.weight_C[5] / module.weight_C[4] == pytest.approx(12 / 5, rel=1e-3)
    assert LDAMLoss(COUNTS_C).weight_C.tolist() == [1.0] * len(COUNTS_C)


def test_asl_by_hand():
    """p = 1/2 and 1/50, as positive and as negative."""
    z = torch.tensor([[0.0, -math.log(49)]] * 2, dtype=F64)
    y = torch.tensor([[1, 1], [0, 0]])
    expected = [[0.5 * math.log(2), 0.98 * math.log(50)], [-(0.45**4) * math.log(0.55), 0.0]]
    torch.testing.assert_close(asl_loss(z, y), torch.tensor(expected, dtype=F64))


def test_asl_rests_below_its_clip_and_beyond_its_clamp():
    """Gradient 0 there, as published: the sign test of the other losses does not hold for ASL."""
    p = torch.tensor([0.01, 0.049, 0.051, 0.9], dtype=F64)
    z = torch.stack([p.logit(), torch.tensor([-18.5, -18.3, 18.0, 40.0], dtype=F64)])
    z.requires_grad_()
    y = torch.tensor([[0] * 4, [1] * 4])
    value = asl_loss(z, y)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value[0, :2].tolist() == [0.0, 0.0]
    assert value[1, 0].item() == pytest.approx(8 * math.log(10))
    assert (gradient[0, :2] == 0).all()
    assert (gradient[0, 2:] > 0).all()
    assert gradient[1, 0] == 0
    assert (gradient[1, 1:] < 0).all()


def test_asl_without_a_clip_keeps_the_digits_of_a_small_gradient():
    z = torch.tensor([[-30.0]], requires_grad=True)
    asl_loss(z, torch.tensor([[0]]), gamma_neg=0.0, clip=0.0).backward()
    assert z.grad.item() == pytest.approx(math.exp(-30), rel=1e-5)


# ---------------------------------------------------------------- modules, gradients, refusals


def test_modules_are_means_of_their_functions():
    logits, targets = batch()
    counts = torch.tensor(COUNTS_C, dtype=F64)
    weight_C = inverse_frequency_weight(counts, NUM_IMAGES, weighting="inv")
    weight_B1 = class_balanced_weight_of_labels(targets, counts, beta=0.99, mode="min_n")
    drw_C = class_balanced_weight(counts, beta=0.99)
    asl = {"gamma_pos": 0.7, "gamma_neg": 2.5, "clip": 0.1, "clamp": 1e-3}
    pairs = [
        (
            RWLoss(COUNTS_C, num_images=NUM_IMAGES, weighting="inv", dtype=F64),
            rw_loss(logits, targets, weight_C=weight_C),
        ),
        (
            CBFocalLoss(COUNTS_C, beta=0.99, mode="min_n", gamma=1.5, balance=3.0),
            3.0 * cb_focal_loss(logits, targets, weight=weight_B1, gamma=1.5),
        ),
        (
            LDAMLoss(COUNTS_C, scale=8.0, margin=0.3, reweight_beta=0.99, dtype=F64),
            drw_C
            / drw_C.mean()
            * ldam_loss(logits, targets, margin_C=ldam_margin(counts, margin=0.3), scale=8.0),
        ),
        (ASLLoss(**asl), asl_loss(logits, targets, **asl)),
    ]
    for module, expected_BC in pairs:
        assert expected_BC.shape == logits.shape
        assert (expected_BC >= 0).all()
        actual = module(logits, targets).loss
        torch.testing.assert_close(actual, expected_BC.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_functions_compute_half_precision_in_float32(dtype):
    """Even where all that they are given is half."""
    logits, targets = batch()
    z, same_C = logits.to(dtype), torch.full((len(COUNTS_C),), 0.375, dtype=dtype)
    for loss in (
        lambda z, w: rw_loss(z, targets, weight_C=w),
        lambda z, w: cb_focal_loss(z, targets, weight=w),
        lambda z, w: ldam_loss(z, targets, margin_C=w),
        lambda z, w: asl_loss(z, targets),
    ):
        assert loss(z, same_C).dtype == torch.float32
        assert torch.equal(loss(z, same_C), loss(z.float(), same_C.float()))


def test_counts_stay_exact_in_half_precision():
    assert CBFocalLoss([4099, 3]).half().class_counts_C.tolist() == [4099, 3]


@pytest.mark.parametrize("name", BASELINES)
def test_every_gradient_points_towards_its_label(name):
    """ASL rests below its clip; at this spread no logit is there."""
    logits, targets = batch(spread=1.0)
    assert logits.sigmoid()[~targets].min() > 0.05
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(BASELINES[name]()(logits, targets).loss, logits)
    assert (gradient[targets] < 0).all()
    assert (gradient[~targets] > 0).all()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (lambda *a, **k: RWLoss(*a, num_images=10, **k), "the weight N/n of rw"),
        (CBFocalLoss, "the class-balanced weight"),
        (LDAMLoss, "the margin n^(-1/4) of ldam"),
    ],
)
def test_empty_classes_are_named(module, reason):
    with pytest.raises(InvalidData) as caught:
        module([3, 0, 7, 0], class_names=["cat", "dog", "cow", "sky"])
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0] == (
        f"class 'dog': contained in 0 training images, but {reason} needs n >= 1; correct its "
        "labels, remove the class, or use a loss without it"
    )
    assert "class 'sky'" in caught.value.problems[1]
    with pytest.raises(InvalidData, match="class 1: contained in 0"):
        module([3, 0])
    with pytest.raises(InvalidData, match="class 0: contained in nan"):
        module([math.nan, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CBFocalLoss([1], beta=1.0), "beta"),
        (lambda: CBFocalLoss([1], beta=-0.1), "beta"),
        (lambda: LDAMLoss([1], reweight_beta=1.0), "beta"),
        (lambda: ASLLoss(clip=1.0), "clip"),
        (lambda: ASLLoss(clip=-0.1), "clip"),
        (lambda: ASLLoss(clamp=0.0), "clamp"),
        (lambda: ASLLoss(clamp=1.1), "clamp"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
