"""Segment an image with this bundle. Needs numpy, Pillow, and onnxruntime or openvino; no PyTorch, no quantsam.

    python run.py IMAGE --box 40,60,300,280
    python run.py IMAGE --point 120,80 --point 200,90,0      one point on the object, one off it
    python run.py IMAGE --everything

Writes the image with the masks drawn on it (--out), and on request all masks as arrays (--masks FILE.npz). You may
copy, change and ship this file with the bundle; the README beside it describes the inputs and outputs of both graphs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]

HERE = Path(__file__).resolve().parent
COLOURS = [(230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230)]
ON, OFF, TOP_LEFT, BOTTOM_RIGHT, PADDING = 1, 0, 2, 3, -1
VERSION = 4  # of the manifest
ENGINES = ("onnxruntime", "openvino", "tensorrt")
AT_ONCE = 16  # prompts that are decoded together


class Graph:
    """An ONNX file in an engine."""

    def __init__(self, path: Path, engine: str, shapes: dict[str, tuple[int, ...]], wide_sums: bool) -> None:
        if engine == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # errors are raised
            if wide_sums:  # the plan is exact only if products are added in 32 bits: slower, but correct everywhere
                options.add_session_config_entry("session.x64quantprecision", "1")
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self._names = [output.name for output in self._session.get_outputs()]
            self.run: Callable[[dict[str, Array]], dict[str, Array]] = self._onnxruntime
            return
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        if shapes:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        self._model = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.run = self._openvino

    def _onnxruntime(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))

    def _openvino(self, inputs: dict[str, Array]) -> dict[str, Array]:
        found = self._model(inputs)
        return {name: np.array(array) for port, array in found.items() for name in port.get_names()}


class Segmenter:
    """Encodes an image once and answers prompts on it."""

    def __init__(self, folder: Path, engine: str | None = None) -> None:
        self.about = about = checked_manifest(folder)
        engine = engine or about["engine"]
        paths = [folder / name for name in ("encoder.onnx", "decoder.onnx")]
        if engine == "tensorrt":
            import tensorrt_engine  # type: ignore[import-not-found]  # lies beside this file in the bundle

            shapes = tensorrt_engine.encoder_shapes(about), tensorrt_engine.decoder_shapes()
            self._encoder, self._decoder = map(tensorrt_engine.TensorRtGraph, paths, shapes)
            return
        side, wide = about["input_size"], about["processors"] == "vnni"
        if wide and engine == "openvino":
            print("run.py: this bundle is exact on processors with VNNI alone; see README.md", file=sys.stderr)
        self._encoder = Graph(paths[0], engine, {"image": (1, 3, side, side)}, wide)
        self._decoder = Graph(paths[1], engine, {}, wide)

    def set_image(self, image: Array) -> None:
        """Encode an image, (H, W, 3) uint8 RGB."""
        self.image_hw = (image.shape[0], image.shape[1])
        size = self.about["input_size"]
        height, width = scaled(self.image_hw, size)
        small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), np.float32)
        mean, std = (np.array(self.about[name], np.float32) for name in ("pixel_mean", "pixel_std"))
        x = np.zeros((1, 3, size, size), np.float32)  # padded with zeros below and to the right of the image
        x[0, :, :height, :width] = ((small - mean) / std).transpose(2, 0, 1)
        self._embedding = self._encoder.run({"image": x})["embedding"]

    def decode(self, points: Array, labels: Array) -> tuple[Array, Array]:
        """Return logits (B, 4, h, w) and predicted IoU (B, 4) of points (B, N, 2) in pixels, labels (B, N)."""
        (height, width), frame = self.image_hw, self.about["prompt_size"]
        new_height, new_width = scaled(self.image_hw, frame)
        points = points * np.array([new_width / width, new_height / height], np.float32)
        inputs = {"embedding": self._embedding, "points": points.astype(np.float32), "labels": labels.astype(np.int64)}
        found = self._decoder.run(inputs)
        return found["masks"], found["predicted_iou"]

    def enlarge(self, low: Array) -> Array:
        """Return logits (h, w) in the image's own pixels, (H, W)."""
        frame = self.about["prompt_size"]
        kept = scaled(self.image_hw, frame)
        rows, columns = (
            (bilinear(part, side) @ bilinear(len(low), frame)[:part]).astype(np.float32)
            for part, side in zip(kept, self.image_hw, strict=True)
        )
        logits: Array = rows @ low @ columns.T
        return logits

    def best(self, points: Array, labels: Array) -> tuple[Array, float]:
        """Return the mask of highest predicted IoU for one prompt, (H, W) bool, and that IoU."""
        low, iou = self.decode(points[None], labels[None])
        number = 1 + int(iou[0, 1:].argmax())  # the first of the four masks is for unambiguous prompts
        return self.enlarge(low[0, number]) > self.about["mask_threshold"], float(iou[0, number])

    def everything(self, side: int, least_iou: float, least_stability: float) -> list[tuple[Array, float]]:
        """Ask at a grid of `side` by `side` points; keep masks that are good, stable and new."""
        height, width = self.image_hw
        steps = (np.arange(side) + 0.5) / side
        grid = np.stack(np.meshgrid(steps * width, steps * height), -1).reshape(-1, 1, 2)
        points = np.concatenate([grid, np.zeros_like(grid)], 1)  # a prompt without a box ends with a padding point
        labels = np.tile([ON, PADDING], (len(points), 1))
        threshold = self.about["mask_threshold"]
        found: list[tuple[Array, float]] = []
        for start in range(0, len(points), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            low, iou = self.decode(points[part], labels[part])
            for prompt, number in np.argwhere(iou[:, 1:] > least_iou):
                logits = self.enlarge(low[prompt, 1 + number])
                mask, inner, outer = (logits > threshold + offset for offset in (0.0, 1.0, -1.0))
                if mask.any() and inner.sum() / max(outer.sum(), 1) >= least_stability:
                    found.append((mask, float(iou[prompt, 1 + number])))
        kept: list[tuple[Array, float]] = []
        for mask, iou_of_mask in sorted(found, key=lambda pair: -pair[1]):
            if all(box_iou(mask, other) <= 0.7 for other, _ in kept):
                kept.append((mask, iou_of_mask))
        return kept


def checked_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle, after comparing its checksum and those of the files it names."""
    about: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    if about["version"] != VERSION:
        raise ValueError(f"manifest.json has version {about['version']}, this run.py reads {VERSION}")
    digest = about.pop("digest")
    changed = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest() != digest
    for name in ["manifest.json"] if changed else about["files"]:
        path = folder / name
        if changed or hashlib.sha256(path.read_bytes()).hexdigest() != about["files"][name]["sha256"]:
            raise ValueError(f"{name} is not the file that was exported")
    return about


def scaled(image_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the longer side is `longest`."""
    scale = longest / max(image_hw)
    height, width = (max(1, int(side * scale + 0.5)) for side in image_hw)
    return height, width


def bilinear(source: int, target: int) -> Array:
    """Return bilinear resizing along one side as a matrix, (target, source)."""
    centre = np.maximum((np.arange(target) + 0.5) * source / target - 0.5, 0)
    low = np.minimum(centre.astype(int), source - 1)
    share, rows, matrix = centre - low, np.arange(target), np.zeros((target, source))
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, source - 1)), share)
    return matrix


