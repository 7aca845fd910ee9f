"""From facts to HTML: the templates, and how they write numbers, times and places."""

import functools
import json
import math
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from pgsearch.analysis.formats import MISSING
from pgsearch.untrusted import visible
from pgsearch.web.chart import chart
from pgsearch.web.forest import forest
from pgsearch.web.pages import FIRST_ROWS, last_line

SECONDS_PER_MINUTE: Final = 60
SECONDS_PER_HOUR: Final = 3600


@functools.cache
def templates() -> Environment:
    """Return the templates; each text in them is escaped, and a name that is not there an error."""
    environment = Environment(
        loader=PackageLoader("pgsearch.web"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "fixed": functools.partial(_number, form=".3f"),
        "short": functools.partial(_number, form=".4g"),
        "hours": hours,
        "duration": duration,
        "time": time,
        "time_text": time_text,
        "whole": lambda value: MISSING if value is None else str(value),
        "plain": plain,
        "brief": lambda value: f"{value:.3g}" if isinstance(value, float) else plain(value),
        "metric": metric,
        "breakable": breakable,
        "last_line": last_line,
        "json": json.dumps,
    }
    environment.globals |= {
        "place": chart,
        "place_differences": forest,
        "search_url": search_url,
        "trial_url": trial_url,
        "bar_height": bar_height,
    }
    return environment


def _shown(value: Any) -> Any:
    """Show controls and marks that reorder a line, which a name may hold, as escapes."""
    if type(value) is not str or value.isprintable():
        return value
    return "\n".join(map(visible, value.split("\n")))


def percent(value: float | None) -> str:
    """Return a number of [0, 1] in % with two decimals."""
    return MISSING if value is None else f"{100 * value:.2f}"


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)


def hours(value: float) -> str:
    """Return hours with three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Return a time span in its two largest units."""
    if seconds is None:
        return MISSING
    if seconds < SECONDS_PER_MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), SECONDS_PER_MINUTE)
    if seconds < SECONDS_PER_HOUR:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def time(moment: datetime | None) -> str:
    """Return a time in UTC; pages that are renewed hold no ages, which would always be new."""
    return MISSING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def time_text(text: str | None) -> str:
    """Return a time in UTC from what a claim holds, which is shown as it is if it is no time."""
    if text is None:
        return MISSING
    try:
        return time(datetime.fromisoformat(text))
    except ValueError:
        return text


def plain(value: Any) -> str:
    """Return a value of a configuration as YAML would have it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def breakable(text: str) -> Markup:
    """Return a dotted name, escaped, that may be broken after a dot or an underscore."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", text))


def metric(column: str | None) -> str:
    """Return the name of an objective: `map.validation.total` is `validation mAP total`."""
    found = re.fullmatch(r"map\.(\w+)\.(\w+)", column or "")
    return f"{found[1]} mAP {found[2]}" if found else column or MISSING


def search_url(name: str) -> str:
    """Return the path of a search's page."""
    return f"/searches/{quote(name, safe='')}"


def trial_url(name: str, number: int) -> str:
    """Return the path of a trial's page."""
    return f"{search_url(name)}/trials/{number}"


def rows_url(
    name: str,
    sort: str,
    descending: bool,
    *,
    words: str | None = None,
    limit: int = FIRST_ROWS,
    version: str | None = None,
) -> str:
    """Return the path of a leaderboard's rows; what is None comes from an input of the page."""
    query: dict[str, object] = {"sort": sort, "descending": str(descending).lower()}
    query |= {} if words is None else {"words": words}
    query |= {} if limit == FIRST_ROWS else {"limit": limit}
    query |= {} if version is None else {"version": version}
    return f"/live{search_url(name)}?{urlencode(query)}"


def bar_height(count: int, most: int, height: float) -> float:
    """Return the height of a bar on a logarithmic scale that begins below 1."""
    return round(height * math.log1p(count) / math.log1p(most), 1)
