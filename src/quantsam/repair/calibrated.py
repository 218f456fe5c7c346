"""Plans of several schemes, calibrated together, and repaired where a scheme or the caller asks for it."""

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

    All that are not repaired share passes over the images: schemes that quantize a site alike share what was measured
    there. Each that is repaired goes through them several times, so they must be something that can be iterated over
    again.

    Args:
        model: In float.
        schemes: Schemes, or what `load_scheme` takes.
        images: See `calibrate`; not needed where no activation is quantized.
        placement: Where tensors are quantized.
        weights: Quantize weights.
        activations: Quantize activations; nothing is repaired if not.
        repairs: What is repaired in all of them, see `repair_plan`; None for what each scheme says.
        progress: Wraps the iteration over the images.
        calibrate_one: Does a pass without repairs, if it is to be done in another way than here: by several workers,
            for example.

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
    """Return what is repaired of a scheme: what was asked for, or what it says itself; nothing without activations."""
    if not scheme.quantizes_activations or not activations:
        return ()
    return tuple(scheme.repairs if repairs is None else repairs)
