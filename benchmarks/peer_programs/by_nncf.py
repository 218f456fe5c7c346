"""NNCF's part of peers.py, run by a Python that has nncf: quantizes an ONNX file for OpenVINO.

    python by_nncf.py SOURCE.onnx TARGET.xml PICTURES.npz SETTINGS

PICTURES has `images` and `validation`, each (N, 3, S, S). SETTINGS is JSON: `preset`, `smooth_quant`,
`fast_bias_correction`, and `max_drop` for accuracy control. The last line printed is JSON: versions and a note.

Accuracy control needs a metric. Predictions cannot be had here, so it is the share of FP32's embedding that is kept:
1 - noise / signal, the mean of the validation pictures; 1 for FP32, 0.99 at 20 dB.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from typing import Any

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters


class _Reverted(logging.Handler):
    """Keeps what NNCF logs of the operations that it left in float."""

    note = ""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().partition("\n")[0]
        if "were reverted back" in line:
            self.note = line.split(" were ")[0] + " operations in float"


def kept(model: Any, pictures: Iterable[tuple[Any, Any]]) -> tuple[float, list[float]]:
    """Return the metric, and that of each picture."""
    values = []
    for picture, expected in pictures:
        noise = model({0: picture})[0] - expected
        values.append(float(1 - (noise**2).sum() / (expected**2).sum()))
    return float(np.mean(values)), values


def with_accuracy_control(model: Any, dataset: Any, validation: Any, max_drop: float, asked: dict[str, Any]) -> Any:
    """Quantize, and leave in float what keeps the metric from falling by more than `max_drop`."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pairs = [(picture[None], compiled({0: picture[None]})[0].copy()) for picture in validation]
    return nncf.quantize_with_accuracy_control(model, dataset, nncf.Dataset(pairs), kept, max_drop=max_drop, **asked)


def main() -> None:
    """Quantize as asked."""
    source, target, data, settings = sys.argv[1:]
    asked: dict[str, Any] = json.loads(settings)
    pictures = np.load(data)
    images = pictures["images"]
    model = ov.Core().read_model(source)
    model.reshape(list(images[:1].shape))
    alpha, max_drop = asked.pop("smooth_quant", None), asked.pop("max_drop", None)
    if "preset" in asked:
        asked["preset"] = nncf.QuantizationPreset(asked["preset"])
    asked["subset_size"] = len(images)
    dataset = nncf.Dataset([image[None] for image in images])
    reverted = _Reverted()
    logging.getLogger("nncf").addHandler(reverted)
    if max_drop is not None:
        quantized = with_accuracy_control(model, dataset, pictures["validation"], max_drop, asked)
    else:
        if alpha is not None:
            smooth = AdvancedSmoothQuantParameters(convolution=alpha)
            asked["advanced_parameters"] = AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
        quantized = nncf.quantize(model, dataset, **asked)
    ov.save_model(quantized, target, compress_to_fp16=False)
    print(json.dumps({"versions": {"nncf": nncf.__version__}, "note": reverted.note}))


if __name__ == "__main__":
    main()
