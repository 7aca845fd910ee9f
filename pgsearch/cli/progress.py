"""Progress on stderr: a live table on a terminal, plain lines elsewhere."""

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pgsearch.analysis.tables import PARTS, short_params
from pgsearch.cli.options import DEFAULT_RESULTS
from pgsearch.config import SearchSpec
from pgsearch.results import EpochRecord, TrialRecord, TrialState

ENDED_TRIALS_SHOWN = 5
SECONDS_BEFORE_PROGRESS = 2.0
SECONDS_BETWEEN_LINES = 10.0


class SearchProgress:
    """Shows a search while it runs. A `pgsearch.search.control.Listener`."""

    def __init__(self, spec: SearchSpec, *, quiet: bool) -> None:
        self._spec, self._quiet = spec, quiet
        self._console = Console(stderr=True)
        self._split = spec.objective[0].split
        self._num_trials = spec.num_trials
        self._stage = spec.first_stage
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._records: dict[int, TrialRecord] = {}
        self._ended: list[int] = []
        self._epochs_here = 0
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> "SearchProgress":
        if self._quiet:
            return self
        planned = [
            f"{self._spec.num_trials_of(stage)} trials of {self._spec.epochs_of(stage)} epochs"
            f"{f' ({stage})' if stage else ''}"
            for stage in self._spec.stage_names
        ]
        self._say(f"{self._spec.name}: {', then '.join(planned)}; starting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    # ------------------------------------------------------------ what the search tells

    def trial_started(self, record: TrialRecord) -> None:
        """Show a trial that is placed."""
        if record.stage != self._stage:  # whose epochs take another time
            self._stage, self._epochs_here, self._began = record.stage, 0, time.monotonic()
        self._records[record.number] = record
        if not self._console.is_terminal:
            self._say(f"{_trial(record)} begins: {_factors(record)}")
        self._refresh()

    def trial_interrupted(self, record: TrialRecord, reason: str) -> None:
        """Say that a trial will go on, and why it does not now."""
        self._say(f"trial {record.number}: {reason}")

    def message(self, text: str) -> None:
        """Say something."""
        self._say(text)

    def epoch_recorded(self, record: TrialRecord, row: Mapping[str, Any]) -> None:
        """Show a trial's newest epoch."""
        self._rows[record.number] = row
        self._epochs_here += 1
        self._refresh()

    def trial_ended(self, record: TrialRecord) -> None:
        """Show how a trial ended."""
        self._records[record.number] = record
        self._ended.append(record.number)
        if not self._console.is_terminal:
            maps = " ".join(f"{part} {self._map(record.number, part)}" for part in PARTS)
            detail = f"{self._split} mAP {maps}"
            if record.state is TrialState.FAIL:
                detail = (record.error or "").splitlines()[-1]
            self._say(
                f"{_trial(record)} {record.state.value} at epoch {record.epochs}: {detail}"
                f"  [{len(self._ended)} ended in this run{self._eta()}]"
            )
        self._refresh()

    def summary(self, outcome: Any, results: str) -> None:
        """Say how the run ended and what to do next."""
        if self._quiet:
            return
        counts = ", ".join(f"{n} {state.value}" for state, n in sorted(outcome.counts.items()))
        if outcome.interrupted:
            self._say(
                f"interrupted: {counts}; all recorded epochs are kept. Repeat the same command to "
                "go on."
            )
            return
        where = "" if results == DEFAULT_RESULTS else f" --results {shlex.quote(results)}"
        self._say(f"done: {counts}; results in {outcome.url}")
        self._say(f"next: pgsearch table {self._spec.name} --leaderboard{where}")

    # ------------------------------------------------------------ drawing

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)

    def _refresh(self) -> None:
        if self._quiet or not self._console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        self._live.update(self._picture())

    def _picture(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD, expand=True)
        table.add_column("trial", justify="right", no_wrap=True, min_width=5)
        if self._spec.stages is not None:
            table.add_column("stage", no_wrap=True, min_width=6)
        table.add_column("state", no_wrap=True, min_width=8)
        table.add_column("epoch", justify="right", no_wrap=True, min_width=5)
        for part in PARTS:
            table.add_column(part, justify="right", no_wrap=True, min_width=6)
        table.add_column("factors", overflow="fold", ratio=1)  # gives way to the numbers
        running = [n for n in self._records if n not in set(self._ended)]
        for number in [*self._ended[-ENDED_TRIALS_SHOWN:], *running]:
            record, row = self._records[number], self._rows.get(number, {})
            table.add_row(
                str(number),
                *([record.stage or ""] if self._spec.stages is not None else []),
                record.state.value,
                f"{row.get('epoch', 0)}/{record.configuration.get('training.epochs', '–')}",
                *(self._map(number, part) for part in PARTS),
                Text(_factors(record)),
            )
        best = self._best()
        head = (
            f"{self._spec.name}  {len(self._ended)} ended in this run of {self._num_trials} trials"
        )
        return Group(Text(f"{head}{self._eta()}{best}"), table)

    def _map(self, number: int, part: str) -> str:
        value = self._rows.get(number, {}).get(f"map.{self._split}.{part}")
        return "–" if value is None else f"{100 * value:.2f}"

    def _best(self) -> str:
        complete = [r for r in self._records.values() if r.values and r.stage == self._stage]
        if not complete:
            return ""
        maximize = self._spec.objective[0].direction == "maximize"
        best = (max if maximize else min)(complete, key=lambda r: (r.values or [0.0])[0])
        return f"  best: trial {best.number} {(best.values or [0.0])[0]:.4f}"

    def _eta(self) -> str:
        """Estimate the rest: the epochs that the trials to come take, at the speed so far.

        Of a search with stages, the rest of the stage.
        """
        here = [n for n, record in self._records.items() if record.stage == self._stage]
        ended = [n for n in here if self._records[n].state.is_finished]
        if not ended:
            return ""
        mean_epochs = sum(self._records[n].epochs for n in ended) / len(ended)
        of_stages_before = self._spec.num_trials_of("screen") if self._stage == "full" else 0
        highest = max(here) + 1 - of_stages_before
        running = [n for n in here if n not in set(ended)]
        begun = sum(int(self._rows.get(n, {}).get("epoch", 0)) for n in running)
        num_trials = self._spec.num_trials_of(self._stage)
        to_come = (num_trials - highest + len(running)) * mean_epochs - begun
        seconds = max(to_come, 0.0) * (time.monotonic() - self._began) / max(self._epochs_here, 1)
        where = " of the screen" if self._stage == "screen" else ""
        return f", about {_duration(seconds)} left{where}"


