"""Show activations to observers, in one pass of the float encoder over images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantsam.data.images import check_image_array, load_image
from quantsam.errors import CalibrationError, InputError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import with_modules
from quantsam.prediction.transforms import preprocess
from quantsam.progress import Progress
from quantsam.quant.observers import Observer, make_observer
from quantsam.quant.params import QParams, TensorSpec

CalibrationImage = str | os.PathLike[str] | NDArray[np.uint8] | Tensor
_Sites = Mapping[str, tuple[str, TensorSpec]]  # key -> path of the module, specification


class ObserverSite(nn.Module):
    """A site that shows its tensor to an observer."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` unchanged."""
        self.observer.observe(x)
        return x


def encoder_input(image: CalibrationImage, size: int) -> Tensor:
    """Turn any accepted form of an image into the encoder's input, (N, 3, size, size) float32.

    Raises:
        InputError: A tensor or array has the wrong shape or type.
        ImageError: A file cannot be read.
    """
    if isinstance(image, Tensor):
        if image.ndim != 4 or image.shape[1:] != (3, size, size) or not image.is_floating_point() or not len(image):
            raise InputError(
                f"a preprocessed image must be float (N, 3, {size}, {size}), got "
                f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}: "
                "give the uint8 image instead, it is preprocessed for you"
            )
        return image.float()
    if isinstance(image, np.ndarray):
        check_image_array(image)
        return preprocess(image, size)
    return preprocess(load_image(Path(image)), size)


@dataclasses.dataclass(slots=True, eq=False)
class Observations:
    """What observers saw of a stream of images. Observations of separate streams can be merged.

    Attributes:
        observers: Observers, keyed by site.
        count: Number of images seen.
        varied: Whether any image showed more than one colour.
    """

    observers: dict[str, Observer]
    count: int = 0
    varied: bool = False

    def merge(self, later: Observations) -> None:
        """Merge the observations of later images. The result is the same as from one pass over all images."""
        for key, observer in self.observers.items():
            observer.merge(later.observers[key])
        self.count += later.count
        self.varied = self.varied or later.varied

    def grids(self, sites: _Sites) -> dict[str, QParams]:
        """Return the grid of every site.

        Raises:
            CalibrationError: There is no image, all images are constant, or a site's values are constant or not finite.
        """
        self.check_seen()
        params = {}
        for key, (_, spec) in sites.items():
            check_finite(self.observers[key], key, "check the calibration images and the weights")
            _check_varied(self.observers[key], key, self.count)
            params[key] = self.observers[key].params(spec)
        return {key: _cloned(value) for key, value in params.items()}

    def check_seen(self) -> None:
        """Check that there were images, and that they showed something.

        Raises:
            CalibrationError: There were no images, or all were of a single colour.
        """
        if not self.count:
            raise CalibrationError(
                "calibration needs at least one image, got none: name a folder of images or 'scenes:16'"
            )
        if not self.varied:
            raise CalibrationError(
                f"calibration images must show something, got {self.count} of a single colour: use real images"
            )


def observe_activations(
    encoder: ImageEncoder, sites: _Sites, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> Observations:
    """Run an encoder on images, and show the tensors at its sites to observers.

    Raises:
        InputError: An image is not valid, see `encoder_input`.
    """
    if isinstance(images, (str, bytes, os.PathLike)):
        raise InputError(
            f"calibration images must be a sequence of images, got the single {os.fspath(images)!r}: "
            "give a list of files, or quantsam.open_images(...)"
        )
    observers = {k: make_observer(spec.observer, 1 if spec.per_channel else None) for k, (_, spec) in sites.items()}
    seen = Observations(observers)
    observed = with_modules(encoder, {path: ObserverSite(observers[key]) for key, (path, _) in sites.items()})
    observed.eval()
    device = next(encoder.parameters()).device
    wrapped = progress(images, len(images) if isinstance(images, Sized) else None) if progress else images
    with torch.inference_mode():
        for image in wrapped:
            x = encoder_input(image, encoder.variant.input_size)
            observed(x.to(device))
            seen.count += len(x)
            seen.varied = seen.varied or not _is_constant(x)
    return seen


def _cloned(params: QParams) -> QParams:
    """Return copies made outside inference mode, which can be used anywhere."""
    return QParams(params.scale.clone(), params.zero_point.clone(), params.axis)


def _is_constant(x: Tensor) -> bool:
    """Return whether each input (N, 3, S, S) has one colour, except for the padding."""
    return bool(((x == x[..., :1, :1]) | (x == 0)).all())


def check_finite(observer: Observer, key: str, remedy: str) -> None:
    """Check that an observer saw only finite values.

    Raises:
        CalibrationError: It saw NaN or infinity.
    """
    low, high = observer.range()
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise CalibrationError(
            f"values of {key} must be finite, got {float(low.min())} to {float(high.max())}: {remedy}"
        )


def _check_varied(observer: Observer, key: str, count: int) -> None:
    low, high = observer.range()
    if bool((low == high).all()):
        raise CalibrationError(
            f"values of {key} must vary, got the constant {float(low.flatten()[0]):g} in all {count} calibration "
            "images: calibrate with real images, or keep this layer in float"
        )
