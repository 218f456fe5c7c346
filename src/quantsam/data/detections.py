"""A detector's boxes: a results file in COCO's format, as ViTDet, YOLOv8 and GroundingDINO write them."""

from __future__ import annotations

import hashlib
import reprlib
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsam.data.annotation_file import field, whole_number
from quantsam.data.json_file import read_json
from quantsam.errors import DatasetError, InputError
from quantsam.files import expanded, shown
from quantsam.notices import notice

_MAX_NUMBER = 1e12  # limit of pixels or score: more counts as infinite; sums below it stay exact enough
_ODD_SHARE, _ODD_LEAST, _SLACK_PX = 0.4, 9, 3.0
_ENTRY = struct.Struct("<qq5d")  # without padding, so that NumPy reads the same bytes
_NUMBERS = ("x", "y", "width", "height", "score")
_ROW = np.dtype([("image_id", "<i8"), ("category_id", "<i8"), *((name, "<f8") for name in _NUMBERS)])
_SAME_SPLIT = "give the detections of the same split"
_Rows = NDArray[np.void]
_Refuse = Callable[[NDArray[np.bool_], str, str], None]


@dataclass(frozen=True, slots=True)
class Detection:
    """One box from a detector.

    Attributes:
        image_id: The id of its image.
        category_id: The id of the category that the detector assigned.
        box_xyxy: Left, top, right, bottom in pixels of the image; right and bottom exclusive. Part of the box may lie
            outside the image.
        score: The detector's confidence; higher is surer, usually 0..1.
    """

    image_id: int
    category_id: int
    box_xyxy: tuple[float, float, float, float]
    score: float


class DetectionFile:
    """The detections of one file, 56 bytes each, looked up by image.

    Attributes:
        path: The file.
        digest: Hex digest (SHA-256) of the detections kept. The order of images in the file, white space and unused
            keys make no difference.
    """

    def __init__(
        self, path: Path, rows: _Rows, known_image_ids: Collection[int], category_ids: Collection[int]
    ) -> None:
        """Index checked detections; `load_detections` reads and checks them.

        Args:
            path: The file that the detections come from.
            rows: (detections,) records of `image_id`, `category_id`, `x`, `y`, `width`, `height` and `score`.
            known_image_ids: Ids of all images that callers may ask for.
            category_ids: Ids of all categories.
        """
        self.path = path
        self._rows = rows[np.argsort(rows["image_id"], kind="stable")]
        self.digest = hashlib.sha256(self._rows.tobytes()).hexdigest()
        image_ids, starts = np.unique(self._rows["image_id"], return_index=True)
        stops = [*starts[1:].tolist(), len(rows)]
        self._slices = {
            image_id: slice(start, stop)
            for image_id, start, stop in zip(image_ids.tolist(), starts.tolist(), stops, strict=True)
        }
        self._known_image_ids = frozenset(known_image_ids)
        self._wide = {stand_in: key for key in category_ids if (stand_in := _narrow(key)) != key}

    @property
    def name(self) -> str:
        """The file's name."""
        return shown(self.path.name)

    def __len__(self) -> int:
        """Return the number of detections in all images."""
        return len(self._rows)

    def detections(self, image_id: int) -> tuple[Detection, ...]:
        """Return an image's detections in the file's order; empty if the detector found nothing.

        Args:
            image_id: One of the annotation file's images.

        Raises:
            InputError: The annotation file has no image with this id.
        """
        if image_id not in self._known_image_ids:
            raise InputError(
                f"image id {image_id} is not one of the {len(self._known_image_ids)} images that "
                f"{self.path} was checked against"
            )
        rows = self._rows[self._slices.get(_narrow(image_id), slice(0, 0))]
        return tuple(
            Detection(image_id, self._wide.get(category_id, category_id), (x, y, x + width, y + height), score)
            for _, category_id, x, y, width, height, score in rows.tolist()
        )


