"""Calibrate plans of several schemes together, and repair them if a scheme or the caller asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from quantsam.models.sam import EfficientViTSam
from quantsam.plans.make import make_plan
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.plans.together import calibrate_together
from quantsam.progress import Progress
from quantsam.repair.repair import repair_plan
from quantsam.schemes.load import load_scheme
from quantsam.schemes.scheme import Scheme


def calibrated_plans(
    model: EfficientViTSam,
    schemes: Sequence[Scheme | str],
    images: Iterable[CalibrationImage],
    placement: str = "thesis",
    *,
    weights: bool = True,
    activations: bool = True,
    repairs: Sequence[str] | None = None,
    progress: Progress | None = None,
    calibrate_one: Callable[[Plan], Plan] | None = None,
) -> list[Plan]:
    """Return a calibrated plan for each scheme, in their order.

    Plans without repairs share passes over the images: schemes that quantize a site alike share its measurements. Each
    repaired plan needs several passes, so it must be possible to iterate over `images` again.

    Args:
        model: The float model.
        schemes: Schemes, or anything that `load_scheme` accepts.
        images: See `calibrate`; not needed if no activation is quantized.
        placement: Where tensors are quantized.
        weights: Quantize weights.
        activations: Quantize activations; without them, nothing is repaired.
        repairs: Repairs of all plans, see `repair_plan`; None for each scheme's own repairs.
        progress: Wraps the iteration over the images.
        calibrate_one: Replaces the default pass without repairs, for example to use several workers.

    Raises:
        SchemeError: A scheme does not fit the model.
        InputError: There is no such repair.
        CalibrationError: See `calibrate`.
    """
    loaded = [scheme if isinstance(scheme, Scheme) else load_scheme(scheme) for scheme in schemes]
    wanted = [repairs_of(scheme, repairs, activations=activations) for scheme in loaded]
    plain = [scheme for scheme, names in zip(loaded, wanted, strict=True) if not names]
    together = iter(
        calibrate_together(
            model,
            plain,
            images,
            placement,
            weights=weights,
            activations=activations,
            progress=progress,
            calibrate_one=calibrate_one,
        )
    )
    found = []
    for scheme, names in zip(loaded, wanted, strict=True):
        if names:
            bare = make_plan(model, scheme, placement, weights=weights, activations=activations)
            label = None if progress is None else (lambda _: progress)
            found.append(repair_plan(model, bare, images, names, progress=label))
        else:
            found.append(next(together))
    return found


def repairs_of(scheme: Scheme, repairs: Sequence[str] | None, *, activations: bool = True) -> tuple[str, ...]:
    """Return a scheme's repairs: those given, or else the scheme's own; none without quantized activations."""
    if not scheme.quantizes_activations or not activations:
        return ()
    return tuple(scheme.repairs if repairs is None else repairs)
