"""Searches without Ray and without training: what a driver does, with made-up epochs."""

import math

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.results import EpochWriter, Ledger
from pgsearch.search.study import SearchStudy
from tests.records import epoch_record


def score(trial: TrialSpec, epoch: int) -> float:
    """A made-up mAP with its best at lambda1_neg = 2 in the tail."""
    distance = abs(math.log(trial.loss.lambda1_neg.tail / 2)) if trial.loss.name == "pg" else 1.0
    return (1 - 0.2 * distance) * epoch / trial.training.epochs * 0.9


def execute(
    study: SearchStudy, ledger: Ledger, trial: TrialSpec, *, epochs: int | None = None
) -> None:
    """Run a trial to its end as the scheduler would, or leave it after some epochs."""
    last = trial.training.epochs
    writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
    for epoch in range(len(ledger.epochs(trial.number)) + 1, (epochs or last) + 1):
        row = writer.append(epoch_record(epoch, score(trial, epoch), last=epoch == last))
        if epoch == last:
            study.complete(trial.number)
        elif study.observe(trial.number, epoch, row):
            study.prune(trial.number)
            return


def run_to_end(search: SearchSpec, ledger: Ledger) -> SearchStudy:
    study = SearchStudy(search, ledger)
    while (trial := study.next_trial()) is not None:
        execute(study, ledger, trial)
    return study
