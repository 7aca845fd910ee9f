"""Searches with made-up numbers that differ in every part, epoch and trial."""

import random
from dataclasses import replace
from pathlib import Path

from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec
from pgsearch.results import EpochRecord, EpochWriter, Ledger
from pgsearch.search.study import SearchStudy
from tests.records import epoch_record

SPACE = {
    "loss.lambda1_neg": {"type": "categorical", "choices": [1.0, 2.5], "groups": ["tail"]},
    "loss.focusing": {"type": "categorical", "choices": ["none", "adaptive"], "tied": True},
}
"""Two factors of two values."""


def record(epoch: int, rng: random.Random, *, tested: bool, fingerprint: str) -> EpochRecord:
    """An epoch with random numbers; the tail has none on test in one of four."""
    splits = ("validation", "test") if tested else ("validation",)
    parts = {split: {p: rng.random() for p in ("total", *GROUPS)} for split in splits}
    if tested and rng.random() < 0.25:
        parts["test"]["tail"] = float("nan")
    return replace(
        epoch_record(epoch, rng.random(), last=tested),
        map=parts,
        train_loss=rng.random(),
        f1={split: {"micro": rng.random(), "macro": rng.random()} for split in splits},
        data_fingerprint=fingerprint,
    )


def trained(
    folder: Path, search: SearchSpec, *, seed: int = 0, tested: bool = True, data: str = "data"
) -> Ledger:
    """Run a search to its end with random numbers; one in six trials fails.

    Args:
        folder: of the search.
        search: what to train.
        seed: of the numbers.
        tested: whether test is evaluated after every epoch, or after the last one alone.
        data: fingerprint of the data set.
    """
    rng = random.Random(seed)
    ledger = Ledger(folder)
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    while (trial := study.next_trial()) is not None:
        writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
        fails = rng.random() < 1 / 6
        last = trial.training.epochs
        for epoch in range(1, last + (not fails)):
            is_tested = tested or epoch == last
            writer.append(record(epoch, rng, tested=is_tested, fingerprint=data))
        if fails:
            study.fail(trial.number, "a made-up failure")
        else:
            study.complete(trial.number)
    return ledger
