"""What is kept of a ledger, here and beside it: always as if it had been read again."""

import contextlib
import os
import random
import shutil
import time
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pgsearch.data.cache import remove_entry, unused_entries
from pgsearch.progress import reading
from pgsearch.results import Ledger, read, read_epochs, read_trials, snapshot
from pgsearch.results.rows import as_parquet, as_table, epoch_row
from pgsearch.results.schema import epoch_schema
from tests.records import epoch_record, trial


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(read, "WORTHWHILE", 3)
    monkeypatch.setattr(snapshot, "WORTHWHILE", 3)
    monkeypatch.setattr(snapshot, "MAX_SEGMENTS", 3)
    return tmp_path / "cache"


def write(ledger: Ledger, number: int, epochs: int, value: float = 0.5) -> None:
    rows = [epoch_row(epoch_record(e, value), trial(number), 1) for e in range(1, epochs + 1)]
    ledger.file("epochs", number).write(as_parquet(as_table(rows, epoch_schema())))


def plain(folder: Path) -> list[dict[str, object]]:
    """Read the folder file by file, without the package."""
    rows = [row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: (row["number"], row["epoch"]))


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every file of the ledger that is parsed."""
    keys: list[str] = []
    parse = read.parse_table

    def noted(file: object, *arguments: object) -> object:
        keys.append(str(file).rpartition("/")[2])
        return parse(file, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(read, "parse_table", noted)
    return keys


def test_only_what_is_new_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "search")
    for number in range(5):
        write(ledger, number, 2)
    keys = opened(monkeypatch)
    first = read_epochs(ledger)
    assert len(keys) == 5
    keys.clear()
    assert read_epochs(ledger).equals(first)
    assert keys == []
    write(ledger, 3, 4)
    write(ledger, 7, 1)
    assert read_epochs(ledger).to_pylist() == plain(tmp_path / "search/epochs")
    assert sorted(keys) == ["00003.parquet", "00007.parquet"]


def test_other_columns_than_the_usual_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "search")
    for number in range(5):
        write(ledger, number, 2)
    keys = opened(monkeypatch)
    usual, others = ["number", "map.validation.total"], ["number", "training.epochs"]
    for columns, num_files in ((usual, 5), (usual, 0), (others, 5), (others, 0), (usual, 0)):
        keys.clear()
        assert read_epochs(ledger, columns).to_pylist() == [
            {name: row[name] for name in columns} for row in plain(tmp_path / "search/epochs")
        ]
        assert len(keys) == num_files
    write(ledger, 3, 4)
    keys.clear()
    read_epochs(ledger, usual)
    read_epochs(ledger, others)
    assert keys == ["00003.parquet"] * 2


def test_any_history_reads_as_if_there_were_no_cache(tmp_path: Path, cache: Path) -> None:
    """Files written, replaced and removed; kept rows merged, damaged, removed, of another time."""
    chance = random.Random(3)
    ledger = Ledger(tmp_path / "search")
    usual = ["number", "epoch", "map.validation.total"]
    columns = [*usual, "class.ap.validation"]
    for _ in range(25):
        for _ in range(chance.randrange(1, 6)):
            number = chance.randrange(8)
            if chance.random() < 0.2:
                ledger.file("epochs", number).delete()
            else:
                write(ledger, number, chance.randrange(1, 4), chance.random())
        if chance.random() < 0.2:
            read.keep_beside(ledger)
        if chance.random() < 0.2:
            shutil.rmtree(cache, ignore_errors=True)
        segments = sorted(cache.rglob("*.parquet"))
        assert len(segments) <= 2 * 5
        segments += (tmp_path / "search/snapshot").glob("*.parquet")
        if segments and chance.random() < 0.2:
            victim = chance.choice(segments)
            if chance.random() < 0.5:
                victim.unlink()
            else:
                victim.write_bytes(victim.read_bytes()[: chance.randrange(200)])
        expected = plain(tmp_path / "search/epochs")
        for some in (usual, columns):
            assert read_epochs(ledger, some).to_pylist() == [
                {name: row[name] for name in some} for row in expected
            ]
        assert read_epochs(ledger).to_pylist() == expected


def test_another_search_of_the_same_place_is_another(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "search")
    for number in range(4):
        write(ledger, number, 2, 0.1)
    read_epochs(ledger)
    shutil.rmtree(tmp_path / "search")
    for number in range(4):
        write(ledger, number, 2, 0.2)
    assert read_epochs(ledger).to_pylist() == plain(tmp_path / "search/epochs")


def test_a_file_that_is_damaged_now_is_left_out_now(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "search")
    for number in range(4):
        write(ledger, number, 2)
    read_epochs(ledger)
    damaged = tmp_path / "search/epochs/00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    for _ in range(2):  # it is not kept either
        with pytest.warns(read.DamagedFileWarning, match=r"00002\.parquet"):
            assert set(read_epochs(ledger)["number"].to_pylist()) == {0, 1, 3}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    ledger = Ledger(tmp_path / "search")
    for number in range(4):
        write(ledger, number, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_epochs(ledger).num_rows == 8
        assert read_trials(ledger).num_rows == 0


def test_reading_tells_how_far_it_is(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "search")
    for number in range(20):
        write(ledger, number, 1)
    told: list[tuple[int, int]] = []
    progress = contextlib.nullcontext(lambda done, total: told.append((done, total)))
    token = reading.set(lambda: progress)
    read_epochs(ledger)
    read_epochs(ledger)  # nothing new: nobody is told
    reading.reset(token)
    assert told == [(0, 20), (16, 20)]


def test_what_another_schema_version_kept_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older pgsearch must refuse a newer file, also where the newer one has kept its rows."""
    ledger = Ledger(tmp_path / "search")
    for number in range(4):
        write(ledger, number, 1)
    monkeypatch.setattr(snapshot, "SCHEMA_VERSION", 99)
    read_epochs(ledger)
    monkeypatch.undo()
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    keys = opened(monkeypatch)
    read_epochs(ledger)
    assert len(keys) == 4


