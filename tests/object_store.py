"""An S3-compatible server on this machine, and a proxy before it that fails as networks do."""

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

# One request after the other: moto's own threads compare and write in two steps, so that of two
# conditional PUTs at once both may win. The store itself promises that one wins.
SERVE = """
import logging, sys
from threading import Thread
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
Thread(target=server.serve_forever, daemon=True).start()
print(server.port, flush=True)
sys.stdin.read()
"""

Fault = Literal["500", "503", "reset", "lost answer", "slow"]
FAULTS: tuple[Fault, ...] = ("500", "503", "reset", "lost answer", "slow")


def environment(port: int) -> dict[str, str]:
    """Return what points a client at a server of ours."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


@contextmanager
def s3_server(bucket: str = "bucket") -> Iterator[int]:
    """Run moto's server in a process of its own, with an empty bucket; yields its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        assert process.stdout is not None
        lines = (line for line in process.stdout if line.strip().isdigit())
        port = int(next(lines))
        put = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT")
        urllib.request.urlopen(put, timeout=20).close()
        yield port
    finally:
        process.kill()
        process.communicate()


class FlakyProxy:
    """Passes requests on to a server, and breaks those that it is told to break."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.faults: list[Fault] = []
        """What happens to the next requests, one each; the others pass."""
        self.always: Fault | None = None
        self.every: int | None = None
        """Every so many requests one fails, in each way in turn."""
        self.num_requests = 0
        self.met: list[tuple[str, str]] = []
        """Which fault met which method."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def next_fault(self) -> Fault | None:
        self.num_requests += 1
        if self.faults:
            return self.faults.pop(0)
        if self.every and self.num_requests % self.every == 0:
            return FAULTS[self.num_requests // self.every % len(FAULTS)]
        return self.always

    def __enter__(self) -> "FlakyProxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: FlakyProxy, *args: Any) -> None:
        self._proxy = proxy
        super().__init__(*args)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy = self._proxy
        fault = proxy.next_fault()
        if fault is not None:
            proxy.met.append((fault, self.command))
        if fault in ("500", "503"):
            self.answer(int(fault), [], b"")
        elif fault == "reset":
            self.reset()
        else:
            status, headers, answer = self.forward(body)
            if fault == "lost answer":  # done, but the client does not learn of it
                self.reset()
                return
            if fault == "slow":
                time.sleep(0.2)
            self.answer(status, headers, answer)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._proxy.target_port, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, response.getheaders(), answer

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        own = ("transfer-encoding", "connection", "server", "date")
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in own:
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # closing sends RST
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def finish(self) -> None:
        with suppress(OSError, ValueError):  # of a connection that was reset
            super().finish()
