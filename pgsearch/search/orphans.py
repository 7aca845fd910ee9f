"""What a killed driver leaves running: found by a mark in its environment, and ended.

Ray 2.60 leaves two agents of some 80 MB behind for ever when its driver or raylet is killed; a
search that is killed and repeated for a week would fill the machine with them.
"""

import json
import os
import signal
from pathlib import Path

from pgsearch.results.claims import is_known_dead, this_process

MARK = "PGSEARCH_DRIVER"


def mark_children() -> None:
    """Let every process that this one starts from now on say whose it is."""
    os.environ[MARK] = json.dumps(this_process())


def end_orphans() -> list[int]:
    """End the processes on this machine whose driver has died; returns them.

    Only those that carry the mark of a driver of the same boot and PID namespace; on systems
    without /proc there is nothing to see.
    """
    ended = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # another user's, or gone
            continue
        marks = [v for v in environment.split(b"\0") if v.startswith(MARK.encode() + b"=")]
        try:
            driver = json.loads(marks[0].partition(b"=")[2]) if marks else None
            if driver is not None and is_known_dead(driver):
                os.kill(int(folder.name), signal.SIGKILL)
                ended.append(int(folder.name))
        except (ValueError, KeyError, TypeError, OSError):
            continue
    return ended
