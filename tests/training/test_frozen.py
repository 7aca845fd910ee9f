"""A frozen trunk: features once per node, and a head that trains as it would on the network."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.data.build import build_dataset
from pgsearch.errors import InvalidSpec
from pgsearch.models.digits_resnet import DigitsResNet
from pgsearch.results import EpochRecord
from pgsearch.training import features as features_module
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.features import cached_features
from pgsearch.training.fit import fit
from tests.records import spec

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(7)
    network = DigitsResNet()
    torch.save(network.state_dict(), tmp_path / "trunk.pth")
    return str(tmp_path / "trunk.pth")


def frozen(weights: str, model: Any = (), **training: Any) -> SearchSpec:
    return spec(
        data={"name": "digits", "max_count": 60, "image_size": 32, "head_min": 30},
        model={"backbone": "digits_resnet", "weights": weights, **dict(model)},
        training={"trunk": "frozen", "epochs": 3, "warmup_iterations": 5, "batch_size": 16,
                  "learning_rate": 0.05, **training},
    )  # fmt: skip


def train(trial: TrialSpec, **arguments: Any) -> list[EpochRecord]:
    records: list[EpochRecord] = []
    fit(trial, report=records.append, **arguments)
    return records


def forbid_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features_module._Trunk, "compute", fail)


def test_features_are_those_of_the_network_itself(weights: str) -> None:
    configuration = frozen(weights).trial(0, {})
    data = build_dataset(configuration.data)
    features = cached_features(configuration, data, CPU).splits
    network = DigitsResNet()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    for name in ("train", "validation", "test"):
        images = torch.from_numpy(np.array(data.split(name).images_NHWC)).permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = network((images.float() / 255 - 0.5) / 0.5)
        np.testing.assert_allclose(features[name], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_features_are_computed_once(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train(frozen(weights, epochs=1).trial(0, {}))
    forbid_computing(monkeypatch)
    train(frozen(weights, epochs=1, learning_rate=0.01).trial(0, {"loss.focusing": "none"}))


@pytest.mark.parametrize(
    "change",
    [{"model": {"pool": "max"}}, {"precision": "bf16"}, {"weights": "other"}],
    ids=["pool", "precision", "weights"],
)
def test_other_features_are_computed_anew(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    train(frozen(weights, epochs=1).trial(0, {}))
    forbid_computing(monkeypatch)
    if change.pop("weights", None):
        torch.manual_seed(8)
        torch.save(DigitsResNet().state_dict(), tmp_path / "other.pth")
        weights = str(tmp_path / "other.pth")
    with pytest.raises(AssertionError, match="computed again"):
        train(frozen(weights, epochs=1, **change).trial(0, {}))


def test_other_bytes_under_the_same_name_are_other_weights(weights: str) -> None:
    """Also for the trunk that the trials of this process share."""
    configuration = frozen(weights, epochs=1).trial(0, {})
    data = build_dataset(configuration.data)
    before = np.array(cached_features(configuration, data, CPU).splits["test"])
    torch.manual_seed(8)
    network = DigitsResNet()
    torch.save(network.state_dict(), weights)
    after = cached_features(configuration, data, CPU).splits["test"]
    assert not np.allclose(before, after)
    network.eval()
    images = torch.from_numpy(np.array(data.test.images_NHWC)).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network((images.float() / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(after, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_augmentation_that_would_have_no_effect_is_refused(weights: str) -> None:
    assert frozen(weights).training.flip == 0
    assert frozen(weights, flip=0, crop_min=1).training.photometric == 0
    with pytest.raises(InvalidSpec, match=r"flip=0.5 have no effect: leave them out"):
        frozen(weights, flip=0.5)


def test_the_head_learns_and_the_trunk_does_not_move(weights: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c.pt")
    first, *_, last = train(
        frozen(weights, epochs=4, iterations_per_epoch=60, learning_rate=0.2).trial(
            0, {"loss.focusing": "none"}
        ),
        checkpoints=checkpoints,
    )
    assert last.train_loss < 0.9 * first.train_loss
    assert last.iterations == 240
    state = checkpoints.load()
    assert state is not None
    before = torch.load(weights, weights_only=True)
    for name, value in before.items():
        assert torch.equal(state["model"][f"backbone.{name}"], value), name


def test_only_the_last_checkpoint_carries_the_trunk(weights: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c.pt")
    seen: list[set[str]] = []

    def look(record: EpochRecord) -> None:
        state = checkpoints.load()
        assert state is not None
        seen.append({name.partition(".")[0] for name in state["model"]})

    fit(frozen(weights).trial(0, {}), report=look, checkpoints=checkpoints)
    assert seen == [{"neck", "head"}, {"neck", "head"}, {"backbone", "neck", "head"}]


def test_a_resumed_trial_equals_an_uninterrupted_one(weights: str, tmp_path: Path) -> None:
    trial = frozen(weights).trial(0, {})
    straight, resumed = Checkpoints(tmp_path / "a.pt"), Checkpoints(tmp_path / "b.pt")
    train(trial, checkpoints=straight)

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trial, report=stop, checkpoints=resumed)
    torch.manual_seed(12345)
    train(trial, checkpoints=resumed)
    one, other = straight.load(), resumed.load()
    assert one is not None
    assert other is not None
    assert one["model"].keys() == other["model"].keys()
    for name, weight in one["model"].items():
        assert torch.equal(weight, other["model"][name]), name


def test_trials_of_one_process_do_not_touch_each_other(weights: str) -> None:
    """They share the trunk: the second trial of a process equals the first of another."""
    trial = frozen(weights).trial(0, {})
    alone = [r.train_loss for r in train(trial)]
    train(frozen(weights, learning_rate=0.3).trial(1, {}))
    assert [r.train_loss for r in train(trial)] == alone


BUILD = """
import sys, torch
from pgsearch.config import TrialSpec
from pgsearch.data.build import build_dataset
from pgsearch.training.features import cached_features
trial = TrialSpec.model_validate_json(sys.argv[1])
features = cached_features(trial, build_dataset(trial.data), torch.device("cpu")).splits
print(float(features["train"].astype("float64").sum()))
"""


@pytest.mark.slow
def test_two_builders_agree_and_leave_one_entry(weights: str, cache: Path) -> None:
    trial = frozen(weights).trial(0, {})
    command = [sys.executable, "-c", BUILD, trial.model_dump_json()]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [builder.communicate()[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sums[0] == sums[1]
    assert len(list(cache.glob("features-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.3, 1.5, 2.0, 2.3, 2.6])
def test_a_killed_builder_leaves_nothing_that_is_used(
    weights: str, cache: Path, after: float
) -> None:
    trial = frozen(weights).trial(0, {})
    command = [sys.executable, "-c", BUILD, trial.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as builder:
        try:
            builder.wait(after)
        except subprocess.TimeoutExpired:
            builder.kill()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    data = build_dataset(trial.data)
    features = cached_features(trial, data, CPU).splits
    assert float(result.stdout) == float(features["train"].astype("float64").sum())
    assert np.isfinite(features["test"]).all()
    assert not list(cache.glob(".features-*.partial"))


def test_random_weights_cannot_be_a_frozen_trunk() -> None:
    with pytest.raises(InvalidSpec, match=r"frozen computes features with model.weights, which"):
        frozen("random")
