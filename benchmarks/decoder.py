"""Boxes a second: our decoding against one box at a time, as the official evaluation does it; and how the masks agree.

    python benchmarks/decoder.py [--models l0 nano] [--boxes 32] [--rounds 5]

The reference asks the plain decoder for three masks of one box, up-samples all three to the 1024-pixel frame
and on to the picture, and takes the best. Both start from the same embedding. Target: at least 2.5 times,
masks of the same IoU to 0.9999. L0's weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved_ms, save
from numpy.typing import NDArray

import quantsam as qs
from quantsam.data.scenes import make_scene
from quantsam.evaluation.prompts import answer_boxes
from quantsam.metrics.iou import mask_iou
from quantsam.models.sam import EfficientViTSam
from quantsam.models.transforms import preprocess, scale_coordinates, scaled_hw

HW = (480, 640)


@torch.inference_mode()
def reference(model: EfficientViTSam, embedding: torch.Tensor, boxes: torch.Tensor) -> list[NDArray[np.bool_]]:
    """Return the best mask of each box, one box at a time."""
    size = model.variant.prompt_size
    height, width = scaled_hw(HW, size)
    found = []
    for box in scale_coordinates(boxes.reshape(-1, 2, 2), HW, size).reshape(-1, 1, 4):
        low, iou = model.decode(embedding, boxes=box)
        full = F.interpolate(low, (size, size), mode="bilinear", align_corners=False)[..., :height, :width]
        masks = F.interpolate(full, HW, mode="bilinear", align_corners=False)[0] > 0
        found.append(masks[int(iou.argmax())].numpy())
    return found


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Return times, ratio and agreement of one model."""
    torch.manual_seed(0)
    model = qs.load_model("nano") if name == "nano" else qs.create_model(name)
    image = np.ascontiguousarray(make_scene(0, size=640).image[: HW[0]])
    with torch.inference_mode():
        embedding = model.image_encoder(preprocess(image, model.variant.input_size))
    corners = torch.rand(count, 2) * torch.tensor([400.0, 300.0])
    boxes = torch.cat([corners, corners + 20 + torch.rand(count, 2) * torch.tensor([200.0, 150.0])], dim=1)
    rows = [tuple(box) for box in boxes.tolist()]

    def ours() -> list[NDArray[np.bool_]]:
        predictor = qs.Predictor(model)
        predictor.set_embedding(embedding, HW)  # what is computed once an image counts too
        return [answer.mask for answer in answer_boxes(predictor, rows)]

    times = interleaved_ms({"reference_ms": lambda: reference(model, embedding, boxes), "ours_ms": ours}, rounds)
    pairs = zip(reference(model, embedding, boxes), ours(), strict=True)
    ious = [1.0 if not (a.any() or b.any()) else mask_iou(a, b) for a, b in pairs]
    result = {
        "boxes": count,
        "reference_ms_a_box": times["reference_ms"] / count,
        "ours_ms_a_box": times["ours_ms"] / count,
        "ratio": times["reference_ms"] / times["ours_ms"],
        "mean_iou": float(np.mean(ious)),
        "least_iou": float(np.min(ious)),
    }
    print(name, {key: round(value, 5) for key, value in result.items()})
    return result


def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["l0", "nano"])
    parser.add_argument("--boxes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    models = {name: measure(name, args.boxes, args.rounds) for name in args.models}
    save("decoder", {"threads": torch.get_num_threads(), "rounds": args.rounds, "models": models})


if __name__ == "__main__":
    main()
