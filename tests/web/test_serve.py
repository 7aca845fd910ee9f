"""`pgsearch serve` as a command."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from pgsearch.errors import UsageError
from pgsearch.web.serve import serve
from tests.web.conftest import Results


def refused(results: object, **options: object) -> str:
    said: list[str] = []
    given = {"host": "127.0.0.1", "port": 0, "token": None, "announce": said.append, **options}
    with pytest.raises(UsageError) as caught:
        serve(str(results), **given)  # type: ignore[arg-type]
    assert said == []
    return str(caught.value)


def test_a_port_in_use_is_one_clear_error(results: Results) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refused(results.folder, port=port)


def test_a_host_that_is_not_ours(results: Results) -> None:
    assert "cannot listen on 192.0.2.1" in refused(results.folder, host="192.0.2.1")


@pytest.mark.parametrize("token", ["", "short", "sixteen letters!", "x" * 15, "ü" * 20])
def test_a_weak_token(results: Results, token: str) -> None:
    assert "16 to 256" in refused(results.folder, token=token)


def test_no_results(results: Results, tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "nothing")
    assert f"pgsearch serve {results.folder}" in refused(results.folder / "small")


@pytest.mark.slow
def test_it_serves_with_a_token_elsewhere_and_ends_at_ctrl_c(results: Results) -> None:
    command = [sys.executable, "-m", "pgsearch.cli", "serve", str(results.folder)]
    process = subprocess.Popen(
        [*command, "--host", "0.0.0.0", "--port", "0"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)/\?token=([\w-]{32})", said)
        assert found, said
        base = f"http://127.0.0.1:{found[1]}"
        assert httpx.get(f"{base}/api/searches").status_code == 401
        bearer = {"authorization": f"Bearer {found[2]}"}
        assert len(httpx.get(f"{base}/api/searches", headers=bearer).json()["searches"]) == 2
    finally:
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""
    assert found[2] not in out
