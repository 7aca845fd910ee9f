"""What a checkpoint holds beside weights: its version, its records, how far an epoch has come.

Shapes: S steps of an epoch, B images of a batch, C classes.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.metrics import ProbabilityMeter
from pgsearch.results.schema import EpochRecord
from pgsearch.training.precision import PRECISIONS, Precision

CHECKPOINT_VERSION = 3
"""1, which no key says: the state after an epoch, with the `record` of that epoch.
2: also in the middle of an epoch (`progress`), with the `records` of all epochs before.
3: after the last epoch, and of a best epoch, without what only a resume needs.
"""


def newer_version(state: Mapping[str, Any]) -> str | None:
    """Return why a state cannot be read, if a newer pgsearch wrote it; else None."""
    version = state.get("schema_version", 1)
    if version <= CHECKPOINT_VERSION:
        return None
    return (
        f"written by pgsearch {state.get('pgsearch', '?')} with checkpoint version {version}; "
        f"this version knows {CHECKPOINT_VERSION}: update pgsearch"
    )


def records_of(state: Mapping[str, Any]) -> list[EpochRecord]:
    """Return the records of a state, newest last; version 1 kept only the newest."""
    records = state["records"] if "records" in state else [state["record"]]
    return [EpochRecord(**record) for record in records]


def precision_of(state: Mapping[str, Any]) -> Precision | None:
    """Return the arithmetic that a state was trained with; None where it does not tell.

    Before it was kept, a trial had what it asked for.
    """
    asked = state.get("trial", {}).get("training", {}).get("precision")
    precision = state.get("precision", asked)
    return precision if precision in PRECISIONS else None


@dataclass
class EpochProgress:
    """How far an epoch has come: its images, and the sums over its steps so far.

    Its state is tensors and plain data; taken up again, the epoch goes on as if it had not stopped.
    """

    epoch: int
    """From 1."""
    indices_SB: npt.NDArray[np.int64]
    """Images of all its steps."""
    meter: ProbabilityMeter
    loss_sum: Tensor
    norm_sum: Tensor
    factor_sums: dict[str, Tensor] = field(default_factory=dict)
    """By name, each `[C]`."""
    steps_done: int = 0
    seconds: float = 0.0
    """Spent on the steps so far."""

    @classmethod
    def begin(
        cls,
        epoch: int,
        indices_SB: npt.NDArray[np.int64],
        class_groups_C: npt.ArrayLike,
        device: torch.device,
    ) -> "EpochProgress":
        """Return the progress of an epoch before its first step."""
        return cls(
            epoch=epoch,
            indices_SB=indices_SB,
            meter=ProbabilityMeter(class_groups_C),
            loss_sum=torch.zeros((), device=device),
            norm_sum=torch.zeros((), device=device),
        )

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], class_groups_C: npt.ArrayLike, device: torch.device
    ) -> "EpochProgress":
        """Return the progress that `state_dict` described; its tensors may be on any device."""
        meter = ProbabilityMeter(class_groups_C)
        meter.load_state_dict(state["meter"], device)
        return cls(
            epoch=state["epoch"],
            indices_SB=state["indices"].numpy(),
            meter=meter,
            loss_sum=state["loss_sum"].to(device),
            norm_sum=state["norm_sum"].to(device),
            factor_sums={name: sum_C.to(device) for name, sum_C in state["factor_sums"].items()},
            steps_done=state["steps_done"],
            seconds=state["seconds"],
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors and plain data."""
        return {
            "epoch": self.epoch,
            "indices": torch.from_numpy(self.indices_SB),
            "meter": self.meter.state_dict(),
            "loss_sum": self.loss_sum,
            "norm_sum": self.norm_sum,
            "factor_sums": self.factor_sums,
            "steps_done": self.steps_done,
            "seconds": self.seconds,
        }

    @property
    def num_steps(self) -> int:
        """Steps of the whole epoch."""
        return len(self.indices_SB)

    def add(self, loss: Tensor, norm: Tensor, factors: Mapping[str, Tensor]) -> None:
        """Count a step. Never waits for the device."""
        self.loss_sum = self.loss_sum + loss
        self.norm_sum = self.norm_sum + norm
        for name, factor_C in factors.items():
            known_C = self.factor_sums.get(name)
            self.factor_sums[name] = factor_C if known_C is None else known_C + factor_C
        self.steps_done += 1

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of a block."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
