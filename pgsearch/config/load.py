"""From a YAML file to a validated SearchSpec: extends, overrides, and every problem at once.

A spec may come from anyone, so each step has its bound: bytes, files, values (aliases multiply
them), depth (PyYAML and merging recurse), digits and characters.
"""

import difflib
import errno
import itertools
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from pgsearch.config.merge import merge
from pgsearch.config.search import Location, SearchSpec, problems_between_parts
from pgsearch.errors import InvalidSpec

MAX_BYTES: Final = 1_000_000
"""Of a spec and all that it extends."""
MAX_UNSIZED_BYTES: Final = 1_000_000
MAX_FILES: Final = 50
MAX_NODES: Final = 20_000
"""Values and keys that are written, in all files."""
MAX_VALUES: Final = 100_000
"""Values that aliases make of them."""
MAX_DEPTH: Final = 20
MAX_TEXT: Final = 10_000
MAX_KEY: Final = 200
MAX_NUMBER: Final = 100
MAX_PROBLEMS: Final = 50
MAX_LINE: Final = 2_000
COMMAND_LINE: Final = "command line"

_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
)
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_KEY = re.compile(rf"[A-Za-z0-9_]+(\.[A-Za-z0-9_+\-]+){{0,{MAX_DEPTH - 1}}}")
# A default ends before the next variable, so that no text is read twice.
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(:-(?P<default>[^}$]*(?:\$(?!\{)[^}$]*)*))?\}")


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
    reader = _Reader()
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
        raise _invalid([f"{where.of(loc)}: {_dotted(loc)}: {text}" for loc, text in problems])
    return spec


def parse_spec(data: Any, source: str) -> SearchSpec:
    """Validate a spec that was stored as plain data. Raises InvalidSpec naming `source`."""
    problems = list(itertools.islice(_text_problems(data), MAX_PROBLEMS + 1))
    if not problems:
        try:
            return SearchSpec.model_validate(data)
        except ValidationError as error:
            problems += _translated(error, data)
    raise _invalid([f"{source}: {_dotted(loc)}: {text}" for loc, text in problems])


def _invalid(problems: Sequence[str]) -> InvalidSpec:
    lines = list(dict.fromkeys(map(one_line, problems)))  # of several groups, it is said once
    more = ["... and more"] if len(lines) > MAX_PROBLEMS else []
    return InvalidSpec(lines[:MAX_PROBLEMS] + more)


def one_line(problem: str) -> str:
    """Return a message as one line that a terminal shows as it is; a long one loses its middle."""
    line = visible(problem)
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 500]} … {line[-500:]}"


