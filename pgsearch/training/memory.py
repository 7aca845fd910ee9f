"""The memory that a trial needs for itself: what decides how many fit on a node or a GPU."""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from pgsearch.training.device import choose_device, peak_memory_bytes

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_THE_PEAK = "5"

SHORTEST_EPOCH_SECONDS = 10.0
"""Of those after which freed memory is given back."""
_TRIM_THRESHOLD = "MALLOC_TRIM_THRESHOLD_"
"""Who sets it for glibc says what is given back, such as nothing, which is faster."""


def restart_peaks(device: torch.device) -> None:
    """Let peaks be those of what comes, not of an earlier trial in this process."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # a kernel that does not know it: the peak is too high
        _CLEAR.write_text(_FORGET_THE_PEAK)


def return_freed_memory(device: torch.device, *, epoch_seconds: float) -> None:
    """Give back what was freed on the heap of this process, where networks live there.

    Between training and evaluation: each leaves holes that fit the other badly, and so the peak
    would grow from epoch to epoch. To take the memory anew costs a quarter of a second and more, so
    short epochs keep theirs.

    Args:
        device: of the network.
        epoch_seconds: what the steps of an epoch take.
    """
    is_short = epoch_seconds < SHORTEST_EPOCH_SECONDS
    if device.type == "cpu" and not is_short and _TRIM_THRESHOLD not in os.environ:
        _trim_of_libc()(0)


@functools.cache
def _trim_of_libc() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return lambda _: None


def needed_memory(device_name: str) -> dict[str, int]:
    """Return what the trial of this process needed so far, in bytes.

    Args:
        device_name: `training.device`.

    Returns:
        `memory_bytes`: peak of the process without the pages that it shares (images and features
        in the cache, libraries), which need room once per node. `gpu_bytes`: peak of its GPU with
        what the context takes, and what others took at the time. `gpu_total_bytes`: what that GPU
        has. The latter two are 0 without one.
    """
    device = choose_device(device_name)
    needed = {"memory_bytes": _own_peak_bytes(), "gpu_bytes": 0, "gpu_total_bytes": 0}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        outside = max(0, total - free - torch.cuda.memory_reserved(device))
        needed["gpu_bytes"] = torch.cuda.max_memory_reserved(device) + outside
        needed["gpu_total_bytes"] = total
    return needed


def _own_peak_bytes() -> int:
    if not _STATUS.exists():  # not Linux: with what it shares
        return peak_memory_bytes(torch.device("cpu"))
    sizes = {}
    for line in _STATUS.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmHWM", "RssFile", "RssShmem"):
            sizes[name] = int(rest.split()[0]) * 1024
    return max(0, sizes["VmHWM"] - sizes["RssFile"] - sizes["RssShmem"])
