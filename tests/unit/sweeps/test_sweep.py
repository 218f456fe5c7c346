"""Sweeps: what a file means, and that a sweep comes to the same however it is run."""

import dataclasses
import fcntl
import json
import sqlite3

import pytest
import torch

import quantsam as qs
from quantsam.errors import CalibrationError, InputError, QuantsamError, SchemeError, StoreError
from quantsam.results.store import ResultStore
from quantsam.sweeps import worker
from quantsam.sweeps.driver import run_sweep
from quantsam.sweeps.opened import check_point, open_points
from quantsam.sweeps.point import Point, make_point
from quantsam.sweeps.runners import LocalRunner
from quantsam.sweeps.state import SweepState
from quantsam.sweeps.sweep import expand, make_sweep, parse_settings, read_sweep, with_repeats
from quantsam.sweeps.worker import Shelf

from .conftest import content, done_undisturbed


@pytest.fixture(autouse=True, scope="module")
def _small(tiny):
    """In this process, nano is `tiny`: it is no matter what a sweep finds, if it always finds the same."""
    real = worker.open_model

    def opened(source):
        return tiny if source.name == "nano" else real(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_model", opened)
        yield


@pytest.fixture(scope="module")
def undisturbed(_small, sweep_file, tmp_path_factory):
    return done_undisturbed(sweep_file, tmp_path_factory)


def write(tmp_path, text):
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


def test_lists_stand_for_all_combinations(tmp_path):
    sweep = read_sweep(
        write(tmp_path, '[common]\nmodel = ["nano", "l0"]\n[[runs]]\nscheme = ["a", "b"]\n[[runs]]\nmodel = "l1"\n')
    )
    assert [(p.model, p.scheme) for p in sweep.points] == [
        ("nano", "a"), ("nano", "b"), ("l0", "a"), ("l0", "b"), ("l1", "fp32"),
    ]  # fmt: skip
    assert expand(parse_settings(["model=nano,l0", "scheme=a,b"]), "here") == list(sweep.points[:4])
    points = expand(parse_settings(["calibration_images=3", "images=1,2"]), "here")
    assert points[1] == Point(calibration_images=3, images=2)


def test_settings_replace_a_files_values(tmp_path):
    path = write(tmp_path, '[common]\nmodel = ["nano", "l0"]\n[[runs]]\nscheme = "a"\n[[runs]]\nscheme = "b"\n')
    sweep = read_sweep(path, parse_settings(["model=l1,l2", "images=7"]))
    assert [(p.model, p.scheme, p.images) for p in sweep.points] == [
        ("l1", "a", 7), ("l2", "a", 7), ("l1", "b", 7), ("l2", "b", 7),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"s\.toml, run 1: unknown key 'modell'"):
        read_sweep(path, parse_settings(["modell=l1"]))


def test_repeats_draw_other_calibration_images():
    sweep = make_sweep("s", [Point(scheme="int8", calibration_images=2), Point(scheme="int8")])
    points = with_repeats(sweep, 3).points
    assert [(p.calibration_images, p.calibration_seed) for p in points] == [(2, 0), (2, 1), (2, 2), (None, None)]
    assert [p.calibration_source.seed for p in points] == [0, 1, 2, 0]
    assert {p.data_source.seed for p in points} == {0}
    shelf = Shelf()
    opened = open_points([dataclasses.replace(p, data="scenes:1", calibration="scenes:40:1") for p in points], shelf, 1)
    assert len({one.identity for one in opened}) == 4
    with pytest.raises(InputError, match="got no run that takes a number of them: set calibration_images"):
        with_repeats(make_sweep("s", [Point()]), 2)


def test_an_observer_is_of_quantized_activations_alone():
    points = expand(parse_settings(["scheme=fp32,int8,mix-dwsc", "observer=omse,ptf", "data=scenes:1"]), "here")
    opened = open_points(points, Shelf(), 1)
    assert len({one.identity for one in opened}) == 5  # fp32 once
    schemes = {one.scheme.name: one.scheme for one in opened}
    assert set(schemes) == {"fp32", "int8:omse", "int8:ptf", "mix-dwsc:omse", "mix-dwsc:ptf"}
    assert schemes["int8:omse"].digest == qs.load_scheme("int8:omse").digest != qs.load_scheme("int8").digest
    with pytest.raises(SchemeError, match=r"the observer must be one of minmax.*, got 'omsee': did you mean 'omse'"):
        check_point(Point(scheme="int8", observer="omsee"))
    with pytest.raises(
        SchemeError, match="scheme 'int8:omse' names its observer itself, got observer 'ptf' too: leave one out"
    ):
        check_point(Point(scheme="int8:omse", observer="ptf"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("runs = 3", "'runs' must be a list"),
        ("nam = 'x'", "unknown key 'nam'"),
        ("threads = 0", "at least 1"),
        ("[common]\nmodell = 'nano'", "unknown key 'modell'.*'model'"),
        ("[[runs]]\ncalibration_images = 'many'", "'calibration_images' must be a whole number"),
        ("[[runs]]\nscheme = []", "empty list"),
        ("[[runs]]\nkind = 'evaluat'", "kind must be one of.*'evaluate'"),
        ("[[runs]]\nby = 'layer'", "'by' is of kind 'sensitivity'"),
        ("[[runs", "must be a readable TOML file"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_sweep(write(tmp_path, text))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "l9"}, "model must be one of"),
        ({"scheme": "imt8"}, "scheme"),
        ({"scheme": "int8@stage9"}, "must match a layer of nano"),
        ({"engine": "opnvino"}, "engine must be one of"),
        ({"engine": "openvino", "placement": "thesis"}, "placement of its own"),
        ({"engine": "onnxruntime", "scheme": "fp8_e4m3@neck"}, "must have a format of onnxruntime"),
        ({"precision": "bf16"}, "precision .* is of openvino"),
        ({"prompts": "boxes"}, "prompts must be"),
        ({"model": "l0", "scheme": "int8"}, "needs images"),
        ({"data": "scenes:x"}, "scenes are written"),
        ({"quantize": "none"}, "quantize must be one of"),
        ({"kind": "sensitivity", "by": "layr"}, "by must be one of"),
    ],
)
def test_what_cannot_run_is_found_before_anything_starts(tmp_path, values, words):
    points = [make_point({"data": "scenes:2"}, "here"), make_point({"data": "scenes:2", **values}, "here")]
    store = ResultStore(tmp_path / "r.sqlite")
    with pytest.raises(QuantsamError, match=words) as caught:
        run_sweep(make_sweep("s", points), store, lambda shelf: pytest.fail("started"))
    assert "cannot run" in str(caught.value)
    assert store.records() == []


