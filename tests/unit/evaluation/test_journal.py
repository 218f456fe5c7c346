"""A stopped evaluation goes on where it stopped."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from quantsam.data.scenes import SceneDataset
from quantsam.errors import StoreError
from quantsam.evaluation import journal as journal_module
from quantsam.evaluation.evaluator import evaluate, journals_of
from quantsam.evaluation.journal import open_journal
from quantsam.results.store import ResultStore

SCENES = SceneDataset(6, size=64)


@contextmanager
def stopped(folder, subject="a"):
    """A journal that is left as by an exception: the file stays."""
    with suppress(ZeroDivisionError), open_journal(folder, {"subject": subject}) as journal:
        yield journal
        raise ZeroDivisionError


def write(folder, ids):
    with stopped(folder) as journal:
        for image_id in ids:
            journal.append({"image_id": image_id, "rows": [[image_id, 0.1]]})


def test_outcomes_come_back_and_a_finished_journal_is_removed(tmp_path):
    write(tmp_path / "deep", [3, 1])
    with open_journal(tmp_path / "deep", {"subject": "a"}) as journal:
        assert journal.done == {1, 3}
        journal.append({"image_id": 2, "rows": []})
        assert [o["image_id"] for o in journal.outcomes()] == [3, 1, 2]
    assert not (tmp_path / "deep").exists()


def test_another_subject_has_another_journal(tmp_path):
    write(tmp_path, [1])
    with open_journal(tmp_path, {"subject": "b"}) as journal:
        assert journal.done == set()
    assert len(list(tmp_path.iterdir())) == 1  # the first one's


def test_whatever_of_the_file_was_written_whole_lines_are_kept(tmp_path):
    write(tmp_path, [1, 2, 3])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with stopped(tmp_path) as journal:
            kept = sum(end <= cut for end in ends[1:])
            assert journal.done == set(range(1, kept + 1))
            journal.append({"image_id": 9, "rows": []})
            assert [o["image_id"] for o in journal.outcomes()] == [*range(1, kept + 1), 9]


def test_rubbish_in_the_middle_ends_what_is_believed(tmp_path):
    write(tmp_path, [1, 2])
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1], b"[1]\n", lines[2]]))
    with open_journal(tmp_path, {"subject": "a"}) as journal:
        assert journal.done == {1}


def test_two_processes_at_one_evaluation_is_refused(tmp_path):
    with (
        open_journal(tmp_path, {}),
        pytest.raises(StoreError, match="another process is at this very evaluation"),
        open_journal(tmp_path, {}),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"the folder .* cannot be made: File exists; choose another store"),
        open_journal(tmp_path / "file", {}),
    ):
        pass


def test_opening_never_tries_for_ever(tmp_path, monkeypatch):
    """Whatever a file system says of a file that should be there, there is an end to it."""
    with pytest.raises(StoreError, match=r"the folder /proc/journals cannot be made: .*choose another store"):
        journal_module._open_locked(Path("/proc/journals"), Path("/proc/journals/a.jsonl"))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "a.jsonl")
    with pytest.raises(StoreError, match="vanished 100 times while it was opened"):
        journal_module._open_locked(tmp_path, tmp_path / "dangling")
    real, numbers = os.fstat, itertools.count(1)  # an inode of another number whenever it is asked for
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", lambda fd: os.stat_result((real(fd)[0], -next(numbers), *real(fd)[2:])))
        with pytest.raises(StoreError, match="vanished 100 times while it was opened"):
            journal_module._open_locked(tmp_path, tmp_path / "a.jsonl")


def test_a_file_system_without_locks_is_not_another_process(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(journal_module.fcntl, "flock", no_locks)
    with (
        pytest.raises(StoreError, match=r"cannot be locked \(No locks available\): choose a store on a file system"),
        open_journal(tmp_path, {}),
    ):
        pass


class Stopping:
    """Progress that stops an evaluation before a given picture."""

    def __init__(self, after):
        self.after = after

    def __call__(self, items, total):
        for index, item in enumerate(items):
            if index == self.after:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("prompts", ["box", "clicks:2"])
def test_figures_after_any_number_of_stops_are_those_without_a_stop(tiny, tmp_path, prompts):
    whole = evaluate(tiny, SCENES, prompts=prompts)
    store = ResultStore(tmp_path / "results.sqlite")
    for steps in (0, 1, 2, 1):
        with pytest.raises(KeyboardInterrupt):
            evaluate(tiny, SCENES, prompts=prompts, store=store, progress=Stopping(steps))
    seen = []
    record = evaluate(tiny, SCENES, prompts=prompts, store=store, progress=lambda i, n: (seen.append(n), i)[1])
    assert seen == [2]
    assert record.figures == whole.figures
    assert record.scores == whole.scores
    assert not journals_of(store).exists()
    assert [kept.id for kept in store.records()] == [record.id]


def test_a_record_that_cannot_be_kept_leaves_its_journal(tiny, tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "results.sqlite")

    def fails(self, record):
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "append", fails)
        with pytest.raises(StoreError, match="the disk is full"):
            evaluate(tiny, SCENES, store=store)
    assert len(list(journals_of(store).iterdir())) == 1
    evaluate(tiny, SCENES, store=store, progress=Stopping(0))  # nothing was left to do
    assert len(store.records()) == 1


_PROGRAM = """
import json, sys
from quantsam import ResultStore, SceneDataset, evaluate, load_model
from pathlib import Path
record = evaluate(load_model("nano"), SceneDataset(60, seed=9), store=ResultStore(sys.argv[1]))
scores = [[s.image_id, s.annotation_id, s.iou, s.predicted_iou] for s in record.scores]
Path(sys.argv[2]).write_text(json.dumps([record.figures, scores]))
"""


@pytest.mark.slow
def test_killed_at_ten_random_places_it_gives_the_same_figures(tmp_path):
    whole, pieces, store = tmp_path / "whole", tmp_path / "pieces", ResultStore(tmp_path / "pieces.sqlite")
    journals = journals_of(store)

    def command(path, out):
        return [sys.executable, "-c", _PROGRAM, str(path), str(out)]

    subprocess.run(command(tmp_path / "whole.sqlite", whole), check=True)
    places = sorted(random.Random(4).sample(range(1, 60), 10))
    for place in places:
        process = subprocess.Popen(command(store.path, pieces))
        while process.poll() is None and _lines(journals) < place:
            time.sleep(0.005)
        assert process.poll() is None, "it was done before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not pieces.exists()
        assert _lines(journals) >= place
    subprocess.run(command(store.path, pieces), check=True)
    (figures, scores), (expected, one_by_one) = json.loads(pieces.read_text()), json.loads(whole.read_text())
    assert figures == expected
    assert [score[:3] for score in scores] == [score[:3] for score in one_by_one]
    # rarely the matrix library sums in another order, which the last bit shows
    np.testing.assert_allclose([s[3] for s in scores], [s[3] for s in one_by_one], rtol=1e-5)


def _lines(folder):
    """Whole outcomes in the only journal of a folder."""
    files = list(folder.glob("*.jsonl")) if folder.exists() else []
    text = files[0].read_bytes() if files else b""
    return sum("image_id" in json.loads(line) for line in text.split(b"\n")[1:-1])
