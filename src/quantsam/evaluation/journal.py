"""Keep the outcomes of a long evaluation on disk, image by image, so that it can be resumed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from quantsam.errors import StoreError
from quantsam.results.record import JsonValue

_TRIES = 100  # attempts to open; an attempt fails only if another process removed the file at that moment

Outcome = dict[str, Any]
"""What came of one image, in JSON values; `image_id` is its image."""


class Outcomes:
    """Outcomes in memory, in order of arrival."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self._kept: list[Outcome] = []

    def append(self, outcome: Outcome) -> None:
        """Keep the outcome of one image."""
        self._kept.append(outcome)
        self.done.add(outcome["image_id"])

    def outcomes(self) -> Iterator[Outcome]:
        """Yield all outcomes, one at a time."""
        return iter(self._kept)

    def in_order(self, image_ids: Iterable[int]) -> Iterator[Outcome]:
        """Yield the outcome of each given image, one at a time; the last one if an image has several."""
        found = {outcome["image_id"]: outcome for outcome in self._kept}
        return (found[image_id] for image_id in image_ids)


class Journal(Outcomes):
    """Outcomes on disk, in order of arrival.

    The file holds one line of JSON per image, after a line that says what was evaluated. Each line goes to the
    operating system by itself: a process killed at any point leaves complete lines and at most one partial line, which
    the next process removes. The file's name is derived from what is evaluated, so another evaluation never reads it.
    """

    def __init__(self, file: BinaryIO, path: Path, head: bytes) -> None:
        super().__init__()
        self._file, self.path = file, path
        self._places = _recover(file, head)
        self.done |= self._places.keys()

    def append(self, outcome: Outcome) -> None:
        """Keep the outcome of one image.

        Raises:
            StoreError: The disk is full, or reports an error.
        """
        place = self._file.tell()
        try:
            self._file.write(json.dumps(outcome, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"the journal {self.path} cannot be written: {error.strerror}; what it holds is kept, free some "
                "space and run the same command again"
            ) from error
        self._places[outcome["image_id"]] = place
        self.done.add(outcome["image_id"])

    def outcomes(self) -> Iterator[Outcome]:
        """Read all outcomes from the file, one at a time."""
        with self.path.open("rb") as lines:
            next(lines)
            for line in lines:
                yield json.loads(line)

    def in_order(self, image_ids: Iterable[int]) -> Iterator[Outcome]:
        """Read the outcome of each given image, one at a time; the last one if an image has several."""
        with self.path.open("rb") as lines:
            for image_id in image_ids:
                lines.seek(self._places[image_id])
                yield json.loads(lines.readline())


@contextmanager
def open_journal(folder: Path, depends_on: Mapping[str, JsonValue]) -> Iterator[Journal]:
    """Open the journal of an evaluation; it is removed when the block ends without an exception.

    Args:
        folder: The folder of journals; created if missing.
        depends_on: Everything that the outcomes depend on.

    Yields:
        The journal; its `done` lists the images that it already holds.

    Raises:
        StoreError: The journal cannot be written, or another process is writing it.
    """
    path = journal_path(folder, depends_on)
    head = _head(depends_on)
    file = _open_locked(folder, path)
    try:
        try:
            journal = Journal(file, path, head)
        except OSError as error:
            raise StoreError(f"the journal {path} cannot be written: {error.strerror}; choose another store") from error
        yield journal
        path.unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds another evaluation's journal
            folder.rmdir()
    finally:
        with suppress(OSError):  # a full disk was already reported when it occurred
            file.close()


def journal_path(folder: Path, depends_on: Mapping[str, JsonValue]) -> Path:
    """Return the path of an evaluation's journal."""
    return folder / f"{hashlib.sha256(_head(depends_on)).hexdigest()[:32]}.jsonl"


def _head(depends_on: Mapping[str, JsonValue]) -> bytes:
    return json.dumps({"subject": dict(depends_on)}, sort_keys=True).encode() + b"\n"


def _open_locked(folder: Path, path: Path) -> BinaryIO:
    """Open a journal for this process alone."""
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the folder {folder} cannot be made: {error.strerror}; choose another store") from error
        try:
            # Windows has no fcntl; this program runs on Linux and macOS.
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except FileNotFoundError:  # another evaluation has just removed the folder
            continue
        except OSError as error:
            raise StoreError(f"the journal {path} cannot be opened: {error.strerror}; choose another store") from error
        lock(file, path, "at this very evaluation")
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()  # the process that held the file has just finished and removed it
    raise StoreError(
        f"the journal {path} vanished {_TRIES} times while it was opened: choose a store on another file system"
    )


def lock(file: BinaryIO, path: Path, what: str) -> None:
    """Lock a file for this process; if that fails, close it and say why.

    Args:
        file: The open file.
        path: The file's path.
        what: What a process that holds the lock does, for the message.

    Raises:
        StoreError: Another process holds the lock, or the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StoreError(
            f"another process is {what} (it holds {path}): wait for it, stop it, or give another --store"
        ) from None
    except OSError as error:
        file.close()
        raise StoreError(
            f"{path} cannot be locked ({error.strerror}): choose a store on a file system that has locks"
        ) from error


def _recover(file: BinaryIO, head: bytes) -> dict[int, int]:
    """Return the images of complete lines and their offsets, remove the rest, and leave the file at its end."""
    done: dict[int, int] = {}
    end = 0
    if file.readline() == head:
        end = file.tell()
        for line in file:
            try:
                image_id = json.loads(line)["image_id"] if line.endswith(b"\n") else None
            except (ValueError, KeyError, TypeError):
                break
            if image_id is None:
                break
            done[image_id] = end
            end += len(line)
    file.seek(end)
    file.truncate()
    if not end:
        file.write(head)
        file.flush()
    return done
