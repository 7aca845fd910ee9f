"""Pages and report in a real browser, as people use them: pytest -m browser."""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.search.searches import SPEC, Search
from tests.web.conftest import HOSTILE, Results
from tests.web.test_app import PAGES

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not there")

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install it, or name it in the environment variable CHROMIUM")
    with playwright_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS])
        yield started
        started.close()


@dataclass
class Watched:
    """A page, with what went wrong in it."""

    page: Any
    home: str
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        def requested(request: Any) -> None:
            if not request.url.startswith((self.home, "data:", "blob:")):
                self.problems.append(f"asked for {request.url}")

        self.page.on("request", requested)
        self.page.on("console", lambda m: self.problems.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on(
            "dialog", lambda d: (self.problems.append(f"dialog: {d.message}"), d.dismiss())
        )

    def go(self, path: str) -> Any:
        self.page.goto(f"{self.home}{path}")
        return self.page


Open = Callable[..., Watched]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open pages at an address; whatever happens in them but what was asked for is a failure."""
    opened: list[tuple[Any, Watched]] = []

    def open_at(home: str, *, viewport: Any = None, scheme: str = "light") -> Watched:
        context = browser.new_context(viewport=viewport or DESKTOP, color_scheme=scheme)
        watched = Watched(context.new_page(), home)
        watched.watch()
        opened.append((context, watched))
        return watched

    yield open_at
    for context, watched in opened:
        context.close()
        assert watched.problems == []


@pytest.fixture(scope="module")
def served() -> Iterator[Callable[[Path], str]]:
    """Serve folders, each at an address of its own."""
    from pgsearch.web.app import create_app

    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(folder: Path) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(str(folder)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def home(results: Results, served: Callable[[Path], str]) -> str:
    return served(results.folder)


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> str:
    from pgsearch.results import Ledger
    from pgsearch.web.report import report as report_of

    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_of([Ledger(results.folder / n) for n in ("small", "ablation")]))
    return file.as_uri()


def column(page: Any, index: int, table: str = "table") -> list[str]:
    """The texts of a column, of the rows that are shown."""
    return page.eval_on_selector_all(
        f"{table} tbody tr:not([hidden]) > :nth-child({index})",
        "cells => cells.map(c => c.innerText)",
    )


def is_too_wide(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_fits_and_is_accessible(
    open_page: Open, home: str, report: str, viewport: Any, scheme: str
) -> None:
    paths = ["/", "/searches/nope"]
    paths += [f"/searches/{name}{page}" for name in ("small", "ablation") for page in PAGES]
    watched = open_page(home, viewport=viewport, scheme=scheme)
    offline = open_page(report, viewport=viewport, scheme=scheme)
    for page in (*(lambda p=path: watched.go(p) for path in paths), lambda: offline.go("")):
        shown = page()
        shown.wait_for_load_state("networkidle")
        assert not is_too_wide(shown), shown.url
        found = axe_api.Axe().run(shown).response["violations"]
        bad = [v for v in found if v["impact"] in ("serious", "critical")]
        assert bad == [], (shown.url, [(v["id"], v["nodes"][0]["html"]) for v in bad])
    watched.problems = [p for p in watched.problems if "404 (Not Found)" not in p]


def test_dark_is_dark(open_page: Open, home: str) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = open_page(home, scheme=scheme).go("/searches/small")
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_sort_and_filter_of_the_live_page(open_page: Open, home: str) -> None:
    page = open_page(home).go("/searches/small")
    page.evaluate("window.isSamePage = true")
    page.click("#sort-number")
    page.wait_for_selector("th[aria-sort=ascending] #sort-number")
    assert column(page, 2) == [str(n) for n in range(8)]
    page.click("#sort-number")
    page.wait_for_selector("th[aria-sort=descending] #sort-number")
    assert column(page, 2) == [str(n) for n in reversed(range(8))]
    page.fill("#words", "pruned")
    playwright_api.expect(page.locator("tbody tr")).to_have_count(3)
    assert column(page, 2) == sorted(column(page, 2), reverse=True)  # still sorted
    assert "words=pruned" in page.url
    page.reload()
    assert len(column(page, 2)) == 3
    page.fill("#words", "nothing like that")
    page.wait_for_selector("text=No trial matches.")


def test_sort_and_filter_of_the_report(open_page: Open, report: str) -> None:
    page = open_page(report).go("")
    board = "#board-1"
    page.click(f"{board} thead tr:last-child th:nth-child(13) button")  # tail on test
    values = column(page, 13, board)
    numbers = [float(v) for v in values if v != "–"]
    assert numbers == sorted(numbers, reverse=True)
    assert values[: len(numbers)] == [v for v in values if v != "–"]
    page.fill(f"{board}-filter", "pruned")
    assert set(column(page, 3, board)) == {"pruned"}
    assert page.inner_text(f"{board}-count") == "3 of 8 shown"


def test_the_keyboard_is_enough(open_page: Open, home: str) -> None:
    page = open_page(home).go("/searches/small")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        if seen[-1] == "sort-test.tail":
            break
    assert seen.index("words") < seen.index("sort-rank") < len(seen) - 1
    page.keyboard.press("Enter")
    page.wait_for_selector("th[aria-sort=descending]")
    assert page.evaluate("document.activeElement.id") == seen[-1]  # the focus is not lost
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_values_of_a_chart_by_pointer_and_arrows(open_page: Open, home: str) -> None:
    page = open_page(home).go("/searches/ablation/trials/0")
    plot = page.locator(".chart svg.plot").first
    at, value = page.locator(".chart .at").first, page.locator(".chart output").first
    resting = value.inner_text()
    plot.focus()
    page.keyboard.press("Home")
    assert at.inner_text() == "epoch 1"
    assert value.inner_text() == "12.50"
    page.keyboard.press("ArrowRight")
    assert (at.inner_text(), value.inner_text()) == ("epoch 2", "25.00")
    page.keyboard.press("Tab")
    assert value.inner_text() == resting
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 20)
    assert at.inner_text() == "epoch 4"


def test_hostile_names_show_as_they_are(open_page: Open, home: str, report: str) -> None:
    page = open_page(home).go("/searches/ablation")
    assert HOSTILE[0] in page.inner_text("main")
    assert page.locator("main img, main script").count() == 0
    page = open_page(report).go("")
    assert HOSTILE[1] in page.inner_text("main")
    page.wait_for_timeout(300)  # what would run, would by now; a dialog is a problem


def test_a_damaged_file_is_named(
    open_page: Open, copied: Path, served: Callable[[Path], str]
) -> None:
    (copied / "small" / "epochs" / "00001.parquet").write_bytes(b"PAR1")
    page = open_page(served(copied)).go("/searches/small")
    assert "00001.parquet" in page.inner_text(".notice")


@pytest.mark.ray
def test_the_leaderboard_follows_a_running_search(
    open_page: Open, tmp_path: Path, served: Callable[[Path], str]
) -> None:
    long = SPEC.replace("iterations_per_epoch: 12", "iterations_per_epoch: 90")
    assert long != SPEC
    # It takes several looks of the page, on a fast machine too.
    search = Search(tmp_path, long.replace("trials: 5", "trials: 3"))
    process = search.start()
    try:
        search.wait_for_epochs(1, process)
        page = open_page(served(tmp_path / "results")).go("/searches/small")
        page.evaluate("window.isSamePage = true")
        page.focus("#words")
        seen = set()
        deadline = 240
        while process.poll() is None and deadline > 0:
            seen.add(tuple(column(page, 5)))
            page.wait_for_timeout(500)
            deadline -= 0.5
        ended = page.locator("tbody .state.COMPLETE")
        playwright_api.expect(ended).to_have_count(3, timeout=30_000)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert len(seen) >= 3  # epochs came in while we looked
    assert page.evaluate("window.isSamePage")  # without a reload
    assert page.evaluate("document.activeElement.id") == "words"  # and under the reader's hands
    shown = dict(zip(map(int, column(page, 2)), column(page, 6), strict=True))
    epochs = search.epochs()
    for number, rows in epochs.groupby("number"):
        last = rows.sort_values("epoch").iloc[-1]
        assert shown[number] == f"{100 * last['map.validation.total']:.2f}"
