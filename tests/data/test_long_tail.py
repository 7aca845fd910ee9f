import itertools
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pgsearch.data import pareto_profile
from pgsearch.data.long_tail import (
    VOC_LT_NUM_OUTPUTS,
    class_order,
    long_tailed_selection,
    rng_of_coco_lt,
    rng_of_voc_lt,
)
from tests.data.test_voc import TEST_DATA, needs_data


def test_published_ends_of_voc_lt_and_coco_lt() -> None:
    # VOC-LT: cow has 4 training images; COCO-LT: bear and hair drier have 6.
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


# ---------------------------------------------------------------- the choice of images


def _reference_sums(labels_of: list[list[int]], num_classes: int) -> list[float]:
    """Σ_i P(c|i) of each class, with plain loops."""
    sums = []
    for c in range(num_classes):
        total = 0.0
        for i in range(num_classes):
            with_i = [labels for labels in labels_of if i in labels]
            if with_i:
                total += sum(c in labels for labels in with_i) / len(with_i)
        sums.append(total)
    return sums


def _reference_selection(
    labels_of: list[list[int]], profile: list[int], order: list[int], rng: random.Random
) -> list[int]:
    """The procedure of the published code, in words: one class, one image at a time."""
    chosen: set[int] = set()
    chosen_with: dict[int, set[int]] = {c: set() for c in order}
    for place, c in enumerate(order):
        have = sum(c in labels_of[n] for n in chosen)
        want = profile[place]
        if have < want:
            with_class = set()
            for n, labels in enumerate(labels_of):
                if c in labels:
                    with_class.add(n)
            free = with_class - chosen_with[c]
            drawn = rng.sample(tuple(free), want - have if want - have < len(free) else len(free))
            for n in drawn:
                chosen.add(n)
                for label in labels_of[n]:
                    chosen_with[label].add(n)
        if have > want:
            for n in rng.sample(tuple(chosen_with[c]), have - want):
                chosen.remove(n)
                for label in labels_of[n]:
                    chosen_with[label].remove(n)
    return list(chosen)


pools = arrays(
    np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 6)), elements=st.integers(0, 1)
)


@given(pools, st.integers(0, 40), st.integers(0, 2**32))
def test_the_choice_is_that_of_plain_loops(
    targets_NC: np.ndarray, max_count: int, seed: int
) -> None:
    labels_of = [np.flatnonzero(row).tolist() for row in targets_NC]
    num_classes = targets_NC.shape[1]
    profile_C = pareto_profile(num_classes, max_count=max_count, min_count=min(1, max_count))
    order = class_order(targets_NC).tolist()
    chosen = long_tailed_selection(targets_NC, profile_C=profile_C, rng=random.Random(seed))
    expected = _reference_selection(labels_of, profile_C.tolist(), order, random.Random(seed))
    assert chosen == expected
    assert len(set(chosen)) == len(chosen)


@given(pools)
def test_classes_come_in_the_order_of_their_conditional_probabilities(
    targets_NC: np.ndarray,
) -> None:
    labels_of = [np.flatnonzero(row).tolist() for row in targets_NC]
    num_classes = targets_NC.shape[1]
    order = class_order(targets_NC).tolist()
    assert sorted(order) == list(range(num_classes))
    sums = [_reference_sums(labels_of, num_classes)[c] for c in order]
    assert all(one >= other - 1e-9 for one, other in itertools.pairwise(sums))


def test_the_class_that_goes_with_all_others_is_first() -> None:
    # P(1|i) = 1 for both i; P(0|i) = 1, 1/3; P(2|i) is 0 but for itself.
    targets_NC = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=np.uint8)
    assert class_order(targets_NC).tolist() == [1, 0, 2]


def test_a_class_with_one_image_counts_in_full() -> None:
    # Σ: 1.5, 2 (from the one image of 0), 1.75 (from 3 of the 4 images of 3), 1.3.
    rows = [[1, 1, 0, 0], [0, 1, 0, 0]] + [[0, 0, 1, 1]] * 3 + [[0, 0, 0, 1]] + [[0, 0, 1, 0]] * 7
    assert class_order(np.array(rows, dtype=np.uint8)).tolist() == [1, 2, 0, 3]


def test_a_class_alone_gets_what_the_profile_asks_or_all_it_has() -> None:
    targets_NC = np.eye(3, dtype=np.uint8).repeat([50, 5, 20], axis=0)
    chosen = long_tailed_selection(
        targets_NC, profile_C=np.array([30, 10, 4]), rng=random.Random(1)
    )
    assert targets_NC[chosen].sum(axis=0).tolist() == [30, 5, 4]


def test_too_many_images_are_taken_out_again() -> None:
    # Class 1 is in every image of class 0: after the first class it has 40 or more; 10 are wanted.
    targets_NC = np.array([[1, 1]] * 60 + [[1, 0]] * 60, dtype=np.uint8)
    assert class_order(targets_NC).tolist() == [0, 1]
    chosen = long_tailed_selection(targets_NC, profile_C=np.array([100, 10]), rng=random.Random(1))
    counts = targets_NC[chosen].sum(axis=0)
    assert counts[1] == 10
    assert counts[0] < 100


def test_the_choice_leaves_the_global_random_state_alone() -> None:
    before = random.getstate()
    long_tailed_selection(
        np.ones((30, 2), dtype=np.uint8), profile_C=np.array([9, 5]), rng=rng_of_coco_lt()
    )
    assert random.getstate() == before


# ---------------------------------------------------------------- the published choice


@pytest.fixture(scope="module")
def voc2012() -> tuple[list[str], np.ndarray]:
    """Ids and targets of the official pool."""
    facts = json.loads((TEST_DATA / "voc2012_trainval_labels.json").read_text())
    targets_NC = np.zeros((len(facts["image_ids"]), len(facts["classes"])), dtype=np.uint8)
    for row, labels in zip(targets_NC, facts["label_indices"], strict=True):
        row[labels] = 1
    return facts["image_ids"], targets_NC


@needs_data
def test_voc_lt_comes_out_as_published(voc2012: tuple[list[str], np.ndarray]) -> None:
    ids, targets_NC = voc2012
    published = json.loads((TEST_DATA / "voc_lt.json").read_text())
    profile_C = pareto_profile(20, max_count=800, min_count=1)
    chosen = long_tailed_selection(targets_NC, profile_C=profile_C, rng=rng_of_voc_lt())
    assert [ids[n] for n in chosen] == published["train_image_ids"]
    labels = [np.flatnonzero(targets_NC[n]).tolist() for n in chosen]
    assert labels == published["train_label_indices"]


@needs_data
def test_coco_lt_begins_where_voc_lt_ends(voc2012: tuple[list[str], np.ndarray]) -> None:
    rng = rng_of_voc_lt()
    profile_C = pareto_profile(20, max_count=800, min_count=1)
    long_tailed_selection(voc2012[1], profile_C=profile_C, rng=rng)
    assert rng.getstate() == rng_of_coco_lt().getstate()


def test_the_streams_are_pinned() -> None:
    # As above without the pool: a change here would draw other data sets.
    assert VOC_LT_NUM_OUTPUTS == 3481
    assert rng_of_voc_lt().getrandbits(32) == random.Random(0).getrandbits(32)
    outputs = random.Random(0)
    for _ in range(3481):
        outputs.getrandbits(32)
    assert rng_of_coco_lt().getstate() == outputs.getstate()
