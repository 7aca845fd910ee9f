"""Memory of the processor's allocator: kept through a trial, returned before the next one."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's M_TRIM_THRESHOLD and M_MMAP_MAX, of malloc.h."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees for what it allocates next; return what is free now.

    Otherwise glibc gives every block above 32 MB back to the system, which has to clear each page
    when the next batch asks for it. What an earlier trial of the process left is returned, so that
    trials do not add up. Without glibc, nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.malloc_trim(0)
