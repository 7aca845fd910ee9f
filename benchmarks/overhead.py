"""What pgsearch adds to a bare training step, in time and in memory of one more trial on a node.

python benchmarks/overhead.py

Time: an epoch's steps of `fit` (drawing, augmentation, loss, clipping, checks, statistics) against
forward, BCE, backward and update alone, of the same network on one prepared batch.

Memory: the largest private memory of a second process that trains, while a first one lives, beyond
what its parameters, its optimiser and what autograd keeps for the backward pass take. In it are the
interpreter, the libraries' own data, the gradients and the temporaries of the step.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import compared, cores, seconds_of, write
from torch import Tensor, nn
from trainee import Trainee

from pgsearch.config import TrialSpec
from pgsearch.config.training import TrainingConfig
from pgsearch.results.schema import EpochRecord
from pgsearch.training.fit import fit

BATCH = 32


class Case(NamedTuple):
    """A network to train on the embedded digits."""

    name: str
    backbone: str
    image_size: int
    steps: int
    rounds: int


CASES = (
    Case("ResNet-18, 64 px", "resnet18", 64, steps=6, rounds=15),
    Case("ResNet-50, 224 px", "resnet50", 224, steps=2, rounds=6),
)


def main() -> None:
    rows = [row for case in CASES for row in time_of_loop(case)]
    rows += [memory(case) for case in CASES]
    write(__file__, rows, threads=cores(), batch_size=BATCH)


def trial(case: Case, *, epochs: int = 1) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "search": "overhead", "number": 0, "seed": 0, "threads": cores(),
            "data": {"name": "digits", "image_size": case.image_size},
            "model": {"backbone": case.backbone, "weights": "random", "bn_eval": False},
            "loss": {"name": "pg", "focusing": "adaptive"},
            "training": {"epochs": epochs, "iterations_per_epoch": case.steps, "decay_epochs": [],
                         "batch_size": BATCH, "validate_every": epochs},
        }
    )  # fmt: skip


def time_of_loop(case: Case) -> list[dict[str, Any]]:
    """Time both by turns: the bare steps run whenever `fit` reports an epoch."""
    seconds: dict[str, list[float]] = {"bare step": [], "fit": []}
    bare: list[Callable[[], None]] = []

    def take_turn(record: EpochRecord) -> None:
        if not bare:
            bare.append(bare_step(trial(case), precision_of(record)))
            bare[0]()  # the first step of a network is another
        seconds["bare step"].append(seconds_of(bare[0], times=case.steps)())
        seconds["fit"].append(record.train_seconds / case.steps)

    fit(trial(case, epochs=1 + case.rounds), report=take_turn)
    counted = {name: values[1:] for name, values in seconds.items()}
    rows = compared(counted, subject="of", unit="milliseconds", scale=1e3)
    for row in rows:
        row["target"] = "≤ 1.10" if row["of"] == "fit" else None
    return [{"what": f"step, {case.name}", **row} for row in rows]


def bare_step(spec: TrialSpec, precision: str) -> Callable[[], None]:
    trainee = Trainee(spec, precision)
    batch = trainee.prepare(np.arange(BATCH))
    return lambda: trainee.bare_step(*batch)


def precision_of(record: EpochRecord) -> str:
    """Return the precision that `fit` chose, or that it had to have."""
    return getattr(record, "precision", None) or TrainingConfig().precision


def memory(case: Case) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    processes, ends, precision = [], [], ""
    for _ in range(2):
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=train_and_wait, args=(case, there)))
        processes[-1].start()
        there.close()  # so that its end is noticed here
        ends.append(here)
        peak = peak_private_megabytes(processes[-1].pid, until=here)
        precision = here.recv()
    for process, end in zip(processes, ends, strict=True):
        end.send("end")
        process.join()
    expected = expected_megabytes(trial(case), precision)
    allowed = sum(expected[part] for part in ("model", "optimiser", "activations"))
    return {
        "what": f"memory of a second trial, {case.name}",
        "megabytes": peak,
        **{f"{part}_megabytes": size for part, size in expected.items()},
        "beyond_megabytes": peak - allowed,
        "target": "beyond ≤ 300",
    }


def train_and_wait(case: Case, connection: Connection) -> None:
    import pgsearch.search.tune  # noqa: F401  what an actor has loaded

    def wait(record: EpochRecord) -> None:
        connection.send(precision_of(record))
        connection.recv()

    fit(trial(case), report=wait)


def peak_private_megabytes(pid: int | None, *, until: Connection) -> float:
    """Watch a process until it says something."""
    peak = 0
    while not until.poll(0.02):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        peak = max(peak, sum(int(x.split()[1]) for x in lines if x.startswith("Private_")))
    return peak * 1024 / 1e6


def expected_megabytes(spec: TrialSpec, precision: str) -> dict[str, float]:
    """Return what the model, its gradients, its optimiser and a step's kept tensors take."""
    trainee = Trainee(spec, precision)
    network, batch = trainee.network, trainee.prepare(np.arange(BATCH))
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainee.bare_step(*batch)
    states = trainee.optimiser.state.values()
    state = [t for of in states for t in of.values() if torch.is_tensor(t)]
    return {
        "model": megabytes(network.state_dict().values()),
        "gradients": megabytes(gradients(network)),
        "optimiser": megabytes(state),
        "activations": sum(kept.values()) / 1e6,
    }


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad for p in network.parameters() if p.grad is not None]


def megabytes(tensors: Any) -> float:
    return sum(tensor.nbytes for tensor in tensors) / 1e6


if __name__ == "__main__":
    main()
