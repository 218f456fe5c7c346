"""The result store: records, their object scores and images of some objects, in one SQLite file."""

from __future__ import annotations

import functools
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from quantsam.errors import InputError, StoreError, nearest
from quantsam.files import exists, expanded, storable, unwritable
from quantsam.metrics.summary import ObjectScore
from quantsam.places import temporary_folder, user_data
from quantsam.results.database import Database
from quantsam.results.gallery import GalleryEntry, parse_entry
from quantsam.results.kinds import in_current_form, read_record
from quantsam.results.object_names import ObjectNames, parse_names
from quantsam.results.record import Record


class RecordFilter(TypedDict, total=False):
    """Filters of `ResultStore.records`: a value or a glob such as `mix-*`; `None` selects all."""

    kind: str | None
    model: str | None
    scheme: str | None
    placement: str | None
    engine: str | None
    dataset: str | None
    prompt: str | None


STORE_VARIABLE = "QUANTSAM_STORE"
_NAME = "results.sqlite"
_COLUMNS = tuple(RecordFilter.__annotations__)
_NEVER_NULL = ("scheme", "dataset", "prompt")  # never null in the table, although a record may have none
_MEASURED = (*_COLUMNS, "weights_digest", "dataset_digest", "plan_digest")
_MEASURED_SETTINGS = (
    *("weights", "activations", "precision", "detections_digest", "by", "mode", "part", "method", "cost", "batch"),
    *("search", "site"),
)


def default_store_path() -> Path:
    """Return `$QUANTSAM_STORE`, or `results.sqlite` in the user's data folder.

    If there is no store yet and none can be created, for example in a container whose user has no home, the path is
    `results.sqlite` in this user's temporary folder.
    """
    given = os.environ.get(STORE_VARIABLE)
    if given:
        return expanded(given)
    folder = user_data()
    if folder is not None and (exists(folder / _NAME) or unwritable(folder) is None):
        return folder / _NAME
    return spare_store_path() or (folder or Path.cwd()) / _NAME


def spare_store_path() -> Path | None:
    """Return the fallback path if the usual one cannot be written; None if there is no fallback either."""
    folder = temporary_folder()
    return None if folder is None else folder / _NAME