def load_detections(
    path: str | Path,
    *,
    image_hw: Mapping[int, tuple[int, int]],
    category_ids: Collection[int],
    per_image: int | None = None,
    skip_unknown_images: bool = False,
) -> DetectionFile:
    """Read a list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}` and check it.

    Args:
        path: The JSON file. Other keys of its entries, such as `segmentation`, are ignored.
        image_hw: Height and width in pixels by image id, for *every* image of the annotation file: a detector's file
            covers a whole split, even if only a part is evaluated.
        category_ids: Ids of the annotation file's categories.
        per_image: Number of detections to keep per image, by highest score; of equal scores the earlier one. `None`
            keeps all.
        skip_unknown_images: Skip detections of images that `image_hw` lacks, instead of refusing them.

    Returns:
        The detections. Boxes are as in the file, not clipped at the image's border.

    Raises:
        DatasetError: The file cannot be read, is not such a list, or is empty; or an entry lacks a key, refers to an
            unknown image or category, has a number that is not finite, or has a box without area or entirely outside
            its image.
        InputError: `per_image` is below 1.
    """
    if per_image is not None and per_image < 1:
        raise InputError(f"per_image must be at least 1 or None for all detections, got {per_image}")
    path = expanded(path)
    wide: dict[int, int] = {}
    entries = _read_list(path, wide)
    for index, entry in enumerate(entries):
        if not isinstance(entry, bytes):
            raise _malformed(entry, f"{path}: detections[{index}]")
    rows = np.frombuffer(b"".join(entries), _ROW)
    del entries
    if skip_unknown_images:
        rows = rows[np.isin(rows["image_id"], _sorted_ids(image_hw))]
        if not len(rows):
            raise DatasetError(f"{path} has no detection for any image that the annotation file lists: {_SAME_SPLIT}")
    _check_values(rows, path, image_hw, category_ids, wide)
    _tell_of_odd_boxes(rows, path, image_hw)
    kept = rows if per_image is None else _highest_scores(rows, per_image)
    return DetectionFile(path, kept, image_hw, category_ids)


def _narrow(key: int) -> int:
    """Return an id; for an id beyond 64 bits, 63 bits of its digest as a substitute."""
    if -(2**63) <= key < 2**63:
        return key
    return int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big") >> 1


def _pack(entry: dict[str, Any], wide: dict[int, int]) -> bytes | dict[str, Any]:
    """Turn an entry into a row when it is parsed: millions of dictionaries would take gigabytes.

    Ids beyond 64 bits are noted in `wide`, by their substitutes.
    """
    try:
        image_id, category_id = entry["image_id"], entry["category_id"]
        try:
            return _ENTRY.pack(image_id, category_id, *entry["bbox"], entry["score"])
        except struct.error:  # ids beyond 64 bits, or written as floats; or malformed
            ids = [whole_number(entry, key, "") for key in ("image_id", "category_id")]
            packed = _ENTRY.pack(*map(_narrow, ids), *entry["bbox"], entry["score"])
            wide.update({_narrow(key): key for key in ids})
            return packed
    except (KeyError, TypeError, OverflowError, struct.error, DatasetError):
        return entry  # another object, or a malformed entry, which is reported later


def _read_list(path: Path, wide: dict[int, int]) -> list[Any]:
    """Return the file's list, with its detections already packed."""
    document = read_json(path, "the detections", "check the path", object_hook=lambda entry: _pack(entry, wide))
    if isinstance(document, dict) and "annotations" in document:
        raise DatasetError(
            f"{path} is an annotation file, not detections: give the list of image_id, category_id, bbox and "
            "score that a detector wrote for its images"
        )
    if not isinstance(document, list):
        raise DatasetError(
            f"{path} is not a detections file: it must hold a list of objects with image_id, category_id, bbox "
            f"and score, got {'a single object' if isinstance(document, dict | bytes) else type(document).__name__}"
        )
    if not document:
        raise DatasetError(f"{path} is an empty list: there is nothing to prompt with; run the detector again")
    return document


def _malformed(entry: Any, where: str) -> DatasetError:
    """Return the error that says why an entry could not be packed."""
    try:
        for key in ("image_id", "category_id"):
            whole_number(entry, key, where)
        box = field(entry, "bbox", where)
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            return DatasetError(f"{where}: `bbox` must be 4 numbers x, y, width, height, got {reprlib.repr(box)}")
        score = field(entry, "score", where)
        return DatasetError(f"{where}: `score` must be a number, got {reprlib.repr(score)}")
    except DatasetError as error:
        return DatasetError(f"{error}: a detection has image_id, category_id, bbox and score")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not (type(value) is int and abs(value) > _MAX_NUMBER)


def _check_values(
    rows: _Rows,
    path: Path,
    image_hw: Mapping[int, tuple[int, int]],
    category_ids: Collection[int],
    wide: Mapping[int, int],
) -> None:
    """Check every row, column by column; report the first row that breaks a rule."""

    def refuse(bad: NDArray[np.bool_], problem: str, way_out: str) -> None:
        if bad.any():
            index = int(np.argmax(bad))
            others = int(np.count_nonzero(bad)) - 1
            which = f"detections[{index}]" + (f" (and {others:,} more like it)" if others else "")
            found = dict(zip(_ROW.names or (), rows[index].tolist(), strict=True))
            found |= {key: wide.get(found[key], found[key]) for key in ("image_id", "category_id")}
            raise DatasetError(f"{path}: {which} {problem.format(**found)}: {way_out}")

    _check_ids(rows, image_hw, category_ids, refuse)
    _check_boxes(rows, image_hw, refuse)


