"""What a killed driver leaves running: found by the Ray session that it is of, and ended.

Ray 2.60 leaves two agents of some 80 MB behind for ever when its driver or raylet is killed; a
search that is killed and repeated for a week would fill the machine with them.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from pgsearch.results.claims import is_known_dead, this_process

MARK = "pgsearch.json"


def mark_session(session: Path) -> None:
    """Note in the folder of a Ray session that we started it, and who we are."""
    (session / MARK).write_text(json.dumps(this_process()))


def end_orphans(sessions: Path) -> list[int]:
    """End the processes of Ray sessions on this machine whose driver was ours and has died.

    Args:
        sessions: folder of all Ray sessions of this machine.

    Returns:
        What was ended. On systems without /proc there is nothing to see.
    """
    dead = tuple(f"{folder}/" for folder in sessions.glob("session_*") if _is_dead(folder))
    ended = []
    for folder in Path("/proc").glob("[0-9]*") if dead else ():
        if _is_of_ray(folder) and any(path.startswith(dead) for path in _open_files(folder)):
            try:
                os.kill(int(folder.name), signal.SIGKILL)
            except OSError:  # gone
                continue
            ended.append(int(folder.name))
    return ended


def _is_dead(session: Path) -> bool:
    mark = session / MARK
    try:
        # Others may write into the folder of all sessions.
        is_ours = mark.lstat().st_uid == os.getuid() and not mark.is_symlink()
        return is_ours and is_known_dead(json.loads(mark.read_text())) is True
    except (OSError, ValueError, AttributeError):
        return False  # not ours


def _is_of_ray(process: Path) -> bool:
    """Whether a process is one of Ray's own, not somebody who reads a log."""
    try:
        return (process / "cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def _open_files(process: Path) -> Iterator[str]:
    """Yield the files that a process has open: each of Ray has logs in its session."""
    try:
        for link in (process / "fd").iterdir():
            yield str(link.readlink())
    except OSError:  # another user's, or gone
        return
