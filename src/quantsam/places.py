"""Default places for files, also on machines where hardly any folder is writable."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from quantsam.files import unwritable


def user_data() -> Path | None:
    """Return the user's data folder, which need not exist; None if the user has no home folder."""
    try:
        return Path(platformdirs.user_data_dir("quantsam")).absolute()
    except RuntimeError:  # no HOME, and no entry for this user
        return None


def user_cache() -> Path | None:
    """Return the user's cache folder, which need not exist; None if the user has no home folder."""
    try:
        return Path(platformdirs.user_cache_dir("quantsam")).absolute()
    except RuntimeError:
        return None


def temporary_folder() -> Path | None:
    """Return this user's own folder inside the system's temporary folder.

    The name is the same in every process, so files in the folder are found again until the machine clears them. Other
    users may write beside it. A folder that belongs to another user, or that others may write to, is not used.

    Returns:
        The folder; None if there is none or none that is safe.
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
    """Return a folder for files that can be made again: in the user's cache, or else a temporary one.

    Args:
        name: Name of the folder, which need not exist yet.

    Returns:
        The folder; None if neither is writable.
    """
    usual = user_cache()
    if usual is not None and unwritable(usual / name) is None:
        return usual / name
    spare = temporary_folder()
    return None if spare is None else spare / name
