"""Export single convolutions of a plan as an ONNX graph, to check what an engine's kernels compute."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch

from quantsam.engines.onnx_encoder import EncoderWriter
from quantsam.engines.onnx_graph import FLOAT
from quantsam.models.blocks import Conv2d
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import prepare

GIVEN, FOUND = "given", "found"


def layers_to_onnx(model: EfficientViTSam, plan: Plan, sides: Mapping[str, tuple[int, int]]) -> onnx.ModelProto:
    """Return some convolutions of a plan, each with its own input and output.

    For the layer `stage3:4:2/`, the input is `stage3:4:2/given`, float32 (1, in, H, W), and the output is
    `stage3:4:2/found`, float32 (1, out, H', W'). Both are rounded as the plan says. The output leaves out a repair's
    factors after its site, so that a step has the same size in all channels.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan.
        sides: Height and width of the input, by path of the convolution in the encoder.

    Raises:
        PlanError: See `encoder_to_onnx`.
    """
    plan.check_calibrated()
    encoder = prepare(model, plan)
    writer = EncoderWriter(encoder, plan)
    inputs: dict[str, tuple[int, tuple[int | str, ...]]] = {}
    outputs: dict[str, tuple[int, tuple[int | str, ...]]] = {}
    with torch.inference_mode():
        for path, hw in sides.items():
            conv = encoder.get_submodule(path)
            assert isinstance(conv, Conv2d)
            label = writer.label(path)
            inputs[f"{label}{GIVEN}"] = (FLOAT, (1, conv.in_channels, *hw))
            writer.graph.add("Identity", [writer.conv(path, f"{label}{GIVEN}", scales_output=False)], f"{label}{FOUND}")
            strided = tuple((side - 1) // conv.stride[0] + 1 for side in hw)
            outputs[f"{label}{FOUND}"] = (FLOAT, (1, conv.out_channels, *strided))
    return writer.graph.model("layers", inputs, outputs, {"quantsam.plan_digest": plan.digest})
