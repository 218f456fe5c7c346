"""An image encoder that a real integer engine runs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from quantsam.engines.onnx_encoder import INPUT, OUTPUT, encoder_to_onnx
from quantsam.engines.tensorrt import check_tensorrt, open_tensorrt
from quantsam.errors import InputError, PlanError, nearest
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import Role
from quantsam.plans.plan import Plan, PlanSite
from quantsam.runtime.sessions import Precision, Session, SessionOptions, open_session, require

ENGINES = ("onnxruntime", "openvino", "tensorrt")
_BYTES, _NIBBLES, _WORDS = ("int8", "uint8"), ("int4", "uint4"), ("int16", "uint16")
_FORMATS: dict[str, dict[Role, tuple[str, ...]]] = {
    "onnxruntime": {"weight": (*_BYTES, *_NIBBLES), "activation": (*_BYTES, *_WORDS)},
    "openvino": {"weight": (*_BYTES, *_NIBBLES), "activation": (*_BYTES, *_WORDS)},
    "tensorrt": {"weight": ("int8", "fp8_e4m3"), "activation": ("int8", "fp8_e4m3")},
}
"""What each engine's own conversion was seen to compute as the plan says; TensorRT's from its documentation."""


class EngineEncoder:
    """An `Encoder` that runs a plan in an engine, one image at a time.

    Attributes:
        plan: What it runs.
        engine: The engine's name.
        session: What the engine made of it.
        graph: The ONNX file that the engine was given.
        precision: Of what is not quantized.
    """

    def __init__(self, plan: Plan, session: Session, graph: bytes, precision: str = "f32") -> None:
        self.plan, self.session, self.engine, self.graph = plan, session, session.engine, graph
        self.precision = precision

    def __call__(self, image: Tensor, /) -> Tensor:
        """Map (N, 3, S, S) to the embedding (N, embed_dim, size, size), on the device of `image`."""
        parts = [self.session.run({INPUT: one[None].cpu().numpy()})[OUTPUT] for one in image.float()]
        return torch.from_numpy(np.concatenate(parts)).to(image.device)


def check_engine(engine: str) -> None:
    """Make sure, before long work, that something computes: `pytorch`, or an engine that is installed.

    Raises:
        InputError: There is no such engine.
        EngineError: It is not installed.
    """
    if engine not in ("pytorch", *ENGINES):
        known = ("pytorch", *ENGINES)
        raise InputError(f"engine must be one of {', '.join(known)}, got {engine!r}: {nearest(engine, known)}")
    if engine == "tensorrt":
        check_tensorrt()
    elif engine != "pytorch":
        require(engine)


def check_runs(plan: Plan, engine: str) -> None:
    """Make sure that an engine has what a plan asks for.

    Raises:
        InputError: There is no such engine.
        PlanError: The plan was placed for another engine, is not calibrated, or has formats that the engine lacks.
    """
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}: {nearest(engine, ENGINES)}")
    plan.check_calibrated()
    if plan.sites and plan.placement != engine:
        raise PlanError(
            f"a plan for {engine} must have placement {engine!r}, got {plan.placement!r}: "
            f"calibrate with --placement {engine}"
        )
    check_formats(plan.sites, engine)


def check_formats(sites: Iterable[PlanSite], engine: str) -> None:
    """Make sure that an engine has the formats of a plan's sites, calibrated or not.

    Raises:
        PlanError: It lacks one.
    """
    for site in sites:
        known = _FORMATS[engine][site.role]
        if site.spec.format not in known or site.spec.quantizer == "log2":
            raise PlanError(
                f"{site.key} must have a format of {engine} ({', '.join(known)}), got {site.spec.format!r} "
                f"with quantizer {site.spec.quantizer!r}: change the scheme, or simulate the plan"
            )
        if engine == "onnxruntime" and site.role == "activation" and site.spec.per_channel:
            raise PlanError(
                f"{site.key} must have one scale on onnxruntime, got one a channel with observer "
                f"{site.spec.observer!r}: take another observer and per_channel = false, or openvino"
            )


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
        engine: `onnxruntime`, `openvino` or `tensorrt`.
        threads: Of one inference; PyTorch's number if None.
        precision: Of what is not quantized: `f32`, or on OpenVINO `bf16`, which is faster where the processor has it.
            TensorRT runs it in float16 but for what would overflow.

    Raises:
        InputError: There is no such engine or precision.
        PlanError: See `check_runs`.
        EngineError: The engine is not installed or refuses the graph.
    """
    check_runs(plan, engine)
    exported = encoder_to_onnx(model, plan)
    graph = exported.SerializeToString()
    if engine == "tensorrt":
        return EngineEncoder(plan, open_tensorrt(exported), graph, "f16")
    side = model.variant.input_size
    options = SessionOptions(threads or torch.get_num_threads(), precision, shapes={INPUT: (1, 3, side, side)})
    return EngineEncoder(plan, open_session(engine, graph, options), graph, precision)
