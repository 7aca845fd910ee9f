"""docs/performance.md says what the benchmarks measured."""

import json
from pathlib import Path

from benchmarks import report

ORIGIN = {
    "utc": "2026-01-02T03:04:05+00:00",
    "provenance": {"machine": "Linux, 2 CPUs", "torch": "2.0", "commit": "0123456789+changes"},
}


def test_the_document_has_the_tables_of_all_results():
    document = report.DOCUMENT.read_text()
    assert report.with_tables(document, report.HERE / "results") == document, (
        "docs/performance.md differs from benchmarks/results: run python benchmarks/report.py"
    )


def test_results_that_are_new_are_added_and_old_ones_replaced(tmp_path: Path):
    rows = [
        {"loss": "a|b", "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "target": None},
        {"loss": "c", "ratio": 2.514, "ratio_low": 2.4, "ratio_high": 1234.5, "range": [1, 2.0]},
    ]
    (tmp_path / "losses.json").write_text(json.dumps({**ORIGIN, "threads": 1, "rows": rows}))
    once = report.with_tables("# Head\n", tmp_path)
    assert once == (
        "# Head\n\n"
        "## Losses, forward and backward, as multiples of torch's BCE: pgsearch's and other "
        "libraries'\n\n"
        "<!-- table: losses -->\n"
        "| loss | ratio | range |\n"
        "| --- | --- | --- |\n"
        "| a\\|b | 1 |  |\n"
        "| c | 2.51 (2.4–1,234) | 1–2 |\n"
        "\n"
        "*2026-01-02; Linux, 2 CPUs; torch 2.0; commit 0123456 with changes; threads: 1*\n"
        "<!-- end of losses -->\n"
    )
    (tmp_path / "losses.json").write_text(json.dumps({**ORIGIN, "rows": rows[:1]}))
    again = report.with_tables(once + "after\n", tmp_path)
    assert "| c |" not in again
    assert again.endswith("<!-- end of losses -->\nafter\n")