def test_a_record_of_a_point_is_what_evaluate_gives(tiny, undisturbed):
    scenes = qs.open_dataset("scenes:5:9")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    plan = qs.calibrate(tiny, qs.make_plan(tiny, "int8"), qs.open_images("scenes:3:1"))
    alone = qs.evaluate(tiny.with_encoder(qs.simulate(tiny, plan)), scenes, prompts="click")
    torch.set_num_threads(before)
    fields = (alone.kind, alone.model, alone.scheme, alone.plan_digest, alone.prompt, alone.calibration_digest)
    found = next(one for one in undisturbed.values() if one[0] == fields)
    assert found[1] == alone.figures
    assert found[3] == sorted(alone.scores, key=lambda score: score.annotation_id)


def test_it_is_done_once(sweep_file, undisturbed, tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    run_sweep(read_sweep(sweep_file), store, lambda shelf: LocalRunner(shelf, workers=2))
    assert content(store) == undisturbed
    again = run_sweep(read_sweep(sweep_file), store, lambda shelf: pytest.fail("started"))
    assert (len(again.skipped), len(again.done)) == (7, 0)
    assert not (tmp_path / "r.sqlite-unfinished").exists()


def test_it_goes_on_where_it_was_stopped(sweep_file, undisturbed, tmp_path):
    class Stops(LocalRunner):
        def __init__(self, shelf, after):
            super().__init__(shelf, workers=2)
            self.after = after

        def next(self):
            self.after -= 1
            if self.after < 0:
                raise KeyboardInterrupt
            return super().next()

    store = ResultStore(tmp_path / "r.sqlite")
    stops = 0
    for after in (0, 2, 5, 9, 14, 1000):
        try:
            run_sweep(read_sweep(sweep_file), store, lambda shelf, after=after: Stops(shelf, after))
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 4
    assert content(store) == undisturbed


def test_a_failure_is_noted_and_stops_no_other(tmp_path, monkeypatch):
    points = [make_point({"data": "scenes:2", "prompts": prompts}, "here") for prompts in ("box", "click")]
    sweep, store = make_sweep("s", points), ResultStore(tmp_path / "r.sqlite")
    real = worker.Worker.score

    def breaks(self, job, image_ids):
        if job.point.prompts == "click":
            raise RuntimeError("out of\nmemory")
        return real(self, job, image_ids)

    monkeypatch.setattr(worker.Worker, "score", breaks)
    first = run_sweep(sweep, store, lambda shelf: LocalRunner(shelf, workers=1))
    assert [cause for _, cause in first.failed] == ["RuntimeError: out of memory"]
    assert [record.prompt for record in store.records()] == ["box"]
    monkeypatch.setattr(worker.Worker, "score", real)
    second = run_sweep(sweep, store, lambda shelf: pytest.fail("started"))
    assert [cause for _, cause in second.failed] == ["RuntimeError: out of memory"]
    third = run_sweep(sweep, store, lambda shelf: LocalRunner(shelf, workers=1), retry=True)
    assert not third.failed
    assert len(store.records()) == 2
    assert SweepState(store).failures() == {}


def test_a_scheme_that_cannot_be_calibrated_fails_alone(tmp_path, monkeypatch):
    from quantsam.plans import observation

    real = observation._check_varied

    def refuses(observer, key, count):
        if "depthwise0" in key:
            raise CalibrationError(f"values of {key} must vary")
        real(observer, key, count)

    monkeypatch.setattr(observation, "_check_varied", refuses)
    values = {"data": "scenes:2", "calibration": "scenes:2:1"}
    points = [make_point({**values, "scheme": scheme}, "here") for scheme in ("int8", "int8@neck", "fp32")]
    store = ResultStore(tmp_path / "r.sqlite")
    progress = run_sweep(make_sweep("s", points), store, lambda shelf: LocalRunner(shelf, workers=1))
    assert [point.scheme for point, _ in progress.failed] == ["int8"]
    assert {record.scheme for record in store.records()} == {"int8@neck", "fp32"}
    assert progress.pictures_done == progress.pictures == 4


def test_a_worker_with_other_data_refuses(tmp_path, monkeypatch):
    from quantsam.sweeps import opened

    real = opened.versions
    monkeypatch.setattr(opened, "versions", lambda point: {**real(point), "numpy": "0.1"})
    sweep = make_sweep("s", [make_point({"data": "scenes:2"}, "here")])
    store = ResultStore(tmp_path / "r.sqlite")
    progress = run_sweep(sweep, store, lambda shelf: LocalRunner(shelf, workers=1))
    assert "all workers must have the same numpy" in progress.failed[0][1]
    assert store.records() == []


def test_a_scheme_of_weights_alone_needs_no_pictures(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text('[[rules]]\nweight = "int8"\n')
    check_point(make_point({"model": "l0", "scheme": str(path)}, "here"))
    point = make_point({"data": "scenes:1", "scheme": str(path)}, "here")
    assert open_points([point], Shelf(), 1)[0].calibration is None


def test_points_of_other_calibrations_and_repairs_are_calibrated_apart(tiny, tmp_path):
    common = {"model": "nano", "scheme": "int8", "data": "scenes:1:2", "calibration": "scenes:3:1"}
    values = [{"calibration_images": 2}, {"calibration_images": 1}, {"calibration_images": 2, "repair": "streams"}]
    points = [make_point({**common, **more}, "test") for more in values]
    store = ResultStore(tmp_path / "r.sqlite")
    done = run_sweep(make_sweep("several", points), store).done
    records = {point: record for point, record, _ in done}
    assert len({records[point].plan_digest for point in points}) == 3
    assert [records[point].settings.get("repairs") for point in points] == [None, None, ["streams"]]
    assert records[points[2]].label == "int8 + streams"
    images = qs.open_images("scenes:3:1", limit=2)
    plan = qs.repair_plan(tiny, qs.make_plan(tiny, "int8"), images, "streams")
    assert records[points[2]].plan_digest == plan.digest


def test_a_full_disk_stops_the_sweep_and_loses_nothing(sweep_file, undisturbed, tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "r.sqlite")
    real = ResultStore.append

    def full(self, record, scores=None):
        if len(self.records()) == 2:
            raise StoreError("result store cannot be written: No space left on device")
        real(self, record, scores)

    monkeypatch.setattr(ResultStore, "append", full)
    with pytest.raises(StoreError, match="No space"):
        run_sweep(read_sweep(sweep_file), store, lambda shelf: LocalRunner(shelf, workers=1))
    monkeypatch.setattr(ResultStore, "append", real)
    assert len(store.records()) == 2
    run_sweep(read_sweep(sweep_file), store, lambda shelf: LocalRunner(shelf, workers=1))
    assert content(store) == undisturbed


def test_one_sweep_at_a_time(tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    sweep = make_sweep("s", [make_point({"data": "scenes:1"}, "here")])
    folder = tmp_path / "r.sqlite-sweep"
    folder.mkdir()
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process is sweeping into this store"):
            run_sweep(sweep, store, lambda shelf: pytest.fail("started"))


def test_a_newer_store_is_refused(tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    sweep = make_sweep("s", [make_point({"data": "scenes:1"}, "here")])
    run_sweep(sweep, store, lambda shelf: LocalRunner(shelf, workers=1))
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema version 99"):
        run_sweep(sweep, store, lambda shelf: pytest.fail("started"))


def test_damaged_failures_are_told(tmp_path):
    state = SweepState(ResultStore(tmp_path / "r.sqlite"))
    state.folder.mkdir()
    (state.folder / "failures.json").write_text(json.dumps([1]))
    with pytest.raises(StoreError, match=r"failures\.json is damaged"):
        state.failures()


def test_the_identity_is_of_all_that_counts():
    base = {"data": "scenes:2:1", "scheme": "int8", "calibration": "scenes:2:3"}
    changes = [
        {}, {"data": "scenes:2:2"}, {"scheme": "w8a16"}, {"calibration": "scenes:2:4"}, {"calibration_images": 1},
        {"seed": 3, "calibration_images": 1},
        {"prompts": "click"}, {"engine": "openvino"}, {"model": "nano-outlier"}, {"quantize": "weights"},
        {"kind": "sensitivity"}, {"placement": "openvino"}, {"images": 1},
    ]  # fmt: skip
    points = [make_point({**base, **change}, "here") for change in changes]
    shelf = Shelf()
    found = {one.identity for one in open_points(points, shelf, 1)}
    assert len(found) == len(points)
    assert found.isdisjoint(one.identity for one in open_points(points, shelf, 2))
    same = make_point({**base, "calibration": "scenes:2:3", "seed": 5}, "here")  # the seed chooses nothing here
    assert open_points([same], shelf, 1)[0].identity in found
