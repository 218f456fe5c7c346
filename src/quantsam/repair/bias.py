"""Repair `bias`: biases correct the mean error that rounding causes in a convolution's output.

The graph gets no extra node. Each convolution is measured alone, on the float model's input, so the repair corrects
only the mean error of its own rounding (Nagel et al., 2019, arXiv:1906.04721, section 4.2, measured and not derived).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.notices import notice
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.prepare import rounded_weight
from quantsam.plans.transforms import CorrectBiases
from quantsam.progress import Progress
from quantsam.quant.quantizers import fake_quantize
from quantsam.repair.watch import watch_inputs

MEASURED_ON = 16
"""Number of calibration images on which the means are measured."""

IMPLAUSIBLE = 1.0
"""Largest plausible shift, relative to the root mean square of the output's values; larger shifts are ignored."""


def correction_of_biases(
    prepared: ImageEncoder, plan: Plan, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> CorrectBiases | None:
    """Return the correction of quantized convolutions' biases; None if there is nothing to correct.

    Args:
        prepared: The float encoder with the plan's transforms.
        plan: The calibrated plan.
        images: See `calibrate`; only the first few are used.
        progress: Wraps the iteration over these images.
    """
    means = {weight.path: _Means(prepared, weight, x) for weight, x in plan.quantized_convolutions()}
    watch_inputs(prepared, {p: m.look for p, m in means.items()}, images, most=MEASURED_ON, progress=progress)
    shifts = {path: found.shift.float().cpu() for path, found in means.items() if found.is_plausible}
    odd = [found.layer for path, found in means.items() if path not in shifts]
    if odd:
        notice(
            f"repair bias leaves {len(odd)} convolutions as they are, the first of {odd[0]}: rounding shifts their "
            "output by more than its own size"
        )
    return CorrectBiases(shifts) if shifts else None


class _Means:
    """The difference of a convolution's mean output per channel between float and rounded input and weight."""

    def __init__(self, prepared: ImageEncoder, weight: PlanSite, x: PlanSite) -> None:
        conv = prepared.get_submodule(weight.path)
        assert isinstance(conv, Conv2d)
        self._conv, self._x, self.layer = conv, x, weight.layer
        self._rounded = rounded_weight(prepared, weight)
        zeros = torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
        self._shift, self._square, self._images = zeros, zeros.clone(), 0

    @property
    def shift(self) -> Tensor:
        """Correction to add to the bias, (out,) float64."""
        return self._shift / max(self._images, 1)

    @property
    def is_plausible(self) -> bool:
        """Whether the shift is small compared to the output's values."""
        size = (self._square / max(self._images, 1)).mean().sqrt()
        return bool(self.shift.abs().max() <= IMPLAUSIBLE * size)

    def look(self, x: Tensor) -> None:
        """Take an input (N, in, H, W) of the convolution."""
        conv = self._conv
        x = x if conv.input_scale is None else conv.input_scale(x)
        rounded = fake_quantize(x.contiguous(), self._x.spec, self._x.grid.to(x.device))
        true, found = (
            F.conv2d(values, weight, None, conv.stride, conv.padding, 1, conv.groups)
            for values, weight in ((x, conv.weight), (rounded, self._rounded))
        )
        self._shift += (true - found).mean((2, 3), dtype=torch.float64).sum(0)
        self._square += true.square().mean((2, 3), dtype=torch.float64).sum(0)
        self._images += len(x)
