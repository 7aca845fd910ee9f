"""What trains and what does not, and how neck and head start."""

import copy
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from pgsearch.errors import InvalidSpec
from pgsearch.models import build_model_to_load
from pgsearch.models.backbones import build_backbone
from pgsearch.models.classifier import BATCH_NORMS, freeze
from tests.models import models

# Backbone, frozen stages, prefixes of the parameters that must not move.
FROZEN = [
    ("resnet18", 1, ("conv1.", "bn1.", "layer1.")),
    ("resnet18", 4, ("",)),
    ("digits_resnet", 0, ()),
    ("digits_resnet", 2, ("stem.", "stages.0.", "stages.1.")),
    ("digits_resnet", 3, ("",)),
    ("timm:tf_efficientnet_lite0", 2, ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")),
    ("timm:tf_efficientnet_lite0", 7, ("",)),
    ("timm:convnext_atto", 1, ("stem.", "stages.0.")),
    ("timm:poolformerv2_s12", 1, ("",)),
]


def build(backbone="digits_resnet", *, bn_eval=False, **settings):
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return models.build(backbone, bn_eval=bn_eval, **settings)


def train_one_step(model, *, side=64):
    """One SGD step on a random batch; returns the state before and after."""
    before = copy.deepcopy(model.state_dict())
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    targets_BC = torch.randint(0, 2, (4, 5)).float()
    logits_BC = model(1 + torch.randn(4, 3, side, side))
    nn.functional.binary_cross_entropy_with_logits(logits_BC, targets_BC).backward()
    optimiser.step()
    return before, model.state_dict()


def moved(before, after, prefix=""):
    return {key for key in before if key.startswith(prefix) and not before[key].equal(after[key])}


@pytest.mark.parametrize(("name", "frozen_stages", "prefixes"), FROZEN)
def test_frozen_stages_do_not_move_and_all_others_do(name, frozen_stages, prefixes):
    model = build(name, frozen_stages=frozen_stages)
    before, after = train_one_step(model)
    frozen_prefixes = tuple(f"backbone.{prefix}" for prefix in prefixes)
    for key, parameter in model.named_parameters():
        is_frozen = key.startswith(frozen_prefixes) if frozen_prefixes else False
        assert (parameter.grad is None) == is_frozen, key
    frozen_state = {key for key in before if frozen_prefixes and key.startswith(frozen_prefixes)}
    assert not moved(before, after) & frozen_state
    # Every running mean and parameter outside the frozen part moved (weight decay moves them all,
    # except what is exactly zero with a zero gradient).
    running = {key for key in before if key.endswith("running_mean")}
    assert running - frozen_state <= moved(before, after)
    assert {"neck.0.weight", "head.weight"} <= moved(before, after)


def test_frozen_part_is_in_eval_mode_whenever_train_is_called():
    model = build("resnet18", frozen_stages=1)
    for _ in range(2):
        model.eval()
        assert not any(module.training for module in model.modules())
        model.train()
        assert not model.backbone.bn1.training
        assert not any(module.training for module in model.backbone.layer1.modules())
        assert all(module.training for module in model.backbone.layer2.modules())
        assert model.neck.training
    whole = build("resnet18", frozen_stages=4)
    assert not any(module.training for module in whole.backbone.modules())
    assert whole.neck[1].training


def test_frozen_part_records_nothing_for_the_backward_pass():
    model = build("resnet18", frozen_stages=2)
    needs_grad = {}
    for name in ("layer1", "layer2", "layer3"):
        model.backbone.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: needs_grad.update({name: output.requires_grad})
        )
    model(torch.randn(2, 3, 32, 32))
    assert needs_grad == {"layer1": False, "layer2": False, "layer3": True}


def test_a_copy_of_the_model_keeps_its_frozen_part_and_its_batch_norms_in_eval_mode():
    model = copy.deepcopy(build("digits_resnet", frozen_stages=1, bn_eval=True)).train()
    assert not model.backbone.stem.training
    assert not any(m.training for m in model.backbone.modules() if isinstance(m, BATCH_NORMS))


@pytest.mark.parametrize("name", ["digits_resnet", "resnet18", "timm:tf_efficientnet_lite0"])
def test_bn_eval_keeps_statistics_but_trains_the_affine_part(name):
    model = build(name, bn_eval=True)
    before, after = train_one_step(model)
    buffers = {key for key in before if "running_" in key or "num_batches" in key}
    assert {key for key in moved(before, after) & buffers if key.startswith("backbone")} == set()
    assert {"neck.1.running_mean", "neck.1.running_var"} <= moved(before, after)
    norms = [m for m in model.backbone.modules() if isinstance(m, BATCH_NORMS)]
    assert norms
    assert all(norm.weight.grad is not None and norm.weight.requires_grad for norm in norms)
    affine = {key for key in before if key.startswith("backbone") and "bn1.weight" in key}
    assert affine <= moved(before, after)


