"""Plans on disk: a folder with `plan.json` (what is quantized, how) and `params.safetensors` (grids, transforms)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from quantsam.errors import PlanError, QuantsamError
from quantsam.files import atomic_folder, check_holds_only, check_replaceable, expanded
from quantsam.models.encoder import ImageEncoder
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import discover_layers
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import CalibrationInfo, Plan, PlanSite
from quantsam.plans.prepare import prepare
from quantsam.plans.transforms import restore_transform, transforms_digest
from quantsam.quant.params import QParams, TensorSpec

PLAN_VERSION = 4
_JSON, _PARAMS = "plan.json", "params.safetensors"
_TRANSFORM = "transform:"


def save_plan(plan: Plan, folder: str | os.PathLike[str]) -> Path:
    """Write a plan to a folder, completely or not at all. A plan that is already there is replaced.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
    """
    target = Path(folder)
    check_plan_folder(target)
    document = {
        "quantsam_plan": PLAN_VERSION,
        **{name: getattr(plan, name) for name in ("model", "encoder_digest", "scheme", "scheme_digest", "placement")},
        "digest": plan.digest,
        "calibration": dataclasses.asdict(plan.calibration) if plan.calibration else None,
        "transforms": [{"name": t.name, "settings": t.settings()} for t in plan.transforms],
        "sites": [_site_json(site) for site in plan.sites],
    }
    tensors: dict[str, torch.Tensor] = {}
    for site in plan.sites:
        if site.params is not None:
            tensors[f"{site.key}.scale"] = site.params.scale.cpu().contiguous()
            tensors[f"{site.key}.zero_point"] = site.params.zero_point.cpu().contiguous()
    for number, transform in enumerate(plan.transforms):
        tensors |= {f"{_TRANSFORM}{number}.{name}": t.cpu().contiguous() for name, t in transform.tensors().items()}
    document["checksum"] = _checksum(document)
    with atomic_folder(target, replaces=_JSON) as aside:
        (aside / _JSON).write_text(json.dumps(document, indent=1), "utf-8")
        (aside / _PARAMS).write_bytes(save(tensors))
    return target


def check_plan_folder(folder: str | os.PathLike[str]) -> None:
    """Check, before calibration, that a plan can be saved to a folder.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
    """
    check_replaceable(folder, _JSON)
    check_holds_only(folder, {_JSON, _PARAMS}, "plan")


def _site_json(site: PlanSite) -> dict[str, Any]:
    names = ("layer", "kind", "name", "role", "path")
    axis = site.params.axis if site.params else None
    return {**{n: getattr(site, n) for n in names}, "spec": dataclasses.asdict(site.spec), "axis": axis}


def load_plan(folder: str | os.PathLike[str], model: EfficientViTSam) -> Plan:
    """Read a plan that was made for a model.

    Raises:
        PlanError: There is no plan, it is damaged, or it was made for another model or other weights.
    """
    path = expanded(folder)
    if not (path / _JSON).is_file():
        raise PlanError(f"plan must be a folder with {_JSON}, got {str(path)!r}: make one with `quantsam calibrate`")
    try:
        document = json.loads((path / _JSON).read_text("utf-8"))
        version = document["quantsam_plan"]
        if version != PLAN_VERSION:
            raise PlanError(f"plan {str(path)!r} must have version {PLAN_VERSION}, got {version!r}: calibrate again")
        same = document.pop("checksum") == _checksum(document)
        plan = _from_json(document, load((path / _PARAMS).read_bytes()))
        same = same and plan.digest == document["digest"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise PlanError(f"plan {str(path)!r} is damaged ({type(error).__name__}: {error}): calibrate again") from error
    if not same:
        raise PlanError(f"plan {str(path)!r} was changed after it was saved: calibrate again")
    try:
        prepared = prepare(model, plan)
    except PlanError as error:
        raise PlanError(f"plan {str(path)!r} cannot be used: {error}") from error
    _check_sites(plan, prepared, path)
    return plan


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _check_sites(plan: Plan, prepared: ImageEncoder, path: Path) -> None:
    """Check that every site belongs to the model and every grid is usable, whoever wrote the files."""
    try:
        placement = get_placement(plan.placement)
        first = plan.transforms[: len(placement.transforms)]
        if transforms_digest(first) != transforms_digest(placement.transforms):
            raise PlanError(f"its transforms must begin with those of placement {plan.placement!r}")
        known = {
            (str(layer.address), layer.kind, site.name, site.role, site.path)
            for layer in discover_layers(prepared, shortcuts=True)
            for site in placement.sites(layer)
        }
        for site in plan.sites:
            if (site.layer, site.kind, site.name, site.role, site.path) not in known:
                raise PlanError(f"{site.key} is no site of {plan.model} under placement {plan.placement!r}")
            if site.params is not None:
                _check_grid(site, site.params)
    except (QuantsamError, TypeError) as error:
        raise PlanError(f"plan {str(path)!r} does not hold together ({error}): calibrate again") from error


def _check_grid(site: PlanSite, params: QParams) -> None:
    scale, zero_point, fmt = params.scale, params.zero_point, site.spec.fmt
    axis = (0 if site.role == "weight" else 1) if site.spec.per_channel else None
    fits = scale.shape == zero_point.shape and params.axis == axis and scale.ndim == (axis is not None)
    if not fits or scale.dtype != torch.float32 or zero_point.dtype != torch.int32 or not scale.numel():
        raise PlanError(f"the grid of {site.key} has another shape or type than its specification")
    low, high = fmt.zero_points
    if not bool((torch.isfinite(scale) & (scale > 0) & (zero_point >= low) & (zero_point <= high)).all()):
        raise PlanError(f"the scale of {site.key} must be finite and > 0 and its zero point a code of {fmt.name}")


def _from_json(document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Plan:
    sites = []
    for entry in document["sites"]:
        axis, spec = entry.pop("axis"), TensorSpec(**entry.pop("spec"))
        site = PlanSite(**entry, spec=spec)
        if f"{site.key}.scale" in tensors:
            params = QParams(tensors[f"{site.key}.scale"], tensors[f"{site.key}.zero_point"], axis)
            site = dataclasses.replace(site, params=params)
        sites.append(site)
    transforms = []
    for number, entry in enumerate(document["transforms"]):
        start = f"{_TRANSFORM}{number}."
        own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        transforms.append(restore_transform(entry["name"], entry["settings"], own))
    calibration = document["calibration"]
    return Plan(
        model=document["model"],
        encoder_digest=document["encoder_digest"],
        scheme=document["scheme"],
        scheme_digest=document["scheme_digest"],
        placement=document["placement"],
        sites=tuple(sites),
        transforms=tuple(transforms),
        calibration=CalibrationInfo(**calibration) if calibration else None,
    )
