"""Running a search: data, lock, ledger, Ray, and the way out."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pgsearch.config import SearchSpec
from pgsearch.config.trial import Stage
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
from pgsearch.models.build import check_model, model_files, weights_fingerprint
from pgsearch.results import DriverLease, Ledger, TrialState
from pgsearch.results.read import keep_beside
from pgsearch.results.storage import Storage, absolute_storage
from pgsearch.search.connection import cluster, cluster_address, own_ray
from pgsearch.search.control import Listener, SearchControl
from pgsearch.search.packing import Packing
from pgsearch.search.placement import alive_nodes, holds_one, num_at_a_time
from pgsearch.search.signals import StopSignals
from pgsearch.search.study import SearchStudy
from pgsearch.training.device import choose_device
from pgsearch.training.features import cached_features

Progress: TypeAlias = Callable[[int, int], None]
Base: TypeAlias = tuple[str | None, Stage | None]
"""Variant and stage."""


class Inputs(NamedTuple):
    """What a variant, in a stage, is trained on."""

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
        UsageError: the cluster cannot be used, or no node of it holds a trial; nothing was written.
        InvalidData: images, labels or weights break a rule; nothing was written.
        InvalidSpec: the spec does not fit the data; nothing was written.
        IncompatibleResume: the folder holds another search.
        StorageError: results cannot be written, or not from every node, or another driver works on
            this search.
        KeyboardInterrupt: a signal came before any trial was begun.
    """
    storage = absolute_storage(results)
    ledger = Ledger(storage.at(spec.name))
    address = cluster_address(options.address)
    with StopSignals() as signals, contextlib.ExitStack() as connection:
        if address is not None:
            connection.enter_context(cluster(address))
            signals.install()  # again: Ray took SIGTERM
            _require_fit_cluster(spec, storage)
        inputs = prepare_data(spec, data_progress, feature_progress)
        _require_splits(spec, inputs)
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
                with own_ray() if address is None else contextlib.nullcontext():
                    _run_trials(spec, ledger, study, control, listener, signals)
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


def _require_fit_cluster(spec: SearchSpec, storage: Storage) -> None:
    from pgsearch.search.nodes import require_fit_nodes, require_inputs  # after Ray's settings

    nodes = alive_nodes()
    share = Packing(spec, nodes).at_first()
    num_at_a_time(nodes, spec, share)
    require_fit_nodes(storage)
    require_inputs([node for node in nodes if holds_one(node, share)], _input_paths(spec))


def _input_paths(spec: SearchSpec) -> list[str]:
    """Return the files and folders that trials are trained on."""
    paths: dict[str, None] = {}
    for variant, stage in spec.bases():
        trial = spec.trial(0, {}, variant, stage=stage)
        if trial.data.name == "manifest":
            paths |= dict.fromkeys(filter(None, [trial.data.manifest, trial.data.root]))
        paths |= dict.fromkeys(model_files(trial.model))
    return list(paths)


def _run_trials(
    spec: SearchSpec,
    ledger: Ledger,
    study: SearchStudy,
    control: SearchControl,
    listener: Listener,
    signals: StopSignals,
) -> None:
    signals.stop_with(control.request_stop)
    control.in_first_turn = signals.install
    from pgsearch.search.tune import (  # after Ray's settings
        Adapter,
        end_trials_not_the_search_when_memory_runs_out,
    )

    end_trials_not_the_search_when_memory_runs_out()
    nodes = alive_nodes()
    packing = Packing(spec, nodes)
    adapter = Adapter(ledger, study, control, listener, packing)
    num_at_a_time(nodes, spec, packing.at_first())
    limit = num_at_a_time(nodes, spec, packing.at_most_packed())
    with tempfile.TemporaryDirectory(prefix="pgsearch-tune-") as scratch:
        adapter.tuner(spec, max_concurrent=limit, scratch=Path(scratch)).fit()


def _keep_beside(ledger: Ledger, listener: Listener) -> None:
    try:
        keep_beside(ledger)
    except StorageError as error:  # all trials are recorded: readers only have more to do
        listener.message(f"reading the results will take longer: {error}")


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
                + (", or were not trained as its screen trains" if study.spec.stages else "")
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
    bases: Sequence[Base] | None = None,
) -> dict[Base, Inputs]:
    """Build every data set of a search in this machine's cache and check its weights.

    So that trials find them there, and a user learns of bad data before any trial starts. Features
    of a frozen trunk are computed here too; on other nodes of a cluster their first trial does it.

    Args:
        spec: the search.
        data_progress: called with the number of images that are decoded and that there are.
        feature_progress: the same for features.
        bases: of which variants and stages; None is all that the spec has.

    Returns:
        What was found, by variant and stage.

    Raises:
        InvalidData: images, labels or weights break a rule.
    """
    known: dict[str, MultiLabelDataset] = {}
    inputs: dict[Base, Inputs] = {}
    for variant, stage in spec.bases() if bases is None else bases:
        configuration = spec.trial(0, {}, variant, stage=stage)
        settings = configuration.data.model_dump_json()
        if settings not in known:
            known[settings] = build_dataset(configuration.data, progress=data_progress)
            known[settings].check()
        data = known[settings]
        training = configuration.training
        check_model(configuration.model, data.class_names, cached_stages=training.cached_stages)
        if training.trunk != "trained":
            device = choose_device(training.device)
            cached_features(configuration, data, device, progress=feature_progress)
        splits = frozenset(name for name in SPLITS if data.split(name).num_images)
        weights = weights_fingerprint(configuration.model)
        inputs[variant, stage] = Inputs(data.fingerprint, weights, splits)
    return inputs


def _require_splits(spec: SearchSpec, inputs: Mapping[Base, Inputs]) -> None:
    problems = [
        f"{spec.name}: the objective is on {objective.split}, and the data has no images of it: "
        "set data.validation_fraction above 0, or objective: {split: test}"
        for objective in spec.objective
        if any(objective.split not in found.splits for found in inputs.values())
    ]
    if problems:
        raise InvalidSpec(problems)


def _require_same_inputs(
    spec: SearchSpec, study: SearchStudy, inputs: Mapping[Base, Inputs]
) -> None:
    """Refuse to go on with other images, labels or weights than the recorded epochs had."""
    if any(path.startswith(("data.", "model.")) for path in spec.space):
        return  # each trial has its own
    for base, recorded in study.inputs.items():
        for i, what in enumerate(("images or labels", "initial weights")):
            if {fingerprints[i] for fingerprints in recorded} != {inputs[base][i]}:
                raise IncompatibleResume(
                    f"{spec.name}: the {what} are not those that its recorded epochs were trained "
                    "with; restore them to continue it, or start another search with name=…"
                )
