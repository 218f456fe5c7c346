"""The number formats of ONNX's QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quantsam.errors import PlanError
from quantsam.plans.plan import PlanSite
from quantsam.quant.formats import Format
from quantsam.quant.quantizers import QUANTIZERS

TYPES = {
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
    "fp8_e4m3": TensorProto.FLOAT8E4M3FN,
    "fp8_e5m2": TensorProto.FLOAT8E5M2,
}
WIDENED: dict[int, int] = {TensorProto.INT4: TensorProto.INT8, TensorProto.UINT4: TensorProto.UINT8}
"""Weights that the file keeps in 4 bits, and the type that an engine widens them to while it loads the file.

Without, ONNX Runtime and OpenVINO would compute such convolutions in float."""


def storage_type(site: PlanSite) -> int:
    """Return ONNX's type for a site's codes.

    Weights with a bit width that ONNX lacks are stored in the next wider type. Activations are not, because their codes
    would saturate at other values.

    Raises:
        PlanError: ONNX cannot express the site.
    """
    spec = site.spec
    if not QUANTIZERS[spec.quantizer].is_linear:
        raise PlanError(
            f"{site.key} cannot be exported: ONNX quantizes uniformly, got quantizer {spec.quantizer!r}: use 'uniform' "
            "there"
        )
    if spec.format in TYPES:
        return TYPES[spec.format]
    wider = _wider(spec.fmt)
    if site.role == "weight" and wider is not None:
        return TYPES[wider]
    raise PlanError(
        f"{site.key} cannot be exported: ONNX has {', '.join(TYPES)}, got {spec.format!r}: choose one of them"
    )


def _wider(fmt: Format) -> str | None:
    if fmt.kind != "int":
        return None
    return next((f"{'int' if fmt.signed else 'uint'}{bits}" for bits in (4, 8, 16) if bits >= fmt.num_bits), None)


def zero_point_tensor(name: str, zero_point: NDArray[np.int32], onnx_type: int) -> onnx.TensorProto:
    """Return zero points as a constant of the codes' type."""
    is_float = onnx_type in (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)
    return codes_tensor(name, zero_point.astype(np.uint8) if is_float else zero_point, onnx_type)


def codes_tensor(name: str, codes: NDArray[np.generic], onnx_type: int) -> onnx.TensorProto:
    """Return integer codes as a constant; 4-bit codes are packed two per byte."""
    if onnx_type in (TensorProto.INT4, TensorProto.UINT4):
        nibbles = codes.reshape(-1).astype(np.int64).astype(np.uint8) & 0xF
        nibbles = np.pad(nibbles, (0, nibbles.size % 2))
        packed = nibbles[0::2] | nibbles[1::2] << 4
        return helper.make_tensor(name, onnx_type, codes.shape, packed.tobytes(), raw=True)
    if onnx_type in (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2):
        return helper.make_tensor(name, onnx_type, codes.shape, codes.view(np.uint8).tobytes(), raw=True)
    dtype = helper.tensor_dtype_to_np_dtype(onnx_type)
    return onnx.numpy_helper.from_array(codes.astype(dtype, order="C"), name)
