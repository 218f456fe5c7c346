"""Write a bundle: encoder and decoder as ONNX, what they are checked by, and a manifest; for use without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from quantsam.bundles.documents import documents
from quantsam.bundles.references import Reference, make_reference
from quantsam.bundles.web.folder import web_files
from quantsam.engines.encoder import check_runs
from quantsam.engines.half import find_overflows, with_half_precision
from quantsam.engines.onnx_decoder import decoder_to_onnx
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.engines.stored import Stored, with_stored_weights
from quantsam.errors import PlanError
from quantsam.files import atomic_folder, check_replaceable
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.observation import CalibrationImage, encoder_input
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.prediction.geometry import PIXEL_MEAN, PIXEL_STD
from quantsam.prediction.predictor import MASK_THRESHOLD
from quantsam.results.machine import environment
from quantsam.results.record import Record
from quantsam.runtime.engines import get_engine
from quantsam.runtime.manifest import (
    CHECK_ARRAYS,
    CHECK_GRAPH,
    DECODER,
    ENCODER,
    MANIFEST,
    VERSION,
    FileEntry,
    Manifest,
    Thresholds,
)
from quantsam.runtime.processor import processor_text
from quantsam.runtime.web import ENGINE as WEB_ENGINE
from quantsam.runtime.web.package import runtime_files


def check_bundle_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure, before long work, that a bundle can be written there.

    Raises:
        OutputError: It cannot.
    """
    check_replaceable(folder, MANIFEST)


def export_bundle(
    model: EfficientViTSam,
    plan: Plan,
    folder: str | os.PathLike[str],
    *,
    engine: str | None = None,
    records: Sequence[Record] = (),
    half: Iterable[CalibrationImage] | None = None,
    decoder_weights: Stored = "f32",
    runtime: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a bundle to a folder, whole or not at all; a bundle that is already there is replaced.

    Args:
        model: The model the plan was made for.
        plan: Calibrated, with the engine's placement; without sites for the float model.
        folder: Where to.
        engine: For which engine; the plan's placement if None.
        records: Evaluations for its model card; those of other plans are left out.
        half: Pictures to look at: what the plan leaves in float becomes float16, but for what would overflow on these,
            see `engines.half`. All in float32 if None.
        decoder_weights: How the decoder's weights are stored; it computes in float32.
        runtime: For `web`, the files of onnxruntime-web by name; found in the cache or downloaded if None.

    Raises:
        PlanError: The plan is not one for the engine, or has integers beside `half`, which only TensorRT fuses.
        CalibrationError: `half` has no pictures.
        EngineError: `half`, and ONNX Runtime is not installed; for `web`, onnxruntime-web is neither kept nor can it be
            downloaded.
        OutputError: The folder holds something else, or cannot be written.
    """
    engine = engine or get_placement(plan.placement).engine
    check_runs(plan, engine)
    if half is not None and plan.sites and get_engine(engine).on_processor:
        raise PlanError(
            f"{engine} would run convolutions between float16 tensors in float, got scheme {plan.scheme!r}: export it "
            "with --precision f32, or take fp32"
        )
    check_bundle_folder(folder)
    is_page = engine == WEB_ENGINE.name
    runtime = runtime_files() if is_page and runtime is None else runtime or {}
    encoder, kept = _encoder(model, plan, half)
    decoder = with_stored_weights(decoder_to_onnx(model), decoder_weights).SerializeToString()
    reference = make_reference(model, plan)
    contents = {ENCODER: encoder, DECODER: decoder, CHECK_ARRAYS: reference.arrays}
    contents |= {CHECK_GRAPH: reference.graph} if reference.check.layers else {}
    manifest = _manifest(model, plan, engine, contents, reference)
    manifest = replace(
        manifest,
        precision="f32" if half is None else "f16",
        kept_in_float32=tuple(sorted(kept)),
        decoder_weights=decoder_weights,
    )
    mine = (plan.digest, model.weights_digest())  # a plan's digest is of the encoder alone
    own = [r for r in records if r.kind == "evaluate" and (r.plan_digest, r.weights_digest) == mine]
    contents |= {name: text.encode() for name, text in documents(manifest, own).items()}
    contents[MANIFEST] = manifest.to_json().encode()
    contents |= web_files(contents, runtime) if is_page else {}
    with atomic_folder(Path(folder), replaces=MANIFEST) as aside:
        for name, content in contents.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes(content)
    return manifest


def _manifest(
    model: EfficientViTSam, plan: Plan, engine: str, contents: Mapping[str, bytes], reference: Reference
) -> Manifest:
    """Return the manifest of these files, as if all that the plan leaves in float were float32."""
    variant = model.variant
    return Manifest(
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
        files={name: FileEntry.of(content) for name, content in contents.items()},
        check=reference.check,
        # what is placed for an engine whose kernels never saturate may be opened by another one, on x86
        processors=plan.processors if _is_safe(plan, reference) else "vnni",
        exported_on=processor_text(),
        everything=Thresholds(variant.iou_threshold, variant.stability_threshold),
    )


def _encoder(
    model: EfficientViTSam, plan: Plan, half: Iterable[CalibrationImage] | None
) -> tuple[bytes, frozenset[str]]:
    """Return the encoder's graph, and what of it stays in float32 beside float16."""
    graph = encoder_to_onnx(model, plan)
    if half is None:
        return graph.SerializeToString(), frozenset()
    side = model.variant.input_size
    kept = find_overflows(graph, (x[None].cpu().numpy() for image in half for x in encoder_input(image, side)))
    return with_half_precision(graph, kept).SerializeToString(), kept


def _is_safe(plan: Plan, reference: Reference) -> bool:
    """Whether a plan itself says where its integers are exact, or there are none."""
    return get_placement(plan.placement).pairs is not None or not reference.check.layers
