"""Transforms: what a plan does to the float encoder before anything is measured, simulated or exported.

A transform is a frozen value: its name, its settings and its tensors are saved with the plan and belong to its digest.
The order counts: the folding of BatchNorm, then repairs, which the package `repair` makes.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from quantsam.errors import PlanError, nearest
from quantsam.models.encoder import ImageEncoder
from quantsam.models.fold import fold_norms
from quantsam.models.reflect import reflect_streams
from quantsam.models.rounding import with_code_offsets
from quantsam.models.scale import LARGEST_EXPONENT, check_shifts, scale_inputs, scale_links, scale_outputs
from quantsam.models.shift import shift_streams

Setting = str | int | float | bool | None


@dataclass(frozen=True, slots=True, eq=False)
class Transform(ABC):
    """One change of the float encoder.

    Attributes:
        name: What it is called in files.
        repair: The repair that makes it; None of those that a placement begins with.
    """

    name: ClassVar[str]
    repair: ClassVar[str | None] = None

    @abstractmethod
    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return the changed encoder; `encoder` is unchanged."""

    def settings(self) -> dict[str, Setting]:
        """Return what it is made of besides tensors, as JSON."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors, on the processor."""
        return {}

    @classmethod
    def restore(cls, settings: Mapping[str, Setting], tensors: Mapping[str, Tensor]) -> Self:
        """Return the transform that `settings` and `tensors` were taken from.

        Raises:
            ValueError: It could not have given them.
        """
        if settings or tensors:
            raise ValueError(f"transform {cls.name} has no settings and no tensors")
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class FoldNorms(Transform):
    """Every BatchNorm becomes part of the convolution before it, as in all inference engines."""

    name: ClassVar[str] = "fold_norms"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder in eval mode that computes the same without BatchNorm."""
        return fold_norms(encoder)


@dataclass(frozen=True, slots=True, eq=False)
class _ByName(Transform):
    """A transform made of tensors, by the name of what each changes.

    Attributes:
        contents: What the values are called in errors.
        dtype: Of each value.
        dimensions: How many each value has.
        largest: Magnitude that no element exceeds.
        values: By name.
    """

    contents: ClassVar[str] = "values"
    dtype: ClassVar[torch.dtype] = torch.float32
    dimensions: ClassVar[int] = 1
    largest: ClassVar[float] = torch.finfo(torch.float32).max
    values: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Return the values."""
        return dict(self.values)

    @classmethod
    def _is_sound(cls, tensor: Tensor) -> bool:
        is_of_kind = tensor.dtype == cls.dtype and tensor.ndim == cls.dimensions
        return is_of_kind and bool((tensor.double().abs() <= cls.largest).all())  # NaN is not

    @classmethod
    def restore(cls, settings: Mapping[str, Setting], tensors: Mapping[str, Tensor]) -> Self:
        """Return the transform of these values.

        Raises:
            ValueError: They could not be its own.
        """
        for name, tensor in tensors.items():
            if not cls._is_sound(tensor):
                raise ValueError(f"transform {cls.name} has {cls.contents} of {name} that are none")
        if settings or not tensors:
            raise ValueError(f"transform {cls.name} has no settings, but {cls.contents}")
        return cls(dict(tensors))


@dataclass(frozen=True, slots=True, eq=False)
class _ByExponents(_ByName):
    """A transform made of exponents of two, one a channel, (C,) int32."""

    contents: ClassVar[str] = "exponents"
    dtype: ClassVar[torch.dtype] = torch.int32
    largest: ClassVar[float] = LARGEST_EXPONENT


