"""Frozen stages with cached maps: the same training as without the cache, from the maps on."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pgsearch.config import SearchSpec
from pgsearch.data.build import build_dataset
from pgsearch.errors import InvalidData, InvalidSpec, StorageError, TrialInterrupted
from pgsearch.models.backbones import build_backbone
from pgsearch.models.build import check_model
from pgsearch.results import EpochRecord
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.features import cached_features, maps_of
from pgsearch.training.fit import fit
from pgsearch.training.trained import load_trained
from tests.records import spec

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def search(folder: Path, backbone: str, model: Any = (), **training: Any) -> SearchSpec:
    """Return a search with a random network whose batch norms have seen images."""
    path = folder / f"{backbone}.pth"
    if not path.exists():
        torch.manual_seed(7)
        network = build_backbone(backbone).network
        with torch.no_grad():
            network.train()(torch.randn(16, 3, 32, 32))  # moves the running moments
        torch.save(network.state_dict(), path)
    return spec(
        data={"name": "digits", "max_count": 40, "image_size": 32, "head_min": 20},
        model={"backbone": backbone, "weights": str(path), "bn_eval": False, **dict(model)},
        training={"epochs": 2, "iterations_per_epoch": 4, "warmup_iterations": 5,
                  "batch_size": 16, "learning_rate": 0.05, **training},
    )  # fmt: skip


def train(trial: Any, path: Path, **arguments: Any) -> tuple[list[EpochRecord], dict[str, Any]]:
    records: list[EpochRecord] = []
    checkpoints = Checkpoints(path)
    fit(trial, report=records.append, checkpoints=checkpoints, **arguments)
    state = checkpoints.load()
    assert state is not None
    return records, state["model"]


@pytest.mark.parametrize(
    ("backbone", "stages", "frozen_stages", "bn_eval"),
    [("digits_resnet", 1, 0, False), ("digits_resnet", 2, 1, True), ("resnet18", 3, 0, False)],
)
def test_training_from_cached_maps_is_training_with_frozen_stages(
    tmp_path: Path, backbone: str, stages: int, frozen_stages: int, bn_eval: bool
) -> None:
    off = {"photometric": 0.0, "crop_min": 1.0, "flip": 0.0}
    uncached = search(tmp_path, backbone, {"frozen_stages": stages, "bn_eval": bn_eval}, **off)
    cached = search(
        tmp_path,
        backbone,
        {"frozen_stages": frozen_stages, "bn_eval": bn_eval},
        trunk=f"frozen_through_layer{stages}",
    )
    expected, whole = train(uncached.trial(0, {}), tmp_path / "uncached.pt")
    found, same = train(cached.trial(0, {}), tmp_path / "cached.pt")
    for one, other in zip(expected, found, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-5)
        assert other.loss["validation"] == pytest.approx(one.loss["validation"], rel=1e-4)
    start = torch.load(cached.model.weights, weights_only=True)
    assert whole.keys() == same.keys()
    moved = set()
    for name, weight in whole.items():
        torch.testing.assert_close(same[name], weight, rtol=1e-3, atol=1e-5, msg=name)
        initial = start.get(name.removeprefix("backbone."))
        if initial is not None and not torch.equal(same[name], initial):
            moved.add(name)
    trained = ("backbone.stages.2", "backbone.layer4", f"backbone.stages.{stages}")
    assert moved
    assert all(name.startswith(trained) for name in moved)


def test_maps_are_those_of_the_network_in_its_own_arithmetic(tmp_path: Path) -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        trial = search(
            tmp_path, "digits_resnet", trunk="frozen_through_layer2", precision=precision
        ).trial(0, {})
        data = build_dataset(trial.data)
        maps_NKHW = maps_of(np.array(cached_features(trial, data, CPU).splits["test"]))
        network = build_backbone("digits_resnet").network.eval()
        network.load_state_dict(torch.load(trial.model.weights, weights_only=True))
        images = torch.from_numpy(np.array(data.test.images_NHWC)).permute(0, 3, 1, 2)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            expected = network.stages[:2](network.stem((images.float() / 255 - 0.5) / 0.5))
        assert maps_NKHW.dtype is expected.dtype is dtype
        assert maps_NKHW.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(maps_NKHW, expected, rtol=2e-2, atol=2e-2)
        if dtype is torch.float32:
            torch.testing.assert_close(maps_NKHW, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trunk", ["frozen", "frozen_through_layer2"])
def test_views_matter_and_are_drawn_alike_with_workers(tmp_path: Path, trunk: str) -> None:
    def losses(**training: Any) -> list[float]:
        trial = search(tmp_path, "digits_resnet", trunk=trunk, **training).trial(0, {})
        return [record.train_loss for record in train(trial, tmp_path / f"{training}.pt")[0]]

    assert losses(views=3, workers=3) == losses(views=3)
    assert losses(views=3)[0] != losses()[0]


def test_views_are_the_image_and_augmented_ones_and_shared(tmp_path: Path, cache: Path) -> None:
    def features(seed: int, **training: Any) -> Any:
        trial = search(tmp_path, "digits_resnet", trunk="frozen", **training).trial(0, {})
        return cached_features(trial.model_copy(update={"seed": seed}), data, CPU)

    data = build_dataset(search(tmp_path, "digits_resnet").data)
    (plain,) = features(0).views
    first, second, third = features(0, views=3).views
    np.testing.assert_array_equal(first, plain)
    for one, other in ((first, second), (first, third), (second, third)):
        assert (np.abs(one - other).max(axis=1) > 1e-4).mean() > 0.9  # of the images
    entries = set(cache.glob("features-*"))
    assert len(entries) == 3
    features(1, views=3)  # another trial
    assert set(cache.glob("features-*")) == entries
    features(0, views=4)
    assert len(list(cache.glob("features-*"))) == 4  # one more
    features(0, views=2, crop_min=0.5)
    assert len(list(cache.glob("features-*"))) == 5


def test_a_cache_that_will_not_fit_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    trial = search(tmp_path, "digits_resnet", trunk="frozen_through_layer1", views=5).trial(0, {})
    data = build_dataset(trial.data)
    bytes_per_image = 16 * 16 * 16 * 4
    num_images = 5 * data.train.num_images + data.validation.num_images + data.test.num_images
    free = SimpleNamespace(free=bytes_per_image * num_images - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    needed = f"{bytes_per_image * num_images / 1e9:.2f} GB more and the disk has"
    with pytest.raises(StorageError, match=rf"{needed}.*lower training.views \(5\); .*bf16"):
        cached_features(trial, data, CPU)
    assert not list(cache.glob("features-*"))
    free.free += 1
    told: list[tuple[int, int]] = []
    cached_features(trial, data, CPU, progress=lambda *counts: told.append(counts))
    assert told == sorted(told)
    assert told[-1] == (num_images, num_images)


@pytest.mark.parametrize(
    ("backbone", "stages", "said"),
    [
        ("digits_resnet", 3, "leaves none of the 3 stages of digits_resnet to train: choose "
         "frozen_through_layer2 or below"),
        ("timm:convnext_atto", 3, "resnet101, digits_resnet and timm's ResNets and EfficientNets "
         "have and timm:convnext_atto has not"),
    ],
)  # fmt: skip
def test_a_backbone_that_cannot_be_split_is_named(backbone: str, stages: int, said: str) -> None:
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    model = spec(model={"backbone": backbone, "weights": "random"}).model
    with pytest.raises(InvalidSpec, match=said):
        check_model(model, cached_stages=stages)


def test_what_would_have_no_effect_is_refused(tmp_path: Path) -> None:
    def training(**settings: Any) -> Any:
        return search(tmp_path, "digits_resnet", **settings).training

    assert training(trunk="frozen_through_layer2").flip == 0
    assert training(trunk="frozen_through_layer2", views=2).flip == 0.5
    with pytest.raises(InvalidSpec, match=r"flip=0.5 have no effect.*or set views"):
        training(trunk="frozen_through_layer2", flip=0.5)
    with pytest.raises(InvalidSpec, match="views: 2 are computed by a frozen trunk"):
        training(views=2)
    off = {"photometric": 0.0, "crop_min": 1.0, "flip": 0.0}
    with pytest.raises(InvalidSpec, match="are the same image 2 times"):
        training(trunk="frozen", views=2, **off)
    with pytest.raises(InvalidSpec, match=r"frozen_through_layer1 computes features with model"):
        search(tmp_path, "digits_resnet", {"weights": "random"}, trunk="frozen_through_layer1")


def test_a_classifier_whose_frozen_stages_are_not_there_yet_is_not_loaded(tmp_path: Path) -> None:
    trial = search(tmp_path, "digits_resnet", trunk="frozen_through_layer1").trial(0, {})
    asked = iter([False] * 6 + [True])  # after the first epoch
    path = tmp_path / "c.pt"
    with pytest.raises(TrialInterrupted):
        train(trial, path, should_stop=lambda: next(asked))
    state = Checkpoints(path).load()
    assert state is not None
    assert {name.partition(".stages.")[2][:1] for name in state["model"]} == {"1", "2", ""}
    with pytest.raises(InvalidData, match="the frozen part joins the checkpoint after the last"):
        load_trained(path)
    train(trial, path)
    assert load_trained(path).epoch == 2
