"""The plain PyTorch recipe against pgsearch's own path: ResNet-50 at 224 pixels on photographs.

python benchmarks/recipe.py

Plain is benchmarks/peers/plain.py: JPEGs decoded for every sample in a DataLoader, fp32, NCHW, a
process of its own. pgsearch is `fit` with its defaults: images decoded once per node, the memory
layout and precision that it chooses. Both have all cores, random weights and batches of 32; only
seconds and no accuracies are compared. A trial of pgsearch follows another in its process, as the
trials of a search do.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import compared, cores, interleave, seconds_of, write
from peers import plain
from photographs import Photographs, write_manifest
from trainee import Trainee

from pgsearch.config import TrialSpec
from pgsearch.results.schema import EpochRecord
from pgsearch.training.fit import fit

BATCH, SIZE, STEPS, ROUNDS = 32, 224, 3, 4
NUM_TRAIN, NUM_TEST = 256, 64
TRIAL_STEPS, TRIAL_ROUNDS = 3, 3


def main() -> None:
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PGSEARCH_CACHE"] = str(folder / "cache")
        images = write_manifest(folder, num_train=NUM_TRAIN, num_test=NUM_TEST)
        start = time.perf_counter()
        trainee = Trainee(trial(images), "fp32")  # the first of a node decodes the images for all
        first_seconds = time.perf_counter() - start
        rows = [*pipeline(images, trainee), *network(images), *whole_trial(images)]
    write(
        __file__,
        rows,
        images=images.kind,
        threads=cores(),
        plain_workers=plain.WORKERS,
        first_trial_decodes_seconds=first_seconds,
        allocator={k: v for k, v in os.environ.items() if k.startswith(("MALLOC", "LD_PRELOAD"))},
    )


def trial(images: Path, *, epochs: int = 1, steps: int = STEPS) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "search": "recipe", "number": 0, "seed": 0, "threads": cores(),
            "data": {"name": "manifest", "manifest": str(images.manifest),
                     "root": str(images.root), "image_size": SIZE,
                     "validation_fraction": 0, "head_min": 50, "tail_below": 10},
            "model": {"backbone": "resnet50", "weights": "random", "bn_eval": False},
            "loss": {"name": "pg", "focusing": "adaptive"},
            "training": {"epochs": epochs, "iterations_per_epoch": steps, "batch_size": BATCH,
                         "test_every": 1, "decay_epochs": [], "eval_batch_size": BATCH},
        }
    )  # fmt: skip


def pipeline(images: Photographs, trainee: Trainee) -> list[dict[str, Any]]:
    """Return images per core-second from file or cache to the batch that a network is shown."""
    dataset = plain.Jpegs(images, "train", plain.augmentation(SIZE))
    indices = np.arange(BATCH)

    def rate(prepare: Callable[[], object]) -> Callable[[], float]:
        def subject() -> float:
            torch.set_num_threads(1)
            start = time.process_time()
            prepare()
            seconds = time.process_time() - start
            torch.set_num_threads(cores())
            return BATCH / seconds

        return subject

    rates = interleave(
        {
            "plain": rate(lambda: torch.stack([dataset[i][0] for i in indices])),
            "pgsearch": rate(lambda: trainee.prepare(indices)),
        },
        rounds=10,
    )
    return rows_of("input pipeline", rates, "images per core-second", target="≥ 10")


def network(images: Photographs) -> list[dict[str, Any]]:
    """Return images per second of training epochs and of evaluations, inputs and metrics included.

    The plain recipe takes its turn whenever `fit` reports an epoch; the first is not counted.
    """
    training: dict[str, list[float]] = {"plain": [], "pgsearch": []}
    evaluation: dict[str, list[float]] = {"plain": [], "pgsearch": []}

    with subprocess.Popen(
        plain_command(images, steps=0),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as peer:
        asked, answers = peer.stdin, peer.stdout
        assert asked is not None
        assert answers is not None

        def plain_seconds(what: str) -> float:
            print(what, file=asked, flush=True)
            return float(answers.readline())

        def take_turn(record: EpochRecord) -> None:
            training["pgsearch"].append(BATCH * STEPS / record.train_seconds)
            evaluation["pgsearch"].append(NUM_TEST / record.evaluation_seconds)
            training["plain"].append(BATCH * STEPS / plain_seconds(f"train {STEPS}"))
            evaluation["plain"].append(NUM_TEST / plain_seconds("evaluate"))

        fit(trial(images, epochs=1 + ROUNDS), report=take_turn)
        asked.close()
    counted = [{k: v[1:] for k, v in rates.items()} for rates in (training, evaluation)]
    return [
        *rows_of("training", counted[0], "images per second", target="≥ 3.2"),
        *rows_of("evaluation", counted[1], "images per second", target="≥ 4.5"),
    ]


def plain_command(images: Photographs, *, steps: int) -> list[str]:
    return [sys.executable, plain.__file__, str(images.manifest), str(images.root), str(steps)]


def whole_trial(images: Photographs) -> list[dict[str, Any]]:
    """Return trials per hour, of three steps and an evaluation each."""
    command = plain_command(images, steps=TRIAL_STEPS)
    short = trial(images, steps=TRIAL_STEPS)
    seconds = interleave(
        {
            "plain": seconds_of(lambda: subprocess.run(command, check=True, capture_output=True)),
            "pgsearch": seconds_of(lambda: fit(short, report=lambda _: None)),
        },
        rounds=TRIAL_ROUNDS,
        warm_up=0,
    )
    rates = {name: [3600 / s for s in values] for name, values in seconds.items()}
    rows = rows_of(f"trial of {TRIAL_STEPS} steps", rates, "trials per hour", target=None)
    for row in rows:
        row["seconds"] = statistics.median(seconds[row["recipe"]])
    return rows


def rows_of(
    what: str, rates: dict[str, list[float]], unit: str, *, target: str | None
) -> list[dict[str, Any]]:
    rows = compared(rates, subject="recipe", unit="rate")
    for row in rows:
        row["target"] = target if row["recipe"] == "pgsearch" else None
    return [{"what": f"{what}, {unit}", **row} for row in rows]


if __name__ == "__main__":
    main()
