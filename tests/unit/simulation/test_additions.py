"""Residual additions in integers, against ONNX Runtime's own kernel."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from quantsam.models.blocks import Residual
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import dequantize
from quantsam.simulation.additions import IntegerResidual

onnxruntime = pytest.importorskip("onnxruntime")

SPEC = TensorSpec("uint8", "minmax", False, False)


class Given(nn.Module):
    """Stands for a block whose output is known."""

    def __init__(self, y):
        super().__init__()
        self.y = y

    def forward(self, x):
        return self.y


def kernel(a, b, grids):
    """What `QLinearAdd` gives for codes."""
    values = {"a": a.numpy(), "b": b.numpy()}
    constants, names = [], []
    for name, grid in zip(("a", "b", "c"), grids, strict=True):
        constants.append(helper.make_tensor(f"{name}s", TensorProto.FLOAT, [], [float(grid.scale)]))
        constants.append(helper.make_tensor(f"{name}z", TensorProto.UINT8, [], [int(grid.zero_point)]))
        names += [[name, f"{name}s", f"{name}z"]]
    inputs = [*names[0], *names[1], *names[2][1:]]
    node = helper.make_node("QLinearAdd", inputs, ["c"], domain="com.microsoft")
    told = [helper.make_tensor_value_info(n, TensorProto.UINT8, list(values[n].shape)) for n in values]
    out = helper.make_tensor_value_info("c", TensorProto.UINT8, list(a.shape))
    graph = helper.make_graph([node], "add", told, [out], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, values)[0].astype(np.float32))


def grid(scale, zero_point):
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), None)


def test_every_pair_of_codes_adds_as_the_engine_adds_it():
    codes = torch.arange(256, dtype=torch.uint8)
    a, b = (x.reshape(1, 1, 256, 256).contiguous() for x in torch.meshgrid(codes, codes, indexing="ij"))
    rng = np.random.default_rng(0)
    elsewhere = 0
    for _ in range(20):
        scales, zeros = rng.uniform(0.01, 0.1, 3).astype(np.float32), rng.integers(80, 170, 3)
        grids = [grid(float(s), int(z)) for s, z in zip(scales, zeros, strict=True)]
        x, y = (dequantize(c.int(), SPEC, g) for c, g in ((b, grids[1]), (a, grids[0])))
        block = IntegerResidual(Residual(Given(y)), grids[0], grids[1], grids[2], SPEC)
        found = torch.round(block(x) / grids[2].scale) + grids[2].zero_point
        expected = kernel(a, b, grids)
        assert torch.equal(found, expected)
        plain = (torch.round((x + y) / grids[2].scale) + grids[2].zero_point).clamp(0, 255)
        elsewhere += int((plain != expected).sum())
    assert elsewhere > 0  # rounding the sum of the values is not the same


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_ties(scale):
    codes = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    grids = [grid(scale, 7), grid(scale, 9), grid(2 * scale, 31)]
    x, y = (dequantize(codes.int(), SPEC, g) for g in (grids[1], grids[0]))
    block = IntegerResidual(Residual(Given(y)), *grids, SPEC)
    found = torch.round(block(x) / grids[2].scale) + grids[2].zero_point
    assert torch.equal(found, kernel(codes, codes, grids))
