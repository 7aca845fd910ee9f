import csv
import json
from pathlib import Path

import pytest

from pgsearch.results import TrialState
from tests.analysis.made_up import MadeUp, ledger_of
from tests.cli.conftest import Run
from tests.records import grid, spec


@pytest.fixture
def results(tmp_path: Path) -> Path:
    variants = {"BCE": {"loss": {"name": "bce"}}, "<script>": {}}
    trials = [MadeUp(variant=variant) for variant in variants]
    ledger_of(tmp_path / "small", grid(variants=variants), trials)
    ledger_of(tmp_path / "new", spec(name="new"), [MadeUp(state=TrialState.RUNNING, epochs=1)])
    return tmp_path


def test_plots_go_to_a_folder_of_the_search(
    results: Path, tmp_path: Path, pgsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = pgsearch("plot", "small", "--figure", "learning_curves", "--figure", "history",
                      "--format", "png", "--format", "svg", "--results", results)  # fmt: skip
    assert result.code == 0
    folder = tmp_path / "plots" / "small"
    assert {file.name for file in folder.iterdir()} == {
        "learning_curves.png", "learning_curves.svg", "learning_curves.csv",
    }  # fmt: skip
    assert result.out.startswith("plots/small/learning_curves.png, plots/small/learning_curves.svg")
    assert "not drawn:\n  history: a grid trains what it is told" in result.out
    assert "<script" not in (folder / "learning_curves.svg").read_text()


def test_facts_as_json(results: Path, tmp_path: Path, pgsearch: Run) -> None:
    result = pgsearch("plot", "small", "new", "--figure", "pareto", "--split", "test", "--json",
                      "-o", tmp_path / "out", "--results", results)  # fmt: skip
    facts = json.loads(result.out)
    (figure,) = facts["figures"]
    assert figure["name"] == "pareto-small"
    assert figure["files"] == [str(tmp_path / "out" / f"pareto-small.{s}") for s in ("png", "csv")]
    assert all(Path(file).stat().st_size for file in figure["files"])
    assert facts["not_drawn"] == [{"name": "pareto-new", "reason": "no complete trial yet"}]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["small", "--figure", "histry"], 2, "no figure 'histry'; there are: probability_curves"),
        (["smal"], 2, "no search 'smal'"),
        (["small", "--format", "gif"], 2, "'gif' is not one of 'png', 'svg', 'pdf'"),
        (["small", "small"], 2, "two searches have one name: small, small"),
        (["small", "--figure", "pareto", "-o", "/dev/null/x"], 5, "/dev/null/x/pareto.png"),
    ],
)
def test_what_cannot_be_plotted(
    results: Path, pgsearch: Run, words: list[str], code: int, message: str
) -> None:
    result = pgsearch("plot", *words, "--results", results)
    assert result.code == code
    assert message in " ".join(result.err.replace("│", " ").split())


def test_a_damaged_file_is_named_and_left_out(results: Path, tmp_path: Path, pgsearch: Run) -> None:
    file = results / "small" / "epochs" / "00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    result = pgsearch("plot", "small", "--figure", "ap_by_count", "-o", tmp_path / "out",
                      "--results", results)  # fmt: skip
    assert result.code == 0
    assert "left out" in result.err
    assert "00001.parquet" in result.err
    numbers = csv.DictReader((tmp_path / "out" / "ap_by_count.csv").read_text().splitlines())
    assert {row["configuration"] for row in numbers} == {"BCE"}


def test_importance(results: Path, pgsearch: Run) -> None:
    result = pgsearch("importance", "small", "--metric", "test.tail", "--results", results)
    assert result.code == 0
    assert "Effect of each factor on map.test.tail in small" in result.out
    assert "no space, only variants" in result.out
    tables = json.loads(pgsearch("importance", "small", "--json", "--results", results).out)
    assert [bool(table["rows"]) for table in tables] == [False, True, False, True]
    markdown = pgsearch("importance", "small", "--format", "markdown", "--results", results).out
    assert "| factor |" in markdown
    wrong = pgsearch("importance", "small", "--metric", "mAP", "--results", results)
    assert wrong.code == 2
    assert "no column 'mAP'" in wrong.err
    nothing = pgsearch("importance", "new", "--results", results)
    assert nothing.code == 2
    assert "no complete trial in new yet" in nothing.err
