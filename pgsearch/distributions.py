"""What a dimension of a space is to Optuna: for the search that asks it, and for the analysis."""

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pgsearch.config import Dimension
from pgsearch.config.space import CategoricalParameter, FloatParameter


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return the Optuna distribution that a dimension stands for, one to one."""
    parameter = dimension.parameter
    if isinstance(parameter, CategoricalParameter):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, FloatParameter):
        return FloatDistribution(
            parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
    return IntDistribution(
        parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1
    )
