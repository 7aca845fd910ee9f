"""What is freed goes back to the system, and what is not needed is freed."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from pgsearch.training import fit as training
from pgsearch.training.memory import return_freed_memory
from tests.training.test_fit import small, train

CPU = torch.device("cpu")
needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc"
)


def anonymous_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


@needs_glibc
def test_freed_memory_of_long_epochs_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [torch.ones(16_000) for _ in range(800)]  # 51 MB on the heap: too small for mmap
    del blocks[:-1]  # the end of the heap stays in use, so that glibc itself returns nothing
    before = anonymous_megabytes()
    return_freed_memory(CPU, epoch_seconds=2.0)
    assert anonymous_megabytes() > before - 5
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "-1")
    return_freed_memory(CPU, epoch_seconds=20.0)
    assert anonymous_megabytes() > before - 5
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    return_freed_memory(CPU, epoch_seconds=20.0)
    assert anonymous_megabytes() < before - 30


def test_an_evaluation_has_no_gradients_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients: list[bool] = []
    compute_logits = training.compute_logits

    def compute(network: torch.nn.Module, *arguments: Any, **keywords: Any) -> Any:
        gradients.extend(p.grad is not None for p in network.parameters())
        return compute_logits(network, *arguments, **keywords)

    monkeypatch.setattr(training, "compute_logits", compute)
    train(small(epochs=1, iterations_per_epoch=1).trial(0, {}))
    assert gradients
    assert not any(gradients)
