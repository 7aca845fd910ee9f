"""What Ray executes of a trial, in a worker."""

import contextlib
import functools
import os
import traceback
from typing import Any

from ray import tune

from pgsearch.class_groups import GROUPS
from pgsearch.config import Objective, TrialSpec
from pgsearch.errors import (
    AttemptReplaced,
    OutOfMemory,
    PgsearchError,
    StorageError,
    TrialInterrupted,
)
from pgsearch.results import DriverWatch, EpochRecord, EpochWriter, Ledger

REPORTED_COLUMNS = (
    "loss.train",
    *(f"map.{s}.{part}" for s in ("validation", "test") for part in ("total", *GROUPS)),
)


def train_trial(config: dict[str, Any]) -> None:
    """Execute one trial in a Ray actor: record each epoch in the ledger, then tell the driver.

    An error of the trial itself is reported: it would come again. What is raised, or what ends the
    worker, brings another attempt, since another time or place may help: out of memory.
    """
    from pgsearch.results.scores import write_scores
    from pgsearch.training.best_epoch import best_epoch_of
    from pgsearch.training.checkpoint import Checkpoints
    from pgsearch.training.fit import fit
    from pgsearch.training.memory import needed_memory

    with contextlib.suppress(OSError):  # paths of the spec are relative to the driver's, if any
        os.chdir(config["working_folder"])
    if not config["resources"]["gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a trial that asked for none
    trial = TrialSpec.model_validate_json(config["trial"])
    objective = Objective(**config["best_by"]) if config["best_by"] else None
    ledger = Ledger(config["url"])

    def report(record: EpochRecord) -> None:
        row = writer.append(record)
        columns = {name: row.get(name) for name in REPORTED_COLUMNS}
        tune.report({"epoch": row["epoch"]} | columns | needed_memory(trial.training.device))

    try:
        attempt = ledger.claim_attempt(trial.number)
        writer = EpochWriter(ledger, trial, attempt, gpus=config["resources"]["gpu"])

        def may_write() -> bool:
            return ledger.attempts(trial.number).is_newest(attempt)

        fit(
            trial,
            report=report,
            checkpoints=Checkpoints(ledger.checkpoint_file(trial.number), may_write=may_write),
            best_epoch=best_epoch_of(trial, ledger, objective, may_write=may_write),
            save_scores=functools.partial(write_scores, ledger.scores_file(trial.number))
            if config["save_scores"]
            else None,
            should_stop=DriverWatch(ledger.storage, config["driver"]).should_stop,
        )
    except (AttemptReplaced, TrialInterrupted) as error:
        tune.report({"interrupted": str(error)})
    except StorageError as error:
        tune.report({"storage_error": str(error)})
    except OutOfMemory:
        raise
    except PgsearchError as error:
        tune.report({"error": str(error)})
    except Exception:  # a bug: deterministic, so not tried again
        tune.report({"error": traceback.format_exc().strip()})
