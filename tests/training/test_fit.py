"""Training on the embedded data set, at a size of seconds."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.data.build import build_dataset
from pgsearch.errors import InvalidData, NonFiniteLoss, StorageError
from pgsearch.results import EpochRecord, EpochWriter, Ledger
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from pgsearch.training.inputs import ImageInputs
from tests.records import spec

TIMES = {"train_seconds", "evaluation_seconds", "peak_memory_bytes"}


def small(**training: Any) -> SearchSpec:
    return spec(
        data={"name": "digits", "max_count": 120, "image_size": 32, "head_min": 60},
        model={"backbone": "digits_resnet", "weights": "random", "bn_eval": False},
        training={"epochs": 4, "warmup_iterations": 5, "learning_rate": 0.05, "photometric": 0.0,
                  **training},
    )  # fmt: skip


def train(trial: TrialSpec, **arguments: Any) -> list[EpochRecord]:
    records: list[EpochRecord] = []
    fit(trial, report=records.append, **arguments)
    return records


def comparable(record: EpochRecord) -> str:
    fields = {k: v for k, v in dataclasses.asdict(record).items() if k not in TIMES}
    return repr(fields)  # NaN equals NaN in text


def test_an_epoch_record_is_complete() -> None:
    records = train(small(epochs=2).trial(0, {}))
    assert [r.epoch for r in records] == [1, 2]
    first, last = records
    assert set(first.map) == {"validation"}
    assert set(last.map) == {"validation", "test"}  # test is evaluated after the last epoch only
    steps = (120 * 10 // 4) // 32
    assert [r.iterations for r in records] == [steps, 2 * steps]
    assert first.num_train_images == 32 * steps
    assert all(0 < value < 1 for value in last.map["test"].values())
    assert np.mean(last.ap["test"]) == pytest.approx(last.map["test"]["total"])
    tail = [ap for ap, group in zip(last.ap["test"], last.class_groups, strict=True) if group == 2]
    assert np.mean(tail) == pytest.approx(last.map["test"]["tail"])
    assert all(0 < p < 1 for p in [*last.p_pos, *last.p_neg])
    assert len(last.factors["focusing_pos"]) == 10
    assert set(last.factors["lambda1_neg"]) == {1.0}
    assert last.weights_fingerprint == "random"


def test_training_learns() -> None:
    search = spec(
        model={"backbone": "digits_resnet", "weights": "random", "bn_eval": False, "dropout": 0.0},
        training={"epochs": 6, "iterations_per_epoch": 36, "learning_rate": 0.2, "flip": 0.0,
                  "photometric": 0.0, "warmup_iterations": 50, "decay_epochs": [5]},
    )  # fmt: skip
    first, *_, last = train(search.trial(0, {"loss.focusing": "none"}))
    assert last.map["validation"]["head"] > first.map["validation"]["head"] + 0.1
    assert last.train_loss < 0.8 * first.train_loss


def test_the_learning_rate_of_the_last_step_is_recorded(tmp_path: Path) -> None:
    """Steps 0 to 5: a warm-up of 3 from a tenth, and a tenth of the rest after epoch 2."""
    trial = small(epochs=4, iterations_per_epoch=2, learning_rate=1e-3, warmup_iterations=3,
                  warmup_ratio=0.1, decay_epochs=[2], decay_factor=0.1).trial(0, {})  # fmt: skip
    checkpoints = Checkpoints(tmp_path / "c.pt")
    used: list[float] = []

    def report(record: EpochRecord) -> None:
        if record.epoch < 4:  # the last checkpoint has no optimiser any more
            used.append((checkpoints.load() or {})["optimiser"]["param_groups"][0]["lr"])
        assert record.learning_rate == used[-1]

    fit(trial, report=report, checkpoints=checkpoints)
    assert used == pytest.approx([0.4e-3, 1e-3, 0.1e-3])


def test_the_seed_decides_everything() -> None:
    trial = small(epochs=1).trial(0, {})
    (first,), (again,) = train(trial), train(trial)
    assert comparable(first) == comparable(again)
    (other,) = train(trial.model_copy(update={"seed": 1}))
    assert comparable(first) != comparable(other)


@pytest.mark.parametrize("sampler", ["class_aware", "uniform"])
@pytest.mark.promise(3)
def test_a_resumed_trial_equals_an_uninterrupted_one(tmp_path: Path, sampler: str) -> None:
    trial = small(sampler=sampler, batch_size=16).trial(0, {})
    straight = Checkpoints(tmp_path / "straight.pt")
    expected = train(trial, checkpoints=straight)

    resumed = Checkpoints(tmp_path / "resumed.pt")
    got: list[EpochRecord] = []

    def stop_after_two(record: EpochRecord) -> None:
        got.append(record)
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trial, report=stop_after_two, checkpoints=resumed)
    torch.manual_seed(12345)  # what happens in between must not matter
    rest = train(trial, checkpoints=resumed)
    assert [r.epoch for r in rest] == [1, 2, 3, 4]  # the checkpoint's own records come again
    assert [comparable(r) for r in rest] == [comparable(r) for r in expected]
    assert [repr(r) for r in rest[:2]] == [repr(r) for r in got]  # with their times
    one, other = straight.load(), resumed.load()
    assert one is not None
    assert other is not None
    for name, weight in one["model"].items():
        assert torch.equal(weight, other["model"][name]), name


@pytest.mark.promise(3)
def test_workers_and_a_resume_among_them_change_nothing(tmp_path: Path) -> None:
    """Also where every image is distorted: each draws by seed, epoch and position alone."""
    alike = {"photometric": 0.5, "crop_min": 0.7, "batch_size": 16, "epochs": 3}
    expected = [comparable(r) for r in train(small(**alike).trial(0, {}))]
    assert expected != [
        comparable(r) for r in train(small(**alike | {"photometric": 0}).trial(0, {}))
    ]
    for workers in (1, 2):
        trial = small(**alike, workers=workers).trial(0, {})
        assert [comparable(r) for r in train(trial)] == expected
    checkpoints = Checkpoints(tmp_path / "c.pt")

    def stop_after_one(record: EpochRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trial, report=stop_after_one, checkpoints=checkpoints)
    assert [comparable(r) for r in train(trial, checkpoints=checkpoints)] == expected


def test_the_sampler_has_its_settings() -> None:
    losses = {
        train(small(epochs=1, **setting).trial(0, {}))[0].train_loss
        for setting in ({}, {"sampler_repeat": 1}, {"sampler": "uniform"})
    }
    assert len(losses) == 3
    (record,) = train(small(epochs=1, sampler_reduce=2).trial(0, {}))
    assert record.num_train_images == 120 * 10 // 2 // 32 * 32


def test_images_are_augmented_anew_in_each_epoch() -> None:
    data = build_dataset(small().data)
    statistics = ((0.5,) * 3, (0.5,) * 3)
    indices, positions = np.arange(4), np.arange(4)

    def batch(epoch: int, **training: float) -> torch.Tensor:
        config = small(**training).training
        inputs = ImageInputs(data, statistics, config, seed=0, device=torch.device("cpu"))
        return inputs.training_batch(indices, positions, epoch=epoch)

    assert torch.equal(batch(1), batch(1))
    assert not torch.equal(batch(1), batch(2))
    plain = {"crop_min": 1.0, "flip": 0.0}
    assert torch.equal(batch(1, **plain), batch(2, **plain))
    for setting in ({"photometric": 1.0}, {"crop_min": 0.5}, {"flip": 1.0}):
        assert not torch.equal(batch(1, **plain | setting), batch(1, **plain))


def test_deferred_reweighting_begins_after_its_epoch() -> None:
    def losses(reweight_after: int | None) -> list[float]:
        search = small(epochs=3)
        loss = spec(
            model={**search.model.model_dump(), "head": "cosine"},
            loss={"name": "ldam", "reweight_after": reweight_after},
            space={},
        ).loss
        model = search.model.model_copy(update={"head": "cosine"})
        trial = search.trial(0, {}).model_copy(update={"loss": loss, "model": model})
        return [record.train_loss for record in train(trial)]

    plain, deferred = losses(None), losses(2)
    assert deferred[:2] == plain[:2]
    assert deferred[2] != plain[2]


@pytest.mark.promise(3)
def test_checkpoints_that_are_sparser_than_epochs_repeat_them_alike(tmp_path: Path) -> None:
    trial = small(checkpoint_every=2).trial(0, {})
    expected = train(trial)
    checkpoints = Checkpoints(tmp_path / "c.pt")

    def stop_after_three(record: EpochRecord) -> None:
        if record.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trial, report=stop_after_three, checkpoints=checkpoints)
    assert [r["epoch"] for r in (checkpoints.load() or {})["records"]] == [1, 2]
    again = train(trial, checkpoints=checkpoints)
    assert [comparable(r) for r in again] == [comparable(r) for r in expected]


KILLED_TRAINING = """
import sys
from pathlib import Path
from pgsearch.config import TrialSpec
from pgsearch.results import EpochWriter, Ledger
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from pgsearch.training.inputs import ImageInputs
trial = TrialSpec.model_validate_json(sys.argv[1])
ledger = Ledger(Path(sys.argv[2]))
writer = EpochWriter(ledger, trial, ledger.claim_attempt(0))
def report(record):
    writer.append(record)
    print(record.epoch, flush=True)
