"""Folded batch norms: the same scores from a copy, wherever a network can be traced."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgsearch.config.model import ModelConfig
from pgsearch.models.build import build_model
from pgsearch.training.folding import foldable_pairs, folded


def batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def as_if_trained(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics and weights of its own."""
    with torch.no_grad():
        for norm in batch_norms(network):
            norm.running_mean.normal_(std=0.3)
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.3)
    return network.to(memory_format=torch.channels_last).eval()


@pytest.mark.parametrize("backbone", ["digits_resnet", "resnet18", "timm:efficientnet_lite0"])
def test_a_folded_copy_scores_the_same(backbone: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, weights="random")
    names, targets = [str(c) for c in range(20)], np.eye(20, dtype=np.uint8)
    network = as_if_trained(build_model(config, class_names=names, train_targets_NC=targets))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    copied = folded(network)
    assert batch_norms(network)
    assert not batch_norms(copied)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        images = torch.randn(4, 3, 64, 64)
        torch.testing.assert_close(copied(images), network(images), rtol=1e-4, atol=1e-4)
        for parameter in copied.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], v) for name, v in network.state_dict().items())


class Network(nn.Module):
    """A convolution and two batch norms, put together by a function."""

    def __init__(self, compute: Callable[["Network", Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.other, self.compute = nn.BatchNorm2d(3), compute

    def forward(self, images: Tensor) -> Tensor:
        return self.compute(self, images)


@pytest.mark.parametrize(
    "compute",
    [
        lambda n, x: n.norm(n.convolution(x)) if x.sum() > 0 else n.convolution(x),
        lambda n, x: (y := n.convolution(x)) + n.norm(y),
        lambda n, x: n.norm(n.convolution(x)) + n.other(n.convolution(x)),
        lambda n, x: n.norm(n.convolution(x)) + n.norm(x),
        lambda n, x: n.norm(n.convolution(x)) * n.convolution.weight.sum(),
        lambda n, x: n.norm(x.relu()),
    ],
    ids=["branch", "read twice", "two norms", "norm used twice", "weight read", "no convolution"],
)
def test_what_cannot_be_folded_is_left_as_it_is(compute: Callable[..., Tensor]) -> None:
    network = as_if_trained(Network(compute))
    assert folded(network) is network
    assert foldable_pairs(as_if_trained(Network(lambda n, x: n.other(n.convolution(x))))) == (
        ("convolution", "other"),
    )
