"""The numbers behind the figures, against plain loops over the raw Parquet files."""

import csv
import io
import itertools
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from pgsearch.analysis.figures import (
    FIGURES,
    FORMATS,
    Figure,
    NotDrawn,
    figures_of,
    render,
    save,
    save_numbers,
)
from pgsearch.analysis.figures.save import MissingGlyphWarning
from pgsearch.analysis.figures.style import line_style
from pgsearch.errors import UsageError
from pgsearch.results import Ledger, TrialState
from tests.analysis.made_up import CLASS_GROUPS, CLASSES, COUNTS, MadeUp, ledger_of
from tests.records import grid, spec

VARIANTS = {
    "BCE": {"loss": {"name": "bce"}},
    "a variant with a very long name, longer than any legend has room for": {},
    "_PG $x$": {"loss": {"lambda1_neg_mode": {"tail": "adaptive"}, "lambda1_neg": 2}},
}
GROUPS = ("head", "medium", "tail")


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    search = grid(name="ablation", seeds=[1, 2], variants=VARIANTS)
    trials = [MadeUp(variant=v, seed=s) for v in VARIANTS for s in (1, 2)]
    trials.append(MadeUp(variant="BCE", seed=3, state=TrialState.RUNNING, epochs=2))
    return ledger_of(tmp_path_factory.mktemp("results") / "ablation", search, trials)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    states = [TrialState.COMPLETE] * 6 + [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    trials = []
    for i, state in enumerate(states):
        params = {f"loss.lambda1_neg.{g}": 0.5 + i + 0.1 * k for k, g in enumerate(GROUPS)}
        params["loss.focusing"] = "adaptive" if i % 2 else "none"
        if i % 2:
            params["loss.lambda0"] = 0.5 + 0.3 * i
        epochs = 4 if state is TrialState.COMPLETE else 9 - i
        better = 0.999 if state is TrialState.PRUNED else None
        trials.append(MadeUp(params, state=state, epochs=epochs, value=better))
    space = spec(name="search", trials=9, pruner={"name": "median"})
    return ledger_of(tmp_path_factory.mktemp("results") / "search", space, trials)


def figure(ledger: Ledger, name: str, **options: str) -> Figure:
    (found,) = figures_of([ledger], names=[name], **options)
    assert isinstance(found, Figure), found
    return found


def raw(ledger: Ledger, table: str) -> list[dict]:
    """All rows, read without pgsearch."""
    frame = pd.read_parquet(Path(ledger.url.removeprefix("file://")) / table)
    order = ["number", "epoch"] if table == "epochs" else ["number"]
    return frame.sort_values(order).to_dict("records")


def complete_epochs(ledger: Ledger, variant: str | None) -> list[dict]:
    numbers = {
        t["number"]
        for t in raw(ledger, "trials")
        if t["state"] == "COMPLETE" and (variant is None or t["variant"] == variant)
    }
    return [row for row in raw(ledger, "epochs") if row["number"] in numbers]


def test_probability_curves(ablation: Ledger) -> None:
    expected = {}
    for variant in VARIANTS:
        values = defaultdict(list)
        for row in complete_epochs(ablation, variant):
            for sign in ("pos", "neg"):
                for group in GROUPS:
                    values[group, sign, row["epoch"]].append(row[f"p_{sign}.{group}"])
        for key, numbers in values.items():
            expected[variant, *key] = (
                2, statistics.mean(numbers), statistics.stdev(numbers), min(numbers), max(numbers),
            )  # fmt: skip
    numbers = figure(ablation, "probability_curves").numbers
    found = {
        (r["configuration"], r["group"], r["sign"], r["epoch"]): (
            r["n"],
            r["mean"],
            r["std"],
            r["low"],
            r["high"],
        )
        for r in numbers.to_dict("records")
    }
    assert len(found) == len(numbers) == len(VARIANTS) * 3 * 2 * 3
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values)


