"""Searches as jobs of a Ray cluster: submitted, listed, followed and stopped over its job server.

A job runs the same `pgsearch run` as a terminal does, on the cluster, so it outlives the terminal
and is gone on with by the next job of the same search. All that is known of a job here is what
Ray's job server keeps; what a search has done is in its results.
"""

import asyncio
import http.client
import json
import logging
import os
import shlex
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

import pgsearch
from pgsearch.config import SearchSpec
from pgsearch.errors import EXIT_DONE, EXIT_INTERNAL, EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DRIVER: Final = "pgsearch-driver"
"""Custom resource, or label, of the nodes on which drivers are to run: those that stay."""
MAX_NODES: Final = 10_000
SECONDS_TO_ANSWER: Final = 10.0
SECONDS_BETWEEN_LOOKS: Final = 1.0
SECONDS_AFTER_GRACE: Final = 15
"""For the driver itself to end, after its trials have."""
NOT_FOUND: Final = 127
"""Exit code of a shell that does not find the program."""
_ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_WITHOUT_TOKEN, _WRONG_TOKEN = 401, 403
_CHATTY: Final = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
"""Loggers of Ray that tell of each upload."""


@dataclass(frozen=True)
class Job:
    """One run of a search as a job."""

    id: str
    """SEARCH-rK: run K of the search on this cluster, from 1."""
    search: str
    state: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    """What Ray says to that; of a failed one the end of its log."""
    results: str
    """Folder or URL of all searches."""
    spec: str
    """YAML, as it was submitted."""
    started_utc: datetime | None
    ended_utc: datetime | None
    driver_exit_code: int | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in _ENDED

    @property
    def exit_code(self) -> int | None:
        """Exit code of its `pgsearch run`; None while it goes on."""
        if not self.has_ended:
            return None
        if self.state == "STOPPED":
            return EXIT_INTERRUPTED
        if self.driver_exit_code is not None:
            return self.driver_exit_code
        return EXIT_DONE if self.state == "SUCCEEDED" else EXIT_INTERNAL


