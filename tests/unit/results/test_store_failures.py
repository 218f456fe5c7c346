import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from quantsam.errors import StoreError
from quantsam.metrics.summary import ObjectScore
from quantsam.results.record import Record
from quantsam.results.store import ResultStore

from ...conftest import PATIENCE_S

PRELUDE = """
import functools, os, signal, sqlite3, sys
from quantsam.metrics.summary import ObjectScore
from quantsam.results.record import Record
from quantsam.results.store import ResultStore
def make(scheme):
    names = dict(model="L0", weights_digest="ab", dataset="d", dataset_digest="cd")
    return Record(scheme=scheme, figures={}, **names)
def scores(count):
    return [ObjectScore(1, i, 50.0, 0.5, 0.9) for i in range(count)]
"""


def make(scheme="int8", **changes):
    values = {"model": "L0", "weights_digest": "ab", "dataset": "scenes", "dataset_digest": "cd"}
    values["environment"] = {"torch": "2.4"}
    return Record(**{**values, "scheme": scheme, "figures": {"miou": 38.6, "count": 3}, **changes})


def scores(count):
    return [
        ObjectScore(image_id=i // 3, annotation_id=i, area=50.5, iou=i / count, predicted_iou=0.9) for i in range(count)
    ]


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results.sqlite", busy_timeout_s=10.0)


@pytest.fixture
def open_folder():
    """A folder below which another user may look, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def unprivileged():
    """Give up root's right to write anywhere, so that a read-only folder is one."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_two_processes_append_at_the_same_time(tmp_path):
    # Both create the store, and both write 10 records; "go" lets them begin together.
    code = PRELUDE + (
        "store = ResultStore(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(10): store.append(make(f'{sys.argv[2]}-{i}'), scores(20))"
    )
    path = tmp_path / "results.sqlite"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([sys.executable, "-c", code, path, name], **pipes) for name in "ab"]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=PATIENCE_S)
        assert worker.returncode == 0
    store = ResultStore(path)
    for name in "ab":
        assert [record.scheme for record in store.records(scheme=f"{name}-*")] == [f"{name}-{i}" for i in range(10)]
    assert all(len(store.scores(record.id)) == 20 for record in store.records())


def kill_in_the_middle(path):
    """Append from a process that is killed at COMMIT, after its pages were spilled into the file."""
    code = PRELUDE + (
        "class Killed(sqlite3.Connection):\n"
        "    def execute(self, sql, *args):\n"
        "        if sql == 'COMMIT': os.kill(os.getpid(), signal.SIGKILL)\n"
        "        if sql == 'BEGIN IMMEDIATE': super().execute('PRAGMA cache_size = 5')\n"
        "        return super().execute(sql, *args)\n"
        "sqlite3.connect = functools.partial(sqlite3.connect, factory=Killed)\n"
        "ResultStore(sys.argv[1]).append(make('half'), scores(5000))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Path(f"{path}-journal").stat().st_size > 0


def test_a_killed_append_leaves_the_complete_records_only(store):
    store.append(record := make(), scores(500))
    size_bytes = store.path.stat().st_size
    kill_in_the_middle(store.path)
    assert store.path.stat().st_size > size_bytes  # half of the record did reach the file
    assert store.records() == [record]
    assert store.scores(record.id) == scores(500)
    store.append(after := make("after"), scores(3))
    assert store.records() == [record, after]


def test_a_killed_append_in_a_read_only_folder_says_what_to_do(open_folder):
    store = ResultStore(open_folder / "results.sqlite")
    store.append(make(), scores(500))
    kill_in_the_middle(store.path)
    open_folder.chmod(0o555)
    with (
        unprivileged(),
        pytest.raises(StoreError, match="copy it and its -journal file to a writable folder"),
    ):
        store.records()


def test_a_read_only_store_can_be_read_and_not_written(open_folder):
    store = ResultStore(open_folder / "results.sqlite")
    store.append(record := make(), scores(3))
    store.path.chmod(0o444)
    open_folder.chmod(0o555)
    with unprivileged():
        assert store.records() == [record]
        assert store.scores(record.id) == scores(3)
        with pytest.raises(StoreError, match="read-only"):
            store.append(make())
        with pytest.raises(StoreError, match="read-only"):
            ResultStore(open_folder / "other.sqlite").append(make())
        with pytest.raises(StoreError, match="cannot be opened: Permission denied"):
            ResultStore(open_folder / "deep" / "other.sqlite").append(make())


def test_a_full_disk_keeps_nothing_of_the_record(store, monkeypatch):
    store.append(record := make())
    connect = sqlite3.connect

    def connect_to_a_small_disk(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 8")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_to_a_small_disk)
    with pytest.raises(StoreError, match="the disk is full"):
        store.append(make(), scores(5000))
    assert store.records() == [record]


def test_a_locked_store_says_so(store):
    store.append(make())
    impatient = ResultStore(store.path, busy_timeout_s=0.01)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked by another process"):
            impatient.append(make())
        assert len(impatient.records()) == 1  # who only reads need not wait for who writes


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have a header" * 50)
    before = path.read_bytes()
    for use in (ResultStore(path).records, lambda: ResultStore(path).append(make())):
        with pytest.raises(StoreError, match="is not a SQLite file"):
            use()
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    for use in (ResultStore(path).records, lambda: ResultStore(path).append(make())):
        with pytest.raises(StoreError, match="SQLite file of another program"):
            use()
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(store):
    store.append(make())
    with closing(sqlite3.connect(store.path)) as newer:
        newer.execute("PRAGMA user_version = 2")
    for use in (store.records, lambda: store.append(make())):
        with pytest.raises(StoreError, match="has schema version 2, this quantsam reads 1: upgrade quantsam"):
            use()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE records SET body = '{'", "holds a record that is not JSON"),
        ("UPDATE records SET body = '[]'", "a record must be a JSON object, got list"),
        ("UPDATE records SET body = x'ff'", "holds a record that is not JSON"),
        ("UPDATE records SET body = cast(x'ff' AS TEXT)", "cannot be used: Could not decode"),
        ("UPDATE object_scores SET iou = 7", "scores of .* are damaged: iou of annotation 0"),
        ("UPDATE object_scores SET iou = 'high'", "scores of .* are damaged"),
        ("DROP TABLE object_scores", "cannot be used: no such table"),
    ],
)
def test_damaged_content_is_one_clear_line(store, damage, message):
    store.append(record := make(), scores(2))
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        connection.execute(damage)
    read = store.records if "records" in damage else lambda: store.scores(record.id)
    with pytest.raises(StoreError, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_folders_and_files_in_the_way_are_store_errors(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be opened for this: it is a folder"):
        ResultStore(tmp_path).records()
    with pytest.raises(StoreError, match="it is a folder"):
        ResultStore(tmp_path).append(make())
    with pytest.raises(StoreError, match=r"cannot be opened: (File exists|Not a directory)"):
        ResultStore(tmp_path / "file" / "results.sqlite").append(make())
