"""COCO's object annotations as a dataset."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from quantsam.data.coco_file import (
    CocoImage,
    parse_annotations,
    parse_categories,
    parse_images,
    read_document,
)
from quantsam.data.coco_masks import decode_mask
from quantsam.data.dataset import Annotation, BoolMask, UInt8Image
from quantsam.data.folders import file_size, is_folder, list_folder
from quantsam.data.images import load_image
from quantsam.data.subset import stable_subset
from quantsam.errors import DatasetError, InputError


class CocoDataset:
    """The images and objects of one split of COCO, or of anything in its format.

    The official layout is `FOLDER/val2017/*.jpg` with `FOLDER/annotations/instances_val2017.json`.

    Attributes:
        folder: The dataset's folder.
        image_folder: The folder of the split's images.
        annotation_file: The split's annotation file.
        category_names: Names by category id; empty where the file has none.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str = "val2017",
        annotations: Path | None = None,
        images: Path | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        """Parse the annotations and make sure that the images are there.

        Args:
            folder: The dataset's folder.
            split: Which part of it.
            annotations: The annotation file; `FOLDER/annotations/instances_SPLIT.json` if left out.
            images: The folder of the images; `FOLDER/SPLIT` if left out.
            limit: How many images to evaluate; `None` takes all.
            seed: Which images a limit takes; see `stable_subset`.

        Raises:
            DatasetError: Something is missing, or the annotation file is not what its format says.
            InputError: `limit` is below 1 or above the number of images.
        """
        self.folder = Path(folder)
        if not is_folder(self.folder):
            raise DatasetError(f"the COCO folder {self.folder} does not exist: check the path")
        self.image_folder = images or self.folder / split
        self.annotation_file = annotations or self.folder / "annotations" / f"instances_{split}.json"
        whole_name = f"{self.folder.resolve().name}:{split}"
        self._name = whole_name if limit is None else f"{whole_name}[{limit}:{seed}]"

        document = read_document(self.annotation_file)
        all_images = parse_images(document, self.annotation_file)
        self.category_names = parse_categories(document, self.annotation_file)
        chosen = stable_subset(list(all_images), limit, seed, f"images of {whole_name}")
        self._images = {image_id: all_images[image_id] for image_id in chosen}
        self._image_ids = tuple(chosen)
        self._annotations = parse_annotations(document, self.annotation_file, all_images, self._images)
        self._check_files()

    def _check_files(self) -> None:
        """Look for the evaluated images with one listing of each folder that they lie in."""
        names = [image.file_name for image in self._images.values()]
        there = {entry.name for entry in list_folder(self.image_folder)}
        for parent in {PurePosixPath(name).parent for name in names} - {PurePosixPath()}:
            if is_folder(self.image_folder / parent):
                there |= {str(parent / entry.name) for entry in list_folder(self.image_folder / parent)}
        missing = [name for name in names if name not in there]
        if missing:
            raise DatasetError(
                f"{len(missing)} of the {len(names)} images are not in {self.image_folder}, "
                f"the first is {missing[0]!r}: complete the download, or give an annotation file that lists "
                "only the images you have"
            )

    @property
    def name(self) -> str:
        """The folder's name and the split, `coco:val2017`, followed by `[LIMIT:SEED]` for a part."""
        return self._name

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of the evaluated images' ids, sizes in pixels and bytes, and all of their annotations.

        Raises:
            DatasetError: An image file vanished since the dataset was opened.
        """
        state = hashlib.sha256()
        for image_id, image in self._images.items():
            size_bytes = file_size(self.image_folder / image.file_name)
            objects = [
                [a.id, a.category_id, a.box_xyxy, a.area, a.is_crowd, a.segmentation]
                for a in self._annotations[image_id]
            ]
            content = [image_id, image.image_hw, size_bytes, objects]
            state.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        return state.hexdigest()

    @property
    def image_ids(self) -> Sequence[int]:
        """Ids of the evaluated images, ascending."""
        return self._image_ids

    def image(self, image_id: int) -> UInt8Image:
        """Return an image as stored, without any EXIF rotation: that is the grid the annotations mean.

        Args:
            image_id: One of `image_ids`.

        Returns:
            (height, width, 3) uint8 RGB.

        Raises:
            InputError: The id is not one of `image_ids`.
            ImageError: The file cannot be read as a picture.
            DatasetError: The file is not of the size that the annotation file says.
        """
        image = self._described(image_id)
        path = self.image_folder / image.file_name
        array = load_image(path)
        if array.shape[:2] != image.image_hw:
            (height, width), (expected_height, expected_width) = array.shape[:2], image.image_hw
            raise DatasetError(
                f"{path} is {width} x {height} pixels but {self.annotation_file.name} says "
                f"{expected_width} x {expected_height}: annotations mean the stored pixels, so restore "
                "the original file if it was resized or its EXIF rotation was applied"
            )
        return array

    def annotations(self, image_id: int) -> Sequence[Annotation]:
        """Return every annotation of an image, crowds included, by ascending id.

        Args:
            image_id: One of `image_ids`.

        Returns:
            The annotations; `box_xyxy` is `bbox`'s x, y, x + width, y + height, not rounded.

        Raises:
            InputError: The id is not one of `image_ids`.
        """
        return self._annotations[self._described(image_id).id]

    def mask(self, annotation: Annotation) -> BoolMask:
        """Return an annotation's mask as the COCO API's `annToMask` gives it.

        Args:
            annotation: One of this dataset's.

        Returns:
            (height, width) bool, of the size that the annotation file says.

        Raises:
            InputError: The annotation's image is not one of `image_ids`.
            DatasetError: The segmentation cannot be decoded.
        """
        image = self._described(annotation.image_id)
        where = f"{self.annotation_file}: annotation {annotation.id} of image {image.id}"
        return decode_mask(annotation.segmentation, image.image_hw, where)

    def _described(self, image_id: int) -> CocoImage:
        try:
            return self._images[image_id]
        except KeyError:
            raise InputError(
                f"image id {image_id} is not one of the {len(self._images)} images of {self.name}"
            ) from None
