from pathlib import Path

import pandas as pd
import pytest

from pgsearch.analysis.formats import MISSING, Table
from pgsearch.analysis.metric import Metric, MetricColumn
from pgsearch.analysis.pivot import grouped
from pgsearch.analysis.replicates import Replicates, replicates
from pgsearch.analysis.shown import (
    configuration_table,
    crossed_table,
    grouped_table,
    leaderboard_table,
)
from pgsearch.analysis.tables import by_configuration, leaderboard
from pgsearch.results import Ledger
from tests.analysis.ledgers import SPACE, trained
from tests.records import grid, spec

TAIL = {"tail": "map.test.tail"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """4 configurations with 2 seeds; some trials fail, and some have no tail."""
    search = grid(name="a", variants={}, space=SPACE, seeds=[1, 2], training={"epochs": 1})
    return trained(tmp_path_factory.mktemp("results") / "a", search, seed=13)


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def frame_of(means: list[float], ns: list[int], n: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "search": "s", "variant": None, "label": [f"c{i}" for i in range(len(means))],
            "selected_on": None, "n": n, "seeds": 3, "trials": None,
            "tail.mean": means, "tail.std": 0.01, "tail.n": ns,
        }
    )  # fmt: skip


def found_of(ledger: Ledger, **changes: bool) -> Replicates:
    found = replicates([ledger], TAIL.values())
    return Replicates(**{**vars(found), **changes})


def test_the_best_of_a_column_is_bold(ledger: Ledger) -> None:
    rows = frame_of([0.5, 0.7, float("nan"), 0.7], [3, 3, 0, 3])
    table = configuration_table(rows, found_of(ledger), TAIL)
    assert [row[-1].bold for row in table.rows] == [False, True, False, True]
    assert [row[-1].text for row in table.rows] == ["50.00 ± 1.00", "70.00 ± 1.00", "–",
                                                    "70.00 ± 1.00"]  # fmt: skip
    assert not any(cell.bold for row in table.rows for cell in row[:-1])


def test_nothing_is_the_best_of_what_does_not_compare(ledger: Ledger) -> None:
    rows = frame_of([0.5, 0.7], [3, 3])
    mixed = configuration_table(rows, found_of(ledger, is_mixed=True), TAIL)
    assert not any(cell.bold for row in mixed.rows for cell in row)
    alone = configuration_table(rows.head(1), found_of(ledger), TAIL)
    assert not alone.rows[0][-1].bold


def test_fewer_seeds_or_numbers_are_visible(ledger: Ledger) -> None:
    rows = frame_of([0.5, 0.7], [3, 2]).assign(n=[3, 2], seeds=[3, 3])
    table = configuration_table(rows, found_of(ledger), TAIL)
    assert [row[2].text for row in table.rows] == ["3", "2 of 3"]
    assert [row[2].value for row in table.rows] == [3, 2]
    partly = configuration_table(frame_of([0.5, 0.7], [3, 2]), found_of(ledger), TAIL)
    assert [row[3].text for row in partly.rows] == ["50.00 ± 1.00", "70.00 ± 1.00 (2)"]
    assert "(k): only k of the n trials have this number" in partly.notes


def test_only_the_best_are_shown_and_the_others_counted(ledger: Ledger) -> None:
    rows = frame_of([0.1 * i for i in range(5)], [3] * 5)
    table = configuration_table(rows, found_of(ledger), TAIL, top=2)
    assert [row[1].text for row in table.rows] == ["c4", "c3"]
    assert table.notes[:2] == (
        "the highest map.test.tail first",
        "and 3 more: --top N or --format csv",
    )
    whole = configuration_table(rows, found_of(ledger), TAIL, top=5)
    assert [row[1].text for row in whole.rows] == ["c0", "c1", "c2", "c3", "c4"]


def test_titles_say_metric_split_and_epoch(ledger: Ledger) -> None:
    maps = {part: f"map.validation.{part}" for part in ("total", "tail")}
    found = replicates([ledger], maps.values(), which_epoch="best")
    table = configuration_table(by_configuration(found, maps), found, maps)
    assert table.title == (
        "mAP in % on validation after the best epoch of each trial by map.validation.total, "
        "mean ± std over n seeds"
    )
    assert table.columns == ("search", "configuration", "n", "mAP total", "mAP tail")
    others = {name: name for name in ("f1.test.micro", "loss.train")}
    found = replicates([ledger], others.values())
    table = configuration_table(by_configuration(found, others), found, others)
    assert table.columns[3:] == ("f1.test.micro in %", "loss.train")


