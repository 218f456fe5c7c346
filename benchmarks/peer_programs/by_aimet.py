"""AIMET's part of peers.py, run by a Python that has aimet-onnx: quantizes an ONNX file, 8-bit throughout.

    python by_aimet.py SOURCE.onnx TARGET.onnx PICTURES.npz SETTINGS

PICTURES has `images` and `validation`, each (N, 3, S, S). SETTINGS is JSON: `scheme` (the default, min_max, if left
out), `equalize`, `seq_mse`, `mixed`. The last line printed is JSON: versions and a note. The target has
QuantizeLinear and DequantizeLinear, with weights as integers.

Mixed precision is the documentation's second step where 8 bits lose too much: the tenth of the layers that alone
cost the embedding most (signal to noise on the validation pictures) goes to float.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import aimet_onnx
import numpy as np
import onnx
import onnxruntime as ort
from aimet_onnx.cross_layer_equalization import equalize_model
from aimet_onnx.lite_mp import flip_layers_to_higher_precision


def _weights(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}


def equalize(model: onnx.ModelProto) -> str:
    """Equalize neighbouring layers in place; return a note of how many weights changed."""
    before = _weights(model)
    equalize_model(model)
    changed = sum(value != before.get(name) for name, value in _weights(model).items())
    return f"{changed} weights equalized"


def lift_worst(sim: Any, source: str, validation: list[dict[str, Any]]) -> None:
    """Let the most sensitive layers of a calibrated model be computed in float."""
    whole = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    expected = [whole.run(None, picture)[0] for picture in validation]

    def decibels(session: Any) -> float:
        values = []
        for picture, y in zip(validation, expected, strict=True):
            noise = session.run(None, picture)[0] - y
            values.append(10 * np.log10((y**2).sum() / (noise**2).sum()))
        return float(np.mean(values))

    flip_layers_to_higher_precision(sim, aimet_onnx.analyze_per_layer_sensitivity(sim, decibels))


def main() -> None:
    """Quantize as asked."""
    source, target, data, settings = sys.argv[1:]
    asked: dict[str, Any] = json.loads(settings)
    pictures = np.load(data)
    images, validation = ([{"image": x[None]} for x in pictures[name]] for name in ("images", "validation"))
    model = onnx.load(source)
    note = equalize(model) if asked.get("equalize") else ""
    scheme = asked.get("scheme", "min_max")
    sim = aimet_onnx.QuantizationSimModel(model, param_type="int8", activation_type="int8", quant_scheme=scheme)
    if asked.get("seq_mse"):
        aimet_onnx.apply_seq_mse(sim, images)
    sim.compute_encodings(images)
    if asked.get("mixed"):
        lift_worst(sim, source, validation)
        sim.compute_encodings(images)
    onnx.save(sim.to_onnx_qdq(prequantize_constants=True), target)
    print(json.dumps({"versions": {"aimet-onnx": aimet_onnx.__version__}, "note": note}))


if __name__ == "__main__":
    main()
