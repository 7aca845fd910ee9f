"""Searches as jobs of real Ray nodes: stopped, gone on with, and left by whoever began them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.local import LocalCluster, wait_for
from tests.jobs.conftest import Terminal
from tests.search.searches import SPEC, Search, assert_whole

ENVIRONMENT_OF_A_JOB = """
import json, sys
from ray.job_submission import JobSubmissionClient
details = JobSubmissionClient(sys.argv[1]).get_job_info(sys.argv[2])
print(json.dumps(details.runtime_env["env_vars"]))
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def begin(terminal: Terminal, search: Search, *words: str) -> str:
    """Submit a search, which is to begin well; returns what was said."""
    results = ("--results", search.results)
    code, out, err = terminal.run("submit", str(search.file), *results, *words)
    assert code == 0, out + err
    return out


def epochs(search: Search) -> int:
    return len(search.epochs()) if search.ledger.exists else 0


def jobs(terminal: Terminal, search: str) -> list[dict[str, object]]:
    code, out, err = terminal.run("jobs", "--json")
    assert code == 0, err
    return [job for job in json.loads(out) if job["search"] == search]


def test_a_job_is_stopped_and_gone_on_with(terminal: Terminal) -> None:
    search = terminal.search("stopped")
    assert "next: pgsearch logs stopped -f" in begin(terminal, search)
    (job,) = jobs(terminal, "stopped")
    assert (job["job"], job["state"]) == ("stopped-r1", "RUNNING")
    assert (job["trials"], job["results"]) == (5, search.results)
    code, _, err = terminal.run("submit", str(search.file), "--results", search.results)
    assert code == 2
    assert "stopped runs already, as job stopped-r1 (RUNNING)" in err
    wait_for(lambda: epochs(search) >= 2, "two epochs")
    code, out, _ = terminal.run("stop", "stopped")
    assert code == 0
    assert out.startswith("stopped-r1 stopped\nnext: pgsearch resume stopped")
    assert "its checkpoint is saved" in terminal.run("logs", "stopped-r1")[1]
    assert 2 <= epochs(search) < 5 * 4
    code, out, _ = terminal.run("status", "stopped", "--address", terminal.cluster.dashboard)
    assert code == 0
    assert "job: stopped-r1 STOPPED" in out
    code, out, err = terminal.run("resume", "stopped", "-f")
    assert code == 0, err
    assert "Running entrypoint for job stopped-r2" in out
    assert_whole(search)
    assert [(job["job"], job["state"], job["exit_code"]) for job in jobs(terminal, "stopped")] == [
        ("stopped-r2", "SUCCEEDED", 0),
        ("stopped-r1", "STOPPED", 75),
    ]
    assert "stopped-r2 had ended already: SUCCEEDED" in terminal.run("stop", "stopped")[1]


def test_a_job_outlives_who_submitted_it(terminal: Terminal) -> None:
    """And carries nothing of their environment but what they name."""
    search = terminal.search("outlives")
    secrets = {"AWS_SECRET_ACCESS_KEY": "secret", "WANDB_API_KEY": "mine"}
    words = ("submit", str(search.file), "--results", search.results, "--env", "WANDB_API_KEY")
    process = terminal.start(*words, **secrets)
    assert process.stderr is not None
    assert "submitted outlives-r1" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, _, err = terminal.run("logs", "outlives", "-f")
    assert code == 0, err
    assert_whole(search)
    asked = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT_OF_A_JOB, terminal.cluster.dashboard, "outlives-r1"],
        env=terminal.cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(asked.stdout) == {"RAY_JOB_STOP_WAIT_TIME_S": "40", "WANDB_API_KEY": "mine"}


