"""Time to a table and to the first page, on results of 2,000 trials of 8 epochs.

python benchmarks/reading.py [TRIALS [REPEATS]]

The peers are processes that read the same few columns of the epochs folder with a reader of their
own and print the newest epoch of each trial; ratios are to `pyarrow.dataset`. A reader that is not
installed is left out. All times are from the command on; "first" is with an empty cache, as on a
machine that has not read these results yet.
"""

import importlib.metadata
import importlib.util
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from measure import compared, write

from pgsearch.class_groups import GROUPS
from pgsearch.config import TrialSpec, flatten, parse_spec
from pgsearch.provenance import utc_now
from pgsearch.results import FACTORS, EpochRecord, Ledger, TrialRecord, TrialState
from pgsearch.results.read import keep_beside
from pgsearch.results.rows import as_parquet, as_table, epoch_row, trial_row
from pgsearch.results.schema import epoch_schema, trial_schema

NUM_CLASSES, NUM_EPOCHS, PORT = 20, 8, 18_765
SPEC = {
    "name": "big",
    "data": {"name": "digits"},
    "model": {"backbone": "digits_resnet", "weights": "random"},
    "loss": {"name": "pg"},
    "training": {"epochs": NUM_EPOCHS},
    "space": {"loss.lambda1_neg": {"type": "float", "low": 0.5, "high": 8.0, "log": True}},
}
COLUMNS = ["number", "epoch", "configuration_id", "map.test.total", "map.test.tail"]
QUOTED = ", ".join(f'"{column}"' for column in COLUMNS)
NEWEST = 'print(frame.sort_values("epoch").groupby("number").tail(1))'
READERS = {
    "pyarrow": f"""
import sys, pyarrow.dataset
frame = pyarrow.dataset.dataset(sys.argv[1]).to_table({COLUMNS}).to_pandas()
{NEWEST}""",
    "pandas": f"""
import sys, pandas
frame = pandas.read_parquet(sys.argv[1], columns={COLUMNS})
{NEWEST}""",
    "polars": f"""
import sys, polars
frame = polars.scan_parquet(sys.argv[1] + "/*.parquet").select({COLUMNS})
print(frame.sort("epoch").group_by("number").last().collect())""",
    "duckdb": f"""
import sys, duckdb
files = sys.argv[1] + "/*.parquet"
print(duckdb.sql(f'''SELECT {QUOTED} FROM read_parquet('{{files}}')
    QUALIFY row_number() OVER (PARTITION BY number ORDER BY epoch DESC) = 1''').fetchall()[-1])""",
}
"""By package, the program of each peer; the first is what the others are compared with."""


class Case(NamedTuple):
    """Something whose time is measured."""

    what: str
    command: list[str]
    is_first: bool = False
    """With an empty cache."""
    has_ended: bool = True
    """A search keeps its rows beside the results when it has ended."""
    asks_for: str | None = None
    """The command serves: until this page of it is there."""


