"""Running a search: data, lock, ledger, Ray, and the way out."""

import contextlib
import logging
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pgsearch.config import SearchSpec
from pgsearch.data.build import build_dataset
from pgsearch.data.dataset import SPLITS, MultiLabelDataset
from pgsearch.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_COMPLETED,
    EXIT_SOME_FAILED,
    IncompatibleResume,
    InvalidSpec,
    StorageError,
    UsageError,
)
from pgsearch.models.build import check_model, weights_fingerprint
from pgsearch.results import DriverLease, Ledger, TrialState
from pgsearch.results.read import keep_beside
from pgsearch.results.storage import Storage, open_storage
from pgsearch.search.control import Listener, SearchControl
from pgsearch.search.orphans import end_orphans, mark_session
from pgsearch.search.signals import StopSignals
from pgsearch.search.study import SearchStudy
from pgsearch.training.device import choose_device
from pgsearch.training.features import cached_features

Progress: TypeAlias = Callable[[int, int], None]

_RAY_SETTINGS = {
    # Tune's state is never used, so it is not worth writing.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # The stop is ours: see `StopSignals`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A path of the user's spec is relative to where they started the command.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray's memory monitor aborts the whole of Tune; the kernel's ends one worker, which is retried.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


class Inputs(NamedTuple):
    """What a variant is trained on."""

    data_fingerprint: str
    weights_fingerprint: str
    splits: frozenset[str]
    """Those that have images."""


@dataclass(frozen=True)
class Outcome:
    """How a run of a search ended."""

    url: str
    """Folder or URL of the search."""
    counts: dict[TrialState, int]
    """Trials by state, without failed ones that were retried."""
    num_trials: int
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        if not self.counts.get(TrialState.COMPLETE):
            return EXIT_NOTHING_COMPLETED
        return EXIT_SOME_FAILED if self.counts.get(TrialState.FAIL) else EXIT_DONE


@dataclass(frozen=True)
class RunOptions:
    """What may be asked of a run beside its spec."""

    address: str | None = None
    """Of a Ray cluster; None is RAY_ADDRESS, or a Ray of its own on this machine."""
    grace_seconds: float = 25.0
    """How long running trials may take to checkpoint when the search is stopped."""
    fork_of: Ledger | None = None
    """A search whose finished trials a new one knows from the start."""
    retry: Sequence[int] | None = None
    """Failed trials to run again as new ones; an empty list is all."""


def run_search(
    spec: SearchSpec,
    results: str | Path,
    *,
    listener: Listener,
    options: RunOptions = RunOptions(),
    data_progress: Progress | None = None,
    feature_progress: Progress | None = None,
) -> Outcome:
    """Run a search to its end, or go on with it where its ledger stands.

    Args:
        spec: the search.
        results: folder or URL of all searches; this one goes into `results/NAME`.
        listener: is told of every trial and epoch.
        options: what else may be asked of a run.
        data_progress: called with the number of images that are decoded and that there are.
        feature_progress: the same for features of a frozen trunk.

    Raises:
        InvalidData: images, labels or weights break a rule; nothing was written.
        InvalidSpec: the spec does not fit the data; nothing was written.
        IncompatibleResume: the folder holds another search.
        StorageError: results cannot be written, or another driver works on this search.
        KeyboardInterrupt: a signal came before any trial was begun.
    """
    with StopSignals() as signals:
        inputs = prepare_data(spec, data_progress, feature_progress)
        _require_splits(spec, inputs)
        ledger = Ledger(_absolute(results).at(spec.name))
        ledger.require_own_place()
        with DriverLease(ledger.storage, on_waiting=listener.message) as lease:
            ledger.drive_as(lease.number)
            ledger.begin(spec, forked_from=options.fork_of)
            study = SearchStudy(spec, ledger)
            _require_same_inputs(spec, study, inputs)
            study.remove_checkpoints()  # that a kill left
            _say_what_a_fork_knows(ledger, study, listener)
            _retry(spec, study, options.retry)
            control = SearchControl(grace_seconds=options.grace_seconds, lease=lease)
            if study.unfinished:
                _run_trials(spec, ledger, study, control, listener, options, signals)
                if not study.unfinished:
                    _keep_beside(ledger, listener)
    if control.reason_to_fail is not None:
        raise StorageError(control.reason_to_fail)
    if control.ray_lost is not None:
        listener.message(f"{control.ray_lost}; what runs ends here")
    elif study.unfinished and not control.stop_requested:
        raise RuntimeError("Ray Tune ended before all trials did; repeat the command to go on")
    retried = {record.retry_of for record in study.records.values()}
    counts = Counter(r.state for r in study.records.values() if r.number not in retried)
    num_trials = spec.num_trials + sum(r.retry_of is not None for r in study.records.values())
    return Outcome(ledger.url, dict(counts), num_trials, study.unfinished)


def _run_trials(
    spec: SearchSpec,
    ledger: Ledger,
    study: SearchStudy,
    control: SearchControl,
    listener: Listener,
    options: RunOptions,
    signals: StopSignals,
) -> None:
    with _ray(options.address) as num_places:
        signals.stop_with(control.request_stop)
        control.in_first_turn = signals.install
        from pgsearch.search.tune import (  # after Ray's settings
            Adapter,
            end_trials_not_the_search_when_memory_runs_out,
        )

        end_trials_not_the_search_when_memory_runs_out()
        adapter = Adapter(ledger, study, control, listener)
        places = num_places(spec.resources)
        limit = min(spec.max_concurrent or places, places)
        with tempfile.TemporaryDirectory(prefix="pgsearch-tune-") as scratch:
            adapter.tuner(spec, max_concurrent=limit, scratch=Path(scratch)).fit()


def _keep_beside(ledger: Ledger, listener: Listener) -> None:
    try:
        keep_beside(ledger)
    except StorageError as error:  # all trials are recorded: readers only have more to do
        listener.message(f"reading the results will take longer: {error}")


def _absolute(results: str | Path) -> Storage:
    """Return the storage of results with an absolute path, which workers elsewhere need."""
    storage = open_storage(results)
    return storage if "://" in storage.url else open_storage(Path(storage.url).resolve())


def _say_what_a_fork_knows(ledger: Ledger, study: SearchStudy, listener: Listener) -> None:
    source = ledger.header().get("forked_from")
    if source is not None:
        listener.message(
            f"knows {study.num_known} of the {source['num_trials']} finished trials of "
            f"{source['search']}"
            + (
                ""
                if study.num_known == source["num_trials"]
                else "; the others lie outside this search's space or objectives"
            )
        )


def _retry(spec: SearchSpec, study: SearchStudy, wanted: Sequence[int] | None) -> None:
    """Begin a new trial for each failed one that is asked for; an empty list asks for all."""
    if wanted is None:
        return
    failed = study.failed
    wrong = sorted(set(wanted) - set(failed))
    if wrong or not failed:
        raise UsageError(
            f"{spec.name}: "
            + (f"trial {wrong[0]} did not fail, or was retried already" if wrong else "no trial")
            + f"; failed and not retried: {', '.join(map(str, failed)) or 'none'}"
        )
    for number in wanted or failed:
        study.retry(number)


def prepare_data(
    spec: SearchSpec,
    data_progress: Progress | None = None,
    feature_progress: Progress | None = None,
    *,
    variants: Sequence[str | None] | None = None,
) -> dict[str | None, Inputs]:
    """Build every data set of a search in this machine's cache and check its weights.

    So that trials find them there, and a user learns of bad data before any trial starts. Features
    of a frozen trunk are computed here too; on other nodes of a cluster their first trial does it.

    Args:
        spec: the search.
        data_progress: called with the number of images that are decoded and that there are.
        feature_progress: the same for features.
        variants: which variants; None is all that the spec has.

    Returns:
        What was found, by variant.

    Raises:
        InvalidData: images, labels or weights break a rule.
    """
    known: dict[str, MultiLabelDataset] = {}
    inputs: dict[str | None, Inputs] = {}
    for variant in spec.variant_names() if variants is None else variants:
        configuration = spec.trial(0, {}, variant)
        settings = configuration.data.model_dump_json()
        if settings not in known:
            known[settings] = build_dataset(configuration.data, progress=data_progress)
            known[settings].check()
        data = known[settings]
        check_model(configuration.model, data.class_names)
        if configuration.training.trunk == "frozen":
            device = choose_device(configuration.training.device)
            cached_features(configuration, data, device, progress=feature_progress)
        splits = frozenset(name for name in SPLITS if data.split(name).num_images)
        weights = weights_fingerprint(configuration.model)
        inputs[variant] = Inputs(data.fingerprint, weights, splits)
    return inputs


def _require_splits(spec: SearchSpec, inputs: Mapping[str | None, Inputs]) -> None:
    problems = [
        f"{spec.name}: the objective is on {objective.split}, and the data has no images of it: "
        "set data.validation_fraction above 0, or objective: {split: test}"
        for objective in spec.objective
        if any(objective.split not in found.splits for found in inputs.values())
    ]
    if problems:
        raise InvalidSpec(problems)


def _require_same_inputs(
    spec: SearchSpec, study: SearchStudy, inputs: Mapping[str | None, Inputs]
) -> None:
    """Refuse to go on with other images, labels or weights than the recorded epochs had."""
    if any(path.startswith(("data.", "model.")) for path in spec.space):
        return  # each trial has its own
    for variant, recorded in study.inputs.items():
        for i, what in enumerate(("images or labels", "initial weights")):
            if {fingerprints[i] for fingerprints in recorded} != {inputs[variant][i]}:
                raise IncompatibleResume(
                    f"{spec.name}: the {what} are not those that its recorded epochs were trained "
                    "with; restore them to continue it, or start another search with name=…"
                )


def _guard_own_ray() -> None:
    """Keep others on this machine and its network out of a Ray that we start.

    Over what the environment says, which may have been set for another cluster.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    # Of this session alone; Ray would write one for all into a file that others may read.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Its name is of the systems where this is the default: every listener is on loopback.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[Callable[[Any], int]]:
    """Connect to Ray, or start one; yields a function from resources to how many trials fit."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_SETTINGS.items()})
    if address == "local":
        _guard_own_ray()
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # how trials ended, we say
    try:
        context = ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
        )
    except ConnectionError as error:
        raise UsageError(f"--address {address}: no Ray cluster answers there ({error})") from None
    if address == "local":
        session = Path(context.address_info["session_dir"])
        mark_session(session)
        end_orphans(session.parent)
    try:
        cluster = ray.cluster_resources()

        def num_places(resources: Any) -> int:
            places = [cluster.get("CPU", 0) / resources.cpus]
            if resources.gpus:
                places.append(cluster.get("GPU", 0) / resources.gpus)
            if resources.memory_gb:
                places.append(cluster.get("memory", 0) / (resources.memory_gb * 1e9))
            if min(places) < 1:
                raise UsageError(
                    f"a trial needs {resources.cpus:g} CPUs, {resources.gpus:g} GPUs and "
                    f"{resources.memory_gb or 0:g} GB, Ray has {cluster.get('CPU', 0):g}, "
                    f"{cluster.get('GPU', 0):g} and {cluster.get('memory', 0) / 1e9:.1f}; lower "
                    "resources in the spec, or add nodes"
                )
            return int(min(places))

        yield num_places
    finally:
        ray.shutdown()