def test_adaptive_factors_only_of_groups_that_adapt(ablation: Ledger) -> None:
    numbers = figure(ablation, "adaptive_factors").numbers
    # focusing is adaptive by default, in all groups; λ₁⁻ in the tail alone; BCE has neither.
    assert set(numbers["configuration"]) == {*VARIANTS} - {"BCE"}
    numbers = numbers[numbers["configuration"] == "_PG $x$"]
    assert {tuple(pair) for pair in numbers[["factor", "group"]].to_numpy()} == {
        ("lambda1_neg", "tail"),
        *((f"focusing_{sign}", group) for sign in ("pos", "neg") for group in GROUPS),
    }
    values = []
    for row in complete_epochs(ablation, "_PG $x$"):
        if row["epoch"] == 2:
            of_tail = [
                value
                for value, group in zip(row["class.lambda1_neg"], row["class.group"], strict=True)
                if group == "tail"
            ]
            values.append(statistics.mean(of_tail))
    (one,) = numbers[(numbers["factor"] == "lambda1_neg") & (numbers["epoch"] == 2)].to_dict(
        "records"
    )
    assert (one["n"], one["mean"], one["std"]) == pytest.approx(
        (2, statistics.mean(values), statistics.stdev(values))
    )


def test_class_map_of_the_best(ablation: Ledger) -> None:
    last = {v: [r["map.validation.total"] for r in complete_epochs(ablation, v) if r["epoch"] == 3]
            for v in VARIANTS}  # fmt: skip
    best = max(last, key=lambda v: statistics.mean(last[v]))
    numbers = figure(ablation, "class_map").numbers
    assert numbers["class"].unique().tolist() == sorted(
        CLASSES, key=lambda c: -COUNTS[CLASSES.index(c)]
    )
    rows = complete_epochs(ablation, best)
    for one in numbers.to_dict("records"):
        place = CLASSES.index(one["class"])
        assert one["group"] == GROUPS[CLASS_GROUPS[place]]
        for column, name in (("class.p_pos", "p_pos"), ("class.p_neg", "p_neg"),
                             ("class.ap.validation", "ap")):  # fmt: skip
            known = [r[column][place] for r in rows if r["epoch"] == one["epoch"]]
            expected = statistics.mean(known) if not any(map(math.isnan, known)) else math.nan
            assert one[name] == pytest.approx(expected, nan_ok=True)
    assert numbers.loc[numbers["class"] == "usual", "ap"].isna().all()


def test_ap_by_count_leaves_out_what_has_no_ap(ablation: Ledger) -> None:
    numbers = figure(ablation, "ap_by_count", split="test").numbers
    assert len(numbers) == len(VARIANTS) * (len(CLASSES) - 1)
    for one in numbers.to_dict("records"):
        place = CLASSES.index(one["class"])
        values = [
            row["class.ap.test"][place]
            for row in complete_epochs(ablation, one["configuration"])
            if row["epoch"] == 3
        ]
        assert one["count"] == COUNTS[place]
        assert (one["n"], one["mean"], one["std"]) == pytest.approx(
            (2, statistics.mean(values), statistics.stdev(values))
        )


def test_learning_curves_have_every_trial(search: Ledger) -> None:
    numbers = figure(search, "learning_curves").numbers
    expected = {
        (row["number"], row["epoch"]): row["map.validation.total"] for row in raw(search, "epochs")
    }
    found = {(r["number"], r["epoch"]): r["map"] for r in numbers.to_dict("records")}
    assert found == expected
    states = {row["number"]: row["state"] for row in raw(search, "trials")}
    assert dict(zip(numbers["number"], numbers["state"], strict=True)) == states


