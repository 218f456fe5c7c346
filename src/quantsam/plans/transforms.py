"""Transforms: changes of the float encoder that a plan makes before anything is measured, simulated or exported.

A transform is a frozen value: its name, settings and tensors are saved with the plan and belong to the plan's digest.
The order counts: first BatchNorm is folded, then come the repairs, which the package `repair` makes.
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
        name: Name of the transform in files.
        repair: The repair that makes it; None for transforms that come from a placement.
    """

    name: ClassVar[str]
    repair: ClassVar[str | None] = None

    @abstractmethod
    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return the changed encoder; `encoder` is unchanged."""

    def settings(self) -> dict[str, Setting]:
        """Return its content besides tensors, as JSON values."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors, on the processor."""
        return {}

    @classmethod
    def restore(cls, settings: Mapping[str, Setting], tensors: Mapping[str, Tensor]) -> Self:
        """Return the transform that `settings` and `tensors` were taken from.

        Raises:
            ValueError: The settings or tensors cannot come from this transform.
        """
        if settings or tensors:
            raise ValueError(f"transform {cls.name} has no settings and no tensors")
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class FoldNorms(Transform):
    """Folds every BatchNorm into the convolution before it, as all inference engines do."""

    name: ClassVar[str] = "fold_norms"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder in eval mode that computes the same without BatchNorm."""
        return fold_norms(encoder)


@dataclass(frozen=True, slots=True, eq=False)
class _ByName(Transform):
    """A transform that consists of tensors, keyed by the name of what each tensor changes.

    Attributes:
        contents: Name of the values in errors.
        dtype: Type of each value.
        dimensions: Number of dimensions of each value.
        largest: Largest allowed magnitude of an element.
        values: The tensors, keyed by name.
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
        """Return the transform with these values.

        Raises:
            ValueError: The settings or tensors cannot come from this transform.
        """
        for name, tensor in tensors.items():
            if not cls._is_sound(tensor):
                raise ValueError(f"transform {cls.name} has {cls.contents} of {name} that are none")
        if settings or not tensors:
            raise ValueError(f"transform {cls.name} has no settings, but {cls.contents}")
        return cls(dict(tensors))


@dataclass(frozen=True, slots=True, eq=False)
class _ByExponents(_ByName):
    """A transform that consists of exponents of two, one per channel, (C,) int32."""

    contents: ClassVar[str] = "exponents"
    dtype: ClassVar[torch.dtype] = torch.int32
    largest: ClassVar[float] = LARGEST_EXPONENT


@dataclass(frozen=True, slots=True, eq=False)
class ScaleStreams(_ByExponents):
    """Divides channels between linear operations by powers of two where written, and multiplies them where read.

    These are the channels of residual streams, and channels within attention.
    """

    name: ClassVar[str] = "scale_streams"
    repair: ClassVar[str | None] = "streams"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same to the last bit, but for what underflows."""
        return scale_links(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ScaleInputs(_ByExponents):
    """Divides channels of convolution inputs by powers of two before the input's site, and multiplies the weights."""

    name: ClassVar[str] = "scale_inputs"
    repair: ClassVar[str | None] = "migrate"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same to the last bit, but for what underflows."""
        return scale_inputs(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ScaleOutputs(_ByExponents):
    """Divides channels of convolution outputs by powers of two in weight and bias; multiplies them behind the site."""

    name: ClassVar[str] = "scale_outputs"
    repair: ClassVar[str | None] = "migrate"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same to the last bit, but for what underflows."""
        return scale_outputs(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ShiftStreams(_ByName):
    """Subtracts constants, (C,) by the stream's name, from residual streams; the readers' biases make up for them."""

    name: ClassVar[str] = "shift_streams"
    repair: ClassVar[str | None] = "shift"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same but for the last digits."""
        return shift_streams(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ReflectStreams(_ByName):
    """Multiplies residual streams by `I - a b^T` where written and where read: `a` and `b`, (2, C), keyed by stream."""

    name: ClassVar[str] = "reflect_streams"
    repair: ClassVar[str | None] = "reflect"
    dimensions: ClassVar[int] = 2

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same but for the last digits."""
        return reflect_streams(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ChooseRanges(_ByName):
    """Overrides the observers' ranges: (2, 1 or C), low and high, keyed by the site's key.

    The float encoder does not change; `calibrate` turns the ranges into grids.
    """

    name: ClassVar[str] = "choose_ranges"
    repair: ClassVar[str | None] = "ranges"
    dimensions: ClassVar[int] = 2

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return the encoder itself."""
        return encoder


@dataclass(frozen=True, slots=True, eq=False)
class ChooseWeightRanges(ChooseRanges):
    """Overrides the ranges of weights below 8 bits, whose codes `RoundWeights` then chooses."""

    name: ClassVar[str] = "choose_weight_ranges"
    repair: ClassVar[str | None] = "rounding"


@dataclass(frozen=True, slots=True, eq=False)
class RoundWeights(_ByName):
    """Adds offsets to the nearest codes of weights below 8 bits: int8, keyed by the convolution's path.

    The float model does not change; `plans.prepare.weight_codes` returns the codes.
    """

    name: ClassVar[str] = "round_weights"
    repair: ClassVar[str | None] = "rounding"
    contents: ClassVar[str] = "offsets"
    dtype: ClassVar[torch.dtype] = torch.int8
    dimensions: ClassVar[int] = 4

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return an encoder that computes the same and holds the offsets.

        Raises:
            PlanError: The offsets do not belong to this encoder.
        """
        return with_code_offsets(encoder, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class CorrectBiases(_ByName):
    """Corrects the mean rounding error in biases: adds (out,) to a bias, keyed by the convolution's path.

    The float model has no such error, so the float encoder does not change: `plans.biases.corrected_biases` returns the
    biases of convolutions whose weight and input are rounded.
    """

    name: ClassVar[str] = "correct_biases"
    repair: ClassVar[str | None] = "bias"

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return the encoder itself.

        Raises:
            PlanError: The shifts do not belong to this encoder.
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
        ChooseWeightRanges,
        RoundWeights,
        CorrectBiases,
    )
}


def restore_transform(name: str, settings: Mapping[str, Setting], tensors: Mapping[str, Tensor]) -> Transform:
    """Return a transform by name.

    Raises:
        PlanError: There is no such transform.
        ValueError: The settings or tensors cannot come from this transform.
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
    """Apply transforms in their order. `encoder` is unchanged; without transforms it is returned itself."""
    for transform in transforms:
        encoder = transform.apply(encoder)
    return encoder
