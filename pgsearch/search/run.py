"""Running a search: data, lock, ledger, Ray, and the way out."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgsearch.config import SearchSpec
from pgsearch.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_COMPLETED,
    EXIT_SOME_FAILED,
    StorageError,
    UsageError,
)
from pgsearch.results import DriverLease, Ledger, TrialState
from pgsearch.results.read import keep_beside
from pgsearch.results.storage import Storage, absolute_storage
from pgsearch.search.compilers import require_compilers
from pgsearch.search.connection import cluster, cluster_address, own_ray
from pgsearch.search.control import Listener, SearchControl
from pgsearch.search.inputs import (
    Progress,
    input_paths,
    needs_features,
    prepare_data,
    require_same_inputs,
    require_splits,
)
from pgsearch.search.packing import Packing
from pgsearch.search.placement import alive_nodes, holds_one, num_at_a_time
from pgsearch.search.signals import StopSignals
from pgsearch.search.study import SearchStudy
from pgsearch.training.device import choose_device


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
            features_on = _require_fit_cluster(spec, storage)
            if features_on is None and needs_features(spec):
                listener.message("the first trial on a node computes the trunk's features")
        else:
            # Without a GPU of its own a trial sees none; `auto` is one, where there is one.
            features_on = "auto" if spec.resources.gpus else "cpu"
            require_compilers(spec, has_gpu=choose_device(features_on).type == "cuda")
        inputs = prepare_data(spec, data_progress, feature_progress, features_on=features_on)
        require_splits(spec, inputs)
        ledger.require_own_place()
        with DriverLease(ledger.storage, on_waiting=listener.message) as lease:
            ledger.drive_as(lease.number)
            ledger.begin(spec, forked_from=options.fork_of)
            study = SearchStudy(spec, ledger)
            require_same_inputs(spec, study.inputs, inputs)
            study.remove_checkpoints()  # that a kill left
            _say_what_a_fork_knows(ledger, study, listener)
            _retry(spec, study, options.retry)
            control = SearchControl(grace_seconds=options.grace_seconds, lease=lease)
            if study.unfinished:
                with own_ray() if address is None else contextlib.nullcontext():
                    _run_trials(spec, ledger, study, control, listener, signals)
                if not study.unfinished:
                    _keep_beside(ledger, listener)
    _require_good_end(study, control, listener)
    return _outcome(spec, ledger, study)


def _require_fit_cluster(spec: SearchSpec, storage: Storage) -> Literal["auto", "cpu"] | None:
    """Prove that the nodes can take part.

    Returns on which device trials on this node will look for features; None where none may run.
    """
    import ray  # after its settings

    from pgsearch.search.nodes import require_fit_nodes, require_inputs

    nodes = alive_nodes()
    share = Packing(spec, nodes).at_first()
    num_at_a_time(nodes, spec, share)
    require_fit_nodes(storage)
    able = [node for node in nodes if holds_one(node, share)]
    require_inputs(able, input_paths(spec))
    require_compilers(spec, able, has_gpu=share.gpus > 0)
    if ray.get_runtime_context().get_node_id() not in {node.node_id for node in able}:
        return None
    return "auto" if share.gpus else "cpu"


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


def _require_good_end(study: SearchStudy, control: SearchControl, listener: Listener) -> None:
    if control.reason_to_fail is not None:
        raise StorageError(control.reason_to_fail)
    if control.ray_lost is not None:
        listener.message(f"{control.ray_lost}; what runs ends here")
    elif study.unfinished and not control.stop_requested:
        raise RuntimeError("Ray Tune ended before all trials did; repeat the command to go on")


def _outcome(spec: SearchSpec, ledger: Ledger, study: SearchStudy) -> Outcome:
    retried = {record.retry_of for record in study.records.values()}
    counts = Counter(r.state for r in study.records.values() if r.number not in retried)
    num_trials = spec.num_trials + sum(r.retry_of is not None for r in study.records.values())
    return Outcome(ledger.url, dict(counts), num_trials, study.unfinished)


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
