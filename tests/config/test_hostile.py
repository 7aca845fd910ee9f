"""Specs that mean harm: each is one clear message, soon, in little memory, and shows harmlessly."""

import json
import os
import string
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsearch.config import SearchSpec, load_spec
from pgsearch.config.load import parse_spec
from pgsearch.config.yaml_reader import MAX_PROBLEMS
from pgsearch.errors import InvalidSpec
from pgsearch.untrusted import MAX_LINE
from tests import hostile
from tests.records import write_spec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.promise(12),
    pytest.mark.timeout(60),
    pytest.mark.usefixtures("little_memory"),
]

NAMELESS = """\
trials: 10
data: {name: digits}
model: {backbone: digits_resnet, weights: random}
loss: {name: pg}
space: {loss.lambda1_neg: {type: float, low: 0.5, high: 8, tied: true}}
"""
GOOD = f"name: good\n{NAMELESS}"


def refused(load: Callable[[], object]) -> list[str]:
    """The problems of a spec that is refused, once they are known to do no harm themselves."""
    problems = hostile.refused(load, InvalidSpec)
    require_harmless(InvalidSpec(problems))
    return problems


def require_harmless(error: InvalidSpec) -> None:
    assert 1 <= len(error.problems) <= MAX_PROBLEMS + 1
    for problem in error.problems:
        assert len(problem) <= MAX_LINE + 10
        unseen = [c for c in problem if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        assert not unseen
        assert "\u202e" not in problem


def refused_text(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    path = folder / "search.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return refused(lambda: load_spec(path, overrides))


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "~", "-a", ".a", "a\n", "a\n\n", "\na", "a ",
     "a\0", "a\x1b[2J", "\u202ea", "é", "a\u0301", "\u2215", 101 * "a", "a:b", "a*b", "%2e%2e"],
    ids=ascii,
)  # fmt: skip
def test_a_name_stays_inside_the_results_folder(tmp_path: Path, name: str) -> None:
    assert any("name" in p for p in refused_text(tmp_path, f"name: {json.dumps(name)}\n{NAMELESS}"))
    assert any("name" in p for p in refused_text(tmp_path, GOOD, f"name={json.dumps(name)}"))
    stored = load_spec(write_spec(tmp_path, GOOD)).model_dump(mode="json") | {"name": name}
    assert any("name" in p for p in refused(lambda: parse_spec(stored, "search.json")))


@pytest.mark.parametrize("name", ["a", "A.b-c_9", 100 * "a", "CON", "0"])
def test_a_plain_name_is_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    spec = load_spec(write_spec(tmp_path, f"name: '{name}'\n{NAMELESS}"))
    assert (tmp_path / spec.name).parent == tmp_path
    assert (tmp_path / spec.name).resolve().parent == tmp_path.resolve()


def _laughs(width: int = 10, height: int = 9) -> str:
    lines = [f"a0: &a0 [{', '.join(width * 'x')}]\n"]
    lines += [f"a{n}: &a{n} [{', '.join(width * [f'*a{n - 1}'])}]\n" for n in range(1, height)]
    return "".join(lines)


def _laughs_in_a_line(width: int = 10, height: int = 9) -> str:
    lists = [f"&a0 [{', '.join(width * 'x')}]"]
    lists += [f"&a{n} [{', '.join(width * [f'*a{n - 1}'])}]" for n in range(1, height)]
    return f"[{', '.join(lists)}]"


