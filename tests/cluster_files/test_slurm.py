"""The script for SLURM is executed: signals, requeueing, and that it ends all that it starts."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pgsearch.cluster_files.render import render
from pgsearch.cluster_files.settings import Kind
from tests.cluster_files.batch import STUBS, Batch, left_over


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    """A job over three nodes, with stubs of SLURM, Ray and pgsearch."""
    (tmp_path / "my search.yaml").write_text("name: x")
    script = tmp_path / "job.sbatch"
    script.write_text(
        render(Kind.SLURM, {"spec": "my search.yaml", "storage": "it's $(here)", "workers": 3})
    )
    return Batch(script, tmp_path, f"{STUBS}:{os.environ['PATH']}")


def _nothing_is_left(batch: Batch) -> bool:
    mark = f"/tmp/pgsearch-{batch.number}"
    return not left_over([mark, str(batch.state)]) and not Path(mark).exists()


def test_a_search_runs_on_a_head_and_workers_and_ends_the_job(batch: Batch) -> None:
    batch.environment["DRIVER_CODE"] = "0"
    done = batch.run()
    assert done.returncode == 0, done.stdout
    assert batch.calls("scontrol") == []
    assert _nothing_is_left(batch)
    head, *workers = batch.calls("ray")
    port = 20000 + 4 * (batch.number % 2500)
    assert f"--head --node-ip-address=127.0.0.1 --port={port} " in head
    assert len(workers) == 2
    assert all(f"--address=127.0.0.1:{port}" in worker for worker in workers)
    steps = [call for call in batch.calls("srun") if " ray start " in call]
    assert "--nodes=1 --ntasks=1" in steps[0]
    assert "--nodelist=first" in steps[0]
    assert "--nodes=2 --ntasks=2" in steps[1]
    assert "--exclude=first" in steps[1]
    assert batch.lines("arguments") == [
        *("run", "my search.yaml", "--results", "it's $(here)"),
        *("--address", f"127.0.0.1:{port}", "--grace", "200"),
    ]


def test_nodes_share_a_token_of_this_job_alone(batch: Batch) -> None:
    batch.environment["DRIVER_CODE"] = "0"
    batch.run()
    first = set(batch.lines("tokens"))
    batch.run()
    both = set(batch.lines("tokens"))
    assert len(first) == 1
    assert len(both) == 2
    assert all(re.fullmatch("token [0-9a-f]{64}", line) for line in both)


def test_near_the_limit_the_driver_checkpoints_and_the_job_is_requeued(batch: Batch) -> None:
    started = batch.state / "driver"
    ended = batch.run((started.exists, signal.SIGUSR1))
    assert batch.lines("signals") == ["USR1"]
    assert batch.calls("scontrol") == [f"requeue {batch.number}"]
    assert ended.returncode == 75
    assert _nothing_is_left(batch)


def test_exit_75_for_another_reason_requeues_too(batch: Batch) -> None:
    batch.environment["DRIVER_CODE"] = "75"
    batch.run()
    assert batch.calls("scontrol") == [f"requeue {batch.number}"]


@pytest.mark.parametrize("code", [1, 6, 137])
def test_another_failure_is_not_repeated(batch: Batch, code: int) -> None:
    batch.environment["DRIVER_CODE"] = str(code)
    assert batch.run().returncode == code
    assert batch.calls("scontrol") == []


def test_cancelled_it_checkpoints_and_stays_away(batch: Batch) -> None:
    ended = batch.run(((batch.state / "driver").exists, signal.SIGTERM))
    assert batch.lines("signals") == ["TERM"]
    assert batch.calls("scontrol") == []
    assert ended.returncode == 75
    assert _nothing_is_left(batch)


def test_signalled_while_nodes_start_it_is_requeued_before_the_search(batch: Batch) -> None:
    (batch.state / "python").write_text(
        "#!/usr/bin/env bash\n"
        '[[ $2 == *get_node_ip* ]] && echo 127.0.0.1 || echo 1\ntouch "$STATE/asked"\n'
    )
    (batch.state / "python").chmod(0o755)
    batch.path = f"{batch.state}:{batch.path}"
    asked = batch.state / "asked"
    batch.run((asked.exists, signal.SIGUSR1))
    assert batch.lines("arguments") == []
    assert batch.calls("scontrol") == [f"requeue {batch.number}"]
    assert _nothing_is_left(batch)


def test_requeueing_ends_somewhere(batch: Batch) -> None:
    batch.environment |= {"DRIVER_CODE": "75"}
    batch.runs = 200
    ended = batch.run()
    assert batch.calls("scontrol") == []
    assert "sbatch it again" in ended.stdout


def test_where_slurm_does_not_requeue_the_user_is_told(batch: Batch) -> None:
    batch.environment |= {"DRIVER_CODE": "75", "SCONTROL_CODE": "1"}
    ended = batch.run()
    assert ended.returncode == 75
    assert "sbatch it again" in ended.stdout


def test_a_head_that_does_not_start_is_an_error(batch: Batch) -> None:
    batch.environment["RAY_CODE"] = "1"
    ended = batch.run()
    assert ended.returncode == 1
    assert "error: Ray's head did not start on first" in ended.stdout
    assert batch.calls("scontrol") == []
    assert _nothing_is_left(batch)


def test_a_spec_that_is_not_there_is_an_error_before_anything_starts(batch: Batch) -> None:
    (batch.state / "my search.yaml").unlink()
    ended = batch.run()
    assert ended.returncode == 1
    assert f"error: no file my search.yaml in {batch.state}" in ended.stdout
    assert batch.calls("ray") == []


def test_a_spec_that_is_wrong_is_an_error_before_anything_starts(batch: Batch) -> None:
    batch.environment["CHECK_CODE"] = "3"
    assert batch.run().returncode == 3
    assert batch.calls("ray") == []


def test_without_an_environment_it_says_which(batch: Batch) -> None:
    batch.path = "/usr/bin:/bin"
    ended = batch.run()
    assert ended.returncode == 1
    assert "error: no pgsearch on PATH" in ended.stdout


def test_one_node_needs_no_workers(batch: Batch) -> None:
    batch.script.write_text(render(Kind.SLURM, {"spec": "my search.yaml", "workers": 1}))
    batch.environment["DRIVER_CODE"] = "0"
    assert batch.run().returncode == 0
    assert len(batch.calls("ray")) == 1


@pytest.mark.parametrize("gpus", [0, 2])
def test_shellcheck_finds_nothing(tmp_path: Path, gpus: int) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck; apt-get install shellcheck")
    script = tmp_path / "job.sbatch"
    script.write_text(render(Kind.SLURM, {"gpus": gpus}))
    checked = subprocess.run(
        ["shellcheck", str(script)], capture_output=True, text=True, check=False
    )
    assert checked.stdout == ""
