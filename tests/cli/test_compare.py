"""`pgsearch compare` and what `pgsearch confirm` shows without training."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from pgsearch.config import parse_spec
from pgsearch.results import Ledger
from pgsearch.search.confirm import plan_confirmation
from tests.analysis.test_compare import record_of
from tests.cli.conftest import Run
from tests.ledgers import write_ledger
from tests.records import grid

HOSTILE = "<script>alert(1)</script>=cmd|a_b&c%[/red]"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    variants = {"BCE": {"loss": {"name": "bce"}}, "PG": {}, HOSTILE: {"loss": {"kappa": 0.0}}}
    write_ledger(folder, grid(seeds=[1, 2, 3], variants=variants), record_of)
    return folder


@pytest.fixture
def compare(pgsearch: Run, results: Path) -> Run:
    return lambda *words: pgsearch("compare", *words, "--results", results)


def test_a_table_on_a_terminal(compare: Run) -> None:
    result = compare("small:BCE", "small:PG", "--per-class")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].rstrip() == (
        "mAP against small:BCE, on test after the last epoch, in %, paired by seed"
    )
    (total,) = [line.split() for line in lines if line.split()[:2] == ["small:PG", "total"]]
    assert total[2] == "3"
    assert total[5].startswith("+")
    assert "AP per class against small:BCE" in result.out
    assert "total: Wilcoxon's p of 3 pairs is 0.25 or more, so no data" in result.out


def test_numbers_for_programs(compare: Run) -> None:
    facts = json.loads(compare("small:BCE", "small:PG", "--json").out)
    contrast = facts["contrasts"][1]
    assert (contrast["over"], contrast["other"]) == ("head", "small:PG")
    assert contrast["difference"]["mean"] == pytest.approx(0.04)
    result = compare("small:BCE", "small:PG", "--format", "csv")
    (row,) = [r for r in csv.DictReader(io.StringIO(result.out)) if r["part"] == "head"]
    assert float(row["difference"]) == pytest.approx(4)  # in %, as its heading says
    assert "pairs of seeds 1, 2, 3" in result.err
    tables = compare("small:BCE", "small:PG", "--format", "json", "--per-class").out.splitlines()
    assert [len(json.loads(table)["rows"]) for table in tables] == [4, 3]


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".md", "mAP"), (".tex", "\\begin{table}"), (".html", "<table>")]
)
def test_files(compare: Run, tmp_path: Path, suffix: str, begins: str) -> None:
    file = tmp_path / "new" / f"table{suffix}"
    result = compare("small:BCE", f"small:{HOSTILE}", "--per-class", "-o", file)
    assert (result.code, result.out) == (0, ""), result.err
    text = file.read_text()
    assert text.startswith(begins)
    assert text.count("AP per class") == 1
    assert "<script>" not in text.replace(r"\<script\>", "")


def test_hostile_names_show_as_they_are(compare: Run) -> None:
    result = compare("small:BCE", "small:6")
    assert result.code == 0
    assert "[/red]" in result.out
    rows = list(csv.reader(io.StringIO(compare("small:BCE", "small:6", "--format", "csv").out)))
    assert rows[1][0].endswith(HOSTILE)


@pytest.mark.parametrize(
    ("words", "message"),
    [(("small:BCE",), "name at least one more"),
     (("small:BCE", "small:XX"), "no variant 'XX'"),
     (("small", "small:PG"), "small means several configurations"),
     (("small:BCE", "small:PG", "--confidence", "95"), "--confidence 95: it lies between 0 and 1"),
     (("small:BCE", "small:PG", "-o", "table.pdf"), "how to write it"),
     (("small:BCE", "small:PG", "small:3"), "got small:BCE, small:PG, small:PG")],
)  # fmt: skip
def test_errors(compare: Run, words: tuple[str, ...], message: str) -> None:
    result = compare(*words)
    assert result.code == 2
    assert result.out == ""
    assert message in " ".join(result.err.split())


def test_the_plan_of_a_confirmation(pgsearch: Run, results: Path) -> None:
    words = ("confirm", "small", "--against", "small:BCE", "--top", 1, "--seeds", 2, "--dry-run")
    result = pgsearch(*words, "--results", results)
    assert result.code == 0, result.err
    assert "# 4 trials: 2 configurations with 2 seeds;" in result.out
    # Each made-up trial took 2.5 seconds.
    assert "hours of trials, 2 s each" in result.out
    source = Ledger(results / "small")
    plan = plan_confirmation(source, "small:BCE", top=1, num_seeds=2, name="small_confirm")
    assert parse_spec(yaml.safe_load(result.out), "x") == plan.spec
    facts = json.loads(pgsearch(*words, "--json", "--results", results).out)
    assert facts["trials"] == 4
    assert facts["trial_hours"] == pytest.approx(4 * 2.5 / 3600, abs=1e-3)
    assert [path.name for path in results.iterdir()] == ["small"]


def test_a_confirmation_of_another_plan_is_refused(pgsearch: Run, results: Path) -> None:
    other = Ledger(results / "other_confirm")
    other.begin(grid(name="other_confirm", seeds=[4]))
    words = ("confirm", "small", "--against", "bce", "--top", 1, "--results", results)
    result = pgsearch(*words, "--name", "other_confirm")
    assert result.code == 3
    assert "BCE; PG; with seeds 4 were begun" in result.err
    assert "baseline bce; top 1, trial 3; with seeds 4, 5, 6, 7, 8 are asked for" in result.err
    assert "or begin another with --name" in result.err


def test_a_confirmation_that_has_ended_is_only_shown(pgsearch: Run, tmp_path: Path) -> None:
    """Without Ray, data and training; and the same for programs."""
    write_ledger(tmp_path, grid(seeds=[1, 2]), record_of)
    plan = plan_confirmation(
        Ledger(tmp_path / "small"), "bce", top=1, num_seeds=3, name="small_confirm"
    )
    write_ledger(tmp_path, plan.spec, record_of)
    words = ("confirm", "small", "--against", "bce", "--top", 1, "--seeds", 3)
    result = pgsearch(*words, "--results", tmp_path)
    assert result.code == 0, result.err
    assert result.err == ""
    assert "Optimism of the selection: mAP total on validation, in %" in result.out
    assert "trial 2 against the baseline bce, on test: +" in result.out
    other = pgsearch(*words[:2], "--against", "focal", *words[4:], "--results", tmp_path)
    assert (other.code, "baseline focal; top 1, trial 2" in other.err) == (3, True)
    facts = json.loads(pgsearch(*words, "--json", "--results", tmp_path).out)
    assert facts["optimism"][0]["n"] == 3
    assert facts["comparison"]["reference"] == "baseline bce"
    assert len(facts["conclusion"]) >= 3
    assert "the baseline bce has its default settings" in facts["conclusion"][-1]
    write_ledger(tmp_path, grid(name="other", seeds=[1, 2]), record_of)
    names = ("--against", "other:BCE", "--name", "searched")
    searched = plan_confirmation(
        Ledger(tmp_path / "small"), "other:BCE", top=1, num_seeds=3, name="searched"
    )
    write_ledger(tmp_path, searched.spec, record_of)
    result = pgsearch(*words[:2], *names, *words[4:], "--results", tmp_path)
    assert result.code == 0, result.err
    assert "default settings" not in result.out