class JobServer:
    """The job server of a Ray cluster.

    Args:
        address: of the cluster's dashboard, such as `http://head:8265`.

    Raises:
        UsageError: there is none, it does not answer in time, wants another token, or runs a Ray
            that pgsearch does not know.
    """

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else f"http://{address}"
        if not self.address.startswith(("http://", "https://")):
            raise UsageError(
                f"--address {address}: jobs go to the cluster's dashboard, such as "
                "http://HEAD:8265; a cluster that was only given to Ray (ray://, HOST:6379) is for "
                "pgsearch run"
            )
        self.address = self.address.rstrip("/")
        self._client = self._connect()

    def submit(
        self,
        spec: SearchSpec,
        results: str,
        *,
        grace_seconds: float = 25.0,
        environment: Sequence[str] = (),
    ) -> Job:
        """Run a search as a job, or go on with one.

        The job carries the spec and this pgsearch; nothing else of this machine, so credentials of
        an object store are those of the cluster's nodes.

        Args:
            spec: the search, with paths as each node sees them.
            results: folder or URL of all searches, as each node sees it.
            grace_seconds: that trials may take to checkpoint when the job is stopped.
            environment: names of variables of this machine that the job gets too.

        Raises:
            UsageError: a job of this search is there already and has not ended, or a variable is
                not set.
        """
        earlier = [job for job in self.jobs() if job.search == spec.name]
        going_on = [job for job in earlier if not job.has_ended]
        if going_on:
            raise UsageError(
                f"{spec.name} runs already, as job {going_on[0].id} ({going_on[0].state}); follow "
                f"it with pgsearch logs {spec.name} -f, or stop it first: pgsearch stop {spec.name}"
            )
        missing = [name for name in environment if name not in os.environ]
        if missing:
            raise UsageError(f"--env {missing[0]}: is not set here; set it, or leave it out")
        number = 1 + max((_number(job) for job in earlier), default=0)
        text = as_yaml(spec)
        arguments = ["run", f"{spec.name}.yaml", "--results", results, "--grace", grace_seconds]
        with tempfile.TemporaryDirectory(prefix="pgsearch-job-") as folder:
            (Path(folder) / f"{spec.name}.yaml").write_text(text, encoding="utf-8")
            self._ask(
                self._client.submit_job,
                entrypoint="exec python -m pgsearch.cli "
                + shlex.join(str(word) for word in arguments),
                submission_id=f"{spec.name}-r{number}",
                runtime_env={
                    "working_dir": folder,
                    "py_modules": [str(Path(pgsearch.__file__).parent)],
                    "excludes": ["__pycache__", "*.pyc"],
                    "env_vars": {
                        "RAY_JOB_STOP_WAIT_TIME_S": str(round(grace_seconds) + SECONDS_AFTER_GRACE),
                        **{name: os.environ[name] for name in environment},
                    },
                },
                metadata={
                    "pgsearch.search": spec.name,
                    "pgsearch.results": results,
                    "pgsearch.spec": text,
                    "pgsearch.version": pgsearch.__version__,
                },
                **self._pinned(),
            )
        return self.job(f"{spec.name}-r{number}")

    def jobs(self) -> list[Job]:
        """Return all jobs of searches that this cluster knows, the newest first."""
        found = [
            job
            for details in self._ask(self._client.list_jobs)
            if (job := _job(details)) is not None
        ]
        return sorted(found, key=lambda job: (_milliseconds(job), job.id), reverse=True)

    def job(self, name: str) -> Job:
        """Return a job by its id, or the newest one of a search.

        Raises UsageError naming those that are there.
        """
        jobs = self.jobs()
        for job in jobs:
            if name in (job.id, job.search):
                return job
        known = ", ".join(dict.fromkeys(job.search for job in jobs)) or "none"
        raise UsageError(f"no job of {name!r} at {self.address}; there are jobs of: {known}")

    def logs(self, job: Job) -> str:
        """Return what a job has printed so far."""
        return str(self._ask(self._client.get_job_logs, job.id))

    def follow(self, job: Job, show: Callable[[str], None]) -> Job:
        """Show what a job prints until it ends; returns how it ended."""

        async def follow_on() -> None:
            async for text in self._client.tail_job_logs(job.id):
                show(text)

        self._ask(asyncio.run, follow_on())
        while not (job := self.job(job.id)).has_ended:  # its log ends just before it does
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return job

    def stop(self, job: Job) -> Iterator[Job]:
        """Ask a job to checkpoint and end; yields it every second until it has ended."""
        self._ask(self._client.stop_job, job.id)
        while not (job := self.job(job.id)).has_ended:
            yield job
            time.sleep(SECONDS_BETWEEN_LOOKS)
        yield job

    def _ask(self, question: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """Return what the cluster answers. Raises UsageError where it does not, or refuses."""
        import requests
        from ray.util.state.exception import RayStateApiException

        try:
            return question(*arguments, **settings)
        except (OSError, RuntimeError, RayStateApiException, requests.RequestException) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"--address {self.address}: {reason}; look at the cluster: pgsearch doctor "
                "--address, or its dashboard"
            ) from None

    def _connect(self) -> "JobSubmissionClient":
        version = self._require_answer()
        import ray

        if version.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise UsageError(
                f"--address {self.address}: the cluster runs Ray {version}, here is Ray "
                f"{ray.__version__}; install the same: pip install 'ray[default,tune]=={version}'"
            )
        try:
            from ray.job_submission import JobSubmissionClient

            for name in _CHATTY:
                logging.getLogger(name).setLevel(logging.WARNING)
            return JobSubmissionClient(self.address)
        except (ImportError, RuntimeError) as error:
            raise UsageError(
                f"jobs need more of Ray: pip install 'pgsearch[cluster]' ({error})"
            ) from None

    def _require_answer(self) -> str:
        """Return the cluster's version of Ray. Ray's own client would wait for ever."""
        from ray.exceptions import AuthenticationError

        try:
            request = urllib.request.Request(  # noqa: S310  http(s)
                f"{self.address}/api/version", headers=_token()
            )
            with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER) as response:  # noqa: S310
                return str(json.loads(response.read())["ray_version"])
        except urllib.error.HTTPError as error:
            if error.code in (_WITHOUT_TOKEN, _WRONG_TOKEN):
                what = "wants a token" if error.code == _WITHOUT_TOKEN else "has another token"
                raise UsageError(
                    f"--address {self.address}: the cluster {what}; set RAY_AUTH_MODE=token and "
                    "RAY_AUTH_TOKEN to the cluster's, or RAY_AUTH_TOKEN_PATH to a file of it"
                ) from None
            raise UsageError(
                f"--address {self.address}: no job server of Ray answers there (HTTP "
                f"{error.code}); name the head's dashboard, such as http://HEAD:8265"
            ) from None
        except AuthenticationError:
            raise UsageError(
                f"--address {self.address}: RAY_AUTH_MODE is token, and there is no token here; "
                "set RAY_AUTH_TOKEN to the cluster's, or RAY_AUTH_TOKEN_PATH to a file of it"
            ) from None
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "reason", error)
            raise UsageError(
                f"--address {self.address}: no job server of Ray answers there ({reason}); is the "
                "cluster up, and is its dashboard reachable from here? A port can be forwarded: "
                "ssh -L 8265:localhost:8265 HEAD"
            ) from None

    def _pinned(self) -> dict[str, Any]:
        """Return where Ray is to run the driver: on a node that stays, if one says so."""
        from ray.util.state import list_nodes

        nodes = self._ask(
            list_nodes,
            self.address,
            filters=[("state", "=", "ALIVE")],
            limit=MAX_NODES,
            timeout=round(SECONDS_TO_ANSWER),
            raise_on_missing_output=False,  # it means dead ones too
        )
        if any(DRIVER in (node.resources_total or {}) for node in nodes):
            return {"entrypoint_resources": {DRIVER: 0.01}}
        values = sorted(node.labels[DRIVER] for node in nodes if DRIVER in (node.labels or {}))
        return {"entrypoint_label_selector": {DRIVER: values[0]}} if values else {}


