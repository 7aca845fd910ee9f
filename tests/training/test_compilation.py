"""Compiled training steps: the numbers of eager ones, and no compilation is paid twice."""

import importlib
import itertools
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pgsearch.config import TrialSpec, load_spec
from pgsearch.errors import TrialInterrupted, UsageError
from pgsearch.search import node_facts
from pgsearch.search.compilers import require_compilers
from pgsearch.training import compiler
from pgsearch.training import fit as training
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from pgsearch.training.trained import load_trained
from tests.cli.test_cli import pgsearch
from tests.search.searches import SPEC
from tests.training import test_frozen_stages as stages
from tests.training.test_fit import comparable, small, train
from tests.training.test_interrupt import assert_same

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

PROCESS = """
import sys
from pgsearch.config import TrialSpec
from pgsearch.training.fit import fit
fit(TrialSpec.model_validate_json(sys.argv[1]), report=lambda record: None)
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    importlib.import_module("torch._inductor.codecache")  # sets it where it is not set

    with monkeypatch.context() as patched:
        patched.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        yield
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # set by a trial


def test_triton_is_asked_for_where_trials_have_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    search = load_spec("search_spaces/digits_pg.yaml", ["training.compile=true"])
    monkeypatch.setattr(compiler, "_problem_of_compiler", lambda: None)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    require_compilers(search, has_gpu=False)
    with pytest.raises(UsageError, match="pip install triton"):
        require_compilers(search, has_gpu=True)


def num_compiled() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def whole(folder: Path, **settings: Any) -> TrialSpec:
    """All that is drawn is drawn: views, dropout. Two trials differ in weights and batches."""
    seed = settings.pop("seed", 0)
    trial = small(epochs=2, iterations_per_epoch=3, warmup_iterations=2, crop_min=0.7,
                  **settings).trial(0, {})  # fmt: skip
    return trial.model_copy(update={"seed": seed})


def from_maps(folder: Path, seed: int = 0, **settings: Any) -> TrialSpec:
    model, trunk = {"bn_eval": True}, "frozen_through_layer2"
    search = stages.search(folder, "digits_resnet", model, trunk=trunk, **settings)
    return search.trial(0, {}).model_copy(update={"seed": seed})


@needs_compiler
@pytest.mark.usefixtures("own_cache")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("trial_of", "precision", "within"), [(whole, "fp32", 1e-4), (from_maps, "bf16", 1e-2)]
)
def test_compiled_training_is_that_of_eager_mode_up_to_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial_of: Any, precision: str, within: float
) -> None:
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    eager = trial_of(tmp_path, precision=precision)
    expected = train(eager)
    networks: list[weakref.ref[nn.Module]] = []

    class Run(training._Run):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            networks.append(weakref.ref(self.network))

    monkeypatch.setattr(training, "_Run", Run)
    trial = trial_of(tmp_path, precision=precision, compile=True)
    path = tmp_path / "c.pt"
    before = num_compiled()
    found = train(trial, checkpoints=Checkpoints(path))
    assert num_compiled() == before + 1
    for one, other in zip(found, expected, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=within)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=10 * within)
        assert one.loss == pytest.approx(other.loss, rel=within)
    assert comparable(found[-1]) != comparable(expected[-1])  # it was other code

    # Others in this process find it, leave nothing behind, and eager ones are as before.
    train(trial_of(tmp_path, precision=precision, compile=True, seed=1))
    assert num_compiled() == before + 1
    assert [network() for network in networks] == [None] * 2
    assert [comparable(r) for r in train(eager)] == [comparable(r) for r in expected]

    # It does not show in a state, which goes on to the same bit.
    assert not any("_orig_mod" in name for name in Checkpoints(path).load()["model"])
    assert load_trained(path).epoch == 2
    asked = itertools.count()
    stopped = Checkpoints(tmp_path / "stopped.pt")
    with pytest.raises(TrialInterrupted, match="in epoch 1, after step 2"):
        fit(trial, report=print, checkpoints=stopped, should_stop=lambda: next(asked) == 3)
    train(trial, checkpoints=stopped)
    assert_same(stopped.load(), Checkpoints(path).load())


@needs_compiler
@pytest.mark.usefixtures("own_cache")
@pytest.mark.slow
def test_another_process_finds_what_one_has_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))

    def misses_and_hits(seed: int) -> list[int]:
        trial = from_maps(tmp_path, compile=True, seed=seed).model_dump_json()
        command = [sys.executable, "-c", PROCESS, trial]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        return [int(number) for number in ran.stdout.split()]

    assert misses_and_hits(0) == [2, 0]  # forward and backward
    assert misses_and_hits(1) == [0, 2]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.gpu
def test_compiled_training_on_a_gpu_is_that_of_eager_mode(tmp_path: Path) -> None:
    settings = {"device": "cuda", "precision": "fp32"}
    expected = train(whole(tmp_path, **settings))
    found = train(whole(tmp_path, compile=True, **settings))
    losses = [[r.train_loss for r in records] for records in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("command", ["run", "train"])
def test_without_a_compiler_nothing_begins(tmp_path: Path, command: str) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    words = (command, "small.yaml", "training.compile=true")
    result = pgsearch(*words, cwd=tmp_path, CXX="no-compiler")
    assert result.returncode == UsageError.exit_code, result.stderr
    for part in ("training.compile: true: it needs", "no-compiler is not found", "compile: false"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "results").exists()


def test_headers_of_python_belong_to_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "echo 'x.cc:1: fatal error: Python.h: No such file' >&2; exit 1"
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    found = node_facts.node_lacks_for_compiling(False)
    assert found is not None
    assert "(x.cc:1: fatal error: Python.h: No such file)" in found
    assert "python3-dev" in found


@needs_compiler
@pytest.mark.usefixtures("own_cache")
@pytest.mark.slow
def test_a_network_that_does_not_compile_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()  # or it may be there
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    script = 'case "$*" in *-fsyntax-only*) ;; *) echo full >&2; exit 1;; esac'
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, os.environ["CXX"]))
    with pytest.raises(UsageError, match=r"training\.compile: true: digits_resnet could not be"):
        train(whole(tmp_path, compile=True))