def test_without_bn_eval_the_statistics_move():
    before, after = train_one_step(build("digits_resnet", bn_eval=False))
    running = {key for key in before if "running_" in key}
    assert running <= moved(before, after)


def test_bn_eval_uses_the_stored_statistics_in_training():
    model = build("digits_resnet", neck=False, bn_eval=True)
    images = torch.randn(4, 3, 48, 48)
    assert torch.equal(model.train()(images), model.eval()(images))


@pytest.mark.parametrize(
    ("name", "largest"),
    [("resnet18", 4), ("digits_resnet", 3), ("timm:tf_efficientnet_lite0", 7)],
)
def test_frozen_stages_out_of_range_names_the_range(name, largest):
    build(name, frozen_stages=largest)
    with pytest.raises(InvalidSpec, match=rf"from 0 .* to {largest} .*got {largest + 1}$"):
        build(name, frozen_stages=largest + 1)
    with pytest.raises(InvalidSpec, match=rf"from 0 .* to {largest} .*got -1$"):
        freeze(build_backbone(name), name, -1)


def test_neck_is_linear_batch_norm_dropout_and_starts_as_in_the_recipe():
    torch.manual_seed(1)
    model = models.build("resnet50", num_classes=400, neck_dim=256, dropout=0.3)
    assert [type(module) for module in model.neck] == [nn.Linear, nn.BatchNorm1d, nn.Dropout]
    linear, norm, dropout = model.neck
    assert (linear.in_features, linear.out_features, norm.num_features) == (2048, 256, 256)
    assert dropout.p == 0.3
    # Kaiming normal, fan-out: std = √(2 / 256). 524,288 draws: the estimate is good to 0.1 %.
    assert linear.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.01)
    assert linear.weight.mean().item() == pytest.approx(0, abs=1e-3)
    # A normal distribution has a kurtosis of 3, a uniform one of 1.8.
    assert (linear.weight / linear.weight.std()).pow(4).mean().item() == pytest.approx(3, abs=0.1)
    assert (model.head.in_features, model.head.out_features) == (256, 400)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not linear.bias.any()
    assert not model.head.bias.any()


def test_without_neck_the_head_sits_on_the_pooled_features():
    model = build("resnet18", neck=False)
    model.eval()
    images = torch.randn(2, 3, 64, 64)
    assert isinstance(model.neck, nn.Identity)
    assert model.head.in_features == 512
    logits_BC = model.backbone(images) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), logits_BC)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not model.head.bias.any()


@pytest.mark.parametrize("head", ["linear", "cosine", "ml_gcn"])
@pytest.mark.parametrize("neck", [True, False])
def test_parts_have_their_keys_and_work_alone(head, neck):
    model = build(head=head, neck=neck).eval()
    assert {key.partition(".")[0] for key in model.state_dict()} == {
        "backbone",
        "head",
        *(["neck"] if neck else []),
    }
    images = torch.randn(2, 3, 48, 48)
    features_BD = model.backbone(images)
    assert torch.equal(model.head(model.neck(features_BD)), model(images))


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("neck", [True, False])
def test_checkpoint_loads_in_plain_torch(neck, pool):
    import torchvision

    model = build("resnet18", neck=neck, pool=pool, dropout=0.5)
    train_one_step(model)
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    if pool == "max":
        network.avgpool = nn.AdaptiveMaxPool2d(1)
    plain_neck, num_features = nn.Identity(), 512
    if neck:
        plain_neck = nn.Sequential(nn.Linear(512, 256), nn.BatchNorm1d(256), nn.Dropout(0.5))
        num_features = 256
    plain = nn.Sequential(
        OrderedDict(backbone=network, neck=plain_neck, head=nn.Linear(num_features, 5))
    )
    plain.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(plain.eval()(images), model.eval()(images))


@pytest.mark.parametrize("head", ["linear", "cosine", "ml_gcn"])
def test_a_state_loads_into_a_model_that_knows_nothing_of_the_training(head):
    settings = {"head": head, "frozen_stages": 2, "pool": "max"}
    model = build(**settings)
    train_one_step(model)
    stream = torch.get_rng_state()
    config = models.model_config(**settings, weights="absent.pth")
    loaded = build_model_to_load(config, num_classes=5)
    assert torch.equal(torch.get_rng_state(), stream)
    loaded.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(loaded.eval()(images), model.eval()(images))
