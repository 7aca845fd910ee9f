import shutil
from pathlib import Path

import pytest

from pgsearch.results import Ledger
from tests.export.reference import ablation_with_hostile_names, search_of_all_states


@pytest.fixture(scope="session")
def all_states(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Complete, failed, pruned and running trials; only to be read."""
    return search_of_all_states(tmp_path_factory.mktemp("results") / "all_states")


@pytest.fixture(scope="session")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Variants with hostile names, two seeds each; only to be read."""
    return ablation_with_hostile_names(tmp_path_factory.mktemp("results") / "ablation")


@pytest.fixture
def damaged(all_states: Ledger, tmp_path: Path) -> Ledger:
    """A copy in which the row of trial 1 is damaged, that of 2 missing, and the epochs of 4."""
    folder = tmp_path / "all_states"
    shutil.copytree(all_states.url, folder)
    flip_a_bit(folder / "trials/00001.parquet")
    (folder / "trials/00002.parquet").unlink()
    flip_a_bit(folder / "epochs/00004.parquet")
    return Ledger(folder)


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
