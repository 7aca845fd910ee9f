"""A trial's network, loss, optimiser and inputs as `fit` makes them, for a loop of one's own."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.class_groups import class_groups
from pgsearch.config import TrialSpec
from pgsearch.data.build import build_dataset
from pgsearch.losses.build import build_loss
from pgsearch.models.build import build_model, model_statistics
from pgsearch.training.inputs import ImageInputs
from pgsearch.training.optim import build_optimiser

CPU = torch.device("cpu")


class Trainee:
    """What one trial trains, on a CPU.

    Args:
        trial: what to train.
        precision: "fp32" or "bf16".
    """

    def __init__(self, trial: TrialSpec, precision: str) -> None:
        torch.set_num_threads(trial.threads)
        torch.manual_seed(trial.seed)
        self.precision = precision
        self.data = build_dataset(trial.data)
        self.network = build_model(
            trial.model,
            class_names=self.data.class_names,
            train_targets_NC=self.data.train.targets_NC,
        ).train()
        self.network.to(memory_format=torch.channels_last)
        counts_C = self.data.class_counts_C
        groups_C = class_groups(
            counts_C, head_min=trial.data.head_min, tail_below=trial.data.tail_below
        )
        self.loss = build_loss(
            trial.loss,
            counts_C,
            groups_C,
            num_images=self.data.train.num_images,
            class_names=self.data.class_names,
        )
        self.optimiser = build_optimiser(self.network.parameters(), trial.training)
        statistics = model_statistics(trial.model)
        self.inputs = ImageInputs(
            self.data, statistics, trial.training, seed=trial.seed, device=CPU
        )

    def prepare(self, indices_B: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch."""
        images_BCHW = self.inputs.training_batch(indices_B, np.arange(len(indices_B)), epoch=1)
        return images_BCHW, torch.from_numpy(self.data.train.targets_NC[indices_B]).float()

    def logits(self, inputs_B: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            logits_BC: Tensor = self.network(inputs_B)
        return logits_BC

    def step(self, inputs_B: Tensor, targets_BC: Tensor) -> None:
        """Forward, the trial's loss, backward, update."""
        self._update(self.loss(self.logits(inputs_B), targets_BC).loss)

    def bare_step(self, inputs_B: Tensor, targets_BC: Tensor) -> None:
        """Forward, BCE, backward, update."""
        logits_BC = self.logits(inputs_B).float()
        self._update(binary_cross_entropy_with_logits(logits_BC, targets_BC))

    def _update(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
