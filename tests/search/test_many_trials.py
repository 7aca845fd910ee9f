"""What a driver does for a trial does not grow with the search: work is counted, not timed."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.samplers._tpe import sampler as tpe
from optuna.samplers._tpe.sampler import _split_trials
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.trial import FrozenTrial, TrialState

from pgsearch.results import Ledger, garbage
from pgsearch.results.local_storage import LocalStorage
from pgsearch.search import bounded_tpe, kept_weights
from pgsearch.search.bounded_tpe import BoundedTPESampler, Standing, _Shown
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
    count(bounded_tpe, "_rank")
    count(_SearchSpaceGroup, "add_distributions")

    def worth_keeping(search: Any, records: Iterable[Any]) -> set[int]:
        compared = [*records]
        work["compared"] += len(compared)
        return garbage.worth_keeping(search, compared)

    monkeypatch.setattr(kept_weights, "worth_keeping", worth_keeping)
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
    assert by_trial[44]["_rank"] == 1
    # Of the best some are among the newest; the space has two groups.
    splits = [trial.pop("_split_trials") for trial in by_trial[20:]]
    assert 15 < max(splits) <= 2 * (15 + 3)
    assert by_trial[44] == by_trial[20]


def some_trials(num_trials: int) -> optuna.Study:
    """A study with complete, pruned, failed and running trials of two shapes."""
    made = optuna.create_study(  # by whose name Hyperband chooses a bracket
        study_name="some", direction="maximize", sampler=TPESampler(**OPTIONS)
    )
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
    for sampler in (TPESampler(**OPTIONS), BoundedTPESampler(Standing(), **OPTIONS)):
        made.sampler = sampler
        trial = ask(made)
        made.tell(trial, state=TrialState.FAIL)
        choices.append(trial.params)
    assert choices[0] == choices[1]


@pytest.mark.parametrize("best", [5, 25])  # complete ones only; pruned ones too
def test_with_many_it_takes_the_same_for_good(monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    monkeypatch.setattr(bounded_tpe, "NEWEST", 10)
    monkeypatch.setattr(bounded_tpe, "BEST", best)
    made = some_trials(60)
    shown = _Shown(made, Standing().show(made))
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


class Naive(TPESampler):
    """Shown the same trials, which are chosen among all of them for each question."""

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, space: Any) -> Any:
        return super().sample_relative(_Shown(study, self.choose(study)), trial, space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return super().infer_relative_search_space(_Shown(study, self.choose(study)), trial)

    def sample_independent(self, study: optuna.Study, *arguments: Any) -> Any:
        return super().sample_independent(_Shown(study, self.choose(study)), *arguments)

    def choose(self, study: optuna.Study) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        best, _ = _split_trials(study, [t for t in trials if t.state in ended], bounded_tpe.BEST)
        shown = {t.number for t in (*best, *trials[-bounded_tpe.NEWEST :])}
        return [t for t in trials if t.number in shown or not t.state.is_finished()]


@pytest.mark.parametrize("pruner", ["none", "hyperband"])
def test_what_is_kept_changes_no_choice(monkeypatch: pytest.MonkeyPatch, pruner: str) -> None:
    """Several trials at a time, complete, pruned and failed, and a new driver on the way."""
    monkeypatch.setattr(bounded_tpe, "NEWEST", 15)
    monkeypatch.setattr(bounded_tpe, "BEST", 6)
    choices = []
    for is_naive in (True, False):
        made, standing = some_trials(5), Standing()
        if pruner == "hyperband":
            made.pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=4)
        running, chance = [], random.Random(2)
        for number in range(70):
            if number == 40:
                standing = Standing()
            options = {**OPTIONS, "seed": number, "n_startup_trials": 4}
            made.sampler = Naive(**options) if is_naive else BoundedTPESampler(standing, **options)
            running.append(ask(made))
            if len(running) < 3:
                continue
            trial = running.pop(chance.randrange(3))
            trial.report(trial.params["x"], 1)
            state = TrialState.PRUNED if trial.should_prune() or number % 3 == 0 else None
            state = TrialState.FAIL if number % 11 == 0 else state
            made.tell(trial, None if state else trial.params["x"], state=state)
        choices.append([t.params for t in made.trials])
    assert choices[0] == choices[1]
