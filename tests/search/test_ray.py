"""Real searches on a local Ray, stopped in the ways that searches are stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgsearch.results import Ledger, TrialState

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

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


class Search:
    """A search that is run as a user runs it: as a process."""

    def __init__(self, folder: Path, spec: str = SPEC) -> None:
        self.file = folder / "small.yaml"
        self.file.write_text(spec)
        self.results = folder / "results"
        self.ledger = Ledger(self.results / "small")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pgsearch.cli", "run", str(self.file),
                   "--results", str(self.results), *arguments]  # fmt: skip
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        _, errors = process.communicate(timeout=300)
        return process.returncode, errors

    def epochs(self) -> pd.DataFrame:
        if not self.ledger.files("epochs"):
            return pd.DataFrame({"number": [], "epoch": [], "recorded_utc": [], "attempt": []})
        frame = pd.read_parquet(self.results / "small" / "epochs")
        return frame.sort_values(["number", "epoch"]).reset_index(drop=True)

    def wait_for_epochs(self, count: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 200
        while len(self.epochs()) < count:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)


def assert_whole(search: Search, *, trials: int = 5, epochs: int = 4) -> None:
    frame = search.epochs()
    assert not frame.duplicated(["number", "epoch"]).any()
    assert list(zip(frame["number"], frame["epoch"], strict=True)) == [
        (n, e) for n in range(trials) for e in range(1, epochs + 1)
    ]
    assert {t.state for t in search.ledger.trials()} == {TrialState.COMPLETE}


def test_kill_9_of_the_driver_loses_and_repeats_nothing(tmp_path: Path) -> None:
    search = Search(tmp_path)
    parameters: dict[int, object] = {}
    for wanted in (3, 9):  # twice, at different moments
        process = search.start()
        search.wait_for_epochs(wanted, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(6)  # until Ray's processes have noticed
        acknowledged = search.epochs()
        ended = [t for t in search.ledger.trials() if t.state.is_finished]
        parameters |= {t.number: (t.uid, t.params, t.seed) for t in search.ledger.trials()}
    code, errors = search.run()
    assert code == 0, errors
    assert_whole(search)
    after = search.epochs()
    kept = acknowledged.merge(after, on=["number", "epoch", "recorded_utc", "attempt"])
    assert len(kept) == len(acknowledged)
    trials = search.ledger.trials()
    assert {n: (trials[n].uid, trials[n].params, trials[n].seed) for n in parameters} == parameters
    for before in ended:  # a finished trial is not run again
        assert trials[before.number] == before


def test_a_repeated_command_on_a_finished_search_does_nothing(tmp_path: Path) -> None:
    search = Search(tmp_path)
    assert search.run()[0] == 0
    before = search.epochs()
    code, errors = search.run()
    assert code == 0
    assert "done: 5 COMPLETE" in errors
    pd.testing.assert_frame_equal(search.epochs(), before)
    code, errors = search.run("--trials", "6")  # more trials extend it
    assert code == 0, errors
    assert_whole(search, trials=6)


def test_a_lost_worker_is_replaced_and_goes_on(tmp_path: Path) -> None:
    search = Search(tmp_path)
    process = search.start()
    search.wait_for_epochs(2, process)
    workers = subprocess.run(
        ["pgrep", "-f", "ray::ImplicitFunc"], capture_output=True, text=True, check=False
    ).stdout.split()
    assert workers
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_whole(search)
    assert max(t.attempts for t in search.ledger.trials()) == 2
    assert set(search.epochs()["attempt"]) == {1, 2}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    search = Search(tmp_path)
    process = search.start()
    search.wait_for_epochs(2, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "Repeat the same command to go on" in errors
    assert "Traceback" not in errors
    code, errors = search.run()
    assert code == 0, errors
    assert_whole(search)


def test_a_failing_trial_ends_as_fail_and_is_not_retried(tmp_path: Path) -> None:
    text = SPEC.replace("trials: 5", "method: grid").replace(
        "space: {loss.lambda1_neg: {type: float, low: 0.5, high: 8, log: true, tied: true}}",
        "variants:\n  good: {}\n  diverges: {training: {learning_rate: 1e12, clip_norm: null, "
        "warmup_iterations: 0}}",
    )
    search = Search(tmp_path, text)
    code, errors = search.run()
    assert code == 6, errors
    good, failed = search.ledger.trials()
    assert good.state is TrialState.COMPLETE
    assert failed.state is TrialState.FAIL
    assert failed.attempts == 1
    assert "not finite in epoch 1, step" in str(failed.error)
    assert search.run()[0] == 6  # and stays so


def test_pruning_ends_trials_early(tmp_path: Path) -> None:
    text = SPEC + "pruner: {name: successive_halving, min_resource: 1, reduction_factor: 2}\n"
    search = Search(tmp_path, text.replace("trials: 5", "trials: 8"))
    code, errors = search.run()
    assert code == 0, errors
    states = [t.state for t in search.ledger.trials()]
    assert TrialState.COMPLETE in states
    assert TrialState.PRUNED in states
    assert len(search.epochs()) < 8 * 4
    assert len(list((search.results / "small" / "checkpoints").glob("*.pt"))) == 1


def test_other_data_under_the_same_spec_is_refused(tmp_path: Path) -> None:
    search = Search(tmp_path)
    assert search.run()[0] == 0
    path = search.results / "small" / "epochs" / "00000.parquet"
    table = pq.read_table(path)
    other = pa.array(["other"] * len(table))
    index = table.column_names.index("data_fingerprint")
    pq.write_table(table.set_column(index, "data_fingerprint", other), path)
    code, errors = search.run("--trials", "6")
    assert code == 3, errors
    assert "the images or labels are not those" in errors


def test_resources_that_no_node_has_are_an_error(tmp_path: Path) -> None:
    code, errors = Search(tmp_path).run("resources.cpus=4000")
    assert code == 2
    assert "a trial needs 4000 CPUs" in errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB, which a checkpoint and a few rows fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs the right to mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_stops_the_search_and_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    search = Search(tmp_path)
    search.results = small_disk
    search.ledger = Ledger(small_disk / "small")
    code, errors = search.run()
    assert code == 5, errors
    assert re.search(r"the disk is full: [\d,]+ bytes are needed, [\d,]+ are free", errors)
    assert "Traceback" not in errors
    before = search.epochs()
    assert not before.duplicated(["number", "epoch"]).any()
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    code, errors = search.run()
    assert code == 0, errors
    assert_whole(search)
    kept = before.merge(search.epochs(), on=["number", "epoch", "recorded_utc"])
    assert len(kept) == len(before)
