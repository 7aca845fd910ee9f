import math
from pathlib import Path

import numpy as np
import pytest

from pgsearch.analysis.tables import best_configuration, configurations, leaderboard, short_params
from pgsearch.config import SearchSpec
from pgsearch.errors import UsageError
from pgsearch.results import EpochWriter, Ledger
from pgsearch.search.study import SearchStudy
from tests.records import epoch_record, grid, spec

SCORES = {"BCE": (0.50, 0.54, 0.52), "PG": (0.60, 0.66, 0.63)}


def finished(folder: Path, search: SearchSpec, scores: dict[str, tuple[float, ...]]) -> Ledger:
    ledger = Ledger(folder)
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    taken = dict.fromkeys(scores, 0)
    while (trial := study.next_trial()) is not None:
        variant = trial.variant or "PG"
        value = scores[variant][taken[variant]]
        taken[variant] += 1
        EpochWriter(ledger, trial, 1).append(epoch_record(4, value, last=True))
        study.complete(trial.number)
    return ledger


def test_configurations_are_means_over_seeds(tmp_path: Path) -> None:
    ledger = finished(tmp_path / "small", grid(seeds=[1, 2, 3]), SCORES)
    frame = configurations([ledger])
    assert frame["label"].tolist() == ["BCE", "PG"]
    assert frame["n"].tolist() == [3, 3]
    for row, variant in zip(frame.to_dict("records"), SCORES, strict=True):
        assert row["tail.mean"] == pytest.approx(np.mean(SCORES[variant]))
        assert row["tail.std"] == pytest.approx(np.std(SCORES[variant], ddof=1))


def test_one_seed_has_no_standard_deviation(tmp_path: Path) -> None:
    ledger = finished(tmp_path / "small", grid(), SCORES)
    assert configurations([ledger])["total.std"].isna().all()


def test_several_searches_in_one_table(tmp_path: Path) -> None:
    first = finished(tmp_path / "a", grid(name="a"), SCORES)
    second = finished(tmp_path / "b", grid(name="b", seeds=[1, 2]), SCORES)
    frame = configurations([first, second])
    assert list(zip(frame["search"], frame["n"], strict=True)) == [
        ("a", 1), ("a", 1), ("b", 2), ("b", 2),
    ]  # fmt: skip


def test_what_does_not_compare_is_refused(tmp_path: Path) -> None:
    first = finished(tmp_path / "a", grid(name="a"), SCORES)
    longer = grid(name="b", training={"epochs": 4, "learning_rate": 0.5})
    second = finished(tmp_path / "b", longer, SCORES)
    configurations([first, second])  # another learning rate is another configuration, not a mix
    other = grid(name="c", training={"epochs": 5})
    ledger = Ledger(tmp_path / "c")
    ledger.begin(other)
    study = SearchStudy(other, ledger)
    trial = study.next_trial()
    assert trial is not None
    EpochWriter(ledger, trial, 1).append(epoch_record(5, 0.5, last=True))
    study.complete(0)
    with pytest.raises(UsageError, match=r"different numbers of epochs \(4.*: a; 5.*: c\)"):
        configurations([first, ledger])
    mixed = configurations([first, ledger], allow_mixed=True)
    assert list(zip(mixed["search"], mixed["label"], mixed["n"], strict=True)) == [
        ("a", "BCE", 1), ("a", "PG", 1), ("c", "BCE", 1), ("c", "PG", 0),
    ]  # fmt: skip


def test_nothing_complete_is_said(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "small")
    ledger.begin(spec())
    SearchStudy(spec(), ledger).next_trial()
    with pytest.raises(UsageError, match="no complete trial in small yet"):
        configurations([ledger])


