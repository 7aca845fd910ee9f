"""A checkpoint used outside its search: the same scores again, here and in plain PyTorch."""

import itertools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pgsearch.data.build import build_dataset
from pgsearch.errors import InvalidData, TrialInterrupted, UsageError
from pgsearch.results.scores import ImageScores
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.fit import fit
from pgsearch.training.trained import load_trained
from tests.records import spec

HEADS = [
    {"head": "linear"},
    {"head": "cosine", "neck": False},
    {"head": "ml_gcn", "neck": False, "pool": "max"},
]


def trained(folder: Path, model: dict[str, object], **training: object) -> dict[str, ImageScores]:
    """Train for an epoch into `c.pt`; return the scores of the end."""
    search = spec(
        data={"name": "digits", "max_count": 60, "image_size": 32, "head_min": 30},
        model={"backbone": "digits_resnet", "weights": "random", **model},
        training={"epochs": 1, "batch_size": 16, **training},
    )
    saved: dict[str, ImageScores] = {}
    fit(
        search.trial(0, {}),
        report=lambda record: None,
        checkpoints=Checkpoints(folder / "c.pt"),
        save_scores=lambda scores, classes: saved.update(scores),
    )
    return saved


@pytest.mark.parametrize("model", HEADS, ids=lambda m: m["head"])
def test_scores_are_those_of_the_training(tmp_path: Path, model: dict[str, object]) -> None:
    saved = trained(tmp_path, model)
    assert saved.keys() == {"validation", "test"}
    classifier = load_trained(tmp_path / "c.pt")
    data = build_dataset(classifier.trial.data)
    for split in ("validation", "test"):
        logits_NC = classifier.logits(data.split(split).images_NHWC, batch_size=128)
        np.testing.assert_allclose(logits_NC, saved[split].logits_NC, rtol=1e-5, atol=1e-6)
    assert classifier.class_names == data.class_names
    assert classifier.epoch == 1
    assert saved["test"].ids == data.test.ids


def test_a_checkpoint_loads_in_plain_pytorch(tmp_path: Path) -> None:
    """The lines of the README, with a network in the place of torchvision's."""
    saved = trained(tmp_path, {"neck": True, "neck_dim": 32})
    from pgsearch.models.digits_resnet import DigitsResNet

    checkpoint = torch.load(tmp_path / "c.pt", weights_only=True)
    neck = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.5))
    model = nn.Sequential(OrderedDict(backbone=DigitsResNet(), neck=neck, head=nn.Linear(32, 10)))
    model.load_state_dict(checkpoint["model"])
    model.eval()
    images = build_dataset(load_trained(tmp_path / "c.pt").trial.data).test.images_NHWC
    inputs = torch.from_numpy(np.array(images[:50])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = model((inputs / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(logits, saved["test"].logits_NC[:50], rtol=1e-4, atol=1e-5)


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.pt: no such file"):
        load_trained(tmp_path / "absent.pt")
    trained(tmp_path, {})
    whole = (tmp_path / "c.pt").read_bytes()
    contents = {
        "empty": b"",
        "text": b"hello world, this is no checkpoint",
        "truncated": whole[: len(whole) // 2],
        "noise": bytes(range(256)) * 40,
    }
    for name, damaged in contents.items():
        (tmp_path / f"{name}.pt").write_bytes(damaged)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    others = {
        "no_trial": {"model": {}},
        "tensor": torch.zeros(3),
        "list": [1, 2],
        "nothing": None,
        "no_head": {**state, "model": {k: v for k, v in state["model"].items() if "head" not in k}},
        "other_names": {
            **state,
            "record": {**state["record"], "class_names": ["\x1b[2Ja", *"bcdefghij"]},
        },
        "other_trial": {**state, "trial": {**state["trial"], "loss": {"name": "unknown"}}},
    }
    for name, value in others.items():
        torch.save(value, tmp_path / f"{name}.pt")
    for name in (*contents, *others):
        with pytest.raises(InvalidData, match=rf"{name}\.pt: damaged, or not a checkpoint that"):
            load_trained(tmp_path / f"{name}.pt")


def test_an_unfinished_head_on_a_frozen_trunk_is_refused(tmp_path: Path) -> None:
    from pgsearch.models.digits_resnet import DigitsResNet

    torch.save(DigitsResNet().state_dict(), tmp_path / "trunk.pth")
    search = spec(
        data={"name": "digits", "max_count": 60, "image_size": 32, "head_min": 30},
        model={"backbone": "digits_resnet", "weights": str(tmp_path / "trunk.pth")},
        training={"epochs": 2, "batch_size": 16, "trunk": "frozen"},
    )

    def stop(record: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(search.trial(0, {}), report=stop, checkpoints=Checkpoints(tmp_path / "c.pt"))
    with pytest.raises(InvalidData, match="stands at epoch 1 of 2; the frozen part joins"):
        load_trained(tmp_path / "c.pt")


def test_a_trial_in_its_first_epoch_is_refused(tmp_path: Path) -> None:
    asked = itertools.count(1)
    with pytest.raises(TrialInterrupted):
        fit(
            spec(
                data={"name": "digits", "max_count": 60, "image_size": 32, "head_min": 30},
                training={"epochs": 2, "batch_size": 16},
            ).trial(0, {}),
            report=print,
            checkpoints=Checkpoints(tmp_path / "c.pt"),
            should_stop=lambda: next(asked) == 3,
        )
    with pytest.raises(
        InvalidData, match=r"c\.pt: .* in the middle of epoch 1; finish the trial first"
    ):
        load_trained(tmp_path / "c.pt")


def test_a_checkpoint_of_a_newer_pgsearch_is_refused(tmp_path: Path) -> None:
    """Whatever else is in it."""
    torch.save({"schema_version": 4, "pgsearch": "9.1"}, tmp_path / "c.pt")
    with pytest.raises(
        InvalidData,
        match=r"c\.pt: written by pgsearch 9\.1 with checkpoint version 4; this .*3: up",
    ):
        load_trained(tmp_path / "c.pt")
