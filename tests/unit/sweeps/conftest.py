"""A small sweep, and what it should come to."""

import pytest

from quantsam.results.store import ResultStore
from quantsam.sweeps.driver import run_sweep
from quantsam.sweeps.runners import LocalRunner
from quantsam.sweeps.sweep import read_sweep

FILE = """
name = "small"

[common]
data = "scenes:5:9"
calibration = "scenes:3:1"

[[runs]]
scheme = ["fp32", "int8", "w4a8"]
prompts = ["box", "click"]

[[runs]]
kind = "sensitivity"
scheme = "int4"
by = "stage"
method = "exact"
"""


def content(store):
    """All that must be the same, however a sweep was run: not the times."""
    found = {}
    for record in store.records():
        settings = {key: value for key, value in record.settings.items() if key != "sweep"}
        fields = (
            record.kind,
            record.model,
            record.scheme,
            record.plan_digest,
            record.prompt,
            record.calibration_digest,
        )
        found[record.id] = (fields, record.figures, settings, store.scores(record.id))
    assert len(found) == len(store.records())
    return found


@pytest.fixture(scope="session")
def sweep_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "small.toml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="session")
def undisturbed(sweep_file, tmp_path_factory):
    return done_undisturbed(sweep_file, tmp_path_factory)


def done_undisturbed(sweep_file, tmp_path_factory):
    store = ResultStore(tmp_path_factory.mktemp("undisturbed") / "r.sqlite")
    progress = run_sweep(read_sweep(sweep_file), store, lambda shelf: LocalRunner(shelf, workers=1))
    assert not progress.failed
    assert (len(progress.done), progress.left) == (7, 0)
    assert progress.pictures_done == progress.pictures == 35
    return content(store)
