"""Measure how long encoders and the decoder take, by engine and scheme, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantsam.engines.encoder import check_runs, open_plan
from quantsam.engines.onnx_encoder import INPUT, encoder_to_onnx
from quantsam.errors import InputError
from quantsam.evaluation.record_fields import exactness, fields_of_plan
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.results.record import JsonValue, Record
from quantsam.runtime.engines import PYTORCH, get_engine, surroundings
from quantsam.runtime.sessions import Precision, SessionOptions
from quantsam.simulation.simulator import simulate

DECODED_BOXES = (1, 16)
_PAUSE_S = 0.15  # threads of the previous call spin for a while, and would take processor time from the next call


@dataclass(frozen=True, slots=True)
class Latency:
    """The measured latency of one configuration.

    Attributes:
        what: The timed part: `encoder`, or `decoder, 16 boxes`.
        engine: Name of the engine: `pytorch`, `onnxruntime`, ...
        scheme: Name of the scheme.
        precision: Precision of the parts that are not quantized.
        median_ms: Median time of one call.
        p95_ms: 95th percentile of the time of one call.
        size_bytes: Size of the ONNX file, or of PyTorch's parameters; None for the decoder.
        versus_fp32: Speed-up: the same engine's FP32 time divided by this time; None if FP32 was not measured.
        exact: Whether the engine computed exactly what the plan says on this processor.
    """

    what: str
    engine: str
    scheme: str
    precision: str
    median_ms: float
    p95_ms: float
    size_bytes: int | None
    versus_fp32: float | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class _Timed:
    what: str
    engine: str
    scheme: str
    precision: str
    size_bytes: int | None
    call: Callable[[], object]
    exact: bool = True
    own_ms: Callable[[], float] | None = None  # time of the last call, as reported by an engine in another process


def measure_latency(
    model: EfficientViTSam,
    plans: Sequence[tuple[str, Plan]],
    *,
    rounds: int = 20,
    warm_up: int = 3,
    threads: int = 1,
    batch: int = 1,
    precision: Precision = "f32",
    progress: Callable[[Iterable[int], int | None], Iterable[int]] | None = None,
) -> list[Latency]:
    """Time encoders and the decoder in turn, A B C A B C ..., so that a slowdown of the machine affects all of them.

    Args:
        model: The float model.
        plans: Engine and plan of each encoder; a plan without sites is FP32.
        rounds: Number of timed calls of each.
        warm_up: Number of untimed calls of each before.
        threads: Number of threads for all encoders and the decoder.
        batch: Number of images per encoder call.
        precision: Precision of the parts that are not quantized, on engines that support it; other engines use their
            own.
        progress: Wraps the iteration over the rounds.

    Returns:
        One entry per encoder, in order; then the decoder's (PyTorch): one box and 16 boxes, including preparation.
    """
    if min(rounds, warm_up + 1, threads, batch) < 1:
        raise InputError("rounds, threads and batch must be at least 1, warm_up at least 0")
    size = model.variant.input_size
    image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 4 - 2
    with _torch_threads(threads), torch.inference_mode():
        timed = [_timed_encoder(model, engine, plan, image, threads, precision) for engine, plan in plans]
        timed += _timed_decoders(model)
        samples: list[list[float]] = [[] for _ in timed]
        for one in timed:
            for _ in range(warm_up):
                one.call()
        for _ in progress(range(rounds), rounds) if progress else range(rounds):
            for one, taken in zip(timed, samples, strict=True):
                time.sleep(_PAUSE_S)
                started = time.perf_counter()
                one.call()
                spent = 1000 * (time.perf_counter() - started)
                taken.append(spent if one.own_ms is None else one.own_ms())
    found = [_latency(one, taken) for one, taken in zip(timed, samples, strict=True)]
    whole = {e.engine: e.median_ms for e in found if e.what == "encoder" and e.scheme == "fp32"}
    return [
        dataclasses.replace(e, versus_fp32=whole[e.engine] / e.median_ms)
        if e.what == "encoder" and e.engine in whole
        else e
        for e in found
    ]


def latency_records(
    model: EfficientViTSam, plans: Sequence[tuple[str, Plan]], found: Sequence[Latency], settings: dict[str, JsonValue]
) -> list[Record]:
    """Return a record of kind `latency` for each timed encoder, to compare with its accuracy.

    Args:
        model: As given to `measure_latency`.
        plans: As given to `measure_latency`.
        found: What `measure_latency` returned.
        settings: Threads, batch, rounds and the like.
    """
    encoders = [entry for entry in found if entry.what == "encoder"]
    return [
        Record(
            kind="latency",
            model=model.name,
            weights_digest=model.weights_digest(),
            **fields_of_plan(plan),
            engine=engine,
            prompt=None,
            figures={},
            times={"encoder_ms_median": entry.median_ms, "encoder_ms_p95": entry.p95_ms},
            environment=surroundings(engine),
            settings={
                **settings,
                **({} if entry.precision == "f32" else {"precision": entry.precision}),
                **exactness(plan, entry.exact),
            },
        )
        for (engine, plan), entry in zip(plans, encoders, strict=True)
    ]


def _timed_encoder(
    model: EfficientViTSam, engine: str, plan: Plan, image: Tensor, threads: int, precision: Precision
) -> _Timed:
    if engine == PYTORCH:
        encoder = simulate(model, plan) if plan.sites else model.image_encoder
        size = 4 * sum(p.numel() for p in model.float_encoder.parameters())
        return _Timed("encoder", engine, plan.scheme, "f32", size, lambda: encoder(image))
    check_runs(plan, engine)
    graph = encoder_to_onnx(model, plan).SerializeToString()
    described = get_engine(engine)
    used = described.precision_for(precision if precision in described.precisions else "f32")
    session, exact = open_plan(plan, engine, graph, SessionOptions(threads, used, shapes={INPUT: tuple(image.shape)}))
    inputs = {INPUT: image.numpy()}
    own_ms = (lambda: float(session.own_ms)) if hasattr(session, "own_ms") else None
    return _Timed("encoder", engine, plan.scheme, used, len(graph), lambda: session.run(inputs), exact, own_ms)


def _timed_decoders(model: EfficientViTSam) -> list[_Timed]:
    variant = model.variant
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, variant.embed_dim, variant.embed_size, variant.embed_size, generator=generator)

    def timed(count: int) -> _Timed:
        corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * variant.prompt_size
        boxes = corners.flatten(1)
        name = f"decoder, {count} box{'es' if count > 1 else ''}"
        return _Timed(name, PYTORCH, "fp32", "f32", None, lambda: model.image_decoder(embedding).decode(boxes=boxes))

    return [timed(count) for count in DECODED_BOXES]


def _latency(one: _Timed, samples: Sequence[float]) -> Latency:
    median, p95 = (float(np.percentile(samples, q)) for q in (50, 95))
    return Latency(one.what, one.engine, one.scheme, one.precision, median, p95, one.size_bytes, exact=one.exact)


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
