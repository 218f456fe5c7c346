"""Reference data for checking a bundle where it runs: a few layers and masks from the exact simulation."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsam.engines.onnx_layers import FOUND, GIVEN, layers_to_onnx
from quantsam.metrics.iou import mask_iou
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan, PlanSite
from quantsam.prediction.predictor import Predictor
from quantsam.quant.ranges import grid_range
from quantsam.quant.saturation import has_depthwise_shape, saturating_channels
from quantsam.runtime.manifest import CHECK_BOXES, Check, test_image
from quantsam.simulation.integer import IntegerConv2d, Requantize
from quantsam.simulation.simulator import simulate
from quantsam.simulation.sites import FakeQuantize

_SIDE = 4
_MASK_SLACK = 0.05
"""By how much the masks' mean IoU may be below what the noise of rounding explains."""

_NEAR = 3.0  # allowed distance from the same masks, as a multiple of the two simulations' distance
_FLOAT_TOLERANCE = 1e-4  # relative to the largest value, if the output is not rounded
_STEPS = 1.01  # steps of the output's grid: a tie may round either way


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The reference data of a bundle.

    Attributes:
        graph: The ONNX file of a few layers.
        arrays: The content of `check.npz`: input and expected output of each layer, and the expected masks.
        check: The entry in the manifest.
    """

    graph: bytes
    arrays: bytes
    check: Check


def make_reference(model: EfficientViTSam, plan: Plan) -> Reference:
    """Compute the expected results of a bundle in exact integers.

    The layers' inputs hold the largest codes, so that 16-bit sums overflow if they can. The masks are those of three
    boxes on `test_image`. An engine's masks must be nearly as similar to them as those of the simulation in floats.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan; without sites there are no layers to check.
    """
    exact = simulate(model, plan, exact=True)
    layers = {
        site: layer
        for site in plan.sites
        if site.role == "weight" and isinstance(layer := exact.encoder.get_submodule(site.path), IntegerConv2d)
    }
    arrays: dict[str, NDArray[Any]] = {}
    tolerances: dict[str, float] = {}
    sides: dict[str, tuple[int, int]] = {}
    for site in _chosen(layers):
        given = _largest_codes(layers[site])
        with torch.inference_mode():
            expected = layers[site](given)
        scale = layers[site].output_scale
        expected = expected if scale is None else expected / scale.factors.reshape(-1, 1, 1)
        arrays[f"{site.label}{GIVEN}"], arrays[f"{site.label}{FOUND}"] = given.cpu().numpy(), expected.cpu().numpy()
        tolerances[site.label] = _tolerance(layers[site], expected)
        sides[site.path] = (_SIDE, _SIDE)
    arrays["masks"] = _masks(model.with_encoder(exact))
    floats = _masks(model.with_encoder(simulate(model, plan))) if sides else arrays["masks"]
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    graph = layers_to_onnx(model, plan, sides).SerializeToString() if sides else b""
    return Reference(graph, content.getvalue(), Check(tolerances, _least_mask_iou(arrays["masks"], floats)))


def _chosen(layers: dict[PlanSite, IntegerConv2d]) -> list[PlanSite]:
    """Return the layers to check: for each kind the smallest that could overflow, or else the smallest."""
    best: dict[tuple[str, bool], tuple[bool, int, PlanSite]] = {}
    for site, layer in layers.items():
        codes = layer.get_buffer("codes")
        key, rank = (site.kind, has_depthwise_shape(codes)), (not bool(saturating_channels(codes).any()), codes.numel())
        if key not in best or rank < best[key][:2]:
            best[key] = (*rank, site)
    return [site for *_, site in best.values()]


def _largest_codes(layer: IntegerConv2d) -> Tensor:
    """Return a rounded input (1, in, side, side): half of the codes are the largest, the others are spread."""
    site = layer.input_site
    assert isinstance(site, FakeQuantize)
    low, high = (end.reshape(-1, 1, 1) if end.ndim else end for end in grid_range(site.spec, site.params))
    channels = layer.get_buffer("codes").shape[1] * layer.groups
    places = torch.arange(channels * _SIDE * _SIDE, device=low.device).reshape(1, channels, _SIDE, _SIDE)
    shares = (places * 97 % 512 / 255).clamp(max=1)
    rounded: Tensor = site(low + shares * (high - low))
    return rounded if layer.input_scale is None else rounded / layer.input_scale.factors.reshape(-1, 1, 1)


def _tolerance(layer: IntegerConv2d, expected: Tensor) -> float:
    if isinstance(layer.conv_site, Requantize):
        return _STEPS * float(layer.conv_site.site.params.scale)
    return _FLOAT_TOLERANCE * float(expected.abs().max())


def _least_mask_iou(exact: NDArray[np.bool_], floats: NDArray[np.bool_]) -> float:
    """Return the least IoU of an engine's masks; the simulations' distance shows the effect of rounding alone."""
    alike = np.mean([mask_iou(a, b) if a.any() or b.any() else 1.0 for a, b in zip(exact, floats, strict=True)])
    return max(0.0, 1 - _NEAR * (1 - float(alike)) - _MASK_SLACK)


def _masks(model: EfficientViTSam) -> NDArray[np.bool_]:
    predictor = Predictor(model)
    predictor.set_image(test_image())
    masks, _, _ = predictor.predict_batch(boxes=torch.tensor(CHECK_BOXES, dtype=torch.float32), multimask=False)
    return np.asarray(masks[:, 0].cpu().numpy(), np.bool_)
