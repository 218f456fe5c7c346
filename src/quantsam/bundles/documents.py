"""The documents of a bundle: how to use it, what was measured, and a program that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from string import Template

from quantsam.models.variants import get_variant
from quantsam.prediction.geometry import scaled_hw
from quantsam.results.export import markdown_table
from quantsam.results.record import Record
from quantsam.runtime.engines import get_engine
from quantsam.runtime.manifest import CHECK_GRAPH, DECODER, ENCODER, Manifest
from quantsam.runtime.web import ENGINE as WEB_ENGINE
from quantsam.runtime.web.package import SIZE_BYTES as RUNTIME_BYTES
from quantsam.runtime.web.package import VERSION as RUNTIME_VERSION

README, MODEL_CARD, RUN = "README.md", "model-card.md", "run.py"
SAMPLE, BUILD, ON_GPU = "segment.cpp", "CMakeLists.txt", "tensorrt_engine.py"
_PROCESSORS = {
    "any": (
        "Its integers are exact on every processor: products cannot saturate where an engine adds pairs of them in\n"
        "16 bits (x86 without VNNI)."
    ),
    "vnni": (
        "Its integers are exact only where products are added in 32 bits: x86 with VNNI or AMX, Arm. Elsewhere ONNX\n"
        "Runtime can be told to (`session.x64quantprecision`, which `run.py` sets); other engines give other masks.\n"
        "Export it again with `--processors any` for all processors."
    ),
}
_GPU_PROCESSORS = (
    "GPUs add products in 32 bits, so the integers are exact. On a processor they are exact only where it does so:\n"
    "x86 with VNNI or AMX, Arm. Elsewhere ONNX Runtime can be told to (`session.x64quantprecision`, as `run.py` does)."
)
_ON_GPU = """
## On a GPU

Copy this folder to the machine with the NVIDIA GPU, for example a Jetson with JetPack 6, and run the two lines above.
They need TensorRT 10 with its Python package and CUDA, which JetPack and NVIDIA's TensorRT containers have. The first
start builds both graphs, which may take minutes, and keeps them in this folder. `python3 tensorrt_engine.py` builds and
times them alone. TensorRT's own tool builds them too:

```
trtexec --onnx=encoder.onnx --saveEngine=encoder.engine --stronglyTyped
trtexec --onnx=decoder.onnx --saveEngine=decoder.engine --stronglyTyped --minShapes=points:1x2x2,labels:1x2 \\
    --optShapes=points:1x2x2,labels:1x2 --maxShapes=points:16x64x2,labels:16x64
```

