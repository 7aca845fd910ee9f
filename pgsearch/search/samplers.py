"""From the configuration of a sampler and a pruner to Optuna's own."""

import warnings

import optuna

from pgsearch.config import SearchSpec
from pgsearch.config import optimiser as config
from pgsearch.search.bounded_tpe import BoundedTPESampler, Standing
from pgsearch.search.rungs import SortedRungs


def build_sampler(
    sampler: config.SamplerConfig, seed: int, standing: Standing
) -> optuna.samplers.BaseSampler:
    """Return the Optuna sampler of a configuration, with this seed, for a study's next question."""
    options = sampler.model_dump(exclude={"name", "seed"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match sampler:
            case config.TPEConfig():
                return BoundedTPESampler(standing, seed=seed, **options)
            case config.RandomConfig():
                return optuna.samplers.RandomSampler(seed=seed)
            case config.GPConfig():
                return optuna.samplers.GPSampler(seed=seed, **options)
            case config.NSGAIIConfig():
                return optuna.samplers.NSGAIISampler(seed=seed, **options)


def build_pruner(spec: SearchSpec) -> optuna.pruners.BasePruner:
    """Return the Optuna pruner of a search; of one with stages, of its screen."""
    pruner = spec.pruner
    options = pruner.model_dump(exclude={"name"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match pruner:
            case config.NoPrunerConfig():
                return optuna.pruners.NopPruner()
            case config.MedianConfig():
                return optuna.pruners.MedianPruner(**options)
            case config.PercentileConfig():
                return optuna.pruners.PercentilePruner(**options)
            case config.SuccessiveHalvingConfig():
                return SortedRungs(**options)
            case config.HyperbandConfig():
                epochs = spec.base(stage=spec.first_stage)["training"]["epochs"]
                return optuna.pruners.HyperbandPruner(max_resource=epochs, **options)
            case config.ThresholdConfig():
                return optuna.pruners.ThresholdPruner(**options)
            case config.PatientConfig():
                return optuna.pruners.PatientPruner(None, **options)