def as_yaml(spec: SearchSpec) -> str:
    """Return a spec as one YAML file, with absolute paths, that says the same on another machine.

    A path that is relative here would be relative to a folder of Ray's there.
    """
    data = spec.model_dump(mode="json", exclude_unset=True)
    for part in (data, *data.get("variants", {}).values()):
        for section, key in _PATHS:
            value = part.get(section, {}).get(key)
            if isinstance(value, str) and value != "random" and not _is_no_path(value):
                part[section][key] = str(Path(value).absolute())
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, allow_unicode=True)


_PATHS: Final = (
    ("data", "manifest"),
    ("data", "root"),
    ("model", "weights"),
    ("model", "word_vectors"),
)


def _is_no_path(value: str) -> bool:
    return value.startswith("torchvision:")


def _token() -> dict[str, str]:
    """Return the headers that Ray's own clients send, which name the token if there is one."""
    from ray._private.authentication.http_token_authentication import (
        get_auth_headers_if_auth_enabled,
    )

    return dict(get_auth_headers_if_auth_enabled({}))


def _job(details: Any) -> Job | None:
    """Return a job that this module submitted; None for another."""
    metadata = details.metadata or {}
    if details.submission_id is None or "pgsearch.search" not in metadata:
        return None
    return Job(
        id=details.submission_id,
        search=metadata["pgsearch.search"],
        state=str(details.status),
        message=_explained(details),
        results=metadata.get("pgsearch.results", ""),
        spec=metadata.get("pgsearch.spec", ""),
        started_utc=_moment(details.start_time),
        ended_utc=_moment(details.end_time),
        driver_exit_code=details.driver_exit_code,
    )


def _explained(details: Any) -> str:
    if details.driver_exit_code == NOT_FOUND:
        return (
            "the cluster's nodes have no python on their PATH: start Ray from the activated "
            "environment, or install pgsearch into the image"
        )
    return str(details.message or "")


def _moment(milliseconds: int | None) -> datetime | None:
    return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _milliseconds(job: Job) -> float:
    return job.started_utc.timestamp() if job.started_utc else float("inf")


def _number(job: Job) -> int:
    tail = job.id.rpartition("-r")[2]
    return int(tail) if tail.isdigit() else 0
