"""Find the repairs that help a model. The float model's own masks decide, so no ground truth is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from quantsam.data.open import ImageSource, SomeImages
from quantsam.engines.encoder import check_formats
from quantsam.errors import CalibrationError, InputError
from quantsam.evaluation.evaluator import journals_of
from quantsam.evaluation.journal import Outcomes, open_journal
from quantsam.models.sam import EfficientViTSam
from quantsam.notices import notice
from quantsam.plans.make import make_plan
from quantsam.plans.plan import Plan
from quantsam.progress import Progress
from quantsam.repair.calibrated import calibrated_plans
from quantsam.repair.repair import REVISION
from quantsam.results.record import JsonValue, identity
from quantsam.results.repair_record import RepairRecord
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import PYTORCH, placement_of, surroundings
from quantsam.schemes.line import uniform_scheme
from quantsam.schemes.load import parse_scheme
from quantsam.schemes.scheme import Scheme
from quantsam.schemes.target import FLOAT
from quantsam.search.own_masks import OwnMasks
from quantsam.search.repair_settings import USUAL, RepairSettings
from quantsam.search.repair_trials import RepairTrials

HELD_OUT = 4
"""Every fourth image is held out: repairs are chosen on it, and it is not used for calibration."""


@dataclass(frozen=True, slots=True, eq=False)
class Repaired:
    """The result of a search for repairs.

    Attributes:
        plan: The calibrated and repaired plan that was measured.
        scheme: The scheme that yields this plan when calibrated on the same images; its repairs are the kept ones.
        record: Record of everything that was tried.
    """

    plan: Plan
    scheme: Scheme
    record: RepairRecord


def find_repairs(
    model: EfficientViTSam,
    scheme: Scheme,
    images: ImageSource,
    settings: RepairSettings = USUAL,
    *,
    placement: str | None = None,
    store: ResultStore | None = None,
    progress: Callable[[str], Progress] | None = None,
    notes: dict[str, JsonValue] | None = None,
) -> Repaired:
    """Try repairs one by one, and keep those that bring the masks closer to the float model's masks.

    Every fourth image is held out, and plans are calibrated on the others. Plans are scored on the held-out images
    against the float model's own masks, with boxes around these masks as prompts. A repair is kept if the loss of masks
    falls by more than its standard error, paired by image. Repairs that did not help are tried again after another
    repair has helped.

    Args:
        model: The float model.
        scheme: The scheme to repair; its own repairs are tried too.
        images: At least eight images.
        settings: Settings of the search.
        placement: Where tensors are quantized; None for the engine's own placement, or `thesis`.
        store: Store to which the record is appended. Results per image are kept beside it until then, so the same call
            resumes an interrupted search. If the store already holds this search, nothing is tried again.
        progress: Maps a label to a wrapper of an iteration over images.
        notes: Entries to add to the record's settings.

    Raises:
        InputError: A setting is out of range, or the scheme quantizes nothing.
        CalibrationError: There are too few images, they show nothing, or the float model finds no masks on them.
        PlanError: The engine lacks a format.
        SchemeError: The scheme does not fit the model.
        StoreError: The store cannot be written.
    """
    settings.check()
    placed = placement or placement_of(settings.engine)
    bare = make_plan(model, scheme, placed)
    if not any(site.role == "activation" for site in bare.sites):
        raise InputError(f"a repair needs quantized activations, got scheme {scheme.name!r}: take int8")
    if settings.engine != PYTORCH:
        check_formats(bare.sites, settings.engine)
        if settings.fall_back and settings.fall_back_to != FLOAT:
            check_formats(make_plan(model, uniform_scheme(settings.fall_back_to), placed).sites, settings.engine)
    if len(images) < 2 * HELD_OUT:
        raise CalibrationError(
            f"a search for repairs needs at least {2 * HELD_OUT} images, one in {HELD_OUT} of which is held out, got "
            f"{len(images)}: give more --calibration-images"
        )
    numbers = range(len(images))
    held_out = OwnMasks(model, SomeImages(images, [n for n in numbers if n % HELD_OUT == HELD_OUT - 1], "held out"))
    calibration = SomeImages(images, [n for n in numbers if n % HELD_OUT != HELD_OUT - 1], "without those held out")
    depends_on: dict[str, Any] = {
        "search": "repairs, then together",  # an earlier search tried them only one by one
        "revision": REVISION,
        "settings": dataclasses.asdict(settings),
        "weights_digest": model.weights_digest(),
        "scheme": bare.scheme_digest,
        "placement": placed,
        "images": images.digest,
        "device": str(model.device),
        "threads": torch.get_num_threads(),  # encoders are timed with this number
        **surroundings(settings.engine),
    }
    record_id = identity(depends_on)
    known = store.find(record_id) if store is not None else None
    if isinstance(known, RepairRecord):
        found = parse_scheme(str(known.results["scheme"]), scheme.name)
        (plan,) = calibrated_plans(
            model, [found], calibration, placed, progress=progress("calibrating") if progress else None
        )
        if plan.digest != known.plan_digest:
            notice("the plan was calibrated anew and differs in its last digits from the one that was measured")
        return Repaired(plan, found, known)
    with open_journal(journals_of(store), depends_on) if store else nullcontext(Outcomes()) as outcomes:
        trials = RepairTrials(model, scheme, calibration, held_out, settings, placed, outcomes, progress)
        trials.run()
        record = trials.record(record_id, {"calibration_images": len(calibration), **(notes or {})})
        if store is not None:
            store.append(record)
    return Repaired(trials.best.plan, trials.best.scheme, record)
