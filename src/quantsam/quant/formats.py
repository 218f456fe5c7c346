"""Number formats: the grids that a quantized tensor may live on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from quantsam.errors import SchemeError, nearest


@dataclass(frozen=True, slots=True)
class Format:
    """A number format.

    Attributes:
        name: Its name in schemes: `int8`, `uint4`, `fp8_e4m3`, ...
        kind: `int` for an integer grid, `float` for an 8-bit float.
        num_bits: Bits a stored value takes.
        signed: Whether it has negative values.
        qmin: Smallest code of an integer format; the most negative value of a float one.
        qmax: Largest code of an integer format; the largest finite value of a float one.
    """

    name: str
    kind: Literal["int", "float"]
    num_bits: int
    signed: bool
    qmin: float
    qmax: float

    @property
    def zero_points(self) -> tuple[float, float]:
        """The smallest and the largest zero point: codes of an integer format, 0 of a float one."""
        return (self.qmin, self.qmax) if self.kind == "int" else (0, 0)

    @property
    def levels(self) -> int:
        """Number of codes of an integer format."""
        return int(self.qmax - self.qmin) + 1


def _integer(bits: int, signed: bool) -> Format:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Format(f"{'int' if signed else 'uint'}{bits}", "int", bits, signed, low, high)


FLOAT8_DTYPES = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
"""PyTorch's type of each 8-bit float; NaN and infinity are never produced, values saturate."""

FORMATS: dict[str, Format] = {
    **{f.name: f for f in (_integer(bits, signed) for bits in range(2, 17) for signed in (True, False))},
    **{
        name: Format(name, "float", 8, True, torch.finfo(dtype).min, torch.finfo(dtype).max)
        for name, dtype in FLOAT8_DTYPES.items()
    },
}


def get_format(name: str) -> Format:
    """Return a format by name.

    Raises:
        SchemeError: No format has that name.

    >>> get_format("int8").qmin, get_format("uint4").qmax, get_format("fp8_e4m3").qmax
    (-128, 15, 448.0)
    """
    if name not in FORMATS:
        raise SchemeError(
            f"format must be int2..int16, uint2..uint16, fp8_e4m3 or fp8_e5m2, got {name!r}: {nearest(name, FORMATS)}"
        )
    return FORMATS[name]
