"""Weight codes other than the nearest ones: each code has an offset, which is added when the weight is rounded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from quantsam.errors import PlanError
from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder


def with_code_offsets(encoder: ImageEncoder, offsets: Mapping[str, Tensor]) -> ImageEncoder:
    """Return a copy whose convolutions have offsets. It computes the same, because it is a float encoder.

    Args:
        encoder: The encoder; the copy shares its parameters.
        offsets: Offsets of a weight's codes, int8, the weight's shape; keyed by the convolution's path.

    Raises:
        PlanError: A path is not a convolution of the encoder, or offsets do not have its weight's shape.
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
