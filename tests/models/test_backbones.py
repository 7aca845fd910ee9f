"""Every backbone by name: what comes out, what it is called, and what importing it costs."""

import subprocess
import sys

import pytest
import torch

from pgsearch.errors import InvalidSpec
from pgsearch.models import input_statistics
from pgsearch.models.backbones import build_backbone
from pgsearch.models.build import check_model
from tests.models.models import build, model_config

# Name, image side, number of features, number of stages after the stem.
BACKBONES = [
    ("resnet18", 64, 512, 4),
    ("resnet34", 64, 512, 4),
    ("resnet50", 64, 2048, 4),
    ("resnet101", 64, 2048, 4),
    ("digits_resnet", 48, 64, 3),
    ("timm:tf_efficientnet_lite0", 64, 1280, 7),
    ("timm:mobilenetv3_small_050", 64, 1024, 7),  # a hidden layer after the pool
    ("timm:convnext_atto", 64, 320, 5),  # no batch norm, a final norm after the pool
    ("timm:poolformerv2_s12", 64, 512, 1),  # timm groups nothing: all or nothing
]


@pytest.mark.parametrize(("name", "side", "num_features", "num_stages"), BACKBONES)
def test_backbone_gives_features_and_knows_all_its_parameters(name, side, num_features, num_stages):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    backbone = build_backbone(name)
    backbone.network.eval()
    with torch.no_grad():
        features_BD = backbone.network(torch.randn(2, 3, side, side))
    assert features_BD.shape == (2, num_features)
    assert backbone.num_features == num_features
    assert backbone.num_stages == num_stages
    grouped = [id(p) for stage in backbone.stage_parameters for p in stage]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in backbone.network.parameters()}


@pytest.mark.parametrize("neck", [True, False])
@pytest.mark.parametrize("name", ["digits_resnet", "resnet18"])
def test_classifier_gives_one_logit_per_class(name, neck):
    model = build(name, num_classes=7, neck=neck, bn_eval=False)
    assert model(torch.randn(4, 3, 48, 48)).shape == (4, 7)


def test_digits_resnet_takes_other_sizes_and_sees_every_part_of_the_image():
    network = build_backbone("digits_resnet").network.eval()
    images = torch.randn(1, 3, 37, 64, requires_grad=True)
    network(images).sum().backward()
    assert images.grad is not None
    assert bool((images.grad.abs().sum(dim=1) > 0).all())


def test_weights_are_drawn_from_the_global_random_stream():
    def first_weights(seed, name):
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build_backbone(name).network.parameters()])

    for name in ("digits_resnet", "resnet18"):
        assert torch.equal(first_weights(3, name), first_weights(3, name))
        assert not torch.equal(first_weights(3, name), first_weights(4, name))


def test_digits_resnet_imports_neither_torchvision_nor_timm_nor_a_compiler():
    code = (
        "import sys\n"
        "from pgsearch.config.model import ModelConfig\n"
        "from pgsearch.models import build_model, build_trunk, input_statistics, check_weights\n"
        "from pgsearch.models.build import check_model\n"
        "config = ModelConfig(backbone='digits_resnet', weights='random')\n"
        "build_model(config, class_names='abc', train_targets_NC=None)\n"
        "build_trunk(config)\n"
        "input_statistics('digits_resnet'); check_weights('digits_resnet', None)\n"
        "check_model(config)\n"
        "print({'torchvision', 'timm', 'torch._dynamo'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("call", [build_backbone, input_statistics])
def test_unknown_name_is_answered_with_the_nearest_ones(call):
    with pytest.raises(InvalidSpec, match=r"no backbone resnet52 .*resnet50.*choose .*timm:NAME"):
        call("resnet52")


@pytest.mark.parametrize("call", [build_backbone, input_statistics])
def test_unknown_name_of_timm_is_answered_with_the_nearest_ones(call):
    pytest.importorskip("timm")
    with pytest.raises(
        InvalidSpec, match=r"timm:tf_eficientnet_lite0 .*timm:tf_efficientnet_lite0"
    ):
        call("timm:tf_eficientnet_lite0")
    with pytest.raises(InvalidSpec, match=r"resnet50 has no tag nonsense.*a1_in1k"):
        call("timm:resnet50.nonsense")


@pytest.mark.parametrize("call", [build_backbone, input_statistics])
def test_absent_timm_is_answered_with_the_command_that_installs_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidSpec, match=r"pip install 'pgsearch\[timm\]'"):
        call("timm:tf_efficientnet_lite0")


def test_input_statistics_are_those_of_the_published_weights():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_statistics("resnet50") == imagenet
    assert input_statistics("digits_resnet") == ((0.5,) * 3, (0.5,) * 3)
    pytest.importorskip("timm")
    assert input_statistics("timm:tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)
    assert input_statistics("timm:resnet50") == imagenet
    # The tag decides, not the architecture.
    assert input_statistics("timm:vit_tiny_patch16_224.augreg_in21k") == ((0.5,) * 3, (0.5,) * 3)


# Name, image side, the module that gives the maps [B, D, H, W] before the pool.
POOLED = [
    ("resnet18", 64, "layer4"),
    ("digits_resnet", 48, "stages"),
    ("timm:resnet18", 64, "layer4"),
    ("timm:tf_efficientnet_lite0", 64, "bn2"),
]


@pytest.mark.parametrize(("name", "side", "last"), POOLED)
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_pool_takes_mean_or_maximum_of_the_last_maps(name, side, last, pool):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    network = build_backbone(name, pool).network.eval()
    maps = []
    network.get_submodule(last).register_forward_hook(lambda _m, _i, output: maps.append(output))
    with torch.no_grad():
        features_BD = network(torch.randn(2, 3, side, side))
    spots_BDS = maps[0].flatten(2)
    assert spots_BDS.shape[2] > 1
    expected_BD = spots_BDS.amax(dim=2) if pool == "max" else spots_BDS.mean(dim=2)
    torch.testing.assert_close(features_BD, expected_BD)


def test_pool_of_a_vit_can_be_the_maximum_too():
    pytest.importorskip("timm")
    network = build_backbone("timm:test_vit", "max").network.eval()
    with torch.no_grad():
        images = torch.randn(2, 3, 160, 160)
        tokens_BTD = network.forward_features(images)[:, network.num_prefix_tokens :]
        torch.testing.assert_close(network(images), network.fc_norm(tokens_BTD.amax(dim=1)))


# Most refuse by an assertion; hieradet_small takes the argument and ignores it.
@pytest.mark.parametrize(
    "name", ["timm:gmlp_s16_224", "timm:levit_128s", "timm:hieradet_small", "timm:pit_ti_224"]
)
def test_network_without_max_pool_is_refused_with_the_way_out(name):
    pytest.importorskip("timm")
    config = model_config(name, pool="max")
    with pytest.raises(InvalidSpec, match=rf"{name} has no global max pooling: set model\.pool"):
        check_model(config)
    check_model(config.model_copy(update={"pool": "avg"}))


@pytest.mark.parametrize("error", [AssertionError, TypeError, ValueError])
def test_refusals_of_timm_of_every_kind_are_understood(monkeypatch, error):
    timm = pytest.importorskip("timm")

    def create_model(*_, **__):
        raise error("no")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(InvalidSpec, match="has no global max pooling"):
        build_backbone("timm:resnet18", "max")


def test_pool_leaves_names_shapes_and_initial_weights_as_they_are():
    for name in ("digits_resnet", "resnet18"):
        states = []
        for pool in ("avg", "max"):
            torch.manual_seed(0)
            states.append(build_backbone(name, pool).network.state_dict())
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
