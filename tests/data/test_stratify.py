import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pgsearch.data import stratified_holdout

# Few images and sparse labels: the hard cases are classes with one or two images.
targets_of_any_shape = st.tuples(st.integers(1, 16), st.integers(1, 6)).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1]))
)
fractions = st.floats(0.02, 0.95)
seeds = st.integers(0, 3)


@settings(deadline=None)
@given(targets_of_any_shape, fractions, seeds)
def test_every_class_keeps_a_training_image(
    targets_NC: np.ndarray, fraction: float, seed: int
) -> None:
    held_out_N = stratified_holdout(targets_NC, fraction=fraction, seed=seed)
    assert held_out_N.dtype == np.bool_
    assert held_out_N.shape == (len(targets_NC),)
    train_counts_C = targets_NC[~held_out_N].sum(axis=0)
    assert ((train_counts_C > 0) | (targets_NC.sum(axis=0) == 0)).all()


@settings(deadline=None)
@given(targets_of_any_shape, fractions, seeds)
def test_a_class_with_two_images_is_held_out_unless_each_of_them_is_needed(
    targets_NC: np.ndarray, fraction: float, seed: int
) -> None:
    held_out_N = stratified_holdout(targets_NC, fraction=fraction, seed=seed)
    train_counts_C = targets_NC[~held_out_N].sum(axis=0)
    for c in range(targets_NC.shape[1]):
        images = np.flatnonzero(targets_NC[:, c])
        if len(images) < 2 or held_out_N[images].any():
            continue
        for image in images:
            is_last_of_some_class = train_counts_C[targets_NC[image] == 1] == 1
            assert is_last_of_some_class.any()


def test_an_image_that_a_rare_class_needs_is_not_held_out_for_another() -> None:
    # The second class has only image 0; the first can spare image 1 or 2 only.
    targets_NC = np.array([[1, 1], [1, 0], [1, 0], [0, 0]], dtype=np.uint8)
    for seed in range(10):
        held_out_N = stratified_holdout(targets_NC, fraction=0.1, seed=seed)
        assert not held_out_N[0]
        assert held_out_N[1] != held_out_N[2]


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.05, 0.5), st.integers(0, 9)
)
def test_single_labels_are_divided_to_within_one_image(
    counts: list[int], fraction: float, seed: int
) -> None:
    targets_NC = np.repeat(np.eye(len(counts), dtype=np.uint8), counts, axis=0)
    held_out_N = stratified_holdout(targets_NC, fraction=fraction, seed=seed)
    for count, num_held_out in zip(counts, targets_NC[held_out_N].sum(axis=0), strict=True):
        assert abs(int(num_held_out) - max(1, fraction * count)) <= 1


def _long_tailed_targets() -> np.ndarray:
    rng = np.random.default_rng(0)
    shares_C = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005])
    return (rng.random((1200, 7)) < shares_C).astype(np.uint8)


def test_every_class_and_the_whole_come_close_to_the_fraction() -> None:
    targets_NC = _long_tailed_targets()
    assert (targets_NC.sum(axis=1) == 0).any(), "images without labels are divided too"
    held_out_N = stratified_holdout(targets_NC, fraction=0.2, seed=0)
    assert abs(held_out_N.mean() - 0.2) < 0.01
    wanted_C = 0.2 * targets_NC.sum(axis=0)
    np.testing.assert_array_less(np.abs(targets_NC[held_out_N].sum(axis=0) - wanted_C), 3)
    no_label_N = targets_NC.sum(axis=1) == 0
    assert abs(held_out_N[no_label_N].mean() - 0.2) < 0.05


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    targets_NC = _long_tailed_targets()
    first = stratified_holdout(targets_NC, fraction=0.2, seed=0)
    np.testing.assert_array_equal(first, stratified_holdout(targets_NC, fraction=0.2, seed=0))
    assert (first != stratified_holdout(targets_NC, fraction=0.2, seed=1)).any()


def test_targets_are_not_changed() -> None:
    targets_NC = _long_tailed_targets()
    before = targets_NC.copy()
    stratified_holdout(targets_NC, fraction=0.3, seed=0)
    np.testing.assert_array_equal(targets_NC, before)


def test_nothing_is_held_out_at_fraction_0() -> None:
    assert not stratified_holdout(_long_tailed_targets(), fraction=0.0, seed=0).any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"got {fraction}"):
        stratified_holdout(_long_tailed_targets(), fraction=fraction, seed=0)
