"""How the process gets its memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST_ON_HEAP = 32 << 20  # bytes; the most that glibc accepts


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed, for the next tensor, instead of giving it back to the system.

    A network frees and asks for the same megabytes layer after layer. Given back, each page of them has to be mapped
    and zeroed again. The command line calls this; programs of your own may, once, at their start. It changes
    how fast, not what, and hardly how much: what a process holds stays at its peak.

    Returns:
        Whether it took effect; only glibc (Linux) has the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
