"""A network whose training steps run as code that `torch.compile` makes for it.

A process compiles a kind of network once: later trials with the same shapes, precision and number
of threads find it, whatever their weights. Other processes load what is in this machine's cache.
"""

import gc
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pgsearch.cache_dir import default_cache_dir
from pgsearch.config import TrialSpec
from pgsearch.errors import StorageError, UsageError
from pgsearch.training.compiler import require_compiler

OLDEST_GPU = (7, 0)
"""Compute capability that Triton compiles for."""

MOST_KINDS = 10_000
"""Of networks that a process keeps code for. Beyond a limit torch would go on without compiling and
say nothing; each kind takes some megabytes and half a minute, so nobody comes here."""


def prepare_compilation(device: torch.device) -> None:
    """Let torch compile here, for this device, and keep what it makes in the cache.

    Raises:
        UsageError: the machine lacks what that needs.
        StorageError: the cache cannot be written.
    """
    gpu = device.type == "cuda"
    require_compiler(gpu=gpu)
    if gpu and (capability := torch.cuda.get_device_capability(device)) < OLDEST_GPU:
        raise UsageError(
            f"training.compile: true: {torch.cuda.get_device_name(device)} has compute capability "
            f"{'.'.join(map(str, capability))}, and Triton compiles from "
            f"{'.'.join(map(str, OLDEST_GPU))} on: set training.compile: false"
        )
    _keep_in_cache()
    gc.collect()  # compiling left cycles that hold the network of an earlier trial
    from torch import _dynamo  # takes a second, and 150 MB

    # By the names of torch 2.6, which later versions know too.
    _dynamo.config.cache_size_limit = MOST_KINDS
    _dynamo.config.accumulated_cache_size_limit = MOST_KINDS


def _keep_in_cache() -> None:
    folder = default_cache_dir() / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "last_use").touch()  # torch only reads what is there: `gc --cache` looks at this
    except OSError as error:
        raise StorageError(
            f"{folder}: compiled code cannot be kept there ({error.strerror}); set PGSEARCH_CACHE "
            "to a folder that can be written"
        ) from error


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what computes as a network does, and shares its parameters, by compiled code.

    The network itself stays as it is: for evaluations, and for states that do not tell how they
    came about. It is compiled in the first call, for one batch size.
    """
    # Dropout draws as in eager mode: the same seed gives the same training up to rounding.
    return torch.compile(network, dynamic=False, options={"fallback_random": True})


def is_from_compiler(error: BaseException) -> bool:
    """Whether an error came about while a network was compiled."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(error, dynamo.exc.TorchDynamoException)


def describe_not_compiled(trial: TrialSpec, error: BaseException) -> str:
    """Return that and why a trial's network could not be compiled, and what helps."""
    reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    return (
        f"{trial.uid}: training.compile: true: {trial.model.backbone} could not be compiled "
        f"({reason[:300]}): set training.compile: false"
    )
