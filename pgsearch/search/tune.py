"""The Ray Tune adapter: Tune places and restarts trials; it decides and remembers nothing.

Measured on Ray 2.60: Tune's own restore loses acknowledged epochs after a kill of the driver. So
each run is a fresh Tune experiment over the ledger, whose state on disk is thrown away.
"""

import contextlib
import functools
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.errors import AttemptReplaced, PgsearchError, StorageError
from pgsearch.results import EpochRecord, EpochWriter, Ledger, TrialRecord
from pgsearch.search.control import Listener, SearchControl
from pgsearch.search.study import SearchStudy

REPORTED_COLUMNS = (
    "loss.train",
    *(f"map.{s}.{part}" for s in ("validation", "test") for part in ("total", *GROUPS)),
)


def train_trial(config: dict[str, Any]) -> None:
    """Execute one trial in a Ray actor: record each epoch in the ledger, then tell the driver.

    An error of the trial itself is reported, not raised, since Tune would run it again; only the
    loss of the worker brings another attempt.
    """
    from pgsearch.results.scores import write_scores
    from pgsearch.training.checkpoint import Checkpoints
    from pgsearch.training.fit import fit

    os.chdir(config["working_folder"])  # paths of the spec are relative to the driver's
    if not config["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a trial that asked for none
    trial = TrialSpec.model_validate_json(config["trial"])
    ledger = Ledger(Path(config["folder"]))

    def report(record: EpochRecord) -> None:
        row = writer.append(record)
        tune.report({"epoch": row["epoch"]} | {name: row.get(name) for name in REPORTED_COLUMNS})

    try:
        writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
        scores_file = ledger.scores_file(trial.number)
        fit(
            trial,
            report=report,
            checkpoints=Checkpoints(ledger.checkpoint_file(trial.number)),
            save_scores=functools.partial(write_scores, scores_file)
            if config["save_scores"]
            else None,
        )
    except AttemptReplaced:
        return
    except StorageError as error:
        tune.report({"storage_error": str(error)})
    except PgsearchError as error:
        tune.report({"error": str(error)})
    except Exception:  # a bug, or out of memory: deterministic, so not tried again
        tune.report({"error": traceback.format_exc().strip()})


class Adapter:
    """What Tune's two hooks share: the study, who listens, and which trial is which."""

    def __init__(
        self, folder: Path, study: SearchStudy, control: SearchControl, listener: Listener
    ) -> None:
        self.folder, self.study = folder, study
        self.control, self.listener = control, listener
        self.numbers: dict[str, int] = {}
        self.worker_errors: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher when it begins; there is nothing to keep, the ledger has it all.
        return {}

    def tuner(self, spec: SearchSpec, *, max_concurrent: int, scratch: Path) -> tune.Tuner:
        """Return a fresh Tune experiment; `scratch` takes its state, which nobody reads."""
        resources = {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus}
        if spec.resources.memory_gb is not None:
            resources["memory"] = spec.resources.memory_gb * 1e9
        return tune.Tuner(
            tune.with_resources(train_trial, resources),
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
                failure_config=tune.FailureConfig(max_failures=spec.max_retries),
                stop=_StopWhenAsked(self.control),
                verbose=0,
            ),
        )

    def place(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next trial as Tune's config; None when there is none."""
        trial: TrialSpec | None = None
        with self._storage_errors_stop_the_search():
            trial = None if self.control.should_stop else self.study.next_trial()
        if trial is None:
            return None
        self.numbers[trial_id] = trial.number
        self.listener.trial_started(self.study.records[trial.number])
        return {
            "number": trial.number,
            "trial": trial.model_dump_json(),
            "folder": str(self.folder),
            "working_folder": str(Path.cwd()),
            "gpus": self.study.spec.resources.gpus,
            "save_scores": self.study.spec.save_scores,
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
        if "error" in report:
            self._ended(self.study.fail(number, str(report["error"])))
            return False
        epoch = int(report["epoch"])
        self.listener.epoch_recorded(record, report)
        if epoch == record.configuration["training.epochs"]:
            self._ended(self.study.complete(number))
        elif self.study.observe(number, epoch, report):
            self._ended(self.study.prune(number))
            return False
        return True

    def take_loss(self, trial_id: str) -> None:
        """Record a trial whose worker was lost more often than the spec allows."""
        number = self.numbers[trial_id]
        with self._storage_errors_stop_the_search():
            if self.study.records[number].state.is_finished:
                return
            reason = self.worker_errors.get(number, "the reason is not known")
            error = f"its worker was lost more than max_retries times; the last time: {reason}"
            self._ended(self.study.fail(number, error))

    @contextlib.contextmanager
    def _storage_errors_stop_the_search(self) -> Iterator[None]:
        # Raised inside Tune, an error would end as Tune's own, with a traceback.
        try:
            yield
        except StorageError as error:
            self.control.storage_error = str(error)

    def _ended(self, record: TrialRecord) -> None:
        self.study.remove_checkpoints(record.number)
        self.listener.trial_ended(record)


class _StudySearcher(Searcher):
    """Hands out the study's trials."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._adapter = adapter

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        return self._adapter.place(trial_id) or str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        # An end without a lost worker was seen by the scheduler, in the trial's last report.
        if error:
            self._adapter.take_loss(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the ledger is the state."""


class _StudyScheduler(FIFOScheduler):
    """Takes every report to the study and ends the trials that the study ends."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._adapter = adapter

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._adapter.take_report(trial.config["number"], result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Called for each lost worker, also where Tune starts another.
        lines = str(trial.get_error()).strip().splitlines() or [""]
        self._adapter.worker_errors[trial.config["number"]] = lines[-1]


class _StopWhenAsked(tune.Stopper):
    def __init__(self, control: SearchControl) -> None:
        self._control = control

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._control.should_stop
