from contextlib import nullcontext

import numpy as np
import onnx
import pytest
import torch

from quantsam.diagnostics.departures import report_layers
from quantsam.engines.encoder import check_formats, check_runs, make_engine_encoder
from quantsam.engines.executed import executed, quantized_but_float
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.errors import EngineError, InputError, PlanError
from quantsam.notices import InexactWarning
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.repair.repair import repair_plan
from quantsam.runtime import sessions
from quantsam.runtime.engine import Engine
from quantsam.runtime.engines import check_engine, open_session
from quantsam.runtime.sessions import SessionOptions
from quantsam.schemes.load import parse_scheme
from quantsam.simulation.simulator import simulate

ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_computes_what_the_simulation_does(tiny, placed, images, engine):
    plan = placed("int8", engine)
    encoder = make_engine_encoder(tiny, plan, engine)
    with torch.inference_mode():
        expected = simulate(tiny, plan)(torch.cat(images))
        float_embedding = tiny.image_encoder(torch.cat(images))
        exact = simulate(tiny, plan, exact=True)(torch.cat(images))
    found = encoder(torch.cat(images))
    assert found.shape == expected.shape
    damage = (expected - float_embedding).square().mean()
    if engine == "onnxruntime":
        assert (found - exact).square().mean() < 0.05 * damage  # but for a GELU whose last bit moves a code
    else:  # codes that flip at ties spread far with random weights; test_weights_of_any_width looks layer by layer
        assert min((found - other).square().mean() for other in (expected, exact)) < 0.5 * damage


@pytest.mark.parametrize("engine", ENGINES)
def test_all_convolutions_run_in_integers(tiny, placed, convolutions, engine):
    encoder = make_engine_encoder(tiny, placed("int8", engine), engine)
    ran = executed(encoder.graph, encoder.session)
    assert len(ran) == convolutions
    assert all(entry.is_integer for entry in ran)
    assert quantized_but_float(encoder.plan, ran) == ()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mixed_scheme_runs_in_integers_where_it_says_so(tiny, placed, engine):
    plan = placed("mix-dwsc", engine)
    encoder = make_engine_encoder(tiny, plan, engine)
    planned = {site.key for site in plan.sites}
    for entry in executed(encoder.graph, encoder.session):
        assert entry.is_integer == (f"{entry.label}weight" in planned), entry


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_silently_run_in_float_is_told(tiny, placed, convolutions, engine):
    plan = placed("w8a16", engine)
    encoder = make_engine_encoder(tiny, plan, engine)
    ran = executed(encoder.graph, encoder.session)
    assert not any(entry.is_integer for entry in ran)
    assert len(quantized_but_float(plan, ran)) == convolutions


def test_onnx_runtime_needs_both_sides_of_a_convolution(tiny, images, convolutions):
    """The evidence for the placement's `conv` sites."""

    def integers(placement):
        plan = calibrate(tiny, make_plan(tiny, "int8", placement), images)
        graph = encoder_to_onnx(tiny, plan).SerializeToString()
        return sum(e.is_integer for e in executed(graph, open_session("onnxruntime", graph)))

    assert integers("onnxruntime") == convolutions
    assert integers("tensorrt") < 10  # inputs and weights alone


def test_layer_by_layer_exact_integers_are_onnx_runtime_to_the_last_code(tiny, placed, images, convolutions):
    reports = report_layers(tiny, placed("int8", "onnxruntime"), images[0], simulate)
    assert [r.operator for r in reports] == ["QLinearConv"] * convolutions
    local = [r for r in reports if not r.layer.startswith(("stage4", "neck"))]
    # convolutions and additions are the same to the last bit; the last bit of a GELU may move a code at a tie
    assert all(r.exact.most_lsb <= 1 and r.exact.differing < 1e-3 for r in local)
    assert sum(r.exact.most_lsb == 0 for r in local) > 0.75 * len(local) > 10


