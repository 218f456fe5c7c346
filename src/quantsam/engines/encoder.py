"""An image encoder that a real integer engine runs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from quantsam.engines.onnx_encoder import INPUT, OUTPUT, encoder_to_onnx
from quantsam.errors import PlanError
from quantsam.models.sam import EfficientViTSam
from quantsam.notices import InexactWarning
from quantsam.plans.placements import RUNNABLE
from quantsam.plans.plan import Plan, PlanSite
from quantsam.quant.quantizers import QUANTIZERS
from quantsam.runtime.engines import ENGINES, get_engine, placement_of
from quantsam.runtime.processor import adds_in_32_bits, inexact_message
from quantsam.runtime.sessions import Precision, Session, SessionOptions


class EngineEncoder:
    """An `Encoder` that runs a plan in an engine, one image at a time.

    Attributes:
        plan: The plan that the encoder runs.
        engine: The engine's name.
        session: The engine's session.
        graph: The ONNX file that the engine was given.
        precision: Precision of the parts that are not quantized.
        exact: Whether this processor's integer kernels compute exactly what the plan says.
    """

    def __init__(
        self, plan: Plan, session: Session, graph: bytes, precision: str = "f32", *, exact: bool = True
    ) -> None:
        self.plan, self.session, self.engine, self.graph = plan, session, session.engine, graph
        self.precision, self.exact = precision, exact

    def __call__(self, image: Tensor, /) -> Tensor:
        """Map (N, 3, S, S) to the embedding (N, embed_dim, size, size), on the device of `image`."""
        parts = [self.session.run({INPUT: one[None].cpu().numpy()})[OUTPUT] for one in image.float()]
        return torch.from_numpy(np.concatenate(parts)).to(image.device)


def check_runs(plan: Plan, engine: str) -> None:
    """Make sure that an engine supports a plan.

    Raises:
        InputError: The engine is unknown.
        PlanError: The plan was placed for another engine, is not calibrated, or has formats that the engine does not
            support.
    """
    placements = [placement_of(get_engine(engine).name, vnni=vnni) for vnni in (False, True)]
    plan.check_calibrated()
    base, *changes = plan.placement.split("+")
    if plan.sites and (base != placements[0] or not RUNNABLE.issuperset(changes)):
        raise PlanError(
            f"a plan for {engine} must have placement {' or '.join(repr(p) for p in dict.fromkeys(placements))}, got "
            f"{plan.placement!r}: calibrate with --placement {placements[0]}"
        )
    check_formats(plan.sites, engine)


def check_formats(sites: Iterable[PlanSite], engine: str) -> None:
    """Make sure that an engine supports the formats of a plan's sites, calibrated or not.

    Raises:
        PlanError: The engine does not support a format.
    """
    described = get_engine(engine)
    for site in sites:
        known = described.formats(site.role)
        if site.spec.format not in known or not QUANTIZERS[site.spec.quantizer].is_linear:
            raise PlanError(
                f"{site.key} must have a format of {engine} ({', '.join(known)}), got {site.spec.format!r} "
                f"with quantizer {site.spec.quantizer!r}: change the scheme, or simulate the plan"
            )
        if not described.channel_activations and site.role == "activation" and site.spec.per_channel:
            raise PlanError(
                f"{site.key} must have one scale on {engine}, got one a channel with observer "
                f"{site.spec.observer!r}: take another observer and per_channel = false, or {_others(engine)}"
            )


def _others(engine: str) -> str:
    """Return the engines that support per-channel scales."""
    return " or ".join(name for name, other in ENGINES.items() if other.channel_activations and name != engine)


def make_engine_encoder(
    model: EfficientViTSam,
    plan: Plan,
    engine: str,
    *,
    threads: int | None = None,
    precision: Precision = "f32",
) -> EngineEncoder:
    """Export a plan and give it to an engine of this machine.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan with the engine's placement; or a plan without sites, for the float model.
        engine: Name of the engine: `onnxruntime`, `openvino`, `tensorrt`.
        threads: Number of threads per inference; PyTorch's number if None.
        precision: Precision of the parts that are not quantized: `f32`, or on OpenVINO `bf16`, which is faster if the
            processor supports it. TensorRT runs these parts in float16, except what would overflow.

    Raises:
        InputError: The engine or the precision is unknown.
        PlanError: See `check_runs`.
        EngineError: The engine is not installed or refuses the graph.
    """
    check_runs(plan, engine)
    used = get_engine(engine).precision_for(precision)
    graph = encoder_to_onnx(model, plan).SerializeToString()
    side = model.variant.input_size
    options = SessionOptions(threads or torch.get_num_threads(), used, shapes={INPUT: (1, 3, side, side)})
    session, exact = open_plan(plan, engine, graph, options)
    return EngineEncoder(plan, session, graph, used, exact=exact)


def open_plan(plan: Plan, engine: str, graph: bytes, options: SessionOptions) -> tuple[Session, bool]:
    """Open a plan's graph in an engine, so that it computes exactly on this processor if possible.

    If needed, the engine is set to add in 32 bits, if it has this setting.

    Args:
        plan: The plan.
        engine: Name of the engine.
        graph: A graph from `encoder_to_onnx`, or one made from it.
        options: How to run the graph.

    Returns:
        The session, and whether the engine computes exactly what the plan says. If not, the function gives an
        `InexactWarning`.
    """
    described = get_engine(engine)
    saturates = plan.processors == "vnni" and described.saturates and not adds_in_32_bits(engine)
    if saturates and not described.widens:
        warnings.warn(inexact_message(f"plan {plan.scheme}/{plan.placement}", engine), InexactWarning, stacklevel=3)
    widen = saturates and described.widens
    session = described.open(graph, dataclasses.replace(options, wide_sums=widen))
    return session, widen or not saturates
