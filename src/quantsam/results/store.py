"""The result store: records and the scores of their objects in one SQLite file.

The file uses SQLite's rollback journal and not the write-ahead log: it is then a single file, to be copied
and to be read from read-only media. A process killed while it appends leaves a journal beside it, and the
next reader rolls the half-written record back.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

import platformdirs

from quantsam.errors import InputError, StoreError, nearest
from quantsam.files import unwritable
from quantsam.metrics.summary import ObjectScore
from quantsam.results.record import Record

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x7153414D  # "qSAM", in the file's header: tells our file from another program's

_SCHEMA = (
    """CREATE TABLE records (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, model TEXT NOT NULL,
        scheme TEXT NOT NULL, placement TEXT, engine TEXT NOT NULL, dataset TEXT NOT NULL,
        prompt TEXT NOT NULL, body TEXT NOT NULL)""",
    # `record_seq` and not the id: 32 hex digits for each of 36 000 objects would double the file.
    """CREATE TABLE object_scores (
        record_seq INTEGER NOT NULL REFERENCES records (seq), annotation_id INTEGER NOT NULL,
        image_id INTEGER NOT NULL, area REAL NOT NULL, iou REAL NOT NULL, predicted_iou REAL,
        PRIMARY KEY (record_seq, annotation_id)) WITHOUT ROWID""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_REASONS = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite file: give the path of a result store, or of a new file",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a copy, or start a new one",
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full: free some space, nothing of this record was kept",
    sqlite3.SQLITE_BUSY: "is locked by another process: wait for it to finish, then try again",
    sqlite3.SQLITE_READONLY: "cannot be written: the file or its folder is read-only",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened for this: it is a folder, or its folder is read-only",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error",
}
_NEEDS_RECOVERY = (
    "holds an interrupted write that cannot be rolled back because it is read-only: "
    "copy it and its -journal file to a writable folder"
)


class RecordFilter(TypedDict, total=False):
    """What `ResultStore.records` can select by: a value or a glob such as `mix-*`; `None` selects all."""

    kind: str | None
    model: str | None
    scheme: str | None
    placement: str | None
    engine: str | None
    dataset: str | None
    prompt: str | None


_COLUMNS = tuple(RecordFilter.__annotations__)


def default_store_path() -> Path:
    """Return `$QUANTSAM_STORE`, or `results.sqlite` in the user's data folder."""
    given = os.environ.get("QUANTSAM_STORE")
    return Path(given).expanduser() if given else platformdirs.user_data_path("quantsam") / "results.sqlite"


