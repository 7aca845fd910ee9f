"""Running a search: data, lock, ledger, Ray, and the way out."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
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
from pgsearch.results import DriverLock, Ledger, TrialState
from pgsearch.search.control import Listener, SearchControl
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
    # The stop is ours: see `_stop_on_signals`.
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

    folder: Path
    counts: dict[TrialState, int]
    """Trials by state."""
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


def run_search(
    spec: SearchSpec,
    results: Path,
    *,
    listener: Listener,
    address: str | None = None,
    data_progress: Progress | None = None,
    feature_progress: Progress | None = None,
) -> Outcome:
    """Run a search to its end, or go on with it where its ledger stands.

    Args:
        spec: the search.
        results: folder of all searches; this one goes into `results/NAME`.
        listener: is told of every trial and epoch.
        address: of a Ray cluster; None is RAY_ADDRESS, or a Ray of its own on this machine.
        data_progress: called with the number of images that are decoded and that there are.
        feature_progress: the same for features of a frozen trunk.

    Raises:
        InvalidData: images, labels or weights break a rule; nothing was written.
        InvalidSpec: the spec does not fit the data; nothing was written.
        IncompatibleResume: the folder holds another search.
        StorageError: results cannot be written, or another driver works on this search.
    """
    inputs = prepare_data(spec, data_progress, feature_progress)
    _require_splits(spec, inputs)
    ledger = Ledger((results / spec.name).resolve())
    with DriverLock(ledger.folder):
        ledger.begin(spec)
        study = SearchStudy(spec, ledger)
        _require_same_inputs(spec, study, inputs)
        control = SearchControl()
        if any(not r.state.is_finished for r in study.records.values()) or (
            len(study.records) < spec.num_trials
        ):
            # In this order: Ray takes SIGTERM for itself when it starts.
            with _ray(address) as num_places, _stop_on_signals(control):
                from pgsearch.search.tune import Adapter  # after Ray's settings

                adapter = Adapter(ledger.folder, study, control, listener)
                places = num_places(spec.resources)
                limit = min(spec.max_concurrent or places, places)
                with tempfile.TemporaryDirectory(prefix="pgsearch-tune-") as scratch:
                    adapter.tuner(spec, max_concurrent=limit, scratch=Path(scratch)).fit()
    if control.storage_error is not None:
        raise StorageError(control.storage_error)
    counts = Counter(record.state for record in study.records.values())
    unfinished = any(not r.state.is_finished for r in study.records.values())
    begun_all = len(study.records) >= spec.num_trials
    if (unfinished or not begun_all) and not control.stop_requested:
        raise RuntimeError("Ray Tune ended before all trials did; repeat the command to go on")
    return Outcome(ledger.folder, dict(counts), spec.num_trials, unfinished or not begun_all)


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


@contextlib.contextmanager
def _stop_on_signals(control: SearchControl) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a clean stop; the second ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    # None: a handler that was not installed from Python and cannot be put back.
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in signals}

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        control.stop_requested = True
        for other in signals:
            signal.signal(other, before[other])

    for number in signals:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[Callable[[Any], int]]:
    """Connect to Ray, or start one; yields a function from resources to how many trials fit."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_SETTINGS.items()})
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
        )
    except ConnectionError as error:
        raise UsageError(f"--address {address}: no Ray cluster answers there ({error})") from None
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
