"""`pgsearch table` as a user calls it."""

import csv
import io
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pgsearch.config import flatten
from pgsearch.results import Ledger, TrialRecord, TrialState
from pgsearch.results.rows import as_parquet, as_table, epoch_row, trial_row
from pgsearch.results.schema import epoch_schema, trial_schema
from tests.analysis.ledgers import SPACE, record, trained
from tests.analysis.test_formats import Reader
from tests.cli.conftest import Run
from tests.records import grid, spec

VARIANT = "<script>alert(1)</script>=cmd|' /C calc'!A0 a_b&c%"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of hostile names, a grid of two factors, and a search."""
    folder = tmp_path_factory.mktemp("results")
    variants = {VARIANT: {"loss": {"name": "bce"}}, "=1+1": {}}
    short = {"epochs": 2}
    trained(folder / "names", grid(name="names", variants=variants, seeds=[1, 2], training=short))
    two = grid(name="two", variants={}, space=SPACE, seeds=[1, 2], training=short)
    trained(folder / "two", two, seed=2)
    trained(folder / "found", spec(name="found", trials=4, training=short), seed=3)
    return folder


@pytest.fixture
def table(pgsearch: Run, results: Path) -> Run:
    def run(*words: object):
        return pgsearch("table", *words, "--results", results)

    return run


def test_the_terminal_shows_numbers_and_what_to_know(table: Run) -> None:
    result = table("two", "found")
    assert result.code == 0
    assert "mAP in % on test after the last epoch, mean ± std over n seeds" in result.out
    assert "the configurations of found were chosen by map.validation.total" in result.out
    assert "two: a grid, so nothing chose its configurations" in result.out
    assert "focusing=none" in result.out


def test_every_format_shows_hostile_names_and_runs_none(table: Run) -> None:
    assert VARIANT in table("names").out.replace("\n", " ") or "<script>" in table("names").out
    html = Reader(table("names", "--format", "html").out)
    assert "script" not in html.elements
    assert VARIANT in html.cells
    names = [row[1] for row in csv.reader(io.StringIO(table("names", "--format", "csv").out))]
    assert names == ["configuration", VARIANT, "'=1+1"]
    rows = json.loads(table("names", "--format", "json").out)["rows"]
    assert [row["configuration"] for row in rows] == [VARIANT, "=1+1"]
    latex = table("names", "--format", "latex").out
    assert r"$<$script$>$alert(1)$<$/script$>$=cmd$|$' /C calc'!A0 a\_b\&c\%" in latex
    assert r"\<script\>" in table("names", "--format", "markdown").out


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("t.md", "mAP in %"),
        ("t.tex", r"\begin{table}"),
        ("t.csv", '"search"'),
        ("t.html", "<table>"),
        ("t.json", '{"title"'),
    ],
)
def test_a_file_is_of_the_format_that_its_name_says(
    table: Run, tmp_path: Path, name: str, begins: str
) -> None:
    result = table("two", "--output", tmp_path / "deep" / name)
    assert (result.code, result.out) == (0, "")
    text = (tmp_path / "deep" / name).read_text(encoding="utf-8")
    assert text.startswith(begins)
    assert ("mAP in %" in result.err) == name.endswith(".csv")  # CSV holds no title and no notes


def test_csv_reads_as_pandas_wants_it(table: Run) -> None:
    result = table("two", "--format", "csv")
    frame = pd.read_csv(io.StringIO(result.out))
    rows = json.loads(table("two", "--json").out)
    assert len(frame) == len(rows) == 4
    assert frame["mAP total"].tolist() == pytest.approx([100 * r["total.mean"] for r in rows])
    stds = [float("nan") if r["total.std"] is None else 100 * r["total.std"] for r in rows]
    assert frame["mAP total std"].tolist() == pytest.approx(stds, nan_ok=True)
    assert "two: a grid" in result.err


def test_any_setting_makes_rows_or_columns(table: Run, results: Path) -> None:
    result = table("two", "--by", "λ1-.tail", "--columns", "focusing.tail", "--metric",
                   "validation.tail", "--format", "csv")  # fmt: skip
    found = pd.read_csv(io.StringIO(result.out)).set_index("loss.lambda1_neg.tail")
    epochs = pd.read_parquet(results / "two" / "epochs")
    trials = pd.read_parquet(results / "two" / "trials")
    complete = trials.loc[trials["state"] == "COMPLETE", "number"]
    last = epochs[(epochs["epoch"] == 2) & epochs["number"].isin(complete)]
    for factor in (1.0, 2.5):
        for focusing in ("none", "adaptive"):
            one = last[last["loss.lambda1_neg.tail"] == factor]
            values = one.loc[one["loss.focusing.tail"] == focusing, "map.validation.tail"]
            assert found.loc[factor, focusing] == pytest.approx(100 * values.mean())
            assert found.loc[factor, f"{focusing} n"] == len(values)


def test_rows_by_several_columns(table: Run) -> None:
    words = ["two", "--by", "focusing.tail,seed", "--by", "loss", "--metric", "loss.train"]
    rows = json.loads(table(*words, "--format", "json").out)["rows"]
    assert list(rows[0])[:5] == ["loss.focusing.tail", "seed", "loss.name", "n", "loss.train"]
    assert {row["seed"] for row in rows} == {1, 2}


def test_conditions(table: Run) -> None:
    rows = json.loads(table("two", "--where", "focusing.tail=none", "--json").out)
    assert [row["label"] for row in rows] == [
        "focusing=none λ1-.tail=1",
        "focusing=none λ1-.tail=2.5",
    ]
    both = table("two", "--where", "focusing.tail=none", "--where", "λ1-.tail>2", "--json")
    assert len(json.loads(both.out)) == 1


def test_the_best_epoch_is_said(table: Run) -> None:
    result = table("two", "--epoch", "best", "--split", "validation")
    assert "after the best epoch of each trial by map.validation.total" in result.out.replace(
        "\n", " "
    )
    assert "these numbers are too good" in result.out


def test_the_leaderboard_in_every_format(table: Run, results: Path) -> None:
    rows = json.loads(table("found", "--leaderboard", "--json").out)
    values = [row["value"] for row in rows if row["value"] is not None]
    assert values == sorted(values, reverse=True)
    frame = pd.read_csv(io.StringIO(table("found", "--leaderboard", "--format", "csv").out))
    assert frame["trial"].tolist() == [row["number"] for row in rows]
    top = table("found", "--leaderboard", "--top", "1")
    assert "and 3 more: --top N or --format csv" in top.out
    both = table("found", "two", "--leaderboard", "--top", "1", "--format", "json")
    assert [row["search"] for row in json.loads(both.out)["rows"]] == ["found", "two"]


def test_beside_the_paper(table: Run, results: Path) -> None:
    trained(
        results / "t5", grid(name="t5", variants={"APAF": {}, "other": {}}, training={"epochs": 1})
    )
    result = table("t5", "--paper", "5", "--paper-dataset", "voc-lt", "--format", "csv")
    frame = pd.read_csv(io.StringIO(result.out)).set_index("method")
    assert frame.index.tolist() == ["Focal", "APAF", "APR + Focal", "APR + APAF", "other"]
    assert frame.loc["APAF", "total paper"] == 76.77
    ours = frame.loc["APAF", "total"]
    assert frame.loc["APAF", "total Δ"] == pytest.approx(ours - 76.77, nan_ok=True)
    assert "the data set is not VOC-LT" in result.err
    assert table("t5", "--paper", "5").code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["two", "--by", "lambda1_neg"], "'lambda1_neg' has several values"),
        (["two", "--metric", "test.tial"], "did you mean map.test.tail"),
        (["two", "--columns", "seed"], "--columns goes with --by"),
        (["two", "--by", "seed", "--columns", "seed"], "a column is named twice"),
        (["two", "--by", "train_seconds", "--metric", "train_seconds"], "a column is named twice"),
        (["two", "--by", "seed", "--columns", "loss", "--metric", "test.tail", "--metric",
          "test.head"], "--columns goes with one --metric, not 2"),
        (["two", "--by", "seed", "--columns", "loss", "--top", "2"], "goes without --top"),
        (["two", "--leaderboard", "--by", "seed"], "--leaderboard goes without --by"),
        (["two", "--leaderboard", "--epoch", "best"], "--leaderboard goes without --epoch"),
        (["two", "--paper", "2", "--split", "validation"], "--paper goes without --split"),
        (["two", "--paper", "2"], "say whose published rows to show with --paper-dataset"),
        (["two", "--paper-dataset", "voc-lt"], "--paper-dataset goes with --paper"),
        (["two", "--metric", "test.tail", "--split", "test"], "--metric goes without --split"),
        (["two", "--where", "seed"], "is no condition"),
        (["two", "two"], "is named 2 times"),
        (["two", "--json", "--format", "csv"], "--json prints the rows alone"),
        (["two", "--output", "table.docx"], "how to write it? end it in .md, .tex"),
        (["two", "--output", "t.md", "--format", "terminal"], "how to write it?"),
        (["two", "--output", "/dev/null/t.md"], "cannot be written"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_go_is_one_message(table: Run, words: list[str], message: str) -> None:
    result = table(*words)
    assert result.code == 2
    assert message in result.err
    assert result.out == ""
    assert len(result.err.splitlines()) == 1


def test_a_damaged_part_is_named(table: Run, results: Path) -> None:
    trained(results / "hurt", grid(name="hurt", training={"epochs": 1}), seed=2)
    file = results / "hurt" / "epochs" / "00000.parquet"
    file.write_bytes(file.read_bytes()[:-9] + b"different")
    result = table("hurt")
    assert result.code == 0
    assert "00000.parquet: damaged" in result.err
    assert "left out of hurt: 1 COMPLETE without epochs" in result.out


def test_a_terminal_shows_the_best_of_many_and_a_file_all(
    table: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsearch.cli.table.ROWS_OF_A_TERMINAL", 3)
    text = table("two").out
    assert "the highest map.test.total first" in text
    assert "and 1 more: --top N or --format csv" in text
    assert len(table("two", "--format", "csv").out.splitlines()) == 1 + 4
    assert len(table("two", "--top", "1", "--format", "csv").out.splitlines()) == 1 + 1
    assert "more: --top" not in table("two", "--top", "4").out
    assert len(json.loads(table("two", "--json").out)) == 4
    assert len(json.loads(table("found", "--leaderboard", "--json").out)) == 4
    best = json.loads(table("two", "--top", "1", "--json").out)
    assert len(best) == 1
    assert best[0]["total.mean"] == max(
        row["total.mean"] for row in json.loads(table("two", "--json").out)
    )


@pytest.mark.slow
def test_two_thousand_trials_are_shown_at_once(tmp_path: Path) -> None:
    """2,000 trials of 8 epochs in under 1.5 s of a fresh process, once they have been read."""
    search = spec(name="big", trials=2000, training={"epochs": 8})
    ledger = Ledger(tmp_path / "big")
    ledger.begin(search)
    first = search.trial(0, {})
    rng = random.Random(0)
    for number in range(2000):
        same = {"number": number, "configuration_id": f"{number:016x}"}
        epochs = [
            {**epoch_row(record(e, rng, tested=True, fingerprint="x"), first, 1), **same}
            for e in range(1, 9)
        ]
        trial = TrialRecord(
            number=number, uid=f"big-{number:05d}", state=TrialState.COMPLETE, seed=0, variant=None,
            configuration_id=same["configuration_id"], params={"loss.lambda0": rng.random()},
            values=[epochs[-1]["map.validation.total"]], configuration=flatten(first.configuration),
        )  # fmt: skip
        for kind, rows, schema in (
            ("epochs", epochs, epoch_schema()),
            ("trials", [trial_row(trial, "big")], trial_schema()),
        ):
            file = tmp_path / "big" / kind / f"{number:05d}.parquet"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(as_parquet(as_table(rows, schema)))
    command = [sys.executable, "-m", "pgsearch.cli", "table", "big", "--results", str(tmp_path)]
    env = {**os.environ, "PGSEARCH_CACHE": str(tmp_path / "cache")}
    seconds = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of the processor: on an idle machine it is the time that passes, on a busy one the same.
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert result.returncode == 0, result.stderr
        assert "and 1,950 more: --top N or --format csv" in result.stdout
    assert min(seconds[1:]) < 1.5, seconds
