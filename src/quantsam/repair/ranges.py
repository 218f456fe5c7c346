"""Repair `ranges`: choose a grid's range by the error of the layer's output, behind its activation.

The cost of a clipped value depends on its reader, and values that a GELU flattens need no codes. The graph gets no
extra node. Weights keep their observer's ranges; those below 8 bits count as float here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Convolution
from quantsam.models.structure import structure_of
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.prepare import rounded_weight, takes_offsets
from quantsam.plans.shared_grids import shared_grids
from quantsam.plans.transforms import ChooseRanges
from quantsam.progress import Progress
from quantsam.quant.params import QParams
from quantsam.quant.quantizers import fake_quantize, params_from_range, range_from_params
from quantsam.repair.importance import output_importance
from quantsam.repair.trials import PositionWeights
from quantsam.repair.watch import watch_inputs

SHARES = (1.0, 0.92, 0.84, 0.76, 0.68, 0.56, 0.44, 0.3)
"""Shares of an end of the range to try; 1 keeps what the observer found."""

TRIED_ON = 8
"""Number of calibration images on which ranges are compared."""

WORTH = 0.98
"""Another range is chosen only if the error falls below this share; a few images cannot show smaller gains."""

SMALL_END = 0.1
"""An end that is a smaller share of the range does not change."""


def choose_ranges(
    prepared: ImageEncoder, plan: Plan, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> ChooseRanges | None:
    """Return better ranges of quantized convolutions' inputs and outputs; None if there are none.

    The upper ends are tried first, then the lower ends with the chosen upper ends. Weights keep the observer's ranges.

    Args:
        prepared: The float encoder with the plan's transforms.
        plan: The calibrated plan.
        images: See `calibrate`; only the first few are used, twice.
        progress: Wraps the iteration over these images.
    """
    layers = _layers(prepared, plan)
    for end in ("high", "low"):
        lookers = {layer.path: layer.look for layer in layers if layer.begin(end)}
        if lookers:
            watch_inputs(prepared, lookers, images, most=TRIED_ON, progress=progress)
        for layer in layers:
            layer.decide()
    chosen = {key: ends for layer in layers for key, ends in layer.chosen()}
    return ChooseRanges(chosen) if chosen else None


def _layers(prepared: ImageEncoder, plan: Plan) -> list[_Layer]:
    structure = structure_of(prepared)
    convolutions = {convolution.conv: convolution for convolution in structure.convolutions}
    outputs = {site.convolution: site for site in plan.sites if site.tensor == "conv"}
    matters = output_importance(prepared)
    given = set(shared_grids(prepared, plan))  # inputs that take the grid of the output that they read
    if any(site.tensor == "shortcut" for site in plan.sites):
        # an engine adds integers only if all convolutions that read the sum round it to one grid: keep that grid
        readers = {part.convolutions[0].conv for block in structure.blocks for part in block.parts}
        given |= {x.key for w, x in plan.quantized_convolutions() if w.path in readers}
    return [
        _Layer(
            prepared,
            convolutions[w.path],
            w,
            None if x.key in given else x,
            outputs.get(w.path),
            matters.get(w.path),
        )
        for w, x in plan.quantized_convolutions()
    ]


class _Trial:
    """Ranges of one activation to compare: shares of one end, chosen per channel if the grid is per channel."""

    def __init__(self, site: PlanSite) -> None:
        self.site = site
        self.low, self.high = range_from_params(site.grid, site.spec)
        self.changed = False
        self.grids: list[QParams] = []
        self._tried: list[tuple[Tensor, Tensor]] = []
        self._errors: list[Tensor] = []

    def begin(self, end: str) -> bool:
        """Prepare to shrink one end, or both of a symmetric grid; return whether there is anything to try."""
        width, small = self.high - self.low, self.high if end == "high" else -self.low
        self._tried, self._errors = [], []
        if (self.site.spec.symmetric and end == "low") or bool((small < SMALL_END * width).all()):
            return False
        for share in SHARES:
            low = self.low * share if end == "low" or self.site.spec.symmetric else self.low
            high = self.high * share if end == "high" else self.high
            self._tried.append((low, high))
        self.grids = [params_from_range(*ends, self.site.spec, self.site.grid.axis) for ends in self._tried]
        self._errors = [torch.zeros((), dtype=torch.float64) for _ in self._tried]
        return True

    def look(self, number: int, error: Tensor) -> None:
        """Add the squared error (C,) of a layer's output with the range of the given number."""
        by_channel = self.site.grid.axis is not None
        self._errors[number] = self._errors[number] + (error if by_channel else error.sum()).cpu()

    @property
    def is_tried(self) -> bool:
        """Whether there are ranges to compare."""
        return bool(self._tried)

    def decide(self) -> None:
        """Keep the best range."""
        if not self._tried:
            return
        errors = torch.stack(self._errors)  # (tried,) or (tried, C)
        best = errors.argmin(0)
        least = errors.gather(0, best.unsqueeze(0)).squeeze(0)
        best = torch.where(least < WORTH * errors[0], best, torch.zeros_like(best))
        lows, highs = (torch.stack([pair[i].expand(best.shape).cpu() for pair in self._tried]) for i in (0, 1))
        self.low, self.high = (ends.gather(0, best.unsqueeze(0)).squeeze(0) for ends in (lows, highs))
        self.low, self.high = self.low.to(self.site.grid.scale), self.high.to(self.site.grid.scale)
        self.changed = self.changed or bool(best.any())
        self._tried = []

    @property
    def ends(self) -> Tensor:
        """Low and high end, (2, 1 or C) float32."""
        return torch.stack([self.low.reshape(-1), self.high.reshape(-1)]).float().cpu()


