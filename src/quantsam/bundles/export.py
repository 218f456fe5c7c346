"""Write a bundle: encoder and decoder as ONNX, what they are checked by, and a manifest; for use without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantsam.bundles.documents import documents
from quantsam.bundles.references import Reference, make_reference
from quantsam.bundles.web.folder import web_files
from quantsam.engines.encoder import check_runs
from quantsam.engines.onnx_decoder import decoder_to_onnx
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.files import atomic_folder, check_replaceable
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.prediction.geometry import PIXEL_MEAN, PIXEL_STD
from quantsam.prediction.predictor import MASK_THRESHOLD
from quantsam.results.machine import environment
from quantsam.results.record import Record
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
    runtime: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a bundle to a folder, whole or not at all; a bundle that is already there is replaced.

    Args:
        model: The model the plan was made for.
        plan: Calibrated, with the engine's placement; without sites for the float model.
        folder: Where to.
        engine: For which engine; the plan's placement if None.
        records: Evaluations for its model card; those of other plans are left out.
        runtime: For `web`, the files of onnxruntime-web by name; found in the cache or downloaded if None.

    Raises:
        EngineError: For `web`, onnxruntime-web is neither kept nor can it be downloaded.
        PlanError: The plan is not one for the engine.
        OutputError: The folder holds something else, or cannot be written.
    """
    engine = engine or get_placement(plan.placement).engine
    check_runs(plan, engine)
    check_bundle_folder(folder)
    is_page = engine == WEB_ENGINE.name
    runtime = runtime_files() if is_page and runtime is None else runtime or {}
    encoder, decoder = encoder_to_onnx(model, plan).SerializeToString(), decoder_to_onnx(model).SerializeToString()
    reference = make_reference(model, plan)
    contents = {ENCODER: encoder, DECODER: decoder, CHECK_ARRAYS: reference.arrays}
    contents |= {CHECK_GRAPH: reference.graph} if reference.check.layers else {}
    variant = model.variant
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
        files={name: FileEntry.of(content) for name, content in contents.items()},
        check=reference.check,
        # what is placed for an engine whose kernels never saturate may be opened by another one, on x86
        processors=plan.processors if _is_safe(plan, reference) else "vnni",
        exported_on=processor_text(),
        everything=Thresholds(variant.iou_threshold, variant.stability_threshold),
    )
    own = [record for record in records if record.kind == "evaluate" and record.plan_digest == plan.digest]
    contents |= {name: text.encode() for name, text in documents(manifest, own).items()}
    contents[MANIFEST] = manifest.to_json().encode()
    contents |= web_files(contents, runtime) if is_page else {}
    with atomic_folder(Path(folder), replaces=MANIFEST) as aside:
        for name, content in contents.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes(content)
    return manifest


def _is_safe(plan: Plan, reference: Reference) -> bool:
    """Whether a plan itself says where its integers are exact, or there are none."""
    return get_placement(plan.placement).pairs is not None or not reference.check.layers
