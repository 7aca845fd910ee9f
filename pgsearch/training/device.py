"""The device that a trial runs on."""

import resource

import torch

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


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak so far: of the memory allocated on a GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not there, on the device or in the process."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
