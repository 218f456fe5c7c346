"""Write files so that a reader sees either the old content or the new content, never half of it."""

from __future__ import annotations

import codecs
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantsam.errors import OutputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a temporary file and move it into place only when it is complete.

    The temporary file is in the same folder and keeps the suffix, because some writers choose the
    format by it. It exists from the start, empty: an unwritable folder is found before the work, not
    after it. Symbolic links are followed: the file that a link points to is replaced. There is no
    fsync: this guards against crashes of the program, not of the machine.

    Args:
        path: Where the file goes. The file may exist; its folder must exist.

    Yields:
        The path of the temporary file. Any exception, including `KeyboardInterrupt`, removes that file and
        leaves `path` untouched.

    Raises:
        OutputError: The folder is missing or not writable, `path` is not a regular file, or the disk is
            full. An `OSError` about another file passes unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "masks.csv") as aside:
    ...         _ = aside.write_text("id,iou")
    ...     [file.name for file in Path(folder).iterdir()]
    ['masks.csv']
    """
    shown = os.fspath(path)
    target = _target(shown)
    aside = target.with_name(f".quantsam-{secrets.token_hex(8)}{target.suffix}")
    try:
        aside.touch(exist_ok=False)  # not mkstemp: its mode 0600 would stay on the final file
        yield aside
        aside.replace(target)
    except OSError as error:
        if error.filename not in (None, str(aside)):
            raise
        raise OutputError(f"cannot write {shown}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def check_file(path: str | os.PathLike[str]) -> None:
    """Check, before long work, that `atomic_write` can put a file at `path`.

    Raises:
        OutputError: `path` cannot be a file, or its folder is not writable.
    """
    shown = os.fspath(path)
    problem = unwritable(_target(shown).parent)
    if problem:
        raise OutputError(f"cannot write {shown}: {problem}, choose another place")


def _target(shown: str) -> Path:
    """Return the real path to replace, or say why there is none."""
    try:
        target = Path(shown).resolve()
        if target.is_dir():
            raise OutputError(f"cannot write {shown}: it is a folder, give the name of a file")
        if target.exists() and not target.is_file():
            # Replacing a device or a pipe would destroy it for everyone.
            raise OutputError(f"cannot write {shown}: it is not a regular file")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {shown}: there is no folder {target.parent}")
    except (OSError, RuntimeError, ValueError) as error:  # not permitted; a loop of links; a NUL in the name
        raise OutputError(f"cannot write {shown!r}: {getattr(error, 'strerror', None) or error}") from error
    return target


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replaces: str | None = None) -> Iterator[Path]:
    """Write a temporary folder and move it into place only when it is complete.

    Symbolic links are followed: the folder that a link points to is replaced. Missing parents are made.

    Args:
        path: Where the folder goes: absent, empty, or an older folder of the same kind, which is replaced.
        replaces: Name of a file that identifies an older folder of the same kind; None to replace none.

    Yields:
        The temporary folder. Any exception, including `KeyboardInterrupt`, removes that folder and leaves
        `path` untouched.

    Raises:
        OutputError: `path` holds something else, or cannot be written. An `OSError` about another file
            passes unchanged.
    """
    target = check_replaceable(path, replaces)
    aside = target.with_name(f".quantsam-{secrets.token_hex(8)}")
    old = target.with_name(f".quantsam-{secrets.token_hex(8)}")
    new_parents = [parent for parent in target.parents if not parent.exists()]  # the deepest first
    ours = {*target.parents, target, old, aside}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        yield aside
        if target.exists():
            target.rename(old)
        aside.rename(target)
    except OSError as error:
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        if named is not None and named not in ours and aside not in named.parents:
            raise
        raise OutputError(f"cannot write the folder {path}: {error.strerror or error}") from error
    finally:
        if old.exists() and not target.exists():  # stopped between the two renames
            old.rename(target)
        for rest in (aside, old):
            shutil.rmtree(rest, ignore_errors=True)
        if not target.exists():
            for parent in new_parents:
                with suppress(OSError):  # someone else uses it by now
                    parent.rmdir()


def check_replaceable(path: str | os.PathLike[str], replaces: str | None) -> Path:
    """Check, before long work, that `atomic_folder` can put a folder at `path`.

    Returns:
        The real path, with symbolic links followed.

    Raises:
        OutputError: `path` holds something else, or its parent is not writable.
    """
    shown = f"cannot write the folder {path}"
    try:
        target = Path(path).resolve()
        if target.exists() and not target.is_dir():
            raise OutputError(f"{shown}: a file of that name is there, choose another name")
        known = replaces is not None and (target / replaces).is_file()
        if target.is_dir() and not known and any(target.iterdir()):
            raise OutputError(f"{shown}: it holds other files, choose an absent or empty one")
    except (OSError, RuntimeError, ValueError) as error:  # not permitted; a loop of links; a NUL in the name
        raise OutputError(f"{shown!r}: {getattr(error, 'strerror', None) or error}") from error
    problem = unwritable(target.parent)
    if problem:
        raise OutputError(f"{shown}: {problem}, choose another place")
    return target


def check_holds_only(path: str | os.PathLike[str], names: Collection[str], what: str) -> None:
    """Check that replacing a folder deletes none of the user's files.

    Args:
        path: The folder; may be absent.
        names: Names that the folder may hold; those in subfolders with the subfolder's name, `sub/name`.
        what: What will be written, for the message.

    Raises:
        OutputError: The folder holds something else.
    """
    folder = Path(path)
    held = (entry for entry in folder.rglob("*") if not entry.is_dir() or entry.is_symlink())
    others = sorted({entry.relative_to(folder).as_posix() for entry in held} - set(names))
    if others:
        raise OutputError(
            f"cannot write the {what} {os.fspath(path)!r}: the folder also holds {others[0]!r}, "
            "choose an absent or empty one"
        )


def shown(name: str) -> str:
    r"""Return a file's name as text that every encoding, store and terminal accepts.

    A name may hold bytes that are not UTF-8 (Python keeps them as lone surrogates), line breaks, and commands to a
    terminal. They become `\xff`, `\n`, `\x1b`.

    >>> shown(os.fsdecode(b"caf\xe9")), shown("two\nlines")
    ('caf\\xe9', 'two\\nlines')
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), storable(name))


