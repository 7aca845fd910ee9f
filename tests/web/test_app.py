"""The live page as programs and attackers meet it."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pgsearch.results import EpochWriter, Ledger
from pgsearch.web import pages, reading, trial_page
from pgsearch.web.app import create_app
from tests.records import epoch_record
from tests.web.conftest import HOSTILE, Results

PAGES = ("", "/trials/0", "/tables", "/factors", "/compare", "/figures", "/about")
TOKEN = "a-secret-of-enough-letters"


class Elements(HTMLParser):
    """Every element of a page, with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    ("name", "page"),
    [*(("ablation", page) for page in PAGES), ("small", ""), ("small", "/factors"),
     ("small", "/trials/6"), ("small", "/about")],
)  # fmt: skip
def test_every_page_is_harmless_and_has_a_twin(client: TestClient, name: str, page: str) -> None:
    answer = client.get(f"/searches/{name}{page}")
    assert answer.status_code == 200
    for tag, attributes in Elements(answer.text).found:
        assert tag != "img" or (attributes["src"] or "").startswith("/searches/")
        assert tag != "script" or (attributes["src"] or "").startswith("/static/")
        assert not [a for a in attributes if a.startswith("on") or a == "style"]
        for key in ("href", "src", "hx-get"):
            target = attributes.get(key) or "/"
            assert target.startswith(("/", "#", "data:,"))
            assert not target.startswith("//")
    assert "\u202e" not in answer.text
    twin = client.get(f"/api/searches/{name}{page}")
    assert twin.status_code == 200
    assert twin.headers["content-type"] == "application/json"


def test_hostile_names_are_shown(client: TestClient) -> None:
    page = client.get("/searches/ablation").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>boom" not in client.get("/searches/small").text
    assert HOSTILE[0] in client.get("/api/searches/ablation").text  # JSON says what it is


def test_openapi_describes_every_twin(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert len(described["paths"]) == len(PAGES) + 1
    for path, methods in described["paths"].items():
        assert path.startswith("/api/")
        assert methods.keys() == {"get"}
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["$ref"].startswith("#/components/schemas/")
    assert client.get("/docs").status_code == 404


@pytest.mark.parametrize("path", ["/searches/nope", "/searches/small/trials/99",
                                  "/searches/%2e%2e", "/searches/..%2fsmall", "/nothing",
                                  "/searches/small/figures/nope.svg"])  # fmt: skip
def test_what_is_not_there_says_what_is(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 404
    assert "/searches/small" in page.text
    if not path.endswith(".svg"):
        twin = client.get(f"/api{path}")
        assert twin.status_code == 404
        assert twin.json()["searches"] == ["ablation", "small"]


def test_a_wrong_question_is_told(client: TestClient) -> None:
    page = client.get("/searches/small", params={"sort": "nope"})
    assert page.status_code == 422
    assert "validation.total" in page.text
    assert client.get("/searches/small/trials/x").status_code == 422
    assert client.get("/searches/small", params={"limit": 0}).status_code == 422
    assert client.post("/searches/small").status_code == 405


def test_an_unchanged_answer_costs_no_body(client: TestClient) -> None:
    first = client.get("/api/searches/small")
    again = client.get("/api/searches/small", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    version = first.json()["version"]
    part = client.get("/live/searches/small", params={"version": version})
    assert (part.status_code, part.content) == (204, b"")
    assert client.get("/live/searches/small", params={"version": "old"}).status_code == 200


def test_an_unchanged_search_is_not_read_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/api/searches/small")
    monkeypatch.setattr(reading, "read_search", lambda ledger: pytest.fail("was read again"))
    later(monkeypatch)
    assert client.get("/api/searches/small").status_code == 200


def test_a_new_epoch_is_seen_and_memory_is_bounded(
    results: Results, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_SEARCHES", 1)
    readings = reading.Readings(str(copied))
    before = readings.get("small")
    trial = results.unfinished.records[7]
    ledger = Ledger(copied / "small")
    spec = ledger.spec().trial(7, trial.params, seed=trial.seed)
    EpochWriter(ledger, spec, ledger.claim_attempt(7)).append(epoch_record(2, 0.9))
    assert readings.get("small") is before  # looked at a moment ago
    later(monkeypatch)
    after = readings.get("small")
    assert before.version != after.version
    (row,) = [r for r in pages.leaderboard(after).rows if r.number == 7]
    assert (row.epoch, row.validation.total) == (2, pytest.approx(0.9))
    attempts = trial_page.trial(after, 7).attempts
    assert [(a.attempt, a.first_epoch) for a in attempts] == [(1, 1), (2, 2)]
    assert attempts[1].host
    readings.get("ablation")
    assert [*readings._kept] == ["ablation"]


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(reading.time, "monotonic", lambda: now + 60)


def test_figures_are_drawn_and_have_their_numbers(client: TestClient) -> None:
    figures = client.get("/api/searches/ablation/figures").json()["figures"]
    drawn = [f["name"] for f in figures if f["reason"] is None]
    assert "probability_curves" in drawn
    assert all(f["reason"] for f in figures if f["name"] not in drawn)
    image = client.get("/searches/ablation/figures/probability_curves.svg")
    assert image.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in image.headers["content-security-policy"]
    assert b"<script" not in image.content
    numbers = client.get("/searches/ablation/figures/probability_curves.csv")
    assert len(numbers.text.splitlines()) > 4


# ---------------------------------------------------------------- who may read


@pytest.fixture
def guarded(results: Results) -> TestClient:
    app = create_app(str(results.folder), token=TOKEN, check_host=False)
    return TestClient(app, base_url="http://node7:8700")


def test_every_answer_has_the_headers(client: TestClient) -> None:
    for path in ("/", "/searches/nope", "/api/searches", "/static/style.css"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:8700"])
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/static/style.css", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8700", "127.0.0.1", "127.0.0.2:1", "[::1]:8700"])
def test_this_host_is_welcome(client: TestClient, host: str) -> None:
    assert client.get("/static/style.css", headers={"host": host}).status_code == 200


def test_nothing_is_read_without_the_token(guarded: TestClient) -> None:
    for path in (
        "/", "/searches/small", "/api/searches", "/openapi.json", "/live/searches",
        "/searches/ablation/figures/history.svg", "/?token=wrong-secret-of-letters",
    ):  # fmt: skip
        answer = guarded.get(path)
        assert answer.status_code == 401
        assert "small" not in answer.text
    refused = guarded.get("/api/searches", headers={"authorization": f"Bearer {TOKEN}x"})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"


def test_the_token_opens_as_bearer(guarded: TestClient) -> None:
    answer = guarded.get("/api/searches", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200


def test_the_token_in_the_address_becomes_a_cookie(guarded: TestClient) -> None:
    first = guarded.get(f"/searches/small?sort=number&token={TOKEN}", follow_redirects=False)
    assert first.status_code == 303
    assert first.headers["location"] == "/searches/small?sort=number"
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert guarded.get("/searches/small").status_code == 200


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/", "///evil.example"])
def test_the_redirect_stays_on_this_host(guarded: TestClient, path: str) -> None:
    location = guarded.get(
        f"http://node7:8700{path}?token={TOKEN}", follow_redirects=False
    ).headers["location"]
    assert re.match(r"/(?![/\\])", location)
