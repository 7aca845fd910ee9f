"""The study against its ledger, without Ray: what a driver does, minus the placing of trials."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from pgsearch.errors import StorageError
from pgsearch.results import EpochWriter, Ledger, TrialState
from pgsearch.search.spaces import sample_trial
from pgsearch.search.study import SearchStudy
from tests.records import BASE, epoch_record, grid, spec
from tests.studies import execute, run_to_end, score


def test_a_search_ends_with_all_its_trials_in_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run_to_end(spec(trials=8), ledger)
    trials = ledger.trials()
    assert [t.number for t in trials] == list(range(8))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert all(
        t.values == [pytest.approx(ledger.epochs(t.number)[-1]["map.validation.total"])]
        for t in trials
    )
    assert all(t.epochs == 4 and t.wall_seconds == 10.0 for t in trials)


def test_inactive_parameters_are_not_chosen(tmp_path: Path) -> None:
    study = run_to_end(spec(trials=12), Ledger(tmp_path))
    focusings = set()
    for record in study.records.values():
        focusings.add(record.params["loss.focusing"])
        assert ("loss.lambda0" in record.params) == (record.params["loss.focusing"] == "adaptive")
    assert focusings == {"none", "adaptive"}


@pytest.mark.promise(4)
def test_a_resumed_search_chooses_as_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = run_to_end(spec(trials=14), Ledger(tmp_path / "straight"))
    ledger = Ledger(tmp_path / "resumed")
    for _ in range(14):  # a new driver for every trial
        study = SearchStudy(spec(trials=14), ledger)
        trial = study.next_trial()
        assert trial is not None
        execute(study, ledger, trial)
    resumed = SearchStudy(spec(trials=14), ledger)
    assert resumed.next_trial() is None
    assert [r.params for r in resumed.records.values()] == [
        r.params for r in straight.records.values()
    ]


@pytest.mark.promise(4)
def test_an_unfinished_trial_goes_on_with_its_number_parameters_and_seed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    study = SearchStudy(spec(), ledger)
    first = study.next_trial()
    assert first is not None
    execute(study, ledger, first, epochs=2)
    again = SearchStudy(spec(), ledger)
    assert again.next_trial() == first
    second = again.next_trial()
    assert second is not None
    assert second.number == 1
    execute(again, ledger, first)
    assert [row["epoch"] for row in ledger.epochs(0)] == [1, 2, 3, 4]
    assert [row["attempt"] for row in ledger.epochs(0)] == [1, 1, 2, 2]
    assert again.records[0].state is TrialState.COMPLETE
    assert again.records[0].attempts == 2


@pytest.mark.promise(4)
def test_optuna_state_after_a_resume_equals_the_state_before(tmp_path: Path) -> None:
    pruned = spec(
        trials=12, pruner={"name": "successive_halving", "min_resource": 1, "reduction_factor": 2}
    )
    ledger = Ledger(tmp_path)
    study = run_to_end(pruned, ledger)
    states = {r.state for r in study.records.values()}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    again = SearchStudy(pruned, ledger)
    for number, before in enumerate(study._optuna.study.trials):
        after = again._optuna.study.trials[number]
        assert after.state == before.state
        assert after.values == before.values
        assert after.intermediate_values == before.intermediate_values
        assert after.params == before.params
        assert after.distributions == before.distributions
        rungs = {k: v for k, v in before.system_attrs.items() if k.startswith("completed_rung")}
        assert rungs
        assert {k: after.system_attrs[k] for k in rungs} == rungs


@pytest.mark.promise(4)
def test_rungs_of_an_unfinished_trial_survive_the_driver(tmp_path: Path) -> None:
    pruned = spec(
        trials=3, pruner={"name": "successive_halving", "min_resource": 1, "reduction_factor": 2}
    )
    ledger = Ledger(tmp_path)
    study = SearchStudy(pruned, ledger)
    first = study.next_trial()
    assert first is not None
    execute(study, ledger, first, epochs=1)
    assert SearchStudy(pruned, ledger).records[0].optuna_state == {
        "completed_rung_0": pytest.approx(score(first, 1))
    }


@pytest.mark.promise(4)
def test_an_epoch_that_is_reported_again_changes_nothing(tmp_path: Path) -> None:
    pruned = spec(trials=2, pruner={"name": "median"})
    ledger = Ledger(tmp_path)
    study = SearchStudy(pruned, ledger)
    trial = study.next_trial()
    assert trial is not None
    assert not study.observe(0, 1, {"map.validation.total": 0.4})
    assert not study.observe(0, 1, {"map.validation.total": 0.9})
    assert study._optuna.study.trials[0].intermediate_values == {1: 0.4}


def test_known_points_come_first_and_replicates_repeat_them(tmp_path: Path) -> None:
    point = {"loss.lambda1_neg": 2, "loss.focusing": "none"}
    search = spec(trials=3, seeds=[5, 6], points=[point])
    study = run_to_end(search, Ledger(tmp_path))
    records = list(study.records.values())
    assert len(records) == 6
    expected = {f"loss.lambda1_neg.{group}": 2.0 for group in ("head", "medium", "tail")}
    assert records[0].params == {**expected, "loss.focusing": "none"}
    for first, second in zip(records[::2], records[1::2], strict=True):
        assert (first.seed, second.seed) == (5, 6)
        assert first.params == second.params
        assert first.configuration_id == second.configuration_id
    assert len({r.configuration_id for r in records}) == 3


def test_a_grid_trains_every_variant_with_every_seed(tmp_path: Path) -> None:
    search = grid(
        seeds=[1, 2],
        space={"training.learning_rate": {"type": "categorical", "choices": [0.01, 0.1]}},
    )
    study = run_to_end(search, Ledger(tmp_path))
    got = [(r.variant, r.params["training.learning_rate"], r.seed) for r in study.records.values()]
    assert got == [(v, lr, s) for v in ("BCE", "PG") for lr in (0.01, 0.1) for s in (1, 2)]
    assert study.records[0].configuration["loss.name"] == "bce"
    assert study.records[4].configuration["loss.name"] == "pg"


def test_an_undefined_objective_fails_the_trial_with_the_reason(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    study = SearchStudy(spec(), ledger)
    trial = study.next_trial()
    assert trial is not None
    writer = EpochWriter(ledger, trial, ledger.claim_attempt(0))
    writer.append(epoch_record(4, float("nan"), last=True))
    record = study.complete(0)
    assert record.state is TrialState.FAIL
    assert "map.validation.total is undefined" in str(record.error)
    assert study._optuna.study.trials[0].state == optuna.trial.TrialState.FAIL


def test_several_objectives(tmp_path: Path) -> None:
    search = spec(objective=[{"metric": "map_head"}, {"metric": "map_tail", "split": "test"}])
    study = run_to_end(search, Ledger(tmp_path))
    assert all(len(r.values or []) == 2 for r in study.records.values())
    assert SearchStudy(search, Ledger(tmp_path))._optuna.study.best_trials


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "nsgaii"])
@pytest.mark.promise(4)
def test_every_sampler_runs_and_resumes(tmp_path: Path, name: str) -> None:
    search = spec(trials=12, sampler={"name": name})
    ledger = Ledger(tmp_path)
    study = SearchStudy(search, ledger)
    for _ in range(6):
        trial = study.next_trial()
        assert trial is not None
        execute(study, ledger, trial)
    assert len(run_to_end(search, ledger).records) == 12


@pytest.mark.parametrize(
    "pruner",
    [
        {"name": "median", "n_startup_trials": 2},
        {"name": "percentile", "percentile": 25.0, "n_startup_trials": 2},
        {"name": "successive_halving", "reduction_factor": 2},
        {"name": "hyperband", "reduction_factor": 2},
        {"name": "threshold", "lower": 0.2},
        {"name": "patient", "patience": 1},
    ],
    ids=lambda pruner: pruner["name"],
)
def test_every_pruner_runs(tmp_path: Path, pruner: dict[str, object]) -> None:
    study = run_to_end(spec(trials=12, pruner=pruner), Ledger(tmp_path))
    states = [r.state for r in study.records.values()]
    assert TrialState.COMPLETE in states
    if pruner["name"] != "patient":  # the made-up curves always rise
        assert TrialState.PRUNED in states


@pytest.mark.promise(11)
def test_only_the_best_keep_a_checkpoint(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    search = spec(trials=5, keep_checkpoints=2, keep_best_epoch=True)
    study = SearchStudy(search, ledger)
    files_of = (ledger.checkpoint_file, ledger.best_file, ledger.scores_file)
    while (trial := study.next_trial()) is not None:
        for file_of in files_of:
            file_of(trial.number).write(b"")
        execute(study, ledger, trial)
        study.remove_checkpoints(trial.number)
    best = sorted(study.records.values(), key=lambda r: -(r.values or [0.0])[0])[:2]
    for file_of in files_of:
        assert {n for n in range(5) if file_of(n).exists()} == {r.number for r in best}


@pytest.mark.promise(11)
@pytest.mark.parametrize("left", ["checkpoint_file", "best_file", "scores_file"])
def test_what_a_kill_left_of_an_ended_trial_goes_with_the_next_driver(
    tmp_path: Path, left: str
) -> None:
    """Also where only one of its files is left; a trial that goes on keeps all of its own."""
    ledger = Ledger(tmp_path)
    search = spec(trials=4, keep_checkpoints=1, keep_best_epoch=True)
    study = run_to_end(search, ledger)
    best = max(study.records.values(), key=lambda r: (r.values or [0.0])[0]).number
    more = search.model_copy(update={"trials": 5})
    assert SearchStudy(more, ledger).next_trial() is not None
    for number in range(5):
        getattr(ledger, left)(number).write(b"")
    SearchStudy(more, ledger).remove_checkpoints()
    assert {n for n in range(5) if getattr(ledger, left)(n).exists()} == {best, 4}


def test_a_missing_trial_row_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run_to_end(spec(trials=3), ledger)
    ledger.file("trials", 1).delete()
    with pytest.raises(StorageError, match=r"00001\.parquet: missing"):
        SearchStudy(spec(trials=3), ledger)


def test_a_sampled_trial_is_one_of_the_search() -> None:
    trial = sample_trial(spec())
    assert 0.5 <= trial.loss.lambda1_neg.tail <= 8
    assert sample_trial(grid()).variant == "BCE"


def test_a_stepped_grid_resumes(tmp_path: Path) -> None:
    step = {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1}
    search = grid(space={"training.learning_rate": step}, variants={"PG": {}})
    study = run_to_end(search, Ledger(tmp_path))
    assert [r.params["training.learning_rate"] for r in study.records.values()] == [0.1, 0.2, 0.3]
    assert SearchStudy(search, Ledger(tmp_path)).next_trial() is None


def test_values_that_do_not_go_together_fail_their_trial_only(tmp_path: Path) -> None:
    search = spec(
        trials=12,
        space={
            "data.head_min": {"type": "int", "low": 20, "high": 60},
            "data.tail_below": {"type": "int", "low": 15, "high": 55},
        },
        data={"name": "digits", "head_min": 60, "tail_below": 15},
    )
    study = run_to_end(search, Ledger(tmp_path))
    states = {r.number: r.state for r in study.records.values()}
    assert set(states) == set(range(12))
    assert set(states.values()) == {TrialState.COMPLETE, TrialState.FAIL}
    failed = next(r for r in study.records.values() if r.state is TrialState.FAIL)
    assert "must not be above head_min" in str(failed.error)
    assert len(SearchStudy(search, Ledger(tmp_path)).records) == 12
    study.retry(failed.number)  # its values still do not go together
    assert study.records[12].state is TrialState.FAIL
    assert study.next_trial() is None
    assert not study.unfinished


@pytest.mark.promise(4)
def test_what_the_sampler_remembers_of_an_unfinished_trial_survives(tmp_path: Path) -> None:
    search = spec(sampler={"name": "nsgaii"})
    study = SearchStudy(search, Ledger(tmp_path))
    study.next_trial()
    before = study._optuna.study.trials[0].system_attrs
    assert before
    after = SearchStudy(search, Ledger(tmp_path))._optuna.study.trials[0].system_attrs
    assert after == before


def test_the_study_knows_what_its_epochs_were_trained_on(tmp_path: Path) -> None:
    run_to_end(grid(), Ledger(tmp_path))
    inputs = SearchStudy(grid(), Ledger(tmp_path)).inputs
    assert inputs == {("BCE", None): {("data", "random")}, ("PG", None): {("data", "random")}}


@pytest.mark.promise(9)
def test_a_retry_is_a_new_trial_that_names_the_old(tmp_path: Path) -> None:
    """Also between replicates: the trials after it have the seeds that they would have had."""
    search = spec(trials=4, seeds=[5, 6])
    straight = run_to_end(search, Ledger(tmp_path / "straight"))
    ledger = Ledger(tmp_path / "retried")
    study = SearchStudy(search, ledger)
    for number in range(3):
        trial = study.next_trial()
        assert trial is not None
        if number == 1:
            study.fail(1, "bad luck")
        else:
            execute(study, ledger, trial)
    assert study.failed == [1]
    study.retry(1)
    assert study.failed == []
    failed = ledger.trials()[1]
    again = SearchStudy(search, ledger)  # a kill right after the retry was recorded
    retry = again.next_trial()
    assert retry is not None
    assert (retry.number, retry.seed) == (3, 6)
    execute(again, ledger, retry)
    while (trial := again.next_trial()) is not None:
        execute(again, ledger, trial)
    records = again.records
    assert len(records) == 9
    assert ledger.trials()[1] == failed
    assert records[1] == replace(failed, configuration={})  # which no driver needs
    assert records[3].retry_of == 1
    assert records[3].params == failed.params
    regular = [r for r in records.values() if r.retry_of is None]
    assert [r.seed for r in regular] == [r.seed for r in straight.records.values()]
    for first, second in zip(regular[::2], regular[1::2], strict=True):
        assert first.params == second.params


@pytest.mark.promise(9)
def test_a_fork_knows_the_finished_trials_that_fit_its_space(tmp_path: Path) -> None:
    old = Ledger(tmp_path / "old")
    old.begin(spec(trials=10))
    known = run_to_end(spec(trials=10), old)
    narrow = {"type": "float", "low": 0.5, "high": 3.0, "log": True}
    new = spec(name="new", trials=4, space={**spec_space(), "loss.lambda1_neg": narrow})
    ledger = Ledger(tmp_path / "new")
    ledger.begin(new, forked_from=old)
    study = SearchStudy(new, ledger)
    fits = [
        record
        for record in known.records.values()
        if all(v <= 3 for k, v in record.params.items() if k.startswith("loss.lambda1_neg"))
    ]
    assert 0 < len(fits) < 10
    assert study.num_known == len(fits)
    assert [t.params for t in study._optuna.study.trials] == [r.params for r in fits]
    assert [t.values for t in study._optuna.study.trials] == [r.values for r in fits]
    run_to_end(new, ledger)
    assert [t.number for t in ledger.trials()] == [0, 1, 2, 3]
    resumed = SearchStudy(new, ledger)
    assert [(t.state, t.params, t.values) for t in resumed._optuna.study.trials][: len(fits)] == [
        (t.state, t.params, t.values) for t in study._optuna.study.trials
    ]
    assert len(resumed._optuna.study.trials) == len(fits) + 4
    assert ledger.header()["forked_from"]["search"] == "old"
    assert [t.number for t in old.trials()] == list(range(10))


def spec_space() -> dict[str, object]:
    return dict(BASE["space"])