class ResultStore:
    """Records in a SQLite file, which the first `append` creates.

    Every call opens the file and closes it again: nothing stays open between calls, so a store may be
    shared by threads, kept across a fork, and used with or without `with`. Several processes may
    append at the same time; they wait for one another.

    Args:
        path: The file; `default_store_path()` when not given.
        busy_timeout_s: How long to wait for another process, in seconds.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, busy_timeout_s: float = 30.0) -> None:
        self.path = default_store_path() if path is None else Path(path)
        self._busy_timeout_s = busy_timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def check_writable(self) -> None:
        """Make sure, before long work, that `append` can be expected to work.

        Raises:
            StoreError: The file is no store of this version, or its folder cannot be written.
        """
        with self._reading():
            problem = unwritable(self.path.absolute().parent)
        if problem:
            raise StoreError(f"result store {self.path} cannot be written: {problem}; give another path")

    def append(self, record: Record, scores: Iterable[ObjectScore] | None = None) -> None:
        """Add a record and the scores of its objects: all of it, or nothing.

        Args:
            record: The record; its id must be new.
            scores: One score an object; `record.scores` if left out. A `predicted_iou` that is not a number
                is kept as `None`.

        Raises:
            InputError: An object is scored twice.
            StoreError: The store holds a record of this id, or cannot be written.
        """
        rows = [
            _score_row(score) for score in (record.scores if scores is None else scores)
        ]  # before the lock is taken: `scores` may be slow
        repeated = len(rows) - len({annotation_id for annotation_id, *_ in rows})
        if repeated:
            raise InputError(f"scores of record {record.id} must name an object once, got {repeated} repeated")
        values = (
            record.id,
            *(getattr(record, column) for column in _COLUMNS),
            json.dumps(record.to_json_dict()),
        )
        with self._errors(), closing(self._connect("rwc")) as connection:
            # An exception leaves without COMMIT, and closing then rolls back.
            connection.execute("BEGIN IMMEDIATE")
            if not self._has_schema(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
            if connection.execute("SELECT 1 FROM records WHERE id = ?", (record.id,)).fetchone():
                raise StoreError(f"result store {self.path} holds a record {record.id} already")
            names, marks = ", ".join(("id", *_COLUMNS, "body")), ", ".join("?" * len(values))
            seq = connection.execute(f"INSERT INTO records ({names}) VALUES ({marks})", values).lastrowid
            connection.executemany("INSERT INTO object_scores VALUES (?, ?, ?, ?, ?, ?)", ((seq, *row) for row in rows))
            connection.execute("COMMIT")

    def records(self, **filters: Unpack[RecordFilter]) -> list[Record]:
        """Return records in the order they were appended, the newest last.

        Args:
            filters: By `kind`, `model`, `scheme`, `placement`, `engine`, `dataset` or `prompt`: a value,
                or a glob (`*`, `?`, `[...]`, case matters). All of them must hold.

        Returns:
            The records; none when there is no store yet.

        Raises:
            InputError: There is no such filter.
            StoreError: The store cannot be read.
        """
        for name in filters:
            if name not in _COLUMNS:
                raise InputError(f"records have no filter {name!r}: {nearest(name, _COLUMNS)}")
        chosen = {name: value for name, value in filters.items() if value is not None}
        where = " AND ".join(f"matches({name}, :{name})" for name in chosen) or "TRUE"
        with self._reading() as connection:
            if connection is None:
                return []
            connection.create_function("matches", 2, _matches, deterministic=True)
            found = connection.execute(f"SELECT body FROM records WHERE {where} ORDER BY seq", chosen)
            return [self._parse(body) for (body,) in found]

    def get(self, prefix: str) -> Record:
        """Return the one record whose id is, or begins with, `prefix`.

        Raises:
            InputError: No record has such an id, or several have.
            StoreError: The store cannot be read.
        """
        with self._reading() as connection:
            return self._parse(self._find(connection, prefix)[1])

    def find(self, record_id: str) -> Record | None:
        """Return the record of exactly this id, None if there is none.

        Raises:
            StoreError: The store cannot be read.
        """
        with self._reading() as connection:
            if connection is None:
                return None
            found = connection.execute("SELECT body FROM records WHERE id = ?", (record_id,)).fetchone()
            return None if found is None else self._parse(found[0])

    def scores(self, record_id: str) -> list[ObjectScore]:
        """Return the scores kept with a record, by annotation id; none were given when it is empty.

        Args:
            record_id: The record's id, or the beginning of it.

        Raises:
            InputError: No record has such an id, or several have.
            StoreError: The store cannot be read.
        """
        with self._reading() as connection:
            seq, _ = self._find(connection, record_id)
            assert connection is not None  # else nothing was found
            found = connection.execute(
                "SELECT image_id, annotation_id, area, iou, predicted_iou FROM object_scores "
                "WHERE record_seq = ? ORDER BY annotation_id",
                (seq,),
            )
            try:
                return [ObjectScore(*row) for row in found]
            except (InputError, TypeError) as error:
                raise StoreError(f"result store {self.path}: scores of {record_id} are damaged: {error}") from error

    def _find(self, connection: sqlite3.Connection | None, prefix: str) -> tuple[int, str]:
        found: list[tuple[str, int, str]] = []
        if connection is not None and prefix:
            found = connection.execute(
                "SELECT id, seq, body FROM records WHERE substr(id, 1, ?) = ? ORDER BY seq",
                (len(prefix), prefix),
            ).fetchall()
        exact = [row for row in found if row[0] == prefix] or found
        if not exact:
            raise InputError(f"no record of {self.path} has an id that begins with {prefix!r}")
        if len(exact) > 1:
            some = ", ".join(row[0] for row in exact[:3]) + (", ..." if len(exact) > 3 else "")
            raise InputError(f"id {prefix!r} must belong to one record, got {len(exact)}: {some}")
        return exact[0][1:]

    def _parse(self, body: str) -> Record:
        try:
            return Record.from_json_dict(json.loads(body))
        except (TypeError, ValueError) as error:
            raise StoreError(f"result store {self.path} holds a record that is not JSON: {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection to a store that has a schema, or `None` where there is nothing yet."""
        with self._errors():
            if not self.path.exists():
                yield None
                return
            # Not "ro": after a kill the journal must be rolled back. SQLite falls back to reading by itself.
            with closing(self._connect("rw")) as connection:
                yield connection if self._has_schema(connection) else None

    def _connect(self, mode: str) -> sqlite3.Connection:
        if mode == "rwc":
            self.path.parent.mkdir(parents=True, exist_ok=True)
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        # isolation_level None: transactions begin and end only where this file says so.
        return sqlite3.connect(uri, uri=True, timeout=self._busy_timeout_s, isolation_level=None)

    def _has_schema(self, connection: sqlite3.Connection) -> bool:
        """Return False for an empty file; refuse what another program or a newer quantsam wrote."""
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application_id == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return False
        if application_id != _APPLICATION_ID:
            raise StoreError(f"result store {self.path} is a SQLite file of another program: give another path")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"result store {self.path} has schema version {version}, this quantsam reads "
                f"{SCHEMA_VERSION}: upgrade quantsam, or give another path"
            )
        return True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLite and the file system report into one line; mistakes of ours pass."""
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            reason = _REASONS.get(code & 0xFF, f"cannot be used: {error}")  # low byte: the primary code
            if code == sqlite3.SQLITE_READONLY_ROLLBACK:
                reason = _NEEDS_RECOVERY
            raise StoreError(f"result store {self.path} {reason}") from error
        except OSError as error:
            raise StoreError(f"result store {self.path} cannot be opened: {error.strerror or error}") from error


def _matches(value: str | None, wanted: str) -> bool:
    """Compare first as it is, so that a name with brackets finds itself."""
    return value is not None and (value == wanted or fnmatchcase(value, wanted))


def _score_row(score: ObjectScore) -> tuple[int, int, float, float, float | None]:
    """Return a score in table order and in Python's types: SQLite knows none of numpy's. NaN becomes NULL."""
    predicted = None if score.predicted_iou is None else float(score.predicted_iou)
    return int(score.annotation_id), int(score.image_id), float(score.area), float(score.iou), predicted
