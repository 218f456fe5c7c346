"""A cache of calibrated plans in the user's cache folder, so that nothing is calibrated twice.

The key of a plan contains all that determines it: model and weights, transforms, sites and how each is quantized, the
images, the versions of quantsam, PyTorch and NumPy, the device, the processor and the number of threads. So a cached
plan is the same as a newly calibrated one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from quantsam.errors import OutputError, PlanError
from quantsam.files import expanded
from quantsam.models.sam import EfficientViTSam
from quantsam.places import cache_folder
from quantsam.plans.calibration import calibrate
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.plans.storage import PLAN_VERSION, load_plan, save_plan
from quantsam.progress import Progress
from quantsam.results.machine import environment

VARIABLE = "QUANTSAM_CACHE"
"""Environment variable that names another folder for the cache, or is `off`."""

_NAME = re.compile("[0-9a-f]{64}")

MOST_PLANS = 64
"""Number of plans to keep; the least recently used ones are removed first."""


def calibrate_once(
    model: EfficientViTSam, plan: Plan, images: Iterable[CalibrationImage] = (), *, progress: Progress | None = None
) -> Plan:
    """Return the plan that `calibrate` returns, from the user's cache if it is there.

    A plan is cached only if its images have a `stamp`, which changes with their contents. A cache that cannot be
    written or read only costs time.

    Args:
        model: The model the plan was made for.
        plan: A plan that is not calibrated.
        images: See `calibrate`.
        progress: See `calibrate`; not used if the plan is found.

    Raises:
        PlanError: See `calibrate`.
        CalibrationError: See `calibrate`.
    """
    return made_once(model, plan, images, lambda: calibrate(model, plan, images, progress=progress))


def made_once(
    model: EfficientViTSam, plan: Plan, images: Iterable[CalibrationImage], make: Callable[[], Plan], how: str = ""
) -> Plan:
    """Return the plan that `make` returns, from the user's cache if it is there.

    Args:
        model: The model the plan was made for.
        plan: A plan that is not calibrated.
        images: Calibration images.
        make: Returns the calibrated plan.
        how: Whatever else determines the result, besides the plan and the images.
    """
    folder = _folder()
    stamp = getattr(images, "stamp", None)
    quantizes_activations = any(site.role == "activation" for site in plan.sites)
    if folder is None or not quantizes_activations or stamp is None:
        return make()
    place = folder / _key(model, plan, getattr(images, "name", ""), stamp, how)
    found = _load(place, model)
    if found is None:
        found = make()
        with suppress(OutputError, OSError):
            save_plan(found, place)
            _forget_oldest(folder)
    return dataclasses.replace(found, scheme=plan.scheme, scheme_digest=plan.scheme_digest)


@dataclass(frozen=True, slots=True)
class CachedPlans:
    """What the cache holds.

    Attributes:
        folder: Folder of the cache; None if no folder can be written.
        count: Number of plans.
        size_bytes: Total size of the plans.
    """

    folder: Path | None
    count: int
    size_bytes: int


def cached_plans() -> CachedPlans:
    """Return what the cache holds."""
    folder = _folder()
    plans = _entries(folder) if folder is not None else []
    return CachedPlans(folder, len(plans), sum(map(_size_bytes, plans)))


def clear_cached_plans() -> int:
    """Remove all cached plans and return how many there were."""
    folder = _folder()
    plans = _entries(folder) if folder is not None else []
    for plan in plans:
        shutil.rmtree(plan, ignore_errors=True)
    return sum(not plan.exists() for plan in plans)


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    if not named:
        return cache_folder("plans")
    return None if named == "off" else expanded(named) / "plans"


def _entries(folder: Path) -> list[Path]:
    """Return the cached plans, the most recently used one last; other files in the folder do not count."""
    try:
        return sorted((place for place in folder.iterdir() if _NAME.fullmatch(place.name)), key=_used_ns)
    except OSError:  # not there yet
        return []


def _size_bytes(place: Path) -> int:
    try:
        return sum(file.stat().st_size for file in place.iterdir())
    except OSError:  # another process removed it just now
        return 0


def _used_ns(place: Path) -> int:
    try:
        return place.stat().st_mtime_ns
    except OSError:  # another process removed it just now
        return 0


def _key(model: EfficientViTSam, plan: Plan, name: str, stamp: str, how: str = "") -> str:
    device = str(model.device)
    machine = environment()
    told = [PLAN_VERSION, plan.digest, name, stamp, how, device, torch.get_num_threads(), _sources_stamp()]
    told += [machine[key] for key in ("quantsam", "torch", "numpy", "machine", "instruction_sets")]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@functools.cache
def _sources_stamp() -> str:
    """Return a digest that changes with quantsam's own files, so that developers get no outdated plans."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file.relative_to(root)}:{status.st_size}:{status.st_mtime_ns};".encode())
    return digest.hexdigest()


def _load(place: Path, model: EfficientViTSam) -> Plan | None:
    if not place.is_dir():
        return None
    try:
        plan = load_plan(place, model)
    except (PlanError, OSError):  # damaged, or removed by another process
        shutil.rmtree(place, ignore_errors=True)
        return None
    with suppress(OSError):  # somebody else's cache can be read, but not written
        os.utime(place)
    return plan


def _forget_oldest(folder: Path) -> None:
    for place in _entries(folder)[:-MOST_PLANS]:
        shutil.rmtree(place, ignore_errors=True)