def test_numbers_as_their_unit_asks() -> None:
    def text(column: str, value: float) -> str:
        return (
            MetricColumn(Metric(column), pd.Series([value])).cell(value, float("nan"), 1, of=1).text
        )

    assert text("map.test.tail", 0.12345) == "12.35"
    assert text("p_neg.head", 1.0) == "100.00"
    assert text("loss.train", 0.0123441) == "0.01234"
    assert text("train_seconds", 12.3456) == "12.35"
    assert text("peak_memory_bytes", 123456789.0) == "123456789"
    assert text("learning_rate", 1e-5) == "0.00001000"
    assert text("epochs", 0.0) == "0.00"


def test_groups_in_rows_and_in_columns(ledger: Ledger) -> None:
    by, across = "loss.lambda1_neg.tail", "loss.focusing.tail"
    metric = "map.validation.total"
    found = replicates([ledger], [by, across, metric])
    rows = grouped(found, [by, across], [metric])
    table = grouped_table(rows, found, [metric], by=[by, across])
    assert table.columns == (by, across, "n", "mAP total")
    crossed = crossed_table(rows, found, metric, by=[by], across=across)
    assert crossed.columns == (by, "none", "adaptive")
    flat = {(row[0], row[1]): row for row in texts(table)}
    for row in texts(crossed):
        for focusing, cell in zip(crossed.columns[1:], row[1:], strict=True):
            *_, n, mean_and_std = flat[row[0], focusing]
            assert cell == f"{mean_and_std} ({n})"
    assert {len(row[1].details) for row in crossed.rows} == {2}  # std and n


def test_a_cell_without_a_trial_is_missing(ledger: Ledger) -> None:
    by, across, metric = "loss.lambda1_neg.tail", "loss.focusing.tail", "map.validation.total"
    found = replicates([ledger], [by, across, metric])
    rows = grouped(found, [by, across], [metric]).iloc[1:]
    table = crossed_table(rows, found, metric, by=[by], across=across)
    assert table.columns == (by, "none", "adaptive")
    assert table.rows[0][1].text == MISSING
    assert table.rows[0][2].text != MISSING


def test_a_spread_over_configurations_is_said(ledger: Ledger) -> None:
    found = replicates([ledger], ["seed", "map.test.total"])
    table = grouped_table(
        grouped(found, ["seed"], ["map.test.total"]), found, ["map.test.total"], by=["seed"]
    )
    assert (
        "a std is over all trials of its group: over seeds and over configurations" in table.notes
    )


def test_a_training_that_two_searches_share_counts_once_and_is_said(tmp_path: Path) -> None:
    names = ("one", "two")
    both = [trained(tmp_path / name, grid(name=name, training={"epochs": 1})) for name in names]
    found = replicates(both, ["variant", "map.test.total"])
    rows = grouped(found, ["variant"], ["map.test.total"])
    table = grouped_table(rows, found, ["map.test.total"], by=["variant"])
    assert [row[1].value for row in table.rows] == [1, 1]
    assert "left out: 2 that repeat a configuration and seed of another search" in table.notes


def test_the_leaderboard_of_one_and_of_several(ledger: Ledger, tmp_path: Path) -> None:
    board = leaderboard(ledger)
    table = leaderboard_table({"a": board}, {"a": ledger.spec()})
    assert table.columns[:4] == ("trial", "state", "seed", "epoch")
    assert [row[0].value for row in table.rows] == board["number"].tolist()
    other = trained(tmp_path / "b", spec(name="b", trials=3, training={"epochs": 1}), seed=1)
    both = leaderboard_table(
        {"a": board, "b": leaderboard(other)}, {"a": ledger.spec(), "b": other.spec()}, top=2
    )
    assert [row[0].text for row in both.rows] == ["a", "a", "b", "b"]
    assert both.notes == (
        "and 6 more of a: --top N or --format csv",
        "and 1 more of b: --top N or --format csv",
    )
