"""Weights of 4 to 8 bits: engines compute them in integers, exactly, layer by layer."""

import pytest
import torch

from quantsam.engines.encoder import make_engine_encoder
from quantsam.engines.executed import executed
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.engines.onnx_layers import FOUND, GIVEN, layers_to_onnx
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions
from quantsam.schemes.load import parse_scheme
from quantsam.simulation.simulator import simulate

from .layer import random_codes


@pytest.fixture(scope="module")
def images():
    return [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_of_any_width_run_in_integers_as_the_exact_simulation_says(tiny, images, engine, bits):
    scheme = parse_scheme(f'[[rules]]\nweight = "int{bits}"\nactivation = "int8"', default_name=f"w{bits}a8")
    plan = calibrate(tiny, make_plan(tiny, scheme, engine), images)
    encoder = make_engine_encoder(tiny, plan, engine)
    assert all(entry.is_integer for entry in executed(encoder.graph, encoder.session))
    exact = simulate(tiny, plan, exact=True).encoder
    convs = {site.label: exact.get_submodule(site.path) for site in plan.sites if site.role == "weight"}
    graph = layers_to_onnx(tiny, plan, {site.path: (6, 7) for site in plan.sites if site.role == "weight"})
    given = {f"{label}{GIVEN}": random_codes(conv, 6, 7) for label, conv in convs.items()}
    found = open_session(engine, graph.SerializeToString(), SessionOptions(1)).run(
        {name: x.numpy() for name, x in given.items()}
    )
    for label, conv in convs.items():
        with torch.inference_mode():
            off = (torch.from_numpy(found[f"{label}{FOUND}"]) - conv(given[f"{label}{GIVEN}"])).abs()
        if conv.conv_site is not None and hasattr(conv.conv_site, "site"):
            steps = off / conv.conv_site.site.params.scale
            assert steps.max() < (1e-3 if engine == "onnxruntime" else 1.01), label  # OpenVINO rounds ties otherwise
        else:
            assert off.max() < 1e-4 * conv(given[f"{label}{GIVEN}"]).abs().max(), label


def test_four_bits_stay_four_bits_in_the_file(tiny, images):
    sizes = {}
    for scheme in ("int8", "w4a8"):
        plan = calibrate(tiny, make_plan(tiny, scheme, "onnxruntime"), images)
        sizes[scheme] = encoder_to_onnx(tiny, plan).ByteSize()
    weights = sum(p.numel() for p in tiny.float_encoder.parameters() if p.ndim == 4)
    assert sizes["int8"] - sizes["w4a8"] > 0.45 * weights


def test_the_optimized_and_the_plain_graph_of_narrow_weights_are_near(tiny, images):
    plan = calibrate(tiny, make_plan(tiny, "w4a8", "onnxruntime"), images)
    graph = encoder_to_onnx(tiny, plan).SerializeToString()
    outputs = [
        open_session("onnxruntime", graph, SessionOptions(1, optimize=optimize)).run({"image": images[0].numpy()})
        for optimize in (True, False)
    ]
    first, second = (torch.from_numpy(output["embedding"]) for output in outputs)
    assert (first - second).square().mean() < 0.1 * second.square().mean()
