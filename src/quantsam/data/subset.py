"""Choose a part of a dataset, the same on every machine."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TypeVar

from quantsam.data.dataset import Annotation, BoolMask, Dataset, UInt8Image
from quantsam.data.names import category_names, file_name
from quantsam.errors import InputError

Key = TypeVar("Key", int, str)


def stable_subset(keys: Sequence[Key], limit: int | None, seed: int, what: str) -> list[Key]:
    """Choose `limit` of the keys; the choice depends only on the keys and the seed.

    The keys with the smallest sha256 of `"{seed}:{key}"` are chosen, so a smaller limit gives a
    subset of a larger one, and neither the order of the keys nor the machine matters.

    Args:
        keys: Unique ids or names.
        limit: Number of keys to choose; `None` takes all.
        seed: Number of the choice.
        what: What the keys are, for the message: "images of coco".

    Returns:
        The chosen keys, ascending.

    Raises:
        InputError: `limit` is not in 1 ... len(keys).

    >>> stable_subset([1, 2, 3, 4, 5, 6], 2, 0, "numbers")
    [3, 4]
    >>> stable_subset([6, 5, 4, 3, 2, 1], 3, 0, "numbers")
    [2, 3, 4]
    """
    ascending = sorted(keys)
    if limit is None:
        return ascending
    if limit < 1:
        raise InputError(f"at least 1 of {len(keys)} {what} must be taken, got {limit}: leave the number out for all")
    if limit > len(keys):
        raise InputError(f"at most {len(keys)} {what} can be taken, got {limit}: lower the number")
    return sorted(sorted(ascending, key=functools.partial(_rank, seed=seed))[:limit])


def _rank(key: int | str, *, seed: int) -> bytes:
    # File systems differ in how they compose accented letters, and allow bytes that are not valid text.
    text = unicodedata.normalize("NFC", f"{seed}:{key}")
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class DatasetSubset:
    """A stable subset of a dataset, itself a dataset."""

    def __init__(self, dataset: Dataset, limit: int, seed: int = 0) -> None:
        """Choose the images; see `stable_subset`.

        Args:
            dataset: The dataset to choose from.
            limit: Number of images to choose.
            seed: Number of the choice.

        Raises:
            InputError: `limit` is below 1 or above the number of images.
        """
        self._dataset = dataset
        self._image_ids = tuple(stable_subset(dataset.image_ids, limit, seed, f"images of {dataset.name}"))
        self._name = f"{dataset.name}[{limit}:{seed}]"

    @property
    def name(self) -> str:
        """`NAME[LIMIT:SEED]`."""
        return self._name

    @property
    def digest(self) -> str:
        """Hex digest of the whole dataset's digest and the chosen ids."""
        text = f"{self._dataset.digest}:{self._image_ids}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def image_ids(self) -> Sequence[int]:
        """The chosen ids, ascending."""
        return self._image_ids

    @property
    def category_names(self) -> Mapping[int, str]:
        """Names by category id, as far as the dataset has any."""
        return category_names(self._dataset)

    def file_name(self, image_id: int) -> str | None:
        """Return an image's path relative to the image folder, if the dataset knows it."""
        return file_name(self._dataset, image_id)

    def image(self, image_id: int) -> UInt8Image:
        """Return an image of the dataset, (height, width, 3) uint8 RGB."""
        return self._dataset.image(image_id)

    def annotations(self, image_id: int) -> Sequence[Annotation]:
        """Return the annotations of an image."""
        return self._dataset.annotations(image_id)

    def mask(self, annotation: Annotation) -> BoolMask:
        """Return an annotation's mask, (height, width) bool."""
        return self._dataset.mask(annotation)


def without_crowds(dataset: Dataset) -> Dataset:
    """Return a dataset without annotations of groups (COCO's crowds); the dataset itself if it has none."""
    ids = dataset.image_ids
    return WithoutCrowds(dataset) if any(a.is_crowd for i in ids for a in dataset.annotations(i)) else dataset


class WithoutCrowds:
    """A dataset without its crowds, itself a dataset; its name and digest say so."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @property
    def name(self) -> str:
        """`NAME without crowds`."""
        return f"{self._dataset.name} without crowds"

    @property
    def digest(self) -> str:
        """Hex digest of the whole dataset's digest and the rule."""
        return hashlib.sha256(f"{self._dataset.digest}:without crowds".encode()).hexdigest()

    @property
    def image_ids(self) -> Sequence[int]:
        """Ids of all images, ascending."""
        return self._dataset.image_ids

    @property
    def category_names(self) -> Mapping[int, str]:
        """Names by category id, as far as the dataset has any."""
        return category_names(self._dataset)

    def file_name(self, image_id: int) -> str | None:
        """Return an image's path relative to the image folder, if the dataset knows it."""
        return file_name(self._dataset, image_id)

    def image(self, image_id: int) -> UInt8Image:
        """Return an image of the dataset, (height, width, 3) uint8 RGB."""
        return self._dataset.image(image_id)

    def annotations(self, image_id: int) -> Sequence[Annotation]:
        """Return an image's annotations that are not crowds."""
        return [a for a in self._dataset.annotations(image_id) if not a.is_crowd]

    def mask(self, annotation: Annotation) -> BoolMask:
        """Return an annotation's mask, (height, width) bool."""
        return self._dataset.mask(annotation)
