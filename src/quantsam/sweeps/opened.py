"""Points made ready: checked before anything starts, and identified by everything that determines their numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quantsam.engines.encoder import check_formats
from quantsam.errors import InputError, QuantsamError, SchemeError, nearest, one_of
from quantsam.evaluation.detector import open_detections
from quantsam.evaluation.prompts import parse_prompt
from quantsam.models.encoder import ImageEncoder
from quantsam.models.variants import get_variant
from quantsam.plans.make import resolve_sites
from quantsam.plans.plan import PlanSite
from quantsam.repair.calibrated import repairs_of
from quantsam.results.record import JsonValue, identity
from quantsam.runtime.engines import PYTORCH
from quantsam.schemes.line import split_observer, with_observer
from quantsam.schemes.load import load_scheme
from quantsam.schemes.scheme import Scheme
from quantsam.sensitivity.study import check_settings
from quantsam.sensitivity.table import pictures_with_objects
from quantsam.sweeps.point import CROWDS, QUANTIZE, Point
from quantsam.sweeps.worker import Shelf, study_settings, versions


@dataclass(frozen=True, slots=True, eq=False)
class OpenedPoint:
    """A point that can run.

    Attributes:
        point: The point.
        identity: Digest of everything that determines its numbers; the id of its record.
        scheme: The point's scheme.
        image_ids: Images to score.
        calibration: Identity of the calibrated plan; None if calibration needs no images.
        expected: What workers must have, see `Job`.
    """

    point: Point
    identity: str
    scheme: Scheme
    image_ids: tuple[int, ...]
    calibration: str | None
    expected: Mapping[str, str]


def open_points(points: Sequence[Point], shelf: Shelf, threads: int) -> list[OpenedPoint]:
    """Check and identify all points. Points of one model are next to each other in the result.

    Raises:
        QuantsamError: A point cannot run; the message names it. Nothing has started then.
    """
    failed = _checked(points)  # loads nothing
    if not failed:
        opened, failed = try_points(points, shelf, threads)
        if not failed:
            return opened
    (point, (error, *_)), *others = failed.items()
    more = f"; {len(others)} more runs cannot either, --dry-run lists all" if others else ""
    raise type(error)(f"{point.label} cannot run: {error}{more}") from error


def try_points(
    points: Sequence[Point], shelf: Shelf, threads: int
) -> tuple[list[OpenedPoint], dict[Point, list[QuantsamError]]]:
    """Check all points; return the identified points that can run, and all errors of each of the others."""
    failed = _checked(points)
    rest = [point for point in points if point not in failed]
    groups = {_group(point): number for number, point in reversed([*enumerate(rest)])}  # in the order of the points
    opened: list[OpenedPoint] = []
    for point in sorted(rest, key=lambda point: groups[_group(point)]):
        errors = _errors(point, *_loads(point, shelf))
        errors = errors or _errors(point, lambda point: opened.append(_open(point, shelf, threads)))
        if errors:
            failed[point] = errors
    return opened, failed


def _checked(points: Sequence[Point]) -> dict[Point, list[QuantsamError]]:
    """Return the errors of the points that `check_point` refuses."""
    return {point: errors for point in points if (errors := _errors(point, check_point))}


def _errors(point: Point, *calls: Callable[[Point], object]) -> list[QuantsamError]:
    """Call all with a point; return the errors."""
    found = []
    for call in calls:
        try:
            call(point)
        except QuantsamError as error:
            found.append(error)
    return found


def _loads(point: Point, shelf: Shelf) -> list[Callable[[Point], object]]:
    """Return what loads the files of a point that was checked."""
    with torch.device("meta"):
        sites = _sites(point, ImageEncoder(get_variant(point.model)), point_scheme(point))
    return [shelf.model, shelf.dataset, _check_detections, *([shelf.images] if _needs_images(sites) else [])]


def _check_detections(point: Point) -> None:
    """Check that a point's detections are there; they are read once the dataset is."""
    if point.detections is not None and not Path(point.detections).is_file():
        raise InputError(f"detections must be a file, got {point.detections!r}: check the path")