def test_one_place_by_two_paths_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write(Ledger(tmp_path / "search"), number, 1)
    read_epochs(Ledger(tmp_path / "search"))
    monkeypatch.chdir(tmp_path)
    keys = opened(monkeypatch)
    assert read_epochs(Ledger("search")).num_rows == 4
    assert keys == []


def test_what_is_kept_of_a_search_is_an_entry_of_the_cache(tmp_path: Path, cache: Path) -> None:
    """Freed where it was not read for long, whatever is kept of other searches."""
    for name in ("old", "used"):
        for number in range(4):
            write(Ledger(tmp_path / name), number, 1)
        read_epochs(Ledger(tmp_path / name))
    for file in cache.rglob("*.parquet"):
        os.utime(file, (time.time() - 10 * 86400,) * 2)
    read_epochs(Ledger(tmp_path / "used"))
    ((entry, num_bytes),) = unused_entries(cache, days=7)
    assert entry.parent == cache / "ledgers"
    assert num_bytes > 0
    remove_entry(entry)
    assert len(list((cache / "ledgers").glob("[!.]*"))) == 1


def write_and_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Ledger, list[str]]:
    """Keep eight files beside the results; returns what a machine opens that has read nothing."""
    ledger = Ledger(tmp_path / "search")
    for number in range(8):
        write(ledger, number, 2)
    read.keep_beside(ledger)
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "another machine"))
    return ledger, opened(monkeypatch)


def test_a_machine_that_has_read_nothing_reads_what_is_kept_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, keys = write_and_keep(tmp_path, monkeypatch)
    assert read_epochs(ledger).to_pylist() == plain(tmp_path / "search/epochs")
    assert keys == []
    write(ledger, 5, 3, 0.7)
    write(ledger, 9, 1)
    assert read_epochs(ledger, ["number"]).num_rows == 8 * 2 + 1 + 1
    assert keys == ["00005.parquet", "00009.parquet"]


@pytest.mark.parametrize("harm", ["truncated", "flipped", "of another schema", "of another search"])
def test_what_is_kept_beside_counts_only_where_it_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    ledger, keys = write_and_keep(tmp_path, monkeypatch)
    file = tmp_path / "search/snapshot/epochs.parquet"
    data = file.read_bytes()
    if harm == "truncated":
        file.write_bytes(data[:-9])
    elif harm == "flipped":
        file.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    elif harm == "of another schema":
        table = pq.read_table(file)
        metadata = {**table.schema.metadata, b"pgsearch.schema_version": b"99"}
        file.write_bytes(as_parquet(table.replace_schema_metadata(metadata)))
    else:
        for number in range(8):
            write(ledger, number, 2, 0.1)
    assert read_epochs(ledger).to_pylist() == plain(tmp_path / "search/epochs")
    assert len(keys) == 8


def test_few_files_are_not_kept_beside(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "search")
    write(ledger, 0, 2)
    read.keep_beside(ledger)
    assert not (tmp_path / "search/snapshot").exists()
