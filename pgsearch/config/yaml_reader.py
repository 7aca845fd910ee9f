"""From YAML files to plain data: what a spec says and where it says it.

A spec may come from anyone, so each step has its bound: bytes, files, values (aliases multiply
them), depth (PyYAML and merging recurse), digits and characters.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from pgsearch.config.merge import merge
from pgsearch.config.search import Location
from pgsearch.errors import InvalidSpec
from pgsearch.untrusted import one_line, read_file, shown

MAX_BYTES: Final = 1_000_000
"""Of a spec and all that it extends."""
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
COMMAND_LINE: Final = "command line"

_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
)
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_KEY = re.compile(rf"[A-Za-z0-9_]+(\.[A-Za-z0-9_+\-]+){{0,{MAX_DEPTH - 1}}}")


class Document(NamedTuple):
    data: dict[str, Any]
    places: dict[Location, str]
    """Where each value was written: file:line by path."""


def invalid(problems: Sequence[str]) -> InvalidSpec:
    lines = list(dict.fromkeys(map(one_line, problems)))  # of several groups, it is said once
    more = ["... and more"] if len(lines) > MAX_PROBLEMS else []
    return InvalidSpec(lines[:MAX_PROBLEMS] + more)


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
                problem=TOO_DEEP if self._depth > MAX_DEPTH else _too_many(MAX_NODES),
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep; is this a spec?"


def _too_many(limit: int) -> str:
    return f"more than {limit:,} values; is this a spec?"


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class SpecReader:
    """Reads a spec and what it extends, all within one budget of bytes, files and values."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._num_files = 0
        self._num_nodes = 0
        self._num_values = 0

    def read(self, path: Path, seen: tuple[str, ...] = ()) -> Document:
        """Read a file and lay it over those that it extends. Raises InvalidSpec."""
        text = self._text(path)
        place = os.path.realpath(path)  # unlike Path.resolve, it bears a link to itself
        if place in seen:
            chain = " -> ".join((*seen, place))
            raise invalid([f"{path}: extends goes round in a circle: {chain}"])
        data, places = self._parse(text, str(path), ())
        if not isinstance(data, dict):
            raise invalid([f"{path}: a spec is a mapping of keys to values"])
        parents = data.pop("extends", None)
        if parents is None:
            return Document(data, places)
        if isinstance(parents, str):
            parents = [parents]
        if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
            rule = "must be the path of a file or a list of them"
            raise invalid([f"{path}: extends: {rule}, got {shown(parents)}"])
        base: dict[str, Any] = {}
        base_places: dict[Location, str] = {}
        for parent in parents:
            below = self.read(path.parent / parent, (*seen, place))
            base, base_places = merge(base, below.data), {**base_places, **below.places}
        base.pop("name", None)  # a search that extends another has a folder of its own
        return Document(merge(base, data), {**base_places, **places})

    def read_override(self, override: str, space: Any) -> Document:
        """Return what `key=value` sets. Raises InvalidSpec."""
        key, sign, text = override.partition("=")
        if not sign or not _KEY.fullmatch(key):
            rule = "is not key=value, such as training.epochs=2"
            raise invalid([f"{COMMAND_LINE}: {shown(override)} {rule}"])
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
        return Document(data, places)

    def _text(self, path: Path) -> str:
        self._num_files += 1
        if self._num_files > MAX_FILES:
            raise invalid([f"{path}: a spec extends at most {MAX_FILES - 1} files in all"])
        try:
            data = read_file(path, max_bytes=MAX_BYTES - self._num_bytes)
            self._num_bytes += len(data)
            return data.decode("utf-8")
        except FileNotFoundError:
            near = _nearby(path)
            raise invalid([f"{path}: no such file; specs are YAML files{near}"]) from None
        except OSError as error:
            limit = (
                f"; a spec with all that it extends is a YAML file of at most {MAX_BYTES:,} bytes"
            )
            raise invalid([f"{path}: cannot be read: {error.strerror}{limit}"]) from None
        except UnicodeDecodeError as error:
            raise invalid([f"{path}: cannot be read as UTF-8 text: {error}"]) from None

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
            raise invalid([f"{where}: not valid YAML: {error.problem or error}"]) from None
        except yaml.reader.ReaderError as error:
            where = _line(source, text.count("\n", 0, error.position) + 1)
            reason = f"the character {chr(error.character)!r} is not allowed"
            raise invalid([f"{where}: not valid YAML: {reason}; remove it"]) from None
        # The scanner and its escapes: a number too large for a character, say.
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise invalid([f"{source}: not valid YAML: {error}"]) from None
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
            raise invalid([f"{where}: {_too_many(MAX_VALUES)}"])
        if len(location) > MAX_DEPTH:  # aliases again, of what holds them
            raise invalid([f"{where}: {TOO_DEEP}"])
        _require_plain(node, where)
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = _place(source, key_node.start_mark)
                key = _key(loader, key_node, line)
                if key in mapping:
                    raise invalid([f"{line}: {key} appears twice; keep one"])
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
        raise invalid([f"{where}: has the YAML tag {node.tag}; {rule}; put texts in quotes"])


def _key(loader: _Loader, node: yaml.Node, where: str) -> str:
    _require_plain(node, where)
    key = _scalar(loader, node, where) if isinstance(node, yaml.ScalarNode) else node.value
    if not isinstance(key, str):
        found = shown(key) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise invalid([f"{where}: a key must be text, got {found}; put it in quotes"])
    if len(key) > MAX_KEY:
        rule = f"a key has at most {MAX_KEY} characters; shorten it"
        raise invalid([f"{where}: the key {shown(key, length=40)}: {rule}"])
    return key


def _scalar(loader: _Loader, node: yaml.Node, where: str) -> Any:
    limit = MAX_TEXT if node.tag == _TEXT_TAG else MAX_NUMBER
    if len(node.value) > limit:
        kind = "text" if node.tag == _TEXT_TAG else "number"
        raise invalid(
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
        raise invalid([f"{where}: {shown(node.value)}: {rule}"]) from None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise invalid([f"{where}: {shown(value)}: a whole number must fit into 64 bits"])
    return value


def _place(source: str, mark: yaml.Mark) -> str:
    return _line(source, mark.line + 1)


def _line(source: str, number: int) -> str:
    return source if source == COMMAND_LINE else f"{source}:{number}"


def _nearby(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.glob("*.yaml")]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
