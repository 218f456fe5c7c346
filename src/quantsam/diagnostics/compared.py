"""Record one image's activations, float beside quantized: every site, and figures of those that differ most."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence

import torch

from quantsam.data.dataset import UInt8Image
from quantsam.data.images import check_image_array
from quantsam.diagnostics.activation_maps import draw_channel
from quantsam.diagnostics.activations import SiteActivations, compare_activations, worst_sites
from quantsam.diagnostics.observed import activation_names
from quantsam.errors import CalibrationError, InputError
from quantsam.evaluation.record_fields import exactness, fields_of_plan
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.results.activation_record import LONGEST, MOST_DRAWN, ActivationRecord, ComparedSite, DrawnChannel
from quantsam.results.machine import environment
from quantsam.results.record import JsonValue, identity
from quantsam.results.store import ResultStore

_MOST_CHANNELS = 96  # drawn channels, over all sites
_MOST_BYTES = 300_000  # for a record's sites
_SIDES = (LONGEST, LONGEST // 2, LONGEST // 4)
_WORST = 3


def measure_activations(
    model: EfficientViTSam,
    plan: Plan,
    image: UInt8Image,
    name: str,
    *,
    wanted: Callable[[str], bool] = lambda site: True,
    drawn: int = 6,
    channels: int = 4,
    store: ResultStore | None = None,
    use: Callable[[Sequence[SiteActivations]], None] | None = None,
    notes: dict[str, JsonValue] | None = None,
) -> ActivationRecord:
    """Compare one image's activations at sites, in float and under a plan.

    Args:
        model: The float model.
        plan: A calibrated plan for this model.
        image: (height, width, 3) uint8 RGB.
        name: Name of the image, such as its file name.
        wanted: Takes a site's name and returns whether to compare it; all sites take hundreds of MiB in large models.
        drawn: Number of sites with figures in the record, 0 to `MOST_DRAWN`: those with the lowest SQNR, each tensor
            once. Sites where nothing differs are not drawn.
        channels: Number of channels with figures per site, those that differ most; fewer if the record would exceed 96.
        store: The store that receives the record; if it already holds the same measurement, that record is returned.
        use: Receives the activations themselves. A store does not keep them, so they are always computed if `use` is
            given.
        notes: Added to the record's settings.

    Returns:
        A record with the results in `sites`, at most 300 kB: if figures would take more, maps are smaller.

    Raises:
        PlanError: The plan is not calibrated, or was made for another model.
        InputError: The image is not a valid image, no site is wanted, or a number is out of range.
        CalibrationError: A value is not finite.
        StoreError: The store cannot be read or written.
    """
    check_image_array(image, "image")
    if not 0 <= drawn <= MOST_DRAWN or channels < 1:
        raise InputError(f"0 to {MOST_DRAWN} sites can be drawn, of 1 channel or more, got {drawn} of {channels}")
    names = [site for site in activation_names(model, plan.placement) if wanted(site)]
    if not names:
        raise InputError(f"activations of at least one site must be wanted, got none of {model.name}")
    digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
    each = min(channels, _MOST_CHANNELS // max(drawn, 1))
    depends_on: dict[str, JsonValue] = {
        "activations": [plan.scheme, plan.scheme_digest],
        "weights_digest": model.weights_digest(),
        "plan_digest": plan.digest,
        "dataset": name,
        "dataset_digest": digest,
        "sites": names,
        "drawn": [drawn, each],
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        **environment(),
    }
    record_id = identity(depends_on)
    kept = store.find(record_id) if store is not None else None
    if isinstance(kept, ActivationRecord) and use is None:
        return kept
    found = compare_activations(model, plan, image, wanted)
    for site in found:
        _check_finite(site)
    if use is not None:
        use(found)
    sites = _entries(found, drawn, each)
    roles = {site.role for site in plan.sites}
    record = ActivationRecord(
        id=record_id,
        model=model.name,
        weights_digest=model.weights_digest(),
        **fields_of_plan(plan),
        dataset=name,
        dataset_digest=digest,
        prompt=None,
        figures={
            "sites": len(sites),
            "lowest_sqnr_db": min((site.sqnr_db for site in sites if site.sqnr_db is not None), default=None),
        },
        settings={
            **({"weights": "weight" in roles, "activations": "activation" in roles} if roles else {}),
            **exactness(plan, True),
            **(notes or {}),
        },
        results={"sites": [site.to_json_dict() for site in sites]},
    )
    if store is not None and kept is None:
        store.append(record)
    return record


def _check_finite(site: SiteActivations) -> None:
    for values in (site.fp32, site.quantized):
        if not torch.isfinite(values).all():
            raise CalibrationError(
                f"values of {site.site} must be finite, got {float(values.min())} to {float(values.max())}: "
                "check the weights"
            )


def _entries(found: Sequence[SiteActivations], drawn: int, channels: int) -> list[ComparedSite]:
    """Return the sites' entries of a record, with as many maps as fit."""
    worst = [site for site in worst_sites(found, drawn) if site.sqnr_db < math.inf]
    entries = [_entry(site) for site in found]
    for side in _SIDES:
        figures = {site.site: _figures(site, channels, side) for site in worst}
        entries = [dataclasses.replace(entry, channels=figures.get(entry.site, ())) for entry in entries]
        if len(json.dumps([entry.to_json_dict() for entry in entries])) <= _MOST_BYTES:
            break
    return entries


def _figures(site: SiteActivations, channels: int, longest: int) -> tuple[DrawnChannel, ...]:
    sqnr = site.channel_sqnr_db
    return tuple(draw_channel(site, n, _finite(sqnr[n]), longest) for n in site.worst_channels[:channels])


def _entry(site: SiteActivations) -> ComparedSite:
    sqnr, worst = site.channel_sqnr_db, site.worst_channels[:_WORST]
    return ComparedSite(
        site=site.site,
        kind=site.kind,
        format=site.format,
        shape=tuple(site.fp32.shape),
        largest=_short(float(site.fp32.abs().max())),
        largest_difference=_short(float((site.quantized - site.fp32).abs().max())),
        sqnr_db=_finite(site.sqnr_db),
        worst_channels=tuple(worst),
        worst_sqnr_db=tuple(_finite(sqnr[channel]) for channel in worst),
    )


def _finite(value: float) -> float | None:
    return _short(value) if math.isfinite(value) else None


def _short(value: float) -> float:
    """Round to six significant digits."""
    return float(f"{value:.6g}")