class ResultStore:
    """Records in an SQLite file, which the first `append` creates.

    Every call opens and closes the file, so nothing stays open between calls. A store can be shared by threads, kept
    across a fork, and used with or without `with`. Several processes can append at the same time; they wait for one
    another.

    Args:
        path: The file; by default `default_store_path()`.
        busy_timeout_s: How long to wait for another process, in seconds.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, busy_timeout_s: float = 30.0) -> None:
        self.path = default_store_path() if path is None else Path(path)
        self._file = Database(self.path, busy_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def check_writable(self) -> None:
        """Check, before long work, that `append` should succeed.

        Raises:
            StoreError: The file is not a store of this version, or its folder cannot be written.
        """
        with self._file.reading():
            problem = unwritable(self.path.absolute().parent)
            if problem is None and self.path.exists() and not os.access(self.path, os.W_OK):
                problem = "the file is read-only"
        if problem:
            raise StoreError(f"result store {self.path} cannot be written: {problem}; give another path")

    def append(self, record: Record, scores: Iterable[ObjectScore] | None = None) -> None:
        """Add a record and the scores of its objects, completely or not at all.

        Args:
            record: The record; its id must be new.
            scores: One score per object; by default `record.scores`. A `predicted_iou` of NaN is kept as `None`.

        Raises:
            InputError: An object is scored twice.
            StoreError: The store already holds a record with this id, or cannot be written.
        """
        rows = [
            _score_row(score) for score in (record.scores if scores is None else scores)
        ]  # before taking the lock, because `scores` may be slow
        repeated = len(rows) - len({annotation_id for annotation_id, *_ in rows})
        if repeated:
            raise InputError(f"scores of record {record.id} must name an object once, got {repeated} repeated")
        values = (
            record.id,
            *(getattr(record, column) or ("" if column in _NEVER_NULL else None) for column in _COLUMNS),
            json.dumps(record.to_json_dict()),
        )
        with self._file.writing() as connection:
            if connection.execute("SELECT 1 FROM records WHERE id = ?", (record.id,)).fetchone():
                raise StoreError(f"result store {self.path} holds a record {record.id} already")
            names, marks = ", ".join(("id", *_COLUMNS, "body")), ", ".join("?" * len(values))
            seq = connection.execute(f"INSERT INTO records ({names}) VALUES ({marks})", values).lastrowid
            connection.executemany("INSERT INTO object_scores VALUES (?, ?, ?, ?, ?, ?)", ((seq, *row) for row in rows))

    def records(self, **filters: Unpack[RecordFilter]) -> list[Record]:
        """Return records in the order they were appended, newest last.

        Args:
            filters: Values of `kind`, `model`, `scheme`, `placement`, `engine`, `dataset` or `prompt`: a value, or a
                glob (`*`, `?`, `[...]`, case-sensitive). All filters must match.

        Returns:
            The records; empty if there is no store yet.

        Raises:
            InputError: A filter is unknown.
            StoreError: The store cannot be read.
        """
        where, chosen = _where(filters)
        with self._file.reading() as connection:
            if connection is None:
                return []
            connection.create_function("matches", 2, _matches, deterministic=True)
            found = connection.execute(f"SELECT body FROM records WHERE {where} ORDER BY seq", chosen)
            return [self._parse(body) for (body,) in found]

    def newest(self, limit: int, **filters: Unpack[RecordFilter]) -> tuple[list[Record], int]:
        """Return the newest record of each measurement, in the order they were appended.

        Records with the same model, weights, plan, engine, data, prompt and switches belong to one measurement.

        Args:
            limit: Largest number of records to return, the newest; older ones are not read.
            filters: As in `records`.

        Returns:
            The records, and the total number of records that pass the filters, including repetitions.

        Raises:
            InputError: A filter is unknown.
            StoreError: The store cannot be read.
        """
        where, chosen = _where(filters)
        found: dict[str, str] = {}
        with self._file.reading() as connection:
            if connection is None:
                return [], 0
            connection.create_function("matches", 2, _matches, deterministic=True)
            (total,) = connection.execute(f"SELECT count(*) FROM records WHERE {where}", chosen).fetchone()
            for (body,) in connection.execute(f"SELECT body FROM records WHERE {where} ORDER BY seq DESC", chosen):
                found.setdefault(self._measured(body), body)
                if len(found) == limit:
                    break
        return [self._parse(body) for body in reversed(found.values())], total

    def keep_gallery(self, record_id: str, entries: Iterable[GalleryEntry]) -> None:
        """Replace the kept images of a record's objects, completely or not at all.

        Raises:
            InputError: There is no record with this id.
            StoreError: The store cannot be written.
        """
        kept = list(entries)
        with self._file.writing() as connection:
            seq, _ = self._find(connection, record_id)
            connection.execute("DELETE FROM gallery WHERE record_seq = ?", (seq,))
            connection.executemany(
                "INSERT OR IGNORE INTO pictures VALUES (?, ?)",
                ((entry.picture_digest, entry.picture) for entry in kept if entry.picture is not None),
            )
            rows = ((seq, position, entry.to_json()) for position, entry in enumerate(kept))
            connection.executemany("INSERT INTO gallery VALUES (?, ?, ?)", rows)

    def gallery(self, record_id: str) -> list[GalleryEntry]:
        """Return the images kept with a record; empty if there are none.

        Raises:
            InputError: No record matches the id, or several do.
            StoreError: The store cannot be read, or an entry is damaged.
        """
        with self._file.reading() as connection:
            seq, _ = self._find(connection, record_id)
            assert connection is not None  # otherwise nothing was found
            if not self._file.has_table(connection, "gallery"):
                return []
            found = connection.execute("SELECT body FROM gallery WHERE record_seq = ? ORDER BY position", (seq,))

            @functools.cache
            def picture(digest: str) -> bytes | None:
                row = connection.execute("SELECT data FROM pictures WHERE digest = ?", (digest,)).fetchone()
                return row[0] if row else None

            return [parse_entry(body, picture) for (body,) in found.fetchall()]

    def keep_names(self, dataset_digest: str, names: ObjectNames) -> None:
        """Replace the kept names of a dataset's objects and images.

        Raises:
            StoreError: The store cannot be written.
        """
        with self._file.writing() as connection:
            values = (dataset_digest, names.to_json())
            connection.execute("INSERT OR REPLACE INTO object_names VALUES (?, ?)", values)

    def names(self, dataset_digest: str | None) -> ObjectNames | None:
        """Return the names kept for a dataset; None if an older version or another program kept none.

        Raises:
            StoreError: The store cannot be read, or the names are damaged.
        """
        with self._file.reading() as connection:
            if connection is None or not self._file.has_table(connection, "object_names"):
                return None
            query = "SELECT body FROM object_names WHERE dataset_digest = ?"
            found = connection.execute(query, (dataset_digest,)).fetchone()
            return None if found is None else parse_names(found[0])

    def get(self, prefix: str) -> Record:
        """Return the one record whose id is, or begins with, `prefix`.

        Raises:
            InputError: No record matches the id, or several do.
            StoreError: The store cannot be read.
        """
        with self._file.reading() as connection:
            return self._parse(self._find(connection, prefix)[1])

    def find(self, record_id: str) -> Record | None:
        """Return the record with exactly this id; None if there is none.

        Raises:
            StoreError: The store cannot be read.
        """
        with self._file.reading() as connection:
            if connection is None:
                return None
            found = connection.execute("SELECT body FROM records WHERE id = ?", (record_id,)).fetchone()
            return None if found is None else self._parse(found[0])

    def scores(self, record_id: str) -> list[ObjectScore]:
        """Return the scores kept with a record, by annotation id; empty if none were given.

        Args:
            record_id: The record's id, or its beginning.

        Raises:
            InputError: No record matches the id, or several do.
            StoreError: The store cannot be read.
        """
        with self._file.reading() as connection:
            seq, _ = self._find(connection, record_id)
            assert connection is not None  # otherwise nothing was found
            found = connection.execute(
                "SELECT image_id, annotation_id, area, iou, predicted_iou FROM object_scores "
                "WHERE record_seq = ? ORDER BY annotation_id",
                (seq,),
            )
            try:
                scores = [ObjectScore(_wide(image_id), _wide(key), *row) for image_id, key, *row in found]
                return sorted(scores, key=lambda score: score.annotation_id)
            except (InputError, TypeError) as error:
                raise StoreError(f"result store {self.path}: scores of {record_id} are damaged: {error}") from error

    def _find(self, connection: sqlite3.Connection | None, prefix: str) -> tuple[int, str]:
        prefix, found = storable(prefix), list[tuple[str, int, str]]()
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
        return read_record(self._json(body))

    def _measured(self, body: str) -> str:
        """Return a comparable text that identifies a record's measurement."""
        values = in_current_form(self._json(body))
        settings = values.get("settings") if isinstance(values, dict) else None
        if not isinstance(settings, dict):
            raise StoreError(f"result store {self.path} holds a record that is damaged: it has no settings")
        return json.dumps([[values.get(key) for key in _MEASURED], [settings.get(key) for key in _MEASURED_SETTINGS]])

    def _json(self, body: str) -> Any:
        try:
            return json.loads(body)
        except (TypeError, ValueError) as error:
            raise StoreError(f"result store {self.path} holds a record that is not JSON: {error}") from error