@dataclass(frozen=True, slots=True, eq=False)
class ScaleStreams(_ByExponents):
    """Channels between linear operations are divided by powers of two where written, and multiplied where read.

    They are those of residual streams, and within attention.
    """

    name: ClassVar[str] = "scale_streams"
    repair: ClassVar[str | None] = "streams"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same to the last bit, but for what underflows."""
        return scale_links(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ScaleInputs(_ByExponents):
    """Channels of convolutions' inputs are divided by powers of two before their site, and the weights multiplied."""

    name: ClassVar[str] = "scale_inputs"
    repair: ClassVar[str | None] = "migrate"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same to the last bit, but for what underflows."""
        return scale_inputs(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ScaleOutputs(_ByExponents):
    """Channels of convolutions' outputs are divided by powers of two within them, and multiplied behind their site."""

    name: ClassVar[str] = "scale_outputs"
    repair: ClassVar[str | None] = "migrate"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same to the last bit, but for what underflows."""
        return scale_outputs(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ShiftStreams(_ByName):
    """Constants, (C,) by the stream's name, are subtracted from residual streams and given back in readers' biases."""

    name: ClassVar[str] = "shift_streams"
    repair: ClassVar[str | None] = "shift"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same but for the last digits."""
        return shift_streams(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ReflectStreams(_ByName):
    """Residual streams are multiplied by `I - a b^T` where written and where read: (2, C), by stream."""

    name: ClassVar[str] = "reflect_streams"
    repair: ClassVar[str | None] = "reflect"
    dimensions: ClassVar[int] = 2

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same but for the last digits."""
        return reflect_streams(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ChooseRanges(_ByName):
    """Sites have these ranges, whatever an observer says: (2, 1 or C), low and high, by the site's key.

    The float encoder stays as it is; `calibrate` makes grids of the ranges.
    """

    name: ClassVar[str] = "choose_ranges"
    repair: ClassVar[str | None] = "ranges"
    dimensions: ClassVar[int] = 2

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return the encoder itself."""
        return encoder


@dataclass(frozen=True, slots=True, eq=False)
class RoundWeights(_ByName):
    """Codes of weights below 8 bits are not the nearest ones: what is added to these, int8, by the convolution's path.

    The float model stays as it is; `plans.prepare.weight_codes` gives the codes.
    """

    name: ClassVar[str] = "round_weights"
    repair: ClassVar[str | None] = "rounding"
    contents: ClassVar[str] = "offsets"
    dtype: ClassVar[torch.dtype] = torch.int8
    dimensions: ClassVar[int] = 4

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same and knows the offsets.

        Raises:
            PlanError: The offsets are not of this encoder.
        """
        return with_code_offsets(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class CorrectBiases(_ByName):
    """Biases take back the mean error that rounding brings: (out,) by the convolution's path, to be added to its bias.

    The float model has no such error, so the float encoder stays as it is: `plans.biases.corrected_biases` gives the
    biases where weight and input are rounded.
    """

    name: ClassVar[str] = "correct_biases"
    repair: ClassVar[str | None] = "bias"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return the encoder itself.

        Raises:
            PlanError: The shifts are not of this encoder.
        """
        check_shifts(encoder, self.values)
        return encoder


TRANSFORMS: dict[str, type[Transform]] = {
    transform.name: transform
    for transform in (
        FoldNorms,
        ReflectStreams,
        ScaleStreams,
        ShiftStreams,
        ScaleInputs,
        ScaleOutputs,
        ChooseRanges,
        RoundWeights,
        CorrectBiases,
    )
}


def restore_transform(name: str, settings: Mapping[str, Setting], tensors: Mapping[str, Tensor]) -> Transform:
    """Return a transform by name.

    Raises:
        PlanError: There is none of that name.
        ValueError: Settings or tensors are not its.
    """
    if name not in TRANSFORMS:
        raise PlanError(
            f"a plan's transforms must be of {', '.join(TRANSFORMS)}, got {name!r}: {nearest(name, TRANSFORMS)}; "
            "a newer quantsam may know it"
        )
    return TRANSFORMS[name].restore(settings, tensors)


def transforms_digest(transforms: Sequence[Transform]) -> str:
    """Return the hex SHA-256 of transforms in their order."""
    digest = hashlib.sha256()
    for transform in transforms:
        digest.update(json.dumps([transform.name, transform.settings()], sort_keys=True).encode())
        for name, tensor in sorted(transform.tensors().items()):
            digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def transformed(encoder: ImageEncoder, transforms: Sequence[Transform]) -> ImageEncoder:
    """Apply transforms in their order; `encoder` is unchanged, and returned itself if there are none."""
    for transform in transforms:
        encoder = transform.apply(encoder)
    return encoder
