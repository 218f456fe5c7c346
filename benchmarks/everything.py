"""Segment everything with nano: how many masks pass which thresholds, and how many of them are annotated objects.

python benchmarks/everything.py [--coco ../shared/data/coco] [--images 24]

Prints a line for each pair of thresholds; `prediction/grid.py` has those that were chosen.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence

import quantsam as qs
from quantsam.data.dataset import Dataset
from quantsam.metrics.iou import mask_iou
from quantsam.prediction.everything import FoundMask
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.nms import nms

IOU, STABILITY = (0.4, 0.5, 0.6, 0.7, 0.88), (0.4, 0.5, 0.6, 0.8, 0.95)
LOOSE = GridSettings(points_per_side=16, iou_threshold=0.3, stability_threshold=0.3, box_nms_threshold=1.0)
Found = tuple[FoundMask, float]
"""A mask and its best IoU with an object."""


def look(dataset: Dataset, images: int) -> list[list[Found]]:
    """Return of each picture all masks that any thresholds here could keep."""
    model, found = qs.load_model("nano"), []
    for image_id in dataset.image_ids[:images]:
        truths = [dataset.mask(a) for a in dataset.annotations(image_id) if a.area >= 1]
        masks = qs.segment_everything(model, dataset.image(image_id), LOOSE)
        found.append([(m, max((mask_iou(m.mask(), truth) for truth in truths), default=0.0)) for m in masks])
    return found


def kept(masks: Sequence[Found], iou: float, stability: float) -> list[Found]:
    """Return what thresholds and the usual removal of duplicates leave."""
    good = [(m, best) for m, best in masks if m.predicted_iou > iou and m.stability >= stability]
    chosen = nms([m.box_xyxy for m, _ in good], [m.predicted_iou for m, _ in good], GridSettings().box_nms_threshold)
    return [good[index] for index in chosen.tolist()]


def main() -> None:
    """Look at photographs and at scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", default="../shared/data/coco")
    parser.add_argument("--images", type=int, default=24)
    arguments = parser.parse_args()
    print(dataclasses.asdict(LOOSE))
    for name, dataset in (("photographs", qs.open_dataset(arguments.coco)), ("scenes", qs.open_dataset("scenes:24:3"))):
        pictures = look(dataset, arguments.images)
        for iou, stability in itertools.product(IOU, STABILITY):
            left = [kept(masks, iou, stability) for masks in pictures]
            count = sum(map(len, left))
            objects = sum(best > 0.5 for masks in left for _, best in masks)
            print(
                f"{name}: predicted IoU > {iou}, stability >= {stability}: {count / len(left):.1f} masks a picture, "
                f"{100 * objects / max(count, 1):.0f} % annotated objects, none on {left.count([])} of {len(left)}"
            )


if __name__ == "__main__":
    main()
