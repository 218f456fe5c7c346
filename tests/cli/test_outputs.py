"""Places that cannot be written, full disks, Ctrl-C: the old content stays, nothing half-written remains."""

import errno
import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest

from quantsam.cli import demo
from quantsam.data.open import open_dataset, open_images
from quantsam.evaluation.evaluator import journals_of
from quantsam.results.store import ResultStore

from ..conftest import PATIENCE_S

ONE = ("--calibration", "scenes:1:1")


def refuse(*args, **kwargs):
    pytest.fail("the place must be looked at before the work")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["calibrate", *ONE, "--out", "{}/file"], ["a file of that name is there"]),
        (["calibrate", *ONE, "--out", "{}/file/deep/plan"], ["is a file, not a folder"]),
        (["calibrate", *ONE, "--out", "{}/full"], ["holds other files"]),
        (["calibrate", *ONE, "--out", "{}/loop"], ["loop"]),
        (["demo", "--scenes", "1", "--out", "{}/file"], ["is a file, not a folder", "--out"]),
        (["demo", "--scenes", "1", "--out", "{}/file/deep"], ["is a file, not a folder", "--out"]),
        (["data", "scenes", "{}/file"], ["a file of that name is there"]),
        (["data", "scenes", "{}/file/deep"], ["is a file, not a folder"]),
        (["data", "scenes", "{}/full"], ["holds other files"]),
    ],
)
def test_places_that_cannot_be_written(run, tmp_path, left, monkeypatch, line, words):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setattr("quantsam.runs.run.load_model", refuse)
    before = left(tmp_path)
    run(*(part.format(tmp_path) for part in line)).complains(1, *words)
    assert left(tmp_path) == before


@pytest.mark.parametrize("where", ["file", "absent"])
def test_an_export_that_cannot_be_written(run, tmp_path, left, where):
    (tmp_path / "file").touch()
    run("results", "--export", tmp_path / where / "r.csv").complains(1, "cannot write", "there is no folder")
    assert left(tmp_path) == ["file"]