def test_two_searches_side_by_side_one_on_an_object_store(terminal: Terminal) -> None:
    on_disk = terminal.search("disk", SPEC.replace("max_concurrent: 2", "max_concurrent: 1"))
    in_store = terminal.search(  # on a node that is kept for it
        "store",
        SPEC.replace("max_concurrent: 2", "resources: {cpus: 1, custom: {deadline: 1}}"),
        results="s3://bucket/results",
    )
    for search in (on_disk, in_store):
        begin(terminal, search, "--no-wait")
    for name in ("disk", "store"):
        code, _, err = terminal.run("logs", name, "-f")
        assert code == 0, err
    assert_whole(on_disk)
    code, out, err = terminal.run("status", "store", "--json", "--results", in_store.results)
    assert code == 0, err
    assert json.loads(out)["states"] == {"COMPLETE": 5}
    both = jobs(terminal, "disk") + jobs(terminal, "store")
    began, ended = ([str(job[f"{what}_utc"]) for job in both] for what in ("started", "ended"))
    assert max(began) < min(ended)  # one did not wait for the other


def test_a_node_is_lost_and_another_comes(terminal: Terminal) -> None:
    search = terminal.search("lost")
    begin(terminal, search)
    wait_for(lambda: epochs(search) >= 2, "two epochs")
    terminal.cluster.kill(terminal.cluster.nodes[-1])
    terminal.cluster.add()
    code, out, err = terminal.run("logs", "lost", "-f")
    assert code == 0, err
    assert "its worker was lost" in out
    assert_whole(search)


def test_a_new_cluster_goes_on_where_the_old_one_died(
    terminal: Terminal, s3: dict[str, str]
) -> None:
    """With nothing of it but the results."""
    search = terminal.search("moved")
    with tempfile.TemporaryDirectory(prefix="pgs-", dir="/tmp") as folder:
        with LocalCluster(Path(folder)) as cluster:
            cluster.add()
            there = Terminal(cluster, terminal.folder)
            begin(there, search)
            wait_for(lambda: epochs(search) >= 2, "two epochs")
            cluster.kill(cluster.nodes[0])
            wait_for(lambda: there.run("jobs")[0] == 2, "the dashboard to be gone")
        assert cluster.processes() == []
    assert 2 <= epochs(search) < 5 * 4
    code, _, err = terminal.run("resume", "moved")
    assert code == 2
    assert "say where its results are with --results" in err
    code, out, err = terminal.run("resume", "moved", "--results", search.results, "-f")
    assert code == 0, out + err
    assert_whole(search)


def test_what_cannot_begin(terminal: Terminal) -> None:
    search = terminal.search("wrong")
    words = ("submit", str(search.file), "--results", search.results)
    code, out, err = terminal.run(*words, "resources.gpus=3")
    assert code == 2, out + err
    assert "a trial needs 1 CPUs and 3 GPUs on one node, and none has them" in err
    (job,) = jobs(terminal, "wrong")
    assert (job["job"], job["state"], job["exit_code"]) == ("wrong-r1", "FAILED", 2)
    code, _, err = terminal.run(*words, "training.epoch=3")
    assert code == 3
    assert "did you mean epochs?" in err
    code, _, err = terminal.run(*words, "--env", "NOT_SET")
    assert (code, "--env NOT_SET: is not set here" in err) == (2, True)
    for token, said in (
        ("0" * 64, "the cluster has another token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"),
        ("", "there is no token here; set RAY_AUTH_TOKEN to the cluster's"),
    ):
        code, _, err = terminal.run("jobs", RAY_AUTH_TOKEN=token, HOME=str(terminal.folder))
        assert (code, said in err) == (2, True), err
    code, _, err = terminal.run("jobs", RAY_AUTH_MODE="disabled")
    assert (code, "the cluster wants a token" in err) == (2, True)
    doctor = ("doctor", "--address", terminal.cluster.address)
    code, _, err = terminal.run(*doctor, RAY_AUTH_TOKEN="0" * 64)
    assert (code, "it asks for a token, and the one here is not its own" in err) == (2, True), err
    code, _, err = terminal.run("logs", "unknown")
    assert (code, "no job of 'unknown' at" in err) == (2, True)
    assert len(jobs(terminal, "wrong")) == 1  # the others were not submitted
    assert not search.ledger.exists
