"""Check a bundle on its target machine: is it complete and exact, does it run in integers, and how fast is it?"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantsam.runtime.bundle import load_bundle
from quantsam.runtime.engines import get_engine
from quantsam.runtime.manifest import CHECK_BOXES, ENCODER, Manifest, test_image
from quantsam.runtime.processor import processor_text

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of one call, in milliseconds: the median and the 95th percentile."""

    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Checkup:
    """The results for a bundle that passed: its files are intact, and its layers and masks match the exporter's.

    Attributes:
        manifest: The bundle's manifest.
        engine: Name of the engine that ran the bundle.
        engine_version: Version of the engine's package.
        processor: Instruction sets, and how the engine adds products.
        changed: Names of the documents that were changed since the export; see `Manifest.documents`.
        layers: Number of layers that were compared with exact integers.
        integer: Number of convolutions that the engine ran in integers; None if the engine does not tell.
        convolutions: Number of all convolutions that the engine ran; None likewise.
        encoder: Time of the encoder for one image.
        decoder: Time of the decoder for one box.
        whole: Total time for an image with one box, from 8-bit pixels to a mask in the image's pixels.
    """

    manifest: Manifest
    engine: str
    engine_version: str
    processor: str
    changed: tuple[str, ...]
    layers: int
    integer: int | None
    convolutions: int | None
    encoder: Timing
    decoder: Timing
    whole: Timing


def check_up(
    folder: str | os.PathLike[str], *, engine: str | None = None, threads: int | None = None, rounds: int = 20
) -> Checkup:
    """Check a bundle on this machine.

    Args:
        folder: The bundle.
        engine: Name of the engine; by default the engine that the bundle was exported for.
        threads: Number of threads per inference; the engine's choice if None.
        rounds: Number of timed calls, at least 1.

    Raises:
        BundleError: The folder is not a bundle, the bundle is damaged, or its layers or masks here differ from the
            exporter's.
        EngineError: The engine is not installed or refuses a graph.
        InputError: The engine is unknown.
    """
    predictor = load_bundle(folder, engine=engine, threads=threads)
    manifest = predictor.manifest
    engine = engine or manifest.engine
    graph = (Path(folder) / ENCODER).read_bytes()
    found = get_engine(engine).read(graph, predictor.encoder_session)
    image, box = test_image(), np.asarray(CHECK_BOXES[:1], np.float32)

    def answer() -> None:
        predictor.predict_batch(boxes=box)

    def whole() -> None:
        predictor.set_image(image)
        answer()

    predictor.set_image(image)
    return Checkup(
        manifest=manifest,
        engine=engine,
        engine_version=get_engine(engine).version(),
        processor=processor_text(engine),
        changed=manifest.changed_documents(Path(folder)),
        layers=len(manifest.check.layers),
        integer=None if found is None else sum(entry.is_integer for entry in found),
        convolutions=None if found is None else len(found),
        encoder=_timed(lambda: predictor.set_image(image), rounds),
        decoder=_timed(answer, rounds),
        whole=_timed(whole, rounds),
    )


def _timed(call: Callable[[], None], rounds: int) -> Timing:
    for _ in range(_WARM_UP):
        call()
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - started))
    return Timing(statistics.median(spent), float(np.percentile(spent, 95)))
