"""Searches of two stages against their ledger, without Ray; the last test runs a real one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.errors import IncompatibleResume
from pgsearch.results import EpochWriter, Ledger, TrialState, read_epochs
from pgsearch.results.promotion import next_promotion, ranked_screen
from pgsearch.results.verify import repair, verify
from pgsearch.search.study import SearchStudy
from tests.records import epoch_record, spec
from tests.search.searches import SPEC, Search
from tests.studies import execute, run_to_end


def staged(*, best: int = 3, check: int = 2, **changes: Any) -> SearchSpec:
    """A screen of 2 epochs, and 4 epochs for those that are promoted."""
    stages = {"screen": {"training": {"epochs": 2}}, "best": best, "check": check}
    return spec(**{"trials": 10, "stages": stages, **changes})


def promoted(ledger: Ledger) -> list[int | None]:
    return [t.promoted_from for t in ledger.trials() if t.stage == "full"]


def by_rank(search: SearchSpec, ledger: Ledger) -> list[int]:
    return [record.number for record in ranked_screen(search, ledger.trials())]


def test_the_best_of_the_screen_and_some_of_the_others_are_trained_as_the_spec_says(
    tmp_path: Path,
) -> None:
    search, ledger = staged(seeds=[5, 6]), Ledger(tmp_path)
    study = run_to_end(search, ledger)
    trials = ledger.trials()
    screen, full = trials[:10], trials[10:]
    assert [t.number for t in trials] == list(range(20))
    assert search.num_trials == 20
    assert {(t.stage, t.seed, t.epochs) for t in screen} == {("screen", 5, 2)}
    assert [(t.stage, t.seed, t.epochs) for t in full] == [("full", s, 4) for s in (5, 6)] * 5
    assert not study.unfinished
    ranked = by_rank(search, ledger)
    # Seven are left, in parts of three and four by rank.
    chosen = [*ranked[:3], ranked[3:][1], ranked[3:][3 + 2]]
    assert [t.promoted_from for t in full] == [n for n in chosen for _ in (5, 6)]
    by_number = {t.number: t for t in trials}
    assert all(t.params == by_number[t.promoted_from or 0].params for t in full)
    assert {row["stage"] for row in ledger.epochs(0)} == {"screen"}
    assert {row["stage"] for row in ledger.epochs(10)} == {"full"}
    # Optuna learns from values of one kind: those of the screen.
    assert [t.values for t in study._optuna.study.trials] == [t.values for t in screen]


@pytest.mark.promise(4)
def test_a_new_driver_for_every_trial_decides_as_one_for_all(tmp_path: Path) -> None:
    search = staged(seeds=[5, 6], pruner={"name": "median", "n_startup_trials": 3})
    straight = run_to_end(search, Ledger(tmp_path / "straight"))
    ledger = Ledger(tmp_path / "resumed")
    for turn in range(200):
        study = SearchStudy(search, ledger)
        trial = study.next_trial()
        if trial is None:
            break
        if turn % 3:  # each third driver dies before its trial has an epoch
            execute(study, ledger, trial)
    assert [(r.stage, r.promoted_from, r.seed, r.params) for r in ledger.trials()] == [
        (r.stage, r.promoted_from, r.seed, r.params) for r in straight.records.values()
    ]
    assert {r.state for r in straight.records.values()} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert {r.state for r in ledger.trials() if r.stage == "full"} == {TrialState.COMPLETE}


def test_nothing_is_promoted_before_the_screen_is_over(tmp_path: Path) -> None:
    search, ledger = staged(), Ledger(tmp_path)
    study = SearchStudy(search, ledger)
    begun = list(iter(study.next_trial, None))
    assert len(begun) == 10
    for trial in begun[1:]:
        execute(study, ledger, trial)
    assert study.next_trial() is None
    assert study.unfinished
    study.put_back(0)  # its worker was lost
    again = study.next_trial()
    assert again == begun[0]
    execute(study, ledger, begun[0])
    first = study.next_trial()
    assert first is not None
    assert (first.number, first.stage) == (10, "full")


def test_more_of_both_stages_keep_what_was_trained(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "small")
    ledger.begin(staged())
    run_to_end(staged(), ledger)
    before = promoted(ledger)
    more = staged(trials=16, best=5)
    ledger.begin(more)
    run_to_end(more, ledger)
    after = promoted(ledger)
    assert after[: len(before)] == before
    assert len(set(after)) == len(after)
    ranked = by_rank(more, ledger)
    assert set(ranked[:5]) <= set(after)
    checked = set(after) - set(before) - set(ranked[:5])
    for part in (ranked[5:10], ranked[10:]):  # one that was trained already is a check
        assert bool(set(part) & set(before)) != bool(set(part) & checked)
    assert len([t for t in ledger.trials() if t.stage == "screen"]) == 16
    # The sampler chooses as in a search that began with so many.
    once = run_to_end(staged(trials=16, best=5), Ledger(tmp_path / "once"))
    assert [r.params for r in once.records.values() if r.stage == "screen"] == [
        t.params for t in ledger.trials() if t.stage == "screen"
    ]
    longer = {"screen": {"training": {"epochs": 3}}, "best": 5, "check": 2}
    with pytest.raises(IncompatibleResume, match=r"stages.screen.training.epochs: was 2, is 3"):
        ledger.begin(staged(stages=longer))
    with pytest.raises(IncompatibleResume, match="stages"):
        ledger.begin(spec(trials=16))


@pytest.mark.promise(9)
def test_failed_trials_of_both_stages_are_retried_in_their_stage(tmp_path: Path) -> None:
    search, ledger = staged(), Ledger(tmp_path)
    study = SearchStudy(search, ledger)
    fail_full = True
    while (trial := study.next_trial()) is not None:
        if trial.number == 3 or (trial.stage == "full" and fail_full):
            fail_full = fail_full and trial.stage != "full"
            study.fail(trial.number, "bad luck")
        else:
            execute(study, ledger, trial)
    assert study.failed == [3, 10]
    study.retry(10)
    study.retry(3)
    again = SearchStudy(search, ledger)
    while (trial := again.next_trial()) is not None:
        execute(again, ledger, trial)
    records = again.records
    assert (records[15].stage, records[15].promoted_from) == ("full", records[10].promoted_from)
    assert (records[16].stage, records[16].params) == ("screen", records[3].params)
    assert again.failed == []
    assert set(by_rank(search, ledger)[:3]) <= set(promoted(ledger))


def test_a_fork_learns_what_was_trained_as_its_screen(tmp_path: Path) -> None:
    old = Ledger(tmp_path / "old")
    old.begin(staged(name="old"))
    run_to_end(staged(name="old"), old)

    def known(search: SearchSpec) -> int:
        ledger = Ledger(tmp_path / search.name)
        ledger.begin(search, forked_from=old)
        return SearchStudy(search, ledger).num_known

    assert known(staged(name="same")) == 10
    assert known(spec(name="full", trials=10)) == 5
    longer = {"screen": {"training": {"epochs": 3}}, "best": 3, "check": 2}
    assert known(staged(name="other", stages=longer)) == 0
    for record in old.trials():  # as they were written before there was such a setting
        configuration = {k: v for k, v in record.configuration.items() if "compile" not in k}
        old.write_trial(replace(record, configuration=configuration))
    assert known(staged(name="later")) == 10


def test_only_fully_trained_trials_keep_a_checkpoint(tmp_path: Path) -> None:
    search, ledger = staged(keep_checkpoints=1), Ledger(tmp_path)
    study = SearchStudy(search, ledger)
    while (trial := study.next_trial()) is not None:
        ledger.checkpoint_file(trial.number).write(b"")
        execute(study, ledger, trial)
        study.remove_checkpoints(trial.number)
        assert [n for n in ledger.kept_checkpoints() if n < 10] == []
    assert len(ledger.kept_checkpoints()) == 1


@pytest.mark.promise(7)
def test_lost_rows_of_the_full_stage_are_written_again(tmp_path: Path) -> None:
    search, ledger = staged(), Ledger(tmp_path / "small")
    ledger.begin(search)
    run_to_end(search, ledger)
    before = ledger.trials()
    for number in (10, 12):
        ledger.file("trials", number).delete()
    ledger.file("epochs", 12).delete()
    repair(ledger, verify(ledger))
    restored = ledger.trials()
    assert (restored[10].stage, restored[10].promoted_from, restored[10].values) == (
        before[10].stage, before[10].promoted_from, before[10].values,
    )  # fmt: skip
    assert (restored[12].stage, restored[12].promoted_from) == ("full", before[12].promoted_from)
    assert restored[12].state is TrialState.RUNNING
    run_to_end(search, ledger)
    assert [t.values for t in ledger.trials()] == [t.values for t in before]
    assert next_promotion(search, ledger.trials()) is None


def test_a_configuration_that_cannot_be_trained_fully_fails_alone(tmp_path: Path) -> None:
    stages = {"screen": {"data": {"tail_below": 15}, "training": {"epochs": 2}}, "best": 10}
    search = staged(
        data={"name": "digits", "head_min": 60, "tail_below": 40},
        space={"data.head_min": {"type": "int", "low": 20, "high": 60}},
        stages={**stages, "check": 0},
    )
    study = SearchStudy(search, Ledger(tmp_path))
    while (trial := study.next_trial()) is not None:
        finish(study, Ledger(tmp_path), trial)
    full = [r for r in study.records.values() if r.stage == "full"]
    failed = [r for r in full if r.state is TrialState.FAIL]
    assert 0 < len(failed) < len(full)
    assert all("do not go together" in str(r.error) for r in failed)


def finish(study: SearchStudy, ledger: Ledger, trial: TrialSpec) -> None:
    last = trial.training.epochs
    writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
    writer.append(epoch_record(last, trial.number / 100, last=True))
    study.complete(trial.number)


@pytest.mark.ray
def test_a_search_of_two_stages_is_run_and_says_whether_the_first_predicts(tmp_path: Path) -> None:
    stages = "stages: {screen: {training: {epochs: 1}}, best: 2, check: 1}\n"
    search = Search(tmp_path, SPEC.replace("epochs: 4", "epochs: 2") + stages)
    code, said = search.run()
    assert code == 0, said
    assert "5 trials of 1 epochs (screen), then 3 trials of 2 epochs (full)" in said
    assert "cannot be told from 3 configurations, 5 are the fewest" in said
    epochs = read_epochs(search.ledger).to_pandas()
    assert epochs.groupby("stage")["number"].nunique().to_dict() == {"screen": 5, "full": 3}
    assert epochs.groupby("stage")["epoch"].max().to_dict() == {"screen": 1, "full": 2}
    process = search.command("status", "small", "--json")
    found = json.loads(process.communicate(timeout=60)[0])
    assert found["stages"] == {"screen": {"COMPLETE": 5}, "full": {"COMPLETE": 3}}
    assert found["best"]["number"] >= 5
    assert found["agreement"]["n"] == 3