def _where(filters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return an SQL condition, for a connection with the function `matches`, and its values."""
    for name in filters:
        if name not in _COLUMNS:
            raise InputError(f"records have no filter {name!r}: {nearest(name, _COLUMNS)}")
    chosen = {name: storable(value) for name, value in filters.items() if value is not None}
    return " AND ".join(f"matches({name}, :{name})" for name in chosen) or "TRUE", chosen


def _matches(value: str | None, wanted: str) -> bool:
    """Compare literally first, so that a name with brackets matches itself."""
    return value is not None and (value == wanted or fnmatchcase(value, wanted))


def _narrow(key: int) -> int | bytes:
    """Return an id for SQLite; one beyond 64 bits becomes its digits in a blob, which no column converts."""
    return key if -(2**63) <= key < 2**63 else str(key).encode()


def _wide(key: int | bytes) -> int:
    return int(key)


def _score_row(score: ObjectScore) -> tuple[int | bytes, int | bytes, float, float, float | None]:
    """Return a score in table order and in Python's types: SQLite does not know numpy's. NaN becomes NULL."""
    predicted = None if score.predicted_iou is None else float(score.predicted_iou)
    return (
        _narrow(int(score.annotation_id)),
        _narrow(int(score.image_id)),
        float(score.area),
        float(score.iou),
        predicted,
    )
