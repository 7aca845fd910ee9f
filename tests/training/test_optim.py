import subprocess
import sys

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


def test_a_trial_imports_no_compiler_and_no_scikit_learn() -> None:
    """They would take two seconds and 200 MB of every process that trains."""
    code = (
        "import sys\n"
        "from pgsearch.config import load_spec\n"
        "from pgsearch.training.fit import fit\n"
        "short = ['training.epochs=1', 'training.decay_epochs=[]', 'training.test_every=1',\n"
        "         'training.iterations_per_epoch=2']\n"
        "spec = load_spec('search_spaces/digits_pg.yaml', short)\n"
        "fit(spec.trial(0, {}), report=lambda record: print(record.epoch))\n"
        "print({'torch._dynamo', 'sympy', 'sklearn', 'scipy', 'pandas'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "set()"]


def test_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours, torchs = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    torchs.load_state_dict(ours.state_dict())
    config = TrainingConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    optimisers = (
        build_optimiser(ours.parameters(), config),
        torch.optim.SGD(torchs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    )
    for _ in range(3):
        images = torch.randn(4, 3)
        for model, optimiser in zip((ours, torchs), optimisers, strict=True):
            optimiser.zero_grad()
            model(images).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours.weight, torchs.weight)
    assert ours.weight.requires_grad
    assert optimisers[0].state_dict()["state"].keys() == optimisers[1].state_dict()["state"].keys()
