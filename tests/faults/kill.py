"""kill -9 at random moments, on any storage: nothing acknowledged is lost, nothing is there twice.

    python -m tests.faults.kill --storage URL_OR_PATH --points 200 --seed 0

plays searches (see `play`) in a folder of its own in that storage, kills their processes again and
again, repeats the command, and after each kill compares what is stored with all that was seen
before. It prints how many kills held, removes what it wrote, and exits with 1 where one did not.
"""

import argparse
import contextlib
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from pgsearch.errors import PgsearchError
from pgsearch.results import Ledger, TrialRecord, TrialState
from pgsearch.results.local_storage import LocalStorage
from pgsearch.results.rows import read_table, trial_record
from pgsearch.results.storage import Storage, Stored, Tag, open_storage
from pgsearch.training.checkpoint import Checkpoints
from tests.faults.play import NAME, Play, evaluate, first_weights, read_log, train
from tests.faults.warm import Child, WarmProcesses

KINDS = ("all", "all", "driver", "worker")
"""What is killed: the machine, as it were; the driver alone, whose workers go on; a worker."""


class Violation(AssertionError):
    """A promise was broken."""


class Searches:
    """Searches that are killed, one folder after another; a context manager.

    Args:
        storage: where: they get folders of their own in it.
        seed: of the moments and kinds of the kills.
    """

    def __init__(self, warm: WarmProcesses, storage: Storage, seed: int) -> None:
        self._warm, self._random = warm, random.Random(seed)
        self._name = f"pgsearch-faults-{secrets.token_hex(4)}"
        self.storage = storage.at(self._name)
        self._scratch = Path(tempfile.mkdtemp(prefix="pgsearch-faults-"))
        self.kinds: Counter[str] = Counter()
        self.num_searches = 0
        self.num_leftovers = 0
        self.seconds = 0.0
        """Of a search that nobody disturbs."""

    def __enter__(self) -> "Searches":
        search = self._begin()
        start = time.monotonic()
        try:
            search.finish()
            self.seconds = time.monotonic() - start
        except BaseException:
            self.__exit__()
            raise
        finally:
            search.remove()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._scratch)
        with contextlib.suppress(PgsearchError):  # which was told before
            _remove(self.storage)

    def killed(self, num_points: int) -> Iterator["Search"]:
        """Kill so many times; yield, after each kill, the search for its `check`."""
        while num_points > 0:
            search = self._begin()
            try:
                while num_points > 0 and not self._lets_work(search):
                    self.kinds[search.kill(self._random.choice(KINDS), self._random)] += 1
                    num_points -= 1
                    yield search
                search.finish()
                self.num_leftovers += len(list(search.ledger.storage.leftovers()))
            finally:
                search.remove()

    def _lets_work(self, search: "Search") -> bool:
        """Let a search work until the next kill; return whether it came to its end before.

        It goes on where it stood, so that kills come anywhere in it. Some come soon after a start,
        where much happens that happens once; others while trials commit one thing after another.
        """
        if self._random.random() < 0.4:
            return search.ends_within(self._random.uniform(0, 0.5 * self.seconds))
        search.advance(self._random.randint(1, 6))
        return search.ends_within(self._random.uniform(0, 0.1 * self.seconds))

    def _begin(self) -> "Search":
        self.num_searches += 1
        # Its folder's name is the search's, as ever.
        storage = self.storage.at(str(self.num_searches)).at(NAME)
        play = Play(
            storage.url,
            str(self._scratch / f"{self.num_searches}.log"),
            checkpoint_every=self._random.choice((1, 1, 2)),
        )
        return Search(self._warm, storage, play)