def main() -> None:
    num_trials, repeats = (int(a) for a in (*sys.argv[1:], *("2000", "5")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        print(f"writing {num_trials} trials of {NUM_EPOCHS} epochs …", flush=True)
        # A process is told to have had at least the memory that the one had that started it.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_results, args=(Path(folder), num_trials)
        )
        writer.start()
        writer.join()
        rows = measure(Path(folder), repeats)
    versions = {package: importlib.metadata.version(package) for package in installed()}
    write(__file__, rows, trials=num_trials, epochs=NUM_EPOCHS, peers=versions)


def measure(folder: Path, repeats: int) -> list[dict[str, object]]:
    beside, away = folder / "big" / "snapshot", folder / "away"
    pgsearch = [sys.executable, "-m", "pgsearch.cli"]
    table = [*pgsearch, "table", "big", "--results", str(folder)]
    serve = [*pgsearch, "serve", str(folder), "--port", str(PORT)]
    page = f"http://127.0.0.1:{PORT}/searches/big"
    cases = [
        *(
            Case(f"{package} (peer)", [sys.executable, "-c", program, str(folder / "big/epochs")])
            for package, program in installed().items()
        ),
        Case("table, first, of a search that runs", table, is_first=True, has_ended=False),
        Case("table, first, of one that has ended", table, is_first=True),
        Case("table, later", table),
        Case("page, first, of one that has ended", serve, is_first=True, asks_for=page),
        Case("page, later", serve, asks_for=page),
    ]
    seconds: dict[str, list[float]] = {case.what: [] for case in cases}
    peak: dict[str, float] = {}
    cache = folder / "cache"
    for _ in range(repeats):
        for case in cases:
            if case.is_first:
                shutil.rmtree(cache, ignore_errors=True)
            here, there = (beside, away) if case.has_ended else (away, beside)
            if not here.exists():
                there.rename(here)
            taken, megabytes = run(case, {**os.environ, "PGSEARCH_CACHE": str(cache)})
            seconds[case.what].append(taken)
            peak[case.what] = max(peak.get(case.what, 0.0), megabytes)
    rows = compared(seconds, subject="what", unit="seconds")
    return [{**row, "megabytes": peak[row["what"]]} for row in rows]


def installed() -> dict[str, str]:
    return {name: READERS[name] for name in READERS if importlib.util.find_spec(name)}


def run(case: Case, environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds that it took and the most memory that it had, in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        case.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if case.asks_for is not None:
        while not is_there(case.asks_for):
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.terminate()
    _, status, usage = os.wait4(process.pid, 0)
    if case.asks_for is None:
        seconds = time.perf_counter() - start
        if status != 0:
            raise RuntimeError(f"{case.command} ended with {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss / 1024


def is_there(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as response:
            return bool(response.read())
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError:  # it does not listen yet
        return False


def write_results(folder: Path, num_trials: int) -> None:
    search = parse_spec({**SPEC, "trials": num_trials}, "benchmark")
    ledger = Ledger(folder / search.name)
    ledger.begin(search)
    chance = random.Random(1)
    for table in ("epochs", "trials"):
        (folder / search.name / table).mkdir()
    for number in range(num_trials):
        params = {f"loss.lambda1_neg.{group}": chance.uniform(0.5, 8) for group in GROUPS}
        trial = search.trial(number, params)
        records = [record(trial, epoch, chance) for epoch in range(1, NUM_EPOCHS + 1)]
        rows = [epoch_row(epoch, trial, 1) for epoch in records]
        ended = TrialRecord(
            number=number,
            uid=trial.uid,
            state=TrialState.COMPLETE,
            seed=trial.seed,
            variant=None,
            configuration_id=trial.configuration_id,
            params=params,
            values=[rows[-1]["map.validation.total"]],
            attempts=1,
            epochs=NUM_EPOCHS,
            wall_seconds=20.0,
            started_utc=utc_now(),
            ended_utc=utc_now(),
            configuration=flatten(trial.configuration),
        )
        tables = {
            "epochs": as_table(rows, epoch_schema()),
            "trials": as_table([trial_row(ended, search.name)], trial_schema()),
        }
        for table, content in tables.items():  # commits would wait for the disk 18,000 times
            file = folder / search.name / table / f"{number:05d}.parquet"
            file.write_bytes(as_parquet(content))
    keep_beside(ledger)


def record(trial: TrialSpec, epoch: int, chance: random.Random) -> EpochRecord:
    def per_class() -> list[float]:
        return [chance.random() for _ in range(NUM_CLASSES)]

    def parts() -> dict[str, float]:
        return {part: chance.random() for part in ("total", *GROUPS)}

    splits = ("validation", "test")
    return EpochRecord(
        epoch=epoch,
        iterations=100 * epoch,
        train_loss=1 / epoch,
        learning_rate=trial.training.learning_rate,
        gradient_norm=chance.random(),
        map={split: parts() for split in splits},
        ap={split: per_class() for split in splits},
        f1={split: {"micro": chance.random(), "macro": chance.random()} for split in splits},
        loss={split: chance.random() for split in splits},
        p_pos=per_class(),
        p_neg=per_class(),
        group_p_pos=parts(),
        group_p_neg=parts(),
        factors={name: per_class() for name in FACTORS},
        num_train_images=3200,
        train_seconds=2.0,
        evaluation_seconds=0.5,
        peak_memory_bytes=1_000_000_000,
        class_names=[f"class {c}" for c in range(NUM_CLASSES)],
        class_counts=[500 // (c + 1) for c in range(NUM_CLASSES)],
        class_groups=[c * 3 // NUM_CLASSES for c in range(NUM_CLASSES)],
        data_fingerprint="data",
        weights_fingerprint="weights",
    )


if __name__ == "__main__":
    main()
