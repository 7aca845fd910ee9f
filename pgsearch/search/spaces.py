"""From a space to Optuna: one suggestion of all active dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from pgsearch.config import Dimension
from pgsearch.config.space import CategoricalParameter, FloatParameter


def suggest(
    trial: optuna.Trial, dimensions: Sequence[Dimension], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Let Optuna choose every dimension that is active given the ones before it.

    Args:
        trial: the trial that asks.
        dimensions: parents before children, as `SearchSpec.dimensions` gives them.
        base: the flattened configuration before the space sets anything.

    Returns:
        Values by dimension; an inactive one is not in it.
    """
    flat = dict(base)
    values: dict[str, Any] = {}
    for dimension in dimensions:
        if not dimension.is_active(flat):
            continue
        parameter = dimension.parameter
        value: Any
        if isinstance(parameter, CategoricalParameter):
            value = trial.suggest_categorical(dimension.name, parameter.choices)
        elif isinstance(parameter, FloatParameter):
            value = trial.suggest_float(
                dimension.name,
                parameter.low,
                parameter.high,
                log=parameter.log,
                step=parameter.step,
            )
        else:
            value = trial.suggest_int(
                dimension.name,
                parameter.low,
                parameter.high,
                log=parameter.log,
                step=parameter.step or 1,
            )
        values[dimension.name] = value
        flat |= dict.fromkeys(dimension.targets, value)
    return values


def canonical(values: Mapping[str, Any], dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Return known values with whole numbers of a real dimension as real numbers."""
    by_name = {d.name: d for d in dimensions}
    return {
        name: float(value) if isinstance(by_name[name].parameter, FloatParameter) else value
        for name, value in values.items()
    }
