"""Compile kernels, and cache the result in the first folder that can be written, if there is one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba

from quantsam.notices import notice
from quantsam.places import cache_folder


class Kernel:
    """A function that Numba compiles at its first call.

    The compiled function is cached beside the module, in Numba's folder in the user's cache, or in the user's own
    temporary folder. If none of them can be written and read, every process compiles it again, and a notice says so.
    `NUMBA_CACHE_DIR` names another folder.
    """

    def __init__(self, function: Callable[..., None], options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        self._is_kept = True
        self._compiled = self._with_cache()

    def __call__(self, *arguments: Any) -> None:
        """Run the function."""
        if not self._is_kept:
            self._compiled(*arguments)
            return
        try:
            self._compiled(*arguments)
        except Exception as error:  # a damaged cache makes the unpickler raise nearly anything
            self._mend(error, arguments)

    def _mend(self, error: Exception, arguments: tuple[Any, ...]) -> None:
        """Run the function even if its cache is damaged or cannot grow: use a new cache, or none."""
        folder = Path(self._compiled.stats.cache_path)
        for file in folder.glob(f"*.{self._function.__name__}-*.nb[ci]"):
            with suppress(OSError):
                file.unlink()
        self._compiled = self._with_cache()
        if self._is_kept:
            try:
                self._compiled(*arguments)
                return
            except Exception:  # the disk is full, the folder vanished
                self._lose(f"{' '.join(str(error).split()) or type(error).__name__}")
        self._compiled(*arguments)

    def _with_cache(self) -> Any:
        usual = numba.config.CACHE_DIR  # type: ignore[attr-defined]  # set while it runs
        for other in (False, True):
            spare = cache_folder("kernels") if other else None
            try:
                if spare is not None:
                    numba.config.CACHE_DIR = str(spare)  # type: ignore[attr-defined]
                return numba.njit(cache=True, **self._options)(self._function)
            except (RuntimeError, OSError):  # no place can be written
                continue
            finally:
                numba.config.CACHE_DIR = usual  # type: ignore[attr-defined]
        self._lose("no folder can be written")
        return self._compiled

    def _lose(self, why: str) -> None:
        self._is_kept = False
        self._compiled = numba.njit(**self._options)(self._function)
        notice(
            f"compiled kernels cannot be kept ({why}): each process spends seconds on compiling them; "
            "name a writable folder with NUMBA_CACHE_DIR"
        )


def kernel(**options: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Turn a function into a kernel; the options are those of `numba.njit`."""
    return lambda function: Kernel(function, options)
