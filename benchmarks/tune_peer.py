"""The peer of `against_tune.py`: a search as Ray Tune's own guides write it.

python benchmarks/tune_peer.py SPEC TRIALS SEED KEY=VALUE…

OptunaSearch and ASHA, Tune's default loggers, a process per trial. The trial itself is pgsearch's
`fit`, so that both sides train the same network on the same cached images with the same code; it
keeps no checkpoint and no ledger. Prints the seconds of the search and each epoch as JSON.
"""

import functools
import json
import sys
import tempfile
import time
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from pgsearch.config import SearchSpec, flatten, load_spec
from pgsearch.search.spaces import suggest
from pgsearch.training.fit import fit

METRIC = "validation_map"


def train(config: dict[str, Any], spec: SearchSpec) -> None:
    fit(
        spec.trial(0, config),
        report=lambda r: tune.report({"epoch": r.epoch, METRIC: r.map["validation"]["total"]}),
    )


def suggest_all(trial: optuna.Trial, command: tuple[str, ...]) -> None:
    spec = search(command)  # not an argument: OptunaSearch pickles all that it is given
    suggest(trial, spec.dimensions(), flatten(spec.base()))


@functools.cache
def search(command: tuple[str, ...]) -> SearchSpec:
    return load_spec(command[0], command[1:])


def main() -> None:
    file, trials, seed, *overrides = sys.argv[1:]
    spec = search((file, *overrides))
    space = functools.partial(suggest_all, command=(file, *overrides))
    asha = None
    if spec.pruner.name == "successive_halving":
        asha = ASHAScheduler(
            time_attr="epoch",
            max_t=spec.training.epochs,
            grace_period=spec.pruner.min_resource,
            reduction_factor=spec.pruner.reduction_factor,
        )
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        results = tune.Tuner(
            tune.with_resources(tune.with_parameters(train, spec=spec), {"cpu": 1}),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                search_alg=OptunaSearch(space, metric=METRIC, mode="max", seed=int(seed)),
                scheduler=asha,
                num_samples=int(trials),
                max_concurrent_trials=2,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        seconds = time.time() - start
        epochs = [
            (row["timestamp"], row[METRIC])
            for frame in (result.metrics_dataframe for result in results)
            for _, row in frame.iterrows()
        ]
    print(json.dumps({"seconds": seconds, "trials": len(results), "epochs": sorted(epochs)}))


if __name__ == "__main__":
    main()
