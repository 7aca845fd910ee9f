"""The best of n trials: random search and plain TPE against pgsearch's default sampler.

python benchmarks/search_efficiency.py [SEEDS [TRIALS]]

The PG space of digits_pg.yaml on a frozen trunk (trained for four epochs with BCE before), so that
a trial takes half a second. No pruner and no known points: what differs is the sampler alone.
Plain TPE is Optuna's with every parameter by itself. For one seed all three begin with the same ten
random trials, which are trained once.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import keep
from scipy import stats

from pgsearch.config import SearchSpec, TrialSpec, load_spec
from pgsearch.results import EpochRecord, EpochWriter, Ledger
from pgsearch.search.study import SearchStudy
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit

HERE = Path(__file__).parent
SPEC = HERE.parent / "search_spaces" / "digits_pg.yaml"
TPE = "name: tpe, n_startup_trials: 10"
SAMPLERS = {
    "random search": "name: random",
    "plain TPE": f"{TPE}, multivariate: false, group: false, constant_liar: false",
    "pgsearch's default": f"{TPE}, multivariate: true, group: true, constant_liar: true",
}
FROZEN = ("training.trunk=frozen", "training.epochs=6", "training.decay_epochs=[5]",
          "training.validate_every=6", "training.checkpoint_every=6", "pruner={name: none}",
          "points=[]", "keep_checkpoints=0")  # fmt: skip


def main() -> None:
    seeds, trials = (int(a) for a in (*sys.argv[1:], *("10", "30")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PGSEARCH_CACHE"] = f"{folder}/cache"
        train_trunk(Path(folder))
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            curves = pool.map(partial(search, Path(folder), trials), range(seeds), chunksize=1)
    rows = [
        row for n in sorted({10, 20, trials} & {*range(trials + 1)}) for row in compare(curves, n)
    ]
    keep(__file__, rows, seeds=seeds, trials=trials)
    for row in rows:
        print(f"{row['name']:20} after {row['after_trials']:3} trials  {row['value']:.2f} "
              f"({row['low']:.2f}..{row['high']:.2f})  default minus it {row['difference']:+.2f} "
              f"(95 % {row['difference_low']:+.2f}..{row['difference_high']:+.2f})")  # fmt: skip


def train_trunk(folder: Path) -> None:
    """Train the backbone and write its weights."""
    torch.set_num_threads(2)
    checkpoints = Checkpoints(folder / "classifier.pt")
    spec = load_spec(SPEC, ["training.epochs=4", "training.decay_epochs=[3]"])
    trial = spec.trial(0, spec.known_points()[0])  # neutral factors: BCE
    fit(trial, report=lambda _: None, checkpoints=checkpoints)
    state = (checkpoints.load() or {})["model"]
    prefix = "backbone."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    torch.save(weights, folder / "trunk.pth")


def search(folder: Path, trials: int, seed: int) -> dict[str, list[float]]:
    """Return the best validation mAP after each trial, by sampler, for one seed."""
    known: dict[str, EpochRecord] = {}  # by configuration: samplers share their random beginning
    curves = {}
    for name, sampler in SAMPLERS.items():
        spec = load_spec(
            SPEC,
            [*FROZEN, f"trials={trials}", f"model.weights={folder}/trunk.pth",
             f"sampler={{{sampler}, seed: {seed}}}"],
        )  # fmt: skip
        ledger = Ledger(folder / f"{list(SAMPLERS).index(name)}-{seed}")
        ledger.begin(spec)
        curves[name] = run(spec, ledger, known)
    return curves


def run(spec: SearchSpec, ledger: Ledger, known: dict[str, EpochRecord]) -> list[float]:
    study = SearchStudy(spec, ledger)
    best: list[float] = []
    while (trial := study.next_trial()) is not None:
        value = execute(study, ledger, trial, known)
        best.append(max([*best[-1:], value]))
    return best


def execute(
    study: SearchStudy, ledger: Ledger, trial: TrialSpec, known: dict[str, EpochRecord]
) -> float:
    """Train a trial, or take the same configuration's last epoch; return its validation mAP."""
    if trial.configuration_id not in known:
        records: list[EpochRecord] = []
        fit(trial, report=records.append)
        known[trial.configuration_id] = records[-1]
    EpochWriter(ledger, trial, ledger.claim_attempt(trial.number)).append(
        known[trial.configuration_id]
    )
    record = study.complete(trial.number)
    return 100 * (record.values or [0.0])[0]


def compare(curves: list[dict[str, list[float]]], n: int) -> list[dict[str, Any]]:
    """Return a row per sampler after n trials, with the default's paired difference to it."""
    after = {name: np.array([curve[name][n - 1] for curve in curves]) for name in SAMPLERS}
    default, peer = after["pgsearch's default"], after["random search"]
    rows = []
    for name, values in after.items():
        differences = default - values
        low, high = differences[[0, 0]]
        if differences.std() > 0:
            low, high = stats.t.interval(
                0.95, len(differences) - 1, differences.mean(), stats.sem(differences)
            )
        quartiles = statistics.quantiles(values, n=4)
        ratios = statistics.quantiles(values / peer, n=4)
        rows.append(
            {"name": name, "after_trials": n, "value": quartiles[1], "low": quartiles[0],
             "high": quartiles[2], "unit": "best validation mAP", "ratio": ratios[1],
             "ratio_low": ratios[0], "ratio_high": ratios[2],
             "difference": float(differences.mean()), "difference_low": float(low),
             "difference_high": float(high)}
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
