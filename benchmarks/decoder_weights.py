"""What storing the decoder's weights in fewer bits costs: mIoU, bytes, and the time of a box.

    python benchmarks/decoder_weights.py [--scenes 100] [--engine onnxruntime]

nano's bundles with the same INT8 encoder and decoders of float32, float16 and int8 weights answer the same boxes.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from common import interleaved_ms, save

import quantsam as qs
from quantsam.engines.stored import Stored
from quantsam.metrics.iou import mask_iou
from quantsam.metrics.summary import mean_and_error


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--engine", default="onnxruntime")
    args = parser.parse_args()
    model = qs.load_model("nano")
    plan = qs.calibrate(model, qs.make_plan(model, "int8", args.engine), qs.open_images("scenes:32:1"))
    dataset = qs.open_dataset(f"scenes:{args.scenes}:3")
    with tempfile.TemporaryDirectory() as folder:
        predictors = {}
        sizes = {}
        for stored in get_args(Stored):
            bundle = Path(folder) / stored
            manifest = qs.export_bundle(model, plan, bundle, engine=args.engine, decoder_weights=stored)
            predictors[stored] = qs.load_bundle(bundle, threads=1)
            sizes[stored] = manifest.files["decoder.onnx"].size_bytes
        ious: dict[str, list[float]] = {stored: [] for stored in predictors}
        for image_id in dataset.image_ids:
            image, objects = dataset.image(image_id), dataset.annotations(image_id)
            boxes = np.array([a.box_xyxy for a in objects], np.float32)
            truths = [dataset.mask(a) for a in objects]
            for stored, predictor in predictors.items():
                predictor.set_image(image)
                masks, _ = predictor.best_masks(boxes=boxes)
                ious[stored] += [100 * mask_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
        calls: dict[str, Callable[[], object]] = {
            stored: functools.partial(predictor.predict_batch, boxes=boxes[:1])
            for stored, predictor in predictors.items()
        }
        times = interleaved_ms(calls, rounds=30)
    found: dict[str, Any] = {"engine": args.engine, "scenes": args.scenes, "objects": len(ious["f32"])}
    for stored, values in ious.items():
        gain, error = mean_and_error([a - b for a, b in zip(values, ious["f32"], strict=True)])
        found[stored] = {
            "miou": float(np.mean(values)),
            "difference": gain,
            "standard_error": error,
            "decoder_bytes": sizes[stored],
            "box_ms": times[stored],
        }
        print(stored, found[stored], flush=True)
    save("decoder_weights", found)


if __name__ == "__main__":
    main()
