"""Tensors on the device of the images: of numbers that the CPU drew, and for results."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def on_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return values on a device, without waiting for all that a GPU still has to do.

    Safe from memory that is not pinned: CUDA has read it when the call returns.
    """
    return torch.from_numpy(values).to(device, non_blocking=True)


def empty_on_device(*shape: int, device: torch.device) -> Tensor:
    """Return float32 of any values.

    Large ones on a CPU come from NumPy, which asks Linux for huge pages where torch does not. The
    first write to each page of 4 kB adds two thirds to what a batch of photographs takes.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, dtype=np.float32))
    return torch.empty(shape, device=device)
