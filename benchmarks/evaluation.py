"""How fast L0 in INT8 on OpenVINO evaluates photographs, how busy the processor's cores are, and where the time goes.

    python benchmarks/evaluation.py --coco FOLDER [--images 40] [--threads 2]

L0 has fixed weights that mean nothing. Boxes come from the ground truth; the decoder computes in PyTorch, beside the
engine. One loop decodes each image before the next is encoded, as `evaluate` does; another encodes the next image while
one is decoded.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save
from engines import random_model

import quantsam as qs
from quantsam.metrics.iou import mask_iou
from quantsam.prediction.transforms import preprocess


class Loops:
    """The same work in several orders."""

    def __init__(self, model: Any, encoder: Any, dataset: Any, ids: list[int]) -> None:
        """Read everything, so that no file is timed."""
        self.encoder, self.predictor, self.ids = encoder, qs.Predictor(model.with_encoder(encoder)), ids
        self.side = model.variant.input_size
        self.images = {i: dataset.image(i) for i in ids}
        self.boxes = {i: np.array([a.box_xyxy for a in dataset.annotations(i)], np.float32) for i in ids}
        self.truths = {i: [dataset.mask(a) for a in dataset.annotations(i)] for i in ids}

    def encode(self, image_id: int) -> torch.Tensor:
        """Return an image's embedding."""
        with torch.inference_mode():
            embedding: torch.Tensor = self.encoder(preprocess(self.images[image_id], self.side))
        return embedding

    def score(self, image_id: int, embedding: torch.Tensor) -> None:
        """Decode all boxes of an image and compare the masks with the ground truth."""
        self.predictor.set_embedding(embedding, self.images[image_id].shape[:2])
        masks, _ = self.predictor.best_masks(boxes=torch.from_numpy(self.boxes[image_id]))
        for mask, truth in zip(masks, self.truths[image_id], strict=True):
            mask_iou(np.asarray(mask), truth)

    def one_by_one(self) -> None:
        """Encode an image, decode it, then the next."""
        for image_id in self.ids:
            self.score(image_id, self.encode(image_id))

    def overlapped(self) -> None:
        """Encode the next image while one is decoded."""
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.encode, self.ids[0])
            for image_id, following in zip(self.ids, [*self.ids[1:], None], strict=True):
                embedding = waiting.result()
                if following is not None:
                    waiting = pool.submit(self.encode, following)
                self.score(image_id, embedding)

    def encoder_alone(self) -> None:
        """Encode all images."""
        for image_id in self.ids:
            self.encode(image_id)


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of a call on the wall, and how many cores it kept busy on average."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {"wall_s": wall, "cores_busy": processor / wall}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ["QUANTSAM_CACHE"] = "off"
    qs.keep_freed_memory()
    torch.set_num_threads(args.threads)
    model, dataset = random_model("l0"), qs.open_dataset(args.coco)
    plan = qs.calibrate(model, qs.make_plan(model, "int8", "openvino"), qs.open_images("scenes:4:1"))
    encoder = qs.make_engine_encoder(model, plan, "openvino", threads=args.threads)
    ids = [i for i in dataset.image_ids if dataset.annotations(i)][: args.images]
    loops = Loops(model, encoder, dataset, ids)
    loops.score(ids[0], loops.encode(ids[0]))  # what is loaded or compiled at the first call is not timed
    boxes = sum(map(len, loops.boxes.values()))
    found: dict[str, Any] = {"images": len(ids), "boxes": boxes, "threads": args.threads, "rounds": []}
    for _ in range(2):
        calls = {"one by one": loops.one_by_one, "overlapped": loops.overlapped, "encoder alone": loops.encoder_alone}
        found["rounds"].append({name: timed(call) for name, call in calls.items()})
        for name, spent in found["rounds"][-1].items():
            rates = [
                f"{count / spent['wall_s']:.2f} {what}/s" for count, what in ((len(ids), "images"), (boxes, "boxes"))
            ]
            print(f"{name}: {', '.join(rates)}, {spent['cores_busy']:.2f} cores busy", flush=True)
    save("evaluation", found)


if __name__ == "__main__":
    main()
