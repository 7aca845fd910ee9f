"""A search on three Ray nodes of this machine: submitted, a node lost, stopped, resumed, read.

    make demo-cluster        or: python -m cluster.demo

Nothing is left running, whatever happens.
"""

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.local import LocalCluster, wait_for

SPEC = "search_spaces/digits_pg.yaml"


def main() -> None:
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="pgs-", dir="/tmp"))  # short: paths of sockets are
    results = folder / "results"
    try:
        with LocalCluster(folder / "nodes") as cluster:
            play(cluster, results)
            print(f"\n# Ending the cluster, {time.monotonic() - began:.0f} s after the start")
        left = cluster.processes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"# {len(left)} processes are left; {time.monotonic() - began:.0f} s in all")


def play(cluster: LocalCluster, results: Path) -> None:
    """Go through the life of a search on a cluster."""

    def pgsearch(*words: str, codes: Sequence[int] = (0,)) -> str:
        print(f"\n$ pgsearch {shlex.join(words)}", flush=True)
        command = [sys.executable, "-m", "pgsearch.cli", *words]
        run = subprocess.run(
            command, env=cluster.environment, stdout=subprocess.PIPE, text=True, check=False
        )
        print(run.stdout, end="", flush=True)
        if run.returncode not in codes:
            raise SystemExit(f"exit code {run.returncode}, expected {codes}")
        return run.stdout

    def trials_begun() -> int:
        return len(list((results / "digits_pg" / "epochs").glob("*.parquet")))

    print("# A head for drivers and two worker nodes, each with one CPU")
    first, _ = cluster.add(), cluster.add()
    where = ("--results", str(results))
    pgsearch("doctor", "--address", cluster.address, *where)
    pgsearch("submit", SPEC, "trials=10", *where)
    wait_for(lambda: trials_begun() >= 3, "the first epoch of a third trial")
    pgsearch("jobs")
    print(f"\n# Node {first.address} loses its power; its trial goes on elsewhere", flush=True)
    cluster.kill(first)
    cluster.add()
    time.sleep(10)
    pgsearch("stop", "digits_pg")
    pgsearch("status", "digits_pg", *where)
    pgsearch("resume", "digits_pg")
    pgsearch("logs", "digits_pg", "-f")
    pgsearch("jobs")
    pgsearch("verify", "digits_pg", *where)
    pgsearch("table", "digits_pg", "--leaderboard", *where)


if __name__ == "__main__":
    main()
