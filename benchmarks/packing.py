"""Would several trials in one process pay? Four models that differ in their loss factors alone.

python benchmarks/packing.py

Two warm processes that train one model after the other, each preparing its own batches, as reused
actors do, against processes that show every batch to several models in turn. Only steps are timed:
nothing starts, loads or builds a model. Each way has all cores.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
from measure import compared, cores, interleave, seconds_of, write
from trainee import Trainee

from pgsearch.config import TrialSpec

MODELS, BATCH, ROUNDS, PRECISION = 4, 32, 10, "bf16"


class Case(NamedTuple):
    """A network to train on the embedded digits, for how many steps, and its augmentation."""

    name: str
    backbone: str
    image_size: int
    steps: int
    photometric: float


CASES = (
    Case("digits' network, 48 px", "digits_resnet", 48, steps=20, photometric=0),
    Case("ResNet-18, 64 px", "resnet18", 64, steps=5, photometric=0.5),
)


class Way(NamedTuple):
    """Which models each process trains, those of one group on the same batches."""

    groups_of_process: list[list[list[int]]]
    threads: int


WAYS = {
    "two processes, a model at a time": Way([[[0], [1]], [[2], [3]]], threads=1),
    "one process, four models by turns": Way([[[0, 1, 2, 3]]], threads=cores()),
    "two processes, two models by turns": Way([[[0, 1]], [[2, 3]]], threads=1),
}


def main() -> None:
    rows = []
    for case in CASES:
        ends: list[list[Connection]] = []
        subjects: dict[str, Callable[[], float]] = {}
        for name, way in WAYS.items():
            ends.append([start(case, groups, way.threads) for groups in way.groups_of_process])
            subjects[name] = seconds_of(lambda ends=ends[-1]: train(ends))  # type: ignore[misc]
        seconds = interleave(subjects, rounds=ROUNDS)
        for end in [end for of_way in ends for end in of_way]:
            end.send(None)
        images = MODELS * case.steps * BATCH
        rates = {name: [images / s for s in values] for name, values in seconds.items()}
        rows += [
            {"network": case.name, **row, "target": target_of(row["way"])}
            for row in compared(rates, subject="way", unit="images_per_second")
        ]
    write(__file__, rows, threads=cores(), models=MODELS, batch_size=BATCH, precision=PRECISION)


def target_of(way: str) -> str | None:
    return None if way == next(iter(WAYS)) else "> 1.2 to be built"


def start(case: Case, groups: list[list[int]], threads: int) -> Connection:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    spawn.Process(target=serve, args=(case, groups, threads, there), daemon=True).start()
    there.close()  # so that its end is noticed here
    here.recv()
    return here


def train(ends: list[Connection]) -> None:
    for end in ends:
        end.send("train")
    for end in ends:
        end.recv()


def serve(case: Case, groups: list[list[int]], threads: int, connection: Connection) -> None:
    trainees = [[Trainee(trial(case, n, threads), PRECISION) for n in group] for group in groups]
    connection.send("ready")
    while connection.recv() is not None:
        for group in trainees:
            train_by_turns(group, case.steps)
        connection.send("done")


def trial(case: Case, number: int, threads: int) -> TrialSpec:
    factor = {"head": 1.0, "medium": 1.0, "tail": 1.0 + number}
    return TrialSpec.model_validate(
        {
            "search": "packing", "number": number, "seed": 0, "threads": threads,
            "data": {"name": "digits", "image_size": case.image_size},
            "model": {"backbone": case.backbone, "weights": "random", "bn_eval": False},
            "loss": {"name": "pg", "lambda1_neg": factor, "focusing": "adaptive"},
            "training": {"batch_size": BATCH, "photometric": case.photometric},
        }
    )  # fmt: skip


def train_by_turns(trainees: list[Trainee], steps: int) -> None:
    """Show each batch, prepared once, to every model."""
    for step in range(steps):
        batch = trainees[0].prepare(step * BATCH + np.arange(BATCH))
        for trainee in trainees:
            trainee.step(*batch)


if __name__ == "__main__":
    main()
