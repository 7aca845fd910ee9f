"""Where this machine keeps what it can make again."""

import os
from pathlib import Path
from typing import Final

LEDGERS: Final = "ledgers"
"""Folder in it with what was read of results, a folder for each table of a search."""


def default_cache_dir() -> Path:
    """`$PGSEARCH_CACHE`, else `$XDG_CACHE_HOME/pgsearch`, else `~/.cache/pgsearch`."""
    own = os.environ.get("PGSEARCH_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "pgsearch"
