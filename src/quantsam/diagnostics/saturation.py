"""Count the channels of a plan that lose accuracy on processors whose kernels add product pairs in 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantsam.errors import CalibrationError
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.observation import CalibrationImage, encoder_input
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.progress import Progress
from quantsam.simulation.integer import IntegerConv2d
from quantsam.simulation.simulator import simulate


@dataclass(frozen=True, slots=True)
class LayerSaturation:
    """Saturation of one quantized convolution.

    Attributes:
        layer: Label of the layer: `stage3:4:2`, or `stage4:1:0/depthwise0` within a branch.
        kind: Kind of the layer.
        channels: Number of output channels.
        can_saturate: Number of channels with a pair of weights whose products can overflow 16 bits.
        did_saturate: Number of channels where a sum did saturate on the images.
        worst: Largest loss of a sum, relative to the layer's largest exact sum on the images.
    """

    layer: str
    kind: str
    channels: int
    can_saturate: int
    did_saturate: int
    worst: float


def count_saturation(
    model: EfficientViTSam, plan: Plan, images: Iterable[CalibrationImage], *, progress: Progress | None = None
) -> tuple[LayerSaturation, ...]:
    """Count, layer by layer, what x86 kernels without VNNI lose.

    Each layer receives inputs computed in exact integers, so its loss does not include earlier layers' losses.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan with the placement of ONNX Runtime or OpenVINO.
        images: Images, as for calibration.
        progress: Wraps the iteration over the images.

    Raises:
        PlanError: The plan has no sums that could saturate; see `simulate`.
        CalibrationError: There are no images.
        InputError: An image is not a valid image.
    """
    encoder = simulate(model, plan, saturate=True).encoder
    meters = {}
    for site in plan.sites:
        layer = encoder.get_submodule(site.path)
        if site.role == "weight" and isinstance(layer, IntegerConv2d):
            meters[site.label.rstrip("/.")] = _Meter(site.kind, layer)
    device = model.device
    seen = 0
    with torch.inference_mode():
        for image in progress(images, None) if progress else images:
            encoder(encoder_input(image, model.variant.input_size).to(device))
            seen += 1
    if not seen:
        raise CalibrationError("an audit needs at least one image, got none: name a folder of images or 'scenes:16'")
    return tuple(meter.result(label) for label, meter in meters.items())


class _Meter:
    """Watches a convolution, and removes its saturation from the inputs of later layers."""

    def __init__(self, kind: str, layer: IntegerConv2d) -> None:
        self.kind, self._channels = kind, len(layer.get_buffer("codes"))
        self._can = 0 if layer.saturation is None else len(layer.saturation.channels)
        self._did = torch.zeros(self._channels, dtype=torch.bool)
        self._lost = self._largest = 0.0
        if layer.saturation is not None and self._can:
            layer.saturation.register_forward_hook(self._look)
        layer.register_forward_hook(self._note_sums(layer))

    def _look(self, module: nn.Module, inputs: object, excess: Tensor) -> Tensor:
        self._did |= (excess != 0).any(dim=3).any(dim=2).any(dim=0).cpu()
        self._lost = max(self._lost, float(excess.abs().max()))
        return torch.zeros_like(excess)

    def _note_sums(self, layer: IntegerConv2d) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self._can:
                x = inputs[0] if layer.input_scale is None else layer.input_scale(inputs[0])
                self._largest = max(self._largest, float(layer.accumulate(layer.input_site(x)).abs().max()))

        return hook

    def result(self, label: str) -> LayerSaturation:
        worst = self._lost / self._largest if self._largest else 0.0
        return LayerSaturation(label, self.kind, self._channels, self._can, int(self._did.sum()), worst)


def saturation_conclusion(plan: Plan, found: Iterable[LayerSaturation]) -> str:
    """Say in one sentence on which processors a plan is exact."""
    layers = list(found)
    can = sum(entry.can_saturate for entry in layers)
    if not can:
        return f"{plan.scheme}, {plan.placement}: exact on every processor, no pair of products can overflow 16 bits"
    did = [entry for entry in layers if entry.did_saturate]
    free = get_placement(plan.placement).saturation_free
    way_out = "make its weights symmetric" if free else "take --processors any"
    channels = sum(entry.channels for entry in layers)
    return (
        f"{plan.scheme}, {plan.placement}: on x86 without VNNI {can} of {channels} output channels can saturate, "
        f"{sum(entry.did_saturate for entry in did)} in {len(did)} layers did on these images: {way_out}"
    )
