"""From a space to Optuna: one suggestion of all active dimensions, and a trial of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from pgsearch.config import Dimension, SearchSpec, TrialSpec, flatten
from pgsearch.config.space import CategoricalParameter, FloatParameter
from pgsearch.config.trial import Stage


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


def sample_trial(spec: SearchSpec, stage: Stage | None = None) -> TrialSpec:
    """Return a trial as the search might draw it, without recording anything.

    It has the same values in every stage.
    """
    if spec.method == "grid":
        variant, values = spec.grid()[0]
        return spec.trial(0, values, variant)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=spec.sampler.seed))
    values = suggest(study.ask(), spec.dimensions(), flatten(spec.base()))
    return spec.trial(0, values, stage=stage)
