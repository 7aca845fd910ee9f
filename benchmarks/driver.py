"""What a driver spends on a trial as a search grows, without Ray and without training.

python benchmarks/driver.py [TRIALS]

The real study, ledger and epoch writer with the space, TPE and pruner of digits_pg.yaml; epochs are
made up. A trial costs its driver: ask (the sampler, and the trial's row), observe (the pruner, each
epoch) and tell (the trial's row, and which checkpoints stay). Its epochs are written as a worker
would, which is not counted. In the end another process takes the search up again.
"""

import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from measure import keep
from reading import record

from pgsearch.config import SearchSpec, TrialSpec, load_spec
from pgsearch.results import EpochRecord, EpochWriter, Ledger
from pgsearch.search.study import SearchStudy

EPOCHS, STRETCH, AT_A_TIME = 8, 500, 4
PARTS = ("ask", "observe", "tell")
Running: TypeAlias = list[tuple[TrialSpec, EpochWriter]]
HERE = Path(__file__).parent
RESUME = """
import sys, time
from pathlib import Path
from driver import Ledger, SearchStudy, megabytes, search
start = time.perf_counter()
study = SearchStudy(search(int(sys.argv[2])), Ledger(Path(sys.argv[1])))
assert len(study.records) == int(sys.argv[2]) and not study.unfinished
print(time.perf_counter() - start, megabytes())
"""


def main() -> None:
    num_trials = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = run(search(num_trials), Ledger(Path(folder)))
        seconds = time.perf_counter() - start
        command = [sys.executable, "-c", RESUME, folder, str(num_trials)]
        said = subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout
    resume_seconds, resume_megabytes = map(float, said.split())
    keep(
        __file__,
        rows,
        trials=num_trials,
        seconds=seconds,
        resume_seconds=resume_seconds,
        resume_megabytes=resume_megabytes,
    )
    for row in rows:
        print(f"{row['trials']:14} {row['milliseconds']:6.1f} ms a trial: ask {row['ask']:5.1f}, "
              f"observe {row['observe']:4.1f}, tell {row['tell']:4.1f}  {row['ratio']:.2f} x first "
              f"(quartiles {row['ratio_low']:.2f}..{row['ratio_high']:.2f})  "
              f"{row['megabytes']:5.0f} MB")  # fmt: skip
    print(f"resume {resume_seconds:.1f} s, {resume_megabytes:.0f} MB; all of it {seconds:.0f} s")


def search(num_trials: int) -> SearchSpec:
    """Return digits_pg.yaml with more and shorter trials."""
    changes = [f"trials={num_trials}", f"training.epochs={EPOCHS}", "training.decay_epochs=[6]"]
    return load_spec(HERE.parent / "search_spaces" / "digits_pg.yaml", changes)


def run(spec: SearchSpec, ledger: Ledger) -> list[dict[str, Any]]:
    """Run a search, some trials at a time; return a row per stretch of trials."""
    ledger.begin(spec)
    study, chance = SearchStudy(spec, ledger), random.Random(1)
    spent: dict[int, Counter[str]] = defaultdict(Counter)  # seconds, by trial
    running: Running = []
    rows: list[dict[str, Any]] = []
    while begin(study, ledger, running, spent):
        trial, writer = running.pop(0)
        if not take_epoch(study, trial, writer, chance, spent[trial.number]):
            running.append((trial, writer))
        elif len(spent) - len(running) == STRETCH:
            still = {trial.number for trial, _ in running}
            ended = [spent.pop(number) for number in spent.keys() - still]
            rows.append(summary(STRETCH * (len(rows) + 1), ended, rows))
    return rows


def begin(
    study: SearchStudy, ledger: Ledger, running: Running, spent: dict[int, Counter[str]]
) -> bool:
    """Fill up what runs; return whether anything does."""
    while len(running) < AT_A_TIME:
        start = time.perf_counter()
        if (trial := study.next_trial()) is None:
            break
        spent[trial.number]["ask"] = time.perf_counter() - start
        attempt = ledger.claim_attempt(trial.number)
        running.append((trial, EpochWriter(ledger, trial, attempt)))
    return bool(running)


def take_epoch(
    study: SearchStudy, trial: TrialSpec, writer: EpochWriter, chance: random.Random,
    spent: Counter[str],
) -> bool:  # fmt: skip
    """Record the next epoch of a trial, and tell the study; return whether the trial has ended."""
    epoch = spent["epochs"] = spent["epochs"] + 1
    row = writer.append(made_up(trial, epoch, chance))
    start = time.perf_counter()
    hopeless = epoch < EPOCHS and study.observe(trial.number, epoch, row)
    spent["observe"] += time.perf_counter() - start
    if not hopeless and epoch < EPOCHS:
        return False
    start = time.perf_counter()
    (study.prune if hopeless else study.complete)(trial.number)
    study.remove_checkpoints(trial.number)
    spent["tell"] = time.perf_counter() - start
    return True


def summary(end: int, spent: list[Counter[str]], before: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what trials took, in milliseconds, and as a ratio to the first stretch."""
    totals = [1e3 * sum(s[part] for part in PARTS) for s in spent]
    low, middle, high = statistics.quantiles(totals, n=4)
    first = before[0]["milliseconds"] if before else middle
    return {
        "trials": f"{end - STRETCH + 1} to {end}",
        "milliseconds": middle,
        "ratio": middle / first, "ratio_low": low / first, "ratio_high": high / first,
        **{part: 1e3 * statistics.median(s[part] for s in spent) for part in PARTS},
        "megabytes": megabytes(),
    }  # fmt: skip


def made_up(trial: TrialSpec, epoch: int, chance: random.Random) -> EpochRecord:
    """Return an epoch whose mAP is best at factors of 2, with some noise."""
    loss: Any = trial.loss
    distance = abs(math.log(loss.lambda1_neg.tail / 2)) + abs(math.log(loss.lambda2_pos.tail / 2))
    value = (0.8 - 0.1 * distance) * (1 - 0.5**epoch) + chance.gauss(0, 0.02)
    new = record(trial, epoch, chance)
    parts = dict.fromkeys(new.map["validation"], min(max(value, 0.0), 1.0))
    return replace(new, map={"validation": parts})


def megabytes() -> float:
    """Return the memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
