"""Looking at every file of a search, and setting aside what is damaged."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pgsearch.config import SearchSpec
from pgsearch.config.trial import flatten, trial_uid
from pgsearch.errors import StorageError
from pgsearch.provenance import utc_now
from pgsearch.results.checksum import parquet_is_whole, zip_is_whole
from pgsearch.results.ledger import Ledger
from pgsearch.results.promotion import next_promotion
from pgsearch.results.rows import DamagedFile, configuration_of, read_table, trial_record
from pgsearch.results.schema import TrialRecord, TrialState
from pgsearch.results.snapshot import FOLDER as SNAPSHOT
from pgsearch.results.storage import StoredFile

CLAIMS = ("attempts/", "drivers/")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with one file, or that is missing."""

    file: StoredFile
    what: str
    """The rule that it breaks."""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(ledger: Ledger, *, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Read every file of a search, with its checksums, and compare the files with each other.

    Args:
        ledger: the search.
        progress: called with the number of files that are read and that there are.

    Returns:
        All problems; none where the search is sound.

    Raises:
        StorageError: the storage itself fails, or a newer pgsearch wrote a file.
    """
    files = [
        StoredFile(ledger.storage, entry.key)
        for entry in ledger.storage.entries()
        if not entry.key.startswith("damaged/")
    ]
    problems = []
    for done, file in enumerate(files, 1):
        problems += [Problem(file, what) for what in _damage(file)]
        if progress is not None:
            progress(done, len(files))
    if not ledger.exists:
        problems.append(Problem(StoredFile(ledger.storage, "search.json"), "missing"))
    damaged = {problem.file for problem in problems}
    for part in (ledger, ledger.known()):
        problems += _disagreements(part, damaged)
    return problems


def _damage(file: StoredFile) -> Iterator[str]:
    """Yield what is wrong with one file by itself."""
    folder, _, name = file.key.removeprefix("known/").rpartition("/")
    try:
        if file.key == "search.json":
            Ledger(file.storage).spec()
        elif folder in ("trials", "epochs"):
            _read_rows(file, folder, name)
        elif folder == SNAPSHOT:
            read_table(file)
        elif folder == "checkpoints":
            _read_zip(file)
        elif folder == "scores":
            _read_scores(file)
        elif f"{folder}/" in CLAIMS:
            _read_json(file)
    except DamagedFile as error:
        yield error.reason


def _read_rows(file: StoredFile, table: str, name: str) -> None:
    stem = name.removesuffix(".parquet")
    if not (name.endswith(".parquet") and stem.isdigit()):
        raise DamagedFile(file, "no name of a file of pgsearch")
    found = read_table(file)
    if found is None:
        return
    rows = found[0].to_pylist()
    try:
        numbers = {int(row["number"]) for row in rows}
        if table == "trials":
            for row in rows:
                trial_record(row)
        epochs = [int(row["epoch"]) for row in rows] if table == "epochs" else [1]
        same = {(row["trial"], row["configuration_id"], row["seed"]) for row in rows}
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedFile(file, f"not rows of {table}: {error!r}") from None
    if numbers != {int(stem)}:
        raise DamagedFile(file, f"holds rows of the trials {sorted(numbers)}, not of {int(stem)}")
    if len(same) > 1 or (table == "trials" and len(rows) != 1):
        raise DamagedFile(file, "holds more than one trial")
    if epochs != list(range(1, len(epochs) + 1)):
        raise DamagedFile(file, f"holds the epochs {epochs}, not 1, 2, 3, …")


def _read_zip(file: StoredFile) -> None:
    """A checkpoint is a zip archive: its checksums are compared, nothing in it is loaded."""
    stored = file.read()
    if stored is None:
        return
    is_whole = zip_is_whole(stored.data)
    if is_whole is False:
        raise DamagedFile(file, "its checksum is wrong")
    if is_whole:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(stored.data)) as archive:
            broken = archive.testzip()
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DamagedFile(file, str(error)) from None
    if broken is not None:
        raise DamagedFile(file, f"the checksum of {broken} is wrong")
    if not any(name.endswith("/data.pkl") for name in names):
        raise DamagedFile(file, "an archive, but no checkpoint")


def _read_scores(file: StoredFile) -> None:
    stored = file.read()
    try:
        if stored is not None and parquet_is_whole(stored.data) is False:
            raise DamagedFile(file, "its checksum is wrong")
        if stored is not None:
            reader = pa.BufferReader(stored.data)
            pq.ParquetFile(reader, page_checksum_verification=True).read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DamagedFile(file, str(error).splitlines()[0]) from None


def _read_json(file: StoredFile) -> None:
    stored = file.read()
    try:
        if stored is not None and not isinstance(json.loads(stored.data), dict):
            raise DamagedFile(file, "not a claim")
    except ValueError as error:
        raise DamagedFile(file, str(error)) from None


def _disagreements(ledger: Ledger, damaged: set[StoredFile]) -> Iterator[Problem]:
    """Yield what does not fit together among files that are sound by themselves."""
    records = {}
    for file in ledger.files("trials"):
        if file not in damaged and (found := read_table(file)) is not None:
            record = trial_record(found[0].to_pylist()[0])
            records[record.number] = record
    with_epochs = {_number(file) for file in ledger.files("epochs") if file not in damaged}
    is_known = ledger.url.endswith("/known")
    for number in range(max([*records, *with_epochs], default=-1) + 1):
        file = ledger.file("trials", number)
        if number not in records and file not in damaged and not is_known:
            yield Problem(file, "missing, while there are later trials or epochs of it")
    for number, record in records.items():
        file = ledger.file("epochs", number)
        if file in damaged or not record.state.is_finished or not record.epochs:
            continue
        found = read_table(file)
        if found is None or found[0].num_rows < record.epochs:
            count = 0 if found is None else found[0].num_rows
            yield Problem(file, f"holds {count} epochs, while its trial ended with {record.epochs}")
        elif set(found[0]["configuration_id"].to_pylist()) != {record.configuration_id}:
            yield Problem(file, "holds epochs of another configuration than its trial's row")


def _number(file: StoredFile) -> int:
    return int(file.key.rpartition("/")[2].removesuffix(".parquet"))


# ---------------------------------------------------------------- repair


def repair(ledger: Ledger, problems: list[Problem]) -> list[str]:
    """Set damaged files aside in `damaged/`, and write again what the rest knows of them.

    Call it while no driver works on the search. The search can be read and gone on with after it:
    a trial's lost row comes from its epochs or from the spec, one that is known from neither is a
    FAIL, and so is an ended trial whose epochs are lost; `pgsearch retry` trains it again.

    Returns:
        A line for each thing that was done.

    Raises:
        StorageError: `search.json` is damaged, which nothing else can tell; or the storage fails.
    """
    done = []
    aside = f"damaged/{utc_now():%Y%m%dT%H%M%S}"
    for problem in problems:
        if problem.file.key == "search.json":
            raise StorageError(
                f"{problem}; only it knows what the search is: put it back from a copy, or begin "
                "with the same spec in another --results folder and copy trials/, epochs/ and "
                "checkpoints/ there once it holds a search.json"
            )
    for file in dict.fromkeys(problem.file for problem in problems):
        stored = file.read()
        if stored is None:
            continue
        StoredFile(ledger.storage, f"{aside}/{file.key}").write(stored.data)
        if file.key.startswith(CLAIMS):
            file.write(b"{}\n")  # that it was taken must stay known
        else:
            file.delete()
        done.append(f"{file}: set aside in {ledger.url}/{aside}")
    done += _restore_trials(ledger)
    done += _fail_trials_without_epochs(ledger, aside)
    return done


def _restore_trials(ledger: Ledger) -> Iterator[str]:
    spec = ledger.spec()
    records = {record.number: record for record in ledger.trials()}
    with_epochs = [_number(file) for file in ledger.files("epochs")]
    regular: list[TrialRecord] = []
    for number in range(max([*records, *with_epochs], default=-1) + 1):
        if number not in records:
            rows = ledger.epochs(number)
            others = list(records.values())
            record = (
                _from_epochs(spec, rows, others)
                if rows
                else _from_screen(spec, number, others) or _from_spec(spec, number, regular)
            )
            record = replace(record, attempts=ledger.attempts(number).newest())
            ledger.write_trial(record)
            records[number] = record
            source = f"{len(rows)} epochs" if rows else "the spec"
            yield f"{ledger.file('trials', number)}: written again from {source}: {record.state}"
        if records[number].retry_of is None and records[number].stage != "full":
            regular.append(records[number])


def _from_epochs(
    spec: SearchSpec, rows: list[dict[str, Any]], others: list[TrialRecord]
) -> TrialRecord:
    """Return the row of a trial as its epochs tell it."""
    last = rows[-1]
    configuration = configuration_of(last)
    variant = last["variant"]
    params = {
        dimension.name: configuration[dimension.targets[0]]
        for dimension in spec.dimensions(variant)
        if dimension.targets[0] in configuration and dimension.is_active(configuration)
    }
    found = [last.get(objective.column) for objective in spec.objective]
    values = [float(value) for value in found if value is not None]
    is_last = last["epoch"] == configuration["training.epochs"]
    is_complete = is_last and len(values) == len(found)
    same = [
        other.number
        for other in others
        if other.state is TrialState.FAIL
        and other.number < last["number"]
        and (other.configuration_id, other.seed) == (last["configuration_id"], last["seed"])
    ]
    return TrialRecord(
        number=last["number"],
        uid=last["trial"],
        state=TrialState.COMPLETE if is_complete else TrialState.RUNNING,
        seed=last["seed"],
        variant=variant,
        configuration_id=last["configuration_id"],
        params=params,
        retry_of=same[-1] if same else None,
        stage=last.get("stage"),
        promoted_from=_screened(params, others) if last.get("stage") == "full" else None,
        values=values if is_complete else None,
        epochs=len(rows),
        wall_seconds=sum(row["train_seconds"] + row["evaluation_seconds"] for row in rows),
        started_utc=rows[0]["recorded_utc"],
        ended_utc=last["recorded_utc"] if is_complete else None,
        configuration=configuration,
    )


def _screened(params: dict[str, Any], others: list[TrialRecord]) -> int | None:
    """Return the trial of the screen that has these values."""
    same = [o.number for o in others if o.stage == "screen" and o.params == params and o.values]
    return min(same, default=None)


def _from_screen(spec: SearchSpec, number: int, others: list[TrialRecord]) -> TrialRecord | None:
    """Return the row of a trial of the full stage without epochs: the next that is missing.

    None while the screen is not over, or where none is missing.
    """
    promotion = next_promotion(spec, others)
    if promotion is None:
        return None
    screened, seed = promotion
    return _to_be_begun(
        spec,
        TrialRecord(
            number=number,
            uid=trial_uid(spec.name, number),
            state=TrialState.RUNNING,
            seed=seed,
            variant=screened.variant,
            configuration_id="",
            params=screened.params,
            stage="full",
            promoted_from=screened.number,
            started_utc=utc_now(),
        ),
    )


def _from_spec(spec: SearchSpec, number: int, regular: list[TrialRecord]) -> TrialRecord:
    """Return the row of a trial without epochs: to be begun where the spec says what it is."""
    seeds = spec.seeds_of(spec.first_stage)
    configuration, replicate = divmod(len(regular), len(seeds))
    variant: str | None = None
    params: dict[str, Any] | None = None
    if replicate and regular[-replicate].configuration_id:
        variant, params = regular[-replicate].variant, regular[-replicate].params
    elif not replicate and spec.method == "grid":
        variant, params = spec.grid()[configuration]
    elif not replicate and configuration < len(spec.points):
        params = dict(spec.known_points()[configuration])
    record = TrialRecord(
        number=number,
        uid=trial_uid(spec.name, number),
        state=TrialState.RUNNING,
        seed=seeds[replicate],
        variant=variant,
        configuration_id="",
        params=params or {},
        stage=spec.first_stage,
        started_utc=utc_now(),
    )
    if params is None:
        error = "its row was damaged or lost, and no epoch is there to tell what it was"
        return replace(record, state=TrialState.FAIL, error=error, ended_utc=utc_now())
    return _to_be_begun(spec, record)


def _to_be_begun(spec: SearchSpec, record: TrialRecord) -> TrialRecord:
    trial = spec.trial(
        record.number, record.params, record.variant, seed=record.seed, stage=record.stage
    )
    return replace(
        record,
        configuration_id=trial.configuration_id,
        configuration=flatten(trial.configuration),
    )


def _fail_trials_without_epochs(ledger: Ledger, aside: str) -> Iterator[str]:
    for record in ledger.trials():
        count = len(ledger.epochs(record.number))
        if record.state not in (TrialState.COMPLETE, TrialState.PRUNED) or count >= record.epochs:
            continue
        error = (
            f"{record.epochs - count} of its {record.epochs} epochs were damaged or lost (see "
            f"{aside}); it was {record.state} with {record.values}"
        )
        failed = replace(record, state=TrialState.FAIL, values=None, error=error, epochs=count)
        ledger.write_trial(failed)
        yield f"{ledger.file('trials', record.number)}: FAIL now: {error}"
