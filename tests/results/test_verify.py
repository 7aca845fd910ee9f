"""Damage of every kind: named, set aside, and everything else still read."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pgsearch.config import SearchSpec
from pgsearch.errors import StorageError
from pgsearch.results import Ledger, TrialState, read_epochs, read_trials
from pgsearch.results.checksum import seal_zip
from pgsearch.results.read import DamagedFileWarning, keep_beside
from pgsearch.results.rows import as_parquet
from pgsearch.results.schema import SCHEMA_VERSION
from pgsearch.results.verify import repair, verify
from pgsearch.search.study import SearchStudy
from tests.conftest import Points
from tests.records import grid, spec
from tests.studies import execute, run_to_end

pytestmark = pytest.mark.promise(7)


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def flip_early(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 0xFF]) + data[41:]


def flip_in_the_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def foreign(data: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(2000)


def foreign_parquet(data: bytes) -> bytes:
    import pyarrow as pa

    buffer = io.BytesIO()
    pq.write_table(pa.table({"number": [1, 2], "x": ["a", "b"]}), buffer)
    return buffer.getvalue()


DAMAGES: list[Callable[[bytes], bytes]] = [
    truncate, empty, flip_early, flip_in_the_middle, foreign, foreign_parquet,
]  # fmt: skip


def checkpoint_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.arange(500.0)}, "epoch": 4}, buffer)
    return seal_zip(buffer.getvalue())


@pytest.fixture
def search() -> SearchSpec:
    return spec(trials=3, points=[{"loss.lambda1_neg": 1.0, "loss.focusing": "none"}])


@pytest.fixture
def ledger(tmp_path: Path, search: SearchSpec) -> Ledger:
    """Three complete trials with a checkpoint each, and one that stands at its second epoch."""
    ledger = Ledger(tmp_path / "small")
    ledger.begin(search)
    run_to_end(search, ledger)
    more = search.model_copy(update={"trials": 4})
    ledger.begin(more)
    study = SearchStudy(more, ledger)
    trial = study.next_trial()
    assert trial is not None
    execute(study, ledger, trial, epochs=2)
    for number in range(4):
        ledger.checkpoint_file(number).write(checkpoint_bytes())
    return ledger


def test_a_sound_search_has_no_problem(ledger: Ledger) -> None:
    seen = []
    assert verify(ledger, progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1][0] == seen[-1][1] == len(list(ledger.storage.entries()))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    "key", ["trials/00001.parquet", "epochs/00001.parquet", "checkpoints/00001.pt",
            "trials/00003.parquet", "epochs/00003.parquet", "checkpoints/00003.pt"],
)  # fmt: skip
def test_damage_is_named_and_set_aside_and_the_rest_is_read(
    ledger: Ledger, key: str, damage: Callable[[bytes], bytes]
) -> None:
    stored = ledger.storage.read(key)
    assert stored is not None
    bad = damage(stored.data)
    ledger.storage.write(key, bad)
    if key.endswith(".parquet"):
        with pytest.warns(DamagedFileWarning, match=key):
            rest = (read_trials if key.startswith("trials") else read_epochs)(ledger)
        number = int(key[-13:-8])
        assert set(rest["number"].to_pylist()) == {0, 1, 2, 3} - {number}
    problems = verify(ledger)
    assert [p.file.key for p in problems] == [key]
    done = repair(ledger, problems)
    assert any("set aside" in line for line in done)
    (aside,) = ledger.storage.entries("damaged/")
    stored = ledger.storage.read(aside.key)
    assert stored is not None
    assert stored.data == bad
    assert verify(ledger) == []
    # The search goes on to its end: what was complete stays so, or says why not.
    after = run_to_end(ledger.spec(), ledger)
    states = [after.records[n].state for n in range(4)]
    lost_for_good = key == "epochs/00001.parquet"
    assert states[1] is (TrialState.FAIL if lost_for_good else TrialState.COMPLETE)
    assert {states[0], states[2], states[3]} == {TrialState.COMPLETE}
    if lost_for_good:
        assert "4 of its 4 epochs were damaged or lost" in str(after.records[1].error)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_rows_beside_the_results_cost_nothing(
    ledger: Ledger, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsearch.results.read.WORTHWHILE", 2)
    before = read_epochs(ledger)
    keep_beside(ledger)
    key = "snapshot/epochs.parquet"
    stored = ledger.storage.read(key)
    assert stored is not None
    ledger.storage.write(key, damage(stored.data))
    problems = verify(ledger)
    assert [p.file.key for p in problems] == [key]
    repair(ledger, problems)
    assert verify(ledger) == []
    assert read_epochs(ledger).equals(before)


@pytest.mark.slow
def test_no_single_flipped_bit_goes_unnoticed(ledger: Ledger, points: Points) -> None:
    """A bit in each part of a file: found, or without any effect on what is read."""
    for key in ("epochs/00002.parquet", "checkpoints/00002.pt", "trials/00002.parquet"):
        stored = ledger.storage.read(key)
        assert stored is not None
        read = lambda: (ledger.epochs(2), ledger.trials()[2])  # noqa: E731
        before = read()
        for i in range(0, len(stored.data), len(stored.data) // 40):
            with points.point():
                flipped = bytearray(stored.data)
                flipped[i] ^= 1 << (i % 8)
                ledger.storage.write(key, bytes(flipped))
                if not verify(ledger):
                    if key.endswith(".pt"):
                        state = torch.load(io.BytesIO(bytes(flipped)), weights_only=True)
                        assert torch.equal(state["model"]["w"], torch.arange(500.0))
                    else:
                        assert read() == before
        ledger.storage.write(key, stored.data)


def test_a_lost_row_comes_back_from_its_epochs(ledger: Ledger) -> None:
    before = {record.number: record for record in ledger.trials()}
    for number in (1, 3):  # a complete one, and one that stands at its second epoch
        ledger.file("trials", number).delete()
    problems = verify(ledger)
    assert [p.file.key for p in problems] == ["trials/00001.parquet", "trials/00003.parquet"]
    assert "missing, while there are later trials" in str(problems[0])
    repair(ledger, problems)
    after = {record.number: record for record in ledger.trials()}
    for number in (1, 3):
        for part in ("uid", "seed", "params", "state", "values", "configuration_id",
                     "configuration", "variant"):  # fmt: skip
            assert getattr(after[number], part) == getattr(before[number], part), part


def test_a_lost_row_without_epochs_comes_back_from_the_spec(tmp_path: Path) -> None:
    search = grid(seeds=[3, 4])
    ledger = Ledger(tmp_path / "small")
    ledger.begin(search)
    before = run_to_end(search, ledger).records
    for number in (1, 2):
        ledger.file("trials", number).delete()
        ledger.file("epochs", number).delete()
    repair(ledger, verify(ledger))
    after = ledger.trials()
    for number in (1, 2):
        assert after[number].state is TrialState.RUNNING
        for part in ("uid", "seed", "params", "variant", "configuration_id"):
            assert getattr(after[number], part) == getattr(before[number], part), part
        given = {k: v for k, v in before[number].configuration.items() if v is not None}
        assert after[number].configuration == given
    assert verify(ledger) == []
    run_to_end(search, ledger)
    assert {t.state for t in ledger.trials()} == {TrialState.COMPLETE}


def test_a_sampled_trial_of_which_nothing_is_left_is_a_fail(ledger: Ledger) -> None:
    ledger.file("trials", 2).delete()
    ledger.file("epochs", 2).delete()
    repair(ledger, verify(ledger))
    lost = ledger.trials()[2]
    assert lost.state is TrialState.FAIL
    assert "no epoch is there to tell what it was" in str(lost.error)
    run_to_end(ledger.spec(), ledger)
    assert verify(ledger) == []


@pytest.mark.parametrize("folder", ["attempts", "drivers"])
def test_a_damaged_claim_still_counts(ledger: Ledger, folder: str) -> None:
    key = {"attempts": "attempts/00001-1.json", "drivers": "drivers/1.json"}[folder]
    ledger.storage.write(key, b"\0\0")
    problems = verify(ledger)
    assert [p.file.key for p in problems] == [key]
    repair(ledger, problems)
    assert verify(ledger) == []
    assert ledger.storage.read(key) is not None
    assert ledger.claim_attempt(1) == 2


def test_a_stray_file_among_the_rows_is_set_aside(ledger: Ledger) -> None:
    ledger.storage.write("epochs/copy of 00001.parquet", b"x")
    ledger.storage.write("notes.txt", b"of the user, elsewhere: left alone")
    problems = verify(ledger)
    assert [p.file.key for p in problems] == ["epochs/copy of 00001.parquet"]
    repair(ledger, problems)
    assert ledger.storage.read("notes.txt") is not None


def test_a_damaged_header_is_not_guessed(ledger: Ledger) -> None:
    ledger.storage.write("search.json", b'{"schema')
    problems = verify(ledger)
    assert [p.file.key for p in problems] == ["search.json"]
    with pytest.raises(StorageError, match="only it knows what the search is"):
        repair(ledger, problems)


def test_a_trial_under_another_number_is_found(ledger: Ledger) -> None:
    stored = ledger.file("epochs", 1).read()
    assert stored is not None
    ledger.file("epochs", 2).write(stored.data)
    assert "holds rows of the trials [1], not of 2" in str(verify(ledger)[0])


@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_a_newer_file_is_refused_with_the_version_that_wrote_it(
    ledger: Ledger, table: str, tmp_path: Path
) -> None:
    path = tmp_path / "small" / table / "00001.parquet"
    newer = pq.read_table(path)
    metadata = {**newer.schema.metadata, b"pgsearch.version": b"9.9",
                b"pgsearch.schema_version": str(SCHEMA_VERSION + 1).encode()}  # fmt: skip
    path.write_bytes(as_parquet(newer.replace_schema_metadata(metadata)))
    message = rf"00001\.parquet: written by pgsearch 9\.9 with schema {SCHEMA_VERSION + 1}"
    with pytest.raises(StorageError, match=message):
        verify(ledger)
    with pytest.raises(StorageError, match=message):
        ledger.trials() if table == "trials" else ledger.epochs(1)


def test_a_newer_search_is_refused(ledger: Ledger) -> None:
    header = ledger.header() | {"schema_version": SCHEMA_VERSION + 1, "pgsearch": "9.9"}
    ledger.storage.write("search.json", json.dumps(header).encode())
    with pytest.raises(StorageError, match=r"written by pgsearch 9\.9 .*update pgsearch"):
        verify(ledger)