def test_history_has_pruned_trials_but_its_best_is_complete(search: Ledger) -> None:
    numbers = figure(search, "history").numbers
    last: dict[int, float] = {}
    for row in raw(search, "epochs"):
        last[row["number"]] = row["map.validation.total"]
    best, expected = -math.inf, []
    for trial in raw(search, "trials"):
        if trial["state"] == "RUNNING":
            continue
        value = math.nan if trial["state"] == "FAIL" else last[trial["number"]]
        if trial["state"] == "COMPLETE":
            best = max(best, value)
        expected.append((trial["number"], trial["state"], value, best))
    found = list(numbers[["number", "state", "value", "best"]].itertuples(index=False, name=None))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose(
        [row[2:] for row in found], [row[2:] for row in expected], equal_nan=True
    )


def test_parameters_and_objective(search: Ledger) -> None:
    for name in ("parallel_coordinates", "slices"):
        numbers = figure(search, name).numbers.set_index("number")
        assert sorted(numbers.index) == list(range(6))
        for trial in raw(search, "trials"):
            if trial["state"] != "COMPLETE":
                continue
            params = json.loads(trial["params"])
            row = numbers.loc[trial["number"]]
            assert row["value"] == trial["values"][0]
            for column in numbers.columns.drop("value"):
                assert params.get(column) == (None if pd.isna(row[column]) else row[column])


def test_pareto_front(search: Ledger) -> None:
    numbers = figure(search, "pareto", split="test").numbers
    points = {
        row["number"]: (row["map.test.head"], row["map.test.tail"])
        for row in raw(search, "epochs")
        if row["number"] < 6 and row["epoch"] == 4
    }
    assert dict(zip(numbers["number"], zip(numbers["head"], numbers["tail"], strict=True),
                    strict=True)) == points  # fmt: skip
    for number, on_front in zip(numbers["number"], numbers["on_front"], strict=True):
        x, y = points[number]
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
        assert on_front == (not beaten)


def test_every_figure_is_drawn_at_a_size_of_paper_without_clipping(
    ablation: Ledger, search: Ledger
) -> None:
    drawn = [one for one in figures_of([ablation, search]) if isinstance(one, Figure)]
    assert {one.name.partition("-")[0] for one in drawn} == set(FIGURES)
    for one in drawn:
        drawing = one.draw()
        width, height = drawing.get_size_inches()
        assert width in (3.35, 7.0)
        assert height <= 9.0
        drawing.draw_without_rendering()
        box = drawing.get_tightbbox()
        assert min(box.x0, box.y0) >= -0.01, one.name
        assert box.x1 <= width + 0.01, one.name
        assert box.y1 <= height + 0.01, one.name


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_ledger_gives_the_same_bytes(ablation: Ledger, kind: str) -> None:
    first = render(figure(ablation, "learning_curves"), kind)
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9}):  # another user's settings
        assert render(figure(Ledger(ablation.url), "learning_curves"), kind) == first


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_all_figures_give_the_same_bytes(ablation: Ledger, search: Ledger, kind: str) -> None:
    first, second = (
        {one.name: render(one, kind) for one in figures_of([ablation, search])
         if isinstance(one, Figure)}
        for _ in range(2)
    )  # fmt: skip
    assert first == second


def test_texts_of_others_are_drawn_as_they_are(ablation: Ledger) -> None:
    svg = render(figure(ablation, "class_map"), "svg").decode()
    assert ">$x_$ (150)<" in svg
    assert ">a_b&amp;c% (10)<" in svg
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    legend = render(figure(ablation, "probability_curves"), "svg").decode()
    assert "> _PG $x$<" in legend


def test_letters_without_a_font_are_named_once(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "small", grid(name="small"), [MadeUp(variant="BCE")],
                       classes=["\ue123\ue124", "x\uffff"])  # fmt: skip
    one = figure(ledger, "class_map")
    with pytest.warns(MissingGlyphWarning, match="class_map: no font here has 2 of its letters"):
        render(one, "png")
    ElementTree.fromstring(render(one, "svg"))  # letters that are no XML are not written


