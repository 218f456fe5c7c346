"""Where things go that nobody named a place for, also on machines where hardly anything can be written."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from quantsam.files import unwritable


def user_data() -> Path | None:
    """Return the user's data folder, which need not exist; None where the user has no home."""
    try:
        return Path(platformdirs.user_data_dir("quantsam")).absolute()
    except RuntimeError:  # no HOME, and no entry for this user
        return None


def user_cache() -> Path | None:
    """Return the user's cache folder, which need not exist; None where the user has no home."""
    try:
        return Path(platformdirs.user_cache_dir("quantsam")).absolute()
    except RuntimeError:
        return None


def temporary_folder() -> Path | None:
    """Return a folder for this user alone below the system's temporary folder.

    The name is the same in every process, so what is kept here is found again until the machine clears it. Others may
    write beside it, so a folder that is not this user's own, or that others may write, is not used.

    Returns:
        The folder; None if there is none, or none that is safe.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"quantsam-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if private and unwritable(folder) is None else None


def cache_folder(name: str) -> Path | None:
    """Return a folder for what can be made again: the user's own, else a temporary one; None where neither can be.

    Args:
        name: Of the folder; it need not exist yet.
    """
    usual = user_cache()
    if usual is not None and unwritable(usual / name) is None:
        return usual / name
    spare = temporary_folder()
    return None if spare is None else spare / name