fit(trial, report=report, checkpoints=Checkpoints(ledger.checkpoint_file(0)))
"""


@pytest.mark.slow
@pytest.mark.promise(3)
def test_a_killed_trial_continues_to_the_same_rows(tmp_path: Path) -> None:
    trial = small().trial(0, {})
    folder = tmp_path / "killed"
    ledger = Ledger(folder)
    command = [sys.executable, "-c", KILLED_TRAINING, trial.model_dump_json(), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "2":
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    acknowledged = ledger.epochs(0)
    assert len(acknowledged) in (2, 3)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = ledger.epochs(0)
    assert rows[: len(acknowledged)] == acknowledged
    straight = Ledger(tmp_path / "straight")
    writer = EpochWriter(straight, trial, straight.claim_attempt(0))
    fit(trial, report=writer.append)
    ignored = {*TIMES, "images_per_second", "recorded_utc", "attempt"}
    assert [{k: v for k, v in r.items() if k not in ignored} for r in rows] == [
        {k: v for k, v in r.items() if k not in ignored} for r in straight.epochs(0)
    ]


@pytest.mark.promise(4)
def test_a_number_that_is_not_finite_ends_the_trial_with_its_step() -> None:
    trial = small(learning_rate=1e12, clip_norm=None, warmup_iterations=0).trial(0, {})
    with pytest.raises(
        NonFiniteLoss, match=r"not finite in epoch 1, step \d+ .*lambda1_neg 1\.\.1"
    ):
        train(trial)


@pytest.mark.parametrize(
    "contents", [b"PK\x03\x04 not a checkpoint", b"", b"hello world", bytes(range(256))]
)
@pytest.mark.promise(7)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(contents)
    with pytest.raises(StorageError, match=r"c\.pt: this checkpoint is damaged"):
        Checkpoints(path).load()


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c.pt")
    train(small(epochs=1).trial(0, {}), checkpoints=checkpoints)
    with pytest.raises(StorageError, match="is of another configuration"):
        train(small(epochs=2).trial(0, {}), checkpoints=checkpoints)


@pytest.mark.promise(12)
def test_nothing_in_a_checkpoint_can_run(tmp_path: Path) -> None:
    torch.save({"model": Runs(tmp_path / "ran")}, tmp_path / "c.pt")
    with pytest.raises(StorageError, match="damaged"):
        Checkpoints(tmp_path / "c.pt").load()
    assert not (tmp_path / "ran").exists()


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_batch_larger_than_an_epoch_is_an_error() -> None:
    with pytest.raises(InvalidData, match="batch_size=512; use a smaller batch"):
        train(small(batch_size=512).trial(0, {}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_asked_for_and_absent_is_an_error() -> None:
    with pytest.raises(InvalidData, match="no GPU is visible"):
        train(small(device="cuda").trial(0, {}))


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "bce"},
        {"name": "focal", "balance": 2.0},
        {"name": "rw"},
        {"name": "cb_focal"},
        {"name": "asl"},
        {"name": "db_focal"},
        {"name": "db", "scale": 5.0},
        {"name": "pg", "lambda1_neg_mode": "adaptive", "lambda2_pos": {"tail": 2.0},
         "focusing": {"head": "none", "medium": "fixed", "tail": "adaptive"}, "max_ratio": 10.0},
    ],
    ids=lambda loss: loss["name"],
)  # fmt: skip
def test_every_loss_trains(loss: dict[str, Any]) -> None:
    trial = small(epochs=1).trial(0, {}).model_copy(update={"loss": spec(loss=loss, space={}).loss})
    (record,) = train(trial)
    assert np.isfinite(record.train_loss)


def test_bf16_trains() -> None:
    (record,) = train(small(epochs=1, precision="bf16").trial(0, {}))
    assert np.isfinite(record.train_loss)
