"""Check that an engine on this processor computes what a bundle's exporter computed in exact integers."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantsam.errors import BundleError
from quantsam.runtime.engines import open_session
from quantsam.runtime.manifest import CHECK_ARRAYS, CHECK_BOXES, CHECK_GRAPH, WAY_OUT, Check, test_image
from quantsam.runtime.processor import processor_text, way_to_exactness
from quantsam.runtime.sessions import SessionOptions

Arrays = Mapping[str, NDArray[Any]]


class Segmenter(Protocol):
    """The part of a bundle's predictor that is checked."""

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode an image (H, W, 3)."""
        ...

    def predict_batch(
        self, *, boxes: Any, multimask: bool
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Segment boxes (B, 4): masks (B, M, H, W) bool."""
        ...


def read_arrays(content: bytes, where: str) -> Arrays:
    """Read `check.npz`.

    Args:
        content: Content of the file.
        where: The bundle's folder, for the message.

    Raises:
        BundleError: The content is damaged.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{CHECK_ARRAYS} of bundle {where!r} is damaged ({error}): {WAY_OUT}") from error


def verify_layers(engine: str, graph: bytes, arrays: Arrays, check: Check, options: SessionOptions) -> None:
    """Make sure that an engine computes a few layers as the exporter did, given the largest codes.

    Args:
        engine: Name of the engine.
        graph: `check.onnx`.
        arrays: Arrays from `check.npz`.
        check: Largest allowed deviations of the outputs.
        options: As for the encoder, except for the shapes.

    Raises:
        BundleError: A layer deviates by more.
    """
    for label in check.layers:
        for name in (f"{label}given", f"{label}found"):
            if name not in arrays or arrays[name].dtype != np.float32 or arrays[name].ndim != 4:
                raise BundleError(f"{CHECK_ARRAYS} must have float32 images {name!r}, got none: {WAY_OUT}")
    session = open_session(engine, graph, options)
    found = session.run({f"{label}given": arrays[f"{label}given"] for label in check.layers})
    for label, tolerance in check.layers.items():
        off = float(np.abs(found[f"{label}found"] - arrays[f"{label}found"]).max())
        if not off <= tolerance:
            raise BundleError(
                f"layer {label.rstrip('/.')} in {CHECK_GRAPH} must be within {tolerance:.3g} of exact integers, got "
                f"{off:.3g} off on {processor_text(engine)}: this engine or processor computes something else; export "
                f"again {way_to_exactness(engine)}"
            )


def verify_masks(predictor: Segmenter, arrays: Arrays, check: Check, engine: str) -> None:
    """Make sure that the whole bundle gives the exporter's masks on the test image.

    Raises:
        BundleError: The masks differ.
    """
    predictor.set_image(test_image())
    masks, _, _ = predictor.predict_batch(boxes=np.asarray(CHECK_BOXES, np.float32), multimask=False)
    expected = arrays.get("masks")
    if expected is None or expected.dtype != np.bool_ or expected.shape != masks[:, 0].shape:
        raise BundleError(f"{CHECK_ARRAYS} must have the masks of {len(masks)} boxes, got none: {WAY_OUT}")
    both = (masks[:, 0] & expected).sum((1, 2))
    either = (masks[:, 0] | expected).sum((1, 2))
    iou = float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())
    if not iou >= check.least_mask_iou:
        raise BundleError(
            f"masks of the test image must have a mean IoU of at least {check.least_mask_iou:g} with the exporter's, "
            f"got {iou:.2f} on {processor_text(engine)}: this engine or processor computes something else"
        )