class Search:
    """One search, and all that was ever seen of it."""

    def __init__(self, warm: WarmProcesses, storage: Storage, play: Play) -> None:
        self._warm, self._play = warm, play
        self.ledger = Ledger(storage)
        self._drivers: list[Child] = []
        self._running: Child | None = None
        self._has_ended = False
        self._num_kills = 0
        self._rows: dict[tuple[int, int], dict[str, Any]] = {}
        self._trials: dict[int, TrialRecord] = {}
        self._undisturbed: dict[int, list[float]] = {}
        self._read_before: dict[str, tuple[Tag, list[dict[str, Any]]]] = {}

    # ------------------------------------------------------------ the search and its kills

    def start(self) -> None:
        """Repeat the command."""
        self._running = self._warm.start("tests.faults.play:drive", asdict(self._play))
        self._drivers.append(self._running)

    def ends_within(self, seconds: float) -> bool:
        """Let it work for a while, or less where it ends before."""
        if self._has_ended:
            return True
        if self._running is None:
            self.start()
        assert self._running is not None
        told = self._running.hear(seconds)
        if told is None and self._running.has_ended():
            told = self._running.hear(0.0) or {"traceback": "it ended without a word"}
        if told is None:
            return False
        if told.get("result") == "no workers":  # each was killed: repeat the command
            self._running = None
            return False
        if told.get("result") != "done":
            raise Violation(f"the driver failed: {told.get('traceback', told)}")
        self._has_ended = True
        return True

    def advance(self, num_lines: int) -> None:
        """Let it work until its workers have written so many lines, or it ends."""
        if self._running is None and not self._has_ended:
            self.start()
        enough = len(list(read_log(self._play.log))) + num_lines
        deadline = time.monotonic() + 300
        while self._running and not self._running.has_ended(0.002):
            if len(list(read_log(self._play.log))) >= enough:
                return
            if time.monotonic() > deadline:
                raise Violation("the search does not go on")

    def kill(self, kind: str, randomness: random.Random) -> str:
        """Kill something and return what it was."""
        if kind == "worker" and not self._kill_a_worker(randomness):
            kind = "all"
        if kind != "worker" and self._running is not None:
            if kind == "driver":
                self._running.send(signal.SIGKILL)
            else:
                self.kill_all()
            if not self._running.has_ended(10.0):
                raise Violation("a killed driver does not end")
            self._running = None
        self._num_kills += 1
        return kind

    def kill_all(self) -> None:
        """Kill every process of the search, those of former drivers too."""
        for driver in self._drivers:
            driver.kill()

    def finish(self) -> None:
        """Let it come to its end, undisturbed."""
        deadline = time.monotonic() + 300
        while not self.ends_within(1.0):
            if time.monotonic() > deadline:
                raise Violation("the search does not end")
        self.kill_all()
        self.check_ended()

    def remove(self) -> None:
        """Remove all of it."""
        for driver in self._drivers:
            driver.close()
        with contextlib.suppress(PgsearchError):  # which was told before
            _remove(self.ledger.storage)

    def _kill_a_worker(self, randomness: random.Random) -> bool:
        """Kill a worker that has a trial, of this driver or of a former one, if there is one."""
        works = {
            line["pid"]: line["what"] == "placed"
            for line in read_log(self._play.log)
            if line["what"] in ("placed", "left")
        }
        workers = [pid for pid, at_work in works.items() if at_work]
        randomness.shuffle(workers)
        return any(
            driver.send_to_member(pid, signal.SIGKILL)
            for pid in workers
            for driver in self._drivers
        )

    # ------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Compare what is stored with all that was seen. May run beside the search's processes."""
        try:
            self._check()
        except PgsearchError as error:
            raise Violation(f"what is stored cannot be read: {error}") from error

    def _check(self) -> None:
        # What grows is read in the order in which it must hold: a line of the log is there because
        # a row is, a row because a checkpoint is.
        log = list(read_log(self._play.log))
        if failed := [line["error"] for line in log if line["what"] == "failed"]:
            raise Violation(f"a worker failed: {failed}")
        self._check_rows(log)
        self._check_trials()
        self._check_checkpoints()
        self._check_work(log)

    def check_ended(self) -> None:
        """Also see that all is there, and as if nobody had disturbed it."""
        self._read_before.clear()
        self.check()
        self._check_whole_folders()
        wanted = {
            (number, epoch)
            for number in range(self._play.trials)
            for epoch in range(1, self._play.epochs + 1)
        }
        _require(self._rows.keys() == wanted, "epochs", self._rows.keys() ^ wanted)
        states = {number: record.state for number, record in self._trials.items()}
        _require(
            states == dict.fromkeys(range(self._play.trials), TrialState.COMPLETE), "states", states
        )

    def _read(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table; what has changed is read as users do, and as we do."""
        rows = []
        for file in self.ledger.files(table):
            known = self._read_before.get(file.key)
            if known is None or known[0] != file.storage.tag(file.key):
                found = read_table(file)
                assert found is not None
                known = found[1], found[0].to_pylist()
                frame = _as_users_read(BytesIO(_require_there(file.read()).data))
                _require(len(frame) >= len(known[1]), "rows that pandas does not see", file)
                self._read_before[file.key] = known
            rows += known[1]
        return rows

    def _check_whole_folders(self) -> None:
        """Read all files at once, whatever else is beside them."""
        if not isinstance(self.ledger.storage, LocalStorage):
            return
        for table, key in (("epochs", ["number", "epoch"]), ("trials", ["number"])):
            frame = _as_users_read(self.ledger.storage.folder / table)
            _require(not frame.duplicated(key).any(), f"twice in {table}", frame[key])
            _require(len(frame) == len(self._read(table)), f"rows of {table}", len(frame))

    def _check_rows(self, log: list[dict[str, Any]]) -> None:
        read = self._read("epochs")
        rows = {(row["number"], row["epoch"]): row for row in read}
        _require(len(rows) == len(read), "an epoch is there twice", [*rows])
        for key, before in self._rows.items():
            _require(rows.get(key) == before, f"the row of trial, epoch {key}", rows.get(key))
        for line in log:
            if line["what"] != "acknowledged":
                continue
            row = rows.get((line["number"], line["epoch"]))
            if row is None:
                raise Violation(f"an acknowledged epoch is lost: {line}")
            stored = {"by": row["attempt"], "recorded_utc": row["recorded_utc"].isoformat()}
            told = {"by": line["by"], "recorded_utc": line["recorded_utc"]}
            _require(stored == told, "an acknowledged epoch has changed", (line, stored))
        for number, epoch in rows:
            _require(epoch == 1 or (number, epoch - 1) in rows, "a gap before", (number, epoch))
        self._rows = rows

    def _check_trials(self) -> None:
        records = [trial_record(row) for row in self._read("trials")]
        trials = {record.number: record for record in records}
        _require(list(trials) == list(range(len(trials))), "trials are not in a row", list(trials))
        for number, before in self._trials.items():
            after = trials.get(number)
            if after is None:
                raise Violation(f"the row of a trial is lost: {before}")
            for name in ("uid", "params", "seed", "configuration_id", "started_utc",
                         "optuna_state", "configuration"):  # fmt: skip
                _require(getattr(after, name) == getattr(before, name), name, (before, after))
            if before.state.is_finished:
                _require(after == before, "a finished trial has changed", (before, after))
        self._trials = trials
        for number, epoch in self._rows:
            if number not in trials:
                raise Violation(f"an epoch of trial {number}, which has no row")
            score = self._rows[number, epoch]["map.validation.total"]
            if number not in self._undisturbed:
                self._undisturbed[number] = self._scores(trials[number])
            undisturbed = self._undisturbed[number][epoch - 1]
            _require(score == undisturbed, "not what an undisturbed search has", (number, epoch))

    def _scores(self, record: TrialRecord) -> list[float]:
        """Return the scores of all epochs of a trial that nobody disturbs."""
        trial = self._play.spec.trial(record.number, record.params, seed=record.seed)
        weights, scores = first_weights(trial), []
        for epoch in range(1, self._play.epochs + 1):
            weights = train(weights, epoch)
            scores.append(evaluate(weights))
        return scores

    def _check_checkpoints(self) -> None:
        """See that no row is ahead of its checkpoint by an interval or more."""
        for number, record in self._trials.items():
            recorded = max((e for n, e in self._rows if n == number), default=0)
            saved = recorded // self._play.checkpoint_every * self._play.checkpoint_every
            state = Checkpoints(self.ledger.checkpoint_file(number)).load()
            if record.state.is_finished or (state is None and self._is_finished(number)):
                continue
            epoch = state["epoch"] if state else 0
            _require(epoch >= saved, f"trial {number} has rows without a checkpoint", recorded)
            known = [values["epoch"] for values in state["records"]] if state else []
            _require(known == list(range(1, epoch + 1)), "records of a checkpoint", known)

    def _is_finished(self, number: int) -> bool:
        return {r.number: r.state.is_finished for r in self.ledger.trials()}[number]

    def _check_work(self, log: list[dict[str, Any]]) -> None:
        """See that an attempt trains at most an interval again of what was trained before it."""
        trained = Counter((line["number"], line["epoch"]) for line in log
                          if line["what"] == "trained")  # fmt: skip
        for number in self._trials:
            again = sum(count - 1 for (n, _), count in trained.items() if n == number)
            attempts = self.ledger.attempts(number).newest()
            _require(attempts <= self._num_kills + 1, "more attempts than kills", attempts)
            allowed = self._play.checkpoint_every * max(0, attempts - 1)
            _require(again <= allowed, f"trial {number} trained again", (again, allowed))


def _require(holds: bool, what: str, found: object) -> None:
    if not holds:
        raise Violation(f"{what}: {found}")


def _as_users_read(source: BytesIO | Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(source)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise Violation(f"pandas cannot read {source}: {error}") from error


def _require_there(stored: Stored | None) -> Stored:
    if stored is None:
        raise Violation("a file is gone")
    return stored


def _remove(storage: Storage) -> None:
    """Remove a folder of ours, with all that is in it."""
    if isinstance(storage, LocalStorage):
        shutil.rmtree(storage.folder, ignore_errors=True)
        return
    for entry in storage.entries():
        storage.delete(entry.key)


# ------------------------------------------------------------ the command


def main(arguments: list[str] | None = None) -> int:
    """Kill, and tell how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=__doc__)
    parser.add_argument("--storage", required=True, help="a folder, or a URL: s3://bucket/folder")
    parser.add_argument("--points", type=int, default=200, help="how many kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    storage = open_storage(options.storage)
    if isinstance(storage, LocalStorage):
        storage = LocalStorage(storage.folder.resolve())
    try:
        with WarmProcesses() as warm, Searches(warm, storage, options.seed) as searches:
            violated = _kill(searches, options.points)
    except (PgsearchError, Violation) as error:  # before the first kill
        _say(f"{error}")
        return getattr(error, "exit_code", 1)
    held = options.points - violated
    _say(f"points tried {options.points}, held {held}, violated {violated}")
    return int(violated > 0)


def _kill(searches: Searches, num_points: int) -> int:
    """Kill so often; return how many kills broke a promise."""
    _say(f"{searches.storage.url}: an undisturbed search takes {searches.seconds:.1f} s")
    tried = violated = 0
    while tried < num_points:
        try:
            for search in searches.killed(num_points - tried):
                tried += 1
                search.check()
                if tried % 20 == 0:
                    _say(f"{tried} of {num_points} kills, {violated} violated")
        except Violation as violation:  # by the search that was killed last: begin another
            violated += 1
            _say(f"kill {tried}: {str(violation)[:2000]}")
    kinds = ", ".join(f"{kind} {count}" for kind, count in searches.kinds.items())
    _say(f"{searches.num_searches} searches; kills of: {kinds}")
    _say(f"{searches.num_leftovers} temporary files were left behind, and read by nobody")
    return violated


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
