"""How the process allocates memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST_ON_HEAP = 32 << 20  # bytes; the most that glibc accepts


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next tensor instead of returning it to the system.

    A network frees and allocates the same megabytes layer after layer. The system would have to map and zero each
    returned page again. The command line calls this function. Your own programs may call it once, at their start. It
    makes them faster and changes no result. The process keeps the memory of its peak.

    Returns:
        Whether the setting took effect; only glibc (Linux) has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
