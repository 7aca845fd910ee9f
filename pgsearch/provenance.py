"""Where a number came from: fingerprints of what went in, versions and machine of what ran."""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VERSIONED_PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "numpy", "scikit-learn")


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits that identify plain data (mappings, lists, numbers, strings).

    Key order does not matter. Raises TypeError for what JSON cannot hold.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@functools.cache
def code_fingerprint() -> str:
    """Return 16 hexadecimal digits that identify the code of pgsearch that is installed here."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


@functools.cache
def provenance() -> dict[str, str]:
    """Return what ran: versions of the packages that shape a number, commit, host and processor.

    A package that is not installed and a commit that is not known are left out.
    """
    facts = {"python": platform.python_version(), "host": socket.gethostname()}
    facts["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    for package in ("pgsearch", *VERSIONED_PACKAGES):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git_commit()
    if commit:
        facts["commit"] = commit
    return facts


def _git_commit() -> str | None:
    # Only a checkout of this project counts: an installed package may lie inside somebody else's.
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "-uno"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit
