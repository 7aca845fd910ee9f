"""From a YAML file to a validated SearchSpec: extends, overrides, and every problem at once."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from pgsearch.config.merge import at_path, merge
from pgsearch.config.search import Location, SearchSpec, problems_between_parts
from pgsearch.errors import InvalidSpec

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 100_000
COMMAND_LINE = "command line"


class _Document(NamedTuple):
    data: dict[str, Any]
    places: dict[Location, str]
    """Where each value was written: file:line by path."""


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> SearchSpec:
    """Read, extend, override and validate a search.

    Args:
        path: a YAML file. `extends: OTHER` (relative to the file) lays it over another one, or
            over several, of which a later one is laid over the earlier.
            `${VAR}` and `${VAR:-default}` in a text value are replaced from the environment.
        overrides: `key=value` with a dotted key and a YAML value, such as `training.epochs=2`.

    Raises:
        InvalidSpec: with every problem: file, line, value, rule and fix.
    """
    path = Path(path)
    document = _read(path, seen=())
    data = {"name": path.stem, **document.data}
    places = document.places
    for override in overrides:
        key, change = _parse_override(override, data.get("space") or ())
        data = merge(data, change)
        places = {**places, tuple(key.split(".")): COMMAND_LINE}
    problems: list[tuple[Location, str]] = []
    data = _expand_environment(data, (), problems)
    spec: SearchSpec | None = None
    try:
        spec = SearchSpec.model_validate(data)
    except ValidationError as error:
        problems += [_translate(item, data) for item in error.errors()]
    if spec is not None:
        problems += list(problems_between_parts(spec))
    if problems or spec is None:
        where = _Places(str(path), places)
        lines = [f"{where.of(loc)}: {_dotted(loc)}: {text}" for loc, text in problems]
        raise InvalidSpec(list(dict.fromkeys(lines)))  # a parameter of several groups says it once
    return spec


def parse_spec(data: Mapping[str, Any], source: str) -> SearchSpec:
    """Validate a spec that was stored as plain data. Raises InvalidSpec naming `source`."""
    try:
        return SearchSpec.model_validate(dict(data))
    except ValidationError as error:
        problems = (_translate(item, data) for item in error.errors())
        raise InvalidSpec([f"{source}: {_dotted(loc)}: {text}" for loc, text in problems]) from None


class _Places:
    def __init__(self, path: str, places: Mapping[Location, str]) -> None:
        self.path, self.places = path, places

    def of(self, location: Location) -> str:
        """Return the place of a value, or of the nearest thing around it that was written."""
        for length in range(len(location), 0, -1):
            if (place := self.places.get(location[:length])) is not None:
                return place
        return self.path


# ---------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: 1e-3 is a number, not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _read(path: Path, seen: tuple[Path, ...]) -> _Document:
    if path.resolve() in seen:
        chain = " -> ".join(str(p) for p in (*seen, path))
        raise InvalidSpec([f"{path}: extends goes round in a circle: {chain}"])
    document = _parse(path)
    parents = document.data.pop("extends", None)
    if parents is None:
        return document
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise InvalidSpec(
            [f"{path}: extends: must be the path of a file or a list of them, got {parents!r}"]
        )
    data: dict[str, Any] = {}
    places: dict[Location, str] = {}
    for parent in parents:
        base = _read(path.parent / parent, (*seen, path.resolve()))
        data, places = merge(data, base.data), {**places, **base.places}
    data.pop("name", None)  # a search that extends another has a folder of its own
    return _Document(merge(data, document.data), {**places, **document.places})


def _parse(path: Path) -> _Document:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidSpec([f"{path}: a spec is at most {MAX_FILE_BYTES:,} bytes long"])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidSpec([f"{path}: no such file; specs are YAML files{_nearby(path)}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec([f"{path}: cannot be read as UTF-8 text: {error}"]) from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise InvalidSpec([f"{path}: a spec is a mapping of keys to values"])
        places: dict[Location, str] = {}
        data = _build(loader, node, (), str(path), places)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise InvalidSpec([f"{path}{line}: not valid YAML: {reason}"]) from None
    finally:
        loader.dispose()
    return _Document(data, places)


def _build(
    loader: _Loader, node: yaml.Node, location: Location, path: str, places: dict[Location, str]
) -> Any:
    places[location] = f"{path}:{node.start_mark.line + 1}"
    if len(places) > MAX_VALUES:  # aliases of aliases
        raise InvalidSpec([f"{path}: more than {MAX_VALUES:,} values; is this a spec?"])
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            line = f"{path}:{key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise InvalidSpec([f"{line}: a key must be text, got {key!r}; put it in quotes"])
            if key in mapping:
                raise InvalidSpec([f"{line}: {key} appears twice; keep one"])
            mapping[key] = _build(loader, value_node, (*location, key), path, places)
            places[*location, key] = line
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(loader, item, (*location, i), path, places) for i, item in enumerate(node.value)
        ]
    return loader.construct_object(node)


def _parse_override(override: str, space: Iterable[str]) -> tuple[str, dict[str, Any]]:
    key, sign, text = override.partition("=")
    if not sign or not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_+\-]+)*", key):
        raise InvalidSpec(
            [f"{COMMAND_LINE}: {override!r} is not key=value, such as training.epochs=2"]
        )
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 a SafeLoader
    except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
        raise InvalidSpec([f"{COMMAND_LINE}: {override!r}: the value is not valid YAML"]) from None
    inside, _, rest = key.partition(".")
    if inside == "space" and rest:  # its keys hold dots themselves
        known = [path for path in space if rest == path or rest.startswith(f"{path}.")]
        path = max(known, key=len, default=rest)
        option = rest.removeprefix(path).removeprefix(".")
        return key, {"space": {path: {option: value} if option else value}}
    return key, at_path(key, value)


def _expand_environment(data: Any, location: Location, problems: list[tuple[Location, str]]) -> Any:
    if isinstance(data, dict):
        return {k: _expand_environment(v, (*location, k), problems) for k, v in data.items()}
    if isinstance(data, list):
        return [_expand_environment(v, (*location, i), problems) for i, v in enumerate(data)]
    if not isinstance(data, str):
        return data

    def value_of(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name in os.environ:
            return os.environ[name]
        if default is None:
            text = f"the environment variable {name} is not set; set it, or override "
            problems.append((location, text + f"{_dotted(location)}=…"))
        return default or ""

    return re.sub(r"\$\{(?P<name>[A-Za-z_]\w*)(:-(?P<default>[^}]*))?\}", value_of, data)


# ---------------------------------------------------------------- messages


def _translate(item: Any, data: Mapping[str, Any]) -> tuple[Location, str]:
    """Turn a pydantic error into the place in the file and a message with value, rule and fix."""
    location = _without_tags(item["loc"], data)
    value, kind = item["input"], item["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location, data)
        return location, f"unknown key{_nearest(str(location[-1]), known)}"
    if kind == "missing":
        return location, "missing; it has no default"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = item["ctx"]["discriminator"].strip("'")
        known = re.findall(r"'([^']+)'", item["ctx"].get("expected_tags", ""))
        given = value.get(key) if isinstance(value, dict) else value
        close = difflib.get_close_matches(str(given), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        rule = f"{given!r} is unknown{hint}" if given is not None else "missing"
        return (*location, key), f"{rule}; it is one of {', '.join(known)}" if known else rule
    message = item["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return location, message
    if kind == "literal_error":
        known = re.findall(r"'([^']+)'", item["ctx"]["expected"])
        return location, f"{value!r}: {message}{_nearest(str(value), known)}"
    return location, f"{value!r}: {message}"


def _without_tags(location: Location, data: Any) -> Location:
    """Remove the names of union members, which pydantic adds to a path and no file has."""
    result: list[str | int] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            is_missing_key = part == location[-1] and not (
                isinstance(data, Mapping) and part in data.values()
            )
            if not is_missing_key:
                continue
        result.append(part)
    return tuple(result)


def _known_keys(location: Location, data: Mapping[str, Any]) -> list[str]:
    """Return the keys that the model at the parent of `location` knows."""
    models: list[Any] = [SearchSpec]
    here: Any = data
    for part in location[:-1]:
        here = here[part]
        models = [m for model in models for m in _models_of(model, part)]
        if isinstance(here, Mapping):
            tag = here.get("name", here.get("type"))
            tagged = [m for m in models if tag is not None and tag in _tags(m)]
            models = tagged or models
    return sorted({name for model in models for name in model.model_fields})


def _models_of(model: type[BaseModel], part: str | int) -> Iterable[type[BaseModel]]:
    if isinstance(part, str) and part in model.model_fields:
        return _models_in(model.model_fields[part].annotation)
    return [model]  # an element of a list or mapping whose models were found a level above


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)] or (
        _models_in(annotation.__origin__) if hasattr(annotation, "__metadata__") else []
    )


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    for key in ("name", "type"):
        if key in model.model_fields:
            return tuple(getattr(model.model_fields[key].annotation, "__args__", ()))
    return ()


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


def _nearby(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.glob("*.yaml")]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "spec"
