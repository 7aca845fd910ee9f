"""Means of tables, against plain loops over the raw Parquet."""

import functools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pgsearch.analysis.caveats import caveats
from pgsearch.analysis.columns import parse_condition
from pgsearch.analysis.metric import Metric
from pgsearch.analysis.pivot import grouped
from pgsearch.analysis.replicates import Replicates, replicates, trial_rows
from pgsearch.analysis.tables import configurations
from pgsearch.errors import UsageError
from pgsearch.results import Ledger
from pgsearch.results.read import DamagedFileWarning
from tests.analysis.ledgers import SPACE, trained
from tests.records import grid, spec

SEEDS = [1, 2, 3]
SHORT = {"epochs": 2}


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> list[Ledger]:
    """Two grids of 4 configurations and 3 seeds; b scores test after the last epoch alone."""
    folder = tmp_path_factory.mktemp("results")
    three = {"epochs": 3}
    a = grid(name="a", variants={}, space=SPACE, seeds=SEEDS, training=three)
    b = grid(name="b", seeds=SEEDS, training=three)
    return [trained(folder / "a", a, seed=1), trained(folder / "b", b, seed=2, tested=False)]


@functools.cache
def raw(folder: str) -> list[dict[str, Any]]:
    return pd.read_parquet(folder).to_dict("records")


def rows_of(ledger: Ledger, which: str) -> Iterator[dict[str, Any]]:
    """The chosen epoch of each complete trial, by plain loops over what pandas reads."""
    epochs = raw(f"{ledger.url}/epochs")
    for trial in raw(f"{ledger.url}/trials"):
        if trial["state"] != "COMPLETE":
            continue
        own = [row for row in epochs if row["number"] == trial["number"]]
        chosen = own[0]
        for row in own[1:]:
            if which == "last":
                chosen = row if row["epoch"] > chosen["epoch"] else chosen
            else:
                better = row["map.validation.total"] > chosen["map.validation.total"]
                chosen = row if better else chosen
        yield chosen


def mean_std_n(values: list[float]) -> tuple[float, float, int]:
    there = [value for value in values if not math.isnan(value)]
    mean = sum(there) / len(there) if there else math.nan
    std = statistics.stdev(there) if len(there) > 1 else math.nan
    return mean, std, len(there)


def same(found: tuple[float, float, int], wanted: tuple[float, float, int]) -> bool:
    return found == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_configurations_against_loops(ledgers: list[Ledger], which: str, split: str) -> None:
    frame = configurations(ledgers, split=split, which_epoch=which)  # type: ignore[arg-type]
    assert len(frame) == 4 + 2
    for row in frame.to_dict("records"):
        (ledger,) = (x for x in ledgers if x.name == row["search"])
        own = [r for r in rows_of(ledger, which) if r["number"] in row["trials"]]
        assert len({r["configuration_id"] for r in own}) == 1
        assert row["n"] == len(own) == len({r["seed"] for r in own})
        for part in ("total", "head", "medium", "tail"):
            found = (row[f"{part}.mean"], row[f"{part}.std"], row[f"{part}.n"])
            assert same(found, mean_std_n([r[f"map.{split}.{part}"] for r in own]))


@pytest.mark.parametrize("which", ["last", "best"])
def test_groups_against_loops(ledgers: list[Ledger], which: str) -> None:
    by = ["loss.focusing.tail", "search"]
    found = replicates(ledgers, ["map.test.tail", *by], which_epoch=which)  # type: ignore[arg-type]
    rows = grouped(found, by, ["map.test.tail"])
    groups: dict[Any, list[float]] = {}
    for ledger in ledgers:
        for row in rows_of(ledger, which):
            focusing = row["loss.focusing.tail"]
            key = (focusing if isinstance(focusing, str) else None, ledger.name)
            groups.setdefault(key, []).append(row["map.test.tail"])
    assert len(rows) == len(groups) == 4  # none and adaptive of a; BCE, without one, and PG of b
    for row in rows.to_dict("records"):
        focusing = row["loss.focusing.tail"]
        key = (focusing if isinstance(focusing, str) else None, row["search"])
        assert row["n"] == len(groups[key])
        numbers = tuple(row[f"map.test.tail.{name}"] for name in ("mean", "std", "n"))
        assert same(numbers, mean_std_n(groups[key]))


def test_groups_stand_in_order(ledgers: list[Ledger]) -> None:
    by = ["loss.lambda1_neg.tail", "loss.focusing.tail"]
    rows = grouped(replicates(ledgers, by), by, [])
    lambdas = rows["loss.lambda1_neg.tail"].tolist()
    assert lambdas == pytest.approx([1.0, 1.0, 2.5, 2.5, math.nan], nan_ok=True)
    assert rows["loss.focusing.tail"].tolist()[:4] == ["none", "adaptive"] * 2


