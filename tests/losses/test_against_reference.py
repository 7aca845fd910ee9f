"""The package and the slow reference agree on whatever Hypothesis thinks of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsearch.losses import (
    Bias,
    Factor,
    Factors,
    Focusing,
    Rebalance,
    apaf_loss,
    batch_probabilities,
    bce_loss,
    class_bias,
    focal_loss,
    ntr_loss,
    pg_loss,
    pr_loss,
    rebalanced_weight,
)
from tests import reference
from tests.losses.cases import (
    COUNTS_C,
    FOCAL_LOGITS,
    GROUPS_C,
    NUM_CLASSES,
    NUM_GROUPS,
    NUM_IMAGES,
    SETTINGS,
    Setting,
    batch,
)

examples = settings(max_examples=50, deadline=None)

scales = st.floats(0.1, 8.0)
exponents = st.one_of(st.just(0.0), st.floats(0.05, 4.0))
groups_of_classes = st.lists(
    st.integers(0, NUM_GROUPS - 1), min_size=NUM_CLASSES, max_size=NUM_CLASSES
)


def by_group(values):
    return st.tuples(*[values] * NUM_GROUPS)


def by_class(values):
    return st.lists(values, min_size=NUM_CLASSES, max_size=NUM_CLASSES)


@st.composite
def batches(draw, bound=10.0):
    """Logits up to the bound; some classes without positives or without negatives."""
    size = draw(st.integers(1, 5))
    logits = draw(st.lists(by_class(st.floats(-bound, bound)), min_size=size, max_size=size))
    targets = np.array(draw(st.lists(by_class(st.booleans()), min_size=size, max_size=size)))
    for c, label in enumerate(draw(by_class(st.sampled_from([None, None, False, True])))):
        if label is not None:
            targets[:, c] = label
    return np.array(logits), targets


factor_values = st.builds(Factor, by_group(scales), by_group(st.booleans()))
pg_settings = st.builds(
    Setting,
    st.builds(Factors, factor_values, factor_values, factor_values, factor_values),
    st.builds(
        Focusing,
        by_group(st.sampled_from(["none", "fixed", "adaptive"])),
        by_group(exponents),
        by_group(exponents),
        st.sampled_from(FOCAL_LOGITS),
    ),
    st.builds(Bias, st.sampled_from([0.0, 0.05, 0.3]), st.booleans()),
    st.one_of(
        st.none(), st.builds(Rebalance, mu=st.floats(0.1, 0.6), alpha=st.floats(0, 1), beta=scales)
    ),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([None, 1.0, 3.0]),
)


def as_tensors(*arrays):
    return [torch.tensor(np.asarray(a)) for a in arrays]


def assert_agree(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-10, atol=1e-100)


@examples
@given(batches(), pg_settings)
def test_module(data, setting):
    logits, targets = data
    actual = setting.module(torch.float64)(*as_tensors(logits, targets))
    expected_loss, expected_factors = reference.pg_module(
        logits, targets, **setting.for_reference()
    )
    assert_agree(actual.loss, expected_loss)
    assert actual.factors.keys() == expected_factors.keys()
    for name, expected in expected_factors.items():
        assert_agree(actual.factors[name], expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_module_of_each_setting(name):
    """The settings of the other tests, whatever Hypothesis drew."""
    logits, targets = batch()
    expected, _ = reference.pg_module(
        logits.tolist(), targets.tolist(), **SETTINGS[name].for_reference()
    )
    assert_agree(SETTINGS[name].module(torch.float64)(logits, targets).loss, expected)


@settings(max_examples=25, deadline=None)
@given(batches(bound=30.0), by_class(scales), by_class(scales), by_class(exponents), st.data())
def test_functions(data, first, second, exponent, draw):
    logits, targets = data
    z, y, a, b, e = as_tensors(logits, targets, first, second, exponent)
    bias = draw.draw(by_class(st.floats(-0.5, 0.5)))
    gamma = draw.draw(exponents)
    v = torch.tensor(bias, dtype=torch.float64)
    factors = {"lambda1_neg_C": a, "lambda2_neg_C": b, "lambda1_pos_C": b, "lambda2_pos_C": a}

    assert_agree(bce_loss(z, y), reference.bce(logits, targets))
    assert_agree(ntr_loss(z, y, lambda_C=a, bias_C=v), reference.ntr(logits, targets, first, bias))
    assert_agree(
        pr_loss(z, y, **factors, bias_C=v),
        reference.pr(logits, targets, first, second, second, first, bias),
    )
    assert_agree(focal_loss(z, y, gamma=gamma), reference.focal(logits, targets, gamma))
    assert_agree(
        apaf_loss(z, y, focusing_neg_C=e, focusing_pos_C=b),
        reference.apaf(logits, targets, exponent, second),
    )
    for focal_logit in FOCAL_LOGITS:
        assert_agree(
            pg_loss(
                z,
                y,
                **factors,
                focusing_neg_C=e,
                focusing_pos_C=b,
                bias_C=v,
                focal_logit=focal_logit,
            ),
            reference.pg(
                logits,
                targets,
                *(first, second, second, first),
                *(exponent, second),
                bias,
                focal_logit,
            ),
        )


@examples
@given(batches(bound=100.0), groups_of_classes)
def test_batch_probabilities(data, groups):
    logits, targets = data
    actual = batch_probabilities(*as_tensors(logits, targets, groups))
    for a, expected in zip(actual, reference.batch_probabilities(*data, groups), strict=True):
        assert_agree(a, expected)


@examples
@given(
    batches(), by_class(st.integers(1, 10**6)), st.floats(0, 1), st.floats(0, 20), st.floats(-1, 2)
)
def test_rebalanced_weight(data, counts, alpha, beta, mu):
    _, targets = data
    actual = rebalanced_weight(
        torch.tensor(targets),
        torch.tensor(counts, dtype=torch.float64),
        alpha=alpha,
        beta=beta,
        mu=mu,
    )
    assert_agree(actual, reference.rebalanced_weight(targets, counts, alpha, beta, mu))


@examples
@given(by_class(st.integers(1, 10**5 - 1)), st.floats(0.01, 2.0))
def test_class_bias(counts, kappa):
    expected = reference.class_bias(counts, 10**5, kappa)
    np.testing.assert_allclose(class_bias(counts, 10**5, kappa), expected, rtol=1e-10, atol=1e-11)


def test_groups_of_the_cases_cover_all():
    assert set(GROUPS_C) == set(range(NUM_GROUPS))
    assert len(COUNTS_C) == NUM_CLASSES
    assert max(COUNTS_C) < NUM_IMAGES