def read_file(path: str | Path, *, max_bytes: int) -> bytes:
    """Return what is in a file that anyone may have put there.

    Raises OSError: it cannot be read, is a folder, a pipe or a device, or is longer.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # What the kernel makes up has the size 0; and what is asked for is allocated at once.
        wanted = min(size or MAX_UNSIZED_BYTES, max_bytes) + 1
        data = file.read(wanted) or b"" if size <= max_bytes else b""
    if size > max_bytes or len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return data


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file. Raises OSError for a pipe, which may have no writer, or a device."""

    def open_without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    try:
        file = open(path, "rb", opener=open_without_waiting)  # noqa: SIM115  given to the caller
    except ValueError as error:  # the path has a null character or half of a surrogate pair
        raise OSError(errno.EINVAL, f"there is no such path: {error}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def visible(text: str) -> str:
    """Return one line that shows a terminal's controls and other unseen characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if _is_unseen(character) else character
        for character in text
    )


def has_unseen(text: str) -> bool:
    """Whether a text holds what does not show, or changes how what follows shows.

    Controls, line separators, halves of surrogate pairs, and marks that embed or override the
    direction of writing. Joiners and the marks of single characters' direction are letters of
    their languages.
    """
    return not text.isprintable() and any(map(_is_unseen, text))


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or (
        unicodedata.bidirectional(character)
        in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    )


def shown(value: Any, *, length: int = 80) -> str:
    """Return a value as a message shows it: on one line, escaped and not without end."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


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
    """YAML 1.2 numbers: 1e-3 is a number, not a text. Bounded in depth and in values."""

    def __init__(self, text: str, *, num_nodes: int) -> None:
        super().__init__(text)
        self.num_nodes = num_nodes
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a value; PyYAML recurses into those inside of it."""
        self._depth += 1
        self.num_nodes += 1
        if self._depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(
                problem=_TOO_DEEP if self._depth > MAX_DEPTH else _too_many(MAX_NODES),
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep; is this a spec?"


def _too_many(limit: int) -> str:
    return f"more than {limit:,} values; is this a spec?"


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class _Reader:
    """Reads a spec and what it extends, all within one budget of bytes, files and values."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._num_files = 0
        self._num_nodes = 0
        self._num_values = 0

    def read(self, path: Path, seen: tuple[str, ...] = ()) -> _Document:
        """Read a file and lay it over those that it extends. Raises InvalidSpec."""
        text = self._text(path)
        place = os.path.realpath(path)  # unlike Path.resolve, it bears a link to itself
        if place in seen:
            chain = " -> ".join((*seen, place))
            raise _invalid([f"{path}: extends goes round in a circle: {chain}"])
        data, places = self._parse(text, str(path), ())
        if not isinstance(data, dict):
            raise _invalid([f"{path}: a spec is a mapping of keys to values"])
        parents = data.pop("extends", None)
        if parents is None:
            return _Document(data, places)
        if isinstance(parents, str):
            parents = [parents]
        if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
            rule = "must be the path of a file or a list of them"
            raise _invalid([f"{path}: extends: {rule}, got {shown(parents)}"])
        base: dict[str, Any] = {}
        base_places: dict[Location, str] = {}
        for parent in parents:
            below = self.read(path.parent / parent, (*seen, place))
            base, base_places = merge(base, below.data), {**base_places, **below.places}
        base.pop("name", None)  # a search that extends another has a folder of its own
        return _Document(merge(base, data), {**base_places, **places})

    def read_override(self, override: str, space: Any) -> _Document:
        """Return what `key=value` sets. Raises InvalidSpec."""
        key, sign, text = override.partition("=")
        if not sign or not _KEY.fullmatch(key):
            rule = "is not key=value, such as training.epochs=2"
            raise _invalid([f"{COMMAND_LINE}: {shown(override)} {rule}"])
        inside, _, rest = key.partition(".")
        location: Location = tuple(key.split("."))
        if inside == "space" and rest:  # its keys hold dots themselves
            known = space if isinstance(space, Mapping) else {}
            paths = [path for path in known if rest == path or rest.startswith(f"{path}.")]
            path = max(paths, key=len, default=rest)
            option = rest.removeprefix(path).removeprefix(".")
            location = ("space", path, option) if option else ("space", path)
        data, places = self._parse(text, COMMAND_LINE, location)
        for part in reversed(location):
            data = {part: data}
        return _Document(data, places)

    def _text(self, path: Path) -> str:
        self._num_files += 1
        if self._num_files > MAX_FILES:
            raise _invalid([f"{path}: a spec extends at most {MAX_FILES - 1} files in all"])
        try:
            data = read_file(path, max_bytes=MAX_BYTES - self._num_bytes)
            self._num_bytes += len(data)
            return data.decode("utf-8")
        except FileNotFoundError:
            near = _nearby(path)
            raise _invalid([f"{path}: no such file; specs are YAML files{near}"]) from None
        except OSError as error:
            limit = (
                f"; a spec with all that it extends is a YAML file of at most {MAX_BYTES:,} bytes"
            )
            raise _invalid([f"{path}: cannot be read: {error.strerror}{limit}"]) from None
        except UnicodeDecodeError as error:
            raise _invalid([f"{path}: cannot be read as UTF-8 text: {error}"]) from None

    def _parse(self, text: str, source: str, location: Location) -> tuple[Any, dict[Location, str]]:
        """Return the value that a YAML text says, and the places of all values in it."""
        places: dict[Location, str] = {}
        try:
            loader = _Loader(text, num_nodes=self._num_nodes)
            try:
                node = loader.get_single_node()
                self._num_nodes = loader.num_nodes
                value = node and self._build(loader, node, location, source, places)
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = _place(source, mark) if mark else source
            raise _invalid([f"{where}: not valid YAML: {error.problem or error}"]) from None
        except yaml.reader.ReaderError as error:
            where = _line(source, text.count("\n", 0, error.position) + 1)
            reason = f"the character {chr(error.character)!r} is not allowed"
            raise _invalid([f"{where}: not valid YAML: {reason}; remove it"]) from None
        # The scanner and its escapes: a number too large for a character, say.
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise _invalid([f"{source}: not valid YAML: {error}"]) from None
        return value, places

    def _build(
        self,
        loader: _Loader,
        node: yaml.Node,
        location: Location,
        source: str,
        places: dict[Location, str],
    ) -> Any:
        where = places[location] = _place(source, node.start_mark)
        self._num_values += 1
        if self._num_values > MAX_VALUES:  # aliases of aliases
            raise _invalid([f"{where}: {_too_many(MAX_VALUES)}"])
        if len(location) > MAX_DEPTH:  # aliases again, of what holds them
            raise _invalid([f"{where}: {_TOO_DEEP}"])
        _require_plain(node, where)
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = _place(source, key_node.start_mark)
                key = _key(loader, key_node, line)
                if key in mapping:
                    raise _invalid([f"{line}: {key} appears twice; keep one"])
                mapping[key] = self._build(loader, value_node, (*location, key), source, places)
                places[*location, key] = line
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [
                self._build(loader, item, (*location, i), source, places)
                for i, item in enumerate(node.value)
            ]
        return _scalar(loader, node, where)


def _require_plain(node: yaml.Node, where: str) -> None:
    if node.tag not in _PLAIN_TAGS:
        rule = "a spec holds plain texts, numbers, true, false, null, lists and mappings"
        raise _invalid([f"{where}: has the YAML tag {node.tag}; {rule}; put texts in quotes"])


def _key(loader: _Loader, node: yaml.Node, where: str) -> str:
    _require_plain(node, where)
    key = _scalar(loader, node, where) if isinstance(node, yaml.ScalarNode) else node.value
    if not isinstance(key, str):
        found = shown(key) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise _invalid([f"{where}: a key must be text, got {found}; put it in quotes"])
    if len(key) > MAX_KEY:
        rule = f"a key has at most {MAX_KEY} characters; shorten it"
        raise _invalid([f"{where}: the key {shown(key, length=40)}: {rule}"])
    return key


def _scalar(loader: _Loader, node: yaml.Node, where: str) -> Any:
    limit = MAX_TEXT if node.tag == _TEXT_TAG else MAX_NUMBER
    if len(node.value) > limit:
        kind = "text" if node.tag == _TEXT_TAG else "number"
        raise _invalid(
            [
                f"{where}: {shown(node.value, length=40)}: a {kind} in a spec has at most "
                f"{limit:,} characters; shorten it"
            ]
        )
    try:
        value = loader.construct_object(node)
    # What the constructors raise for a text that is not of its tag: a date that does not exist.
    except (ValueError, LookupError, AttributeError, OverflowError):
        kind = node.tag.rpartition(":")[2]
        rule = f"not valid YAML of the type {kind}; correct it or put it in quotes"
        raise _invalid([f"{where}: {shown(node.value)}: {rule}"]) from None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _invalid([f"{where}: {shown(value)}: a whole number must fit into 64 bits"])
    return value


def _place(source: str, mark: yaml.Mark) -> str:
    return _line(source, mark.line + 1)


def _line(source: str, number: int) -> str:
    return source if source == COMMAND_LINE else f"{source}:{number}"


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
            yield location[:1], _TOO_DEEP
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
    for item in error.errors(include_url=False)[: MAX_PROBLEMS + 1]:
        yield _translate(item, data)


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
