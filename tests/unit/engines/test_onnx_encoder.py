import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from quantsam.engines.onnx_encoder import encoder_to_onnx, save_onnx
from quantsam.errors import OutputError, PlanError
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.quant.quantizers import quantize
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions
from quantsam.simulation.simulator import simulate

PLACEMENTS = ("thesis", "onnxruntime", "openvino", "tensorrt")


def as_written(graph, image):
    """What a graph gives node by node, without an engine's rewriting."""
    session = open_session("onnxruntime", graph.SerializeToString(), SessionOptions(1, optimize=False))
    return session.run({"image": image.numpy()})


def passing(encoder, sites, image):
    seen = {}
    for site in sites:
        encoder.encoder.get_submodule(site.path).register_forward_hook(
            lambda module, inputs, output, key=site.key: seen.update({key: output.clone()})
        )
    with torch.inference_mode():
        encoder(image)
    return seen


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("scheme", ["int8", "mix-dwsc", "w8a16"])
def test_every_site_is_as_in_the_simulation(tiny, placed, images, scheme, placement):
    """To float rounding: a value on a tie may go the other way, and so may what depends on it."""
    plan = placed(scheme, placement)
    sites = [site for site in plan.sites if site.role == "activation"]
    graph = encoder_to_onnx(tiny, plan)
    onnx.checker.check_model(graph, full_check=True)
    for site in sites:
        graph.graph.output.append(helper.make_tensor_value_info(site.key, TensorProto.FLOAT, None))
    found = as_written(graph, images[0])
    expected = passing(simulate(tiny, plan, fused=False), sites, images[0])
    assert len(expected) == len(sites) >= 33
    limit = 2e-3 if scheme == "w8a16" else 2e-2
    for number, site in enumerate(sites):
        off = (expected[site.key] - torch.from_numpy(found[site.key])).abs().mean()
        assert off <= (limit if number > 10 else 1e-3) * expected[site.key].abs().mean(), site.key


def test_the_float_model_is_the_same(tiny, images):
    for placement in PLACEMENTS:
        graph = encoder_to_onnx(tiny, make_plan(tiny, "fp32", placement))
        with torch.inference_mode():
            expected = tiny.image_encoder(images[0]).numpy()
        found = as_written(graph, images[0])["embedding"]
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_codes_and_grids_are_the_plans_own(tiny, placed):
    plan = placed("int8", "onnxruntime")
    graph = encoder_to_onnx(tiny, plan)
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    from quantsam.models.fold import fold_norms

    folded = fold_norms(tiny.float_encoder)
    made = {node.output[0]: node for node in graph.graph.node}
    for site in plan.sites:
        node = made[site.key if site.role == "weight" else f"{site.key}:codes"]
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
        assert np.array_equal(scale, site.params.scale.numpy())
        assert np.array_equal(zero.astype(np.int32), site.params.zero_point.numpy())
        assert zero.dtype == (np.int8 if site.role == "weight" else np.uint8)
        if site.role == "weight":
            codes = quantize(folded.get_submodule(site.path).weight, site.spec, site.params)
            stored = numpy_helper.to_array(constants[f"{site.key}:codes"])
            assert stored.dtype == np.int8
            assert np.array_equal(stored, codes.numpy())


def test_metadata_and_size(tiny, placed):
    plan = placed("int8", "openvino")
    graph = encoder_to_onnx(tiny, plan)
    kept = {entry.key: entry.value for entry in graph.metadata_props}
    assert kept["quantsam.plan_digest"] == plan.digest
    assert (kept["quantsam.scheme"], kept["quantsam.placement"]) == ("int8", "openvino")
    whole = len(encoder_to_onnx(tiny, make_plan(tiny, "fp32", "openvino")).SerializeToString())
    assert len(graph.SerializeToString()) < 0.35 * whole  # tiny: names are a tenth of it


@pytest.mark.parametrize(
    ("scheme", "stored"),
    [("w4a8", TensorProto.INT4), ("w5a8@stage3", TensorProto.INT8), ("fp8_e4m3@stage3", TensorProto.FLOAT8E4M3FN)],
)
def test_other_formats(tiny, placed, images, scheme, stored):
    plan = placed(scheme, "openvino")
    graph = encoder_to_onnx(tiny, plan)
    site = next(site for site in plan.sites if site.role == "weight")
    assert next(t for t in graph.graph.initializer if t.name == f"{site.key}:codes").data_type == stored
    found = as_written(graph, images[0])["embedding"]
    with torch.inference_mode():
        expected = simulate(tiny, plan)(images[0]).numpy()
    assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


def test_what_onnx_cannot_express(tiny, images):
    odd = calibrate(tiny, make_plan(tiny, "w8a5@stage3:0:0", "openvino"), images)
    with pytest.raises(PlanError, match=r"stage3:0:0/input cannot be exported: ONNX has .*, got 'uint5'"):
        encoder_to_onnx(tiny, odd)
    with pytest.raises(PlanError, match="plan must be calibrated"):
        encoder_to_onnx(tiny, make_plan(tiny, "int8", "openvino"))


def test_a_file_is_written_whole(tiny, tmp_path):
    graph = encoder_to_onnx(tiny, make_plan(tiny, "fp32", "openvino"))
    path = save_onnx(graph, tmp_path / "encoder.onnx")
    assert onnx.load(path) == graph
    with pytest.raises(OutputError):
        save_onnx(graph, tmp_path / "absent" / "encoder.onnx")