def test_the_same_training_in_two_searches_counts_once(tmp_path: Path) -> None:
    names = ("one", "two")
    both = [
        trained(tmp_path / name, grid(name=name, seeds=[1, 2], training=SHORT), seed=3)
        for name in names
    ]
    once = grouped(replicates(both, ["variant"]), ["variant"], [])
    apart = grouped(replicates(both, ["variant", "search"]), ["variant", "search"], [])
    single = grouped(replicates(both[:1], ["variant"]), ["variant"], [])
    assert once["n"].tolist() == single["n"].tolist()
    assert len(apart) == 2 * len(single)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("loss.focusing.tail=none", lambda r: r["loss.focusing.tail"] == "none"),
        ("focusing.tail!=none", lambda r: r["loss.focusing.tail"] != "none"),
        ("λ1-.tail>1", lambda r: r["loss.lambda1_neg.tail"] > 1),
        ("λ1-.tail<=1", lambda r: r["loss.lambda1_neg.tail"] <= 1),
        ("loss.lambda1_neg.tail=2.50", lambda r: r["loss.lambda1_neg.tail"] == 2.5),
        ("seed >= 2", lambda r: r["seed"] >= 2),
        ("loss.rebalance_weight=TRUE", lambda r: r["loss.rebalance_weight"] is True),
        ("rebalance_weight!=true", lambda r: r["loss.rebalance_weight"] is not True),
        ("lambda1_neg.tail=", lambda r: pd.isna(r["loss.lambda1_neg.tail"])),
        ("lambda1_neg.tail!=", lambda r: not pd.isna(r["loss.lambda1_neg.tail"])),
        ("search=b", lambda r: r["search"] == "b"),
        ("test.total<0.5", lambda r: r["map.test.total"] < 0.5),
    ],
)
def test_conditions_against_loops(ledgers: list[Ledger], text: str, holds: Any) -> None:
    found = replicates(ledgers, [], conditions=[parse_condition(text)]).frame
    wanted = [(r["search"], r["number"]) for x in ledgers for r in rows_of(x, "last") if holds(r)]
    assert list(zip(found["search"], found["number"], strict=True)) == wanted
    assert wanted


def test_all_conditions_must_hold(ledgers: list[Ledger]) -> None:
    conditions = [parse_condition("search=a"), parse_condition("seed=2")]
    frame = replicates(ledgers, [], conditions=conditions).frame
    assert set(frame["search"]) == {"a"}
    assert set(frame["seed"]) == {2}
    with pytest.raises(UsageError, match="'seed=9' leaves no complete trial; seed is 1, 2, 3"):
        replicates(ledgers, [], conditions=[parse_condition("seed=9")])


def said(found: Replicates, column: str = "map.test.total") -> str:
    return "\n".join(caveats(found, [Metric(column)]))


def test_what_was_left_out_is_counted(ledgers: list[Ledger]) -> None:
    notes = said(replicates(ledgers, []))
    failed = {x.name: [r["state"] for r in raw(f"{x.url}/trials")].count("FAIL") for x in ledgers}
    assert sum(failed.values()) > 0
    for name, count in failed.items():
        assert (f"left out of {name}: {count} FAIL" in notes) == (count > 0)


def test_a_damaged_part_is_named_and_its_trial_left_out(tmp_path: Path) -> None:
    search = grid(name="a", seeds=[1, 2], training=SHORT)
    ledger = trained(tmp_path / "a", search, seed=5)
    before = replicates([ledger], []).frame
    victim = int(before["number"].iloc[0])
    file = tmp_path / "a" / "epochs" / f"{victim:05d}.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.warns(DamagedFileWarning, match=f"left out: .*{victim:05d}.parquet"):
        found = replicates([ledger], [])
    assert found.frame["number"].tolist() == before["number"].tolist()[1:]
    assert "1 COMPLETE without epochs" in said(found)


def test_numbers_that_were_selected_on_what_they_show_are_named(
    ledgers: list[Ledger], tmp_path: Path
) -> None:
    best = replicates(ledgers, ["map.test.total"], which_epoch="best")
    assert "too good" not in said(best)
    assert "were not evaluated on test at their best epoch" in said(best)
    own = replicates(ledgers, ["map.validation.total"], which_epoch="best")
    assert "chosen on validation, which is shown: these numbers are too good" in said(
        own, "map.validation.total"
    )
    on_test = spec(name="t", trials=2, training=SHORT, objective={"split": "test"})
    searched = replicates([trained(tmp_path / "t", on_test, seed=7)], [])
    assert "the configurations of t were chosen by map.test.total, so its numbers on test" in said(
        searched
    )
    assert "so its numbers" not in said(searched, "map.validation.total")
    assert "a, b: a grid" in said(replicates(ledgers, []))


def test_only_columns_that_were_grouped_by_may_differ(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", grid(name="one", training=SHORT), seed=1, data="x")
    data = {"name": "digits", "seed": 5}
    two = trained(tmp_path / "two", grid(name="two", data=data, training=SHORT), seed=1, data="y")
    with pytest.raises(UsageError, match=r"different data sets \(x: one; y: two\)"):
        replicates([one, two], ["variant"], apart=["variant"])
    assert not replicates([one, two], ["data.seed"], apart=["data.seed"]).is_mixed
    with pytest.raises(UsageError, match="different data sets"):  # both are digits
        replicates([one, two], ["data.name"], apart=["data.name"])
    mixed = replicates([one, two], [], allow_mixed=True)
    assert mixed.is_mixed
    assert "mixed: different data sets (x: one; y: two)" in said(mixed)


def test_a_pruned_trial_and_one_without_epochs_are_rows_without_numbers(tmp_path: Path) -> None:
    ledger = trained(tmp_path / "small", spec(trials=2, training=SHORT), seed=1)
    (tmp_path / "small" / "epochs" / "00001.parquet").unlink()
    for which in ("last", "best"):
        frame = trial_rows(ledger, ["map.test.total"], which_epoch=which)  # type: ignore[arg-type]
        assert frame["number"].tolist() == [0, 1]
        assert frame["epoch"].isna().tolist() == [False, True]
    whole = trial_rows(ledger)
    assert {"params", "class.ap.test", "map.test.total", "epoch"} <= set(whole.columns)