@contextlib.contextmanager
def data_progress(
    *, quiet: bool = False, what: str = "decoding images"
) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that shows how far a job over images is, once it takes over two seconds.

    A bar on a terminal, else a line every ten seconds.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("", total=None)
    due = math.inf

    def advance(done: int, total: int) -> None:
        nonlocal due
        if due == math.inf:
            due = time.monotonic() + SECONDS_BEFORE_PROGRESS
        if quiet or time.monotonic() < due:
            return
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=done, total=total)
            if done == total:
                bar.stop()
        else:  # a log wants lines, and few
            due = time.monotonic() + SECONDS_BETWEEN_LINES
            console.print(f"{what}: {done} of {total}", highlight=False)

    try:
        yield advance
    finally:
        if bar.live.is_started:  # stopping what never began would print an empty line
            bar.stop()


def print_epoch(record: EpochRecord, epochs: int) -> None:
    """Print one epoch of `pgsearch train` as a line."""
    parts = [f"epoch {record.epoch}/{epochs}", f"loss {record.train_loss:.4f}"]
    for split, maps in record.map.items():
        values = " ".join(f"{part} {100 * maps[part]:.2f}" for part in PARTS)
        parts.append(f"{split} mAP {values}")
    speed = record.num_train_images / max(record.train_seconds, 1e-9)
    parts.append(f"{speed:.0f} images/s, {record.train_seconds + record.evaluation_seconds:.1f} s")
    Console(stderr=True).print(Text("  ".join(parts)), soft_wrap=True)


def _trial(record: TrialRecord) -> str:
    return f"trial {record.number}{f' ({record.stage})' if record.stage else ''}"


def _factors(record: TrialRecord) -> str:
    variant = f"{record.variant} " if record.variant else ""
    return f"{variant}{short_params(record.params)} seed {record.seed}".strip()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
