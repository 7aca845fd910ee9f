"""A search by pgsearch against one by stock Ray Tune, on the same trials of digits.

python benchmarks/against_tune.py [ROUNDS [TRIALS [SEEDS]]]

First how many trials of one epoch end in an hour; then how good the best is after equally many
epochs, with the PG space. The peer is `tune_peer.py`: OptunaSearch, ASHA, default loggers, a
process per trial. Both run two trials at a time, one core each, and train with the same code on the
same cached images; pgsearch also writes its ledger and checkpoints. Rounds are interleaved.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from measure import keep

from pgsearch.results import Ledger, read_epochs

HERE = Path(__file__).parent
SPEC = str(HERE.parent / "search_spaces" / "digits_pg.yaml")
SHORT = ("training.epochs=1", "training.decay_epochs=[]", "pruner={name: none}", "points=[]")
SEARCH = (
    "training.epochs=8", "training.decay_epochs=[6]", "training.iterations_per_epoch=18",
    "training.warmup_iterations=24", "points=[]",
    "pruner={name: successive_halving, min_resource: 2, reduction_factor: 2}",
)  # fmt: skip
BUDGETS = (0.25, 0.5, 1.0)
AT_A_TIME = 2


class Ran(NamedTuple):
    """What a search took and found."""

    command_seconds: float
    search_seconds: float
    """From the first trial's placing to the last one's end: without the start of Ray."""
    epochs: list[tuple[float, float]]
    """Of each epoch, in order, when it ended (in seconds) and its validation mAP."""

    def per_hour(self) -> dict[str, float]:
        """Return finished trials per hour, where each has one epoch, counted in three ways."""
        ends = [end for end, _ in self.epochs]
        later = ends[AT_A_TIME:]
        return {
            "once the first have ended": 3600 * len(later) / (ends[-1] - ends[AT_A_TIME - 1]),
            "from the first one's start": 3600 * len(ends) / self.search_seconds,
            "the whole command": 3600 * len(ends) / self.command_seconds,
        }


def main() -> None:
    rounds, trials, seeds = (
        int(a) for a in (*sys.argv[1:], *("3", "12", "3")[len(sys.argv) - 1 :])
    )
    sides = {"Ray Tune (peer)": tune, "pgsearch": pgsearch}
    short: dict[str, list[Ran]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in alternating(sides, number):
            short[side].append(sides[side](trials, number, SHORT))
    searched: dict[str, list[Ran]] = {side: [] for side in sides}
    for seed in range(seeds):
        for side in alternating(sides, seed):
            searched[side].append(sides[side](16, seed, SEARCH))
    rows = [*throughput(short), *found(searched)]
    keep(__file__, rows, rounds=rounds, trials=trials, seeds=seeds)
    for row in rows:
        print(f"{row['name']:62} {row['value']:9.2f} {row['unit']:15} {row['ratio']:6.2f} x peer "
              f"({row['ratio_low']:.2f}..{row['ratio_high']:.2f})")  # fmt: skip


def alternating(sides: dict[str, Any], number: int) -> list[str]:
    """Return who goes first, then who second."""
    return list(sides) if number % 2 == 0 else list(sides)[::-1]


def tune(trials: int, seed: int, changes: tuple[str, ...]) -> Ran:
    command = [sys.executable, str(HERE / "tune_peer.py"), SPEC, str(trials), str(seed), *changes]
    start = time.perf_counter()
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - start
    found = json.loads(said.splitlines()[-1])
    if found["trials"] != trials:
        raise RuntimeError(f"the peer ran {found['trials']} trials, not {trials}")
    return Ran(seconds, found["seconds"], found["epochs"])


def pgsearch(trials: int, seed: int, changes: tuple[str, ...]) -> Ran:
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "pgsearch.cli", "run", SPEC, "--results", results,
                   "--trials", str(trials), *changes, f"sampler.seed={seed}"]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        ledger = Ledger(Path(results) / "digits_pg")
        records = ledger.trials()
        rows = read_epochs(ledger, columns=["recorded_utc", "map.validation.total"]).to_pylist()
    begin = min(record.started_utc for record in records)
    end = max(record.ended_utc for record in records)
    epochs = [(row["recorded_utc"].timestamp(), row["map.validation.total"]) for row in rows]
    return Ran(seconds, (end - begin).total_seconds(), sorted(epochs))


def throughput(ran: dict[str, list[Ran]]) -> list[dict[str, Any]]:
    """Return rows of finished trials per hour."""
    rows = []
    for what in ran["pgsearch"][0].per_hour():
        per_hour = {side: [one.per_hour()[what] for one in runs] for side, runs in ran.items()}
        rows += [
            row(f"{side}: trials of one epoch, {what}", "trials/hour", values, per_hour)
            for side, values in per_hour.items()
        ]
    return rows


def found(ran: dict[str, list[Ran]]) -> list[dict[str, Any]]:
    """Return rows of the best validation mAP after equally many epochs of both sides."""
    rows = []
    pairs = list(zip(*ran.values(), strict=True))
    for budget in BUDGETS:
        best: dict[str, list[float]] = {side: [] for side in ran}
        epochs = [int(budget * min(len(one.epochs) for one in pair)) for pair in pairs]
        for pair, num_epochs in zip(pairs, epochs, strict=True):
            for side, one in zip(ran, pair, strict=True):
                best[side].append(100 * max(score for _, score in one.epochs[:num_epochs]))
        after = f"best after {statistics.median(epochs):.0f} epochs"
        rows += [
            row(f"{side}: {after}", "validation mAP", values, best) for side, values in best.items()
        ]
    return rows


def row(
    name: str, unit: str, values: list[float], all_sides: dict[str, list[float]]
) -> dict[str, Any]:
    """Return the median of a side, and of its ratio to the peer with lowest and highest."""
    peer = next(iter(all_sides.values()))
    ratios = [value / base for value, base in zip(values, peer, strict=True)]
    return {
        "name": name,
        "unit": unit,
        "value": statistics.median(values),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


if __name__ == "__main__":
    main()
