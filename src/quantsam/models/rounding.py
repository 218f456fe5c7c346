"""Codes of weights that are not the nearest ones: an offset for each, which the rounding of a weight adds."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from quantsam.errors import PlanError
from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder


def with_code_offsets(encoder: ImageEncoder, offsets: Mapping[str, Tensor]) -> ImageEncoder:
    """Return a copy whose convolutions have offsets; it computes the same, since it is float.

    Args:
        encoder: Shares its parameters with the copy.
        offsets: Of the codes of a weight, int8 of its shape, by the convolution's path.

    Raises:
        PlanError: A path is no convolution of the encoder, or offsets are not of its weight's shape.
    """
    twin = copy_encoder(encoder)
    modules = dict(twin.named_modules())
    for path, offset in offsets.items():
        conv = modules.get(path)
        if not isinstance(conv, Conv2d) or conv.weight.shape != offset.shape:
            shape = tuple(conv.weight.shape) if isinstance(conv, Conv2d) else "no convolution"
            raise PlanError(
                f"a plan's rounding must be of its encoder's weights, got {path} {tuple(offset.shape)} for {shape}: "
                "repair the plan again"
            )
        conv.code_offsets = offset.to(conv.weight.device)
    return twin
