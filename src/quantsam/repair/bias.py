"""Repair `bias`: biases take back the mean error that rounding brings into a convolution's output.

No node more in the graph. Each convolution is looked at alone: its input is the float model's, so what its own rounding
does to its mean is all that is corrected (Nagel et al., 2019, arXiv:1906.04721, section 4.2, measured and not derived).
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
"""Calibration images that the means are taken over."""

IMPLAUSIBLE = 1.0
"""A shift larger than so many times what the output's values are, root mean square, is not taken for rounding's."""


def correction_of_biases(
    prepared: ImageEncoder, plan: Plan, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> CorrectBiases | None:
    """Return the correction of quantized convolutions' biases; None where nothing is quantized.

    Args:
        prepared: The float encoder with the plan's transforms.
        plan: Calibrated.
        images: See `calibrate`; the first few are looked at.
        progress: Wraps the iteration over these.
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
    """The mean of a convolution's output, channel by channel, in float and with its input and weight rounded."""

    def __init__(self, prepared: ImageEncoder, weight: PlanSite, x: PlanSite) -> None:
        conv = prepared.get_submodule(weight.path)
        assert isinstance(conv, Conv2d)
        self._conv, self._x, self.layer = conv, x, weight.layer
        self._rounded = rounded_weight(prepared, weight)
        zeros = torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
        self._shift, self._square, self._images = zeros, zeros.clone(), 0

    @property
    def shift(self) -> Tensor:
        """(out,) float64: what is to be added."""
        return self._shift / max(self._images, 1)

    @property
    def is_plausible(self) -> bool:
        """Whether it is small beside what the output's values are."""
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
