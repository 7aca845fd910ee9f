"""`verify`, `gc`, `doctor` and `retry` as a user calls them, on a folder and on an object store."""

import json
import os
import time
from pathlib import Path

import pytest

from pgsearch.results import Ledger
from tests.cli.conftest import Run
from tests.object_store import environment, s3_server
from tests.records import spec
from tests.studies import execute, run_to_end


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two searches of three complete trials."""
    for name in ("first", "second"):
        search = spec(name=name, trials=3)
        ledger = Ledger(tmp_path / "results" / name)
        ledger.begin(search)
        run_to_end(search, ledger)
    return tmp_path / "results"


@pytest.mark.promise(7)
def test_verify_names_damage_and_repairs_it(pgsearch: Run, results: Path) -> None:
    sound = pgsearch("verify", "--results", results)
    assert (sound.code, sound.out) == (0, "first: sound\nsecond: sound\n")
    damaged = results / "second" / "epochs" / "00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    found = pgsearch("verify", "--results", results)
    assert found.code == 5
    assert found.out.splitlines()[0] == "first: sound"
    assert f"{damaged}: " in found.out.splitlines()[1]
    assert "pgsearch verify --repair" in found.err
    assert damaged.exists()  # looking changes nothing
    table = pgsearch("table", "second", "--leaderboard", "--results", results)
    assert table.code == 0
    assert f"warning: left out: {damaged}" in table.err
    facts = json.loads(pgsearch("verify", "second", "--json", "--results", results).out)
    assert len(facts["second"]["problems"]) == 1
    repaired = pgsearch("verify", "second", "--repair", "--results", results)
    assert repaired.code == 0
    assert "set aside in" in repaired.out
    assert "FAIL now: 4 of its 4 epochs were damaged or lost" in repaired.out
    assert pgsearch("verify", "--results", results).code == 0


@pytest.mark.promise(11)
def test_gc_shows_and_frees_what_nothing_needs(pgsearch: Run, results: Path) -> None:
    ledger = Ledger(results / "first")
    best = max(ledger.trials(), key=lambda record: record.values or [0.0]).number
    for number in range(3):
        ledger.checkpoint_file(number).write(b"x" * 1000)
        ledger.scores_file(number).write(b"y" * 10)
    ledger.checkpoint_file(7).write(b"of no trial")
    leftover = results / "first" / "epochs" / ".00001.parquet.1.ab.tmp"
    leftover.write_bytes(b"half")
    young = results / "first" / "epochs" / ".00002.parquet.1.ab.tmp"
    young.write_bytes(b"being written")
    os.utime(leftover, (time.time() - 3600,) * 2)
    shown = pgsearch("gc", "first", "--results", results)
    assert shown.code == 0
    assert "2,035  bytes in 6 files can be freed with --free" in shown.out
    assert "left by a kill in the middle of a write" in shown.out
    assert "trial 7" not in shown.out
    assert len(ledger.kept_checkpoints()) == 4
    listed = json.loads(pgsearch("gc", "first", "--json", "--results", results).out)
    assert sum(item["bytes"] for item in listed) == 2035
    freed = pgsearch("gc", "first", "--free", "--results", results)
    assert "2,035  bytes in 6 files freed" in freed.out
    assert ledger.kept_checkpoints() == [best]
    assert ledger.scores_file(best).exists()
    assert not leftover.exists()
    assert young.exists()
    assert pgsearch("gc", "--results", results).out.strip() == (
        "0  bytes in 0 files can be freed with --free"
    )
    assert pgsearch("verify", "second", "--results", results).code == 0


@pytest.mark.promise(11)
def test_gc_keeps_what_an_unfinished_trial_needs(pgsearch: Run, tmp_path: Path) -> None:
    from pgsearch.search.study import SearchStudy

    search = spec(trials=2)
    ledger = Ledger(tmp_path / "small")
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    trial = study.next_trial()
    assert trial is not None
    execute(study, ledger, trial, epochs=2)
    ledger.checkpoint_file(0).write(b"state")
    pgsearch("gc", "small", "--free", "--damaged", "--results", tmp_path)
    assert ledger.kept_checkpoints() == [0]


@pytest.mark.promise(11)
def test_gc_frees_cache_entries_that_were_not_used(
    pgsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from pgsearch.data.cache import ArrayPlan, cached_arrays

    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    plan = {"a": ArrayPlan((4,), "float32")}
    for key in ("old", "used"):
        cached_arrays(tmp_path / "cache", key, plan=plan, build=lambda: [{"a": np.ones(4, "f4")}])
        contents = tmp_path / "cache" / key / "arrays.json"
        os.utime(contents, (time.time() - 10 * 86400,) * 2)
    again = cached_arrays(tmp_path / "cache", "used", plan=plan, build=list)
    assert again["a"].tolist() == [1, 1, 1, 1]
    shown = pgsearch("gc", "--cache", 7, "--results", tmp_path / "nothing")
    assert "cache/old: not used for 7 days" in shown.out
    assert "cache/used" not in shown.out
    pgsearch("gc", "--cache", 7, "--free", "--results", tmp_path / "nothing")
    assert [p.name for p in (tmp_path / "cache").glob("[!.]*")] == ["used"]


@pytest.mark.promise(11)
def test_gc_leaves_what_may_be_being_built(
    pgsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    for age in (600, 7200):
        entry = tmp_path / "cache" / f".key.{age}.partial"
        entry.mkdir(parents=True)
        (entry / "images.npy").write_bytes(b"half")
        os.utime(entry / "images.npy", (time.time() - age,) * 2)
        os.utime(entry, (time.time() - 10 * 86400,) * 2)  # as its first file was made
    pgsearch("gc", "--cache", 0, "--free", "--results", tmp_path / "nothing")
    assert [p.name for p in (tmp_path / "cache").glob("*")] == [".key.600.partial"]


@pytest.mark.promise(7)
def test_a_table_of_lost_epochs_says_so(pgsearch: Run, results: Path) -> None:
    for damaged in (results / "second" / "epochs").iterdir():
        damaged.write_bytes(damaged.read_bytes()[:-100])
    table = pgsearch("table", "second", "--results", results)
    assert table.code == 2
    assert "no complete trial in second" in table.err
    assert "Traceback" not in table.err


def test_doctor_tells_what_a_storage_does(pgsearch: Run, tmp_path: Path) -> None:
    told = pgsearch("doctor", "--storage", tmp_path / "results")
    assert told.code == 0, told.out
    assert told.out.count("ok  ") == 8
    assert "ok    conditional replace: a stale version was refused" in told.out
    facts = json.loads(pgsearch("doctor", "--storage", tmp_path / "results", "--json").out)
    assert all(fact["held"] for fact in facts)
    (tmp_path / "file").touch()
    broken = pgsearch("doctor", "--storage", tmp_path / "file" / "x")
    assert broken.code == 5
    assert broken.out.startswith("FAIL  write and read: ")


@pytest.mark.promise(10)
def test_reading_commands_read_an_object_store(
    pgsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        search = spec(trials=3)
        ledger = Ledger("s3://bucket/results/small")
        ledger.begin(search)
        run_to_end(search, ledger)
        where = ("--results", "s3://bucket/results")
        assert "3 of 3 trials begun: 3 COMPLETE" in pgsearch("status", "small", *where).out
        assert "small" in pgsearch("table", "small", *where).out
        assert pgsearch("best", "small", *where).code == 0
        assert pgsearch("verify", *where).out == "small: sound\n"
        assert "0  bytes in 0 files" in pgsearch("gc", *where).out
        assert pgsearch("doctor", "--storage", "s3://bucket/elsewhere").out.count("ok  ") == 8
        wrong = pgsearch("status", "smal", *where)
        assert wrong.code == 2
        assert "did you mean small?" in wrong.err


def test_retry_in_a_folder_that_was_renamed_begins_no_other_search(
    pgsearch: Run, results: Path
) -> None:
    (results / "first").rename(results / "moved")
    refused = pgsearch("retry", "moved", "--results", results)
    assert refused.code == 2
    assert "moved: its folder was renamed from first" in refused.err
    assert not (results / "first").exists()
