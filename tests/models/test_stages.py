"""A backbone in two parts: together they are the network, in what they compute and in its names."""

import pytest
import torch

from pgsearch.models.backbones import build_backbone
from pgsearch.models.stages import split_after

DEEPER = ("resnet18", "resnet50", "timm:resnet18d", "timm:tf_efficientnet_lite0")
SPLITS = [("digits_resnet", 1), ("digits_resnet", 2)]
SPLITS += [(name, num_stages) for name in DEEPER for num_stages in (1, 2, 3)]


@pytest.mark.parametrize(("name", "num_stages"), SPLITS)
def test_the_parts_of_a_network_are_the_network(name, num_stages):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    backbone = build_backbone(name, pool="max")
    network, images = backbone.network, torch.randn(2, 3, 64, 64)
    network.train()(images)  # or batch norms would change nothing
    network.eval()
    first, rest = split_after(network, name, num_stages)
    with torch.no_grad():
        assert torch.equal(rest(first(images)), network(images))
    both = {**first.state_dict(), **rest.state_dict()}
    assert both.keys() == network.state_dict().keys()
    assert first.state_dict().keys().isdisjoint(rest.state_dict().keys())
    as_frozen_stages = {id(p) for s in backbone.stage_parameters[: num_stages + 1] for p in s}
    assert {id(p) for p in first.parameters()} == as_frozen_stages
