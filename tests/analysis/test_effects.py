"""Effects and contrasts, against plain loops over the raw Parquet files."""

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pgsearch.analysis.effects import marginal_effects, mode_contrasts
from pgsearch.analysis.factors import factor_values, read_outcomes
from pgsearch.analysis.front import head_against_tail, not_dominated
from pgsearch.errors import UsageError
from pgsearch.results import Ledger, TrialState
from tests.analysis.made_up import MadeUp, ledger_of
from tests.records import grid, spec

SPACE = {
    "loss.lambda1_neg": {"type": "float", "low": 0.5, "high": 8.0, "log": True, "tied": True},
    "loss.lambda1_neg_mode": {"type": "categorical", "choices": ["fixed", "adaptive"],
                              "tied": True},
    "loss.rebalance_weight": {"type": "categorical", "choices": [True, False]},
}  # fmt: skip


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """18 configurations with two seeds each, and a pruned trial that is far better."""
    trials = []
    for i in range(18):
        params = {
            "loss.lambda1_neg": 0.5 + i / 4,
            "loss.lambda1_neg_mode": ("fixed", "adaptive")[i % 3 == 0],
            "loss.rebalance_weight": i % 2 == 0,
        }
        trials += [MadeUp(params, seed=seed, epochs=1) for seed in (0, 1)]
    trials.append(MadeUp(trials[0].params, seed=2, state=TrialState.PRUNED, epochs=1, value=1.0))
    space = spec(name="search", seeds=[0, 1], trials=18, space=SPACE)
    return ledger_of(tmp_path_factory.mktemp("results") / "search", space, trials, classes=["a"])


def configurations(ledger: Ledger, metric: str) -> list[dict[str, Any]]:
    """Mean of a metric per configuration, read without pgsearch."""
    folder = Path(ledger.url.removeprefix("file://"))
    rows: dict[str, dict[str, Any]] = {}
    epochs = pd.read_parquet(folder / "epochs", columns=["number", "epoch", metric])
    last = {row["number"]: row[metric] for row in epochs.to_dict("records")}  # one epoch each
    for trial in pd.read_parquet(folder / "trials").sort_values("number").to_dict("records"):
        if trial["state"] == "COMPLETE":
            row = rows.setdefault(trial["configuration_id"], {**trial, "values_of": []})
            row["values_of"].append(last[trial["number"]])
    return [{**row, "value": statistics.mean(row["values_of"])} for row in rows.values()]


def test_effects_of_choices_and_of_numbers(search: Ledger) -> None:
    metric = "map.validation.tail"
    records, _ = read_outcomes(search, metric)
    effects = marginal_effects(records, metric)
    rows = configurations(search, metric)
    for choice in (True, False):
        values = [r["value"] for r in rows if r["loss.rebalance_weight"] == choice]
        (one,) = effects[
            (effects["factor"] == "loss.rebalance_weight")
            & (effects["level"] == str(choice).lower())
        ].to_dict("records")
        assert (one["n"], one["mean"], one["std"]) == pytest.approx(
            (9, statistics.mean(values), statistics.stdev(values))
        )
    for mode, count in (("fixed", 12), ("adaptive", 6)):
        of_mode = [r for r in rows if r["loss.lambda1_neg_mode.tail"] == mode]
        found = effects[(effects["factor"] == "loss.lambda1_neg") & (effects["mode"] == mode)]
        assert found["n"].sum() == count
        numbers = [r["loss.lambda1_neg.tail"] for r in of_mode]
        values = [r["value"] for r in of_mode]
        expected = stats.spearmanr(numbers, values)
        assert (found["rho"].iloc[0], found["p"].iloc[0]) == pytest.approx(tuple(expected))
        assert found["rho"].iloc[1:].isna().all()
        weighted = sum(found["n"] * found["mean"]) / count
        assert weighted == pytest.approx(statistics.mean(values))


def test_quarters_are_in_order_and_hold_all(search: Ledger) -> None:
    records, metric = read_outcomes(search)
    effects = marginal_effects(records, metric)
    quarters = effects[(effects["factor"] == "loss.lambda1_neg") & (effects["mode"] == "fixed")]
    assert quarters["n"].tolist() == [3, 3, 3, 3]
    bounds = [float(bound) for level in quarters["level"] for bound in level.split("–")]
    assert bounds == sorted(bounds)


def test_a_contrast_in_a_search_is_welchs(search: Ledger) -> None:
    metric = "map.test.total"
    records, _ = read_outcomes(search, "test.total")
    (one,) = mode_contrasts(records, metric).to_dict("records")
    rows = configurations(search, metric)
    arms = {
        mode: [r["value"] for r in rows if r["loss.lambda1_neg_mode.head"] == mode]
        for mode in ("adaptive", "fixed")
    }
    n, means = [len(a) for a in arms.values()], [statistics.mean(a) for a in arms.values()]
    errors = [statistics.variance(a) / len(a) for a in arms.values()]
    freedom = sum(errors) ** 2 / sum(e**2 / (k - 1) for e, k in zip(errors, n, strict=True))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(errors))
    assert (one["factor"], one["contrast"]) == ("loss.lambda1_neg_mode", "adaptive − fixed")
    assert (one["how"], one["n_adaptive"], one["n_other"]) == ("Welch", 6, 12)
    difference = means[0] - means[1]
    assert (one["difference"], one["low"], one["high"]) == pytest.approx(
        (difference, difference - half, difference + half)
    )


