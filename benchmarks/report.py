"""The tables of docs/performance.md, made of the results of the benchmarks.

python benchmarks/report.py

A table stands between two comments that name its benchmark, `<!-- table: NAME -->` and
`<!-- end of NAME -->`, and is that of benchmarks/results/NAME.json: `{"utc", "provenance", "rows",
...}`, where the rows are mappings of one level. Results that the document has no place for are
added at its end, under the first sentence of benchmarks/NAME.py. The prose around is the author's.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "performance.md"
QUARTILES = ("_low", "_high")


def main() -> None:
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), HERE / "results"))


def with_tables(document: str, results: Path) -> str:
    """Return the document with the tables of all results, each in its place."""
    for path in sorted(results.glob("*.json")):
        start, end = f"<!-- table: {path.stem} -->", f"<!-- end of {path.stem} -->"
        table = f"{start}\n{table_of(json.loads(path.read_text()))}\n{end}"
        place = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        if place.search(document):
            document = place.sub(lambda _, table=table: table, document)  # type: ignore[misc]
        else:
            document = f"{document.rstrip()}\n\n## {title_of(path.stem)}\n\n{table}\n"
    return document


def title_of(benchmark: str) -> str:
    """Return the first sentence of a benchmark's own description."""
    text = ast.get_docstring(ast.parse((HERE / f"{benchmark}.py").read_text())) or benchmark
    return text.partition("\n")[0].rstrip(".")


def table_of(report: Mapping[str, Any]) -> str:
    """Return a Markdown table of the rows, and a line of what holds for all of them."""
    rows: Sequence[Mapping[str, Any]] = report["rows"]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    shown = [key for key in keys if not is_quartile(key, keys)]
    shown = [key for key in shown if any(row.get(key) is not None for row in rows)]
    lines = [shown_row(key.replace("_", " ") for key in shown), shown_row("---" for _ in shown)]
    lines += [shown_row(cell(row, key) for key in shown) for row in rows]
    return "\n".join([*lines, "", f"*{origin(report)}*"])


def is_quartile(key: str, keys: Sequence[str]) -> bool:
    return any(key.endswith(end) and key.removesuffix(end) in keys for end in QUARTILES)


def shown_row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    low, high = (row.get(f"{key}{end}") for end in QUARTILES)
    if value is None:
        return ""
    if low is None or high is None or low == value == high:
        return text_of(value)
    return f"{text_of(value)} ({text_of(low)}–{text_of(high)})"


def text_of(value: Any) -> str:
    """Return a number with three digits, and anything else as one cell can show it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text_of(v)}" for key, v in value.items()) or "none"
    if isinstance(value, list):
        return "–".join(text_of(v) for v in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def origin(report: Mapping[str, Any]) -> str:
    ran = report["provenance"]
    others = {k: v for k, v in report.items() if k not in ("utc", "provenance", "rows")}
    where = [report["utc"][:10], ran["machine"]]
    where += [ran["processor"]] if "processor" in ran else []
    where += [f"torch {ran['torch']}", f"commit {ran['commit'][:7]}"]
    if ran["commit"].endswith("+changes"):
        where[-1] += " with changes"
    return "; ".join([*where, *(f"{k.replace('_', ' ')}: {text_of(v)}" for k, v in others.items())])


if __name__ == "__main__":
    main()
