"""The server of the live page: what it listens on, who may read, how it ends."""

import contextlib
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn

from pgsearch.errors import UsageError
from pgsearch.results import Ledger
from pgsearch.web.app import create_app
from pgsearch.web.guard import is_loopback

SAFE_IN_COOKIES_AND_ADDRESSES: Final = r"[A-Za-z0-9_\-]{16,256}"
SECONDS_TO_END: Final = 2
"""For answers under way when the server is stopped."""


def serve(
    results: str,
    *,
    host: str,
    port: int,
    token: str | None,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        results: folder or URL that holds searches.
        host: address or name to listen on.
        port: 0 is any that is free.
        token: that readers must bring; None: none on the loopback, else one is made up.
        announce: is told the address, once it answers.

    Raises:
        UsageError: there is no such folder, the address cannot be had, or the token is weak.
    """
    _require_results(results)
    if token is not None and not re.fullmatch(SAFE_IN_COOKIES_AND_ADDRESSES, token):
        raise UsageError(
            f"the token has {len(token)} characters; it needs 16 to 256 letters, digits, - or _, "
            "such as python -c 'import secrets; print(secrets.token_urlsafe())' prints"
        )
    only_here = is_loopback(host)
    if token is None and not only_here:
        token = secrets.token_urlsafe(24)
    with _listen(host, port) as listener:
        app = create_app(results, token=token, check_host=only_here)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would hold the token
            timeout_graceful_shutdown=SECONDS_TO_END,
            server_header=False,
        )
        announce(f"{results} at {_url(host, listener.getsockname()[1], token)} (Ctrl-C ends it)")
        # uvicorn ends in order at a signal, and then raises it once more.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _require_results(results: str) -> None:
    if "://" not in results and not Path(results).is_dir():
        raise UsageError(
            f"there is no folder {results}; name the one that holds the searches (the --results of "
            "pgsearch run)"
        )
    if Ledger(results).exists:
        parent = results.rstrip("/").rpartition("/")[0] or "."
        raise UsageError(
            f"{results} is one search; name the folder that holds it: pgsearch serve {parent}"
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --port (0 is any "
            "that is free), or an address of this machine as --host"
        ) from None


def _url(host: str, port: int, token: str | None) -> str:
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