class _Layer:
    """A quantized convolution; the error of its output decides the ranges of its input and output."""

    def __init__(
        self,
        prepared: ImageEncoder,
        convolution: Convolution,
        weight: PlanSite,
        x: PlanSite | None,
        y: PlanSite | None,
        matters: Tensor | None,
    ) -> None:
        conv = prepared.get_submodule(convolution.conv)
        assert isinstance(conv, Conv2d)
        self.path = convolution.conv
        self._conv = conv
        self._matters = torch.ones_like(conv.weight[:, 0, 0, 0], dtype=torch.float64) if matters is None else matters
        self._behind: list[nn.Module] = [] if conv.output_scale is None else [conv.output_scale]
        self._behind += [prepared.get_submodule(path) for path in (convolution.norm, convolution.act) if path]
        # the error of a weight below 8 bits is large and grows with the input: a range that clips would seem to mend it
        self._rounded = conv.weight if takes_offsets(weight.spec) else rounded_weight(prepared, weight)
        is_depthwise = conv.groups == conv.in_channels
        if x is not None and (x.spec.quantizer != "uniform" or (x.grid.axis is not None and not is_depthwise)):
            x = None
        self._input = None if x is None else _Trial(x)
        self._output = None if y is None or y.spec.quantizer != "uniform" or y.grid.axis is not None else _Trial(y)

    @property
    def _trials(self) -> list[_Trial]:
        return [trial for trial in (self._input, self._output) if trial is not None]

    def begin(self, end: str) -> bool:
        """Prepare to shrink one end of the activations' ranges; return whether there is anything to try."""
        begun = [trial.begin(end) for trial in self._trials]
        return any(begun)

    def decide(self) -> None:
        """Keep the best of the tried ranges."""
        for trial in self._trials:
            trial.decide()

    def look(self, x: Tensor) -> None:
        """Add the errors on an input (N, in, H, W) of the convolution."""
        conv = self._conv
        x = (x if conv.input_scale is None else conv.input_scale(x)).contiguous()
        before = self._apply(x, conv.weight)
        weights = PositionWeights(self._finished(before), self._matters)
        for trial, given in ((self._input, x), (self._output, before)):
            if trial is None or not trial.is_tried:
                continue
            for number, grid in enumerate(trial.grids):
                y = fake_quantize(given, trial.site.spec, grid.to(given.device))
                y = self._finished(self._apply(y, self._rounded) if trial is self._input else y)
                trial.look(number, weights.errors(y))

    def chosen(self) -> list[tuple[str, Tensor]]:
        """Return the ranges that differ from the plan's, with the site's key."""
        return [(trial.site.key, trial.ends) for trial in self._trials if trial.changed]

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        conv = self._conv
        return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, 1, conv.groups)

    def _finished(self, y: Tensor) -> Tensor:
        for module in self._behind:
            y = module(y)
        return y
