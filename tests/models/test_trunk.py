"""A frozen trunk that many classifiers share: nothing they do may show in it."""

import pytest
import torch
from torch import nn

from pgsearch.errors import InvalidData
from pgsearch.models import build_trunk
from pgsearch.models.backbones import build_backbone
from tests.models.models import build, model_config

BACKBONES = ["digits_resnet", "resnet18", "timm:tf_efficientnet_lite0"]


def trunk_of(name, **settings):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    return build_trunk(model_config(name, **settings))


def copy_of(trunk):
    return {key: value.clone() for key, value in trunk.network.state_dict().items()}


def assert_untouched(trunk, state):
    for key, value in trunk.network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(parameter.grad is None for parameter in trunk.network.parameters())
    assert not any(parameter.requires_grad for parameter in trunk.network.parameters())
    assert not any(module.training for module in trunk.network.modules())


def part_states(model):
    return {key: v for key, v in model.state_dict().items() if not key.startswith("backbone.")}


def assert_equal(state, other):
    assert state.keys() == other.keys()
    for key, value in state.items():
        assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("head", ["linear", "cosine", "ml_gcn"])
def test_training_a_classifier_leaves_the_trunk_as_it_was(name, head):
    trunk = trunk_of(name)
    state = copy_of(trunk)
    model = build(name, head=head, trunk=trunk, bn_eval=False, frozen_stages=0)
    assert model.backbone is trunk.network
    before = {key: value.clone() for key, value in part_states(model).items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        model.eval()
        model.train()
        logits_BC = model(1 + torch.randn(4, 3, 64, 64))
        nn.functional.binary_cross_entropy_with_logits(logits_BC, torch.eye(5)[:4]).backward()
        optimiser.step()
    assert_untouched(trunk, state)
    moved = {
        key for key, value in part_states(model).items() if not torch.equal(value, before[key])
    }
    trained = {key for key, _ in model.named_parameters() if not key.startswith("backbone.")}
    assert trained <= moved


def test_switching_to_training_does_not_switch_the_trunk_even_for_a_moment(monkeypatch):
    trunk = trunk_of("digits_resnet")
    model = build(trunk=trunk)
    modes = []
    monkeypatch.setattr(trunk.network.stem, "train", modes.append)
    model.train()
    model.eval()
    assert set(modes) == {False}
    assert model.neck.training is False


def test_classifiers_of_one_trunk_share_it_and_nothing_else():
    trunk = trunk_of("digits_resnet")
    first, second = build(trunk=trunk), build(trunk=trunk)
    assert first.backbone is second.backbone
    own = {id(p) for part in (first.neck, first.head) for p in part.parameters()}
    assert own.isdisjoint({id(p) for p in second.parameters()})


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("name", ["digits_resnet", "resnet18"])
def test_features_computed_once_give_the_logits_of_the_whole_network(name, pool):
    trunk = trunk_of(name, pool=pool)
    model = build(name, trunk=trunk, pool=pool).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        features_BD = trunk.network(images)
    assert features_BD.shape == (3, trunk.num_features)
    logits_BC = model.head(model.neck(features_BD.clone()))
    assert torch.equal(logits_BC, model(images))
    whole = build(name, pool=pool).eval()
    whole.load_state_dict(model.state_dict())
    assert torch.equal(logits_BC, whole(images))


@pytest.mark.parametrize("name", BACKBONES)
def test_building_a_trunk_leaves_the_random_stream_alone_and_does_not_depend_on_it(name):
    torch.manual_seed(1)
    stream = torch.get_rng_state()
    first = trunk_of(name)
    assert torch.equal(torch.get_rng_state(), stream)
    torch.manual_seed(2)
    assert_equal(copy_of(trunk_of(name)), copy_of(first))


@pytest.mark.parametrize("head", ["linear", "cosine", "ml_gcn"])
def test_neck_and_head_start_the_same_for_a_seed_whoever_built_the_trunk(head):
    def start(seed, trunk=None):
        torch.manual_seed(seed)
        return part_states(build(head=head, trunk=trunk or trunk_of("digits_resnet")))

    used = trunk_of("digits_resnet")
    build(trunk=used)
    assert_equal(start(3), start(3, used))
    assert not torch.equal(start(3)["neck.0.weight"], start(4)["neck.0.weight"])


@pytest.mark.parametrize("head", ["linear", "cosine", "ml_gcn"])
def test_without_a_trunk_neck_and_head_draw_after_the_backbone(head):
    torch.manual_seed(5)
    whole = part_states(build(head=head))
    trunk = trunk_of("digits_resnet")
    torch.manual_seed(5)
    build_backbone("digits_resnet")
    assert_equal(part_states(build(head=head, trunk=trunk)), whole)


def test_trunk_holds_the_weights_of_the_file(tmp_path):
    torch.manual_seed(7)
    state = build_backbone("digits_resnet").network.state_dict()
    torch.save(state, tmp_path / "net.pth")
    trunk = build_trunk(model_config(weights=tmp_path / "net.pth"))
    assert_equal(copy_of(trunk), state)
    with pytest.raises(InvalidData, match=r"absent\.pth: there is no such file"):
        build_trunk(model_config(weights=tmp_path / "absent.pth"))


def test_a_trunk_that_could_train_is_refused():
    with pytest.raises(ValueError, match="use build_trunk"):
        build(trunk=build_backbone("digits_resnet"))
    trunk = trunk_of("digits_resnet")
    trunk.network.train()
    with pytest.raises(ValueError, match="use build_trunk"):
        build(trunk=trunk)
    trunk = trunk_of("digits_resnet")
    next(trunk.network.parameters()).requires_grad_(True)
    with pytest.raises(ValueError, match="use build_trunk"):
        build(trunk=trunk)