def test_the_leaderboard_puts_the_best_first_and_failures_last(tmp_path: Path) -> None:
    search = spec(trials=4, pruner={"name": "threshold", "lower": 0.2})
    ledger = Ledger(tmp_path / "small")
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    for value in (0.5, 0.7):
        trial = study.next_trial()
        assert trial is not None
        EpochWriter(ledger, trial, 1).append(epoch_record(4, value, last=True))
        study.complete(trial.number)
    study.next_trial()
    study.fail(2, "broken")
    trial = study.next_trial()
    assert trial is not None
    row = EpochWriter(ledger, trial, 1).append(epoch_record(1, 0.1))
    assert study.observe(3, 1, row)
    study.prune(3)
    frame = leaderboard(ledger)
    assert frame["number"].tolist() == [1, 0, 3, 2]
    assert frame["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert frame["value"].tolist()[:2] == [0.7, 0.5]
    assert math.isnan(frame["map.test.total"].tolist()[2])  # a pruned trial was never tested
    assert frame["error"].tolist()[3] == "broken"


def test_parameters_in_the_papers_signs() -> None:
    params = {"loss.lambda1_neg.tail": 2.345678, "loss.focusing": "fixed", "loss.lambda0": 2.0,
              "loss.lambda2_pos_mode": "adaptive", "training.learning_rate": 0.01}  # fmt: skip
    assert short_params(params) == (
        "λ1-.tail=2.35 focusing=fixed λ0=2 λ2+mode=adaptive training.learning_rate=0.01"
    )


def test_the_best_is_the_best_mean_over_seeds_not_the_luckiest_trial(tmp_path: Path) -> None:
    scores = {"BCE": (0.60, 0.61, 0.62), "PG": (0.50, 0.70, 0.51)}
    ledger = finished(tmp_path / "small", grid(seeds=[1, 2, 3]), scores)
    assert leaderboard(ledger)["variant"].iloc[0] == "PG"
    best = best_configuration(ledger)
    assert set(best["variant"]) == {"BCE"}
    assert best["value"].mean() == pytest.approx(0.61)


def test_thresholds_of_groups_that_differ_do_not_compare(tmp_path: Path) -> None:
    first = finished(tmp_path / "a", grid(name="a"), SCORES)
    data = {"name": "digits", "head_min": 50}
    second = finished(tmp_path / "b", grid(name="b", data=data), SCORES)
    with pytest.raises(UsageError, match="different thresholds of head classes"):
        configurations([first, second])


def test_the_same_configuration_and_seed_twice_is_one_replicate(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"type": "categorical", "choices": [0.1]}}
    ledger = finished(tmp_path / "small", spec(trials=3, space=space), {"PG": (0.5, 0.5, 0.5)})
    assert configurations([ledger])["n"].tolist() == [1]


def test_selection_on_test_is_said(tmp_path: Path) -> None:
    on_test = spec(trials=1, objective={"split": "test"})
    frame = configurations([finished(tmp_path / "small", on_test, {"PG": (0.5,)})])
    assert frame["selected_on"].tolist() == ["test"]


def test_a_grid_shows_what_is_not_trained_yet(tmp_path: Path) -> None:
    search = grid(seeds=[1, 2])
    ledger = Ledger(tmp_path / "small")
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    trial = study.next_trial()
    assert trial is not None
    EpochWriter(ledger, trial, 1).append(epoch_record(4, 0.5, last=True))
    study.complete(trial.number)
    frame = configurations([ledger])
    assert frame["label"].tolist() == ["BCE", "PG"]
    assert frame["n"].tolist() == [1, 0]
    assert frame["seeds"].tolist() == [2, 2]
    assert frame["trials"].tolist() == [[0], []]
    assert math.isnan(frame["total.mean"].iloc[1])


def test_image_sizes_and_ways_to_select_that_differ_do_not_compare(tmp_path: Path) -> None:
    first = finished(tmp_path / "a", grid(name="a"), SCORES)
    data = {"name": "digits", "image_size": 64}
    second = finished(tmp_path / "b", grid(name="b", data=data), SCORES)
    with pytest.raises(UsageError, match=r"image sizes \(48.*: a; 64.*: b\).*--allow-mixed"):
        configurations([first, second])
    on_test = finished(
        tmp_path / "c", spec(name="c", trials=1, objective={"split": "test"}), {"PG": (0.5,)}
    )
    on_validation = finished(tmp_path / "d", spec(name="d", trials=1), {"PG": (0.5,)})
    configurations([first, on_test])  # a grid selects nothing
    with pytest.raises(UsageError, match=r"splits that a search optimised \(test: c; valida"):
        configurations([on_test, on_validation])


def test_a_search_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    ledger = finished(tmp_path / "a", grid(name="a"), SCORES)
    with pytest.raises(UsageError, match="a is named 2 times"):
        configurations([ledger, Ledger(tmp_path / "a")])


def test_searches_of_one_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    places = [tmp_path / here / "a" for here in ("one", "two")]
    ledgers = [finished(place, grid(name="a"), SCORES) for place in places]
    frame = configurations(ledgers)
    assert frame["search"].unique().tolist() == [str(place) for place in places]
    assert frame["n"].tolist() == [1, 1, 1, 1]
