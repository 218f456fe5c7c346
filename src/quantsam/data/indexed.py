"""The base of `CocoDataset` and `LvisDataset`: the images and objects of an annotation file, by id."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from quantsam.data.box_check import wrong_boxes
from quantsam.data.coco_file import CocoImage, parse_annotations, parse_categories
from quantsam.data.coco_masks import decode_mask
from quantsam.data.dataset import Annotation, BoolMask, UInt8Image
from quantsam.data.folders import file_size, is_folder
from quantsam.data.images import image_size, load_image
from quantsam.data.layouts import names_in, place
from quantsam.data.subset import stable_subset
from quantsam.errors import DatasetError, InputError
from quantsam.files import shown
from quantsam.notices import notice


class IndexedDataset:
    """The images and objects of one annotation file, looked up by id.

    Do not open this class directly: `CocoDataset` and `LvisDataset` know the formats.

    Attributes:
        folder: The dataset's folder.
        image_folder: The folder that the images' names are relative to.
        annotation_file: The annotation file.
        category_names: Names by category id; empty if the file has none.
        image_hw: Height and width in pixels by image id, for all of the file's images, even those that `limit`
            excludes.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        image_folders: Sequence[Path],
        annotation_file: Path,
        document: dict[str, Any],
        images: dict[int, CocoImage],
        limit: int | None,
        seed: int,
        strict: bool,
    ) -> None:
        """Choose the images and parse their annotations; the rest of the document is not kept.

        Args:
            name: Name of the whole dataset.
            folder: The dataset's folder.
            image_folders: Folders where the images may be, at least one; see `layouts.place`.
            annotation_file: The annotation file.
            document: What `read_document` returned for the file.
            images: All images of the file, by ascending id.
            limit: Number of images to evaluate; `None` takes all.
            seed: Decides which images `limit` takes; see `stable_subset`.
            strict: Refuse entries that would be left out or reported in a notice.

        Raises:
            DatasetError: The annotation file violates its format, or a folder is missing.
            InputError: `limit` is below 1 or above the number of images.
        """
        self.folder, self.annotation_file = folder, annotation_file
        self.category_names = parse_categories(document, annotation_file)
        self.image_hw = {image_id: image.image_hw for image_id, image in images.items()}
        name = shown(name)
        self._name = name if limit is None else f"{name}[{limit}:{seed}]"
        chosen = stable_subset(list(images), limit, seed, f"images of {name}")
        self._image_ids = tuple(chosen)
        self.image_folder, self._images = place({image_id: images[image_id] for image_id in chosen}, image_folders)
        parsed = parse_annotations(document, annotation_file, images, self._images, strict=strict)
        self._annotations = parsed.annotations
        if parsed.left_out:
            what = "; ".join(parsed.left_out)
            notice(f"{annotation_file}: what is never scored is left out: {what}: --strict refuses it")

    def _check_files(self, way_out: str) -> None:
        """Make sure that all evaluated images exist; listing folders is faster than checking each file."""
        names = [image.file_name for image in self._images.values()]
        for image in self._images.values():
            if image.file_name.startswith("/"):
                raise DatasetError(
                    f"{self.annotation_file}: image {image.id}: `file_name` must stay in the image folder, got "
                    f"{image.file_name!r}, and {self.image_folder} has no file of that name: {way_out}"
                )
        there = names_in(self.image_folder, {str(PurePosixPath(name).parent) for name in names})
        missing = [name for name in names if name not in there]
        if missing:
            raise DatasetError(
                f"{len(missing)} of the {len(names)} images are not in {self.image_folder}, "
                f"the first is {missing[0]!r}: {way_out}"
            )

    def check(self, *, strict: bool = False) -> None:
        """Before long work, check that the images have the sizes that the file states, and report bad boxes.

        For each image with objects this reads the header, in 0.2 ms.

        Args:
            strict: Refuse boxes that do not fit their masks, instead of giving a notice.

        Raises:
            ImageError: An image file cannot be read.
            DatasetError: An image has another size; in strict mode also, boxes do not fit their masks.
        """
        problem = wrong_boxes(self._annotations, self.image_hw)
        if problem and strict:
            raise DatasetError(f"{self.annotation_file}: {problem}, or leave out --strict")
        if problem:
            notice(f"{self.annotation_file}: {problem}; as they are, the figures mean little (--strict refuses them)")
        for image_id, image in self._images.items():
            if self._annotations[image_id]:
                self._check_size(image, image_size(self.image_folder / image.file_name))

    def _check_size(self, image: CocoImage, found: tuple[int, int]) -> None:
        if found != image.image_hw:
            (height, width), (expected_height, expected_width) = found, image.image_hw
            raise DatasetError(
                f"{self.image_folder / image.file_name} is {width} x {height} pixels but {self.annotation_file.name} "
                f"says {expected_width} x {expected_height}: annotations mean the stored pixels, so restore "
                "the original file if it was resized or its EXIF rotation was applied"
            )

    @property
    def name(self) -> str:
        """Folder and split, such as `coco:val2017` or `lvis:v1_val`, with `[LIMIT:SEED]` for a subset."""
        return self._name

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of the evaluated images' ids, sizes in pixels and bytes, and all of their annotations.

        Raises:
            DatasetError: An image file disappeared after the dataset was opened.
        """
        state = hashlib.sha256()
        if any(a.is_crowd for objects in self._annotations.values() for a in objects):
            state.update(b"crowds are scored\n")  # earlier versions excluded crowds; their digest lacks this line
        for image_id in self._image_ids:
            content = self._digested(image_id)
            state.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        return state.hexdigest()

    def _digested(self, image_id: int) -> list[Any]:
        """Return the part of the digest's input that describes an image, as JSON values."""
        image = self._images[image_id]
        objects = [
            [a.id, a.category_id, a.box_xyxy, a.area, a.is_crowd, a.segmentation] for a in self._annotations[image_id]
        ]
        return [image_id, image.image_hw, file_size(self.image_folder / image.file_name), objects]

    @property
    def image_ids(self) -> Sequence[int]:
        """Ids of the evaluated images, ascending."""
        return self._image_ids

    def image(self, image_id: int) -> UInt8Image:
        """Return an image as stored, without any EXIF rotation: annotations refer to that grid.

        Args:
            image_id: One of `image_ids`.

        Returns:
            (height, width, 3) uint8 RGB.

        Raises:
            InputError: The id is not one of `image_ids`.
            ImageError: The file cannot be read as an image.
            DatasetError: The image does not have the size that the annotation file states.
        """
        image = self._described(image_id)
        array = load_image(self.image_folder / image.file_name)
        self._check_size(image, (array.shape[0], array.shape[1]))
        return array

    def file_name(self, image_id: int) -> str | None:
        """Return the image's path relative to `image_folder`.

        Raises:
            InputError: The id is not one of `image_ids`.
        """
        return self._described(image_id).file_name

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
            (height, width) bool, of the size that the annotation file states.

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


def existing_folder(folder: str | Path, kind: str) -> Path:
    """Return a dataset's folder after checking that it exists.

    Args:
        folder: The folder that the user gave.
        kind: `COCO` or `LVIS`, for the message.

    Raises:
        DatasetError: The folder does not exist.
    """
    if not is_folder(Path(folder)):
        raise DatasetError(f"the {kind} folder {folder} does not exist: check the path")
    return Path(folder)
