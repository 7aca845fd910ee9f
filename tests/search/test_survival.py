"""Real searches on a local Ray, killed, stopped and starved: nothing acknowledged is ever lost."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pgsearch.results import TrialRecord, TrialState
from tests.conftest import Points
from tests.object_store import FAULTS, FlakyProxy, environment, s3_server
from tests.search.searches import (
    SPEC,
    STEPS_PER_EPOCH,
    Search,
    assert_whole,
    ended,
    kill,
    lives,
    processes_of,
    wait_until_gone,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

WORKER, RAYLET = "ray::ImplicitFunc", "raylet/raylet"


class Witness:
    """Remembers what a search had acknowledged, and checks that it stays."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._epochs = pd.DataFrame()
        self._ended: dict[int, TrialRecord] = {}
        self._begun: dict[int, Any] = {}

    def look(self) -> None:
        """Take in the present state, after comparing it with what was seen before."""
        epochs, trials = self._search.epochs(), self._search.ledger.trials()
        key = ["number", "epoch", "recorded_utc", "attempt", "loss.train", "map.validation.total"]
        assert not epochs.duplicated(["number", "epoch"]).any()
        if len(self._epochs):
            kept = self._epochs[key].merge(epochs[key], on=key)
            assert len(kept) == len(self._epochs), "an acknowledged epoch is lost or changed"
        for record in trials:
            begun = (record.uid, record.params, record.seed, record.configuration_id)
            assert self._begun.setdefault(record.number, begun) == begun
            if record.number in self._ended:
                assert record == self._ended[record.number], "an ended trial was run again"
            elif record.state.is_finished:
                self._ended[record.number] = record
        self._epochs = epochs


@pytest.mark.promise(1)
def test_kill_9_of_anything_at_random_moments(tmp_path: Path, points: Points) -> None:
    search = Search(
        tmp_path,
        SPEC.replace("trials: 5", "trials: 9"),
        spy=True,
        environment={"PGSEARCH_SPY_SECONDS": "0.05"},
    )
    witness, moments = Witness(search), random.Random(4)
    process = search.start()
    kills: Counter[str] = Counter()
    victims = ("driver", "worker", "raylet", "everything", "worker and raylet")
    for victim in victims:
        target = len(search.steps()) + moments.randrange(8, 30)
        search.wait_for_steps(target, process)
        with points.point():
            witness.look()
            children = processes_of(process.pid)
            if victim == "driver":
                process.kill()
            elif victim == "everything":
                kill(process, process.pid, *children)
            else:
                if "worker" in victim:
                    kill(process, processes_of(process.pid, title=WORKER)[0])
                if "raylet" in victim:
                    kill(process, *processes_of(process.pid, title=RAYLET))
            kills[victim] += 1
            witness.look()
            if victim != "worker":
                if victim in ("driver", "everything"):
                    code, said = ended(process, 60)
                    assert code == -signal.SIGKILL
                    if victim == "driver":  # and leaves its workers behind
                        assert any(map(lives, children))
                else:
                    # It may go on with the workers that it has, or find that Ray is gone.
                    kill_after_a_while(process, 4)
                    code, said = ended(process, 60)
                    assert code in (0, 75, -signal.SIGKILL), said
                assert "waiting" not in said  # for a driver that was killed
                if kills.total() == len(victims):  # nothing more to hit
                    search.environment["PGSEARCH_SPY_SECONDS"] = "0"
                process = search.start()
                wait_until_gone(children)  # also the agents that Ray itself leaves behind
            witness.look()
    code, said = ended(process)
    assert code == 0, said
    witness.look()
    assert_whole(search, trials=9)
    # Each kill costs each trial at most the epoch that it was in.
    repeated = search.repeated_steps()
    assert max(repeated.values()) <= STEPS_PER_EPOCH * sum(kills.values())
    assert sum(repeated.values()) <= 2 * STEPS_PER_EPOCH * sum(kills.values())
    assert search.run()[0] == 0
    witness.look()


