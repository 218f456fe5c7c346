"""The interface of every dataset for calibration and evaluation, however it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

UInt8Image = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotated object of one image.

    Attributes:
        id: The annotation's id, unique in its dataset.
        image_id: The id of its image.
        category_id: The id of its category.
        box_xyxy: Left, top, right, bottom in pixels of the image; right and bottom exclusive.
        area: Area in square pixels *as annotated* (COCO's `area`, which decides small, medium, large).
        is_crowd: Whether the annotation stands for a group. Prompts from the ground truth treat it like any object;
            average precision follows COCO's rule for crowds.
        segmentation: The mask for `Dataset.mask` to decode: polygons, or an RLE in either form.
    """

    id: int
    image_id: int
    category_id: int
    box_xyxy: tuple[float, float, float, float]
    area: float
    is_crowd: bool
    segmentation: Any


@runtime_checkable
class Dataset(Protocol):
    """Images with annotated objects, addressed by image id."""

    @property
    def name(self) -> str:
        """A short name for tables."""
        ...

    @property
    def digest(self) -> str:
        """Hex digest that changes whenever the evaluated objects or images change."""
        ...

    @property
    def image_ids(self) -> Sequence[int]:
        """Ids of all images, in the stable order of evaluation."""
        ...

    def image(self, image_id: int) -> UInt8Image:
        """Return the image as RGB, uint8, (height, width, 3)."""
        ...

    def annotations(self, image_id: int) -> Sequence[Annotation]:
        """Return every annotation of an image, crowds included, in stable order."""
        ...

    def mask(self, annotation: Annotation) -> BoolMask:
        """Return the annotation's mask, bool, of the image's (height, width)."""
        ...


@runtime_checkable
class NamedDataset(Protocol):
    """Optional additions to `Dataset`, for tables of objects: names of categories and files."""

    @property
    def category_names(self) -> Mapping[int, str]:
        """Names by category id; empty if there are none."""
        ...

    def file_name(self, image_id: int) -> str | None:
        """Return the image's path relative to the image folder; None if the image is not a file."""
        ...
