import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pgsearch.errors import AttemptReplaced, IncompatibleResume, StorageError, UsageError
from pgsearch.results import (
    EpochWriter,
    Ledger,
    TrialRecord,
    TrialState,
    find_search,
    read_epochs,
    read_trials,
)
from pgsearch.results.read import DamagedFileWarning
from pgsearch.results.rows import as_parquet
from pgsearch.results.schema import (
    SCHEMA_VERSION,
    columns_as_markdown,
    epoch_schema,
    trial_schema,
)
from tests.records import epoch_record, grid, spec, trial


def trial_record(number: int = 0) -> TrialRecord:
    return TrialRecord(
        number=number,
        uid=f"small-{number:05d}",
        state=TrialState.RUNNING,
        seed=3,
        variant=None,
        configuration_id="abc",
        params={"loss.lambda1_neg.tail": 2.5, "loss.focusing": "none"},
        optuna_state={"completed_rung_0": 0.25},
        configuration={"loss.name": "pg", "training.epochs": 4},
    )


def test_an_epoch_row_keeps_every_number(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "small")
    EpochWriter(ledger, trial(7), ledger.claim_attempt(7)).append(epoch_record(1, 0.25))
    (row,) = ledger.epochs(7)
    assert row["trial"] == "small-00007"
    assert (row["number"], row["attempt"], row["epoch"], row["iterations"]) == (7, 1, 1, 10)
    assert row["map.validation.tail"] == 0.25
    assert row["map.test.tail"] is None  # not evaluated
    assert row["class.ap.validation"] == [0.25, None, 0.25]  # undefined is missing, never 0
    assert row["class.ap.test"] is None
    assert row["p_neg.tail"] is None
    assert row["class.group"] == ["head", "medium", "tail"]
    assert row["class.lambda1_neg"] == [1.0, 2.0, 3.0]
    assert row["loss.lambda1_neg.tail"] == 1.0
    assert row["loss.focusing.head"] == "adaptive"
    assert row["loss.scale"] is None  # another loss's setting
    assert row["training.decay_epochs"] == [5, 7]
    assert row["images_per_second"] == 160.0
    assert json.loads(row["provenance"])["python"]


def test_pandas_reads_the_epochs_with_no_help(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in (0, 1):
        writer = EpochWriter(ledger, trial(number), ledger.claim_attempt(number))
        for epoch in (1, 2):
            writer.append(epoch_record(epoch))
    frame = pd.read_parquet(tmp_path / "epochs")
    assert sorted(zip(frame["number"], frame["epoch"], strict=True)) == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]
    assert list(frame.columns) == epoch_schema().names


def test_every_column_is_described() -> None:
    for schema in (epoch_schema(), trial_schema()):
        assert all(field.metadata[b"description"] for field in schema)
        assert schema.metadata[b"pgsearch.schema_version"] == str(SCHEMA_VERSION).encode()


def test_the_description_of_the_results_is_up_to_date() -> None:
    readme = Path(__file__).resolve().parents[2] / "results" / "README.md"
    fix = "run: pgsearch schema --columns > results/README.md"
    assert readme.read_text() == columns_as_markdown() + "\n", fix


def test_a_known_epoch_stays_as_it_was_first_recorded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first = EpochWriter(ledger, trial(), ledger.claim_attempt(0))
    first.append(epoch_record(1, 0.5))
    second = EpochWriter(ledger, trial(), ledger.claim_attempt(0))
    assert second.append(epoch_record(1, 0.9))["map.validation.total"] == 0.5
    second.append(epoch_record(2, 0.6))
    assert [(r["epoch"], r["attempt"]) for r in ledger.epochs(0)] == [(1, 1), (2, 2)]


def test_epochs_of_another_configuration_or_seed_are_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    EpochWriter(ledger, trial(), ledger.claim_attempt(0)).append(epoch_record(1))
    for other in (trial(training={"epochs": 9}), trial(seeds=[7])):
        with pytest.raises(StorageError, match="another configuration or seed"):
            EpochWriter(ledger, other, 2)


