"""Searches that pages are made of, with names that would do harm where they are not escaped."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.results import EpochWriter, Ledger
from pgsearch.search.study import SearchStudy
from pgsearch.web.app import create_app
from tests.records import epoch_record, grid, spec
from tests.studies import execute

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a_b&c%{}\u202ex")
"""Names of variants and classes; the last turns the direction of what follows."""
SCORES = {HOSTILE[0]: (0.50, 0.54, 0.52), HOSTILE[1]: (0.61, 0.66, 0.63), "PG": (0.58, 0.61, 0.6)}


@dataclass(frozen=True)
class Results:
    folder: Path
    unfinished: SearchStudy
    """Of the search `small`, whose trial 7 has one epoch."""


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A search with pruned, failed and unfinished trials, and an ablation; nobody changes them."""
    folder = tmp_path_factory.mktemp("web") / "results"
    study = make_search(folder)
    make_grid(folder)
    return Results(folder, study)


def make_search(folder: Path, name: str = "small") -> SearchStudy:
    search = spec(
        name=name, trials=8, pruner={"name": "median", "n_startup_trials": 2, "n_warmup_steps": 2}
    )
    ledger = Ledger(folder / name)
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    for number in range(8):
        trial = study.next_trial()
        assert trial is not None
        if number == 6:
            execute(study, ledger, trial, epochs=1)
            study.fail(number, "first line\nValueError: <b>boom</b> & more")
        else:
            execute(study, ledger, trial, epochs=1 if number == 7 else None)
    return study


def make_grid(folder: Path, name: str = "ablation") -> Ledger:
    variants = {variant: {} for variant in SCORES} | {HOSTILE[0]: {"loss": {"name": "bce"}},
        HOSTILE[1]: {"loss": {"kappa": 0.1}}}  # fmt: skip
    search = grid(name=name, seeds=[1, 2, 3], variants=variants)
    ledger = Ledger(folder / name)
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    while (trial := study.next_trial()) is not None:
        train(ledger, trial, search)
        study.complete(trial.number)
    return ledger


def train(ledger: Ledger, trial: TrialSpec, search: SearchSpec) -> None:
    value = SCORES[trial.variant or ""][search.seeds.index(trial.seed)]
    writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
    for epoch in (1, 2, 3, 4):
        record = epoch_record(epoch, value * epoch / 4, last=epoch == 4)
        writer.append(replace(record, class_names=list(HOSTILE)))


@pytest.fixture(scope="session")
def client(results: Results) -> TestClient:
    """Asks for pages of `results`, which stay in the application's memory."""
    return client_of(results.folder)


def client_of(folder: Path) -> TestClient:
    return TestClient(create_app(str(folder)), base_url="http://127.0.0.1")


@pytest.fixture
def copied(results: Results, tmp_path: Path) -> Path:
    """A copy of `results` to change."""
    return Path(shutil.copytree(results.folder, tmp_path / "results"))
