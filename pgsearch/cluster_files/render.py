"""From a template to the file that starts a cluster, with every value quoted for what reads it."""

import functools
import json
import math
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Mapping
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from jinja2.meta import find_referenced_templates, find_undeclared_variables
from jinja2.nodes import Name

from pgsearch.cluster_files.settings import RAY_VERSION, Kind, complete

_FILES: Final[Mapping[Kind, str]] = {
    Kind.RAY_AWS: "ray-aws.yaml",
    Kind.RAY_GCP: "ray-gcp.yaml",
    Kind.KUBERAY_RAYJOB: "kuberay-rayjob.yaml",
    Kind.KUBERAY_CLUSTER: "kuberay-cluster.yaml",
    Kind.SLURM: "slurm.sbatch",
    Kind.DOCKERFILE: "Dockerfile",
    Kind.COMPOSE: "compose.yaml",
}
_SECONDS_OF_BASH: Final = 10
_VARIABLE_OF_KUBERNETES: Final = re.compile(r"\$(?=\()")


def file_name(kind: Kind) -> str:
    """Return what a file of this kind is called in the folder `cluster` of the repository."""
    return _FILES[kind]


def options_of(kind: Kind) -> frozenset[str]:
    """Return the names of the values that this kind of file has a place for."""
    environment = _environment()
    found: set[str] = set()
    bound: set[str] = set()
    to_read: list[str | None] = [f"{_FILES[kind]}.j2"]
    while to_read:
        tree = environment.parse(_loader().get_source(environment, str(to_read.pop()))[0])
        found |= find_undeclared_variables(tree)
        bound |= {name.name for name in tree.find_all(Name) if name.ctx == "store"}
        to_read += find_referenced_templates(tree)
    return frozenset(found - bound - set(environment.globals))


def render(kind: Kind, given: Mapping[str, Any] | None = None) -> str:
    """Return the file, with the values that are given and defaults for the others.

    Args:
        kind: of the file.
        given: values by option: `name`, `image`, `workers`, `gpus`, `cpus`, `memory_gb`, `machine`,
            `region`, `zone`, `project`, `storage`, `spec`, `hours`; and `spec_text`, the YAML of a
            search that the file is to carry.

    Raises:
        UsageError: a value breaks its rule, or the file has no place for it.
    """
    values = complete(kind, given or {}, options_of(kind))
    text = _template(kind).render(values)
    _check(kind, text)
    return text


class _Quoted(str):
    """A text that is quoted for where it stands."""

    __slots__ = ()


@functools.cache
def _loader() -> PackageLoader:
    return PackageLoader("pgsearch.cluster_files")


@functools.cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701  no HTML; `finalize` lets nothing through unquoted
        loader=_loader(),
        undefined=StrictUndefined,
        finalize=_only_quoted,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["ray_version"] = RAY_VERSION
    environment.filters |= {
        "yaml": _yaml,
        "shell": _shell,
        "shell_in_yaml": lambda text: _yaml(_shell(text)),
        "compose": lambda text: _yaml(text.replace("$", "$$")),
        "kubernetes": lambda text: _yaml(_VARIABLE_OF_KUBERNETES.sub("$$", text)),
        "file": _file,
    }
    return environment


def _template(kind: Kind) -> Template:
    return _environment().get_template(f"{_FILES[kind]}.j2")


def _only_quoted(value: Any) -> Any:
    if isinstance(value, int | _Quoted):
        return value
    raise TypeError(f"a template writes {value!r} without a filter that quotes it")


def _yaml(text: str) -> _Quoted:
    """Quote as a double-quoted scalar of YAML, which JSON's strings are."""
    return _Quoted(json.dumps(str(text), ensure_ascii=False))


def _shell(text: str) -> _Quoted:
    return _Quoted(shlex.quote(text))


def _file(text: str, name: str, indent: int) -> _Quoted:
    """Write the content of a file under its name, line by line where YAML can hold it so."""
    entry = yaml.safe_dump({name: text}, default_style="|", allow_unicode=True, width=math.inf)
    return _Quoted(textwrap.indent(entry.rstrip("\n"), " " * indent, predicate=bool))


def _check(kind: Kind, text: str) -> None:
    """Parse what was made; that it does not parse is a defect of the template."""
    if _FILES[kind].endswith(".yaml"):
        documents = list(yaml.safe_load_all(text))
        if not documents or not all(isinstance(document, dict) for document in documents):
            raise ValueError(f"{kind}: the file is not made of mappings")
    elif kind is Kind.SLURM and (bash := shutil.which("bash")) is not None:
        subprocess.run(
            [bash, "-n"],
            input=text,
            text=True,
            check=True,
            capture_output=True,
            timeout=_SECONDS_OF_BASH,
        )
