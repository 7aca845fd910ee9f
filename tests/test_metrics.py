"""Average precision against its definition, group means, and probabilities against plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsearch.metrics import (
    ProbabilityMeter,
    average_precision_per_class,
    f1_scores,
    group_means,
)


def average_precision_by_definition(scores, targets):
    """AP = Σ (R_n − R_{n−1}) P_n over the distinct scores as thresholds, one class, in plain loops.

    Source: recipe section 4; scikit-learn user guide, "Precision, recall and F-measures".
    """
    num_positives = sum(targets)
    if num_positives == 0:
        return math.nan
    average_precision, last_recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        num_found = num_hits = 0
        for score, target in zip(scores, targets, strict=True):
            if score >= threshold:
                num_found += 1
                num_hits += target
        recall = num_hits / num_positives
        average_precision += (recall - last_recall) * (num_hits / num_found)
        last_recall = recall
    return average_precision


# Few distinct values: most examples have ties, also between positives and negatives.
SCORES = st.one_of(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), st.floats(-30, 30, width=32))


@st.composite
def scored_images(draw):
    num_images, num_classes = draw(st.integers(0, 25)), draw(st.integers(1, 4))
    size = num_images * num_classes
    scores = draw(st.lists(SCORES, min_size=size, max_size=size))
    targets = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    shape = (num_images, num_classes)
    return np.reshape(scores, shape), np.reshape(np.array(targets, dtype=np.uint8), shape)


@given(scored_images())
@settings(max_examples=200, deadline=None)
def test_average_precision_is_its_definition(case):
    scores_NC, targets_NC = case
    found_C = average_precision_per_class(scores_NC, targets_NC)
    assert found_C.dtype == np.float64
    expected_C = [
        average_precision_by_definition(list(scores_NC[:, c]), [int(t) for t in targets_NC[:, c]])
        for c in range(scores_NC.shape[1])
    ]
    np.testing.assert_allclose(found_C, expected_C, rtol=0, atol=1e-12)


@given(scored_images())
@settings(max_examples=50, deadline=None)
def test_average_precision_is_that_of_scikit_learn(case):
    from sklearn.metrics import average_precision_score

    scores_NC, targets_NC = case
    found_C = average_precision_per_class(scores_NC, targets_NC)
    for c in np.flatnonzero(targets_NC.any(axis=0)):
        expected = average_precision_score(targets_NC[:, c], scores_NC[:, c])
        assert found_C[c] == pytest.approx(expected, rel=0, abs=1e-12)


def test_average_precision_by_hand():
    scores_NC = np.array([[4, 1], [3, 1], [2, 1], [1, 1]], dtype=np.float32)
    targets_NC = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], dtype=bool)
    # First class: hits at ranks 1 and 3. Second: all tied, so one threshold that finds 1 of 4.
    found_C = average_precision_per_class(scores_NC, targets_NC)
    np.testing.assert_allclose(found_C, [(1 + 2 / 3) / 2, 1 / 4])


def test_class_without_a_positive_is_undefined_and_not_zero():
    found_C = average_precision_per_class([[0.1, 0.2], [0.3, 0.4]], [[0, 1], [0, 1]])
    assert math.isnan(found_C[0])
    assert found_C[1] == 1.0
    assert np.isnan(average_precision_per_class(np.zeros((0, 3)), np.zeros((0, 3)))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_named(bad):
    scores_NC, targets_NC = np.zeros((5, 3)), np.zeros((5, 3))
    scores_NC[3, 1] = scores_NC[4, 0] = bad  # even where the class has no positive
    with pytest.raises(ValueError, match=rf"2 scores .* {bad} in row 3 for class 1"):
        average_precision_per_class(scores_NC, targets_NC)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r"both be \[N, C\]"),
        (np.zeros(3), np.zeros(3), r"both be \[N, C\]"),
        (np.zeros((1, 2)), np.array([[0, 2]]), "0 or 1"),
        (np.zeros((1, 2)), np.array([[0.0, np.nan]]), "0 or 1"),
    ],
)
def test_wrong_shapes_and_targets_are_refused(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        average_precision_per_class(scores, targets)


def test_group_means_leave_undefined_classes_out():
    means = group_means([0.5, math.nan, 0.1, 0.3, math.nan], [0, 0, 2, 2, 1])
    assert list(means) == ["total", "head", "medium", "tail"]
    assert means["total"] == pytest.approx(0.3)
    assert means["head"] == 0.5
    assert math.isnan(means["medium"])
    assert means["tail"] == pytest.approx(0.2)
    assert all(type(mean) is float for mean in means.values())


def test_group_means_of_nothing_are_undefined():
    assert all(math.isnan(mean) for mean in group_means([math.nan], [1]).values())
    assert math.isnan(group_means([1.0], [1])["head"])
    with pytest.raises(ValueError, match=r"must both be \[C\]"):
        group_means([1.0, 2.0], [0])


def mean_probabilities_by_loop(logits_NC, targets_NC):
    """Eqs. 6 and 7 over a whole epoch, label by label."""
    num_classes = logits_NC.shape[1]
    p_pos_C, p_neg_C = np.full(num_classes, np.nan), np.full(num_classes, np.nan)
    for c in range(num_classes):
        positives, negatives = [], []
        for z, y in zip(logits_NC[:, c], targets_NC[:, c], strict=True):
            probability = 1 / (1 + math.exp(-z))
            (positives if y else negatives).append(probability if y else 1 - probability)
        if positives:
            p_pos_C[c] = sum(positives) / len(positives)
        if negatives:
            p_neg_C[c] = sum(negatives) / len(negatives)
    return p_pos_C, p_neg_C


def metered(logits_NC, targets_NC, groups, cuts, **as_dtype):
    meter = ProbabilityMeter(groups)
    logits, targets = torch.tensor(logits_NC, **as_dtype), torch.tensor(targets_NC)
    for rows in np.split(np.arange(len(logits_NC)), cuts):
        meter.update(logits[rows], targets[rows])
    return meter.result()


@given(scored_images(), st.lists(st.integers(0, 25), max_size=4).map(sorted))
@settings(max_examples=100, deadline=None)
def test_probabilities_are_those_of_a_plain_loop_however_batched(case, cuts):
    logits_NC, targets_NC = case
    groups_C = np.arange(logits_NC.shape[1]) % 3
    found = metered(logits_NC, targets_NC, groups_C, cuts)
    p_pos_C, p_neg_C = mean_probabilities_by_loop(logits_NC, targets_NC)
    np.testing.assert_allclose(found.p_pos_C, p_pos_C, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.p_neg_C, p_neg_C, rtol=0, atol=1e-12)
    assert found.p_pos == pytest.approx(group_means(p_pos_C, groups_C), abs=1e-12, nan_ok=True)
    assert found.p_neg == pytest.approx(group_means(p_neg_C, groups_C), abs=1e-12, nan_ok=True)


def test_group_probability_is_the_mean_over_classes_and_not_over_labels():
    logits_NC = np.array([[0.0, 10.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    targets_NC = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0]])
    found = metered(logits_NC, targets_NC, [0, 0, 1], [])
    assert found.p_pos["head"] == pytest.approx((0.5 + 1 / (1 + math.exp(-10))) / 2)
    assert math.isnan(found.p_pos["medium"])
    assert math.isnan(found.p_neg_C[0])
    assert found.p_neg["head"] == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_meter_takes_low_precision_logits_and_leaves_no_trace_on_them(dtype):
    generator = torch.Generator().manual_seed(0)
    logits_BC = (100 * torch.randn(64, 3, generator=generator)).to(dtype).requires_grad_()
    targets_BC = (torch.rand(64, 3, generator=generator) < 0.3).float()
    meter = ProbabilityMeter([0, 1, 2])
    meter.update(logits_BC, targets_BC)
    p_pos_C, p_neg_C = mean_probabilities_by_loop(
        logits_BC.detach().double().numpy(), targets_BC.numpy()
    )
    np.testing.assert_allclose(meter.result().p_pos_C, p_pos_C, rtol=0, atol=1e-12)
    np.testing.assert_allclose(meter.result().p_neg_C, p_neg_C, rtol=0, atol=1e-12)


def test_meter_does_not_look_at_values_before_the_result():
    """On the meta device there are no values: anything that asks for one raises."""
    meter = ProbabilityMeter([0, 1])
    for _ in range(2):
        meter.update(torch.zeros(4, 2, device="meta"), torch.zeros(4, 2, device="meta"))


@pytest.mark.parametrize("first", [0, 1, 3])
def test_meter_goes_on_from_its_state(first):
    generator = torch.Generator().manual_seed(0)
    logits_NC = torch.randn(4, 5, 3, generator=generator)
    targets_NC = (torch.rand(4, 5, 3, generator=generator) < 0.3).float()
    straight, before, after = (ProbabilityMeter([0, 1, 2]) for _ in range(3))
    for i in range(4):
        straight.update(logits_NC[i], targets_NC[i])
    for i in range(first):
        before.update(logits_NC[i], targets_NC[i])
    after.load_state_dict(before.state_dict(), torch.device("cpu"))
    for i in range(first, 4):
        after.update(logits_NC[i], targets_NC[i])
    np.testing.assert_array_equal(after.result().p_pos_C, straight.result().p_pos_C)
    np.testing.assert_array_equal(after.result().p_neg_C, straight.result().p_neg_C)


def test_meter_goes_on_on_another_device():
    before, after = ProbabilityMeter([0, 1]), ProbabilityMeter([0, 1])
    before.update(torch.zeros(4, 2), torch.zeros(4, 2))
    after.load_state_dict(before.state_dict(), torch.device("meta"))
    after.update(torch.zeros(4, 2, device="meta"), torch.zeros(4, 2, device="meta"))


def test_meter_without_batches_knows_nothing():
    found = ProbabilityMeter([0, 1, 2]).result()
    assert np.isnan(found.p_pos_C).all()
    assert np.isnan(found.p_neg_C).all()
    assert math.isnan(found.p_pos["total"])


def test_meter_does_not_report_nan_logits_as_a_class_without_labels():
    meter = ProbabilityMeter([0, 1])
    meter.update(torch.tensor([[0.0, math.nan]]), torch.tensor([[1.0, 0.0]]))
    with pytest.raises(ValueError, match="class 1"):
        meter.result()


def test_meter_refuses_other_shapes():
    meter = ProbabilityMeter([0, 1])
    with pytest.raises(ValueError, match=r"both be \[B, 2\]"):
        meter.update(torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"both be \[B, 2\]"):
        meter.update(torch.zeros(4, 3), torch.zeros(4, 3))


def f1_by_definition(scores, targets):
    """Harmonic mean of precision and recall, of the labels with a score above 0."""
    hits = sum(1 for s, t in zip(scores, targets, strict=True) if s > 0 and t)
    predicted, positives = sum(s > 0 for s in scores), sum(targets)
    if hits == 0:
        return 0.0
    precision, recall = hits / predicted, hits / positives
    return 2 * precision * recall / (precision + recall)


@given(scored_images())
@settings(max_examples=100, deadline=None)
def test_f1_is_its_definition(case):
    scores_NC, targets_NC = case
    found = f1_scores(scores_NC, targets_NC)
    columns = [
        (list(scores_NC[:, c]), [int(t) for t in targets_NC[:, c]])
        for c in range(scores_NC.shape[1])
    ]
    with_positives = [f1_by_definition(s, t) for s, t in columns if any(t)]
    if not with_positives:
        assert math.isnan(found["micro"])
        assert math.isnan(found["macro"])
        return
    all_scores = [s for scores, _ in columns for s in scores]
    all_targets = [t for _, targets in columns for t in targets]
    assert found["micro"] == pytest.approx(f1_by_definition(all_scores, all_targets), abs=1e-12)
    assert found["macro"] == pytest.approx(sum(with_positives) / len(with_positives), abs=1e-12)


def test_macro_f1_leaves_out_classes_without_positives():
    scores_NC = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    targets_NC = np.array([[1, 0], [1, 0], [0, 0]])
    assert f1_scores(scores_NC, targets_NC) == {"micro": 0.8, "macro": 1.0}
