"""How much each parameter of a space has to do with being among the best: PED-ANOVA."""

import warnings
from typing import Any, Final

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from pgsearch.analysis.columns import plain_text, short_name
from pgsearch.analysis.factors import by_configuration, is_maximised
from pgsearch.analysis.records import Records
from pgsearch.class_groups import GROUPS
from pgsearch.config import Dimension
from pgsearch.distributions import distribution
from pgsearch.errors import UsageError

MIN_CONFIGURATIONS: Final = 15
MIN_BEST: Final = 5
"""Configurations that count as the best, below which the analysis is not stable."""
BEST_FRACTION: Final = 0.1
"""That count as the best, where these are more than `MIN_BEST`."""


def parameter_importance(records: Records, metric: str) -> pd.DataFrame:
    """Importance of each parameter for reaching the best tenth, or the best five of few.

    PED-ANOVA compares how a parameter is distributed among the best configurations and among all,
    each parameter for itself: S. Watanabe et al., IJCAI 2023, doi:10.24963/ijcai.2023/488; for
    conditional parameters as Optuna has it, https://arxiv.org/abs/2601.20800. One configuration
    counts once, with the mean of its complete replicates.

    Args:
        records: of a search.
        metric: column of the last epoch to judge by.

    Returns:
        The most important first; columns parameter, importance (their sum is 1), n (configurations
        that have the parameter), condition (when it is active; "" for always).

    Raises:
        UsageError: the spec has no space, or too few configurations are complete.
    """
    values = by_configuration(records, [metric])[metric].dropna()
    if not records.spec.space:
        raise UsageError(
            f"{records.name} has no space, only variants: importance is of the parameters of a "
            "space"
        )
    if (missing := MIN_CONFIGURATIONS - len(values)) > 0:
        raise UsageError(
            f"{len(values)} complete configurations of {records.name} have {metric}; importance "
            f"needs {MIN_CONFIGURATIONS}: {missing} are missing"
        )
    study, dimensions = _study(records, values, maximises=is_maximised(records, metric))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=best_fraction(len(values)))
    with warnings.catch_warnings():
        # Of parameters that one configuration has or lacks; the column n says so.
        warnings.simplefilter("ignore")
        importances = get_param_importances(study, evaluator=evaluator)
    trials = study.get_trials(deepcopy=False)
    rows = [
        {
            "parameter": name,
            "importance": importance,
            "n": sum(name in trial.params for trial in trials),
            "condition": _condition(dimensions[name]),
        }
        for name, importance in importances.items()
    ]
    frame = pd.DataFrame(rows, columns=["parameter", "importance", "n", "condition"])
    return frame.sort_values(
        ["importance", "parameter"], ascending=[False, True], ignore_index=True
    )


def best_fraction(num_configurations: int) -> float:
    """Return which fraction of the configurations count as the best."""
    return max(BEST_FRACTION, MIN_BEST / num_configurations)


def _study(
    records: Records, values: "pd.Series[float]", *, maximises: bool
) -> tuple[optuna.Study, dict[str, Dimension]]:
    """Return an Optuna study of the configurations, and the dimensions by name."""
    # What Optuna has to say of making a study is no news to a reader of results.
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if maximises else "minimize")
    optuna.logging.set_verbosity(verbosity)
    dimensions = {
        variant: {d.name: d for d in records.spec.dimensions(variant)}
        for variant in records.spec.variant_names()
    }
    distributions: dict[str, BaseDistribution] = {
        name: distribution(d)
        for of_variant in dimensions.values()
        for name, d in of_variant.items()
    }
    configurations = records.configurations.set_index("configuration_id")
    params_of: list[dict[str, Any]] = configurations.loc[values.index, "params"].tolist()
    for params, value in zip(params_of, values.tolist(), strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params=params,
                distributions={name: distributions[name] for name in params},
            )
        )
    return study, {name: d for of_variant in dimensions.values() for name, d in of_variant.items()}


def _condition(dimension: Dimension) -> str:
    """Say when a dimension is active, such as `focusing = adaptive`; "" is always."""
    conditions = []
    for paths, values in dimension.conditions:
        stems = {path.rpartition(".")[0] for path in paths}
        named = list(stems) if len(paths) == len(GROUPS) and len(stems) == 1 else paths
        names, texts = map(short_name, named), map(plain_text, values)
        conditions.append(f"{' or '.join(names)} = {' or '.join(texts)}")
    return " and ".join(conditions)
