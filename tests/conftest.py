"""Counts what the tests of each promise tried: `pytest -m promise` prints it, promise by promise.

A test of a promise is marked with its number, `@pytest.mark.promise(2)`. It is one point, unless it
asks for `points` and tells each point that it tries.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import little_memory, payload

__all__ = ["little_memory", "payload"]  # fixtures

PROMISES = {
    1: "kill -9 at random moments loses and repeats nothing",
    2: "a kill at every system call of a commit leaves the old state or the new",
    3: "a resumed trial equals an uninterrupted one",
    4: "sampler, pruner and failed trials are the same after a resume",
    5: "one driver at a time; an older attempt overwrites nothing",
    6: "a full or failing disk stops with exit code 5 and loses nothing",
    7: "damaged and foreign files are named and set aside; old versions are read",
    8: "signals checkpoint, flush and exit with 75",
    9: "changed specs are refused; fork, extend and retry",
    10: "object stores behave the same",
    11: "checkpoints are bounded and what nothing needs is freed",
    12: "hostile names, files and neighbours do no harm",
}

TRIED: Counter[int] = Counter()
HELD: Counter[int] = Counter()


class Points:
    """What one test tries of its promise."""

    def __init__(self, promise: int) -> None:
        self._promise = promise
        self.tried = self.held = 0

    @contextlib.contextmanager
    def point(self, promise: int | None = None) -> Iterator[None]:
        """Try one point: it is held unless an exception leaves the block.

        Args:
            promise: which one, if it is another than the test's.
        """
        number = promise or self._promise
        self.tried += 1
        TRIED[number] += 1
        yield
        self.held += 1
        HELD[number] += 1


@pytest.fixture
def points(request: pytest.FixtureRequest) -> Points:
    marker = request.node.get_closest_marker("promise")
    assert marker is not None, "points belong to a test that is marked with its promise"
    counted = Points(marker.args[0])
    request.node.stash[_POINTS] = counted
    return counted


_POINTS = pytest.StashKey[Points]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    marker = item.get_closest_marker("promise")
    counted = item.stash.get(_POINTS, None)
    own_points = counted is not None and counted.tried > 0
    if marker is None or call.when != "call" or report.skipped:
        return report
    if not own_points:
        TRIED[marker.args[0]] += 1
        HELD[marker.args[0]] += report.passed
    elif report.failed and counted.held == counted.tried:  # failed between its points
        TRIED[marker.args[0]] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "promise" not in str(terminalreporter.config.option.markexpr) or not TRIED:
        return
    write = terminalreporter.write_line
    write("")
    write(f"{'promise':7}  {'tried':>6} {'held':>6} {'violated':>8}")
    for number, text in PROMISES.items():
        tried, held = TRIED[number], HELD[number]
        write(f"{number:>7}  {tried:>6} {held:>6} {tried - held:>8}  {text}")
    report = os.environ.get("PGSEARCH_PROMISES_JSON")
    if report:
        rows = {n: {"tried": TRIED[n], "held": HELD[n]} for n in PROMISES}
        Path(report).write_text(json.dumps(rows, indent=1) + "\n")
