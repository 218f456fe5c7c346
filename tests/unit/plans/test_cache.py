"""Calibrated plans are kept, and found again by all that determines them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import quantsam as qs
from quantsam.plans import cache
from quantsam.plans.cache import cached_plans, calibrate_once, clear_cached_plans
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.results.machine import environment


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans"


@pytest.fixture
def pictures(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return place


class Passes:
    """Counts how often images were gone through."""

    def __init__(self):
        self.count = 0

    def __call__(self, images, total):
        self.count += 1
        return images


def test_what_was_calibrated_once_is_not_calibrated_again(tiny, pictures):
    passes = Passes()
    plan = make_plan(tiny, "int8", "openvino")
    first = calibrate_once(tiny, plan, qs.open_images(pictures), progress=passes)
    again = calibrate_once(tiny, plan, qs.open_images(pictures), progress=passes)
    assert passes.count == 1
    assert first.digest == again.digest == calibrate(tiny, plan, qs.open_images(pictures)).digest
    assert again.calibration == first.calibration
    assert (again.scheme, again.scheme_digest) == (plan.scheme, plan.scheme_digest)
    assert cached_plans().count == 1
    assert cached_plans().size_bytes > 10_000


def test_everything_that_determines_a_plan_counts(tiny, make_tiny, pictures):
    passes = Passes()
    images = qs.open_images(pictures)
    calibrate_once(tiny, make_plan(tiny, "int8", "openvino"), images, progress=passes)
    other = make_tiny(8)
    calibrate_once(other, make_plan(other, "int8", "openvino"), images, progress=passes)  # weights
    calibrate_once(tiny, make_plan(tiny, "int8", "openvino+vnni"), images, progress=passes)  # placement
    calibrate_once(tiny, make_plan(tiny, "w8a16", "openvino"), images, progress=passes)  # scheme
    calibrate_once(tiny, make_plan(tiny, "int8", "openvino"), qs.open_images(pictures, limit=1), progress=passes)
    os.utime(pictures / "0.png", ns=(1, 1))  # changed at another time: its contents may be others
    calibrate_once(tiny, make_plan(tiny, "int8", "openvino"), qs.open_images(pictures), progress=passes)
    assert passes.count == cached_plans().count == 6


def test_images_that_cannot_be_told_apart_are_gone_through_each_time(tiny):
    passes = Passes()
    arrays = [np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)]
    for _ in range(2):
        calibrate_once(tiny, make_plan(tiny, "int8", "openvino"), arrays, progress=passes)
    assert (passes.count, cached_plans().count) == (2, 0)


def test_a_damaged_plan_is_made_anew(tiny, pictures, folder):
    plan, images = make_plan(tiny, "int8", "openvino"), qs.open_images(pictures)
    first = calibrate_once(tiny, plan, images)
    (kept,) = folder.iterdir()
    (kept / "params.safetensors").write_bytes(b"half")
    assert calibrate_once(tiny, plan, images).digest == first.digest
    assert qs.load_plan(kept, tiny).digest == first.digest


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("torch.get_num_threads", lambda: 97),
        ("_sources_stamp", lambda: "edited"),
        *(
            ("environment", lambda key=key: environment() | {key: "another"})
            for key in ("quantsam", "torch", "numpy", "machine", "instruction_sets")
        ),
    ],
    ids=range(7),
)
def test_the_key_sees_threads_versions_and_processor(tiny, monkeypatch, where, value):
    plan = make_plan(tiny, "int8", "openvino")
    before = cache._key(tiny, plan, "pictures", "stamp")
    assert cache._key(tiny, plan, "pictures", "stamp") == before
    assert cache._key(tiny, plan, "others", "stamp") != before
    monkeypatch.setattr(f"quantsam.plans.cache.{where}", value)
    assert cache._key(tiny, plan, "pictures", "stamp") != before


def test_a_cache_that_others_keep_can_be_read(tiny, pictures, monkeypatch):
    def refuses(place):
        raise PermissionError(1, "Operation not permitted", str(place))

    passes = Passes()
    plan, images = make_plan(tiny, "int8", "openvino"), qs.open_images(pictures)
    calibrate_once(tiny, plan, images, progress=passes)
    monkeypatch.setattr(cache.os, "utime", refuses)
    calibrate_once(tiny, plan, images, progress=passes)
    assert (passes.count, cached_plans().count) == (1, 1)


def test_what_is_no_cached_plan_is_left_alone(tiny, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    monkeypatch.setattr(cache, "MOST_PLANS", 1)
    mine = qs.save_plan(make_plan(tiny, "int8", "openvino"), tmp_path / "plans" / "mine")
    for scheme in ("int8", "int8@neck"):
        calibrate_once(tiny, make_plan(tiny, scheme, "openvino"), qs.open_images(pictures))
    assert cached_plans().count == 1
    assert clear_cached_plans() == 1
    assert [place.name for place in (tmp_path / "plans").iterdir()] == [mine.name]


def test_an_empty_variable_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "usual"))
    assert cached_plans().folder == tmp_path / "usual" / "quantsam" / "plans"


def test_the_ones_used_longest_ago_are_forgotten(tiny, pictures, folder, monkeypatch):
    monkeypatch.setattr(cache, "MOST_PLANS", 2)
    images = qs.open_images(pictures)
    plans = [make_plan(tiny, f"int8@stage{stage}:0", "openvino") for stage in range(3)]
    places = []
    for time, plan in enumerate(plans[:2], start=1):
        calibrate_once(tiny, plan, images)
        (place,) = set(folder.iterdir()) - set(places)
        os.utime(place, (time, time))
        places.append(place)
    calibrate_once(tiny, plans[0], images)  # used again, so the other one is older now
    calibrate_once(tiny, plans[2], images)
    assert places[0].is_dir()
    assert not places[1].exists()
    assert cached_plans().count == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tiny, pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for place in (str(tmp_path / "file"), "/proc/nowhere", "off"):
        monkeypatch.setenv(cache.VARIABLE, place)
        plan = calibrate_once(tiny, make_plan(tiny, "int8", "openvino"), qs.open_images(pictures))
        assert plan.is_calibrated
        assert cached_plans().count == 0


def test_two_processes_may_keep_the_same_plan(tmp_path):
    script = """
import quantsam as qs
from quantsam.plans.cache import calibrate_once
model = qs.load_model("nano")
print(calibrate_once(model, qs.make_plan(model, "int8@neck"), qs.open_images("scenes:2:1")).digest)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(qs.__file__).parents[1])}
    ran = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    digests = [process.communicate(timeout=300)[0] for process in ran]
    assert [process.returncode for process in ran] == [0, 0]
    assert digests[0] == digests[1]
    assert cached_plans().count == 1
    assert clear_cached_plans() == 1
    assert cached_plans().count == 0
