"""A trial in a process that has trained others, as in an actor that is used again.

It must equal the trial in a fresh process, bit for bit, whatever ran before it and however that
ended, and an ended trial must leave nothing behind.
"""

import gc
import itertools
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgsearch.config import TrialSpec
from pgsearch.errors import NonFiniteLoss, TrialInterrupted
from pgsearch.results import EpochRecord
from pgsearch.training import fit as training
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from tests.records import spec
from tests.training.test_interrupt import assert_same

MODEL = {"backbone": "digits_resnet", "weights": "random", "bn_eval": False}
PROBES: dict[str, dict[str, Any]] = {
    "fp32": {
        "model": {**MODEL, "dropout": 0.3},
        "loss": {"name": "pg", "lambda1_neg_mode": "adaptive", "focusing": "adaptive"},
        "training": {"photometric": 0.5, "crop_min": 0.7, "workers": 1},
    },
    "bf16": {"loss": {"name": "asl"}, "training": {"precision": "bf16", "sampler": "uniform"}},
}
OTHERS: dict[str, tuple[dict[str, Any], type[BaseException] | None]] = {
    "another model": ({"model": {**MODEL, "head": "ml_gcn", "word_vectors": "random"}}, None),
    "bf16, another augmentation": (
        {"loss": {"name": "bce"}, "training": {"precision": "bf16", "photometric": 1.0}},
        None,
    ),
    "another size, no channels_last": (
        {"data": {"image_size": 40}, "training": {"channels_last": False, "batch_size": 24}},
        None,
    ),
    "two threads": ({"resources": {"cpus": 2}, "training": {"epochs": 1, "workers": 2}}, None),
    "diverges": (
        {"training": {"learning_rate": 1e12, "clip_norm": None, "warmup_iterations": 0}},
        NonFiniteLoss,
    ),
    "is interrupted": ({"training": {"precision": "bf16"}}, TrialInterrupted),
    "is pruned": ({}, SystemExit),  # raised by Tune in the trial's report
}
FRESH = """
import os, sys
from pathlib import Path
from pgsearch.config import TrialSpec
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
for file in Path(sys.argv[1]).glob("*.json"):
    if (child := os.fork()) == 0:  # has imported, and nothing else
        trial = TrialSpec.model_validate_json(file.read_text())
        fit(trial, report=lambda record: None, checkpoints=Checkpoints(file.with_suffix(".pt")))
        os._exit(0)
    os.waitpid(child, 0)
"""


def small(
    *, data: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **parts: Any
) -> TrialSpec:
    size = {"name": "digits", "max_count": 40, "image_size": 32, "head_min": 20, "tail_below": 5}
    steps = {"epochs": 2, "batch_size": 16, "iterations_per_epoch": 3, "warmup_iterations": 4,
             "decay_epochs": [1]}  # fmt: skip
    search = spec(
        **{"model": MODEL, "space": {"training.momentum": {"type": "float", "low": 0, "high": 0.9}},
           **parts},
        data={**size, **(data or {})},
        training={**steps, **(training or {})},
    )  # fmt: skip
    return search.trial(0, {})


def in_a_thread(run: Callable[[], None]) -> BaseException | None:
    """Run something as Tune runs a trial: in a thread of its own; return what it raised."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error.with_traceback(None))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def run_other(name: str) -> None:
    changes, ends_with = OTHERS[name]
    asked = itertools.count()

    def report(record: EpochRecord) -> None:
        if name == "is pruned":
            raise SystemExit

    raised = in_a_thread(
        lambda: fit(
            small(**changes),
            report=report,
            should_stop=lambda: name == "is interrupted" and next(asked) == 3,
        )
    )
    assert type(raised) is (ends_with or type(None)), raised


def settings_of_the_process() -> dict[str, Any]:
    return {
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "numpy stream": np.random.get_state(legacy=True)[1].tobytes(),  # noqa: NPY002
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "threads": {thread.name for thread in threading.enumerate()},
    }


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Final states of the probes, each trained in a process of its own."""
    folder = tmp_path_factory.mktemp("fresh")
    for name, changes in PROBES.items():
        (folder / f"{name}.json").write_text(small(**changes).model_dump_json())
    subprocess.run([sys.executable, "-c", FRESH, str(folder)], check=True)
    run_other("another model")  # what libraries set once, when they are first used
    return folder


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.promise(3)
def test_a_used_process_trains_as_a_fresh_one(fresh: Path, tmp_path: Path, other: str) -> None:
    before = settings_of_the_process()
    run_other(other)
    assert settings_of_the_process() == before
    for name, changes in PROBES.items():
        checkpoints = Checkpoints(tmp_path / f"{name}.pt")
        assert in_a_thread(lambda c=changes, k=checkpoints: fit(
            small(**c), report=lambda record: None, checkpoints=k
        )) is None  # fmt: skip
        assert_same(checkpoints.load(), Checkpoints(fresh / f"{name}.pt").load())


def test_an_ended_trial_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector's help, which may come late: memory of a GPU would wait."""
    runs: list[weakref.ref[Any]] = []

    class Run(training._Run):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            runs.extend(map(weakref.ref, (self, self.network, self.optimiser, self.data)))

    monkeypatch.setattr(training, "_Run", Run)
    run_other("another model")  # what torch and the caches keep once
    gc.collect()
    gc.disable()
    try:
        for name in ("another size, no channels_last", "diverges", "is interrupted", "is pruned"):
            run_other(name)
        left = [ref() for ref in runs]
    finally:
        gc.enable()
    assert left == [None] * 4 * 5
