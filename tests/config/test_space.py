from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgsearch.class_groups import GROUPS
from pgsearch.config import flatten
from pgsearch.config.merge import at_path, merge
from pgsearch.config.space import expand
from tests.records import spec

FLOAT = {"type": "float", "low": 0.5, "high": 4.0}
FOCUSING = {"type": "categorical", "choices": ["none", "fixed", "adaptive"]}


def names(space: dict[str, Any]) -> list[str]:
    return [d.name for d in spec(space=space).dimensions()]


def test_separate_tied_and_some_groups() -> None:
    assert names({"loss.lambda1_neg": FLOAT}) == [f"loss.lambda1_neg.{g}" for g in GROUPS]
    assert names({"loss.lambda1_neg": {**FLOAT, "tied": True}}) == ["loss.lambda1_neg"]
    assert names({"loss.lambda1_neg": {**FLOAT, "groups": ["tail"]}}) == ["loss.lambda1_neg.tail"]
    some = {**FLOAT, "groups": ["head", "tail"], "tied": True}
    (dimension,) = spec(space={"loss.lambda1_neg": some}).dimensions()
    assert dimension.name == "loss.lambda1_neg.head+tail"
    assert dimension.targets == ("loss.lambda1_neg.head", "loss.lambda1_neg.tail")
    assert names({"loss.lambda1_neg.tail": FLOAT}) == ["loss.lambda1_neg.tail"]
    assert names({"training.learning_rate": FLOAT}) == ["training.learning_rate"]


def test_an_exponent_is_active_where_its_focusing_is() -> None:
    dimensions = {
        d.name: d for d in spec(space={"loss.gamma": FLOAT, "loss.focusing": FOCUSING}).dimensions()
    }
    flat = {"loss.focusing.head": "fixed", "loss.focusing.tail": "adaptive"}
    assert dimensions["loss.gamma.head"].is_active(flat)
    assert not dimensions["loss.gamma.tail"].is_active(flat)
    order = list(dimensions)
    assert order.index("loss.focusing.tail") < order.index("loss.gamma.tail")


def test_a_condition_of_the_users_replaces_the_implied_one() -> None:
    space = {
        "loss.gamma": {**FLOAT, "tied": True, "when": {"loss.lambda1_neg_mode": ["adaptive"]}},
        "loss.lambda1_neg_mode": {"type": "categorical", "choices": ["fixed", "adaptive"]},
    }
    gamma = spec(space=space).dimensions()[-1]
    assert gamma.is_active({"loss.lambda1_neg_mode.medium": "adaptive"})
    assert not gamma.is_active({"loss.lambda1_neg_mode.medium": "fixed"})


def test_two_parameters_may_not_set_one_value() -> None:
    base = flatten(spec().base())
    space = spec(space={"loss.lambda1_neg": FLOAT, "loss.lambda1_neg.tail": FLOAT}).space
    with pytest.raises(ValueError, match=r"lambda1_neg\.tail is set by"):
        expand(space, base)


def test_conditions_in_a_circle() -> None:
    mode = {"type": "categorical", "choices": ["fixed", "adaptive"], "tied": True}
    space = {
        "loss.lambda1_neg_mode": {**mode, "when": {"loss.lambda2_neg_mode": "fixed"}},
        "loss.lambda2_neg_mode": {**mode, "when": {"loss.lambda1_neg_mode": "fixed"}},
    }
    with pytest.raises(ValueError, match="circle"):
        expand(spec(space=space).space, flatten(spec().base()))


def test_a_trial_takes_the_values_of_its_dimensions() -> None:
    search = spec(space={"loss.lambda1_neg": {**FLOAT, "groups": ["head", "tail"], "tied": True}})
    trial = search.trial(3, {"loss.lambda1_neg.head+tail": 2.5})
    assert trial.loss.name == "pg"
    assert trial.loss.lambda1_neg.values_G == (2.5, 1.0, 2.5)
    assert trial.configuration_id != search.trial(3, {}).configuration_id
    assert search.trial(4, {}).configuration_id == search.trial(3, {}).configuration_id


@pytest.mark.parametrize(
    ("value", "problem"),
    [(0.5, None), (4, None), (0.4, "outside"), ("a", "not a number"), (True, "not a number")],
)
def test_a_value_outside_a_range(value: Any, problem: str | None) -> None:
    (dimension,) = spec(space={"training.learning_rate": FLOAT}).dimensions()
    found = dimension.problem(value)
    assert found is None if problem is None else problem in str(found)


def test_a_value_between_the_steps() -> None:
    (dimension,) = spec(space={"training.learning_rate": {**FLOAT, "step": 0.5}}).dimensions()
    assert dimension.problem(1.5) is None
    assert "k * step" in str(dimension.problem(1.6))
    assert dimension.grid_values() == (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


def test_a_grid_of_too_fine_steps_is_refused_at_once() -> None:
    integers = {"type": "int", "low": 0, "high": 10**15}
    floats = {"type": "float", "low": -1e308, "high": 1e308, "step": 5e-324}
    for parameter in (integers, floats):
        (dimension,) = spec(space={"loss.lambda1_neg": {**parameter, "tied": True}}).dimensions()
        with pytest.raises(ValueError, match=r"gives more than 100,000 values"):
            dimension.grid_values()
    assert "k * step" in str(dimension.problem(1.0))


TREES = st.recursive(
    st.integers(0, 9),
    lambda children: st.dictionaries(st.sampled_from("abcd"), children, max_size=2),
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    base=st.dictionaries(st.sampled_from("abcd"), TREES),
    change=st.dictionaries(st.sampled_from("abcd"), TREES),
)
def test_merge_keeps_what_is_not_changed_and_takes_what_is(
    base: dict[str, Any], change: dict[str, Any]
) -> None:
    before = repr((base, change))
    merged = flatten(merge(base, change))
    changed = flatten(change)
    assert {path: merged[path] for path in changed} == changed
    for path, value in flatten(base).items():
        touched = any(
            c == path or c.startswith(f"{path}.") or path.startswith(f"{c}.") for c in changed
        )
        if not touched:
            assert merged.get(path, value) == value
    assert repr((base, change)) == before


def test_at_path() -> None:
    assert at_path("a.b.c", 1) == {"a": {"b": {"c": 1}}}