def kill_after_a_while(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.mark.promise(4)
def test_a_worker_lost_too_often_ends_its_trial_not_the_search_and_can_be_retried(
    tmp_path: Path, points: Points
) -> None:
    search = Search(
        tmp_path,
        SPEC.replace("trials: 5", "trials: 3").replace("max_concurrent: 2", "max_concurrent: 1")
        + "max_retries: 1\n",
        spy=True,
        environment={"PGSEARCH_SPY_SECONDS": "0.1"},
    )
    process = search.start()
    steps = 0
    for _ in range(2):  # always in the first epoch: no progress
        search.wait_for_steps(steps + 1, process)
        kill(process, search.steps()[-1][3])
        steps = len(search.steps())
    # Then once in each of two epochs: progress resets the count.
    for epochs in (1, 2):
        search.wait_for_epochs(epochs, process)
        search.wait_for_steps(len(search.steps()) + 2, process)
        kill(process, search.steps()[-1][3])
    search.environment["PGSEARCH_SPY_SECONDS"] = "0"
    code, said = ended(process)
    with points.point():
        assert code == 6, said
        states = [trial.state for trial in search.ledger.trials()]
        assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
        failed = search.ledger.trials()[0]
        assert "its worker was lost 2 times in a row without an epoch between" in str(failed.error)
        assert failed.attempts == 2
        assert search.ledger.trials()[1].attempts == 3
    with points.point(1):  # a lost worker costs its trial the epoch that it was in
        rows = search.epochs()
        assert list(rows.loc[rows["number"] == 1, "epoch"]) == [1, 2, 3, 4]
        assert set(rows.loc[rows["number"] == 1, "attempt"]) == {1, 2, 3}
        assert 0 < search.repeated_steps()["small-00001"] <= 2 * STEPS_PER_EPOCH
    code, said = ended(search.command("retry", "small"))
    with points.point():
        assert code == 0, said
        assert search.ledger.trials()[0] == failed
        retry = search.ledger.trials()[3]
        assert (retry.retry_of, retry.seed, retry.params) == (0, failed.seed, failed.params)
        assert retry.state is TrialState.COMPLETE
    code, said = ended(search.command("retry", "small"))
    with points.point():
        assert code == 2
        assert "failed and not retried: none" in said


@pytest.mark.promise(4)
def test_a_stuck_trial_is_ended_and_goes_on(tmp_path: Path) -> None:
    search = Search(
        tmp_path,
        SPEC.replace("trials: 5", "trials: 2") + "max_epoch_seconds: 30\n",
        spy=True,
        environment={"PGSEARCH_SPY_SECONDS": "0.05"},
    )
    process = search.start()
    search.wait_for_epochs(2, process)
    stuck = search.steps()[-1][3]
    os.kill(stuck, signal.SIGSTOP)
    code, said = ended(process)
    assert code == 0, said
    assert said.count("its worker was lost: no epoch within max_epoch_seconds=30") == 1
    assert not lives(stuck)
    assert_whole(search, trials=2)
    assert sorted(trial.attempts for trial in search.ledger.trials()) == [1, 2]


@pytest.mark.promise(4)
def test_a_trial_that_takes_all_memory_ends_itself_not_the_search(tmp_path: Path) -> None:
    """Ray's real memory monitor, with a threshold a little above what is used now."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(meminfo[k].split()[0]) for k in ("MemTotal", "MemAvailable"))
    room_kb = 6_000_000
    if available < 2 * room_kb:
        pytest.skip(f"needs {2 * room_kb / 1e6:.0f} GB of free memory")
    search = Search(
        tmp_path,
        SPEC.replace("trials: 5", "trials: 3") + "max_retries: 1\n",
        spy=True,
        environment={
            "PGSEARCH_SPY_HOG": "small-00001",
            "RAY_memory_monitor_refresh_ms": "100",
            "RAY_memory_usage_threshold": f"{(total - available + room_kb) / total:.3f}",
        },
    )
    code, said = search.run()
    states = [trial.state for trial in search.ledger.trials()]
    assert code == 6, said
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    error = str(search.ledger.trials()[1].error)
    assert "OutOfMemory" in error or "memory" in error, error
    assert "Traceback" not in said


@pytest.mark.promise(8)
def test_signals_checkpoint_in_the_middle_of_an_epoch(tmp_path: Path, points: Points) -> None:
    """One search, stopped by each signal in turn; in the end no step was executed twice."""
    search = Search(tmp_path, spy=True, environment={"PGSEARCH_SPY_SECONDS": "0.1"})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        process = search.start()
        search.wait_for_steps(len(search.steps()) + 7, process)
        with points.point():
            start = time.monotonic()
            process.send_signal(number)
            code, said = ended(process, 60)
            assert code == 75, said
            assert time.monotonic() - start < 20
            assert "Repeat the same command to go on" in said
            assert "Traceback" not in said
            running = [t for t in search.ledger.trials() if not t.state.is_finished]
            assert len(running) == 2
            steps = [len({s for u, _, s, _ in search.steps() if u == t.uid}) for t in running]
            saved = [
                torch.load(tmp_path / f"results/small/checkpoints/{t.number:05d}.pt",
                           weights_only=True)["iteration"]
                for t in running
            ]  # fmt: skip
            assert saved == steps
    search.environment["PGSEARCH_SPY_SECONDS"] = "0"
    code, said = search.run()
    with points.point():
        assert code == 0, said
        assert_whole(search)
        assert sum(search.repeated_steps().values()) == 0


@pytest.mark.promise(8)
def test_a_second_signal_ends_at_once(tmp_path: Path, points: Points) -> None:
    search = Search(tmp_path, spy=True, environment={"PGSEARCH_SPY_SECONDS": "90"})
    process = search.start()
    search.wait_for_steps(1, process)
    with points.point(5):  # a second driver is refused meanwhile
        code, said = search.run()
        assert code == 5
        assert f"another driver works on this search (host {os.uname().nodename}, pid " in said
        assert f"pid {process.pid}, since 20" in said
    with points.point():  # a step that takes longer than the grace
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, said = ended(process, 60)
        assert code == 75, said
        assert time.monotonic() - start < 20
    search.spy_log.unlink()
    process = search.start("--grace", "3")
    search.wait_for_steps(1, process)
    with points.point():
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code, said = ended(process, 60)
        assert code == 75, said
        assert time.monotonic() - start < 3 + 45  # on a busy machine too, but before the step ends


@pytest.mark.promise(9)
def test_a_changed_spec_is_refused_and_forked(finished: Search, points: Points) -> None:
    before = finished.ledger.trials()
    changed = ("training.learning_rate=0.05", "space.loss.lambda1_neg.high=4")
    with points.point():
        code, said = finished.run(*changed)
        assert code == 3
        assert "training.learning_rate: was 0.1, is 0.05" in said
        assert "space.loss.lambda1_neg.high: was 8.0, is 4.0" in said
        assert "--fork NEW" in said
    with points.point():
        code, said = finished.run(*changed, "--fork", "other", "--trials", "2")
        assert code == 0, said
        inside = sum(t.params["loss.lambda1_neg"] <= 4 for t in before)
        assert f"knows {inside} of the 5 finished trials of small" in said
        assert finished.ledger.trials() == before
    with points.point():
        code, said = finished.run(*changed, "--fork", "other", "--trials", "2")  # nothing to do
        assert code == 0, said


@pytest.mark.promise(10)
def test_a_search_on_an_object_store_survives_hiccups_and_kills(
    tmp_path: Path, points: Points
) -> None:
    with s3_server() as port, FlakyProxy(port) as proxy:
        proxy.every = 9
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(proxy.port).items():
                patch.setenv(name, value)
            search = Search(
                tmp_path,
                SPEC.replace("trials: 5", "trials: 3"),
                results="s3://bucket/results",
                spy=True,
                environment={"PGSEARCH_SPY_SECONDS": "0.05"},
            )
            witness = Witness(search)
            process = search.start()
            search.wait_for_epochs(2, process)
            with points.point():
                witness.look()
                kill(process, process.pid, *processes_of(process.pid))
                ended(process, 30)
                witness.look()
            # So slow that no trial ends before it sees the stop.
            search.environment["PGSEARCH_SPY_SECONDS"] = "0.4"
            process = search.start()
            search.wait_for_steps(len(search.steps()) + 3, process)
            with points.point():
                process.send_signal(signal.SIGTERM)
                code, said = ended(process, 90)
                assert code == 75, said
                witness.look()
            with points.point():  # the store goes away: exit code 5, and nothing is lost
                search.environment["PGSEARCH_STORAGE_RETRY_SECONDS"] = "3"
                process = search.start()
                search.wait_for_steps(len(search.steps()) + 3, process)
                proxy.always = "503"
                code, said = ended(process, 120)
                proxy.always = None
                assert code == 5, said
                assert "the object store refuses or does not answer" in said
                assert "Traceback" not in said
                witness.look()
            with points.point():
                search.environment["PGSEARCH_SPY_SECONDS"] = "0"
                code, said = search.run()
                assert code == 0, said
                assert_whole(search, trials=3)
                witness.look()
            assert {fault for fault, _ in proxy.met} == set(FAULTS)
            assert max(search.repeated_steps().values()) <= 3 * STEPS_PER_EPOCH