def box_iou(a: Array, b: Array) -> float:
    """Return the IoU of the boxes around two masks."""
    boxes = []
    for mask in (a, b):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = boxes
    both = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    return float(both) / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both)


def numbers(text: str, counts: tuple[int, ...]) -> list[float]:
    """Read numbers between commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in counts or not (np.abs(found) < 1e7).all():  # this also refuses NaN
        sys.exit(f"run.py: {text!r} must be {' or '.join(map(str, counts))} numbers between commas, in pixels")
    return found


def read_image(path: Path) -> Array:
    """Return an image as (H, W, 3) uint8 RGB, upright as its EXIF says; 16-bit grey keeps its upper eight bits."""
    with Image.open(path) as file:
        opened = ImageOps.exif_transpose(file)
        if opened.mode.startswith("I"):
            grey = np.clip(np.asarray(opened, np.int64) >> 8, 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(opened.convert("RGB"))


def check_out(path: Path, suffixes: Collection[str]) -> None:
    """Exit before the work if a file cannot be written or its suffix is unknown."""
    if path.suffix.lower() not in suffixes:
        sys.exit(f"run.py: {path} must end in {', '.join(sorted(suffixes))}")
    if not path.absolute().parent.is_dir():
        sys.exit(f"run.py: {path} must be in a folder that exists: make {path.absolute().parent}")


def box_of(text: str, image_hw: tuple[int, int]) -> Array:
    """Return the corners of a box, cut at the image's sides, (2, 2)."""
    x0, y0, x1, y1 = numbers(text, (4,))
    if x0 >= x1 or y0 >= y1:
        sys.exit(f"run.py: box {text!r} must be x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    height, width = image_hw
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        sys.exit(f"run.py: box {text!r} must overlap the image, {width} x {height} pixels")
    box = np.array([[x0, y0], [x1, y1]], np.float32)
    cut = np.clip(box, 0, np.array([width, height], np.float32))
    if (np.abs(cut - box) > 1).any():
        print(f"run.py: box {text!r} is cut at the image's sides, {width} x {height} pixels", file=sys.stderr)
    return cut


def point_of(text: str, image_hw: tuple[int, int]) -> tuple[list[float], int]:
    """Return a point and its label."""
    mark = numbers(text, (2, 3))
    if len(mark) == 3 and mark[2] not in (OFF, ON):
        sys.exit(f"run.py: point {text!r} must end in 1 (on the object) or 0 (off it), or in neither")
    height, width = image_hw
    if not (0 <= mark[0] < width and 0 <= mark[1] < height):
        sys.exit(f"run.py: point {text!r} must lie in the image, {width} x {height} pixels")
    return mark[:2], int(mark[2]) if len(mark) == 3 else ON


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def open_here(engine: str | None) -> Segmenter:
    """Open the bundle that this file is in, or exit with a line that says why not."""
    try:
        return Segmenter(HERE, engine)
    except ImportError as error:
        way_out = (
            "without a GPU, give --engine onnxruntime" if error.name == "tensorrt" else f"pip install {error.name}"
        )
        sys.exit(f"run.py: the package {error.name} is not installed: {way_out}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        sys.exit(f"run.py: the bundle in {HERE} is damaged ({first_line(error)}): copy it again, or export it again")
    except Exception as error:  # each engine raises its own errors
        sys.exit(f"run.py: the engine cannot open the bundle in {HERE}: {first_line(error)}")


def answers(
    segmenter: Segmenter, image: Array, boxes: list[Array], marks: list[tuple[list[float], int]], args: Any
) -> list[tuple[Array, float]]:
    """Return all masks that were asked for, and their predicted IoU."""
    segmenter.set_image(image)
    found = [segmenter.best(corners, np.array([TOP_LEFT, BOTTOM_RIGHT])) for corners in boxes]
    if marks:
        points = np.array([*(xy for xy, _ in marks), (0, 0)], np.float32)
        found.append(segmenter.best(points, np.array([*(label for _, label in marks), PADDING])))
    if args.everything:
        least = segmenter.about["everything"]
        iou = least["iou_threshold"] if args.least_iou is None else args.least_iou
        stability = least["stability_threshold"] if args.least_stability is None else args.least_stability
        found += segmenter.everything(args.side, iou, stability)
    return found


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--box", action="append", default=[], help="x0,y0,x1,y1; each box gives one mask")
    parser.add_argument("--point", action="append", default=[], help="x,y (off the object: x,y,0); all give one mask")
    parser.add_argument("--everything", action="store_true", help="segment everything in the image")
    parser.add_argument("--side", type=int, default=32, help="--everything: points along each side (%(default)s)")
    parser.add_argument("--least-iou", type=float, help="--everything: least predicted IoU")
    parser.add_argument("--least-stability", type=float, help="--everything: least stability")
    parser.add_argument("--engine", choices=ENGINES, help="default: the engine of the export")
    parser.add_argument("--out", type=Path, default=Path("masks.png"), help="output image (%(default)s)")
    parser.add_argument("--masks", type=Path, help="also write masks (N, H, W) and predicted IoU (N,) as .npz")
    args = parser.parse_args()
    if not (args.box or args.point or args.everything):
        parser.error("give --box, --point or --everything")
    if args.side < 1:
        parser.error(f"--side must be at least 1, got {args.side}")
    check_out(args.out, Image.registered_extensions().keys() & {".png", ".jpg", ".jpeg", ".webp", ".bmp"})
    if args.masks:
        check_out(args.masks, [".npz"])
    try:
        image = read_image(args.image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        sys.exit(f"run.py: {args.image} is not an image that can be read: {error}")
    hw = (image.shape[0], image.shape[1])
    boxes, marks = [box_of(text, hw) for text in args.box], [point_of(text, hw) for text in args.point]
    segmenter = open_here(args.engine)
    try:
        found = answers(segmenter, image, boxes, marks, args)
    except Exception as error:  # each engine raises its own errors
        made = segmenter.about["engine"]
        sys.exit(f"run.py: {args.engine or made} cannot run this bundle, exported for {made}: {first_line(error)}")
    painted = image.astype(np.float32)
    for number, (mask, iou) in enumerate(found):
        painted[mask] = 0.5 * painted[mask] + 0.5 * np.array(COLOURS[number % len(COLOURS)])
        print(f"mask {number + 1}: {int(mask.sum())} pixels, predicted IoU {100 * iou:.1f} %")
    Image.fromarray(painted.round().astype(np.uint8)).save(args.out)
    print(f"{len(found)} {'mask' if len(found) == 1 else 'masks'}, drawn on {args.out}")
    if args.masks:
        masks = np.array([mask for mask, _ in found]).reshape(-1, *image.shape[:2])
        with args.masks.open("wb") as file:
            np.savez_compressed(file, masks=masks, predicted_iou=np.array([iou for _, iou in found], np.float32))


if __name__ == "__main__":
    main()
