"""The re-balanced weight, by cases computed by hand."""

import math

import pytest
import torch

from pgsearch.losses import Rebalance, rebalanced_weight
from tests.losses.cases import SETTINGS, Setting, batch

COUNTS = torch.tensor([10, 40])


def smooth(r, alpha=0.1, beta=10.0, mu=0.3):
    return alpha + 1 / (1 + math.exp(-beta * (r - mu)))


def weights(*rows, **changes):
    arguments = {"alpha": 0.1, "beta": 10.0, "mu": 0.3} | changes
    return rebalanced_weight(torch.tensor(rows), COUNTS, **arguments)


def test_image_of_both_classes():
    """r = 0.1 / 0.125 for the rare class and 0.025 / 0.125 for the frequent one."""
    assert weights([1, 1])[0].tolist() == pytest.approx([smooth(0.8), smooth(0.2)])


def test_negative_labels_have_the_same_rule():
    """Positive for the frequent class only: r = 0.1 / 0.025 and 1."""
    assert weights([0, 1])[0].tolist() == pytest.approx([smooth(4.0), smooth(1.0)])


def test_image_without_positives_weighs_one():
    assert weights([0, 0], [1, 0])[0].tolist() == [1.0, 1.0]
    assert weights([0, 0], [1, 0])[1].tolist() == pytest.approx([smooth(1.0), smooth(0.25)])


def test_a_class_without_training_images_breaks_no_other():
    weight_BC = rebalanced_weight(
        torch.tensor([[1, 0]]), torch.tensor([10, 0]), alpha=0.1, beta=10.0, mu=0.3
    )
    assert weight_BC.tolist() == [[1.0, 1.0]]


def test_alpha_beta_and_mu():
    actual = weights([1, 1], alpha=0.5, beta=2.0, mu=0.8)
    assert actual[0].tolist() == pytest.approx([smooth(0.8, 0.5, 2, 0.8), smooth(0.2, 0.5, 2, 0.8)])
    assert actual[0, 0].item() == pytest.approx(1.0)  # halfway: α + 1/2


@pytest.mark.parametrize(
    ("counts", "expected"),
    [(torch.int64, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_type_is_that_of_the_counts_and_at_least_float32(counts, expected):
    actual = rebalanced_weight(torch.tensor([[1, 1]]), COUNTS.to(counts), **vars(Rebalance(mu=0.3)))
    assert actual.dtype == expected


def test_module_multiplies_by_the_weight_and_the_balance():
    logits, targets = batch()
    targets[3] = False
    plain = SETTINGS["pr"]
    weighted = Setting(plain.factors, rebalance=Rebalance(mu=0.2, alpha=0.3, beta=4.0), balance=3.0)
    z = logits.clone().requires_grad_()
    one = torch.autograd.grad(plain.module(torch.float64)(z, targets).loss, z)[0]
    other = torch.autograd.grad(weighted.module(torch.float64)(z, targets).loss, z)[0]
    counts = weighted.module().class_counts_C.double()
    expected = 3.0 * rebalanced_weight(targets, counts, alpha=0.3, beta=4.0, mu=0.2)
    torch.testing.assert_close(other / one, expected, rtol=1e-12, atol=0)
    assert expected[3].tolist() == [3.0] * 6
