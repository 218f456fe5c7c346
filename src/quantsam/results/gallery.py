"""Objects of a record as images: the prompt, the ground truth, and the answers of FP32 and the record's model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quantsam.errors import StoreError
from quantsam.results.typed import typed

Rank = Literal["worst", "median", "best", "compared"]
RANKS: tuple[Rank, ...] = ("worst", "median", "best")
COMPARED: Rank = "compared"
Rle = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GalleryEntry:
    """One object.

    Attributes:
        rank: The group that the object was chosen from. Objects are ranked by the IoU that the record's model loses
            against FP32, or by the model's own IoU if FP32 was not scored. `compared`: from another record's gallery,
            for comparison.
        image_id: Id of its image.
        annotation_id: Id of its annotation.
        image_hw: Height and width of the image, which boxes, points and masks refer to.
        box_xyxy: The annotated box, in pixels.
        click_xy: The first click, if the prompt was clicks and not the box.
        truth: The annotated mask, a compressed COCO RLE.
        fp32: FP32's answer, in the same form.
        quantized: The answer of the record's model, in the same form.
        fp32_iou: IoU of FP32's answer with the ground truth, 0..1.
        iou: IoU of the model's answer with the ground truth, 0..1.
        picture: The image as JPEG, scaled down; None if a store lost it.
    """

    rank: Rank
    image_id: int
    annotation_id: int
    image_hw: tuple[int, int]
    box_xyxy: tuple[float, float, float, float]
    click_xy: tuple[int, int] | None
    truth: Rle
    fp32: Rle
    quantized: Rle
    fp32_iou: float
    iou: float
    picture: bytes | None = dataclasses.field(default=None, repr=False)

    @property
    def picture_digest(self) -> str:
        """The key under which a store keeps the image, once; empty without an image."""
        return "" if self.picture is None else hashlib.sha256(self.picture).hexdigest()

    def to_json(self) -> str:
        """Return everything except the image itself, and the image's digest, as JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "picture"}
        return json.dumps({**values, "picture": self.picture_digest})


def parse_entry(body: str, picture: Callable[[str], bytes | None]) -> GalleryEntry:
    """Read what `to_json` returned; `picture` finds an image by its digest.

    Raises:
        StoreError: The text is damaged.
    """
    try:
        values = json.loads(body)
        values["image_hw"] = tuple(values["image_hw"])
        values["box_xyxy"] = tuple(values["box_xyxy"])
        values["click_xy"] = None if values["click_xy"] is None else tuple(values["click_xy"])
        entry = typed(GalleryEntry, {**values, "picture": picture(values["picture"])})
        if entry.rank not in (*RANKS, COMPARED) or min(entry.image_hw) < 1:
            raise ValueError(f"rank must be one of {', '.join((*RANKS, COMPARED))} and the image have pixels")
        return entry
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError(f"the store holds a gallery entry that is damaged: {error}") from error
