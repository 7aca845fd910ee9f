import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.export.conftest import flip_a_bit
from tests.export.reference import ablation_with_hostile_names

PLACES = {"optuna": "study.db", "csv": "csv", "mlflow": "mlflow.db", "tensorboard": "tb"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    ablation_with_hostile_names(tmp_path / "results" / "ablation")
    return tmp_path / "results"


def test_what_it_says(results: Path, tmp_path: Path, pgsearch: Run) -> None:
    place = tmp_path / "my study.db"
    command = ("export", "ablation", "--results", results, "--to", "optuna", "-o", place)
    result = pgsearch(*command)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"6 trials of ablation: {place}",
        f"open it with optuna-dashboard sqlite:///'{place}'",
    ]
    again = pgsearch(*command)
    assert again.code == 2
    assert "is there already; choose another --output, or replace it: --force" in again.err
    forced = pgsearch(*command, "--force", "--json")
    assert json.loads(forced.out) == {"search": "ablation", "trials": 6, "output": str(place)}


def test_what_it_does_not_know(results: Path, tmp_path: Path, pgsearch: Run) -> None:
    wrong = pgsearch("export", "ablatio", "--results", results, "--to", "csv", "-o", tmp_path / "x")
    assert wrong.code == 2
    assert "did you mean ablation?" in wrong.err
    wrong = pgsearch("export", "ablation", "--results", results, "--to", "excel", "-o", "x")
    assert wrong.code == 2
    assert "excel" in wrong.err


def test_a_damaged_file_is_named(results: Path, tmp_path: Path, pgsearch: Run) -> None:
    flip_a_bit(results / "ablation/trials/00002.parquet")
    result = pgsearch(
        "export", "ablation", "--results", results, "--to", "csv", "-o", tmp_path / "csv"
    )
    assert result.code == 0
    assert "warning: left out: " in result.err
    assert "trials/00002.parquet" in result.err.replace("\n", "")
    assert result.out.startswith("5 trials of ablation")


def test_tensorboardx_does_not_bring_torch() -> None:
    code = "import sys, pgsearch.export.tensorboard_runs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_no_export_loads_torch_or_ray(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    code = (
        "import sys; from pathlib import Path; from pgsearch.export import Target\n"
        "from pgsearch.export.export import export; from pgsearch.results import Ledger\n"
        "for target, place in zip(Target, sys.argv[2:], strict=True):\n"
        "    export(Ledger(sys.argv[1]), target, Path(place))\n"
        "assert not {'torch', 'ray', 'sklearn'} & sys.modules.keys()"
    )
    places = [str(tmp_path / place) for place in PLACES.values()]
    subprocess.run([sys.executable, "-c", code, str(results / "ablation"), *places], check=True)
    for place in places:
        assert Path(place).exists()
