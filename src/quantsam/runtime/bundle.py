"""Open an exported bundle and segment with it: numpy, Pillow and an engine, without PyTorch."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantsam.data.images import check_image_array
from quantsam.errors import BundleError, EngineError, InputError
from quantsam.notices import InexactWarning
from quantsam.prediction.geometry import encoder_input, prompt_scale, resize_matrix, scaled_hw
from quantsam.prediction.prediction import Prediction
from quantsam.runtime.engines import ENGINES, engine_names, get_engine, open_session, usual_engines
from quantsam.runtime.manifest import (
    CHECK_ARRAYS,
    CHECK_GRAPH,
    DECODER,
    ENCODER,
    WAY_OUT,
    FileEntry,
    Manifest,
    read_manifest,
)
from quantsam.runtime.processor import adds_in_32_bits, inexact_message
from quantsam.runtime.sessions import Session, SessionOptions
from quantsam.runtime.verify import read_arrays, verify_layers, verify_masks

if TYPE_CHECKING:
    from quantsam.prediction.everything import Candidate, FoundMask
    from quantsam.prediction.grid import Box, GridSettings
    from quantsam.prediction.tally import Tally

PROMPTS_AT_ONCE = 8
SINGLE, MULTI = slice(0, 1), slice(1, 4)
_CORNERS, _PADDING = (2, 3), -1

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


def load_bundle(
    folder: str | os.PathLike[str], *, engine: str | None = None, threads: int | None = None, verify: bool = True
) -> BundlePredictor:
    """Open a bundle that `quantsam export` wrote.

    Args:
        folder: The bundle.
        engine: `onnxruntime` or `openvino`; by default the engine that the bundle was exported for.
        threads: Number of threads per inference; the engine's choice if None.
        verify: Whether to compare the files with their checksums, and the engine's results on this processor with exact
            integers: a few layers, and the masks of a test image.

    Raises:
        BundleError: The folder is not a bundle, or the bundle is damaged or was changed; or the engine's results differ
            on this processor.
        EngineError: The engine is not installed or refuses a graph.
        InputError: The engine is unknown.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    engine = check_runs_here(manifest, engine, path)
    contents = {name: _read(path / name) for name in manifest.files}
    for name, content in contents.items():
        if verify and FileEntry.of(content) != manifest.files[name]:
            raise BundleError(f"{name} of bundle {str(path)!r} is not the file that was exported: {WAY_OUT}")
    options = _options(manifest, engine, threads, path, warn=not verify)
    side = manifest.input_size
    sessions = {}
    for name, shapes in ((ENCODER, {"image": (1, 3, side, side)}), (DECODER, None)):
        try:
            sessions[name] = open_session(engine, contents[name], dataclasses.replace(options, shapes=shapes))
        except EngineError as error:
            raise _refused(f"{name} of bundle {str(path)!r}", manifest, engine, error) from error
    predictor = BundlePredictor(manifest, sessions[ENCODER], sessions[DECODER])
    if verify:
        arrays = read_arrays(contents[CHECK_ARRAYS], str(path))
        try:
            if manifest.check.layers:
                verify_layers(engine, contents[CHECK_GRAPH], arrays, manifest.check, options)
            verify_masks(predictor, arrays, manifest.check, engine)
        except EngineError as error:
            raise _refused(f"bundle {str(path)!r}", manifest, engine, error) from error
        predictor.forget_image()
    return predictor


def check_runs_here(manifest: Manifest, engine: str | None, folder: Path) -> str:
    """Check, before long work, that an engine opens bundles on a processor; return its name.

    Args:
        manifest: The bundle's manifest.
        engine: Name of the engine; None for the engine that the bundle was exported for.
        folder: The bundle, for the message.

    Raises:
        InputError: The engine is unknown, or does not run on the processor.
    """
    wanted, here = engine or manifest.engine, engine_names(on_processor=True)
    if wanted in here or wanted not in ENGINES:
        return get_engine(wanted).name
    others = " or ".join(f"--engine {name}" for name in usual_engines())
    raise InputError(
        f"{ENGINES[wanted].title} does not run bundles on the processor, got "
        f"{'--engine ' + wanted if engine else f'its bundle {str(folder)!r}'}: give {others}, which run the same graphs"
    )


