"""Who chooses the next configuration and who ends a hopeless trial: Optuna's samplers and pruners.

The options are Optuna's own, with Optuna's meaning; only the defaults that pgsearch changes are
explained here.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from pgsearch.config.base import Config

Count: TypeAlias = Annotated[int, Field(ge=0)]


class _SamplerConfig(Config):
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of the choices; the trials have their own"
    )


class TPEConfig(_SamplerConfig):
    """Tree-structured Parzen estimator.

    `group` models the values of a conditional space jointly, `constant_liar` keeps parallel trials
    apart: both on, since spaces here are conditional and trials run in parallel.
    """

    name: Literal["tpe"] = "tpe"
    n_startup_trials: Count = 10
    n_ei_candidates: int = Field(24, ge=1)
    multivariate: bool = True
    group: bool = True
    constant_liar: bool = True

    @model_validator(mode="after")
    def _group_is_multivariate(self) -> "TPEConfig":
        if self.group and not self.multivariate:
            raise ValueError("group: true needs multivariate: true; set both or neither")
        return self


class RandomConfig(_SamplerConfig):
    """Independent draws."""

    name: Literal["random"]


class GPConfig(_SamplerConfig):
    """Gaussian process."""

    name: Literal["gp"]
    n_startup_trials: Count = 10
    deterministic_objective: bool = False


class NSGAIIConfig(_SamplerConfig):
    """Evolution for several objectives."""

    name: Literal["nsgaii"]
    population_size: int = Field(50, ge=2)


SamplerConfig: TypeAlias = Annotated[
    TPEConfig | RandomConfig | GPConfig | NSGAIIConfig, Field(discriminator="name")
]


class NoPrunerConfig(Config):
    """Every trial runs to its last epoch."""

    name: Literal["none"] = "none"


class MedianConfig(Config):
    """Ends a trial below the median of the others at the same epoch."""

    name: Literal["median"]
    n_startup_trials: Count = 5
    n_warmup_steps: Count = 0
    interval_steps: int = Field(1, ge=1)
    n_min_trials: int = Field(1, ge=1)


class PercentileConfig(Config):
    """Ends a trial outside the best `percentile` percent at the same epoch."""

    name: Literal["percentile"]
    percentile: float = Field(ge=0, le=100)
    n_startup_trials: Count = 5
    n_warmup_steps: Count = 0
    interval_steps: int = Field(1, ge=1)
    n_min_trials: int = Field(1, ge=1)


class SuccessiveHalvingConfig(Config):
    """Asynchronous successive halving (ASHA) over epochs."""

    name: Literal["successive_halving"]
    min_resource: int = Field(1, ge=1, description="epochs before the first decision")
    reduction_factor: int = Field(4, ge=2)
    min_early_stopping_rate: Count = 0
    bootstrap_count: Count = 0


class HyperbandConfig(Config):
    """Several brackets of successive halving."""

    name: Literal["hyperband"]
    min_resource: int = Field(1, ge=1)
    reduction_factor: int = Field(3, ge=2)


class ThresholdConfig(Config):
    """Ends a trial outside [lower, upper]."""

    name: Literal["threshold"]
    lower: float | None = None
    upper: float | None = None
    n_warmup_steps: Count = 0
    interval_steps: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _has_a_limit(self) -> "ThresholdConfig":
        if self.lower is None and self.upper is None:
            raise ValueError("a threshold pruner needs lower, upper or both")
        return self


class PatientConfig(Config):
    """Ends a trial that did not improve for `patience` epochs."""

    name: Literal["patient"]
    patience: int = Field(ge=0)
    min_delta: float = Field(0.0, ge=0)


PrunerConfig: TypeAlias = Annotated[
    NoPrunerConfig
    | MedianConfig
    | PercentileConfig
    | SuccessiveHalvingConfig
    | HyperbandConfig
    | ThresholdConfig
    | PatientConfig,
    Field(discriminator="name"),
]
