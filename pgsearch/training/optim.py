"""SGD and its schedule: linear warm-up, then steps down."""

import inspect
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD

from pgsearch.config.training import TrainingConfig


class _EagerSGD(SGD):
    """SGD that leaves torch's compiler alone.

    torch wraps these methods for the case that they are compiled, and so imports Dynamo when one
    is first called: a second and 90 MB of every process. Nothing here compiles them.
    """

    add_param_group = inspect.unwrap(SGD.add_param_group)
    zero_grad = inspect.unwrap(SGD.zero_grad)
    state_dict = inspect.unwrap(SGD.state_dict)
    load_state_dict = inspect.unwrap(SGD.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(SGD.step))


def build_optimiser(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> SGD:
    """Return SGD over the parameters that are trained."""
    return _EagerSGD(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: TrainingConfig, *, epoch: int, iteration: int) -> float:
    """Return the learning rate of a step; a pure function, so that a resume needs no state.

    Args:
        config: peak, warm-up and steps.
        epoch: of the step, from 1; the rate drops after each of `decay_epochs`.
        iteration: of the step, from 0, since the start of the trial.
    """
    rate = config.learning_rate * config.decay_factor ** sum(
        epoch > decay_epoch for decay_epoch in config.decay_epochs
    )
    if iteration >= config.warmup_iterations:
        return rate
    progress = iteration / config.warmup_iterations
    return rate * (config.warmup_ratio + (1 - config.warmup_ratio) * progress)
