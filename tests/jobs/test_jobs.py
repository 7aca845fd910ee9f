"""What a job carries, and what is said where there is no cluster to talk to."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgsearch.config import load_spec
from pgsearch.errors import UsageError
from pgsearch.jobs import Job, JobServer, as_yaml
from tests.records import write_spec

PRESETS = sorted((Path(__file__).parents[2] / "search_spaces").rglob("*.yaml"))


@pytest.mark.parametrize(
    "preset",
    [p for p in PRESETS if p.parent.name != "base"],
    ids=lambda p: p.stem,
)
def test_a_spec_says_the_same_as_one_file(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is read: all paths are absolute."""
    for name in ("PGSEARCH_DATA", "VOC_ROOT", "COCO_ROOT"):
        monkeypatch.setenv(name, "data/of/mine")
    monkeypatch.setenv("RESNET50_WEIGHTS", "weights.safetensors")
    spec = load_spec(preset)
    sent = load_spec(write_spec(tmp_path, as_yaml(spec), preset.name))
    assert list(sent.variants) == list(spec.variants)
    for variant in spec.variant_names():
        before, after = spec.base(variant), sent.base(variant)
        for section, key in (("data", "manifest"), ("data", "root"), ("model", "weights")):
            value = before[section].get(key)
            if value not in (None, "random") and not value.startswith("torchvision:"):
                assert after[section].pop(key) == str(Path(value).absolute())
                del before[section][key]
        assert after == before
    unlike = {"data", "model", "variants"}
    assert sent.model_dump(exclude=unlike) == spec.model_dump(exclude=unlike)


def test_the_exit_code_of_a_job_is_that_of_its_run() -> None:
    def code(state: str, driver_exit_code: int | None = None) -> int | None:
        return Job("a-r1", "a", state, "", "r", "", None, None, driver_exit_code).exit_code

    assert [code(state) for state in ("PENDING", "RUNNING")] == [None, None]
    assert [code("SUCCEEDED", 0), code("FAILED", 6), code("FAILED"), code("STOPPED")] == [
        *(0, 6, 1, 75)
    ]


@pytest.fixture
def other_server() -> Iterator[str]:
    """Serve something that is no job server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_of_something_else(other_server: str) -> None:
    with pytest.raises(UsageError, match=r"no job server of Ray answers there \(HTTP 404\)"):
        JobServer(other_server)


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgsearch.jobs.SECONDS_TO_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UsageError, match=r"no job server of Ray answers there .*timed out"):
            JobServer(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("address", "message"),
    [("http://127.0.0.1:9", "ssh -L 8265:localhost:8265 HEAD"),
     ("ray://head:10001", "jobs go to the cluster's dashboard, such as http://HEAD:8265"),
     ("http://no such host:8265", "no job server of Ray answers there"),
     ("http://[::", "no job server of Ray answers there"),
     ("", "no job server of Ray answers there")],
)  # fmt: skip
def test_addresses_where_nobody_is(address: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        JobServer(address)
    assert message in str(caught.value)
