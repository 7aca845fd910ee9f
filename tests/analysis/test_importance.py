import random
from pathlib import Path

import pytest

from pgsearch.analysis.factors import read_outcomes
from pgsearch.analysis.importance import parameter_importance
from pgsearch.analysis.mattered import what_mattered
from pgsearch.config import SearchSpec
from pgsearch.errors import UsageError
from pgsearch.results import Ledger, TrialState
from tests.analysis.made_up import MadeUp, ledger_of
from tests.records import grid, spec

SPACE = {
    "loss.focusing": {"type": "categorical", "choices": ["none", "fixed"], "tied": True},
    "loss.gamma": {"type": "float", "low": 0.5, "high": 4.0, "tied": True},
    "loss.lambda1_neg": {"type": "float", "low": 0.5, "high": 8.0, "groups": ["tail"]},
    "loss.lambda2_neg": {"type": "float", "low": 0.5, "high": 8.0, "groups": ["tail"]},
}


def made_up(count: int, *, seeds: int = 1) -> list[MadeUp]:
    """Trials whose mAP is made by λ₁⁻ of the tail alone."""
    rng = random.Random(0)
    trials = []
    for i in range(count):
        params = {f"loss.lambda{k}_neg.tail": rng.uniform(0.5, 8) for k in (1, 2)}
        params["loss.focusing"] = "none" if i % 4 else "fixed"
        if params["loss.focusing"] == "fixed":
            params["loss.gamma"] = rng.uniform(0.5, 4)
        value = params["loss.lambda1_neg.tail"] / 8
        trials += [MadeUp(params, seed=s, epochs=1, value=value) for s in range(seeds)]
    return trials


def search(**changes: object) -> SearchSpec:
    return spec(**{"name": "small", "space": SPACE, "trials": 40, **changes})


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("results") / "small"
    trials = [*made_up(24), MadeUp(state=TrialState.PRUNED, epochs=1)]
    return ledger_of(folder, search(), trials, classes=["a"])


def test_what_makes_the_metric_is_the_most_important(ledger: Ledger) -> None:
    frame = parameter_importance(*read_outcomes(ledger))
    assert frame["parameter"].iloc[0] == "loss.lambda1_neg.tail"
    assert frame["importance"].sum() == pytest.approx(1)
    assert dict(zip(frame["parameter"], frame["n"], strict=True)) == {
        "loss.lambda1_neg.tail": 24, "loss.lambda2_neg.tail": 24, "loss.focusing": 24,
        "loss.gamma": 6,
    }  # fmt: skip
    conditions = dict(zip(frame["parameter"], frame["condition"], strict=True))
    assert conditions.pop("loss.gamma") == "focusing = fixed"
    assert set(conditions.values()) == {""}


def test_it_is_the_best_that_count_whichever_way_is_better(tmp_path: Path) -> None:
    """λ₁⁻ is uniform among all; only its low values are rare among the best if most is best."""
    down = search(objective={"metric": "map_total", "direction": "minimize"})
    first = ledger_of(tmp_path / "a", search(), made_up(24), classes=["a"])
    second = ledger_of(tmp_path / "b", down, made_up(24), classes=["a"])
    frames = [parameter_importance(*read_outcomes(one)) for one in (first, second)]
    assert all(frame["parameter"].iloc[0] == "loss.lambda1_neg.tail" for frame in frames)
    assert frames[0]["importance"].tolist() != frames[1]["importance"].tolist()


def test_a_configuration_counts_once_however_many_seeds(tmp_path: Path, ledger: Ledger) -> None:
    twice = search(seeds=[0, 1])
    second = ledger_of(tmp_path / "small", twice, made_up(24, seeds=2), classes=["a"])
    frame, again = (parameter_importance(*read_outcomes(one)) for one in (ledger, second))
    assert frame.equals(again)


def test_too_few_and_no_space(tmp_path: Path) -> None:
    few = ledger_of(tmp_path / "small", search(), made_up(11), classes=["a"])
    with pytest.raises(UsageError, match=r"11 complete .* importance needs 15: 4 are missing"):
        parameter_importance(*read_outcomes(few))
    first = what_mattered(few)[0]
    assert not first.rows
    assert "4 are missing" in first.notes[0]
    only_variants = ledger_of(tmp_path / "grid", grid(), [MadeUp(variant="BCE")])
    with pytest.raises(UsageError, match="no space, only variants"):
        parameter_importance(*read_outcomes(only_variants))


def test_the_tables_warn_and_say_what_counts(ledger: Ledger) -> None:
    importance, effects, contrasts, front = what_mattered(ledger, "test.tail")
    assert next(row[0].text for row in importance.rows) == "λ1-.tail"
    notes = " ".join(importance.notes)
    assert "Misleading where parameters are conditional" in notes
    assert "among the best 5 of 24 configurations (highest map.test.tail)" in notes
    assert "left out: 1 PRUNED" in notes
    assert effects.columns[4] == "map.test.tail in %"
    assert contrasts.notes == ("No factor was both adaptive and something else.",)
    assert [row[0].text for row in front.rows] == [
        f"trial {max(range(24), key=lambda i: made_up(24)[i].value)}"
    ]
