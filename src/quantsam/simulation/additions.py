"""Residual additions as ONNX Runtime computes them in integers (`QLinearAdd`), if all three tensors are rounded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantsam.models.blocks import Residual
from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Attention, Chain
from quantsam.models.structure import structure_of
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.shared_grids import entering_site, leaving_site
from quantsam.quant.params import QParams, TensorSpec

_NOWHERE = ""  # is no site's path


class IntegerResidual(nn.Module):
    """A residual block whose addition maps codes to codes.

    With the ratios `r_a = s_a / s_y` and `r_b = s_b / s_y`, the kernel of ONNX Runtime computes
    `rint(fma(a, r_a, fma(b, r_b, z_y - fma(z_a, r_a, z_b * r_b))))`, all in float32, from the block's codes `a` and its
    input's codes `b`. If the sum of the values is next to a tie, rounding that sum may give another result.
    """

    def __init__(self, residual: Residual, a: QParams, b: QParams, out: QParams, spec: TensorSpec) -> None:
        """Take a block and three grids: of its convolutions' output, of its added input, and of the sum.

        All have one scale per tensor; `spec` is the sum's specification.
        """
        super().__init__()
        self.main, self.shortcut_site, self.shortcut = residual.main, residual.shortcut_site, True
        self.fmt = spec.fmt
        ratios = a.scale / out.scale, b.scale / out.scale
        zeros = _fma(a.zero_point, ratios[0], b.zero_point * ratios[1])
        tensors = {"a_scale": a.scale, "a_zero": a.zero_point, "b_scale": b.scale, "b_zero": b.zero_point}
        tensors |= {"a_ratio": ratios[0], "b_ratio": ratios[1], "fixed": out.zero_point.float() - zeros}
        tensors |= {"scale": out.scale, "zero": out.zero_point}
        for name, value in tensors.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape, values on the sum's grid."""
        added = self.shortcut_site(x)
        y = self.main(x)
        total = self._scaled("b", added, self.get_buffer("fixed"))
        total = self._scaled("a", y, total)
        codes = torch.round(total).clamp(self.fmt.qmin, self.fmt.qmax)
        return (codes - self.get_buffer("zero")) * self.get_buffer("scale")

    def _scaled(self, name: str, x: Tensor, offset: Tensor) -> Tensor:
        """Return the codes of rounded values times their ratio, plus an offset."""
        codes = torch.round(x / self.get_buffer(f"{name}_scale")) + self.get_buffer(f"{name}_zero")
        return _fma(codes, self.get_buffer(f"{name}_ratio"), offset)


def _fma(x: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """Return `x * factor + addend` in float32, rounded once; float64 holds a code times a float32 exactly."""
    return (x.double() * factor.double() + addend.double()).float()


def use_integer_additions(encoder: ImageEncoder, plan: Plan, prepared: ImageEncoder) -> None:
    """Replace, in place, the residual blocks of a simulation whose additions ONNX Runtime computes in integers.

    In these blocks both terms are rounded, and all readers of the sum round it to the same grid.

    Args:
        encoder: The simulation, not fused.
        plan: Its plan, for ONNX Runtime.
        prepared: The float encoder that the plan was made on.
    """
    sites = {site.path: site for site in plan.sites if _has_one_8_bit_scale(site)}
    device = next(encoder.parameters()).device
    for addition in _additions(prepared):
        a = sites.get(addition.output)
        b = next((sites[path] for path in addition.inputs if path in sites), None)
        sums = [sites.get(path) for path in addition.readers]
        out = sums[0]
        if a is None or b is None or out is None or not all(s is not None and _is_same(s, out) for s in sums):
            continue
        residual = encoder.get_submodule(addition.path)
        assert isinstance(residual, Residual)
        parent, _, name = addition.path.rpartition(".")
        grids = a.grid.to(device), b.grid.to(device), out.grid.to(device)
        encoder.get_submodule(parent).register_module(name, IntegerResidual(residual, *grids, out.spec))


@dataclass(frozen=True, slots=True)
class _Addition:
    """A residual addition and the sites around it.

    Attributes:
        path: Path of the `Residual`.
        output: Site that rounds the block's own output.
        inputs: Sites of which one rounds the block's added input.
        readers: Sites that round the sum, with an empty path for a reader without one.
    """

    path: str
    output: str
    inputs: tuple[str, ...]
    readers: tuple[str, ...]


def _additions(prepared: ImageEncoder) -> Iterator[_Addition]:
    structure = structure_of(prepared)
    backbone = [part for blocks in structure.stages for block in blocks for part in block.parts]
    neck = [part for block in (*structure.neck_middle, structure.neck_output) for part in block.parts]
    for before, part in (*itertools.pairwise([None, *backbone]), *itertools.pairwise([None, *neck])):
        if part is None or not part.shortcut:
            continue
        inputs = [part.shortcut_site]
        if before is not None and not before.shortcut:
            inputs += _leaving(prepared, before)  # the input is rounded already
        readers = [path for reader in structure.following[part.path] for path in _entering(prepared, reader)]
        for output in _leaving(prepared, part):
            yield _Addition(part.path, output, tuple(inputs), tuple(readers))


def _entering(prepared: ImageEncoder, part: Chain | Attention) -> list[str]:
    """Return the sites that round a part's input: for its first convolution, and for its shortcut."""
    first = entering_site(prepared, part.convolutions[0])
    return [first or _NOWHERE, *([part.shortcut_site] if part.shortcut else [])]


def _leaving(prepared: ImageEncoder, part: Chain | Attention) -> list[str]:
    """Return the site that rounds a part's output last, if no other operation follows."""
    last = leaving_site(prepared, part.convolutions[-1])
    return [last] if last else []


def _has_one_8_bit_scale(site: PlanSite) -> bool:
    return site.spec.fits_8_bits and site.spec.quantizer == "uniform" and site.grid.axis is None


def _is_same(one: PlanSite, other: PlanSite) -> bool:
    a, b = one.grid, other.grid
    return one.spec.fmt == other.spec.fmt and torch.equal(a.scale, b.scale) and torch.equal(a.zero_point, b.zero_point)
