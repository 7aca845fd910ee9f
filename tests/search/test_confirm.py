"""What a confirmation trains, what it reports, and one run of it."""

import json
import math
import statistics
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy.special import betainc

from pgsearch.analysis.optimism import Optimism, against_baseline, as_table, conclusion, optimism_of
from pgsearch.config import load_spec, parse_spec
from pgsearch.config.merge import difference, merge
from pgsearch.errors import InvalidSpec, UsageError
from pgsearch.results import EpochWriter, Ledger
from pgsearch.search.confirm import Confirmation, plan_confirmation
from pgsearch.search.retrain import fresh_seeds
from pgsearch.search.study import SearchStudy
from tests.records import epoch_record, grid, spec
from tests.search.searches import Search
from tests.studies import run_to_end

MINE = {"training": {"epochs": 4, "iterations_per_epoch": 10}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of six trials and an ablation."""
    folder = tmp_path_factory.mktemp("results")
    for search in (spec(name="s", seeds=[3, 5], trials=3, **MINE), grid(name="g", **MINE)):
        ledger = Ledger(folder / search.name)
        ledger.begin(search)
        run_to_end(search, ledger)
    return folder


@pytest.fixture
def source(results: Path) -> Ledger:
    return Ledger(results / "s")


def plan(source: Ledger, against: str = "bce", *, top: int = 2, **options: bool) -> Confirmation:
    return plan_confirmation(source, against, top=top, num_seeds=3, name="s_confirm", **options)


def by_mean(source: Ledger) -> list[tuple[str, float]]:
    """Configurations, the best first, from the raw rows."""
    frame = pd.read_parquet(f"{source.url}/trials")
    values: dict[str, list[float]] = {}
    for row in frame.to_dict("records"):
        values.setdefault(row["configuration_id"], []).append(row["values"][0])
    return sorted(((i, statistics.mean(v)) for i, v in values.items()), key=lambda x: -x[1])


def test_the_best_beside_the_baseline_with_fresh_seeds(source: Ledger) -> None:
    made = plan(source)
    search = made.spec
    assert search.seeds == [6, 7, 8]
    assert list(search.variants) == [made.baseline, *(c.name for c in made.candidates)]
    assert search.num_trials == 9
    assert search.objective == source.spec().objective
    expected = by_mean(source)[:2]
    for candidate, (configuration_id, value) in zip(made.candidates, expected, strict=True):
        assert search.trial(0, {}, candidate.name).configuration_id == configuration_id
        assert candidate.value == pytest.approx(value)
        assert candidate.num_seeds == 2
    baseline, own = search.trial(0, {}, made.baseline), source.spec()
    assert baseline.loss.name == "bce"
    assert (baseline.data, baseline.model, baseline.training) == (own.data, own.model, own.training)
    assert plan(source) == made  # so that it can be gone on with


def test_the_plan_is_a_spec_that_runs(source: Ledger, tmp_path: Path) -> None:
    search = plan(source).spec
    text = yaml.safe_dump(search.model_dump(mode="json", exclude_defaults=True))
    (tmp_path / "x.yaml").write_text(text)
    assert load_spec(tmp_path / "x.yaml") == search


@pytest.mark.parametrize("against", ["g:BCE", "g:0", "FILE:BCE"])
def test_baselines(source: Ledger, tmp_path: Path, against: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(Ledger(f"{source.url}/../g").spec().model_dump(mode="json")))
    made = plan(source, against.replace("FILE", str(file)))
    assert made.baseline == "baseline g:BCE"
    bce = Ledger(f"{source.url}/../g").spec().trial(0, {}, "BCE")
    assert made.spec.trial(0, {}, made.baseline).configuration_id == bce.configuration_id


@pytest.mark.parametrize(
    ("against", "message"),
    [("bcee", "no search 'bcee'.*; there are: g, s\nor name a loss: bce, focal"),
     ("ldam", "model.head is linear"), ("g", "means several configurations"),
     ("FILE", r"means 2 configurations.* FILE:VARIANT.*'BCE', 'PG'"),
     ("FILE:XX", "means no configurations"),
     ("s:BEST", "is the configuration of trial .* number 1")],
)  # fmt: skip
def test_what_is_no_baseline(source: Ledger, tmp_path: Path, against: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(grid(name="g").model_dump(mode="json")))
    best = str(plan(source).candidates[0].number)
    with pytest.raises(UsageError, match=f"(?s){message.replace('FILE', str(file))}"):
        plan(source, against.replace("FILE", str(file)).replace("BEST", best))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"training": {"epochs": 5, "iterations_per_epoch": 10}}, "training.epochs is 5, not 4"),
     ({"data": {"name": "digits", "image_size": 64}, **MINE}, "data.image_size is 64, not 48")],
)  # fmt: skip
def test_a_baseline_of_another_kind(
    source: Ledger, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    other = grid(name="other", variants={"BCE": {"loss": {"name": "bce"}}}, **changes)
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(other.model_dump(mode="json")))
    with pytest.raises(UsageError, match=message):
        plan(source, str(file))
    assert plan(source, str(file), allow_mixed=True).spec.num_trials == 9


def test_the_sampler_is_part_of_the_budget_where_it_gives_the_length(tmp_path: Path) -> None:
    search = spec(name="free", seeds=[1], trials=1)
    ledger = Ledger(tmp_path / "free")
    ledger.begin(search)
    run_to_end(search, ledger)
    uniform = {"BCE": {"loss": {"name": "bce"}, "training": {"sampler": "uniform"}}}
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(grid(name="o", variants=uniform).model_dump(mode="json")))
    with pytest.raises(UsageError, match=r"training\.sampler is 'uniform', not 'class_aware'"):
        plan(ledger, str(file), top=1)


def test_searches_without_a_best(source: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--top 4: s has 3 configurations"):
        plan(source, top=4)
    two = Ledger(tmp_path / "two")
    two.begin(grid(name="two", objective=[{"metric": "map_total"}, {"metric": "map_tail"}]))
    with pytest.raises(UsageError, match="several objectives"):
        plan(two)
    with pytest.raises(InvalidSpec, match="name"):
        plan_confirmation(source, "bce", top=1, num_seeds=1, name="a/b")


def test_fresh_seeds_were_not_seen_by_a_fork_either(source: Ledger, tmp_path: Path) -> None:
    forked = Ledger(tmp_path / "f")
    forked.begin(spec(name="f", seeds=[0], **MINE), forked_from=source)
    assert fresh_seeds(forked, 2) == [6, 7]
    assert fresh_seeds(source, 1) == [6]


def test_a_difference_makes_what_it_was_taken_of() -> None:
    bases = [grid().base(v) for v in ("BCE", "PG")]
    bases.append(spec(loss={"name": "pg", "lambda1_neg": {"tail": 3}}, **MINE).base())
    bases.append(spec(loss={"name": "db"}, space={}, trials=None, **MINE).base())  # has pg's kappa
    for base in bases:
        for changed in bases:
            change = difference(base, changed)
            assert merge(base, change) == changed
            assert (change == {}) == (base == changed)
    assert difference(bases[1], bases[2])["loss"] == {"lambda1_neg": {"tail": 3.0}}


# ---------------------------------------------------------------- what it reports


def confirmed(folder: Path, made: Confirmation, values: dict[str, tuple[float, ...]]) -> Ledger:
    """The grid of a plan with made-up values, in the order of its variants."""
    ledger = Ledger(folder / "s_confirm")
    ledger.begin(made.spec)
    study = SearchStudy(made.spec, ledger)
    by_variant = dict(zip(made.spec.variants, values.values(), strict=True))
    while (trial := study.next_trial()) is not None:
        value = by_variant[str(trial.variant)][trial.seed - made.spec.seeds[0]]
        EpochWriter(ledger, trial, 1).append(epoch_record(4, value, last=True))
        if math.isnan(value):
            study.fail(trial.number, "broken")
        else:
            study.complete(trial.number)
    return ledger


def test_optimism(source: Ledger, tmp_path: Path) -> None:
    made = plan(source)
    fresh = {"bce": (0.2, 0.3, 0.25), "1": (0.30, 0.34, 0.33), "2": (0.50, 0.46, 0.51)}
    ledger = confirmed(tmp_path, made, fresh)
    measured = optimism_of(made.candidates, ledger, confidence=0.9)
    assert [one.rank_after for one in measured] == [2, 1]
    for one, values in zip(measured, list(fresh.values())[1:], strict=True):
        optimism = one.candidate.value - statistics.mean(values)
        error = statistics.stdev(values) * math.sqrt(1 / 2 + 1 / 3)
        assert one.optimism == pytest.approx(optimism)
        assert one.standard_error == pytest.approx(error)
        assert one.low is not None
        assert one.high is not None
        t = (one.high - optimism) / error
        assert betainc(1, 0.5, 2 / (2 + t * t)) == pytest.approx(0.1)  # two-sided p, 2 degrees
        assert one.low == pytest.approx(2 * optimism - one.high)
    comparison = against_baseline(made.baseline, made.candidates, ledger, 0.95)
    assert comparison is not None
    assert comparison.reference == "baseline bce"
    text = "\n".join(conclusion(measured, comparison))
    assert "the winner of the search was luck: trial" in text
    assert "the winner has rank 2" in text
    second = made.candidates[1].number
    assert f"trial {second} against the baseline bce, on test: +24.00 over 3 seeds" in text
    table = as_table(measured, made.spec.objective[0], 0.9, conclusion=["so"])
    assert "90% interval" in table.columns
    assert table.notes[0] == "so"


@pytest.mark.parametrize(
    ("optimism", "error", "reach", "sentence"),
    [(0.01, 0.02, 0.08, "the winner of the search holds"),
     (-0.05, 0.01, 0.02, "the winner of the search holds"),
     (0.05, 0.02, 0.08, "may have been luck, and 3 fresh seeds cannot tell"),
     (0.10, 0.02, 0.08, "the winner of the search was luck"),
     (0.10, None, None, "one seed cannot tell merit from luck")],
)  # fmt: skip
def test_verdicts(
    source: Ledger, optimism: float, error: float | None, reach: float | None, sentence: str
) -> None:
    winner = plan(source).candidates[0]
    ends = (None, None) if reach is None else (optimism - reach, optimism + reach)
    one = Optimism(winner, 3, winner.value - optimism, 0.1, optimism, error, *ends, rank_after=1)
    assert sentence in next(conclusion([one], None))


def test_without_a_winner_there_is_no_verdict(source: Ledger, tmp_path: Path) -> None:
    made = plan(source)
    lost = (math.nan, math.nan, math.nan)
    ledger = confirmed(tmp_path, made, {"b": lost, "1": lost, "2": (0.1, 0.1, 0.2)})
    measured = optimism_of(made.candidates, ledger)
    comparison = against_baseline(made.baseline, made.candidates, ledger, 0.95)
    assert [one.candidate.rank for one in measured] == [2]
    assert comparison is None
    text = "the winner of the search has no complete trial with a fresh seed"
    assert list(conclusion(measured, comparison)) == [text]


def test_luck_of_what_is_minimised(tmp_path: Path) -> None:
    """Absurd of a mAP, but a spec may say so: the best is the least, and luck is below the mean."""
    search = spec(name="s", seeds=[1], trials=3, objective={"direction": "minimize"}, **MINE)
    ledger = Ledger(tmp_path / "s")
    ledger.begin(search)
    run_to_end(search, ledger)
    made = plan(ledger)
    assert made.candidates[0].value < made.candidates[1].value
    more = made.candidates[0].value + 0.1
    fresh = confirmed(tmp_path, made, {"b": (0, 0, 0), "1": (more,) * 3, "2": (0.1, 0.2, 0.3)})
    assert optimism_of(made.candidates, fresh)[0].optimism == pytest.approx(0.1)


def test_the_spec_of_a_plan_survives_its_ledger(source: Ledger) -> None:
    search = plan(source).spec
    assert parse_spec(json.loads(json.dumps(search.model_dump(mode="json"))), "x") == search


# ---------------------------------------------------------------- for real


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_confirm_for_real(finished: Search) -> None:
    """Begun, and shown again without training."""
    words = ("confirm", "small", "--against", "bce", "--top", "2", "--seeds", "2", "--json")
    process = finished.command(*words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert [one["n"] for one in report["optimism"]] == [2, 2]
    frame = pd.read_parquet(Path(finished.results, "small_confirm", "trials"))
    assert sorted(frame["seed"]) == [1, 1, 1, 2, 2, 2]
    for one in report["optimism"]:
        name = f"top {one['candidate']['rank']}, trial {one['candidate']['number']}"
        values = [v[0] for v in frame.loc[frame["variant"] == name, "values"]]
        assert one["fresh_mean"] == pytest.approx(sum(values) / 2)
    assert report["comparison"]["contrasts"][0]["difference"]["n"] == 2
    again = finished.command(*words)
    out_again, err_again = again.communicate(timeout=60)
    assert (again.returncode, out_again) == (0, out)
    assert "starting" not in err_again
    other = finished.command(*words[:-1], "--top", "1")
    _, err_other = other.communicate(timeout=60)
    assert other.returncode == 3
    assert "are asked for" in err_other
    assert "begin another with --name" in err_other
