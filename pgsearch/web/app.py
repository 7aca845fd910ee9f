"""The live page: read-only, from the ledger alone; each page has a twin in JSON under /api."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Scope

from pgsearch import __version__
from pgsearch.errors import PgsearchError, UsageError
from pgsearch.web import facts, pages, rendering, trial_page
from pgsearch.web.guard import Guard
from pgsearch.web.reading import NotThere, Readings

if TYPE_CHECKING:
    from pgsearch.web.figure_pages import Figures

STATIC: Final = Path(__file__).parent / "static"
MAX_ROWS: Final = 100_000
MAX_NUMBER: Final = 2**31
DESCRIPTION: Final = (
    "What the pages show, as JSON: read-only, from the Parquet files of the results. mAP, AP, F1 "
    "and probabilities are in [0, 1]; what is undefined or was not measured is null. Each answer "
    "has an ETag: ask again with If-None-Match, and an unchanged one is 304 without a body."
)

Sort = Annotated[
    str,
    Query(
        max_length=200,
        description=f"one of {', '.join(pages.SORT_KEYS)}; or the name of a parameter",
    ),
]
Descending = Annotated[bool, Query(description="the largest first; of ranks, the worst")]
Words = Annotated[
    str, Query(max_length=500, description="only trials that hold each of these words")
]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="of the rows")]
Number = Annotated[int, PathParameter(ge=0, le=MAX_NUMBER, description="of the trial, from 0")]
Configuration = Annotated[
    str | None, Query(max_length=64, description="configuration_id of one of `choices`")
]


def create_app(results: str, *, token: str | None = None, check_host: bool = True) -> FastAPI:
    """Return the application that serves the searches of a results folder.

    Args:
        results: folder or URL that holds searches.
        token: that readers must bring; None: everybody who reaches the server may read.
        check_host: refuse requests to names that are not of the loopback.
    """
    app = FastAPI(
        title="pgsearch",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    site = _Site(results)
    site.add_to(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_errors(app, site)
    app.add_middleware(Guard, token=token, check_host=check_host, refuse=_refusal)
    return app


class _Site:
    """The pages and their twins: the page of `/searches/NAME` is `/api/searches/NAME` as JSON."""

    def __init__(self, results: str) -> None:
        self._readings = Readings(results)

    def names(self) -> list[str]:
        """Return the searches that there are."""
        return self._readings.names()

    def add_to(self, app: FastAPI) -> None:
        """Add all routes."""
        for path, facts_of, template in (
            ("/searches", self.searches, "searches.html"),
            ("/searches/{name}", self.leaderboard, "search.html"),
            ("/searches/{name}/trials/{number}", self.trial, "trial.html"),
            ("/searches/{name}/tables", self.tables, "tables.html"),
            ("/searches/{name}/factors", self.factors, "factors.html"),
            ("/searches/{name}/compare", self.compare, "compare.html"),
            ("/searches/{name}/figures", self.figures, "figures.html"),
            ("/searches/{name}/about", self.about, "about.html"),
        ):
            app.add_api_route(
                f"/api{path}",
                _answering(facts_of, _as_json),
                response_model=inspect.signature(facts_of).return_annotation,
                operation_id=facts_of.__name__,
                summary=inspect.getdoc(facts_of),
                responses={404: {"description": "there is no such search or trial"}},
            )
            page = _answering(facts_of, functools.partial(self._as_page, template=template))
            app.add_api_route("/" if path == "/searches" else path, page, include_in_schema=False)
        for path, facts_of, template in (
            ("/live/searches", self.searches, "_searches.html"),
            ("/live/searches/{name}", self.leaderboard, "_live_board.html"),
            ("/live/searches/{name}/trials/{number}", self.trial, "_trial.html"),
        ):
            part = _answering(facts_of, functools.partial(self._as_part, template=template))
            app.add_api_route(path, part, include_in_schema=False)
        figure = "/searches/{name}/figures/{figure}"
        app.add_api_route(f"{figure}.svg", self.drawing, include_in_schema=False)
        app.add_api_route(f"{figure}.csv", self.numbers, include_in_schema=False)

    # ------------------------------------------------------------ facts

    def searches(self) -> facts.SearchList:
        """All searches of the results."""
        return pages.search_list(self._readings)

    def leaderboard(
        self,
        name: str,
        sort: Sort = "rank",
        descending: Descending = False,
        words: Words = "",
        limit: Limit = pages.FIRST_ROWS,
    ) -> facts.Leaderboard:
        """How a search stands, and its trials."""
        return pages.leaderboard(
            self._readings.get(name), sort=sort, descending=descending, words=words, limit=limit
        )

    def trial(self, name: str, number: Number) -> facts.Trial:
        """One trial: curves, classes, configuration, attempts."""
        return trial_page.trial(self._readings.get(name), number)

    def tables(self, name: str) -> facts.TablesPage:
        """Configurations over their seeds: mean and standard deviation."""
        from pgsearch.web import analysis_pages  # SciPy and Optuna: no first page waits for them

        return analysis_pages.tables(self._readings.get(name))

    def factors(self, name: str) -> facts.TablesPage:
        """What mattered: importance, effects, fixed against adaptive, head against tail."""
        from pgsearch.web import analysis_pages  # SciPy and Optuna: no first page waits for them

        return analysis_pages.factors(self._readings.get(name))

    def compare(
        self,
        name: str,
        a: Configuration = None,
        b: Configuration = None,
        split: facts.Split = "test",
    ) -> facts.ComparisonPage:
        """Two configurations, paired by seed."""
        from pgsearch.web import analysis_pages

        return analysis_pages.comparison(self._readings.get(name), a, b, split)

    def figures(self, name: str) -> facts.FiguresPage:
        """Which figures apply, and why others do not."""
        return self._figures.page(self._readings.get(name))

    def about(self, name: str) -> facts.AboutPage:
        """What was searched, what it took, what failed and what its numbers came from."""
        return pages.about(self._readings.get(name))

    @functools.cached_property
    def _figures(self) -> "Figures":
        from pgsearch.web.figure_pages import Figures  # matplotlib

        return Figures()

    # ------------------------------------------------------------ files

    def drawing(self, name: str, figure: str) -> Response:
        """Return a figure as SVG, which holds styles of its own and runs nothing."""
        data = self._figures.drawing(self._readings.get(name), figure)
        policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
        return Response(
            data, media_type="image/svg+xml", headers={"content-security-policy": policy}
        )

    def numbers(self, name: str, figure: str) -> Response:
        """Return the numbers of a figure as CSV."""
        text = self._figures.numbers(self._readings.get(name), figure)
        return Response(text, media_type="text/csv; charset=utf-8")

    # ------------------------------------------------------------ answers

    def _as_page(self, found: facts.Facts, request: Request, template: str) -> Response:
        return _tagged(request, self._html(found, request, template), HTMLResponse)

    def _as_part(self, found: facts.Facts, request: Request, template: str) -> Response:
        """Return what htmx puts into a page; 204 tells it that nothing has changed."""
        known = request.query_params.get("version")
        if known is not None and known == _version(found):
            return Response(status_code=204)
        response = HTMLResponse(self._html(found, request, template, is_part=True))
        if known is None:  # asked for by a person, not by the clock
            path = request.url.path.removeprefix("/live")
            response.headers["hx-replace-url"] = f"{path}?{request.url.query}"
        return response

    def _html(
        self, found: facts.Facts, request: Request, template: str, *, is_part: bool = False
    ) -> str:
        context: dict[str, Any] = {
            "results": self._readings.results.url,
            "version": _version(found),
            "live": True,
            "is_part": is_part,
        }
        if isinstance(found, facts.Leaderboard):
            context["limit"] = int(request.query_params.get("limit", pages.FIRST_ROWS))
            context["rows_url"] = functools.partial(rendering.rows_url, found.search.name)
        return rendering.templates().get_template(template).render(facts=found, **context)


def _answering(
    facts_of: Callable[..., facts.Facts], answer: Callable[[facts.Facts, Request], Response]
) -> Callable[..., Response]:
    """Return an endpoint that takes what `facts_of` takes, and answers with what it returns."""

    def endpoint(request: Request, **arguments: Any) -> Response:
        return answer(facts_of(**arguments), request)

    taken = inspect.signature(facts_of).parameters.values()
    request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in taken]
    endpoint.__signature__ = inspect.Signature([request, *by_name])  # type: ignore[attr-defined]
    return endpoint


def _as_json(found: facts.Facts, request: Request) -> Response:
    text = found.model_dump_json()
    return _tagged(request, text, functools.partial(Response, media_type="application/json"))


def _tagged(request: Request, text: str, answer: Callable[..., Response]) -> Response:
    """Return an answer with its ETag, or 304 where the reader has it already."""
    data = text.encode("utf-8", "backslashreplace")  # a name may hold half of a surrogate pair
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"etag": tag})
    return answer(data, headers={"etag": tag})


def _version(found: facts.Facts) -> str:
    version = getattr(found, "version", None)
    return version or hashlib.sha256(found.model_dump_json().encode()).hexdigest()[:16]


# ---------------------------------------------------------------- errors


def _add_errors(app: FastAPI, site: _Site) -> None:
    @app.exception_handler(NotThere)
    def not_there(request: Request, error: NotThere) -> Response:
        names = site.names()
        return _message(request.url.path, 404, "Not found", str(error), names)

    @app.exception_handler(UsageError)
    def misused(request: Request, error: UsageError) -> Response:
        return _message(request.url.path, 422, "Not understood", str(error))

    @app.exception_handler(PgsearchError)
    def unreadable(request: Request, error: PgsearchError) -> Response:
        return _message(request.url.path, 503, "These results cannot be read", str(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        return _message(request.url.path, 422, "Not understood", "; ".join(problems))

    @app.exception_handler(HTTPException)
    def other(request: Request, error: HTTPException) -> Response:
        title = HTTPStatus(error.status_code).phrase
        text = f"{request.url.path}: {error.detail}"
        return _message(request.url.path, error.status_code, title, text, site.names())


def _refusal(scope: Scope, status: int, title: str, text: str) -> Response:
    return _message(str(scope["path"]), status, title, text)


def _message(path: str, status: int, title: str, text: str, names: Sequence[str] = ()) -> Response:
    if path.startswith("/api/"):
        content = {"detail": text, **({"searches": list(names)} if names else {})}
        return JSONResponse(content, status_code=status)
    page = rendering.templates().get_template("message.html")
    html = page.render(title=title, text=text, names=names, status=status)
    return HTMLResponse(html, status_code=status)
