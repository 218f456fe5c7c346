"""Print a digest of the figures of every way to compute, to show that a change of structure changes none.

    python benchmarks/same_figures.py > before.txt
    python benchmarks/same_figures.py | diff before.txt -

Masks, scores and figures of nano and nano-outlier: float, simulated under the thesis' placement, simulated in floats
and in integers under the engines' placements, and run by the engines; with every kind of prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import quantsam as qs
from quantsam.evaluation.evaluator import evaluate
from quantsam.models.sam import EfficientViTSam

SCHEMES = ("int8", "mix-dwsc", "mix-mbc-neck")
PROMPTS = ("box", "click", "clicks:3")
CALIBRATION, DATA = "scenes:8:1", "scenes:6:3"


def ways(model: EfficientViTSam) -> Iterator[tuple[str, EfficientViTSam]]:
    """Yield every way to compute, named."""
    yield "fp32", model
    for scheme in SCHEMES:
        for placement in ("thesis", "onnxruntime", "openvino", "openvino+vnni"):
            plan = qs.calibrate(model, qs.make_plan(model, scheme, placement), qs.open_images(CALIBRATION))
            name = f"{scheme}/{placement}"
            yield f"{name} simulated", model.with_encoder(qs.simulate(model, plan))
            engine = placement.split("+")[0]
            if engine != "thesis":
                yield f"{name} in integers", model.with_encoder(qs.simulate(model, plan, exact=True))
                yield f"{name} deployed", model.with_encoder(qs.make_engine_encoder(model, plan, engine, threads=1))


def main() -> None:
    """Print one line a way and prompt."""
    dataset = qs.open_dataset(DATA)
    for name in ("nano", "nano-outlier"):
        for way, subject in ways(qs.load_model(name)):
            for prompts in PROMPTS:
                record = evaluate(subject, dataset, prompts=prompts)
                scores = [(s.annotation_id, s.iou, s.predicted_iou) for s in record.scores]
                told = json.dumps([sorted(record.figures.items()), scores])
                digest = hashlib.sha256(told.encode()).hexdigest()[:16]
                print(f"{name} {way} {prompts}: {record.figures['miou']:.4f} {digest}", flush=True)


if __name__ == "__main__":
    main()