@pytest.mark.promise(5)
def test_a_replaced_attempt_records_nothing_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    zombie = EpochWriter(ledger, trial(), ledger.claim_attempt(0))
    EpochWriter(ledger, trial(), ledger.claim_attempt(0)).append(epoch_record(1, 0.5))
    with pytest.raises(AttemptReplaced, match="attempt 1 was replaced"):
        zombie.append(epoch_record(1, 0.9))
    assert ledger.epochs(0)[0]["map.validation.total"] == 0.5


def test_a_trial_row_keeps_everything(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "small")
    record = trial_record()
    ledger.write_trial(record)
    assert ledger.trials() == [record]
    ended = replace(
        record, state=TrialState.COMPLETE, values=[0.5], attempts=2, epochs=4, wall_seconds=1.5
    )
    ledger.write_trial(ended)
    assert ledger.trials() == [ended]


def test_a_driver_is_spared_the_configurations_of_ended_trials(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "small")
    running, ended = trial_record(0), replace(trial_record(1), state=TrialState.PRUNED)
    ledger.write_trial(running)
    ledger.write_trial(ended)
    assert ledger.trials(to_go_on=True) == [running, replace(ended, configuration={})]
    ledger.write_trial(replace(running, attempts=2))  # as it was read, so nobody else's
    assert ledger.trials()[0].configuration == running.configuration


def test_of_an_old_file_every_page_is_compared_whatever_is_read_of_it(tmp_path: Path) -> None:
    """Before there were checksums of whole files."""
    ledger = Ledger(tmp_path)
    ledger.write_trial(replace(trial_record(), state=TrialState.COMPLETE))
    path = tmp_path / "trials" / "00000.parquet"
    metadata = {b"pgsearch.schema_version": b"1"}
    table = pq.read_table(path).replace_schema_metadata(metadata)
    pq.write_table(table, path, write_page_checksum=True)
    assert ledger.trials(to_go_on=True)[0].params == trial_record().params
    column = table.schema.get_field_index("training.epochs")
    place = pq.read_metadata(path).row_group(0).column(column)
    content = bytearray(path.read_bytes())
    content[place.data_page_offset + place.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"trials/00000\.parquet: damaged"):
        ledger.trials(to_go_on=True)


def test_a_file_holds_the_columns_as_they_are_declared(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write_trial(trial_record())
    EpochWriter(ledger, trial(), ledger.claim_attempt(0)).append(epoch_record(1))
    for table, schema in (("trials", trial_schema()), ("epochs", epoch_schema())):
        written = pq.read_schema(tmp_path / table / "00000.parquet")
        assert written.equals(schema)
        assert {*schema.metadata} < {*written.metadata}


def test_a_value_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"loss\.lambda9"):
        Ledger(tmp_path).write_trial(replace(trial_record(), configuration={"loss.lambda9": 1.0}))
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    ledger = Ledger(tmp_path)
    ledger.write_trial(trial_record())
    path = tmp_path / "trials" / "00000.parquet"
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "flip":
        content[30] ^= 0xFF  # inside the first page: the page checksum finds it
    else:
        content = bytearray(b"not parquet at all")
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"trials/00000\.parquet: damaged"):
        ledger.trials()
    with pytest.warns(DamagedFileWarning, match=r"left out: .*trials/00000\.parquet: damaged"):
        assert read_trials(ledger).num_rows == 0


def test_begin_creates_and_then_recognises_a_search(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "small")
    assert not ledger.exists
    ledger.begin(spec())
    created = ledger.header()["created_utc"]
    assert ledger.spec() == spec()
    ledger.begin(spec(trials=50, max_concurrent=8))  # more trials extend a search
    assert ledger.spec().trials == 50
    assert ledger.header()["created_utc"] == created


