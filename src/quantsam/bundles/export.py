"""Write a bundle for use without PyTorch: encoder and decoder as ONNX, reference data for checks, and a manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from quantsam.bundles.documents import documents
from quantsam.bundles.references import Reference, make_reference
from quantsam.bundles.web.folder import FILES, list_of_files, page_files
from quantsam.engines.encoder import check_runs
from quantsam.engines.half import find_overflows, with_half_precision
from quantsam.engines.onnx_decoder import decoder_to_onnx
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.engines.stored import Stored, with_stored_weights
from quantsam.errors import BundleError, OutputError, PlanError
from quantsam.files import atomic_folder, check_holds_only, check_replaceable
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
    read_manifest,
)
from quantsam.runtime.processor import processor_text
from quantsam.runtime.tensorrt import BUILT_SUFFIX
from quantsam.runtime.web import ENGINE as WEB_ENGINE
from quantsam.runtime.web.package import runtime_files


def check_bundle_folder(folder: str | os.PathLike[str]) -> None:
    """Check, before long work, that a bundle can be written to a folder without deleting the user's files.

    Raises:
        OutputError: The bundle cannot be written, or the folder holds files that no export wrote.
    """
    path = check_replaceable(folder, MANIFEST)
    try:
        old = read_manifest(path)
    except BundleError:
        return check_holds_only(path, {MANIFEST}, "bundle")
    if not old.documents:  # an older version, which did not list them
        return None
    changed = old.changed_documents(path)
    if changed:
        raise OutputError(
            f"cannot write the bundle {os.fspath(folder)!r}: {changed[0]} was changed there and would be lost, choose "
            "another folder, or delete that file"
        )
    built = [entry.name for entry in path.glob(f"*{BUILT_SUFFIX}")]
    return check_holds_only(path, {MANIFEST, FILES, *built, *old.files, *old.documents}, "bundle")


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
    """Write a bundle to a folder, completely or not at all; replace an existing bundle.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan with the engine's placement; or a plan without sites, for the float model.
        folder: The target folder.
        engine: The target engine; by default that of the plan's placement.
        records: Evaluations for the model card; those of other plans are left out.
        half: Images for finding overflows. Parts that the plan leaves in float become float16, except values that would
            overflow on these images; see `engines.half`. If None, these parts stay in float32.
        decoder_weights: How the decoder's weights are stored; the decoder computes in float32.
        runtime: For `web`, the files of onnxruntime-web by name; if None, they come from the cache or a download.

    Raises:
        PlanError: The plan does not fit the engine, or combines integers with `half`, which only TensorRT can fuse.
        CalibrationError: `half` has no images.
        EngineError: `half` is given, but ONNX Runtime is not installed; or, for `web`, onnxruntime-web is not in the
            cache and cannot be downloaded.
        OutputError: The folder holds other files, or cannot be written.
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
    mine = (plan.digest, model.weights_digest())  # a plan's digest covers only the encoder
    own = [r for r in records if r.kind == "evaluate" and (r.plan_digest, r.weights_digest) == mine]
    page = page_files(runtime) if is_page else {}
    others = {name: text.encode() for name, text in documents(manifest, own).items()} | page
    manifest = replace(manifest, documents={name: FileEntry.of(content) for name, content in others.items()})
    contents |= others | {MANIFEST: manifest.to_json().encode()}
    if is_page:
        contents[FILES] = list_of_files(page, contents)
    with atomic_folder(Path(folder), replaces=MANIFEST) as aside:
        for name, content in contents.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes(content)
    return manifest


def _manifest(
    model: EfficientViTSam, plan: Plan, engine: str, contents: Mapping[str, bytes], reference: Reference
) -> Manifest:
    """Return the manifest of these files, as if everything that the plan leaves in float were float32."""
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
        # another engine on x86 may open a plan that was placed for an engine whose kernels never saturate
        processors=plan.processors if _is_safe(plan, reference) else "vnni",
        exported_on=processor_text(),
        everything=Thresholds(variant.iou_threshold, variant.stability_threshold),
    )


def _encoder(
    model: EfficientViTSam, plan: Plan, half: Iterable[CalibrationImage] | None
) -> tuple[bytes, frozenset[str]]:
    """Return the encoder's graph, and the names of its values that stay in float32 beside float16."""
    graph = encoder_to_onnx(model, plan)
    if half is None:
        return graph.SerializeToString(), frozenset()
    side = model.variant.input_size
    kept = find_overflows(graph, (x[None].cpu().numpy() for image in half for x in encoder_input(image, side)))
    return with_half_precision(graph, kept).SerializeToString(), kept


def _is_safe(plan: Plan, reference: Reference) -> bool:
    """Return whether a plan itself says where its integers are exact, or has no integers."""
    return get_placement(plan.placement).pairs is not None or not reference.check.layers
