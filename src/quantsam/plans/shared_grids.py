"""Shared grids: if a rounded value enters the next layer unchanged, an engine that rounds once needs one grid for both.

ONNX Runtime merges two adjacent pairs of `QuantizeLinear` and `DequantizeLinear` into one. If their grids differ, it
uses a third grid, so a simulation with two grids would differ from what the engine computes.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Attention, Chain, Convolution
from quantsam.models.structure import conv_of, structure_of
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan, PlanSite


def leaving_site(prepared: ImageEncoder, convolution: Convolution) -> str | None:
    """Return the site that rounds a convolution's output, if no other operation follows."""
    is_last = convolution.act is None and convolution.norm is None
    return convolution.conv_site if is_last and conv_of(prepared, convolution).output_scale is None else None


def entering_site(prepared: ImageEncoder, convolution: Convolution) -> str | None:
    """Return the site that rounds a convolution's input, if no scale comes before it."""
    return convolution.input_site if conv_of(prepared, convolution).input_scale is None else None


def shared_sites(prepared: ImageEncoder) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each output that enters further layers unchanged: the path of its site, and the paths of their sites.

    Args:
        prepared: The encoder with the plan's transforms. A plan need not have all of these sites.
    """
    structure = structure_of(prepared)
    following = structure.following
    for part in (part for block in structure.blocks for part in block.parts):
        for convolution, readers in _inner(part):
            yield from _shared(prepared, convolution, readers, ())
        if not part.shortcut:
            after = following.get(part.path, ())
            added = tuple(reader.shortcut_site for reader in after if reader.shortcut)
            firsts = tuple(reader.convolutions[0] for reader in after)
            yield from _shared(prepared, part.convolutions[-1], firsts, added)


def shared_grids(prepared: ImageEncoder, plan: Plan) -> dict[str, PlanSite]:
    """Return the site whose grid an input takes, keyed by the input's key; empty if the plan's engine rounds both.

    Args:
        prepared: The encoder with the plan's transforms.
        plan: The plan, calibrated or not.
    """
    if not get_placement(plan.placement).rounds_once:
        return {}
    sites = {site.path: site for site in plan.sites}
    found = {}
    for output, inputs in shared_sites(prepared):
        for path in inputs:
            one, other = sites.get(output), sites.get(path)
            if one is not None and other is not None and _may_share(one, other):
                found[other.key] = one
    return found


def with_shared_grids(prepared: ImageEncoder, plan: Plan) -> Plan:
    """Return a calibrated plan in which inputs take the grid of the rounded output that they read."""
    shared = {key: output.key for key, output in shared_grids(prepared, plan).items()}
    return dataclasses.replace(plan, sites=sharing(plan.sites, shared)) if shared else plan


def sharing(sites: Sequence[PlanSite], shared: Mapping[str, str]) -> tuple[PlanSite, ...]:
    """Return calibrated sites in which inputs take an output's grid, if both sites exist and have the same format.

    Args:
        sites: Sites in any order.
        shared: The output's key, keyed by the input's key; see `shared_grids`.
    """
    by_key = {site.key: site for site in sites}
    found = []
    for site in sites:
        output = by_key.get(shared.get(site.key, ""))
        if output is not None and _may_share(output, site):
            site = dataclasses.replace(site, params=copy.deepcopy(output.params))  # files hold each tensor once
        found.append(site)
    return tuple(found)


def _inner(part: Chain | Attention) -> Iterator[tuple[Convolution, tuple[Convolution, ...]]]:
    """Yield convolutions, each with the convolutions of the same part that read its output without an addition."""
    if isinstance(part, Attention):
        yield part.qkv, tuple(first for first, _ in part.branches)
        for first, second in part.branches:
            yield first, (second,)
    else:
        for first, second in itertools.pairwise(part.convolutions):
            yield first, (second,)


def _shared(
    prepared: ImageEncoder, convolution: Convolution, readers: tuple[Convolution, ...], added: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    output = leaving_site(prepared, convolution)
    inputs = tuple(path for path in (entering_site(prepared, reader) for reader in readers) if path is not None)
    if output is not None and (inputs or added):
        yield output, (*inputs, *added)


def _may_share(one: PlanSite, other: PlanSite) -> bool:
    """Return whether both sites have one scale per tensor and the same format."""
    return one.spec.fmt == other.spec.fmt and all(
        site.spec.quantizer == "uniform" and not site.spec.per_channel for site in (one, other)
    )
