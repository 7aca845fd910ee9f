"""Who may read the live page: a host's own users without a token, others with one."""

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import URL, Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-cache",
}
MONTH_SECONDS: Final = 30 * 24 * 3600

Refuse = Callable[[Scope, int, str, str], Response]


class Guard:
    """Lets a request through if it names this host and, where there is one, brings the token.

    A page of elsewhere can make a browser ask `evil.example`, whose name it then points at
    127.0.0.1 (DNS rebinding): the Host header tells. A token comes as `Authorization: Bearer`, or
    once as `?token=` and from then on as a cookie, so that it does not stay in addresses.

    Args:
        app: what is guarded.
        token: that a reader must bring; None: everybody of this machine may read.
        check_host: refuse requests to names that are not of the loopback.
        refuse: makes the answer from the request, a status, a title and a text.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, check_host: bool, refuse: Refuse
    ) -> None:
        self._app = app
        self._token = token
        self._check_host = check_host
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        """Return a refusal or a redirection; None: the request is welcome."""
        headers = Headers(scope=scope)
        if self._check_host and not is_loopback(_host_name(headers.get("host", ""))):
            return self._refuse(
                scope, 421, "Another host", "Ask for this page as http://127.0.0.1 or localhost."
            )
        if self._token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in query if key == "token"]
        if given and self._is_right(given[0]):
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            return self._remember(URL(scope=scope), rest)
        if self._is_right(_bearer(headers)) or self._is_right(self._cookie(headers)):
            return None
        refusal = self._refuse(
            scope,
            401,
            "A token is needed",
            "Open the address that pgsearch serve printed; it ends with ?token=…. Programs send "
            "the token as Authorization: Bearer.",
        )
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal

    def _remember(self, url: URL, query: str) -> Response:
        # A path alone, and never one that begins with // and so would be another host.
        path = "/" + url.path.lstrip("/")
        response = RedirectResponse(f"{path}?{query}" if query else path, status_code=303)
        response.set_cookie(
            self._cookie_name,
            self._token or "",
            max_age=MONTH_SECONDS,
            httponly=True,
            samesite="lax",  # a link in a message is to work, and nothing here changes anything
            secure=url.scheme == "https",
        )
        return response

    def _is_right(self, given: str | None) -> bool:
        token = self._token or ""
        return given is not None and hmac.compare_digest(given.encode(), token.encode())

    @property
    def _cookie_name(self) -> str:
        """Cookies know no ports: two servers of one host need names of their own."""
        return f"pgsearch-{hashlib.sha256((self._token or '').encode()).hexdigest()[:8]}"

    def _cookie(self, headers: Headers) -> str | None:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie_name)
        except CookieError:
            return None
        return None if found is None else found.value


def is_loopback(host: str) -> bool:
    """Whether a name or an address is only of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _host_name(header: str) -> str:
    """Return the host of `host:port` or `[::1]:port`."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header


def _bearer(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None
