"""What a driver does for a trial does not grow with the search: work is counted, not timed."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.samplers._tpe import sampler as tpe
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState

from pgsearch.results import Ledger, garbage
from pgsearch.results.local_storage import LocalStorage
from pgsearch.search import bounded_tpe, study
from pgsearch.search.bounded_tpe import BoundedTPESampler, _Shown
from pgsearch.search.study import SearchStudy
from tests.records import spec
from tests.studies import execute

OPTIONS: dict[str, Any] = {"multivariate": True, "group": True, "seed": 3}


def test_a_trial_costs_as_much_late_as_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Counter[str] = Counter()

    def count(owner: Any, name: str, size: Callable[..., int] = lambda *_: 1) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            work[name] += size(*arguments)
            return original(*arguments, **more)

        monkeypatch.setattr(owner, name, counted)

    for name in ("read", "tag", "swap", "delete", "entries"):
        count(LocalStorage, name)
    count(optuna.Study, "get_trials")
    count(tpe, "_split_trials", lambda _, trials, __: len(trials))

    def worth_keeping(search: Any, records: Iterable[Any]) -> set[int]:
        compared = [*records]
        work["compared"] += len(compared)
        return garbage.worth_keeping(search, compared)

    monkeypatch.setattr(study, "worth_keeping", worth_keeping)
    monkeypatch.setattr(bounded_tpe, "NEWEST", 15)
    monkeypatch.setattr(bounded_tpe, "BEST", 3)
    searched = SearchStudy(spec(trials=45, keep_checkpoints=2), Ledger(tmp_path))
    by_trial = []
    for number in range(45):
        work.clear()
        trial = searched.next_trial()
        assert trial is not None
        execute(searched, searched._ledger, trial)
        searched.remove_checkpoints(number)
        by_trial.append(dict(work))
    assert by_trial[44]["compared"] == 3
    # Of the best some are among the newest; the space has two groups.
    splits = [trial.pop("_split_trials") for trial in by_trial[20:]]
    assert 15 < max(splits) <= 2 * (15 + 3)
    assert by_trial[44] == by_trial[20]


def some_trials(num_trials: int) -> optuna.Study:
    """A study with complete, pruned, failed and running trials of two shapes."""
    made = optuna.create_study(direction="maximize", sampler=TPESampler(**OPTIONS))
    for number in range(num_trials):
        trial = ask(made)
        if number in (2, num_trials - 1):
            continue  # still runs
        trial.report(trial.params["x"], 1 + number % 2)
        ended = {0: TrialState.FAIL, 1: TrialState.PRUNED, 2: TrialState.PRUNED}.get(number % 4)
        made.tell(trial, None if ended else trial.params["x"], state=ended)
    return made


def ask(made: optuna.Study) -> optuna.Trial:
    trial = made.ask()
    trial.suggest_float("x", 0, 1)
    if trial.suggest_categorical("kind", ["plain", "other"]) == "other":
        trial.suggest_float("y", 1, 10, log=True)
    return trial


def test_it_is_optunas_tpe_while_trials_are_few() -> None:
    made = some_trials(40)
    choices = []
    for sampler in (TPESampler, BoundedTPESampler):
        made.sampler = sampler(**OPTIONS)
        trial = ask(made)
        made.tell(trial, state=TrialState.FAIL)
        choices.append(trial.params)
    assert choices[0] == choices[1]


@pytest.mark.parametrize("best", [5, 25])  # complete ones only; pruned ones too
def test_with_many_it_takes_the_same_for_good(monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    monkeypatch.setattr(bounded_tpe, "NEWEST", 10)
    monkeypatch.setattr(bounded_tpe, "BEST", best)
    made = some_trials(60)
    shown = _Shown(made)
    numbers = [t.number for t in shown._get_trials()]
    assert numbers == sorted(numbers)
    assert {2, *range(50, 60)} <= {*numbers}
    assert len(numbers) <= 10 + best + 1
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    good_of_all, _ = _split_trials(made, made.get_trials(states=states), best)
    good, rest = _split_trials(shown, shown._get_trials(states=states), best)
    assert [t.number for t in good] == [t.number for t in good_of_all]
    assert len(good) == best
    assert rest
