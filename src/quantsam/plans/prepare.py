"""The prepared encoder: the float encoder that contains a plan's sites, used to measure, simulate and export."""

from __future__ import annotations

import threading
from collections import OrderedDict
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from quantsam.models.encoder import ImageEncoder
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.transforms import transformed, transforms_digest
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import QUANTIZERS, dequantize, quantize

_KEPT = 1  # encoders kept per model, the last one requested: each is as large as the encoder
_Key = tuple[str, str, torch.device]

_prepared: WeakKeyDictionary[ImageEncoder, OrderedDict[_Key, ImageEncoder]] = WeakKeyDictionary()
_lock = threading.Lock()


def prepare(model: EfficientViTSam, plan: Plan) -> ImageEncoder:
    """Return the model's float encoder with the plan's transforms. It is shared: do not change it.

    Args:
        model: The model the plan was made for.
        plan: The plan, calibrated or not.

    Raises:
        PlanError: The plan was made for another model or other weights.
    """
    plan.check_fits(model)
    encoder = model.float_encoder
    if not plan.transforms:
        return encoder
    key = (plan.encoder_digest, transforms_digest(plan.transforms), next(encoder.parameters()).device)
    with _lock:
        kept = _prepared.setdefault(encoder, OrderedDict())
        if key not in kept:
            kept[key] = transformed(encoder, plan.transforms)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]


def weight_codes(prepared: ImageEncoder, site: PlanSite) -> Tensor:
    """Return the codes of a weight. No other function computes them.

    Args:
        prepared: The encoder that `prepare` returned.
        site: The weight's site, calibrated.

    Returns:
        (out, in / groups, kernel, kernel), zero point included, on the encoder's device; see `quantize` for the dtype.
    """
    weight = _weight(prepared, site)
    codes = quantize(weight, site.spec, _grid(site, weight.device))
    offsets = prepared.get_submodule(site.path)._buffers.get("code_offsets")
    if offsets is None or not takes_offsets(site.spec):
        return codes
    return (codes + offsets).clamp(int(site.spec.fmt.qmin), int(site.spec.fmt.qmax))


def takes_offsets(spec: TensorSpec) -> bool:
    """Return whether a weight may have codes other than the nearest: integers below 8 bits, which cannot saturate."""
    return QUANTIZERS[spec.quantizer].is_integer and spec.fmt.num_bits < 8


def rounded_weight(prepared: ImageEncoder, site: PlanSite) -> Tensor:
    """Return the float values of a weight's codes, float32, of the weight's shape."""
    codes = weight_codes(prepared, site)
    return dequantize(codes, site.spec, _grid(site, codes.device))


def _weight(prepared: ImageEncoder, site: PlanSite) -> Tensor:
    return prepared.get_submodule(site.path).get_parameter("weight").detach()


def _grid(site: PlanSite, device: torch.device) -> QParams:
    return site.grid.to(device)
