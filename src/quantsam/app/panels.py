"""What the server tells the page about the masks of FP32 or of a scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quantsam.app.candidates import ObjectMasks, iou_table
from quantsam.app.jobs import Job
from quantsam.app.pictures import Picture
from quantsam.app.segmenting import Encoded, Everything, Prompted
from quantsam.data.dataset import BoolMask
from quantsam.runtime.picture import PictureMask, agreements


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The masks of FP32 or of a scheme.

    Attributes:
        encoded: The encoded image.
        segmented: The masks.
        found: Masks from segmenting everything, unpacked.
    """

    encoded: Encoded
    segmented: Prompted | Everything
    found: list[PictureMask]

    def panel(self, picture: Picture) -> dict[str, Any]:
        """Return what the page is told, without the comparison with FP32."""
        segmented = self.segmented
        if isinstance(segmented, Prompted):
            masks = [_prompted(masks) for masks in segmented.objects]
        else:
            masks = [_mask(picture.to_view(mask.mask), mask.area, mask.predicted_iou) for mask in self.found]
        return {
            "encoder_ms": self.encoded.encoder_ms,
            "decoder_ms": segmented.decoder_ms,
            "size_bytes": self.encoded.size_bytes,
            "left_out": 0 if isinstance(segmented, Prompted) else segmented.left_out,
            "masks": masks,
        }


def compared(reference: Answer | None, answer: Answer, scheme: str, job: Job) -> dict[str, Any]:
    """Return the IoU of FP32's masks with a scheme's: for the best masks, and as tables for all candidates."""
    if reference is None:
        return {"ious": None, "iou_tables": None}
    steps = job.steps(f"comparing {scheme} with FP32, mask")
    fp32, own = reference.segmented, answer.segmented
    if isinstance(fp32, Prompted) and isinstance(own, Prompted):
        pairs = list(zip(fp32.objects, own.objects, strict=True))
        tables = [iou_table(*pair) for pair in steps(pairs, len(pairs))]
        best = [table[a.best][b.best] for (a, b), table in zip(pairs, tables, strict=True)]
        return {"ious": best, "iou_tables": tables}
    return {"ious": agreements(reference.found, answer.found, paired=False, progress=steps), "iou_tables": None}


def _prompted(masks: ObjectMasks) -> dict[str, Any]:
    """Return the best mask, and the other masks under `others`; `number` is the number of the model's output.

    Areas are in pixels of the image. Areas of the other masks are estimated from the view if it is smaller.
    """
    pixels = [height * width for height, width in (masks.full.image_hw, masks.candidates[0].image_hw)]

    def shown(number: int) -> dict[str, Any]:
        candidate = masks.candidates[number]
        area = masks.full.area if number == masks.best else round(candidate.area * pixels[0] / pixels[1])
        return {"number": number, **_mask(candidate.mask(), area, candidate.predicted_iou)}

    others = [shown(number) for number in range(len(masks.candidates)) if number != masks.best]
    return {**shown(masks.best), "others": others}


def _mask(mask: BoolMask, area: int, predicted_iou: float) -> dict[str, Any]:
    return {"runs": run_lengths(mask), "area": area, "predicted_iou": predicted_iou}


def run_lengths(mask: BoolMask) -> list[int]:
    """Return the lengths of a mask's runs, row by row; the first run is of False.

    >>> run_lengths(np.array([[False, True], [True, False]]))
    [1, 2, 1]
    >>> run_lengths(np.array([[True, True]]))
    [0, 2]
    """
    flat = np.concatenate([[False], mask.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return lengths
