"""Write a bundle: encoder and decoder as ONNX, and a manifest, for use without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

from quantsam.engines.encoder import check_runs
from quantsam.engines.onnx_decoder import decoder_to_onnx
from quantsam.engines.onnx_encoder import INPUT, OUTPUT, encoder_to_onnx
from quantsam.files import atomic_folder, check_replaceable
from quantsam.models.geometry import PIXEL_MEAN, PIXEL_STD, encoder_input
from quantsam.models.predictor import MASK_THRESHOLD
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.results.record import environment
from quantsam.runtime.manifest import DECODER, ENCODER, MANIFEST, VERSION, Check, FileEntry, Manifest, test_image
from quantsam.runtime.sessions import SessionOptions, open_session

TOLERANCE = 0.25
"""Relative root-mean-square distance of a sound embedding. Codes at ties flip with the last bit of a float, and flips
spread: two engines, or two processors, are a few percent apart; a wrong graph is about 1.4 apart."""


def check_bundle_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure, before long work, that a bundle can be written there.

    Raises:
        OutputError: It cannot.
    """
    check_replaceable(folder, MANIFEST)


def export_bundle(
    model: EfficientViTSam, plan: Plan, folder: str | os.PathLike[str], *, engine: str | None = None
) -> Manifest:
    """Write a bundle to a folder, whole or not at all; a bundle that is already there is replaced.

    Args:
        model: The model the plan was made for.
        plan: Calibrated, with the engine's placement; without sites for the float model.
        folder: Where to.
        engine: For which engine; the plan's placement if None.

    Raises:
        PlanError: The plan is not one for the engine.
        EngineError: ONNX Runtime, which computes the embedding to check by, or the engine is not installed.
        OutputError: The folder holds something else, or cannot be written.
    """
    engine = engine or plan.placement
    check_runs(plan, engine)
    check_bundle_folder(folder)
    encoder, decoder = encoder_to_onnx(model, plan).SerializeToString(), decoder_to_onnx(model).SerializeToString()
    variant = model.variant
    x = encoder_input(test_image(), variant.input_size)
    by = "openvino" if engine == "openvino" else "onnxruntime"  # what TensorRT runs, ONNX Runtime can run too
    session = open_session(by, encoder, SessionOptions(shapes={INPUT: x.shape}))
    manifest = Manifest(
        version=VERSION,
        quantsam=environment()["quantsam"],
        model=model.name,
        engine=engine,
        scheme=plan.scheme,
        placement=plan.placement,
        plan_digest=plan.digest,
        encoder_digest=plan.encoder_digest,
        input_size=variant.input_size,
        prompt_size=variant.prompt_size,
        embedding=(variant.embed_dim, variant.embed_size, variant.embed_size),
        pixel_mean=tuple(PIXEL_MEAN.tolist()),
        pixel_std=tuple(PIXEL_STD.tolist()),
        mask_threshold=MASK_THRESHOLD,
        files={ENCODER: FileEntry.of(encoder), DECODER: FileEntry.of(decoder)},
        check=Check.of(session.run({INPUT: x})[OUTPUT], TOLERANCE),
    )
    with atomic_folder(Path(folder), replaces=MANIFEST) as aside:
        (aside / ENCODER).write_bytes(encoder)
        (aside / DECODER).write_bytes(decoder)
        (aside / MANIFEST).write_text(manifest.to_json(), "utf-8")
    return manifest
