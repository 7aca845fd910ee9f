"""Values in the files: what is refused, and what comes back as it was given."""

import itertools
import shlex
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsearch.cluster_files.render import options_of, render
from pgsearch.cluster_files.settings import Kind
from pgsearch.errors import UsageError

ATTACKS = (
    "$(echo ran)",
    "`echo ran`",
    "a'b\"c",
    "a\nb: c",
    "a\n#SBATCH --uid=0",
    "x: #y",
    "{{x}}",
    "{% raw %}",
    "${HOME}",
    "$(HOME)",
    "--flag",
    "&anchor",
    "*alias",
    "!!python/object:os.system",
    "\\",
    "é ü",
    "\x1b[31m",
    "a\u2028b",
)
BASH = shutil.which("bash") or "bash"
YAML_KINDS = tuple(kind for kind in Kind if kind not in (Kind.SLURM, Kind.DOCKERFILE))
TEXT = st.sampled_from(ATTACKS) | st.text(min_size=1, max_size=40)


def _strings(document: Any) -> set[str]:
    """Return all keys and values that are texts."""
    if isinstance(document, dict):
        return set().union(*(_strings(part) for pair in document.items() for part in pair), set())
    if isinstance(document, list):
        return set().union(*map(_strings, document), set())
    return {document} if isinstance(document, str) else set()


def _rendered(kind: Kind, given: dict[str, Any]) -> tuple[str, str]:
    """Return the file, or why it is refused."""
    try:
        return render(kind, given), ""
    except UsageError as error:
        return "", str(error)


def _parsed(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("kind", list(Kind))
def test_defaults_make_a_file(kind: Kind) -> None:
    assert render(kind).endswith("\n")


@settings(max_examples=40)
@given(TEXT, st.sampled_from([kind for kind in Kind if "name" in options_of(kind)]))
def test_names_are_words_of_all_systems_or_refused(name: str, kind: Kind) -> None:
    text, refusal = _rendered(kind, {"name": name})
    if refusal:
        assert refusal.startswith("--name ")
        return
    assert name.isascii()
    assert all(c.islower() or c.isdigit() or c == "-" for c in name)
    assert name in text


@settings(max_examples=40)
@given(TEXT, st.sampled_from(YAML_KINDS))
def test_images_come_back_or_are_refused(image: str, kind: Kind) -> None:
    text, refusal = _rendered(kind, {"image": image})
    if refusal:
        assert refusal.startswith("--image ")
        return
    assert image in _strings(_parsed(text))
    assert shlex.quote(image) == image  # Ray puts it into a command as it is


@settings(max_examples=60)
@given(
    st.one_of(TEXT, TEXT.map("s3://bucket/{}".format), TEXT.map("/{}".format)),
    st.sampled_from(YAML_KINDS),
)
def test_storages_come_back_or_are_refused(storage: str, kind: Kind) -> None:
    text, refusal = _rendered(kind, {"storage": storage})
    if refusal:
        assert refusal.startswith("--storage ")
        return
    found = _strings(_parsed(text))
    assert storage in found or f"--env=PGSEARCH_RESULTS={storage}" in found


@settings(max_examples=20, deadline=None)  # each starts bash
@given(TEXT, TEXT)
def test_a_script_assigns_what_was_given(spec: str, storage: str) -> None:
    text, refusal = _rendered(Kind.SLURM, {"spec": spec, "storage": storage})
    if refusal:
        assert refusal.startswith(("--spec ", "--storage "))
        return
    lines = text.splitlines()
    assignments = [line for line in lines if line.startswith(("spec=", "results="))]
    # A defect would let bash execute the text: restricted and without a PATH it can start nothing
    # and write nowhere.
    shown = subprocess.run(
        [
            BASH,
            "--restricted",
            "-c",
            "\n".join([*assignments, 'printf \'%s\\0\' "$spec" "$results"']),
        ],
        env={"PATH": "/nonexistent", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split("\0")[:2] == [spec, storage]
    directives = list(itertools.takewhile(lambda line: line.startswith("#SBATCH"), lines[1:]))
    assert [line for line in lines if line.startswith("#SBATCH")] == directives


@pytest.mark.parametrize("text", [*ATTACKS, "  indented\n x", "tab\there: 1", "---\na: 1", "|\n"])
def test_a_carried_spec_comes_back(text: str) -> None:
    carried = yaml.safe_dump({"name": "x", "purpose": text}, allow_unicode=True)
    documents = _parsed(render(Kind.KUBERAY_RAYJOB, {"spec_text": carried}))
    [config] = [d for d in documents if d["kind"] == "ConfigMap"]
    assert yaml.safe_load(config["data"]["spec.yaml"])["purpose"] == text


@pytest.mark.parametrize(
    "name",
    ["A", "1a", "a-", "-a", "a_b", "a.b", "", "a" * 48],
)
def test_a_name_that_one_system_refuses_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="DNS-1035"):
        render(Kind.COMPOSE, {"name": name})


@pytest.mark.parametrize("name", ["a", "a1", "a-b", "a" * 47])
def test_names_within_the_rule(name: str) -> None:
    assert name in render(Kind.KUBERAY_RAYJOB, {"name": name})


@pytest.mark.parametrize(
    "image",
    [
        "pgsearch",
        "pgsearch:1.0",
        "ghcr.io/me/pgsearch:1.0-rc.1",
        "localhost:5000/a__b/c@sha256:" + "0" * 64,
    ],
)
def test_images_within_the_grammar(image: str) -> None:
    assert image in _strings(_parsed(render(Kind.KUBERAY_CLUSTER, {"image": image})))


@pytest.mark.parametrize(
    ("kind", "storage", "rule"),
    [
        (Kind.RAY_AWS, "/results", "name a bucket"),
        (Kind.RAY_AWS, "gs://bucket/x", "s3://BUCKET"),
        (Kind.RAY_GCP, "s3://bucket/x", "gs://BUCKET"),
        (Kind.COMPOSE, "results", "absolute path"),
        (Kind.KUBERAY_RAYJOB, "/a/../b", "absolute path"),
        (Kind.SLURM, "http://host/x", "begins with s3://"),
        (Kind.SLURM, "", "every node sees"),
        (Kind.SLURM, "s3://B", "lower-case"),
    ],
)
def test_a_storage_that_nodes_cannot_use_is_refused(kind: Kind, storage: str, rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        render(kind, {"storage": storage})


@pytest.mark.parametrize(("name", "value"), [("gpus", -1), ("workers", 0), ("hours", 10**9)])
def test_numbers_have_bounds(name: str, value: int) -> None:
    kind = Kind.SLURM
    with pytest.raises(UsageError, match=f"--{name} {value}: it is between"):
        render(kind, {name: value})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as raised:
        render(Kind.RAY_AWS, {"name": "A", "workers": 0, "spec": "x"})
    first, *others = str(raised.value).splitlines()
    assert first.startswith("--spec: ray-aws has no place for it; it takes --image, --machine")
    assert [line.split()[0] for line in others] == ["--name", "--workers"]
