"""Trials per hour of a search that trains heads on a frozen trunk, start-up included.

python benchmarks/screening.py

`pgsearch run` as a user starts it: 60 trials that TPE proposes, two at a time, each of 12 epochs of
36 steps on the embedded digits. The trunk is first trained briefly, and its features are computed
anew: both belong to the start-up where a user waits for them, so the second counts and the first,
which stands for a downloaded network, does not.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from measure import keep

from pgsearch.config import load_spec
from pgsearch.provenance import utc_now
from pgsearch.results import Ledger
from pgsearch.results.schema import TrialState
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit

TRIALS, AT_A_TIME, REPEATS = 60, 2, 3
ROOT = Path(__file__).parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pgsearch-screening-") as folder:
        spec = write_spec(Path(folder), train_trunk(Path(folder) / "trunk.pth"))
        runs = [search(spec, Path(folder) / f"run{i}") for i in range(REPEATS)]
    row: dict[str, Any] = {"trials": TRIALS, "at_a_time": AT_A_TIME, "repeats": REPEATS}
    for name in runs[0]:
        row[name] = statistics.median(run[name] for run in runs)
        row[f"{name}_range"] = [min(run[name] for run in runs), max(run[name] for run in runs)]
    keep(__file__, [row])
    print(json.dumps(row, indent=1))


def train_trunk(weights: Path) -> Path:
    """Train the small network for two epochs and keep its backbone, as a weights file."""
    baselines = load_spec(ROOT / "search_spaces" / "digits_baselines.yaml", ["training.epochs=2"])
    checkpoints = Checkpoints(weights.with_suffix(".checkpoint"))
    fit(baselines.trial(0, {}, "BCE (RS)"), report=lambda _: None, checkpoints=checkpoints)
    state = (checkpoints.load() or {})["model"]
    backbone = {name: value for name, value in state.items() if name.startswith("backbone.")}
    torch.save({name.removeprefix("backbone."): v for name, v in backbone.items()}, weights)
    return weights


def write_spec(folder: Path, weights: Path) -> Path:
    spec = {
        "extends": str(ROOT / "search_spaces" / "digits_pg.yaml"),
        "name": "screening",
        "trials": TRIALS,
        "max_concurrent": AT_A_TIME,
        "model": {"weights": str(weights), "dropout": 0.5},
        "training": {"trunk": "frozen", "crop_min": 1.0},
        "sampler": {"name": "tpe"},
        "pruner": {"name": "none"},
    }
    path = folder / "screening.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def search(spec: Path, folder: Path) -> dict[str, float]:
    """Run the search in a process of its own; return its times and rates."""
    environment = {**os.environ, "PGSEARCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pgsearch.cli", "run", str(spec), "--quiet",
               "--results", str(folder / "results")]  # fmt: skip
    start = utc_now()
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    seconds = time.perf_counter() - began
    records = Ledger(folder / "results" / "screening").trials()
    ended = sorted(r.ended_utc for r in records if r.ended_utc and r.state is TrialState.COMPLETE)
    if len(ended) != TRIALS:
        raise RuntimeError(f"{TRIALS - len(ended)} of {TRIALS} trials did not complete")
    steady = (ended[-1] - ended[AT_A_TIME - 1]).total_seconds()
    return {
        "trials_per_hour": 3600 * TRIALS / seconds,
        "trials_per_hour_without_start": 3600 * (TRIALS - AT_A_TIME) / steady,
        "seconds": seconds,
        "seconds_before_first_end": (ended[0] - start).total_seconds(),
        "seconds_per_trial_itself": statistics.median(r.wall_seconds or 0.0 for r in records),
    }


if __name__ == "__main__":
    main()
