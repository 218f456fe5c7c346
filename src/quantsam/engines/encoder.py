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
        plan: What it runs.
        engine: The engine's name.
        session: What the engine made of it.
        graph: The ONNX file that the engine was given.
        precision: Of what is not quantized.
        exact: Whether this processor's integer kernels compute what the plan says.
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
    """Make sure that an engine has what a plan asks for.

    Raises:
        InputError: There is no such engine.
        PlanError: The plan was placed for another engine, is not calibrated, or has formats that the engine lacks.
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
    """Make sure that an engine has the formats of a plan's sites, calibrated or not.

    Raises:
        PlanError: It lacks one.
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
    """Return the engines that take a scale a channel."""
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
        plan: Calibrated, with the engine's placement; or without sites, for the float model.
        engine: Its name: `onnxruntime`, `openvino`, `tensorrt`.
        threads: Of one inference; PyTorch's number if None.
        precision: Of what is not quantized: `f32`, or on OpenVINO `bf16`, which is faster where the processor has it.
            TensorRT runs it in float16 but for what would overflow.

    Raises:
        InputError: There is no such engine or precision.
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
    """Give the graph of a plan to an engine, so that it is computed exactly on this processor if it can be.

    An engine that can be told to add in 32 bits is told so where it must.

    Args:
        plan: The plan.
        engine: Its name.
        graph: Of `encoder_to_onnx`, or made from one.
        options: How to run it.

    Returns:
        The session, and whether the engine computes what the plan says. If not, an `InexactWarning` was given.
    """
    described = get_engine(engine)
    saturates = plan.processors == "vnni" and described.saturates and not adds_in_32_bits(engine)
    if saturates and not described.widens:
        warnings.warn(inexact_message(f"plan {plan.scheme}/{plan.placement}", engine), InexactWarning, stacklevel=3)
    widen = saturates and described.widens
    session = described.open(graph, dataclasses.replace(options, wide_sums=widen))
    return session, widen or not saturates
