"""Batch probabilities and adaptive factors, by small cases computed by hand."""

import math

import pytest
import torch

from pgsearch.losses import (
    FACTOR_NAMES,
    Factor,
    Factors,
    Focusing,
    batch_probabilities,
    probability_ratio,
)
from tests.losses.cases import ALL, COUNTS_C, GROUPS_C, SETTINGS, Setting, batch

HEAD, TAIL = 0, 2


def logit(p):
    return math.log(p / (1 - p))


def probabilities(p_BC, targets_BC, groups_C):
    logits = torch.tensor([[logit(p) for p in row] for row in p_BC], dtype=torch.float64)
    p_pos, p_neg = batch_probabilities(logits, torch.tensor(targets_BC), torch.tensor(groups_C))
    return p_pos.tolist(), p_neg.tolist()


def test_means_over_the_labels_of_each_sign():
    p_pos, p_neg = probabilities([[0.9], [0.5], [0.2], [0.3]], [[1], [1], [0], [0]], [HEAD])
    assert p_pos == pytest.approx([(0.9 + 0.5) / 2])
    assert p_neg == pytest.approx([(0.8 + 0.7) / 2])


def test_absent_class_takes_the_mean_of_the_present_classes_of_its_group():
    """Classes 0 and 3 lack positives; 4 is of another group. The divisor is 2, not |group| = 4."""
    p_pos, p_neg = probabilities(
        [[0.1, 0.6, 0.8, 0.1, 0.99], [0.3, 0.2, 0.1, 0.1, 0.99]],
        [[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]],
        [TAIL, TAIL, TAIL, TAIL, HEAD],
    )
    assert p_pos == pytest.approx([0.7, 0.6, 0.8, 0.7, 0.99])
    assert p_neg == pytest.approx([0.8, 0.8, 0.9, 0.9, 0.01])


def test_class_without_negatives_takes_the_mean_of_its_group():
    p_pos, p_neg = probabilities(
        [[0.9, 0.6, 0.7], [0.7, 0.2, 0.1]],
        [[1, 1, 1], [1, 0, 0]],
        [HEAD, HEAD, TAIL],
    )
    assert p_pos == pytest.approx([0.8, 0.6, 0.7])
    assert p_neg == pytest.approx([0.8, 0.8, 0.9])


def test_group_without_positives_takes_the_other_probability_of_each_class():
    p_pos, p_neg = probabilities([[0.1, 0.4, 0.9]], [[0, 0, 1]], [TAIL, TAIL, HEAD])
    assert p_pos == pytest.approx([0.9, 0.6, 0.9])
    assert p_neg == pytest.approx([0.9, 0.6, 0.9])  # class 2 by the mirror rule


def test_group_without_positives_has_factors_at_their_base():
    setting = Setting(
        Factors(lambda1_neg=Factor((3.0,) * 3, ALL)),
        Focusing(("adaptive",) * 3, lambda0_G=(2.0,) * 3),
    )
    logits, targets = batch()
    targets[:, 4:] = False  # no positive in the tail
    factors = setting.module(torch.float64)(logits, targets).factors
    assert factors["focusing_pos"][4:].tolist() == [2.0, 2.0]
    assert factors["focusing_neg"][4:].tolist() == [2.0, 2.0]
    assert factors["lambda1_neg"][4:].tolist() == [3.0, 3.0]
    assert 2.0 not in factors["focusing_pos"][:4].tolist()


def test_ratio_is_of_positive_over_negative():
    ratio = probability_ratio(torch.tensor([[0.2, 0.9], [0.8, 0.3]]))
    assert ratio.tolist() == pytest.approx([0.25, 3.0])


def test_max_ratio_bounds_both_ways():
    p = torch.tensor([[0.01, 0.9, 0.5], [0.9, 0.01, 0.4]])
    ratio = probability_ratio(p, max_ratio=10.0)
    assert ratio.tolist() == pytest.approx([0.1, 10.0, 1.25])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratio_of_vanished_probabilities_is_bounded_by_the_floor(dtype):
    p = torch.tensor([[0, 1, 0], [1, 0, 0]], dtype=dtype)
    assert probability_ratio(p).tolist() == [2.0**-23, 2.0**23, 1.0]


FACTORS_OF_A_QUARTER = {
    # p̄⁺ = 0.2 and p̄⁻ = 0.8: the positives are behind
    "lambda1_neg": 4.0,
    "lambda2_neg": 4.0,
    "lambda1_pos": 4.0,
    "lambda2_pos": 0.25,
    "focusing_neg": 4.0,
    "focusing_pos": 0.25,
}
TWO_IMAGES = (
    torch.tensor([[logit(0.2)] * 6] * 2, dtype=torch.float64),
    torch.tensor([[1] * 6, [0] * 6]),
)


@pytest.mark.parametrize("name", FACTOR_NAMES)
def test_each_factor_adapts_alone_and_in_its_group_only(name):
    if name.startswith("focusing"):
        setting = Setting(
            focusing=Focusing(("fixed", "none", "adaptive"), (3.0,) * 3, (1.5, 1.5, 2.0))
        )
        expected = [3.0, 3.0, 0.0, 0.0] + [2.0 * FACTORS_OF_A_QUARTER[name]] * 2
        others = dict.fromkeys(set(FACTOR_NAMES) - {"focusing_neg", "focusing_pos"}, 1.0)
    else:
        factor = Factor((3.0, 5.0, 2.0), (False, False, True))
        setting = Setting(Factors(**{name: factor}))
        expected = [3.0, 3.0, 5.0, 5.0] + [2.0 * FACTORS_OF_A_QUARTER[name]] * 2
        others = {other: float(other.startswith("lambda")) for other in FACTOR_NAMES}
        del others[name]
    factors = setting.module(torch.float64)(*TWO_IMAGES).factors
    assert factors[name].tolist() == pytest.approx(expected, rel=1e-12)
    for other, value in others.items():
        assert factors[other].tolist() == [value] * len(COUNTS_C)


def test_probabilities_are_of_the_raw_logits():
    """Not of the shifted ones: the bias is a matter of the loss."""
    setting = SETTINGS["apaf"]
    assert setting.bias.kappa > 0
    logits, targets = batch()
    p_pos, p_neg = batch_probabilities(logits, targets, torch.tensor(GROUPS_C))
    expected = torch.tensor([setting.focusing.lambda0_G[g] for g in GROUPS_C]) * p_pos / p_neg
    factors = setting.module(torch.float64)(logits, targets).factors
    torch.testing.assert_close(factors["focusing_pos"], expected, rtol=1e-6, atol=0)


def test_half_precision_logits_have_float32_probabilities():
    logits, targets = batch(size=300)
    groups = torch.tensor(GROUPS_C)
    half = logits.to(torch.bfloat16)
    for p_half, p in zip(
        batch_probabilities(half, targets, groups),
        batch_probabilities(half.double(), targets, groups),
        strict=True,
    ):
        assert p_half.dtype == torch.float32
        torch.testing.assert_close(p_half.double(), p, rtol=1e-5, atol=0)


def test_statistics_are_left_out_when_nothing_adapts(monkeypatch):
    def fail(*_):
        raise AssertionError("batch statistics were computed")

    monkeypatch.setattr("pgsearch.losses.pg.known_probabilities", fail)
    for name, setting in SETTINGS.items():
        adaptive = name in {"apr", "apaf", "paper-voc", "pg-adaptive", "pg-bounded"}
        if adaptive:
            with pytest.raises(AssertionError, match="batch statistics"):
                setting.module()(*batch())
        else:
            setting.module()(*batch())