def test_a_contrast_in_an_ablation_is_paired(tmp_path: Path) -> None:
    variants = {
        f"{a}{b}": {"loss": {"lambda1_neg_mode": {"tail": a}, "lambda2_pos_mode": {"tail": b}}}
        for a, b in itertools.product(("fixed", "adaptive"), repeat=2)
    }
    search = grid(name="small", seeds=[1, 2, 3], variants=variants)
    trials = [MadeUp(variant=v, seed=s, epochs=1) for v in variants for s in (1, 2, 3)]
    ledger = ledger_of(tmp_path / "small", search, trials, classes=["a"])
    records, metric = read_outcomes(ledger)
    assert factor_values(records).columns.tolist() == [
        "loss.lambda1_neg_mode.tail", "loss.lambda2_pos_mode.tail",
    ]  # fmt: skip
    contrasts = mode_contrasts(records, metric).set_index("factor")
    value = {}
    for number, made_up in enumerate(trials):
        row = pd.read_parquet(tmp_path / "small" / "epochs" / f"{number:05d}.parquet").iloc[-1]
        value[made_up.variant, made_up.seed] = row[metric]
    differences = [
        value[f"adaptive{b}", s] - value[f"fixed{b}", s]
        for b in ("fixed", "adaptive") for s in (1, 2, 3)
    ]  # fmt: skip
    half = stats.t.ppf(0.975, 5) * statistics.stdev(differences) / math.sqrt(6)
    one = contrasts.loc["loss.lambda1_neg_mode.tail"]
    assert (one["how"], one["n_adaptive"], one["n_other"]) == ("paired", 6, 6)
    mean = statistics.mean(differences)
    assert (one["difference"], one["low"], one["high"]) == pytest.approx(
        (mean, mean - half, mean + half)
    )


def test_focusing_is_paired_across_the_exponents_that_it_implies(tmp_path: Path) -> None:
    variants = {
        "Focal": {"loss": {"focusing": "fixed", "gamma": 3}},
        "APAF": {"loss": {"focusing": "adaptive", "lambda0": 1}},
        "BCE": {"loss": {"name": "bce"}},
    }
    trials = [MadeUp(variant=v, seed=s, epochs=1) for v in variants for s in (1, 2)]
    ledger = ledger_of(tmp_path / "small", grid(name="small", seeds=[1, 2], variants=variants),
                       trials, classes=["a"])  # fmt: skip
    records, metric = read_outcomes(ledger)
    factors = factor_values(records)
    assert {"loss.name", "loss.gamma", "loss.lambda0", "loss.focusing"} == set(factors.columns)
    (one,) = mode_contrasts(records, metric).to_dict("records")
    assert (one["contrast"], one["how"], one["n_adaptive"]) == ("adaptive − fixed", "paired", 2)


def test_equal_differences_have_an_interval_of_no_width(tmp_path: Path) -> None:
    variants = {m: {"loss": {"lambda1_neg_mode": {"tail": m}}} for m in ("fixed", "adaptive")}
    trials = [
        MadeUp(variant=v, seed=s, epochs=1, value=0.5 if v == "fixed" else 0.75)
        for v in variants for s in (1, 2)
    ]  # fmt: skip
    ledger = ledger_of(tmp_path / "small", grid(name="small", seeds=[1, 2], variants=variants),
                       trials, classes=["a"])  # fmt: skip
    records, metric = read_outcomes(ledger)
    (one,) = mode_contrasts(records, metric).to_dict("records")
    assert (one["difference"], one["low"], one["high"]) == pytest.approx((0.25, 0.25, 0.25))


def test_the_front_of_means_over_seeds(search: Ledger) -> None:
    records, _ = read_outcomes(search)
    front = head_against_tail(records, "test")
    heads = [r["value"] for r in configurations(search, "map.test.head")]
    assert front["head"].tolist() == pytest.approx(heads)
    assert front["n"].tolist() == [2] * 18


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_not_dominated(points: list[tuple[int, int]]) -> None:
    first, second = (np.array([p[i] for p in points], dtype=float) for i in (0, 1))
    expected = [
        not any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points
    ]
    assert not_dominated(first, second).tolist() == expected


def test_wrong_metrics_and_nothing_complete(search: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no column 'map\.tset\.tail'; did you mean"):
        read_outcomes(search, "map.tset.tail")
    with pytest.raises(UsageError, match="train_seconds: neither more nor less of it is better"):
        read_outcomes(search, "train_seconds")
    empty = ledger_of(tmp_path / "empty", spec(name="empty"), [MadeUp(state=TrialState.RUNNING)])
    with pytest.raises(UsageError, match="no complete trial in empty yet; see pgsearch status"):
        read_outcomes(empty)
