"""The script for SLURM runs a real search on a real Ray of two nodes; only SLURM is a stub."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

from pgsearch.cluster_files.render import render
from pgsearch.cluster_files.settings import Kind
from tests.cluster_files.batch import STUBS, Batch, left_over

SPEC = """
data: {name: digits}
model: {backbone: digits_resnet, weights: random}
loss: {name: bce}
training: {epochs: 20, iterations_per_epoch: 6, decay_epochs: []}
method: grid
variants: {BCE: {}}
seeds: [0, 1]
"""


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_search_goes_on_after_the_time_limit(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for stub in ("srun", "scontrol"):
        shutil.copy(STUBS / stub, programs)
    (tmp_path / "limited.yaml").write_text(SPEC)
    script = tmp_path / "job.sbatch"
    script.write_text(render(Kind.SLURM, {"spec": "limited.yaml", "gpus": 0, "cpus": 1}))
    environment = Path(sys.executable).parent
    batch = Batch(script, tmp_path, f"{programs}:{environment}:{os.environ['PATH']}")
    epochs = tmp_path / "results" / "limited" / "epochs"

    def both_have_trained() -> bool:
        return len(list(epochs.rglob("*.parquet"))) == 2

    first = batch.run((both_have_trained, signal.SIGUSR1), timeout=120)
    assert first.returncode == 75, first.stdout
    assert batch.calls("scontrol") == [f"requeue {batch.number}"]
    assert not left_over([f"/tmp/pgsearch-{batch.number}"])
    interrupted = pd.read_parquet(epochs)
    assert 0 < len(interrupted) < 40

    second = batch.run(timeout=150)
    assert second.returncode == 0, second.stdout
    assert len(batch.calls("scontrol")) == 1
    assert not left_over([f"/tmp/pgsearch-{batch.number}"])
    rows = pd.read_parquet(epochs)
    assert sorted(zip(rows["seed"], rows["epoch"], strict=True)) == [
        (seed, epoch) for seed in (0, 1) for epoch in range(1, 21)
    ]
