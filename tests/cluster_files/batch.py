"""SLURM on one machine: a job's script runs as on its first node, with stubs of its programs."""

import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STUBS = Path(__file__).parent / "stubs"
_numbers = itertools.count(os.getpid() % 2000 + 100)


@dataclass
class Batch:
    """One job; run again, it is the same job after a requeue."""

    script: Path
    state: Path
    path: str
    """Where programs are found."""
    environment: dict[str, str] = field(default_factory=dict)
    number: int = field(default_factory=lambda: next(_numbers))
    runs: int = 0

    def run(
        self, *signals: tuple[Callable[[], bool], signal.Signals], timeout: float = 30
    ) -> "subprocess.CompletedProcess[str]":
        """Run it to its end; each signal goes to the batch shell once its condition holds."""
        for node in self.state.glob("node-*"):
            node.unlink()
        process = subprocess.Popen(
            ["bash", str(self.script)],
            env={**os.environ, **self._environment(), **self.environment},
            cwd=self.state,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.runs += 1
        try:
            for condition, number in signals:
                wait_until(lambda c=condition: c() or process.poll() is not None, timeout)
                process.send_signal(number)
            output, _ = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def lines(self, name: str) -> list[str]:
        """Return what the stubs noted."""
        file = self.state / name
        return file.read_text().splitlines() if file.exists() else []

    def calls(self, program: str) -> list[str]:
        """Return the arguments of each call of a stub."""
        return [c.partition(" ")[2] for c in self.lines("calls") if c.startswith(f"{program} ")]

    def _environment(self) -> dict[str, str]:
        asked = self._asked()
        return {
            "PATH": self.path,
            "STATE": str(self.state),
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NUM_NODES": asked["nodes"],
            "SLURM_NTASKS": str(int(asked["nodes"]) * int(asked["ntasks-per-node"])),
            "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
            "SLURMD_NODENAME": "first",
            "SLURM_RESTART_COUNT": str(self.runs),
        }

    def _asked(self) -> dict[str, str]:
        return dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", self.script.read_text(), re.M))


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def left_over(words: Sequence[str]) -> list[str]:
    """Return the command lines of processes that name one of some words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if any(word in line for word in words):
            found.append(line)
    return found
