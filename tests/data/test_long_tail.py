import math

import numpy as np
import pytest

from pgsearch.data import pareto_profile


def test_published_ends_of_voc_lt_and_coco_lt() -> None:
    # VOC-LT: cow has 4 training images; COCO-LT: bear and hair drier have 6 (shared recipe, §1).
    voc = pareto_profile(20, max_count=800, min_count=1)
    coco = pareto_profile(80, max_count=1200, min_count=1)
    assert (voc[0], voc[-1]) == (800, 4)
    assert (coco[0], coco[-1]) == (1200, 6)


@pytest.mark.parametrize(("num_classes", "max_count", "min_count"), [(20, 800, 1), (10, 800, 4)])
def test_every_count_follows_the_density(num_classes: int, max_count: int, min_count: int) -> None:
    # x⁻⁷ with x from 1 to 100^(1/6), in logarithms and one class at a time.
    last = 100 ** (1 / 6)
    expected = []
    for i in range(num_classes):
        x = 1 + (last - 1) * i / (num_classes - 1)
        expected.append(int((max_count - min_count) * math.exp(-7 * math.log(x)) + min_count))
    profile = pareto_profile(num_classes, max_count=max_count, min_count=min_count)
    # exp and log may round 800 to 799.99…: the first is exact by definition.
    assert profile.tolist() == [max_count, *expected[1:]]


def test_counts_never_rise() -> None:
    profile = pareto_profile(80, max_count=1200, min_count=1)
    assert profile.dtype == np.int64
    assert (np.diff(profile) <= 0).all()


def test_one_class_has_the_largest_count() -> None:
    assert pareto_profile(1, max_count=50, min_count=3).tolist() == [50]


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 0, "max_count": 9, "min_count": 1},
        {"num_classes": 3, "max_count": 1, "min_count": 9},
        {"num_classes": 3, "max_count": 9, "min_count": -1},
        {"num_classes": 3, "max_count": 9, "min_count": 1, "b": 0.0},
        {"num_classes": 3, "max_count": 9, "min_count": 1, "alpha": 0.0},
    ],
)
def test_impossible_profiles_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="a profile needs"):
        pareto_profile(wrong.pop("num_classes"), **wrong)
