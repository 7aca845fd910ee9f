"""The device that a trial runs on."""

import resource

import torch
from torch import Tensor

from pgsearch.config import TrialSpec
from pgsearch.errors import InvalidData

_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",  # outside torch's own pool: the context, a library
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says of it in a plain RuntimeError."""


def choose_device(name: str) -> torch.device:
    """Return the device that `training.device` names. Raises InvalidData where it is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidData(
            [
                "training.device=cuda, but no GPU is visible here; use device=cpu, or ask for one "
                "with resources.gpus=1"
            ]
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; what a GPU is still doing is not waited for."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    # From pinned memory the GPU fetches it by itself; torch keeps that alive until it has.
    return tensor.pin_memory().to(device, non_blocking=True)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak so far: of the memory allocated on a GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, says that memory was not there, on a device or in a process.

    A compiler wraps what it meets.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def describe_no_memory(trial: TrialSpec, where: str, error: BaseException) -> str:
    """Return where a trial ran out of memory, with its peak, and what helps."""
    device = choose_device(trial.training.device)
    reason = str(error).partition("\n")[0][:200]
    return (
        f"{trial.uid}: {device.type} is out of memory {where}, with a peak of "
        f"{peak_memory_bytes(device) / 1e9:.2f} GB{reason and f' ({reason})'}; a smaller "
        f"training.batch_size ({trial.training.batch_size}) or data.image_size "
        f"({trial.data.image_size}), training.precision: bf16, or fewer trials at a time (more "
        "resources.gpus or resources.memory_gb for each) helps"
    )