@pytest.mark.promise(9)
def test_another_spec_is_refused_with_what_differs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "small")
    ledger.begin(spec())
    before = (tmp_path / "small" / "search.json").read_bytes()
    other = spec(training={"epochs": 9}, seeds=[4])
    with pytest.raises(IncompatibleResume) as refused:
        ledger.begin(other)
    assert "training.epochs: was 4, is 9" in str(refused.value)
    assert "seeds: was [0], is [4]" in str(refused.value)
    assert refused.value.exit_code == 3
    assert (tmp_path / "small" / "search.json").read_bytes() == before
    with pytest.raises(IncompatibleResume, match="method: was 'search', is 'grid'"):
        ledger.begin(grid())


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(IncompatibleResume, match=r"holds files \(thesis\.tex\) but no"):
        Ledger(tmp_path).begin(spec())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.promise(7)
def test_a_newer_schema_is_refused_with_its_version(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin(spec())
    header = json.loads((tmp_path / "search.json").read_text())
    header |= {"schema_version": SCHEMA_VERSION + 1, "pgsearch": "9.9"}
    (tmp_path / "search.json").write_text(json.dumps(header))
    with pytest.raises(StorageError, match=r"written by pgsearch 9\.9"):
        ledger.spec()


def test_an_older_file_without_a_later_column_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    EpochWriter(ledger, trial(), ledger.claim_attempt(0)).append(epoch_record(1))
    path = tmp_path / "epochs" / "00000.parquet"
    path.write_bytes(as_parquet(pq.read_table(path).drop_columns(["gradient_norm"])))
    (row,) = read_epochs(ledger).to_pylist()
    assert row["gradient_norm"] is None
    assert row["epoch"] == 1


def test_find_search_names_what_there_is(tmp_path: Path) -> None:
    Ledger(tmp_path / "digits_pg").begin(spec(name="digits_pg"))
    assert find_search("digits_pg", tmp_path).url == str(tmp_path / "digits_pg")
    assert find_search(str(tmp_path / "digits_pg"), Path("elsewhere")).exists
    with pytest.raises(UsageError, match=r"did you mean digits_pg\?"):
        find_search("digit_pg", tmp_path)
    with pytest.raises(UsageError, match="there are: digits_pg"):
        find_search("zzz", tmp_path)


@pytest.mark.promise(5)
def test_a_replaced_driver_writes_nothing_more(tmp_path: Path) -> None:
    """Neither a row that the newer driver has not touched yet, nor the spec."""
    zombie, newer = Ledger(tmp_path / "small"), Ledger(tmp_path / "small")
    zombie.drive_as(zombie.drivers().claim({}, after=0) or 0)
    zombie.begin(spec(trials=5))
    zombie.write_trial(trial_record())
    newer.drive_as(newer.drivers().claim({}, after=1) or 0)
    newer.begin(spec(trials=9))
    ended = replace(trial_record(), state=TrialState.COMPLETE, values=[0.5])
    for write in (lambda: zombie.write_trial(ended), lambda: zombie.begin(spec(trials=7))):
        with pytest.raises(StorageError, match="another driver has taken it over"):
            write()
    assert newer.spec().trials == 9
    assert newer.trials() == [trial_record()]
    newer.write_trial(ended)


@pytest.mark.promise(9)
def test_a_fork_into_a_search_of_its_own_is_refused(tmp_path: Path) -> None:
    old, other = Ledger(tmp_path / "small"), Ledger(tmp_path / "other")
    old.begin(spec())
    other.begin(spec(name="other"))
    with pytest.raises(IncompatibleResume, match="other is there and was not forked from small"):
        other.begin(spec(name="other"), forked_from=old)
    fork = Ledger(tmp_path / "fork")
    fork.begin(spec(name="fork"), forked_from=old)
    fork.begin(spec(name="fork"), forked_from=old)  # the same command again


@pytest.mark.promise(12)
def test_a_deep_header_is_damaged_not_a_traceback(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.storage.write("search.json", b"[" * 200_000)
    with pytest.raises(StorageError, match=r"search\.json: damaged"):
        ledger.spec()
