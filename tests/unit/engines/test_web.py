"""ONNX Runtime Web in headless Chromium computes what ONNX Runtime does on the desktop."""

import queue
import threading
from importlib import resources

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import quantsam as qs
from quantsam.engines.encoder import make_engine_encoder
from quantsam.engines.executed import executed
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.errors import EngineError
from quantsam.evaluation.latency import measure_latency
from quantsam.runtime.engines import installed_engines, open_session, surroundings
from quantsam.runtime.processor import PROBE, PROBE_SHAPE, adds_in_32_bits
from quantsam.runtime.sessions import SessionOptions
from quantsam.runtime.web import browser

INPUT = "image"


@pytest.fixture(scope="module")
def plan(placed):
    return placed("int8", "onnxruntime")


@pytest.fixture(scope="module")
def graph(tiny, plan):
    return encoder_to_onnx(tiny, plan).SerializeToString()


@pytest.fixture(scope="module")
def session(web, graph):
    return open_session(web, graph, SessionOptions(1))


def test_products_are_added_in_32_bits(web):
    probe = resources.files("quantsam.runtime").joinpath(PROBE).read_bytes()
    found = open_session(web, probe, SessionOptions(1)).run({"in": np.ones(PROBE_SHAPE, np.float32)})
    np.testing.assert_array_equal(found["out"], np.full_like(found["out"], 32.0))
    assert adds_in_32_bits(web)


def test_every_code_is_onnx_runtimes(web, tiny, plan, images):
    shown = encoder_to_onnx(tiny, plan)
    sites = [site for site in plan.sites if site.role == "activation"]
    for site in sites:
        shown.graph.output.append(helper.make_tensor_value_info(site.key, onnx.TensorProto.FLOAT, None))
    sessions = [open_session(name, shown.SerializeToString(), SessionOptions(1)) for name in ("onnxruntime", web)]
    desktop, page = (session.run({INPUT: images[0].numpy()}) for session in sessions)
    assert len(sites) > 80
    for site in sites:
        scale = float(site.params.scale)
        steps = np.abs(desktop[site.key] - page[site.key]) / scale
        assert steps.max() < 1.01, site.key
        assert (steps > 0.5).mean() < 1e-3, site.key  # a tie, where the float part differs in its last bit
    np.testing.assert_allclose(page["embedding"], desktop["embedding"], atol=1e-4)


def test_it_runs_the_same_convolutions_in_integers(web, tiny, plan, graph, session):
    desktop = open_session("onnxruntime", graph, SessionOptions(1))
    assert executed(graph, session) == executed(graph, desktop)
    assert all(entry.is_integer for entry in executed(graph, session))


def test_types_threads_and_callers(web, tiny, graph, session, images):
    feeds = {INPUT: images[0].numpy()}
    first = session.run(feeds)["embedding"]
    assert (first.dtype, first.shape) == (np.float32, (1, tiny.variant.embed_dim, 16, 16))
    assert session.own_ms > 0
    two = open_session(web, graph, SessionOptions(2))
    assert (session.threads, two.threads) == (1, min(2, torch.multiprocessing.cpu_count()))
    np.testing.assert_allclose(two.run(feeds)["embedding"], first, atol=1e-5)
    found = []
    caller = threading.Thread(target=lambda: found.append(session.run(feeds)["embedding"]))
    caller.start()
    caller.join()
    np.testing.assert_array_equal(found[0], first)


def test_a_profile_names_the_layers(web, graph, images):
    profiled = open_session(web, graph, SessionOptions(1, profile=True))
    rounds = profiled.profile({INPUT: images[0].numpy()}, warm_up=1, rounds=2)
    assert len(rounds) == 2
    assert any(name.startswith("stage3:0:0/convolution") and spent >= 0 for name, spent in rounds[0])


def test_what_it_cannot_run_is_said_in_a_line(web, session):
    with pytest.raises(EngineError, match=r"^web cannot run the graph \(Failed to load model .*\): export it for web$"):
        open_session(web, b"no graph")
    with pytest.raises(EngineError, match=r"^web cannot run the graph \(Got invalid dimensions for input: image"):
        session.run({INPUT: np.zeros((1, 3, 8, 64), np.float32)})


@pytest.mark.slow
def test_agreement_evaluation_and_latency(web, tiny, plan):
    dataset = qs.SceneDataset(2, seed=3, size=64)
    records = qs.measure_agreement(tiny, [plan, plan], dataset, engines=["onnxruntime", web])
    assert [record.engine for record in records] == ["onnxruntime", web]
    assert list(records[1].between) == ["onnxruntime"]
    assert records[1].figures["between_onnxruntime_mask_iou"] > 99.9
    assert records[1].figures["convolutions_integer"] == records[1].figures["convolutions_quantized"] == 53
    assert records[1].environment[web].startswith("onnxruntime-web 1.")
    assert "Chromium" in surroundings(web)[web]
    record = qs.evaluate(tiny.with_encoder(make_engine_encoder(tiny, plan, web, threads=1)), dataset)
    assert (record.engine, record.placement) == (web, "onnxruntime")
    assert record.environment[web] == surroundings(web)[web]
    found = measure_latency(tiny, [(web, plan)], rounds=1, warm_up=0)
    assert (found[0].engine, found[0].precision) == (web, "f32")


def test_no_command_starts_it_unasked(web):
    assert web not in installed_engines()


def test_playwright_is_an_extra(monkeypatch):
    monkeypatch.setattr(browser, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"'web' needs the package playwright, .*: pip install 'quantsam\[web\]'"):
        open_session("web", b"")


@pytest.mark.slow
def test_a_browser_that_died_is_followed_by_another(web, graph, images):
    before = open_session(web, graph, SessionOptions(1))
    browser.shared_browser().call(lambda running: running.close())
    with pytest.raises(EngineError, match="web cannot run the graph"):
        before.run({INPUT: images[0].numpy()})
    assert open_session(web, graph, SessionOptions(1)).run({INPUT: images[0].numpy()})["embedding"].any()


def test_who_waits_is_told_when_the_thread_dies(web, monkeypatch):
    def dies(_):
        raise SystemExit

    monkeypatch.setattr(browser, "_launched", dies)
    with pytest.raises(EngineError, match=r"playwright does not start \(SystemExit\(\)\)"):
        browser.Browser()
    running = browser.Browser.__new__(browser.Browser)
    running._asked, running._thread = queue.SimpleQueue(), threading.Thread()
    with pytest.raises(EngineError, match="the browser of engine web is gone"):
        running.call(lambda _: None)
