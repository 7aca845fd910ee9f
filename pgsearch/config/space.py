"""A search space in the field's words: factor × group × mode, with Optuna's ranges.

A parameter is keyed by the path of the value that it sets. On a value per class group it makes one
dimension for each group, or one for all of them when `tied`; `groups` narrows it to some.
"""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from pgsearch.class_groups import GROUPS
from pgsearch.config.base import Config

Group: TypeAlias = Literal["head", "medium", "tail"]
Scalar: TypeAlias = bool | int | float | str

# An exponent that the group's focusing does not use is not a dimension of the search.
IMPLIED_CONDITIONS: Mapping[str, Mapping[str, Scalar]] = {
    "loss.gamma": {"loss.focusing": "fixed"},
    "loss.lambda0": {"loss.focusing": "adaptive"},
}


class _Parameter(Config):
    groups: list[Group] = Field(list(GROUPS), min_length=1, description="class groups it sets")
    tied: bool = Field(False, description="one value for all its groups")
    when: dict[str, Scalar | list[Scalar]] | None = Field(
        None, description="other values that make it active; null is what the loss implies"
    )

    @model_validator(mode="after")
    def _groups_once(self) -> "_Parameter":
        if len(set(self.groups)) < len(self.groups):
            raise ValueError(f"groups names one twice: {list(self.groups)}")
        return self


class FloatParameter(_Parameter):
    """A real number in [low, high]."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _range_is_usable(self) -> "FloatParameter":
        _check_range(self.low, self.high, self.log, self.step)
        return self


class IntParameter(_Parameter):
    """A whole number in [low, high]."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _range_is_usable(self) -> "IntParameter":
        _check_range(self.low, self.high, self.log, self.step)
        return self


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if low >= high:
        raise ValueError(f"low ({low}) must be below high ({high})")
    if log and low <= 0:
        raise ValueError(f"a log scale needs low > 0, got {low}: raise low or drop log")
    if log and step is not None:
        raise ValueError("log and step exclude each other: drop one")
    if step is not None and step > high - low:
        raise ValueError(f"step ({step}) is wider than the range [{low}, {high}]")