def _check_ids(rows: _Rows, image_ids: Collection[int], category_ids: Collection[int], refuse: _Refuse) -> None:
    refuse(
        ~np.isin(rows["image_id"], _sorted_ids(image_ids)),
        "is for image {image_id}, which the annotation file does not list",
        f"{_SAME_SPLIT}, or leave them out with --skip-unknown-images",
    )
    refuse(
        ~np.isin(rows["category_id"], _sorted_ids(category_ids)),
        "is of category {category_id}, which the annotation file does not list",
        "give the annotation file's category ids, not the detector's own numbering",
    )


def _check_boxes(rows: _Rows, image_hw: Mapping[int, tuple[int, int]], refuse: _Refuse) -> None:
    """Check the numbers; the ids are already checked."""
    x, y, width, height, score = (rows[name] for name in _NUMBERS)
    box = "[{x}, {y}, {width}, {height}]"
    refuse(
        ~(np.abs(score) <= _MAX_NUMBER),
        "must have a finite `score`, got {score}",
        "remove it, or run the detector again",
    )
    refuse(
        ~(np.abs(np.column_stack((x, y, width, height))) <= _MAX_NUMBER).all(axis=1),
        f"must have a finite `bbox`, got {box}",
        "remove it, or run the detector again",
    )
    refuse(
        (x + width <= x) | (y + height <= y),  # also refuses a width that rounding loses
        f"must have a `bbox` with width and height > 0, got {box}",
        "remove it; a box is x, y, width, height in pixels",
    )
    image_heights, image_widths = _image_sides(rows, image_hw)
    refuse(
        (x >= image_widths) | (y >= image_heights) | (x + width <= 0) | (y + height <= 0),
        f"has a `bbox` wholly outside image {{image_id}}, got {box}",
        "remove it; a box is x, y, width, height in pixels of the stored image",
    )


def _tell_of_odd_boxes(rows: _Rows, path: Path, image_hw: Mapping[int, tuple[int, int]]) -> None:
    """Give a notice if boxes seem to be in another unit or order, although each one is legal."""
    x, y, width, height = (rows[name] for name in _NUMBERS[:4])
    image_heights, image_widths = _image_sides(rows, image_hw)
    tiny = int(np.count_nonzero((np.column_stack((x, y, width, height)) <= 1).all(axis=1)))
    beyond = int(np.count_nonzero((x + width > image_widths + _SLACK_PX) | (y + height > image_heights + _SLACK_PX)))
    rule = "a box is x, y, width, height in pixels"
    least = max(_ODD_LEAST, _ODD_SHARE * len(rows))
    if tiny > least:
        notice(
            f"{path}: {tiny:,} of {len(rows):,} boxes lie within one pixel, they look like fractions of the image: "
            f"{rule}"
        )
    elif beyond > least:
        notice(
            f"{path}: {beyond:,} of {len(rows):,} boxes reach beyond their image, they look like left, top, right, "
            f"bottom: {rule}"
        )


def _image_sides(rows: _Rows, image_hw: Mapping[int, tuple[int, int]]) -> tuple[NDArray[np.float64], ...]:
    """Return height and width of each row's image, (rows,) each; the ids are already checked."""
    by_row = {_narrow(image_id): hw for image_id, hw in image_hw.items()}
    known = _sorted_ids(image_hw)
    sizes = np.array([by_row[image_id] for image_id in known.tolist()], np.float64)
    heights, widths = sizes[np.searchsorted(known, rows["image_id"])].T
    return heights, widths


def _sorted_ids(ids: Collection[int]) -> NDArray[np.int64]:
    """Return the ids as they are stored in rows, ascending."""
    return np.array(sorted(_narrow(key) for key in ids), np.int64)


def _highest_scores(rows: _Rows, per_image: int) -> _Rows:
    """Return the `per_image` highest scores of each image, in the order of `rows`."""
    order = np.lexsort((-rows["score"], rows["image_id"]))  # by image, then score; stable
    image_ids = rows["image_id"][order]
    rank = np.arange(len(rows)) - np.searchsorted(image_ids, image_ids)  # within its image
    return rows[np.sort(order[rank < per_image])]
