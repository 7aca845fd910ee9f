"""The Ray Tune adapter: Tune places and restarts trials; it decides and remembers nothing.

Measured on Ray 2.60: Tune's own restore loses acknowledged epochs after a kill of the driver. So
each run is a fresh Tune experiment over the ledger, whose state on disk is thrown away.
"""

import contextlib
import functools
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.errors import (
    StorageError,
    UsageError,
)
from pgsearch.results import Ledger, TrialRecord
from pgsearch.search.control import Listener, SearchControl
from pgsearch.search.packing import Packing
from pgsearch.search.placement import Node, Share, alive_nodes, count_places, num_at_a_time
from pgsearch.search.study import SearchStudy
from pgsearch.search.trainable import train_trial
from pgsearch.search.workers import Workers

SECONDS_BETWEEN_LOOKS_AT_RAY = 5.0
MOST_PREEMPTIONS = 20
"""In a row of one trial, without an epoch between: its epochs are longer than its nodes live."""


class Adapter:
    """What Tune's two hooks share: the study, who listens, and which trial is which."""

    def __init__(
        self,
        ledger: Ledger,
        study: SearchStudy,
        control: SearchControl,
        listener: Listener,
        packing: Packing,
    ) -> None:
        self.ledger, self.study = ledger, study
        self.control, self.listener = control, listener
        self.packing = packing
        self.running: dict[str, int] = {}
        """Numbers of the trials that are placed, by Tune's id."""
        self.placed: dict[int, tuple[TrialSpec, Share]] = {}
        """Each of them, and what it occupies."""
        self.at_a_time: int | None = None
        """How many may be placed, where that changes while the search runs."""
        self.workers = Workers(study.spec.max_epoch_seconds)
        self.losses: Counter[int] = Counter()
        """Lost workers of each trial since its last progress."""
        self.preemptions: Counter[int] = Counter()
        """Those whose node was taken away with notice, which no trial brings about."""
        self.newest_epoch: dict[int, int] = {}
        self.worker_errors: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher when it begins; there is nothing to keep, the ledger has it all.
        return {}

    def tuner(self, spec: SearchSpec, *, max_concurrent: int, scratch: Path) -> tune.Tuner:
        """Return a fresh Tune experiment; `scratch` takes its state, which nobody reads."""
        return tune.Tuner(
            tune.with_resources(
                train_trial, lambda config: resource_dict_to_pg_factory(config["resources"])
            ),
            tune_config=tune.TuneConfig(
                search_alg=_StudySearcher(self),
                scheduler=_StudyScheduler(self),
                num_samples=-1,
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=0),  # see `take_loss`
                stop=_StopWhenAsked(self),
                verbose=0,
            ),
        )

    def place(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial as Tune's config; None when one may come later."""
        if self.at_a_time is not None and len(self.running) >= self.at_a_time:
            return None
        trial: TrialSpec | None = None
        with self._storage_errors_stop_the_search():
            trial = None if self.control.should_begin_nothing else self.study.next_trial()
        if trial is None:
            # A running trial may lose its worker and come back.
            waits = self.running and not self.control.should_begin_nothing
            return None if waits else str(Searcher.FINISHED)
        self.running[trial_id] = trial.number
        share = self.packing.share(trial)
        self.placed[trial.number] = trial, share
        if self.packing.is_auto:
            self._limit(alive_nodes(), share)
        self.listener.trial_started(self.study.records[trial.number])
        spec = self.study.spec
        # A trial of a screen keeps neither weights nor scores.
        best_by = None if trial.stage == "screen" else spec.best_by
        return {
            "number": trial.number,
            "trial": trial.model_dump_json(),
            "url": self.ledger.url,
            "driver": self.control.lease.number if self.control.lease else 0,
            "working_folder": str(Path.cwd()),
            "resources": share.for_ray(),
            "save_scores": spec.save_scores and trial.stage != "screen",
            "best_by": best_by.model_dump() if best_by else None,
        }

    def take_report(self, number: int, report: Mapping[str, Any]) -> bool:
        """Take a report to the study; return whether the trial goes on."""
        with self._storage_errors_stop_the_search():
            return self._take_report(number, report)
        return False

    def _take_report(self, number: int, report: Mapping[str, Any]) -> bool:
        record = self.study.records[number]
        if record.state.is_finished:
            return False
        if "storage_error" in report:
            self.control.storage_error = str(report["storage_error"])
            return False
        if "interrupted" in report:
            self._interrupted(number, str(report["interrupted"]))
            return False
        if "error" in report:
            self._ended(self.study.fail(number, str(report["error"])))
            return False
        epoch = int(report["epoch"])
        if epoch > self.newest_epoch.get(number, 0):  # not one that a new attempt tells again
            self.newest_epoch[number] = epoch
            del self.losses[number], self.preemptions[number]
        self.listener.epoch_recorded(record, report)
        share_is_known = self.packing.is_auto and self._learn_need(number, report)
        if epoch == record.configuration["training.epochs"]:
            self._ended(self.study.complete(number))
        elif self.study.observe(number, epoch, report):
            self._ended(self.study.prune(number))
            return False
        elif share_is_known:
            self._interrupted(number, "now that its need is known, others fit beside it")
            return False
        return True

    def _learn_need(self, number: int, report: Mapping[str, Any]) -> bool:
        """Take what a trial needs; True where more fit beside it once it occupies only that."""
        trial, occupied = self.placed[number]
        nodes = alive_nodes()
        if self.packing.learn(trial, report):
            self._limit(nodes, self.packing.share(trial))
            self.listener.message(f"{trial.uid} {self.packing.in_words(trial, nodes)}")
        return count_places(nodes, self.packing.share(trial)) > count_places(nodes, occupied)

    def _limit(self, nodes: Sequence[Node], share: Share) -> None:
        """Let no more trials of a share be placed than there is room for."""
        # A cluster whose nodes have just gone, or are still to come, is waited for.
        with contextlib.suppress(UsageError):
            self.at_a_time = num_at_a_time(nodes, self.study.spec, share)

    def _interrupted(self, number: int, reason: str) -> None:
        """Take notice of a trial that ended before its time without fault: it will go on."""
        self.listener.trial_interrupted(self.study.records[number], reason)
        if not self.control.should_begin_nothing:
            self.study.put_back(number)

    def take_loss(self, trial_id: str, reason: str) -> None:
        """Place a trial again whose worker was lost, or record that this was once too often."""
        number = self.running[trial_id]
        with self._storage_errors_stop_the_search():
            if self.study.records[number].state.is_finished:
                return
            preempted = self.workers.was_preempted(trial_id)
            lost = self.preemptions if preempted else self.losses
            most = MOST_PREEMPTIONS if preempted else self.study.spec.max_retries
            what = "its node was taken away" if preempted else "its worker was lost"
            lost[number] += 1
            if "OutOfMemory" in reason:  # ours, or Ray's OutOfMemoryError
                self.packing.ran_out(self.placed[number][0])
            if lost[number] <= most:
                self._interrupted(number, f"{what}: {reason}")
                return
            limit = "epochs are too long for such nodes" if preempted else f"max_retries={most}"
            self._ended(
                self.study.fail(
                    number,
                    f"{what} {lost[number]} times in a row without an epoch between ({limit}); "
                    f"the last time: {reason}",
                )
            )

    def in_every_turn(self) -> None:
        """Look after what runs; called by Tune's loop."""
        self.workers.look()
        for trial_id, reason in self.workers.end_stuck():
            self.worker_errors[trial_id] = reason

    @contextlib.contextmanager
    def _storage_errors_stop_the_search(self) -> Iterator[None]:
        # Raised inside Tune, an error would end as Tune's own, with a traceback.
        try:
            yield
        except StorageError as error:
            self.control.storage_error = str(error)

    def _ended(self, record: TrialRecord) -> None:
        self.placed.pop(record.number, None)
        self.study.remove_checkpoints(record.number)
        self.listener.trial_ended(record)


class _StudySearcher(Searcher):
    """Hands out the study's trials."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._adapter = adapter

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._adapter.place(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        # An end without a lost worker was seen by the scheduler, in the trial's last report.
        reason = self._adapter.worker_errors.pop(trial_id, "unknown")
        if error:
            self._adapter.take_loss(trial_id, reason)
        self._adapter.running.pop(trial_id, None)
        self._adapter.workers.remove(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the ledger is the state."""


class _StudyScheduler(FIFOScheduler):
    """Takes every report to the study and ends the trials that the study ends."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._adapter = adapter

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._adapter.workers.add(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self._adapter.workers.got_on(trial.trial_id)
        goes_on = self._adapter.take_report(trial.config["number"], result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Just before the searcher is told, which is not told why.
        self._adapter.worker_errors.setdefault(trial.trial_id, _reason(trial))


_FIELD = re.compile(r"(class_name|actor_id|pid|name|namespace|ip): ")
"""Begins the lines that say of which actor Ray speaks."""


def _reason(trial: Any) -> str:
    """Return why Tune takes a trial's worker for lost, in a line."""
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8").split("\n")
    except OSError:
        return "unknown"
    said = [line.strip() for line in lines if line.strip() and not _FIELD.match(line.strip())]
    return said[-1].removeprefix("pgsearch.errors.") if said else "unknown"


class _StopWhenAsked(tune.Stopper):
    """Asked by Tune in every turn of its loop."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self._control = adapter, adapter.control
        self._look_due = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._control.in_first_turn is not None:
            self._control.in_first_turn()
            self._control.in_first_turn = None
        if time.monotonic() >= self._look_due:
            self._look_due = time.monotonic() + SECONDS_BETWEEN_LOOKS_AT_RAY
            # Tune would wait for ever for a place on nodes that are no more.
            if not any(node["Alive"] for node in ray.nodes()):
                self._control.ray_lost = "Ray has no living node any more"
        if not self._control.ray_lost:
            self._adapter.in_every_turn()
        return self._control.should_end_now


def end_trials_not_the_search_when_memory_runs_out() -> None:
    """Let Tune take the end of a worker by Ray's memory monitor, and its like, as a lost worker.

    Ray raises OutOfMemoryError, NodeDiedError, … for a task that never answers. Tune knows a dead
    actor and a failed task, and aborts the whole search at anything else (Ray 2.60, 2.61).
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import RayActorError, RayError, RayTaskError

    original = RayActorManager._actor_task_failed
    if getattr(original, "takes_every_loss", False):
        return

    @functools.wraps(original)
    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(
            exception, RayActorError | RayTaskError
        ):
            reason = str(exception).strip().splitlines() or [type(exception).__name__]
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {reason[0]}")
        original(self, tracked_actor_task, exception)

    failed.takes_every_loss = True  # type: ignore[attr-defined]
    RayActorManager._actor_task_failed = failed
