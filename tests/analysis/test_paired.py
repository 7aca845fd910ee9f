"""Against plain arithmetic: the incomplete beta function for t, all signs for Wilcoxon."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betainc

from pgsearch.analysis.paired import holm, paired, pairs_needed

# Few distinct values, so that ties and zeros are common.
COARSE = st.integers(-6, 6).map(lambda value: value / 100)
FINE = st.floats(-1, 1).map(lambda value: round(value, 9))
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def plain_t(values: list[float]) -> tuple[float, float]:
    """t statistic and two-sided p."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    t = mean / math.sqrt(variance / n)
    return t, float(betainc((n - 1) / 2, 0.5, (n - 1) / (n - 1 + t * t)))


def plain_wilcoxon(values: list[float]) -> float:
    """Two-sided exact p: how many of all signs of the ranks are as far from the middle."""
    sizes = [abs(v) for v in values if v != 0]
    ranks = [
        sum(other < size for other in sizes) + (sum(other == size for other in sizes) + 1) / 2
        for size in sizes
    ]
    middle = sum(ranks) / 2
    seen = abs(
        sum(r for r, v in zip(ranks, (v for v in values if v), strict=True) if v > 0) - middle
    )
    as_far = [
        abs(sum(itertools.compress(ranks, signs)) - middle) >= seen - 1e-9
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    return sum(as_far) / len(as_far)


@settings(deadline=None)
@given(st.lists(COARSE | FINE, min_size=2, max_size=8), st.sampled_from([0.8, 0.95, 0.99]))
def test_mean_interval_and_t(values: list[float], confidence: float) -> None:
    found = paired(values, confidence=confidence)
    assert found.n == len(values)
    assert found.mean == pytest.approx(math.fsum(values) / len(values), abs=1e-11)
    if max(values) == min(values):
        assert (found.low, found.high, found.t_p, found.dz) == (None,) * 4
        return
    assert found.low is not None
    assert found.high is not None
    t, p = plain_t(values)
    assert found.t_p == pytest.approx(p, rel=1e-6, abs=1e-9)
    assert found.dz == pytest.approx(t / math.sqrt(len(values)), rel=1e-6, abs=1e-9)
    # A mean at an end of the interval is one that the test at its level just does not reject.
    for end in (found.low, found.high):
        _, at_end = plain_t([value - end for value in values])
        assert at_end == pytest.approx(1 - confidence, rel=1e-5)
    assert found.low < found.mean < found.high


@settings(deadline=None)
@given(st.lists(COARSE, min_size=1, max_size=8) | st.lists(FINE, min_size=1, max_size=8))
def test_wilcoxon_is_exact_with_ties_and_zeros(values: list[float]) -> None:
    found = paired(values)
    nonzero = [value for value in values if value != 0]
    if len(nonzero) < 2:
        assert found.wilcoxon_p is None
        assert found.smallest_wilcoxon_p is None
        return
    assert found.wilcoxon_p == pytest.approx(plain_wilcoxon(values), abs=1e-12)
    one_sided = plain_wilcoxon([abs(value) for value in nonzero])
    assert found.smallest_wilcoxon_p == pytest.approx(one_sided) == 2 ** (1 - len(nonzero))
    assert found.wilcoxon_p >= found.smallest_wilcoxon_p


@settings(deadline=None)
@given(st.lists(COARSE, max_size=8))
def test_wins_ties_and_losses(values: list[float]) -> None:
    found = paired(values)
    assert found.wins == len([v for v in values if v > 0])
    assert found.losses == len([v for v in values if v < 0])
    assert found.wins + found.ties + found.losses == len(values)
    turned = paired([-v for v in values])
    assert (turned.wins, turned.losses) == (found.losses, found.wins)
    assert turned.wilcoxon_p == pytest.approx(found.wilcoxon_p) if found.wilcoxon_p else True


def test_equal_differences_have_no_p_of_0() -> None:
    """0.6 - 0.5, 0.7 - 0.6 and 0.8 - 0.7 differ in their last bits."""
    found = paired([0.6 - 0.5, 0.7 - 0.6, 0.8 - 0.7])
    assert found.mean == pytest.approx(0.1)
    assert (found.t_p, found.low, found.dz) == (None, None, None)
    assert found.wilcoxon_p == 0.25
    zero = paired([0.0, 0.0, 0.0])
    assert (zero.t_p, zero.wilcoxon_p, zero.ties) == (None, None, 3)


def test_one_pair_and_none() -> None:
    assert paired([0.2]).mean == 0.2
    assert paired([0.2]).low is None
    assert paired([0.2]).wilcoxon_p is None
    assert paired([]).mean is None


def test_many_pairs_have_a_p_above_0() -> None:
    for values in ([0.01 * i for i in range(1, 61)], [0.1, 0.1, 0.2] * 20):
        found = paired(values)
        assert found.wilcoxon_p == found.smallest_wilcoxon_p == 2.0**-59


@settings(deadline=None)
@given(st.lists(FINE, min_size=9, max_size=30, unique_by=abs))
def test_more_pairs_against_scipy(values: list[float]) -> None:
    expected = stats.wilcoxon([v for v in values if v], method="exact").pvalue
    assert paired(values).wilcoxon_p == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("comparisons", "alpha", "needed"), [(1, 0.05, 6), (4, 0.05, 8), (1, 0.0625, 5)])  # fmt: skip  # noqa: E501
def test_pairs_needed(comparisons: int, alpha: float, needed: int) -> None:
    assert pairs_needed(alpha, comparisons) == needed
    assert comparisons * 2 ** (1 - needed) <= alpha < comparisons * 2 ** (2 - needed)


@given(P_VALUES)
def test_holm_by_its_definition(p_values: list[float]) -> None:
    """The adjusted p is the least level at which Holm's steps still reject the hypothesis."""
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    for place, found in enumerate(holm(p_values)):
        steps = order[: order.index(place) + 1]
        expected = min(1.0, max((m - k) * p_values[i] for k, i in enumerate(steps)))
        assert found == pytest.approx(expected)


@given(P_VALUES, st.randoms())
def test_holm_keeps_order_and_is_between_p_and_bonferroni(p_values: list[float], random) -> None:
    adjusted = holm(p_values)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [a for _, a in pairs] == sorted(a for _, a in pairs)
    for p, a in pairs:
        assert p <= a <= min(1.0, len(p_values) * p) + 1e-12
    places = list(range(len(p_values)))
    random.shuffle(places)
    assert holm([p_values[i] for i in places]) == [adjusted[i] for i in places]


@given(P_VALUES)
def test_what_has_no_p_is_no_member_of_the_family(p_values: list[float]) -> None:
    with_gaps = [None, *itertools.chain.from_iterable((p, None) for p in p_values)]
    assert [p for p in holm(with_gaps) if p is not None] == holm(p_values)
    assert holm(with_gaps)[0] is None
