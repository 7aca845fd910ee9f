"""What runs on every node of a cluster, to tell how the node is set up.

These functions are sent as code, not by name: a node that lacks pgsearch must be able to say so.
So they use the standard library and Ray alone, and import of pgsearch only what they need, late.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS_FOR_TORCH = 60.0
_TORCH_GPUS = """
import json, torch
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([{"name": d.name, "memory_bytes": d.total_memory} for d in devices]))
"""


def node_facts(with_gpus: bool) -> dict[str, Any]:
    """Return versions, memory and disks of the node where this runs.

    Args:
        with_gpus: also ask torch, in a process of its own, which GPUs it sees; takes seconds.
    """
    from ray import __version__ as ray_version
    from ray._private.utils import estimate_available_memory

    facts: dict[str, Any] = {
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
        "ray": ray_version,
        "torch": package_version("torch"),
        "memory_free_bytes": int(estimate_available_memory()),
        "temp_folder": tempfile.gettempdir(),
        "temp_free_bytes": free_bytes(tempfile.gettempdir()),
        **_pgsearch_facts(),
    }
    if with_gpus:
        facts |= _torch_gpus()
    return facts


def package_version(name: str) -> str | None:
    """Return the version of an installed package without importing it, None where it is not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def free_bytes(folder: str) -> int | None:
    """Return the free bytes where a folder lies or would lie; None where that cannot be asked."""
    path = Path(folder)
    with contextlib.suppress(OSError):
        return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
    return None


def _pgsearch_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {"pgsearch": None, "code": None}
    facts |= {"cache_folder": None, "cache_free_bytes": None}
    with contextlib.suppress(ImportError):  # not there; or older, or not whole
        import pgsearch

        facts["pgsearch"] = pgsearch.__version__
        from pgsearch.cache_dir import default_cache_dir
        from pgsearch.provenance import code_fingerprint

        cache = str(default_cache_dir())
        facts |= {"code": code_fingerprint(), "cache_folder": cache}
        facts["cache_free_bytes"] = free_bytes(cache)
    return facts


def _torch_gpus() -> dict[str, Any]:
    """Ask a process that ends: asking in the worker would hold a part of each GPU's memory."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _TORCH_GPUS],
            capture_output=True,
            text=True,
            timeout=SECONDS_FOR_TORCH,
            env=environment,
            check=True,
        )
        return {"devices": json.loads(answer.stdout), "torch_error": None}
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return {"devices": [], "torch_error": lines[-1]}
    except (subprocess.TimeoutExpired, ValueError, OSError) as error:
        return {"devices": [], "torch_error": str(error)}


def node_clock() -> float:
    """Return the time of this node's clock, in seconds since 1970."""
    return time.time()


def node_writes(url: str, own: str, token: str) -> dict[str, Any]:
    """Write the object `own` into the storage at `url`.

    Returns `error`, and `made`: the outermost folder that was not there before.
    """
    from pgsearch.errors import PgsearchError
    from pgsearch.results.probe import folder_to_make
    from pgsearch.results.storage import open_storage

    made = folder_to_make(url)
    try:
        open_storage(url).write(own, token.encode())
    except PgsearchError as problem:
        return {"error": str(problem), "made": made}
    return {"error": None, "made": made}


def node_reads(url: str, names: list[str], token: str) -> dict[str, Any]:
    """Read what all wrote into the storage at `url`.

    Returns `seen`, those that hold the token, and `error`.
    """
    from pgsearch.errors import PgsearchError
    from pgsearch.results.storage import open_storage

    storage = open_storage(url)
    seen: set[str] = set()
    try:
        for pause in (0.0, 0.2, 1.0):  # a network file system may show others' files a little late
            time.sleep(pause)
            for name in set(names) - seen:
                stored = storage.read(name)
                if stored is not None and stored.data == token.encode():
                    seen.add(name)
            if len(seen) == len(names):
                break
    except PgsearchError as problem:
        return {"seen": sorted(seen), "error": str(problem)}
    return {"seen": sorted(seen), "error": None}


def node_sees(working_folder: str, paths: list[str]) -> dict[str, int | None]:
    """Return the size in bytes of each file, 0 of a folder, None of what cannot be read here.

    Args:
        working_folder: what relative paths are relative to, where there is such a folder.
        paths: of files and folders.
    """
    base = Path(working_folder) if Path(working_folder).is_dir() else Path.cwd()
    sizes: dict[str, int | None] = {}
    for path in paths:
        place = base / path
        if place.is_dir():
            sizes[path] = 0 if os.access(place, os.R_OK | os.X_OK) else None
        else:
            sizes[path] = place.stat().st_size if os.access(place, os.R_OK) else None
    return sizes


def node_lacks_for_compiling(gpu: bool) -> str | None:
    """Return what this node lacks for compiled networks, on a GPU or not, and what helps."""
    from pgsearch.training.compiler import why_no_compiler

    return why_no_compiler(gpu=gpu)


def node_removes(url: str, made: str | None) -> None:
    """Remove what `node_writes` left in the storage at `url`, and the folders that it made."""
    from pgsearch.results.probe import remove_place
    from pgsearch.results.storage import open_storage

    remove_place(open_storage(url), made)
