"""Real searches as a user runs them: as a process, killed and asked in every way."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from pgsearch.results import Ledger, TrialState, read_epochs

SPEC = """\
name: small
trials: 5
data: {name: digits, max_count: 120, image_size: 32, head_min: 60}
model: {backbone: digits_resnet, weights: random, bn_eval: false}
loss: {name: pg}
training: {epochs: 4, iterations_per_epoch: 12, decay_epochs: [3], learning_rate: 0.1}
space: {loss.lambda1_neg: {type: float, low: 0.5, high: 8, log: true, tied: true}}
max_concurrent: 2
"""
STEPS_PER_EPOCH = 12
SPY = Path(__file__).parent / "spy"


class Search:
    """A search that is run as a user runs it.

    Args:
        folder: where its spec goes, and its results if they go nowhere else.
        spec: the YAML.
        results: URL of another place for its results.
        spy: note each optimiser step, see `steps`.
        environment: more variables.
    """

    def __init__(
        self,
        folder: Path,
        spec: str = SPEC,
        *,
        results: str | None = None,
        spy: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.file = folder / "small.yaml"
        self.file.write_text(spec)
        self.results = results or str(folder / "results")
        self.ledger = Ledger(f"{self.results}/small")
        self.environment = {**os.environ, **(environment or {})}
        self.spy_log = folder / "steps.log"
        if spy:
            paths = [str(SPY), *filter(None, [self.environment.get("PYTHONPATH")])]
            self.environment["PYTHONPATH"] = os.pathsep.join(paths)
            self.environment["PGSEARCH_SPY_LOG"] = str(self.spy_log)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `pgsearch run`, in a session of its own."""
        return self.command("run", str(self.file), *arguments)

    def command(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pgsearch.cli", *words, "--results", self.results]
        return subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run it to its end; returns exit code and what it said."""
        return ended(self.start(*arguments))

    def epochs(self) -> pd.DataFrame:
        """All recorded epochs."""
        return read_epochs(self.ledger).to_pandas()

    def wait_for_epochs(self, count: int, process: subprocess.Popen[str]) -> None:
        self._wait(process, lambda: len(self.epochs()) >= count)

    def wait_for_steps(self, count: int, process: subprocess.Popen[str]) -> None:
        self._wait(process, lambda: len(self.steps()) >= count)

    def _wait(self, process: subprocess.Popen[str], is_met: object) -> None:
        deadline = time.monotonic() + 200
        while not is_met():  # type: ignore[operator]
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def steps(self) -> list[tuple[str, int, int, int]]:
        """Every optimiser step that was executed: uid, epoch, step, pid."""
        if not self.spy_log.exists():
            return []
        lines = self.spy_log.read_text().splitlines()
        parts = [line.split() for line in lines]
        return [(p[0], int(p[1]), int(p[2]), int(p[3])) for p in parts if len(p) == 4]

    def repeated_steps(self) -> Counter[str]:
        """How many steps of each trial were executed more than once."""
        counts = Counter((uid, step) for uid, _, step, _ in self.steps())
        repeated: Counter[str] = Counter()
        for (uid, _), count in counts.items():
            repeated[uid] += count - 1
        return repeated


def ended(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str]:
    """Wait for a process; returns exit code and what it said."""
    out, errors = process.communicate(timeout=timeout)
    return process.returncode, errors + out


def assert_whole(search: Search, *, trials: int = 5, epochs: int = 4) -> None:
    """Every epoch of every trial is there, once, and every trial is COMPLETE."""
    frame = search.epochs()
    assert list(zip(frame["number"], frame["epoch"], strict=True)) == [
        (n, e) for n in range(trials) for e in range(1, epochs + 1)
    ]
    assert {t.state for t in search.ledger.trials()} == {TrialState.COMPLETE}


def processes_of(driver: int, *, title: str = "") -> list[int]:
    """Return the processes that a driver's Ray started: they stay in the driver's session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        pid = int(folder.name)
        if pid != driver and title in words and _session_of(pid) == driver:
            found.append(pid)
    return sorted(found)


def _session_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return None


def kill(driver: subprocess.Popen[str], *pids: int) -> None:
    """Kill processes of a driver's session; a number that has become another's is left alone."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if _session_of(pid) == driver.pid:  # asked after the open, so it is of this process
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            os.close(process)


def wait_until_gone(pids: list[int], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {[p for p in pids if lives(p)]}"
        time.sleep(0.1)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
