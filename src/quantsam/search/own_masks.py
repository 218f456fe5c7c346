"""Images whose objects are the float model's own masks, for choices without ground truth."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

from quantsam.data.dataset import Annotation, BoolMask, UInt8Image
from quantsam.data.open import ImageSource
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.automatic import segment_everything
from quantsam.prediction.grid import GridSettings

GRID = GridSettings(points_per_side=4, iou_threshold=0.0, stability_threshold=0.0)
MOST_MASKS = 8
"""Maximum number of masks per image, those with the highest predicted IoU."""


class OwnMasks:
    """A dataset of images whose objects are the masks that a float model finds at a coarse grid of points."""

    def __init__(self, model: EfficientViTSam, images: ImageSource) -> None:
        """Create the dataset. An image is segmented when its masks are first requested.

        Args:
            model: The float model.
            images: The images; their numbers are the ids.
        """
        self._model, self._images = model, images
        self._found: dict[int, tuple[Annotation, ...]] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The images' name."""
        return self._images.name

    @property
    def digest(self) -> str:
        """Hex digest of the images and of the weights that find their objects."""
        return hashlib.sha256(f"{self._images.digest}:{self._model.weights_digest()}:{GRID}".encode()).hexdigest()

    @property
    def image_ids(self) -> Sequence[int]:
        """Numbers of the images."""
        return range(len(self._images))

    def image(self, image_id: int) -> UInt8Image:
        """Return an image, (height, width, 3) uint8 RGB."""
        return self._images[image_id]

    def annotations(self, image_id: int) -> Sequence[Annotation]:
        """Return the masks of an image."""
        with self._lock:
            if image_id not in self._found:
                masks = segment_everything(self._model, self.image(image_id), GRID)[:MOST_MASKS]
                self._found[image_id] = tuple(
                    Annotation(
                        id=image_id * MOST_MASKS + number,
                        image_id=image_id,
                        category_id=1,
                        box_xyxy=(*map(float, mask.box_xyxy),),  # type: ignore[arg-type]
                        area=float(mask.area),
                        is_crowd=False,
                        segmentation=mask,
                    )
                    for number, mask in enumerate(masks)
                )
            return self._found[image_id]

    def mask(self, annotation: Annotation) -> BoolMask:
        """Return a mask, (height, width) bool."""
        mask: BoolMask = annotation.segmentation.mask()
        return mask