class CategoricalParameter(_Parameter):
    """One of several values."""

    type: Literal["categorical"]
    choices: list[Scalar] = Field(min_length=1)

    @model_validator(mode="after")
    def _choices_once(self) -> "CategoricalParameter":
        if len({repr(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError(f"choices names a value twice: {list(self.choices)}")
        return self


Parameter: TypeAlias = Annotated[
    FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")
]


MAX_GRID_VALUES = 100_000
"""Of one dimension; a search of its combinations has no more either."""


@dataclass(frozen=True)
class Dimension:
    """One dimension of the expanded space; it maps one-to-one to an Optuna distribution."""

    name: str
    parameter: FloatParameter | IntParameter | CategoricalParameter
    targets: tuple[str, ...]
    conditions: tuple[tuple[tuple[str, ...], tuple[Scalar, ...]], ...]
    """Pairs of paths and values: active while, for each pair, one of the paths has one of them."""

    def is_active(self, flat: Mapping[str, Any]) -> bool:
        """Whether the dimension matters under the flattened configuration `flat`."""
        return all(
            any(flat.get(path) == value for path in paths for value in values)
            for paths, values in self.conditions
        )

    def grid_values(self) -> tuple[Scalar, ...]:
        """Return all values in order; raises ValueError for a range without a step."""
        parameter = self.parameter
        if isinstance(parameter, CategoricalParameter):
            return tuple(parameter.choices)
        step = parameter.step if isinstance(parameter, FloatParameter) else parameter.step or 1
        if step is None or parameter.log:
            raise ValueError(
                "a grid needs choices or a step, a continuous range has no end of values"
            )
        steps = (parameter.high - parameter.low) / step
        if not steps < MAX_GRID_VALUES:  # not >=, which is false of a quotient of two infinities
            raise ValueError(
                f"a step of {step} from {parameter.low} to {parameter.high} gives more than "
                f"{MAX_GRID_VALUES:,} values"
            )
        count = math.floor(steps + 1e-9) + 1
        # 0.1 + 2 * 0.1 is above 0.3, so round what the arithmetic adds.
        return tuple(min(parameter.high, round(parameter.low + i * step, 12)) for i in range(count))

    def extremes(self) -> dict[str, Scalar]:
        """Return the values at the ends of the dimension, or its choices, by where they stand."""
        parameter = self.parameter
        if isinstance(parameter, CategoricalParameter):
            return {f"choices.{i}": choice for i, choice in enumerate(parameter.choices)}
        return {"low": parameter.low, "high": parameter.high}

    def problem(self, value: Any) -> str | None:
        """Say why `value` is outside the dimension, or return None."""
        parameter = self.parameter
        if isinstance(parameter, CategoricalParameter):
            if not any(value == c and type(value) is type(c) for c in parameter.choices):
                return f"{value!r} is not one of {list(parameter.choices)}"
            return None
        wanted = (int, float) if isinstance(parameter, FloatParameter) else (int,)
        if isinstance(value, bool) or not isinstance(value, wanted):
            return f"{value!r} is not {'a number' if float in wanted else 'a whole number'}"
        if not parameter.low <= value <= parameter.high:
            return f"{value!r} is outside [{parameter.low}, {parameter.high}]"
        if parameter.step is not None:
            steps = (value - parameter.low) / parameter.step
            if not math.isfinite(steps) or abs(steps - round(steps)) > 1e-8:
                return (
                    f"{value!r} is not low + k * step (low {parameter.low}, step {parameter.step})"
                )
        return None


def expand(space: Mapping[str, Parameter], base: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Expand a space to its dimensions, each after those that its conditions read.

    Args:
        space: parameters by path.
        base: flattened base configuration; it says which paths hold a value per class group.

    Raises:
        ValueError: a path is not in the base configuration, two parameters set one value, or
            conditions form a circle.
    """
    dimensions = [
        d for path, parameter in space.items() for d in _dimensions(path, parameter, base)
    ]
    owner: dict[str, str] = {}
    for dimension in dimensions:
        for target in dimension.targets:
            if target in owner:
                raise ValueError(f"{target} is set by {owner[target]} and by {dimension.name}")
            owner[target] = dimension.name
    return tuple(_parents_first(dimensions, owner))


def expand_point(point: Mapping[str, Any], dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Rename the keys of a known point to dimensions; a path stands for all its groups.

    Raises ValueError, naming the key, for one that is no dimension or a value outside it.
    """
    values: dict[str, Any] = {}
    for key, value in point.items():
        named = [d for d in dimensions if d.name == key or d.name.rpartition(".")[0] == key]
        if not named:
            known = ", ".join(d.name for d in dimensions)
            raise ValueError(f"{key} is not in the space; it has {known}")
        for dimension in named:
            if problem := dimension.problem(value):
                raise ValueError(f"{dimension.name}: {problem}")
            values[dimension.name] = value
    return values


def grid(dimensions: Sequence[Dimension], base: Mapping[str, Any]) -> list[dict[str, Scalar]]:
    """Return every combination of the active dimensions' values, in a fixed order, each once."""
    combinations: dict[str, dict[str, Scalar]] = {}
    for values in itertools.product(*(d.grid_values() for d in dimensions)):
        flat = dict(base)
        active: dict[str, Scalar] = {}
        for dimension, value in zip(dimensions, values, strict=True):
            if dimension.is_active(flat):
                active[dimension.name] = value
                flat |= dict.fromkeys(dimension.targets, value)
        combinations.setdefault(repr(active), active)
    return list(combinations.values())


def _dimensions(path: str, parameter: Any, base: Mapping[str, Any]) -> Iterator[Dimension]:
    given_when = parameter.when
    when = _implied(path, base) if given_when is None else given_when
    if path in base:  # a single value, or one group's value named outright
        stem, _, last = path.rpartition(".")
        groups: tuple[str, ...] = (last,) if last in GROUPS else ()
        if given_when is None:
            when = _implied(stem if groups else path, base)
        yield Dimension(path, parameter, (path,), _conditions(when, groups, base))
        return
    if not all(f"{path}.{group}" in base for group in GROUPS):
        stems = {name.removesuffix(f".{group}") for name in base for group in GROUPS}
        close = difflib.get_close_matches(path, stems, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"{path} is not a value of this configuration, whose loss is "
            f"{base.get('loss.name')}{hint}"
        )
    if parameter.tied:
        whole = set(parameter.groups) == set(GROUPS)
        name = path if whole else f"{path}.{'+'.join(parameter.groups)}"
        targets = tuple(f"{path}.{group}" for group in parameter.groups)
        yield Dimension(name, parameter, targets, _conditions(when, parameter.groups, base))
        return
    for group in parameter.groups:
        target = f"{path}.{group}"
        yield Dimension(target, parameter, (target,), _conditions(when, (group,), base))


def _implied(path: str, base: Mapping[str, Any]) -> Mapping[str, Scalar]:
    """Return the conditions that go without saying, where the loss has what they read."""
    return {
        read: value
        for read, value in IMPLIED_CONDITIONS.get(path, {}).items()
        if any(name == read or name.startswith(f"{read}.") for name in base)
    }


def _conditions(
    when: Mapping[str, Any], groups: Sequence[str], base: Mapping[str, Any]
) -> tuple[tuple[tuple[str, ...], tuple[Scalar, ...]], ...]:
    conditions = []
    for path, wanted in when.items():
        if path in base:
            paths: tuple[str, ...] = (path,)
        elif all(f"{path}.{group}" in base for group in GROUPS):
            paths = tuple(f"{path}.{group}" for group in groups or GROUPS)
        else:
            raise ValueError(f"when: {path} is not a value of this configuration")
        conditions.append((paths, tuple(wanted) if isinstance(wanted, list) else (wanted,)))
    return tuple(conditions)


def _parents_first(
    dimensions: Sequence[Dimension], owner: Mapping[str, str]
) -> Iterator[Dimension]:
    waiting = {d.name: d for d in dimensions}
    while waiting:
        ready = [
            d
            for d in waiting.values()
            if not any(
                owner.get(path) in waiting and owner.get(path) != d.name
                for paths, _ in d.conditions
                for path in paths
            )
        ]
        if not ready:
            raise ValueError(f"conditions form a circle between {', '.join(waiting)}")
        for dimension in ready:
            del waiting[dimension.name]
            yield dimension