def check_point(point: Point) -> None:
    """Check, without loading anything, that a point can run.

    Raises:
        QuantsamError: The point cannot run.
    """
    variant = get_variant(point.model)
    parse_prompt(point.prompts)
    point.deployment.check()
    if point.quantize not in QUANTIZE:
        raise InputError(one_of("quantize", point.quantize, QUANTIZE))
    if point.crowds not in CROWDS:
        raise InputError(f"crowds must be yes or no, got {point.crowds!r}: {nearest(point.crowds, CROWDS)}")
    if point.crowds == "no" and point.detections is not None:
        raise InputError(
            "crowds is of prompts made from the ground truth: detections have COCO's own rule, leave it out"
        )
    if point.detections is not None and point.prompts != "box":
        raise InputError("detections and prompts exclude each other: the detector's boxes are the prompts")
    if point.kind == "sensitivity":
        check_settings(study_settings(point))
    scheme = point_scheme(point)
    with torch.device("meta"):
        encoder = ImageEncoder(variant)
    sites = _sites(point, encoder, scheme)
    if point.engine != PYTORCH:
        check_formats(sites, point.engine)
    if _needs_images(sites):
        point.calibration_source.spec_for(point.model)  # raises an error if there are none


def point_scheme(point: Point) -> Scheme:
    """Return a point's scheme, with the point's observer.

    Raises:
        SchemeError: There is no such scheme, or both the scheme and the point name an observer.
    """
    scheme = load_scheme(point.scheme)
    is_kept = point.observer is None or not scheme.rules  # the float model is the same under all observers
    if is_kept:
        return scheme
    if not point.scheme.endswith(".toml") and split_observer(point.scheme) is not None:
        raise SchemeError(
            f"scheme {point.scheme!r} names its observer itself, got observer {point.observer!r} too: leave one out"
        )
    return with_observer(scheme, str(point.observer))


def _open(point: Point, shelf: Shelf, threads: int) -> OpenedPoint:
    scheme, model, dataset = point_scheme(point), shelf.model(point), shelf.dataset(point)
    detections = None if point.detections is None else open_detections(point.detections, dataset)
    if detections is None:
        pictures_with_objects(dataset)
    expected = {"weights": model.weights_digest(), "dataset": dataset.digest, **versions(point)}
    shared: dict[str, JsonValue] = {
        "weights_digest": expected["weights"],
        "device": point.device,
        "threads": threads,
        "versions": versions(point),
    }
    if detections is not None:
        expected["detections"] = detections.digest
    calibration = None
    if _needs_images(_sites(point, model.float_encoder, scheme)):
        expected["calibration"] = shelf.images(point).digest
        plan: dict[str, JsonValue] = {
            "scheme": scheme.digest,
            "quantize": point.quantized,
            "placement": point.deployment.placed,
            "images": expected["calibration"],
            **_repairs(point, scheme),
        }
        calibration = identity({**shared, **plan})
    depends_on: dict[str, Any] = {
        **shared,
        "kind": point.kind,
        "model": point.model,
        "scheme": scheme.digest,
        "quantize": point.quantized,
        "placement": point.deployment.placed if scheme.rules else None,
        "calibration": calibration,
        "engine": point.engine,
        "precision": point.precision,
        "dataset": dataset.digest,
        "prompts": parse_prompt(point.prompts).name if detections is None else detections.digest,
        **(_repairs(point, scheme) if calibration is not None else {}),
        "study": dataclasses.asdict(study_settings(point)) if point.kind == "sensitivity" else None,
    }
    return OpenedPoint(point, identity(depends_on), scheme, tuple(dataset.image_ids), calibration, expected)


def _repairs(point: Point, scheme: Scheme) -> dict[str, JsonValue]:
    """Return what identifies a point's repairs; nothing without repairs, as in versions before repairs."""
    deployment = point.deployment
    names = repairs_of(scheme, deployment.repairs, activations=deployment.activations)
    return {"repairs": list(names)} if names else {}


def _sites(point: Point, encoder: ImageEncoder, scheme: Scheme) -> tuple[PlanSite, ...]:
    deployment = point.deployment
    return resolve_sites(
        encoder, scheme, deployment.placed, weights=deployment.weights, activations=deployment.activations
    )


def _needs_images(sites: Iterable[PlanSite]) -> bool:
    return any(site.role == "activation" for site in sites)


def _group(point: Point) -> tuple[str, ...]:
    return tuple(
        map(str, (point.model_source, point.deployment.placed, point.quantized, point.repair, point.calibration_source))
    )
