"""Measure the range of every channel of activations over calibration images, for repairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Convolution
from quantsam.models.structure import structure_of
from quantsam.plans.observation import CalibrationImage, check_finite, observe_activations
from quantsam.progress import Progress
from quantsam.quant.params import TensorSpec

_CHANNELS = TensorSpec("int8", "minmax", symmetric=True, per_channel=True)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelRange:
    """The range of a tensor per channel.

    Attributes:
        low: (C,) smallest values.
        high: (C,) largest values.
    """

    low: Tensor
    high: Tensor

    @property
    def reach(self) -> Tensor:
        """Largest magnitudes, (C,)."""
        return self.low.abs().maximum(self.high.abs())


def channel_ranges(
    prepared: ImageEncoder, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> dict[str, ChannelRange]:
    """Return the ranges of all convolutions' inputs and outputs, keyed by the path of their site.

    Args:
        prepared: The float encoder with a plan's transforms.
        images: See `calibrate`.
        progress: Wraps the iteration over the images.

    Raises:
        CalibrationError: There are no images, they show nothing, or a value is not finite.
    """
    convolutions = list(structure_of(prepared).convolutions)
    paths = [path for conv in convolutions for path in _sites_of(conv)]
    specs = {path: (path, _CHANNELS) for path in paths}
    seen = observe_activations(prepared, specs, images, progress)
    seen.check_seen()
    ranges = {}
    for path, observer in seen.observers.items():
        check_finite(observer, path, "check the calibration images and the weights")
        low, high = observer.range()
        ranges[path] = ChannelRange(low.clone(), high.clone())
    return ranges


def _sites_of(conv: Convolution) -> tuple[str, str]:
    return conv.input_site, conv.conv_site
