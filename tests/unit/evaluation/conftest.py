"""Fixtures for evaluation."""

import hashlib

import numpy as np
import pytest

from quantsam.data.dataset import Annotation


class HandMade:
    """A dataset of one grey picture an image, with the objects that a test gives."""

    name = "hand-made"

    def __init__(self, images):
        self.image_ids = range(1, len(images) + 1)
        self._masks = {}
        self._annotations = {}
        number = 0
        for image_id, objects in zip(self.image_ids, images, strict=True):
            self._annotations[image_id] = []
            for mask, changes in objects:
                number += 1
                self._masks[number] = mask
                fields = {
                    "id": number,
                    "image_id": image_id,
                    "category_id": 1,
                    "box_xyxy": (8.0, 8.0, 24.0, 24.0),
                    "area": float(mask.sum()),
                    "is_crowd": False,
                    "segmentation": None,
                }
                self._annotations[image_id].append(Annotation(**(fields | changes)))

    @property
    def digest(self):
        return hashlib.sha256(repr(self._annotations).encode()).hexdigest()

    def image(self, image_id):
        return np.random.default_rng(image_id).integers(0, 256, (48, 64, 3), dtype=np.uint8)

    def annotations(self, image_id):
        return self._annotations[image_id]

    def mask(self, annotation):
        return self._masks[annotation.id]


def square(left, top, right, bottom):
    mask = np.zeros((48, 64), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def hand_made():
    """Make a dataset from lists of (mask, changed fields), one list an image."""
    return lambda *images: HandMade(images)


@pytest.fixture
def make_square():
    """Make a (48, 64) mask that is a filled rectangle."""
    return square