def fail_in(monkeypatch, where, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(where, fail)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
STOPS = [(FULL, 1, "No space left on device"), (KeyboardInterrupt(), 130, "interrupted")]


@pytest.mark.parametrize(("error", "code", "word"), STOPS)
def test_stopped_while_saving_a_plan(run, plan, tmp_path, left, monkeypatch, error, code, word):
    out = tmp_path / "deep" / "plan"
    with monkeypatch.context() as patch:
        fail_in(patch, "pathlib.Path.write_bytes", error)
        run("calibrate", *ONE, "--out", out).complains(code, word)
    assert left(tmp_path) == []
    run("calibrate", "--scheme", "int8@neck", *ONE, "--out", out)
    old = (out / "plan.json").read_bytes()
    with monkeypatch.context() as patch:
        fail_in(patch, "pathlib.Path.write_bytes", error)
        run("calibrate", *ONE, "--out", out).complains(code, word)
    assert left(tmp_path) == ["deep", "deep/plan", "deep/plan/params.safetensors", "deep/plan/plan.json"]
    assert (out / "plan.json").read_bytes() == old


def test_interrupted_while_calibrating(run, tmp_path, left, monkeypatch):
    fail_in(monkeypatch, "quantsam.plans.observation.encoder_input", KeyboardInterrupt())
    run("calibrate", *ONE, "--out", tmp_path / "plan").complains(130, "interrupted")
    assert left(tmp_path) == []


@pytest.mark.parametrize(("error", "code", "word"), STOPS)
def test_stopped_while_writing_scenes(run, tmp_path, left, monkeypatch, error, code, word):
    fail_in(monkeypatch, "PIL.Image.Image.save", error)
    run("data", "scenes", tmp_path / "toy", "--count", "2").complains(code, word)
    assert left(tmp_path) == []


@pytest.mark.parametrize("suffix", ["csv", "parquet", "md", "json"])
@pytest.mark.parametrize(("error", "code", "word"), STOPS)
def test_stopped_while_exporting(run, tmp_path, left, monkeypatch, suffix, error, code, word):
    target = tmp_path / f"r.{suffix}"
    target.write_text("old")

    def fail(records, path):
        path.write_text("half")
        raise error

    monkeypatch.setattr("quantsam.results.export._WRITERS", {f".{suffix}": fail})
    run("results", "--export", target).complains(code, word)
    assert left(tmp_path) == [target.name]
    assert target.read_text() == "old"


def test_interrupted_in_the_second_scheme_keeps_the_first(run, own_store, monkeypatch):
    fail_in(monkeypatch, "quantsam.simulation.simulator.SimulatedEncoder.forward", KeyboardInterrupt())
    ran = run("evaluate", "--data", "scenes:1", "--scheme", "fp32", "--scheme", "int8", *ONE)
    ran.complains(130, "interrupted")
    assert [record.scheme for record in ResultStore(own_store).records()] == ["fp32"]
    unfinished = own_store.with_name("results.sqlite-unfinished")
    assert {path.name for path in own_store.parent.iterdir()} == {own_store.name, unfinished.name}
    assert len(list(unfinished.iterdir())) == 1  # the second scheme's, to go on from


def test_interrupted_while_storing(run, own_store, monkeypatch):
    run("evaluate", "--data", "scenes:1")
    with monkeypatch.context() as patch:
        fail_in(patch, "quantsam.results.database.Database._has_schema", KeyboardInterrupt())
        run("evaluate", "--data", "scenes:1").complains(130, "interrupted")
    assert len(run("results", "--json").json) == 1


def test_a_real_signal_while_evaluating(start, run, tmp_path, own_store):
    run("evaluate", "--data", "scenes:1")
    process = start("evaluate", "--data", "scenes:100000", "--scheme", "int8", *ONE)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not any(journals_of(ResultStore(own_store)).glob("*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, ""), err
    assert (
        err
        == "quantsam: interrupted; nothing half-written was left behind, and the same command goes on where it was\n"
    )
    assert len(ResultStore(own_store).records()) == 1


def test_a_real_signal_while_writing_scenes(start, tmp_path, left):
    process = start("data", "scenes", tmp_path / "toy", "--count", "100000")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not any(tmp_path.rglob("*.png")):
        time.sleep(0.05)
    assert any(tmp_path.rglob("*.png"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err.count("\n")) == (130, 1), err
    assert left(tmp_path) == []


def test_scenes_are_written_as_coco_is(run, tmp_path, left):
    ran = run("data", "scenes", tmp_path / "toy", "--count", "2", "--seed", "5", "--size", "64", "--split", "train2017")
    assert (ran.code, ran.out, ran.err) == (0, f"{tmp_path / 'toy'}: 2 scenes of seed 5, 64 px\n", "")
    assert [name for name in left(tmp_path) if Path(name).suffix] == [
        "toy/annotations/instances_train2017.json",
        "toy/train2017/000000000001.png",
        "toy/train2017/000000000002.png",
    ]


@pytest.fixture
def short_demo(monkeypatch, tiny_nano):
    """A demonstration of seconds."""
    monkeypatch.setattr("quantsam.cli.demo.CALIBRATION", "scenes:2:1")
    monkeypatch.setattr("quantsam.cli.demo.HARD", "nano")
    monkeypatch.setattr("quantsam.cli.demo.installed_engines", lambda: ("openvino",))


@pytest.mark.parametrize("engines", [("openvino",), ()])
def test_the_demonstration_repairs_on_an_engine_or_without(tiny, tmp_path, monkeypatch, engines):
    monkeypatch.setattr("quantsam.cli.demo.installed_engines", lambda: engines)
    store = ResultStore(tmp_path / "results.sqlite")
    found = demo._repaired(tiny, open_images("scenes:2:1"), open_dataset("scenes:2:2"), store)
    assert [(record.scheme, record.engine) for record in found] == [
        (scheme, engines[0] if engines else "pytorch") for scheme in ("fp32", "int8", "int8")
    ]
    assert len({record.plan_digest for record in found}) == 3  # the last one is repaired
    assert len(store.records()) == 3


def test_demo(run, tmp_path, left, short_demo):
    found = run("demo", "--scenes", "2", "--out", tmp_path / "demo", "--json")
    schemes = ["fp32", "int8", "mix-dwsc", "mix-mbc-neck"]
    assert [record["scheme"] for record in found.json] == [*schemes, *schemes, "fp32", "int8", "int8"]
    assert found.err.endswith(f"report: {tmp_path / 'demo' / 'report.html'}   open it in a browser\n")
    assert left(tmp_path) == ["demo", "demo/report.html", "demo/results.sqlite"]
    kinds = {r.kind for r in ResultStore(tmp_path / "demo" / "results.sqlite").records()}
    assert kinds == {"evaluate", "sensitivity", "distributions", "agree"}
    page = (tmp_path / "demo" / "report.html").read_text("utf-8")
    for part in ("Schemes compared", "Masks, before and after", "Which layers hurt", "How values are distributed"):
        assert part in page
    for pair in ("The layers that hurt most in int8, and after", "Values that are hard to quantize in int8, and after"):
        assert pair in page


def test_demo_without_what_draws_reports(run, tmp_path, left, short_demo, monkeypatch):
    found, absent = importlib.util.find_spec, ("altair", "openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name in absent else found(name, *more))
    monkeypatch.setattr("quantsam.cli.demo._study", lambda *args: None)  # takes longest, and is of no matter here
    ran = run("demo", "--scenes", "1", "--out", tmp_path / "demo")
    assert "pip install 'quantsam[report]'" in ran.out
    assert left(tmp_path) == ["demo", "demo/results.sqlite"]


def test_an_interrupted_demo_keeps_what_is_done(run, tmp_path, left, short_demo, monkeypatch):
    fail_in(monkeypatch, "quantsam.sensitivity.study.measure_sensitivity", KeyboardInterrupt())
    ran = run("demo", "--scenes", "1", "--out", tmp_path / "demo")
    assert ran.code == 130
    assert "interrupted" in ran.err
    assert left(tmp_path) == ["demo", "demo/results.sqlite"]
    kinds = [record.kind for record in ResultStore(tmp_path / "demo" / "results.sqlite").records()]
    assert kinds == ["evaluate"] * 6 + ["agree"]  # four schemes, and two on an engine
