"""What may be filled into a cluster's file: defaults by kind, and the rule of each value.

A rule is the strictest of the systems that read the value, so that one name serves all of them.
"""

import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import pgsearch
from pgsearch.errors import UsageError
from pgsearch.untrusted import has_unseen, shown


class Kind(StrEnum):
    """A file, by what reads it."""

    RAY_AWS = "ray-aws"
    RAY_GCP = "ray-gcp"
    KUBERAY_RAYJOB = "kuberay-rayjob"
    KUBERAY_CLUSTER = "kuberay-cluster"
    SLURM = "slurm"
    DOCKERFILE = "dockerfile"
    COMPOSE = "compose"


RAY_VERSION: Final = "2.60.0"
"""Of the image, as constraints.txt pins it; KubeRay wants to be told."""

MAX_CONFIG_MAP_BYTES: Final = 1_000_000

_DEFAULTS: Final[Mapping[str, Any]] = {
    "name": "pgsearch",
    "image": f"pgsearch:{pgsearch.__version__}",
    "workers": 2,
    "gpus": 1,
    "cpus": 8,
    "memory_gb": 32,
    "storage": "/results",
    "spec": "search_spaces/digits_pg.yaml",
    "hours": 24,
    "spec_text": None,
}
_DEFAULTS_OF: Final[Mapping[Kind, Mapping[str, Any]]] = {
    Kind.RAY_AWS: {
        "workers": 4,
        "machine": "g6.2xlarge",
        "region": "us-west-2",
        "storage": "s3://my-bucket/results",
    },
    Kind.RAY_GCP: {
        "workers": 4,
        "machine": "g2-standard-8",
        "zone": "us-central1-a",
        "project": "my-project",
        "storage": "gs://my-bucket/results",
    },
    Kind.SLURM: {"storage": "results"},
    Kind.COMPOSE: {"gpus": 0, "cpus": 2, "memory_gb": 4},
}
_URLS: Final = ("s3://", "gs://", "az://")
_URL_OF: Final = {Kind.RAY_AWS: "s3://", Kind.RAY_GCP: "gs://"}

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
# After the grammar of references of the OCI distribution specification.
_IMAGE = re.compile(
    r"(?=.{1,255}$)([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
    r"(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_BUCKET_URL = re.compile(r"[a-z0-9]+://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[A-Za-z0-9._=@+-]+)*/?")
_MOUNT = re.compile(r"(/[A-Za-z0-9._-]+)+")
_WORD = re.compile(r"[a-z][a-z0-9.-]{1,62}")


def complete(kind: Kind, given: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
    """Return all values that a file needs: those given, and defaults.

    Args:
        kind: of the file.
        given: values by option, such as `memory_gb`.
        used: options that the file has a place for.

    Raises:
        UsageError: a value breaks the rule of a system that reads it, or has no place in the file;
            all problems at once.
    """
    problems = [
        f"{flag(name)}: {kind} has no place for it; it takes "
        f"{', '.join(map(flag, sorted(used))) or 'no options'}"
        for name in given
        if name not in used
    ]
    defaults = {**_DEFAULTS, **_DEFAULTS_OF.get(kind, {})}
    values = {name: given.get(name, defaults[name]) for name in sorted(used)}
    for name, value in values.items():
        problem = _CHECKS[name](kind, value)
        if problem is not None:
            problems.append(f"{flag(name)} {shown(value)}: {problem}")
    if problems:
        raise UsageError("\n".join(problems))
    return values


def flag(name: str) -> str:
    """Return a value's option of the command line."""
    return "--" + name.removesuffix("_text").replace("_", "-")


def _name_problem(kind: Kind, value: str) -> str | None:  # noqa: ARG001
    if _NAME.fullmatch(value):
        return None
    return (
        "a name has 1 to 47 characters, lower-case letters (a to z), digits and hyphens, begins "
        "with a letter and does not end with a hyphen: so Kubernetes wants it (a DNS-1035 label), "
        "KubeRay (no longer, as it adds to it), clouds and compose"
    )


def _image_problem(kind: Kind, value: str) -> str | None:  # noqa: ARG001
    if _IMAGE.fullmatch(value):
        return None
    return (
        "an image is [REGISTRY[:PORT]/]NAME[:TAG][@sha256:DIGEST], its name in lower case, such as "
        "ghcr.io/me/pgsearch:1.0"
    )


def _storage_problem(kind: Kind, value: str) -> str | None:
    if has_unseen(value):
        return "it has characters that do not show; write it without them"
    if value.startswith(_URLS):
        if not _BUCKET_URL.fullmatch(value):
            return (
                "a URL is SCHEME://BUCKET[/FOLDER…]; a bucket has 3 to 63 lower-case letters, "
                "digits, '.', '-' and '_', a folder letters, digits and ._=@+-"
            )
        wanted = _URL_OF.get(kind)
        if wanted is not None and not value.startswith(wanted):
            return f"the nodes of this cloud have a right to {wanted}BUCKET/FOLDER; name such a one"
        return None
    if "://" in value:
        return f"results go to a folder, or to a URL that begins with {', '.join(_URLS)}"
    if kind in _URL_OF:
        return f"these nodes share no folder; name a bucket: {_URL_OF[kind]}BUCKET/FOLDER"
    if kind is Kind.SLURM:
        return None if value else "name a folder that every node sees"
    if not _MOUNT.fullmatch(value) or {".", ".."} & set(value.split("/")):
        return (
            "name a bucket's URL, or the absolute path at which nodes mount the shared volume, of "
            "letters, digits and ._-, such as /results"
        )
    return None


def _spec_text_problem(kind: Kind, value: str | None) -> str | None:  # noqa: ARG001
    if value is not None and len(value.encode()) > MAX_CONFIG_MAP_BYTES:
        return f"Kubernetes carries files up to {MAX_CONFIG_MAP_BYTES:,} bytes"
    return None


def _spec_problem(kind: Kind, value: str) -> str | None:  # noqa: ARG001
    if not value or has_unseen(value):
        return "name the YAML file of the search, by a path without characters that do not show"
    return None


def _word_problem(kind: Kind, value: str) -> str | None:  # noqa: ARG001
    if _WORD.fullmatch(value):
        return None
    return "it has lower-case letters, digits, '.' and '-', and begins with a letter"


def _within(low: int, high: int, unit: str) -> Callable[[Kind, int], str | None]:
    def problem(kind: Kind, value: int) -> str | None:  # noqa: ARG001
        if math.isfinite(value) and low <= value <= high:
            return None
        return f"it is between {low} and {high} {unit}"

    return problem


_CHECKS: Final[Mapping[str, Callable[[Kind, Any], str | None]]] = {
    "name": _name_problem,
    "image": _image_problem,
    "storage": _storage_problem,
    "spec": _spec_problem,
    "spec_text": _spec_text_problem,
    "machine": _word_problem,
    "region": _word_problem,
    "zone": _word_problem,
    "project": _word_problem,
    "workers": _within(1, 1000, "nodes"),
    "gpus": _within(0, 16, "GPUs of a node"),
    "cpus": _within(1, 1024, "CPUs of a node"),
    "memory_gb": _within(2, 24_000, "GB of a node"),
    "hours": _within(1, 8760, "hours"),
}