We had no GPU to try this on. Without one, `pip install onnxruntime`, and give `run.py` the option
`--engine onnxruntime` to see the masks; `quantsam verify FOLDER --engine onnxruntime` checks the bundle.
"""
_OWN_WEIGHTS = "Those of nano came with quantsam under Apache-2.0; nano says nothing of the official models."
_EXAMPLE = (480, 640)


def documents(manifest: Manifest, records: Sequence[Record] = ()) -> dict[str, str]:
    """Return the texts of a bundle by file name.

    Args:
        manifest: The bundle's manifest.
        records: Evaluations of the bundle's plan, for the model card.
    """
    card = _model_card(manifest, records)
    if manifest.engine == WEB_ENGINE.name:
        return {README: _web_readme(manifest), MODEL_CARD: card}
    found = {README: _readme(manifest), MODEL_CARD: card, RUN: _template(RUN)}
    found |= {SAMPLE: _sample(manifest), BUILD: _template(BUILD)}
    return found if get_engine(manifest.engine).on_processor else found | {ON_GPU: _template(ON_GPU)}


def _web_readme(manifest: Manifest) -> str:
    size = RUNTIME_BYTES + sum(manifest.files[name].size_bytes for name in (ENCODER, DECODER))
    return Template(resources.files("quantsam.bundles.web").joinpath(f"{README}.in").read_text("utf-8")).substitute(
        model=manifest.model,
        scheme=manifest.scheme,
        download=f"{size / 1e6:.0f} MB",
        runtime=RUNTIME_VERSION,
        weights=_weights(manifest),
    )


def _weights(manifest: Manifest) -> str:
    return _OWN_WEIGHTS if get_variant(manifest.model).weights_file else ""


def _template(name: str) -> str:
    return resources.files("quantsam.bundles").joinpath("alone", name).read_text("utf-8")


def _readme(manifest: Manifest) -> str:
    height, width = scaled_hw(_EXAMPLE, manifest.prompt_size)
    engine = get_engine(manifest.engine)
    return Template(_template(f"{README}.in")).substitute(
        model=manifest.model,
        scheme=f"{manifest.scheme}, the rest float16" if manifest.precision == "f16" else manifest.scheme,
        install=f"numpy pillow {engine.package}" if engine.on_processor else "numpy pillow",
        python="python" if engine.on_processor else "python3",
        verify="" if engine.on_processor else " --engine onnxruntime",
        on_gpu="" if engine.on_processor else _ON_GPU,
        on_gpu_file="" if engine.on_processor else f"\n| `{ON_GPU}` | builds and runs both graphs in {engine.title} |",
        title=engine.title,
        check_graph=f", `{CHECK_GRAPH}`" if CHECK_GRAPH in manifest.files else "",
        input_size=manifest.input_size,
        pixel_mean=_numbers(manifest.pixel_mean),
        pixel_std=_numbers(manifest.pixel_std),
        embedding=f"(1, {', '.join(map(str, manifest.embedding))})",
        prompt_size=manifest.prompt_size,
        example=f"{width} x {height}",
        example_x=f"{320 * width / _EXAMPLE[1]:g}",
        low=4 * manifest.embedding[1],
        mask_threshold=f"{manifest.mask_threshold:g}",
        iou_threshold=f"{manifest.everything.iou_threshold:g}",
        stability_threshold=f"{manifest.everything.stability_threshold:g}",
        processors=_PROCESSORS[manifest.processors] if engine.on_processor else _GPU_PROCESSORS,
        weights=_weights(manifest),
    )


def _sample(manifest: Manifest) -> str:
    channels, side, _ = manifest.embedding
    return Template(_template(f"{SAMPLE}.in")).substitute(
        input_size=manifest.input_size,
        prompt_size=manifest.prompt_size,
        channels=channels,
        embedding_side=side,
        mean=_numbers(manifest.pixel_mean),
        std=_numbers(manifest.pixel_std),
        mask_threshold=f"{manifest.mask_threshold:.6f}",
        wide_sums="true" if manifest.processors == "vnni" else "false",
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _model_card(manifest: Manifest, records: Sequence[Record]) -> str:
    about = get_variant(manifest.model).about
    stored = manifest.precision != "f32" or manifest.decoder_weights != "f32"
    rest = ", float16 where the scheme leaves it in float" if manifest.precision == "f16" else ""
    sizes = ", ".join(f"{name} {entry.size_bytes / 2**20:.2f} MiB" for name, entry in manifest.files.items())
    lines = [
        f"# Model card: {manifest.model}, {manifest.scheme}",
        "",
        f"EfficientViT-SAM {manifest.model}. {about}".rstrip(),
        "",
        f"- Encoder: {manifest.scheme}{rest}, for {get_engine(manifest.engine).title}; decoder: float32, "
        f"weights stored as {manifest.decoder_weights}.",
        f"- Sizes: {sizes}.",
        f"- Plan {manifest.plan_digest[:16]}, made by quantsam {manifest.quantsam} on {manifest.exported_on}.",
        "- Use: masks for boxes and points that a person or a detector gives. It names no categories.",
        "",
        "## Measured",
        "",
    ]
    if not records:
        measured = Template(_NOT_MEASURED).substitute(model=manifest.model, engine=manifest.engine)
        return "\n".join([*lines, measured])
    columns = ("data", "prompts", "computed by", "objects", "mIoU", "standard error", "AP", "processor")
    rows = [
        {
            "data": record.dataset,
            "prompts": record.prompt,
            "computed by": "simulation" if record.engine == "pytorch" else record.engine,
            "objects": record.figures.get("count"),
            "mIoU": record.figures.get("miou"),
            "standard error": record.figures.get("standard_error"),
            "AP": record.figures.get("ap"),
            "processor": record.environment.get("cpu", ""),
        }
        for record in records
    ]
    shown = [name for name in columns if any(row[name] is not None for row in rows)]
    return "\n".join([*lines, markdown_table(rows, shown), *([_STORED] if stored else []), _NOTE])


_NOT_MEASURED = """No evaluation of this plan was in the result store when it was exported. To have one here:

1. `quantsam calibrate --model $model --calibration IMAGES --placement $engine --out PLAN`
2. `quantsam evaluate --model $model --plan PLAN --engine $engine --data DATA`
3. `quantsam export --model $model --plan PLAN --engine $engine --out BUNDLE`
"""
_STORED = """These are of the same plan in float32: this bundle stores numbers in fewer bits and was not scored itself.
"""
_NOTE = """mIoU: mean IoU with the annotations in percent, prompts made from them (`box`: the annotated box;
`click`: one click in the object). AP: average precision of COCO or LVIS with a detector's boxes.
"""
