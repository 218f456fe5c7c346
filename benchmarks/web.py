"""A page beside the desktop: are the masks the same, how large is it, how long do encoder and decoder take?

python benchmarks/web.py [--model nano] [--images 20] [--rounds 20]

Needs `quantsam[web]` and a Chromium. Times of the page are its own, without the way to Python and
back. Of the rounds the median is kept, and what a tenth of them stays below: the machine may be shared.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from common import save
from onnx import helper

import quantsam as qs
from quantsam.data.dataset import Dataset
from quantsam.engines.onnx_encoder import INPUT, encoder_to_onnx
from quantsam.metrics.iou import mask_iou
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.prediction.geometry import encoder_input
from quantsam.runtime.bundle import BundlePredictor
from quantsam.runtime.engines import open_session, surroundings
from quantsam.runtime.manifest import DECODER, ENCODER
from quantsam.runtime.sessions import Session, SessionOptions

ENGINES, THREADS, SCHEMES = ("onnxruntime", "web"), (1, 2), ("fp32", "int8")
CODED = 3  # pictures whose codes are compared


def codes(model: EfficientViTSam, plan: Plan, dataset: Dataset) -> dict[str, float]:
    """Compare what stands behind every rounding, on some images."""
    graph = encoder_to_onnx(model, plan)
    sites = [site for site in plan.sites if site.role == "activation"]
    for site in sites:
        graph.graph.output.append(helper.make_tensor_value_info(site.key, onnx.TensorProto.FLOAT, None))
    sessions = [open_session(name, graph.SerializeToString(), SessionOptions(1)) for name in ENGINES]
    count = differing = 0
    most = 0.0
    for image_id in dataset.image_ids[:CODED]:
        x = encoder_input(dataset.image(image_id), model.variant.input_size)
        desktop, page = (session.run({INPUT: x}) for session in sessions)
        for site in sites:
            steps = np.abs(desktop[site.key] - page[site.key]) / float(np.asarray(site.params and site.params.scale))
            count, differing, most = count + steps.size, differing + int((steps > 0.5).sum()), max(most, steps.max())
    return {"sites": len(sites), "codes": count, "differing": differing, "most_steps": float(most)}


def masks(folder: Path, dataset: Dataset) -> dict[str, float]:
    """Compare embeddings, and the masks of every annotated box."""
    desktop, page = (qs.load_bundle(folder, engine=name, threads=1) for name in ENGINES)
    largest, relative, ious, identical = 0.0, 0.0, [], 0
    for image_id in dataset.image_ids:
        image = dataset.image(image_id)
        boxes = [list(annotation.box_xyxy) for annotation in dataset.annotations(image_id)]
        embeddings = [predictor.encode(image) for predictor in (desktop, page)]
        largest = max(largest, float(np.abs(embeddings[0] - embeddings[1]).max()))
        relative = max(relative, float(np.abs(embeddings[0] - embeddings[1]).max() / np.abs(embeddings[0]).max()))
        for a, b in zip(best(desktop, image, boxes), best(page, image, boxes), strict=True):
            ious.append(mask_iou(a, b) if a.any() or b.any() else 1.0)
            identical += bool((a == b).all())
    return {
        "images": len(dataset.image_ids),
        "masks": len(ious),
        "identical": identical,
        "mean_iou": float(np.mean(ious)),
        "least_iou": min(ious),
        "embedding_off": largest,
        "embedding_off_relative": relative,
    }


def best(predictor: BundlePredictor, image: Any, boxes: list[list[float]]) -> Any:
    """Return the best mask of each box."""
    predictor.set_image(image)
    return predictor.best_masks(boxes=boxes)[0]


def download(folder: Path) -> dict[str, dict[str, int]]:
    """Return the bytes of what a browser loads, plain and compressed."""
    unread = ("README.md", "model-card.md", "check.onnx", "check.npz", "LICENSE-onnxruntime-web.txt")
    groups = {"runtime": ("ort",), "encoder": (ENCODER,), "decoder": (DECODER,)}
    found: dict[str, dict[str, int]] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_dir() or str(name) in unread:
            continue
        group = next((group for group, firsts in groups.items() if name.parts[0] in firsts), "page")
        content = path.read_bytes()
        sums = found.setdefault(group, {"bytes": 0, "gzip": 0})
        sums["bytes"] += len(content)
        sums["gzip"] += len(gzip.compress(content))
    return found


def times(folders: dict[str, Path], size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time encoders and the decoder in turn; milliseconds by name."""
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    calls: dict[str, Callable[[], float]] = {}
    for engine in ENGINES:
        for threads in THREADS:
            options = SessionOptions(threads)
            for scheme, folder in folders.items():
                session = open_session(engine, folder / ENCODER, options)
                calls[f"encoder {scheme}, {engine}, {threads}"] = timed(session, {INPUT: image})
            embedding = session.run({INPUT: image})["embedding"]
            corners = np.array([[[40, 40], [160, 160]]], np.float32)
            box = {"embedding": embedding, "points": corners, "labels": np.array([[2, 3]], np.int64)}
            calls[f"decoder, {engine}, {threads}"] = timed(open_session(engine, folder / DECODER, options), box)
    for call in calls.values():
        for _ in range(3):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(0.15)  # threads of the one before spin for a while
            samples[name].append(call())
    return {n: {"median": median(v), "low": float(np.percentile(v, 10))} for n, v in samples.items()}


def timed(session: Session, feeds: dict[str, Any]) -> Callable[[], float]:
    """Return what runs a session once and says how long it took."""

    def call() -> float:
        started = time.perf_counter()
        session.run(feeds)
        spent = 1000 * (time.perf_counter() - started)
        return float(getattr(session, "own_ms", spent))

    return call


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    model, dataset = qs.load_model(args.model), qs.open_dataset(f"scenes:{args.images}:3")
    images = qs.open_images("scenes:32:1")
    with tempfile.TemporaryDirectory() as place:
        folders, plans = {scheme: Path(place) / scheme for scheme in SCHEMES}, {}
        for scheme, folder in folders.items():
            plans[scheme] = qs.calibrate(model, qs.make_plan(model, scheme, "onnxruntime"), images)
            qs.export_bundle(model, plans[scheme], folder, engine="web")
        result = {
            "model": model.name,
            "codes": codes(model, plans["int8"], dataset),
            "masks": {scheme: masks(folder, dataset) for scheme, folder in folders.items()},
            "download": download(folders["int8"]),
            "rounds": args.rounds,
            "times": times(folders, model.variant.input_size, args.rounds),
            "versions": {name: surroundings(name)[name] for name in ENGINES},
        }
    for name, value in result.items():
        print(name, value)
    save("web", result)


if __name__ == "__main__":
    main()
