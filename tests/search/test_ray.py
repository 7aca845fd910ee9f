"""Real searches on a local Ray, stopped in the ways that searches are stopped."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgsearch.config import load_spec
from pgsearch.results import TrialState, read_trials
from pgsearch.results.rows import as_parquet
from pgsearch.results.verify import verify
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from tests.search.searches import SPEC, Search, assert_whole
from tests.training.test_interrupt import assert_same

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.mark.promise(9)
def test_a_repeated_command_on_a_finished_search_does_nothing(finished: Search) -> None:
    before = finished.epochs()
    code, errors = finished.run()
    assert code == 0
    assert "done: 5 COMPLETE" in errors
    (following,) = re.findall("^next: (.*)$", errors, re.M)
    assert shlex.split(following)[-2:] == ["--results", finished.results]
    pd.testing.assert_frame_equal(finished.epochs(), before)
    code, errors = finished.run("--trials", "6")  # more trials extend it
    assert code == 0, errors
    assert_whole(finished, trials=6)


def test_a_machine_that_has_read_nothing_opens_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPEC.replace("trials: 5", "trials: 64").replace("epochs: 4", "epochs: 1")
    text = text.replace("iterations_per_epoch: 12", "iterations_per_epoch: 1")
    search = Search(tmp_path, text.replace("decay_epochs: [3]", "decay_epochs: []"))
    code, errors = search.run()
    assert code == 0, errors
    assert verify(search.ledger) == []
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "another machine"))
    folder = tmp_path / "results" / "small"
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*/*.parquet")}
    for file in times:
        if file.parent.name != "snapshot":
            data = file.read_bytes()
            file.write_bytes(bytes(len(data)))  # damaged, in a way that versions do not tell
            os.utime(file, ns=(times[file],) * 2)
    assert len(search.epochs()) == 64
    assert read_trials(search.ledger)["state"].to_pylist() == ["COMPLETE"] * 64


@pytest.mark.promise(4)
def test_failing_trials_end_as_fail_and_are_not_retried(tmp_path: Path) -> None:
    text = SPEC.replace("trials: 5", "method: grid").replace(
        "space: {loss.lambda1_neg: {type: float, low: 0.5, high: 8, log: true, tied: true}}",
        "variants:\n  good: {}\n  diverges: {training: {learning_rate: 1e12, clip_norm: null, "
        "warmup_iterations: 0}}\n  breaks: {}",
    )
    search = Search(tmp_path, text, spy=True, environment={"PGSEARCH_SPY_BUG": "small-00002"})
    code, errors = search.run()
    assert code == 6, errors
    good, diverged, broken = search.ledger.trials()
    assert good.state is TrialState.COMPLETE
    for failed, reason in (
        (diverged, "not finite in epoch 1, step"),
        (broken, "a bug of the user's code"),
    ):
        assert failed.state is TrialState.FAIL
        assert failed.attempts == 1
        assert reason in str(failed.error)
    assert search.run()[0] == 6  # and stays so


@pytest.mark.promise(11)
def test_pruning_ends_trials_early(tmp_path: Path) -> None:
    text = SPEC + "pruner: {name: successive_halving, min_resource: 1, reduction_factor: 2}\n"
    text += "keep_best_epoch: true\n"
    search = Search(tmp_path, text.replace("trials: 5", "trials: 8"))
    code, errors = search.run()
    assert code == 0, errors
    states = [t.state for t in search.ledger.trials()]
    assert TrialState.COMPLETE in states
    assert TrialState.PRUNED in states
    assert len(search.epochs()) < 8 * 4
    (kept,) = search.ledger.kept_checkpoints()
    assert [entry.key for entry in search.ledger.storage.entries("checkpoints/")] == [
        search.ledger.best_file(kept).key,
        search.ledger.checkpoint_file(kept).key,
    ]


def test_other_data_under_the_same_spec_is_refused(finished: Search) -> None:
    path = Path(finished.results, "small", "epochs", "00000.parquet")
    table = pq.read_table(path)
    other = pa.array(["other"] * len(table))
    index = table.column_names.index("data_fingerprint")
    path.write_bytes(as_parquet(table.set_column(index, "data_fingerprint", other)))
    code, errors = finished.run("--trials", "6")
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


@pytest.mark.promise(6)
def test_a_full_disk_stops_the_search_and_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    search = Search(tmp_path, results=str(small_disk))
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


@pytest.mark.promise(3)
def test_a_trial_in_a_used_actor_equals_one_in_a_fresh_process(tmp_path: Path) -> None:
    text = SPEC.replace("trials: 5", "method: grid").replace(
        "max_concurrent: 2", "max_concurrent: 1"
    )
    text = text.replace(
        "space: {loss.lambda1_neg: {type: float, low: 0.5, high: 8, log: true, tied: true}}",
        "variants:\n  half: {training: {precision: bf16, photometric: 1.0}}\n"
        "  diverges: {training: {learning_rate: 1e12, clip_norm: null, warmup_iterations: 0}}\n"
        "  plain: {training: {photometric: 0.5}}\nkeep_checkpoints: 3",
    )
    search = Search(tmp_path, text)
    code, errors = search.run()
    assert code == 6, errors  # one failed
    claims = [search.ledger.attempts(number).file(1).read() for number in range(3)]
    assert len({json.loads(claim.data)["pid"] for claim in claims if claim}) == 1
    trial = load_spec(search.file).trial(2, {}, "plain")
    fit(trial, report=print, checkpoints=Checkpoints(tmp_path / "alone.pt"))
    used, alone = search.ledger.checkpoint_file(2), Checkpoints(tmp_path / "alone.pt")
    assert_same(Checkpoints(used).load(), alone.load())