FILES: dict[str, tuple[str | bytes, str]] = {
    "aliases of aliases": (GOOD + _laughs(), "more than 100,000 values"),
    "alias of itself in a list": (GOOD + "x: &a [*a]\n", "levels deep"),
    "alias of itself in a mapping": (GOOD + "x: &a {b: *a}\n", "levels deep"),
    "two aliases of itself": (GOOD + "x: &a [*a, *a]\n", "levels deep"),
    "a ladder of aliases": (
        GOOD + "b0: &b0 [x]\n" + "".join(f"b{n}: &b{n} [*b{n - 1}]\n" for n in range(1, 400)),
        "levels deep",
    ),
    "the same anchor twice": (GOOD + "x: &a 1\ny: &a 2\nz: *a\n", "second occurrence"),
    "an alias of nothing": (GOOD + "x: *a\n", "undefined alias"),
    "open brackets": (GOOD + "x: " + 500_000 * "[", "levels deep"),
    "open braces": (GOOD + "x: " + 100_000 * "{a: ", "levels deep"),
    "closed brackets": (GOOD + "x: " + 100 * "[" + 100 * "]", "levels deep"),
    "deep blocks": (GOOD + "x:\n" + "".join(n * " " + "a:\n" for n in range(1, 900)), "levels"),
    "deep dashes": (GOOD + "x:\n  " + 400_000 * "- ", "levels deep"),
    "many values": (GOOD + "x: [" + 300_000 * "1, " + "]", "more than 20,000 values"),
    "many keys": (GOOD + "".join(f"k{n}: 1\n" for n in range(90_000)), "more than 20,000"),
    "many problems": (GOOD + f"seeds: [{'a, ' * 9_000}]\n", "... and more"),
    "many unknown keys": (
        GOOD.replace("pg}", "pg, " + ", ".join(f"lamda{n}: 1" for n in range(9_000)) + "}"),
        "... and more",
    ),
    "many parameters": (
        GOOD.replace("tied: true}}", "tied: true}, ")
        + ", ".join(f"loss.x{n}: {{type: int, low: 1, high: 2}}" for n in range(2_000))
        + "}\n",
        "... and more",
    ),
    "a long file": (GOOD + 1_000_000 * "#", "at most 1,000,000 bytes"),
    "a long text": (GOOD + "purpose: " + 900_000 * "x", "at most 10,000 characters"),
    "a long key": (GOOD + "? " + 5_000 * "x" + "\n: 1\n", "at most 200 characters"),
    "a long number": (GOOD.replace("10", "1" + 5_000 * "0"), "at most 100 characters"),
    "a long hexadecimal": (GOOD.replace("10", "0x" + 200_000 * "f"), "at most 100 characters"),
    "a long clock time": (GOOD.replace("10", "1" + 300_000 * ":59"), "at most 100 characters"),
    "more than 64 bits": (GOOD.replace("10", str(2**63)), "must fit into 64 bits"),
    "infinity by exponent": (GOOD.replace("high: 8", "high: 1e999999"), "finite number"),
    "not a number": (GOOD.replace("high: 8", "high: .nan"), "finite number"),
    "an object": (GOOD + "x: !!python/object/apply:os.system [touch pwned]\n", "YAML tag"),
    "an object as a mapping": (
        GOOD.replace("data: {", "data: !!python/object:os.system {"),
        "YAML tag",
    ),
    "a tag by a directive": (
        "%TAG ! tag:yaml.org,2002:python/\n---\n" + GOOD + "x: !name:os.system\n",
        "YAML tag",
    ),
    "a set": (GOOD.replace("data: {", "data: !!set {"), "YAML tag"),
    "bytes": (GOOD + "purpose: !!binary aGVsbG8=\n", "YAML tag"),
    "merged keys": (GOOD + "x: {<<: {a: 1}}\n", "YAML tag"),
    "a lone equals sign": (GOOD + "purpose: =\n", "YAML tag"),
    "no bool": (GOOD + "x: !!bool zzz\n", "not valid YAML of the type bool"),
    "no int": (GOOD + "x: !!int ''\n", "not valid YAML of the type int"),
    "no float": (GOOD + "x: !!float ''\n", "not valid YAML of the type float"),
    "no date": (GOOD + "x: !!timestamp zzz\n", "not valid YAML of the type timestamp"),
    "a date": (GOOD + "purpose: 2024-01-01\n", "should be a valid string"),
    "no such date": (GOOD + "purpose: 2024-01-01T25:61:61\n", "of the type timestamp"),
    "no such character": (GOOD + 'purpose: "\\U99999999"\n', "not valid YAML"),
    "a list as a key": (GOOD + "? [a]\n: 1\n", "a key must be text"),
    "a null character": (GOOD + "purpose: a\0b\n", r"'\x00' is not allowed"),
    "an escape sequence": (GOOD + "purpose: a\x1b[2Jb\n", r"'\x1b' is not allowed"),
    "an escaped null": (GOOD + 'purpose: "a\\0b"\n', "visible characters"),
    "an escaped surrogate": (GOOD + 'purpose: "\\ud800"\n', "visible characters"),
    "an escaped override of direction": (GOOD + 'purpose: "a\\u202eb"\n', "visible characters"),
    "an unseen key": (GOOD + '"\\e[2J": 1\n', r"\x1b[2J: a key holds visible"),
    "an unseen key twice": (GOOD + '"\\e[2J": 1\n"\\e[2J": 1\n', r"\x1b[2J appears twice"),
    "an unseen variant": (
        GOOD.replace("trials: 10", 'method: grid\nvariants: {"\\e[2J": {}}'),
        r"variants.\x1b[2J: a key holds visible",
    ),
    "invalid UTF-8": (b"name: \xff\xfe\n", "cannot be read as UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "cannot be read as UTF-8"),
    "two documents": (GOOD + "---\na: 1\n", "another document"),
    "another version": ("%YAML 9.9\n---\n" + GOOD, "incompatible YAML"),
    "unending variables": (GOOD + f"purpose: '{2_400 * '${a:-'}'\n", "at most 10,000"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file_is_refused(tmp_path: Path, case: str) -> None:
    text, expected = FILES[case]
    assert any(expected in problem for problem in refused_text(tmp_path, text))
    assert not (tmp_path / "pwned").exists()


OVERRIDES: dict[str, tuple[str, str]] = {
    "aliases of aliases": (f"purpose={_laughs_in_a_line()}", "more than 100,000 values"),
    "aliases of aliases in a list": (f"points={_laughs_in_a_line()}", "more than 100,000"),
    "alias of itself": ("points=&a [*a]", "levels deep"),
    "alias of itself in a mapping": ("variants=&a {b: *a}", "levels deep"),
    "open brackets": ("purpose=" + 60_000 * "[", "levels deep"),
    "a deep key": (30_000 * "a." + "a=1", "is not key=value"),
    "a deep value at a deep key": (f"{10 * 'a.'}a={12 * '['}{12 * ']'}", "levels deep"),
    "a key that nearly fits": (60_000 * "a" + "!=1", "is not key=value"),
    "a key with a line end": ("training.epochs\n=2", "is not key=value"),
    "half a surrogate pair as a key": ("\udcff=1", "is not key=value"),
    "half a surrogate pair": ("purpose=\udcff", r"'\udcff' is not allowed"),
    "a null character": ("purpose=a\0b", r"'\x00' is not allowed"),
    "an object": ("purpose=!!python/object/apply:os.system [touch pwned]", "YAML tag"),
    "a set": ("data=!!set {name: digits}", "YAML tag"),
    "merged keys": ("data={<<: {name: digits}}", "YAML tag"),
    "a key twice": ("data={name: digits, name: digits}", "name appears twice"),
    "a number as a key": ("data={1: 1}", "a key must be text"),
    "no bool": ("purpose=!!bool zzz", "of the type bool"),
    "a long hexadecimal": ("training.epochs=0x" + 50_000 * "f", "at most 100 characters"),
    "a long text": ("name=" + 60_000 * "x", "at most 10,000 characters"),
    "a bracket too many": ("training.epochs=]", "not valid YAML"),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_hostile_override_is_refused(tmp_path: Path, case: str) -> None:
    override, expected = OVERRIDES[case]
    found = refused_text(tmp_path, GOOD, override)
    assert any(problem.startswith("command line: ") for problem in found)
    assert any(expected in problem for problem in found)


def test_an_override_of_what_is_no_mapping(tmp_path: Path) -> None:
    found = refused_text(tmp_path, GOOD, "space=3", "space.loss.x=1")
    assert any("space" in problem for problem in found)


@pytest.mark.parametrize(
    ("extends", "expected"),
    [
        ("/dev/zero", "/dev/zero: cannot be read: it is not a regular file"),
        ("pipe", "it is not a regular file"),
        (".", "Is a directory"),
        ("''", "Is a directory"),
        ("loop.yaml", "Too many levels of symbolic links"),
        ('"a\\0b"', r"a\x00b: cannot be read: there is no such path"),
        ('"\\ud800"', r"\ud800: cannot be read: there is no such path"),
        ('"\\e[2J"', r"\x1b[2J: no such file"),
        (5_000 * "a", "File name too long"),
        (100_000 * "a", "at most 10,000 characters"),
        ("laughs.yaml", "laughs.yaml:1: more than 100,000 values"),
        ("chain0.yaml", "chain49.yaml: a spec extends at most 49 files"),
        ("diamond0.yaml", "a spec extends at most 49 files"),
        ("[" + 15_000 * "small.yaml, " + "]", "small.yaml: a spec extends at most 49 files"),
        ("[large.yaml, large.yaml]", "at most 1,000,000 bytes"),
        ("[keys.yaml, keys.yaml, keys.yaml]", "more than 20,000 values"),
    ],
    ids=lambda value: value[:20],
)
def test_what_a_spec_extends_is_bounded(tmp_path: Path, extends: str, expected: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    files = {
        "laughs.yaml": _laughs(),
        "small.yaml": "purpose: x\n",
        "large.yaml": "purpose: x\n" + 600_000 * "#",
        "keys.yaml": "variants: {" + ", ".join(f"v{n}: null" for n in range(4_000)) + "}\n",
    }
    files |= {f"chain{n}.yaml": f"extends: chain{n + 1}.yaml\n" for n in range(300)}
    files |= {
        f"diamond{n}.yaml": f"extends: [diamond{n + 1}.yaml, diamond{n + 1}.yaml]\n"
        for n in range(40)
    }
    files["diamond40.yaml"] = "purpose: x\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = refused_text(tmp_path, f"extends: {extends}\n{GOOD}")
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("a\x1b[2Jb", "${HOSTILE}", r"'a\x1b[2Jb': a text holds visible"),
        ("\udcff", "${HOSTILE}", r"'\udcff': a text holds visible"),
        (100_000 * "x", "${HOSTILE}", "hold more than 10,000 characters"),
        (100 * "x", 900 * "${HOSTILE}", "hold more than 10,000 characters"),
        ("../x", "${HOSTILE}", "'../x': String should match"),
    ],
    ids=["control", "surrogate", "long", "many", "name"],
)
def test_the_environment_may_be_hostile_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, text: str, expected: str
) -> None:
    monkeypatch.setenv("HOSTILE", value)
    found = refused_text(tmp_path, f"name: '{text}'\n{NAMELESS}")
    assert any(expected in problem for problem in found), found


def test_a_default_may_hold_a_dollar_sign(tmp_path: Path) -> None:
    text = GOOD + "purpose: '${ABSENT:-a $b $} ${ABSENT:-}'\n"
    assert load_spec(write_spec(tmp_path, text)).purpose == "a $b $ "


def test_many_variables_that_are_not_set(tmp_path: Path) -> None:
    text = GOOD + "".join(f"k{n}: '${{ABSENT{n}}}'\n" for n in range(3_000))
    assert any("ABSENT0 is not set" in problem for problem in refused_text(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["naïve — café", "日本語　の", "a\tb\nc", "‏שלום‏", "می‌خواهم", "👩‍🔬"]
)
def test_texts_of_all_languages_are_kept(tmp_path: Path, text: str) -> None:
    path = write_spec(tmp_path, GOOD + f"purpose: {json.dumps(text, ensure_ascii=False)}\n")
    assert load_spec(path).purpose == text


@pytest.mark.parametrize("nested", [3, [1], "x", None, {"a": 1}])
def test_what_is_stored_may_be_anything(nested: object) -> None:
    assert refused(lambda: parse_spec(nested, "search.json"))[0].startswith("search.json: ")


def test_what_is_stored_may_be_nested_without_end(tmp_path: Path) -> None:
    stored = load_spec(write_spec(tmp_path, GOOD)).model_dump(mode="json")
    inner: dict[str, Any] = {}
    for _ in range(900):
        inner = {"loss": inner}
    found = refused(lambda: parse_spec(stored | {"variants": {"a": inner}}, "search.json"))
    assert any("levels deep" in problem for problem in found)


ODD = st.text(
    alphabet=st.sampled_from([*string.printable, *"\0\x1b\x85\xa0\u2028\u202e\u200b\ud800é😀"]),
    max_size=30,
)
ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ODD
    | st.sampled_from(["${HOME}", "pg", "fixed", "float", "tail", "map_total"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD, inner, max_size=3),
    max_leaves=6,
)


def _keys(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from (f"{key}.{inner}" for inner in _keys(value))


KEYS = sorted(_keys(SearchSpec.model_validate(yaml.safe_load(GOOD)).model_dump(mode="json")))


def _load_or_refuse(text: str, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "search.yaml")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            spec = load_spec(path, overrides)
        except InvalidSpec as error:
            require_harmless(error)
        else:
            json.dumps(spec.model_dump(mode="json"), ensure_ascii=False).encode()


@settings(deadline=None, max_examples=150)
@given(key=st.sampled_from(KEYS) | ODD, value=ODD | ODD_VALUES.map(json.dumps))
def test_any_override_is_taken_or_refused(key: str, value: str) -> None:
    _load_or_refuse(GOOD, [f"{key}={value}"])


@settings(deadline=None, max_examples=150)
@given(place=st.integers(0, len(GOOD)), text=ODD)
def test_any_damage_to_a_file_is_taken_or_refused(place: int, text: str) -> None:
    _load_or_refuse(GOOD[:place] + text + GOOD[place:], [])