def _additions(plan, model, tmp_path):
    """What ONNX Runtime makes of a plan, and how many additions of it are in integers."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # that the file is for this processor
    session = InferenceSession(
        encoder_to_onnx(model, plan).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    return session, kinds.count("QLinearAdd")


@pytest.mark.parametrize("repairs", [(), ("streams", "ranges")])
def test_additions_run_in_integers_and_the_exact_simulation_computes_them(tiny, images, tmp_path, repairs):
    plan = make_plan(tiny, "int8", "onnxruntime+additions")
    calibrated = calibrate(tiny, plan, images)
    plan = repair_plan(tiny, calibrated, images, repairs) if repairs else calibrated
    count = sum(site.name == "shortcut" for site in plan.sites)
    session, in_integers = _additions(plan, tiny, tmp_path)
    assert in_integers == count > 5
    (found,) = session.run(None, {"image": images[0].numpy()})
    with torch.inference_mode():
        embedding = tiny.image_encoder(images[0])
        exact, simulated = (simulate(tiny, plan, exact=e)(images[0]) for e in (True, False))
    damage = (simulated - embedding).square().mean()
    assert (torch.from_numpy(found) - exact).square().mean() < 0.01 * damage  # but for a GELU at a tie


def test_a_sum_that_is_read_in_float_too_is_added_in_float(tiny, images, tmp_path):
    plan = calibrate(tiny, make_plan(tiny, "int8", "onnxruntime"), images)
    session, in_integers = _additions(plan, tiny, tmp_path)
    assert in_integers < 5
    (found,) = session.run(None, {"image": images[0].numpy()})
    with torch.inference_mode():
        exact = simulate(tiny, plan, exact=True)(images[0])
        damage = (exact - tiny.image_encoder(images[0])).square().mean()
    assert (torch.from_numpy(found) - exact).square().mean() < 0.05 * damage


def test_layer_by_layer_on_openvino(tiny, placed, images):
    reports = report_layers(tiny, placed("int8", "openvino"), images[0], simulate)
    assert all(r.is_integer and r.quantized for r in reports)
    assert reports[0].exact.most_lsb == 0  # nothing but the image's rounding is before it
    assert all(r.exact.most_lsb <= 1 for r in reports[:5])
    assert set(reports[0].to_json_dict()) >= {"layer", "operator", "precision", "fused", "exact"}


def test_a_plan_for_another_placement(tiny, placed):
    message = "a plan for openvino must have placement 'openvino' or 'openvino\\+vnni', got 'thesis': calibrate with"
    with pytest.raises(PlanError, match=message):
        make_engine_encoder(tiny, placed("int8", "thesis"), "openvino")
    with pytest.raises(PlanError, match=r"got 'openvino\+integer-bias'"):
        make_engine_encoder(tiny, placed("int8", "openvino+integer-bias"), "openvino")


def test_a_plan_that_is_not_calibrated(tiny):
    with pytest.raises(PlanError, match="plan must be calibrated"):
        make_engine_encoder(tiny, make_plan(tiny, "int8", "openvino"), "openvino")


def test_a_format_that_the_engine_lacks(tiny, images):
    plan = calibrate(tiny, make_plan(tiny, "int4@stage3:0:0", "onnxruntime"), images)
    with pytest.raises(PlanError, match=r"stage3:0:0/input must have a format of onnxruntime \(int8, .*got 'uint4'"):
        check_runs(plan, "onnxruntime")


def test_unknown_engines(tiny, placed):
    with pytest.raises(InputError, match="did you mean 'openvino'"):
        check_engine("openvinu")
    with pytest.raises(InputError, match="engine must be one of onnxruntime, openvino, tensorrt, web, got 'pytorch'"):
        check_runs(placed("int8", "openvino"), "pytorch")


def test_an_engine_that_is_not_installed(tiny, placed, monkeypatch):
    monkeypatch.setattr(sessions, "find_spec", lambda name: None)
    message = r"needs the package openvino, which is not installed: pip install 'quantsam\[openvino\]'"
    with pytest.raises(EngineError, match=message):
        make_engine_encoder(tiny, placed("int8", "openvino"), "openvino")


PTF = """
[[rules]]
weight = "int8"
activation = { format = "int8", observer = "ptf", per_channel = true }
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08" * 51])
def test_a_file_that_is_no_graph(engine, content, tmp_path):
    path = tmp_path / "encoder.onnx"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(EngineError, match=f"{engine} cannot run .*: export it for {engine}") as caught:
            open_session(engine, source)
        assert "\n" not in str(caught.value)


def test_precisions(tiny, placed, images):
    with pytest.raises(InputError, match="precision of onnxruntime must be 'f32'"):
        make_engine_encoder(tiny, placed("int8", "onnxruntime"), "onnxruntime", precision="bf16")
    with pytest.raises(InputError, match="openvino always rewrites the graph"):
        open_session("openvino", b"", SessionOptions(optimize=False))
    fast = make_engine_encoder(tiny, placed("int8", "openvino"), "openvino", precision="bf16")(images[0])
    assert np.isfinite(fast.numpy()).all()


def test_a_graph_that_fails_only_when_it_runs(tiny, placed, images):
    """ONNX Runtime finds out late that its integer kernel has no scale a channel."""
    from quantsam.engines.onnx_encoder import encoder_to_onnx

    graph = encoder_to_onnx(tiny, placed("int8", "openvino")).SerializeToString()
    session = open_session("onnxruntime", graph)
    with pytest.raises(EngineError, match="onnxruntime cannot run the graph") as caught:
        session.run({"image": images[0].numpy()})
    words = "input zero point must be a scalar or 1D tensor of size 1"
    assert words in str(caught.value)
    assert [scrap for scrap in ("ctType", "with ActType", "::", "/", "false") if scrap in str(caught.value)] == []


def test_a_scale_a_channel_is_refused_before_anything_is_calibrated(tiny):
    scheme = parse_scheme(PTF, "ptf")
    with pytest.raises(PlanError, match="/input must have one scale on onnxruntime, got one a channel with observer"):
        check_formats(make_plan(tiny, scheme, "onnxruntime").sites, "onnxruntime")
    check_formats(make_plan(tiny, scheme, "openvino").sites, "openvino")


@pytest.mark.parametrize(("engine", "widens"), [("onnxruntime", True), ("openvino", False)])
def test_a_plan_for_vnni_where_sums_saturate(tiny, placed, monkeypatch, engine, widens):
    monkeypatch.setattr("quantsam.engines.encoder.adds_in_32_bits", lambda name: False)
    opened = []
    real = Engine.open

    def opens(self, model, options):
        opened.append(options.wide_sums)
        return real(self, model, options)

    monkeypatch.setattr(Engine, "open", opens)
    with nullcontext() if widens else pytest.warns(InexactWarning):
        encoder = make_engine_encoder(tiny, placed("int8", f"{engine}+vnni"), engine)
    assert (opened[-1], encoder.exact) == (widens, widens)  # behind a probe, perhaps
    opened.clear()
    assert make_engine_encoder(tiny, placed("int8", engine), engine).exact
    assert opened == [False]
