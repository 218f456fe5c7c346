"""A bundle's `manifest.json`, and the test image that shows whether a bundle computes what it should."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantsam.errors import BundleError

MANIFEST, ENCODER, DECODER = "manifest.json", "encoder.onnx", "decoder.onnx"
CHECK_GRAPH, CHECK_ARRAYS = "check.onnx", "check.npz"
VERSION, _READABLE = 4, (2, 3, 4)  # 2 had no thresholds for segmenting everything, 3 no checksums but those of `files`
CHECK_BOXES = ((18.0, 28.0, 82.0, 92.0), (98.0, 18.0, 142.0, 102.0), (8.0, 8.0, 152.0, 112.0))
"""Boxes on the test image whose masks are checked, x0 y0 x1 y1 in pixels."""

WAY_OUT = "copy the bundle again, or export it again"
"""What to do with a damaged bundle."""

_TEST_HW = (120, 160)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle: its SHA-256 and its size."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> FileEntry:
        """Describe a file."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True, slots=True)
class Check:
    """How far a bundle's results may be from the exact simulation, whose values are in `check.npz`.

    Attributes:
        layers: Largest allowed difference of an output for each layer in `check.onnx`, by the layer's label.
        least_mask_iou: Least mean IoU of the masks of `CHECK_BOXES` on the test image, 0..1.
    """

    layers: dict[str, float]
    least_mask_iou: float


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds for masks that are found without a prompt.

    Attributes:
        iou_threshold: Least predicted IoU, 0..1.
        stability_threshold: Least stability, 0..1.
    """

    iou_threshold: float = 0.88
    stability_threshold: float = 0.95


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a bundle's user needs to know beside the two graphs.

    Attributes:
        version: Version of this format.
        quantsam: Version of the package that wrote the bundle.
        model: The variant's name.
        engine: The engine that the encoder was exported for.
        scheme: Scheme of the encoder.
        placement: Placement of the encoder.
        plan_digest: Digest of the encoder's plan.
        encoder_digest: Digest of the float encoder's weights.
        input_size: Side of the encoder's input; an image's longer side is resized to it, the rest is padded with 0.
        prompt_size: Side of the frame for prompt coordinates; the longer side of the image fills it.
        embedding: Shape of the embedding, (C, H, W).
        pixel_mean: Mean that is subtracted from 8-bit RGB.
        pixel_std: Divisor of the difference.
        mask_threshold: Logits above this value belong to the mask.
        files: `encoder.onnx`, `decoder.onnx`, `check.npz`, and `check.onnx` if layers are quantized.
        documents: The other files, which explain the bundle or run it; their user may change them.
        check: How far the results may be from the exact simulation.
        processors: `any`: the integer kernels are exact on every processor; `vnni`: only where products are added in
            32 bits.
        exported_on: Instruction sets of the processor that exported the bundle.
        everything: Thresholds for segmenting everything.
        precision: Precision of the parts that the plan leaves in float: `f32` or `f16`.
        kept_in_float32: With `f16`, the values that float16 cannot hold, by name in `encoder.onnx`.
        decoder_weights: How the decoder's weights are stored: `f32`, `f16` or `int8`; the decoder computes in float32.
    """

    version: int
    quantsam: str
    model: str
    engine: str
    scheme: str
    placement: str
    plan_digest: str
    encoder_digest: str
    input_size: int
    prompt_size: int
    embedding: tuple[int, int, int]
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    mask_threshold: float
    files: dict[str, FileEntry]
    check: Check
    processors: Literal["any", "vnni"]
    exported_on: str
    everything: Thresholds = Thresholds()
    precision: Literal["f32", "f16"] = "f32"
    kept_in_float32: tuple[str, ...] = ()
    decoder_weights: Literal["f32", "f16", "int8"] = "f32"
    documents: dict[str, FileEntry] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the content of `manifest.json`: these fields, and their `digest`."""
        values = dataclasses.asdict(self)
        return json.dumps({**values, "digest": _digest(values)}, indent=1) + "\n"

    def changed_documents(self, folder: Path) -> tuple[str, ...]:
        """Return the names of the documents that are not as they were exported; absent ones are left out."""
        present = {name: folder / name for name in self.documents if (folder / name).is_file()}
        return tuple(name for name, path in present.items() if FileEntry.of(path.read_bytes()) != self.documents[name])


def _digest(values: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's fields; `run.py` computes it too."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def test_image() -> NDArray[np.uint8]:
    """Return the test image for all bundles, (120, 160, 3) uint8: gradients, discs and stripes."""
    height, width = _TEST_HW
    y, x = np.mgrid[:height, :width]
    disc = (x - 50) ** 2 + (y - 60) ** 2 < 900
    bar = (x > 100) & (x < 140) & (y > 20) & (y < 100)
    picture = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    picture[disc] = (230, 60, 40)
    picture[bar] = np.stack([x * 37 % 256, y * 91 % 256, (x * y) % 256], axis=-1)[bar]
    return picture.astype(np.uint8)


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BundleError: There is no manifest, or it is invalid.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"bundle must be a folder with {MANIFEST}, got {str(folder)!r}: make one with `quantsam export`"
        )
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["version"] not in _READABLE:
            known = " or ".join(map(str, _READABLE))
            raise BundleError(
                f"bundle {str(folder)!r} must have version {known}, got {data['version']!r}: export it again"
            )
        if data["version"] > 3 and data.pop("digest") != _digest(data):
            raise BundleError(f"{MANIFEST} of bundle {str(folder)!r} is not the file that was exported: {WAY_OUT}")
        return _from_json(data)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{MANIFEST} of bundle {str(folder)!r} is damaged ({type(error).__name__}: {error}): {WAY_OUT}"
        ) from error


def _from_json(data: dict[str, Any]) -> Manifest:
    files, documents = (
        {name: FileEntry(**entry) for name, entry in entries.items()}
        for entries in (data.pop("files"), data.pop("documents", {}))
    )
    check, everything = data.pop("check"), data.pop("everything", {})
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    manifest = Manifest(
        **fields,
        files=files,
        documents=documents,
        check=Check({str(k): float(v) for k, v in check["layers"].items()}, float(check["least_mask_iou"])),
        everything=Thresholds(**{str(k): float(v) for k, v in everything.items()}),
    )
    sizes = (manifest.input_size, manifest.prompt_size, *manifest.embedding)
    expected = {ENCODER, DECODER, CHECK_ARRAYS, *([CHECK_GRAPH] if manifest.check.layers else [])}
    if manifest.processors not in ("any", "vnni"):
        raise ValueError(f"processors must be 'any' or 'vnni', got {manifest.processors!r}")
    if manifest.precision not in ("f32", "f16") or manifest.decoder_weights not in ("f32", "f16", "int8"):
        raise ValueError("precision must be f32 or f16, decoder_weights f32, f16 or int8")
    if set(files) != expected or len(sizes) != 5 or not all(type(s) is int and s > 0 for s in sizes):
        raise ValueError("files and sizes are not those of a bundle")
    return manifest
