"""A new engine is one file and one line in the registry: everything that takes engines takes it."""

import sys

import pytest
import torch

import quantsam as qs
from quantsam.engines.encoder import make_engine_encoder
from quantsam.errors import PlanError
from quantsam.evaluation.evaluator import evaluate
from quantsam.evaluation.latency import measure_latency
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.repair.calibrated import calibrated_plans
from quantsam.runtime import engines
from quantsam.runtime.bundle import load_bundle
from quantsam.runtime.engines import check_engine, engine_names, placement_of
from quantsam.schemes.load import load_scheme, parse_scheme
from quantsam.simulation.simulator import simulate

from . import plain_onnxruntime


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(sys.modules, plain_onnxruntime.__name__, plain_onnxruntime)
    monkeypatch.setitem(engines.ENGINES, "plain", plain_onnxruntime.ENGINE)


@pytest.fixture
def plan(tiny):
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return calibrate(tiny, make_plan(tiny, "int8", placement_of("plain")), [image])


def test_it_is_known_by_name():
    check_engine("plain")
    assert "plain" in engine_names(on_processor=True)
    assert placement_of("plain", vnni=True) == "onnxruntime"  # its sums never saturate: it runs in float


def test_it_computes_what_the_simulation_does(tiny, plan):
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    encoder = make_engine_encoder(tiny, plan, "plain", threads=1)
    with torch.inference_mode():
        expected = simulate(tiny, plan)(image)
    off = (encoder(image) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert off < 0.05  # as written, but for ties
    record = evaluate(tiny.with_encoder(encoder), qs.SceneDataset(1, seed=3, size=64))
    assert (record.engine, record.placement) == ("plain", "onnxruntime")


def test_it_is_timed_and_exported_for(tiny, plan, tmp_path):
    found = measure_latency(tiny, [("plain", plan)], rounds=1, warm_up=0)
    assert (found[0].engine, found[0].precision) == ("plain", "f32")
    manifest = qs.export_bundle(tiny, plan, tmp_path / "bundle", engine="plain")
    assert manifest.engine == "plain"
    load_bundle(tmp_path / "bundle")


def test_its_formats_are_refused_by_name(tiny):
    narrow = parse_scheme('[[rules]]\nweight = "int4"', default_name="w4")
    plan = calibrated_plans(tiny, [narrow], (), "onnxruntime", activations=False)[0]
    with pytest.raises(PlanError, match=r"must have a format of plain \(int8, uint8\), got 'int4'"):
        make_engine_encoder(tiny, plan, "plain")
    thesis = calibrated_plans(tiny, [load_scheme("int8")], (), "thesis", activations=False)[0]
    with pytest.raises(PlanError, match="a plan for plain must have placement 'onnxruntime', got 'thesis'"):
        make_engine_encoder(tiny, thesis, "plain")
