"""The SQLite file that a result store is: its tables, how it is opened, and what its errors mean.

The file uses SQLite's rollback journal and not the write-ahead log. So it is a single file, which can be copied and
read from read-only media. A process killed while it appends leaves a journal beside it, and the next reader rolls the
half-written record back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from quantsam.errors import StoreError

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x7153414D  # "qSAM", in the file's header: distinguishes our file from another program's

_SCHEMA = (
    """CREATE TABLE records (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, model TEXT NOT NULL,
        scheme TEXT NOT NULL, placement TEXT, engine TEXT NOT NULL, dataset TEXT NOT NULL,
        prompt TEXT NOT NULL, body TEXT NOT NULL)""",
    # `record_seq`, not the id: 32 hex digits for each of 36 000 objects would double the file.
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

# Added later. A store of the same version may lack them, and an older quantsam ignores them.
_LATER = (
    "CREATE TABLE IF NOT EXISTS pictures (digest TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS gallery (
        record_seq INTEGER NOT NULL REFERENCES records (seq), position INTEGER NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (record_seq, position)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS object_names (dataset_digest TEXT PRIMARY KEY, body TEXT NOT NULL)",
)


class Database:
    """A store's file. Every use opens and closes it.

    Args:
        path: The file.
        busy_timeout_s: How long to wait for another process, in seconds.
    """

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a connection to a store that has a schema, or `None` if there is no store yet.

        Raises:
            StoreError: The file is not a store of this version, or cannot be read.
        """
        with self._errors():
            if not self.path.exists():
                yield None
                return
            # Not "ro": after a kill the journal must be rolled back. SQLite falls back to read-only by itself.
            with closing(self._connect("rw")) as connection:
                yield connection if self._has_schema(connection) else None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection within one transaction, which is committed when the block ends, or rolled back.

        Raises:
            StoreError: The file is not a store of this version, or cannot be written.
        """
        with self._errors(), closing(self._connect("rwc")) as connection:
            # An exception skips COMMIT, and closing then rolls back.
            connection.execute("BEGIN IMMEDIATE")
            for statement in (*(() if self._has_schema(connection) else _SCHEMA), *_LATER):
                connection.execute(statement)
            yield connection
            connection.execute("COMMIT")

    def has_table(self, connection: sqlite3.Connection, name: str) -> bool:
        """Return whether the store has a table that was added later."""
        return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone())

    def _connect(self, mode: str) -> sqlite3.Connection:
        if mode == "rwc":
            self.path.parent.mkdir(parents=True, exist_ok=True)
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        # isolation_level None: transactions begin and end only where this module says so.
        return sqlite3.connect(uri, uri=True, timeout=self._busy_timeout_s, isolation_level=None)

    def _has_schema(self, connection: sqlite3.Connection) -> bool:
        """Return False for an empty file; refuse a file from another program or a newer quantsam."""
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
        """Turn errors from SQLite and the file system into one-line errors; our own bugs pass through."""
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