def storable(text: str) -> str:
    """Return multi-line text that every encoding and store accepts; see `shown`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _escaped(text)
    return text


def _escaped(name: str) -> str:
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte of a file's name, for example from JSON
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading `~` replaced by the home folder, as a shell does for unquoted words.

    >>> expanded("a/~b").as_posix()
    'a/~b'
    """
    # Path.expanduser also replaces `./~`. os.path.expanduser does not, and leaves the name of an unknown user as it is.
    return Path(os.path.expanduser(path))  # noqa: PTH111


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path) -> str:
    """Read a text file that a person wrote: UTF-8, or UTF-16 with a byte-order mark. The mark is left out.

    Raises:
        OSError: The file cannot be read.
        ValueError: The text is neither UTF-8 nor UTF-16.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def unwritable(folder: Path) -> str | None:
    """Return why a folder, which need not exist yet, is not writable; None if it seems writable."""
    above = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not exists(above):
        return f"{above} is a link to nothing"
    if not above.is_dir():
        return f"{above} is a file, not a folder"
    try:
        # Try it: mode bits say nothing about root, read-only mounts or /proc.
        with tempfile.TemporaryFile(prefix=".quantsam-", dir=above):
            return None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{above} is full: {error.strerror}" if full else f"{above} is not writable"


def exists(place: Path) -> bool:
    """Return whether a path exists; False if a parent may not be entered, where `Path.exists` raises an error."""
    return os.path.exists(place)  # noqa: PTH110