def _options(manifest: Manifest, engine: str, threads: int | None, path: Path, *, warn: bool) -> SessionOptions:
    """Return how to run the encoder: ONNX Runtime adds in 32 bits if the plan needs it."""
    widens = get_engine(engine, on_processor=True).widens
    saturates = manifest.processors == "vnni" and not adds_in_32_bits(engine)
    if saturates and warn and not widens:
        warnings.warn(inexact_message(f"bundle {str(path)!r}", engine), InexactWarning, stacklevel=3)
    return SessionOptions(threads, wide_sums=saturates and widens)


def _refused(what: str, manifest: Manifest, engine: str, error: EngineError) -> EngineError:
    """Return the error for an engine that cannot run a bundle; most likely it was made for another engine."""
    if engine == manifest.engine or "not installed" in str(error):
        return EngineError(f"{what}: {error}")
    return EngineError(f"{what} was exported for {manifest.engine}, and {error}; or open it with {manifest.engine}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"bundle {str(path.parent)!r} must have a readable {path.name}: {error.strerror}: {WAY_OUT}"
        ) from error


class BundlePredictor:
    """Segments one image at a time: it encodes the image once, then prompts are cheap.

    Attributes:
        manifest: The bundle's manifest.
        image_hw: Height and width of the image; None until one is set.
    """

    def __init__(self, manifest: Manifest, encoder: Session, decoder: Session) -> None:
        self.manifest = manifest
        self.image_hw: tuple[int, int] | None = None
        self._encoder, self._decoder = encoder, decoder
        self._embedding: Float32 | None = None

    @property
    def encoder_session(self) -> Session:
        """The encoder's session in the engine."""
        return self._encoder

    def encode(self, image: NDArray[np.uint8]) -> Float32:
        """Return the embedding (1, C, H, W) of an image (H, W, 3) uint8 RGB."""
        check_image_array(image)
        return self._encoder.run({"image": encoder_input(image, self.manifest.input_size)})["embedding"]

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode an image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            InputError: The array has another shape or type.
        """
        self._embedding, self.image_hw = self.encode(image), (image.shape[0], image.shape[1])

    def predict(
        self,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        multimask: bool = True,
        logits: bool = False,
    ) -> Prediction:
        """Segment the object of one prompt.

        Args:
            points: (N, 2) x y in pixels of the image.
            labels: (N,) 1 for a point on the object, 0 for one off it.
            box: (4,) x0 y0 x1 y1 in pixels of the image.
            multimask: Whether to return three masks, for ambiguous prompts, instead of one.
            logits: Whether to return logits instead of bool masks.

        Raises:
            InputError: No image was set, no prompt was given, or a prompt has the wrong shape or values.
        """
        batch = [None if v is None else _numbers(n, v)[None] for n, v in (("points", points), ("box", box))]
        marks = None if labels is None else _numbers("labels", labels)[None]
        masks, iou, low_res = self.predict_batch(
            points=batch[0], labels=marks, boxes=batch[1], multimask=multimask, logits=logits
        )
        return Prediction(masks[0], iou[0], low_res[0])

    def predict_batch(
        self,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        multimask: bool = True,
        logits: bool = False,
    ) -> tuple[NDArray[Any], Float32, Float32]:
        """Segment the objects of a batch of prompts, all on the same image.

        Args:
            points: (B, N, 2) x y in pixels of the image.
            labels: (B, N): 1 on the object, 0 off it, -1 padding.
            boxes: (B, 4) x0 y0 x1 y1 in pixels of the image.
            multimask: Whether to return three masks per prompt instead of one.
            logits: Whether to return logits instead of bool masks.

        Returns:
            Masks (B, M, H, W), bool or float32; the model's own estimates of their IoU, (B, M) float32; low-resolution
            logits (B, M, h, w) float32.

        Raises:
            InputError: No image was set, no prompt was given, or a prompt has the wrong shape or values.
        """
        _, image_hw = self._ready()
        rows, columns = self._resizing(image_hw)
        low_res, iou = self._low_res(*_prompt_arrays(points, labels, boxes), multimask)
        found = np.empty((*low_res.shape[:2], *image_hw), np.float32 if logits else np.bool_)
        for target, low in zip(found.reshape(-1, *image_hw), low_res.reshape(-1, *low_res.shape[2:]), strict=True):
            full = rows @ low[: rows.shape[1], : columns.shape[0]] @ columns
            target[...] = full if logits else full > self.manifest.mask_threshold
        return found, iou, low_res

    def best_masks(
        self, *, points: ArrayLike | None = None, labels: ArrayLike | None = None, boxes: ArrayLike | None = None
    ) -> tuple[Bool, Float32]:
        """Return only the best mask per prompt by predicted IoU, (B, H, W) bool, and that IoU, (B,).

        Give prompts as for `predict_batch`.
        """
        masks, iou, _ = self.predict_batch(points=points, labels=labels, boxes=boxes)
        best = iou.argmax(1)
        rows = np.arange(len(iou))
        return masks[rows, best], iou[rows, best]

    def segment_everything(
        self,
        image: NDArray[np.uint8],
        settings: GridSettings | None = None,
        progress: Callable[[Iterable[Any], int | None], Iterable[Any]] | None = None,
        tally: Tally | None = None,
    ) -> list[FoundMask]:
        """Find the masks of an image without a prompt, as `quantsam.segment_everything` does.

        This needs `faster-coco-eval` to encode the masks. It replaces the image that was set.

        Args:
            image: (H, W, 3) uint8 RGB.
            settings: The grid and the thresholds; `usual_settings` of the model if None.
            progress: Wraps the iteration over batches of points, given their number.
            tally: Counts masks that are left out.
        """
        from quantsam.prediction.everything import find_masks
        from quantsam.prediction.grid import usual_settings

        check_image_array(image)

        def open_crop(crop: Box) -> _Crop:
            x0, y0, x1, y1 = crop
            self.set_image(np.ascontiguousarray(image[y0:y1, x0:x1]))
            return _Crop(self)

        grid = settings or usual_settings(self.manifest.model)
        return find_masks((image.shape[0], image.shape[1]), grid, open_crop, progress, tally)

    def forget_image(self) -> None:
        """Return to the state before an image was set."""
        self._embedding = self.image_hw = None

    def _ready(self) -> tuple[Float32, tuple[int, int]]:
        if self._embedding is None or self.image_hw is None:
            raise InputError("a predictor needs an image before prompts, got none: call set_image(image) first")
        return self._embedding, self.image_hw

    def _resizing(self, image_hw: tuple[int, int]) -> tuple[Float32, Float32]:
        """Return the matrices that resize masks, from the left (H, h) and from the right (w, W)."""
        low, prompt_size = 4 * self.manifest.embedding[1], self.manifest.prompt_size
        kept = scaled_hw(image_hw, prompt_size)
        rows, columns = (resize_matrix(low, prompt_size, *pair) for pair in zip(kept, image_hw, strict=True))
        return rows, columns.T

    def _low_res(self, points: Float32, labels: NDArray[np.int64], multimask: bool) -> tuple[Float32, Float32]:
        """Decode points (B, N, 2) in pixels of the image: logits (B, M, h, w) and predicted IoU (B, M)."""
        embedding, image_hw = self._ready()
        points = points * np.asarray(prompt_scale(image_hw, self.manifest.prompt_size), np.float32)
        chosen = MULTI if multimask else SINGLE
        parts = []
        for start in range(0, len(points), PROMPTS_AT_ONCE):
            part = slice(start, start + PROMPTS_AT_ONCE)
            found = self._decoder.run({"embedding": embedding, "points": points[part], "labels": labels[part]})
            parts.append((found["masks"][:, chosen], found["predicted_iou"][:, chosen]))
        return np.concatenate([m for m, _ in parts]), np.concatenate([i for _, i in parts])


class _Crop:
    """The image that a predictor holds, prompted at points."""

    def __init__(self, predictor: BundlePredictor) -> None:
        self._predictor = predictor

    def candidates(self, points: NDArray[np.float64], settings: GridSettings, tally: Tally) -> Iterable[Candidate]:
        """Yield the masks of a batch of points (B, 2) that are good and stable, in order."""
        from quantsam.prediction.everything import Candidate

        predictor = self._predictor
        threshold = predictor.manifest.mask_threshold
        _, image_hw = predictor._ready()
        rows, columns = predictor._resizing(image_hw)
        arrays = _prompt_arrays(points[:, None], np.ones((len(points), 1)), None)
        low_res, iou = predictor._low_res(*arrays, multimask=True)
        low_res = low_res[:, :, : rows.shape[1], : columns.shape[0]]  # without the padding
        lowest = settings.iou_threshold or -np.inf
        is_full = low_res.max((2, 3)) > threshold
        tally.note_quality(iou, ~is_full, lowest)
        promising = (iou > lowest) & is_full
        for point, mask in np.argwhere(promising).tolist():
            logits = rows @ low_res[point, mask] @ columns
            inner, outer = (int((logits > threshold + s * settings.stability_offset).sum()) for s in (1, -1))
            stability = inner / max(outer, 1)
            tally.note_stability(np.array([stability]), settings.stability_threshold)
            if stability >= settings.stability_threshold:
                yield Candidate(point, float(iou[point, mask]), stability, logits > threshold)


def _prompt_arrays(
    points: ArrayLike | None, labels: ArrayLike | None, boxes: ArrayLike | None
) -> tuple[Float32, NDArray[np.int64]]:
    """Return prompts as the decoder takes them: (B, N, 2) and (B, N), the box's corners or a padding point last.

    Raises:
        InputError: A shape or value is wrong.
    """
    if points is None and boxes is None:
        raise InputError("a prediction needs points or boxes, got neither: give points and labels, or a box")
    if (points is None) != (labels is None):
        raise InputError("points and labels must be given together, got one of them: one label, 1 or 0, for each point")
    parts: list[tuple[Float32, NDArray[np.int64]]] = []
    if points is not None and labels is not None:
        parts.append(_points(points, labels))
    if boxes is not None:
        corners = _numbers("boxes", boxes)
        if corners.ndim != 2 or corners.shape[1] != 4 or not len(corners):
            raise InputError(
                "a box must be 4 numbers x0 y0 x1 y1 in pixels, and boxes (B, 4), got a batch of shape "
                f"{corners.shape}: give one box to predict, several to predict_batch"
            )
        parts.append((corners.reshape(-1, 2, 2), np.tile(np.asarray(_CORNERS, np.int64), (len(corners), 1))))
    else:
        count = len(parts[0][0])
        parts.append((np.zeros((count, 1, 2), np.float32), np.full((count, 1), _PADDING, np.int64)))
    if len({len(xy) for xy, _ in parts}) > 1:
        raise InputError(
            f"there must be one box for each set of points, got {len(parts[1][0])} boxes and {len(parts[0][0])} sets"
        )
    return np.concatenate([xy for xy, _ in parts], 1), np.concatenate([kinds for _, kinds in parts], 1)


def _points(points: ArrayLike, labels: ArrayLike) -> tuple[Float32, NDArray[np.int64]]:
    xy, kinds = _numbers("points", points), _numbers("labels", labels)
    if xy.ndim != 3 or xy.shape[2] != 2 or kinds.shape != xy.shape[:2] or not kinds.size:
        raise InputError(
            f"points must be (N, 2) with (N,) labels, N at least 1, got {xy.shape[1:]} and {kinds.shape[1:]}: "
            "one x y in pixels and one label, 1 or 0, for each point"
        )
    wrong = kinds[~np.isin(kinds, (-1, 0, 1))]
    if len(wrong):
        raise InputError(f"a label must be 1 (on the object), 0 (off it) or -1 (padding), got {float(wrong[0]):g}")
    return xy, kinds.astype(np.int64)


def _numbers(name: str, values: ArrayLike) -> Float32:
    try:
        array = np.asarray(values, np.float32)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} must be an array of numbers, got {type(values).__name__}: {error}") from error
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got NaN or infinity: check where the numbers come from")
    return array
