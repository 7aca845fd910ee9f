"""The class-specific bias, and what is refused with which message."""

import math

import numpy as np
import pytest
import torch

from pgsearch.errors import InvalidData
from pgsearch.losses import Bias, Factor, Focusing, PGLoss, class_bias
from tests.losses.cases import COUNTS_C, GROUPS_C, NUM_IMAGES, SETTINGS, Setting, per_class


def test_bias_raises_the_bar_for_frequent_classes_and_lowers_it_for_rare_ones():
    """s = z − v: n = N/2 is unmoved, rare classes have v > 0."""
    assert class_bias([50, 20, 80], 100).tolist() == pytest.approx(
        [0.0, 0.05 * math.log(4), -0.05 * math.log(4)]
    )
    assert class_bias([20], 100, 0.3).tolist() == pytest.approx([0.3 * math.log(4)])
    assert class_bias([20], 100).dtype == torch.float64


def test_bias_takes_any_array():
    counts = np.array([20, 50])
    counts.flags.writeable = False
    assert class_bias(counts, 100).tolist() == class_bias([20, 50], 100).tolist()


def test_bias_of_empty_and_full_classes_names_them():
    with pytest.raises(InvalidData) as caught:
        class_bias([3, 0, 7, 10], 10, class_names=["cat", "dog", "cow", "sky"])
    problems = caught.value.problems
    assert len(problems) == 2
    assert "class 'dog': contained in 0 of 10" in problems[0]
    assert "class 'sky': contained in 10 of 10" in problems[1]
    assert all("0 < n < N" in p and "kappa to 0" in p for p in problems)


def test_bias_without_names_gives_the_index():
    with pytest.raises(InvalidData, match="class 1: contained in 0 of 10"):
        class_bias([3, 0], 10)


@pytest.mark.parametrize("count", [-1, 11, math.nan])
def test_bias_of_impossible_counts_is_refused(count):
    with pytest.raises(InvalidData, match="class 1"):
        class_bias([3, count], 10)


def test_bias_switched_off_accepts_every_count():
    assert class_bias([3, 0, 10], 10, 0.0).tolist() == [0.0, 0.0, 0.0]


def test_module_names_the_class_too():
    with pytest.raises(InvalidData, match="class 'dog'"):
        PGLoss([3, 0], [0, 2], num_images=10, class_names=["cat", "dog"])


def test_module_divides_the_bias_by_the_scale_of_its_group_on_request():
    v = class_bias(COUNTS_C, NUM_IMAGES)
    factors = SETTINGS["pr"].factors
    scale = per_class(*factors.lambda1_neg.base_G)
    assert torch.equal(Setting(factors).module(torch.float64).bias_C, v)
    divided = Setting(factors, bias=Bias(over_scale=True)).module(torch.float64).bias_C
    torch.testing.assert_close(divided, v / scale, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_G": (1.0, 0.0, 1.0)}, "values > 0"),
        ({"base_G": (1.0, math.nan, 1.0)}, "values > 0"),
        ({"base_G": (1.0, 1.0)}, "one value for each"),
        ({"adaptive_G": (True,)}, "one value for each"),
    ],
)
def test_factor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Factor(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode_G": ("none", "fix", "none")}, "'fix'"),
        ({"mode_G": ("none",)}, "one value for each"),
        ({"gamma_G": (1.0, -1.0, 1.0)}, ">= 0"),
        ({"lambda0_G": (1.0, math.nan, 1.0)}, ">= 0"),
        ({"focal_logit": "scale"}, "'scale'"),
    ],
)
def test_focusing_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Focusing(**arguments)


@pytest.mark.parametrize("max_ratio", [0.5, math.nan])
def test_max_ratio_under_one_is_refused(max_ratio):
    with pytest.raises(ValueError, match="max_ratio"):
        PGLoss(COUNTS_C, GROUPS_C, num_images=NUM_IMAGES, max_ratio=max_ratio)
