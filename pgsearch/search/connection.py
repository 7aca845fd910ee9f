"""Connecting to Ray: one of our own on this machine, or a cluster that is there already."""

import contextlib
import json
import logging
import os
import platform
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pgsearch.errors import UsageError
from pgsearch.search.node_facts import package_version
from pgsearch.search.orphans import end_orphans, mark_session
from pgsearch.untrusted import one_line

SECONDS_FOR_A_CONNECTION = 5.0
SECONDS_FOR_A_KNOCK = 10.0

_RAY_SETTINGS = {
    # Tune's state is never used, so it is not worth writing.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A worker whose node was preempted is begun anew by us, who count it, not by Tune for ever.
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    # The stop is ours: see `StopSignals`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A path of the user's spec is relative to where they started the command.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray's memory monitor aborts the whole of Tune; the kernel's ends one worker, which is retried.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # Code and data of one 3.11 are read by every other.
    "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
}


def cluster_address(address: str | None) -> str | None:
    """Return the cluster that is asked for, by option or RAY_ADDRESS; None: a Ray of our own."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


@contextlib.contextmanager
def own_ray() -> Iterator[None]:
    """Start a Ray on this machine, which ends with us."""
    _apply_settings()
    _guard_own_ray()
    session = Path(_init("local", include_dashboard=False).address_info["session_dir"])
    mark_session(session)
    end_orphans(session.parent)
    try:
        yield
    finally:
        _shutdown()


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Mapping[str, Any]]:
    """Connect to a Ray cluster of which this machine is a node, and disconnect.

    Yields what `knock.look` tells of it.

    Args:
        address: `HOST:PORT` of its head (the `--port` of `ray start --head`, 6379 by default), or
            `auto` for the one that runs on this machine.

    Raises:
        UsageError: within 20 s: nobody answers there, or not Ray; the token is wrong; Ray or the
            minor version of Python is another; this machine is no node of it.
    """
    _apply_settings()
    found = require_cluster(address)
    try:
        _init(found["address"], include_dashboard=None)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"{_cluster_at(address)}: {one_line(str(error))}") from None
    try:
        yield found
    finally:
        _shutdown()


def require_cluster(address: str) -> Mapping[str, Any]:
    """Return what `knock.look` tells of a cluster that we can work with.

    Raises UsageError as `cluster` does.
    """
    if "://" in address:
        raise UsageError(
            f"--address {address}: this needs the address of the cluster's head, HOST:PORT (6379 "
            "unless ray start had another --port), on a node of the cluster; from elsewhere "
            "pgsearch submit sends a search there, to http://HEAD:8265"
        )
    if address != "auto":
        _require_listener(address)
    answer = knock(address)
    where = _cluster_at(address)
    if "error" in answer:
        raise UsageError(f"{where}: {_why_not(str(answer['error']))}")
    ours = {"Ray": package_version("ray"), "Python": platform.python_version()}
    theirs = {"Ray": answer["ray"], "Python": answer["python"]}
    for name, same in (("Ray", _same), ("Python", _same_minor)):
        if theirs[name] is not None and not same(str(theirs[name]), str(ours[name])):
            raise UsageError(
                f"{where}: it runs {name} {theirs[name]}, and this is {name} {ours[name]}; they do "
                f"not understand each other: install {name} {theirs[name]} here, or start the "
                "cluster anew with what is here"
            )
    if not answer["is_here"]:
        raise UsageError(
            f"{where}: it answers, but this machine is no node of it; run this on one of its "
            "nodes, or send a search there with pgsearch submit"
        )
    return answer


def knock(address: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Ask who answers at the address of a cluster, in a process of its own; see `knock.look`.

    Args:
        address: `HOST:PORT` or `auto`.
        environment: variables that are others for the asking.

    Returns:
        What `look` tells, or `error`.
    """
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "pgsearch.search.knock", address],
            capture_output=True,
            text=True,
            timeout=SECONDS_FOR_A_KNOCK,
            env={**os.environ, **(environment or {})},
            check=True,
        )
        return dict(json.loads(asked.stdout))
    except subprocess.TimeoutExpired:
        return {"error": "TimedOut"}
    except subprocess.CalledProcessError as error:
        return {"error": (error.stderr.strip().splitlines() or ["it ended"])[-1]}
    except ValueError:
        return {"error": "what was answered is not understood"}


def has_token() -> bool:
    """Whether a token for clusters is set up here."""
    default = Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")) or (
        default.is_file()
    )


def _cluster_at(address: str) -> str:
    return f"the Ray cluster at {address}" if address != "auto" else "the Ray cluster here"


def _require_listener(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--address {address}: the address of a Ray cluster is HOST:PORT of its head, such as "
            "10.0.0.1:6379, or auto for the one on this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_FOR_A_CONNECTION).close()
    except OSError as error:
        raise UsageError(
            f"--address {address}: nobody answers there ({error.strerror or error}); is the "
            "cluster started (ray start --head, ray up), the port right, and no firewall between?"
        ) from None


def _why_not(error: str) -> str:
    """Return in words why a knock was not answered."""
    if "Unauthenticated" in error or error.startswith("AuthenticationError"):
        have = "the one here is not its own" if has_token() else "there is none here"
        if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
            have = f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r} here"
        return (
            f"it asks for a token, and {have}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH, to what its head was started with"
        )
    if error.startswith(("TimedOut", "RpcError")):
        return (
            f"something answers, but not as the head of a Ray cluster ({one_line(error)}); the "
            "port is the --port of ray start --head (6379 by default), not that of the dashboard"
        )
    return one_line(error)


def _same(theirs: str, ours: str) -> bool:
    return theirs == ours


def _same_minor(theirs: str, ours: str) -> bool:
    return theirs.split(".")[:2] == ours.split(".")[:2]


def _apply_settings() -> None:
    os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_SETTINGS.items()})


def _guard_own_ray() -> None:
    """Keep others on this machine and its network out of a Ray that we start.

    Over what the environment says, which may have been set for another cluster.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    # Of this session alone; Ray would write one for all into a file that others may read.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Its name is of the systems where this is the default: every listener is on loopback.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _init(address: str, *, include_dashboard: bool | None) -> Any:
    import ray  # after the settings

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # how trials ended, we say
    return ray.init(
        address=address,
        include_dashboard=include_dashboard,
        log_to_driver=False,
        logging_level=logging.ERROR,
        ignore_reinit_error=True,
    )


def _shutdown() -> None:
    import ray

    ray.shutdown()
