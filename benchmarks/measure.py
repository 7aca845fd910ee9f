"""What the benchmarks share: rounds side by side, ratios with quartiles, JSON with its origin.

Ratios are formed within a round, where all subjects meet the same neighbours on the machine.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgsearch.provenance import provenance, utc_now

RESULTS = Path(__file__).parent / "results"


def interleave(
    subjects: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Return what each subject measured, by round; every round runs all of them in turn."""
    measured: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(-warm_up, rounds):
        for name, subject in subjects.items():
            value = subject()
            if number >= 0:
                measured[name].append(value)
    return measured


def seconds_of(run: Callable[[], object], *, times: int = 1) -> Callable[[], float]:
    """Return a subject that measures the seconds of one call, the mean of a few."""

    def subject() -> float:
        start = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - start) / times

    return subject


def ratio(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return the median ratio of two subjects' rounds and its quartiles."""
    ratios = [value / of_base for value, of_base in zip(values, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": middle, "ratio_low": low, "ratio_high": high}


def compared(
    measured: Mapping[str, Sequence[float]], *, subject: str, unit: str, scale: float = 1.0
) -> list[dict[str, Any]]:
    """Return a row of each subject: its median in some unit, and its ratio to the first.

    Args:
        measured: by subject, as `interleave` returns it.
        subject: name of the column that names the subject.
        unit: name of the column of medians.
        scale: how many of the unit make one of what was measured.
    """
    base = next(iter(measured.values()))
    return [
        {subject: name, unit: scale * statistics.median(values), **ratio(values, base)}
        for name, values in measured.items()
    ]


def write(script: str, rows: Sequence[Mapping[str, Any]], **facts: object) -> None:
    """Print the rows of a benchmark, and `keep` them."""
    keep(script, rows, **facts)
    for row in rows:
        print("  ".join(f"{key}={_short(value)}" for key, value in row.items()))


def keep(script: str, rows: Sequence[Mapping[str, Any]], **facts: object) -> None:
    """Keep the rows of a benchmark under its name with what made them.

    Args:
        script: path of the benchmark.
        rows: `X_low` and `X_high` are the quartiles of `X`; `target` is what was aimed at.
        facts: of the whole run, such as the number of threads or the versions of peers.
    """
    ran = {fact: value for fact, value in provenance().items() if fact != "host"}
    ran |= {"processor": _processor()}
    report = {"utc": utc_now().isoformat(), "provenance": ran, **facts, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{Path(script).stem}.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def cores() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor()
