import pytest
import torch

from pgsearch.config.training import TrainingConfig
from pgsearch.training.optim import build_optimiser, learning_rate


def test_warm_up_is_linear_from_its_ratio() -> None:
    config = TrainingConfig(learning_rate=0.3, warmup_iterations=100, warmup_ratio=1 / 3)
    assert learning_rate(config, epoch=1, iteration=0) == pytest.approx(0.1)
    assert learning_rate(config, epoch=1, iteration=50) == pytest.approx(0.2)
    assert learning_rate(config, epoch=1, iteration=100) == 0.3


def test_the_rate_drops_after_its_epochs() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_iterations=0, decay_epochs=[5, 7])
    rates = [learning_rate(config, epoch=epoch, iteration=10) for epoch in range(1, 9)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.01])


def test_a_warm_up_that_is_longer_than_an_epoch_meets_the_drop() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_iterations=100, decay_epochs=[1])
    assert learning_rate(config, epoch=2, iteration=50) == pytest.approx(0.1 * (1 / 3 + 2 / 3 / 2))


def test_frozen_parameters_are_left_out() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    optimiser = build_optimiser(layer.parameters(), TrainingConfig())
    assert [len(group["params"]) for group in optimiser.param_groups] == [1]
    assert optimiser.param_groups[0]["weight_decay"] == 1e-4