def test_lines_differ_in_colour_or_dashes() -> None:
    looks = [tuple(line_style(place).values()) for place in range(28)]
    assert len(set(looks)) == 28
    for first, second in itertools.pairwise(looks):
        assert first[1] != second[1]  # neighbours in their dashes, which grey keeps


def test_numbers_are_csv_without_formulas(tmp_path: Path) -> None:
    classes = ["=cmd|' /C calc'!A0", "b"]
    ledger = ledger_of(tmp_path / "small", grid(name="small"), [MadeUp(variant="BCE")],
                       classes=classes)  # fmt: skip
    one = figure(ledger, "ap_by_count")
    save_numbers(one, tmp_path / "numbers.csv")
    text = (tmp_path / "numbers.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0]["class"] == "'=cmd|' /C calc'!A0"
    assert [float(row["mean"]) for row in rows] == one.numbers["mean"].tolist()
    assert [row["std"] for row in rows] == ["", ""]  # one seed


def test_what_does_not_apply_says_why(ablation: Ledger, search: Ledger, tmp_path: Path) -> None:
    def reasons(ledger: Ledger, **options: str) -> dict[str, str]:
        found = figures_of([ledger], **options)
        assert [one.name for one in found] == list(FIGURES)
        return {one.name: one.reason for one in found if isinstance(one, NotDrawn)}

    assert reasons(search) == {}
    of_ablation = reasons(ablation)
    assert of_ablation.keys() == {"history", "parallel_coordinates", "slices"}
    assert "grid" in of_ablation["history"]
    assert "no space" in of_ablation["slices"]
    assert reasons(ablation, split="test")["learning_curves"] == (
        "test was evaluated after epoch 3 only"
    )
    empty = Ledger(tmp_path / "empty")
    empty.begin(spec(name="empty"))
    assert reasons(empty)["probability_curves"] == "no epochs yet"
    running = ledger_of(tmp_path / "running", spec(name="running"),
                        [MadeUp(state=TrialState.RUNNING)])  # fmt: skip
    of_running = reasons(running)
    assert of_running["class_map"] == "no complete trial yet"
    assert "learning_curves" not in of_running
    one = ledger_of(tmp_path / "one", grid(name="one", variants={"BCE": VARIANTS["BCE"]}),
                    [MadeUp(variant="BCE")])  # fmt: skip
    of_one = reasons(one)
    assert of_one["adaptive_factors"] == "no adaptive factor in the configurations shown"
    assert of_one["pareto"] == "1 complete configurations have mAP head and tail on validation"


def test_wrong_names_and_formats(search: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no figure 'histry'; there are: probability_curves, "):
        figures_of([search], names=["histry"])
    with pytest.raises(UsageError, match="two searches have one name: search, search"):
        figures_of([search, search])
    with pytest.raises(UsageError, match="saved as png, svg, pdf, not as 'gif'"):
        save(figure(search, "history"), tmp_path / "x.gif")


def test_many_trials_are_thinned_and_the_caption_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsearch.analysis.figures.trials.MAX_TRIALS", 20)
    monkeypatch.setattr("pgsearch.analysis.figures.space.MAX_LINES", 12)
    trials = [
        MadeUp({"loss.lambda1_neg.tail": 0.5 + i / 60}, epochs=2, value=i / 45) for i in range(30)
    ]
    ledger = ledger_of(tmp_path / "many", spec(name="many", trials=30), trials, classes=["a"])
    curves = figure(ledger, "learning_curves")
    assert curves.numbers["number"].nunique() == 20
    assert {28, 29} <= set(curves.numbers["number"])  # the best tenth
    assert "Drawn are 20 of 30" in curves.caption
    lines = figure(ledger, "parallel_coordinates")
    assert len(lines.numbers) == 12
    assert set(range(24, 30)) <= set(lines.numbers["number"])
    assert "The best 6 of 30" in lines.caption
