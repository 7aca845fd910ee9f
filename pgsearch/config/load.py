"""From a YAML file to a validated SearchSpec: extends, overrides, and every problem at once."""

import difflib
import itertools
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pgsearch.config.merge import merge
from pgsearch.config.search import Location, SearchSpec, problems_between_parts
from pgsearch.config.yaml_reader import (
    MAX_DEPTH,
    MAX_PROBLEMS,
    MAX_TEXT,
    TOO_DEEP,
    SpecReader,
    invalid,
)
from pgsearch.untrusted import has_unseen, shown

# A default ends before the next variable, so that no text is read twice.
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(:-(?P<default>[^}$]*(?:\$(?!\{)[^}$]*)*))?\}")


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
    reader = SpecReader()
    document = reader.read(path)
    data = {"name": path.stem, **document.data}
    places = document.places
    for override in overrides:
        change = reader.read_override(override, data.get("space"))
        data = merge(data, change.data)
        places = {**places, **change.places}
    problems: list[tuple[Location, str]] = []
    data = _expand_environment(data, (), problems)
    problems += itertools.islice(_text_problems(data), MAX_PROBLEMS + 1)
    spec: SearchSpec | None = None
    try:
        spec = SearchSpec.model_validate(data)
    except ValidationError as error:
        problems += _translated(error, data)
    if spec is not None:
        problems += itertools.islice(problems_between_parts(spec), MAX_PROBLEMS + 1)
    if problems or spec is None:
        where = _Places(str(path), places)
        raise invalid([f"{where.of(loc)}: {_dotted(loc)}: {text}" for loc, text in problems])
    return spec


def parse_spec(data: Any, source: str) -> SearchSpec:
    """Validate a spec that was stored as plain data. Raises InvalidSpec naming `source`."""
    problems = list(itertools.islice(_text_problems(data), MAX_PROBLEMS + 1))
    if not problems:
        try:
            return SearchSpec.model_validate(data)
        except ValidationError as error:
            problems += _translated(error, data)
    raise invalid([f"{source}: {_dotted(loc)}: {text}" for loc, text in problems])


class _Places:
    def __init__(self, path: str, places: Mapping[Location, str]) -> None:
        self.path, self.places = path, places

    def of(self, location: Location) -> str:
        """Return the place of a value, or of the nearest thing around it that was written."""
        for length in range(len(location), 0, -1):
            if (place := self.places.get(location[:length])) is not None:
                return place
        return self.path


def _expand_environment(data: Any, location: Location, problems: list[tuple[Location, str]]) -> Any:
    if isinstance(data, dict):
        return {k: _expand_environment(v, (*location, k), problems) for k, v in data.items()}
    if isinstance(data, list):
        return [_expand_environment(v, (*location, i), problems) for i, v in enumerate(data)]
    if not isinstance(data, str):
        return data
    room = MAX_TEXT

    def value_of(match: re.Match[str]) -> str:
        nonlocal room
        name, default = match["name"], match["default"]
        value = os.environ.get(name, default)
        if value is None:
            text = f"the environment variable {name} is not set; set it, or override "
            problems.append((location, text + f"{_dotted(location)}=…"))
        room -= len(value or "")
        return value or "" if room >= 0 else ""

    text = _VARIABLE.sub(value_of, data)
    if room < 0:
        rule = f"its environment variables hold more than {MAX_TEXT:,} characters; use fewer"
        problems.append((location, rule))
    return text


def _text_problems(data: Any) -> Iterator[tuple[Location, str]]:
    """Yield what no text or key of a spec may hold: what does not show on a terminal."""
    waiting: deque[tuple[Location, Any]] = deque([((), data)])
    while waiting:  # not recursive: stored data may be nested too deep for that
        location, value = waiting.popleft()
        if len(location) > MAX_DEPTH:
            yield location[:1], TOO_DEEP
        elif isinstance(value, dict):
            waiting.extend(((*location, key), inner) for key, inner in value.items())
            for key in value:
                if has_unseen(str(key)):
                    yield (*location, key), "a key holds visible characters only; correct it"
        elif isinstance(value, list):
            waiting.extend(((*location, i), inner) for i, inner in enumerate(value))
        elif isinstance(value, str) and has_unseen(value.replace("\n", "").replace("\t", "")):
            rule = "a text holds visible characters, spaces, tabs and ends of lines; correct it"
            yield location, f"{shown(value)}: {rule}"


# ---------------------------------------------------------------- messages


def _translated(error: ValidationError, data: Any) -> Iterator[tuple[Location, str]]:
    """Yield the places and messages of the first problems that pydantic found."""
    found: list[tuple[Location, str]] = []
    for item in error.errors(include_url=False)[: MAX_PROBLEMS + 1]:
        location, text = _translate(item, data)
        if found and found[-1][0] == location and item["type"] == "literal_error":
            # The value is no number and no word either, each a problem to pydantic.
            found[-1] = location, f"{found[-1][1]}, or {item['ctx']['expected']}"
        else:
            found.append((location, text))
    yield from found


def _translate(item: Any, data: Any) -> tuple[Location, str]:
    """Turn a pydantic error into the place in the file and a message with value, rule and fix."""
    location = _without_tags([part for part in item["loc"] if part != "[key]"], data)
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
        rule = f"{shown(given)} is unknown{hint}" if given is not None else "missing"
        return (*location, key), f"{rule}; it is one of {', '.join(known)}" if known else rule
    message = item["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return location, message
    if kind == "literal_error":
        known = re.findall(r"'([^']+)'", item["ctx"]["expected"])
        return location, f"{shown(value)}: {message}{_nearest(str(value), known)}"
    return location, f"{shown(value)}: {message}"


def _without_tags(location: Sequence[str | int], data: Any) -> Location:
    """Remove the names of union members, which pydantic adds to a path and no file has."""
    result: list[str | int] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            is_missing_key = (
                part == location[-1] and isinstance(data, Mapping) and part not in data.values()
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


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "spec"
