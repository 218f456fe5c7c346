"""Parse what a browser sends into a request for masks. Nothing in it is trusted."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Collection
from typing import Any

from starlette.exceptions import HTTPException

from quantsam.app.asked import MaskRequest, SaveRequest
from quantsam.app.catalogue import FP32, Catalogue
from quantsam.app.limits import Limits
from quantsam.app.pictures import Picture
from quantsam.app.saving import KINDS
from quantsam.errors import InputError, nearest
from quantsam.prediction.grid import GridSettings, usual_settings
from quantsam.runtime.picture import PicturePrompts

MAX_POINTS_PER_SIDE = 64
_POINTS_PER_SIDE = 16  # a quarter of SAM's points, so that the page answers soon
_MAX_COORDINATE = 1e6
_KEYS = {"picture", "model", "schemes", "engine", "boxes", "points", "labels", "everything", "grid"}
_SAVE_KEYS = {"scheme", "kind", "chosen", "numbers", "file_name"}
_MOST_NAME = 255  # characters of a file's name
_GRID_KEYS = {"points_per_side", "min_iou", "min_stability"}


def usual_grid(model: str) -> dict[str, float]:
    """Return the default values of a request's `grid` for a model's name."""
    usual = usual_settings(model, points_per_side=_POINTS_PER_SIDE)
    return {
        "points_per_side": usual.points_per_side,
        "min_iou": usual.iou_threshold,
        "min_stability": usual.stability_threshold,
    }


def parse_request(body: bytes, catalogue: Catalogue, limits: Limits) -> MaskRequest:
    """Read a request for masks.

    Args:
        body: JSON with `picture` (a token), `model`, `schemes` (a list) and `engine`; and either `boxes` (x0 y0 x1 y1
            each), `points` (x y each) and `labels`, or `everything` and perhaps `grid`, see `usual_grid`.
        catalogue: What a user can choose.
        limits: Limits on the request.

    Raises:
        HTTPException: 400 if the body is not JSON or names something unknown; 422 for a wrong type or value.
    """
    return _mask_request(_table(_json(body), _KEYS, "the request"), catalogue, limits)


def parse_save(body: bytes, catalogue: Catalogue, limits: Limits) -> SaveRequest:
    """Read a request for a file of masks.

    Args:
        body: JSON as for masks, but without `schemes`; and `scheme` (may be FP32's), `kind`, and perhaps `chosen`,
            `numbers` and `file_name`, see `SaveRequest`.
        catalogue: What a user can choose.
        limits: Limits on the request.

    Raises:
        HTTPException: 400 if the body is not JSON or names something unknown; 422 for a wrong type or value.
    """
    table = _table(_json(body), (_KEYS - {"schemes"}) | _SAVE_KEYS, "the request")
    chosen = table.get("chosen")
    if chosen is not None and not _is_index(chosen):
        raise _wrong(f"chosen must be the number of an object or null, got {reprlib.repr(chosen)}")
    numbers = _list(table, "numbers", limits.prompts)
    if not all(_is_index(number) for number in numbers):
        raise _wrong(f"numbers must be whole numbers, 0 or more, got {reprlib.repr(numbers)}")
    return SaveRequest(
        masks=_mask_request({key: value for key, value in table.items() if key in _KEYS}, catalogue, limits),
        scheme=_name(table, "scheme", (FP32.name, *catalogue.schemes)),
        kind=_name(table, "kind", KINDS),
        chosen=chosen,
        numbers=tuple(numbers),
        file_name=_file_name(table.get("file_name", "picture")),
    )


def _mask_request(table: dict[str, Any], catalogue: Catalogue, limits: Limits) -> MaskRequest:
    model = _name(table, "model", catalogue.models)
    engine = _name(table, "engine", catalogue.engines)
    listed = _list(table, "schemes", len(catalogue.schemes))
    schemes = tuple(_known(name, "scheme", catalogue.schemes) for name in listed)
    if len(set(schemes)) < len(schemes):
        raise _wrong(f"schemes must differ, got {reprlib.repr(list(schemes))}")
    grid = _grid(table.get("grid", {}), usual_grid(model))
    return MaskRequest(_text(table, "picture"), model, schemes, engine, _prompts(table, limits), grid)


def check_on_picture(request: MaskRequest, picture: Picture, limits: Limits) -> None:
    """Check that prompts lie in the image, that masks fit into memory, and that everything can be found in time.

    Raises:
        HTTPException: One of these does not hold.
    """
    try:
        request.prompts.check(picture.image_hw)
    except InputError as error:
        raise _wrong(str(error)) from None
    boxes, pixels = len(request.prompts.boxes_xyxy), math.prod(picture.image_hw)
    if boxes * pixels > limits.mask_bytes and boxes > 1:
        most = max(1, limits.mask_bytes // pixels)
        raise _wrong(f"on an image of {pixels:,} pixels there may be {most} boxes at once, got {boxes}: clear some")
    side, view_pixels = request.grid.points_per_side, math.prod(picture.view_hw)
    if request.prompts.everything and side**2 * view_pixels > limits.grid_pixels and side > 1:
        most = max(1, math.isqrt(limits.grid_pixels // view_pixels))
        raise _wrong(f"on this image points_per_side may be at most {most}, got {side}: ask fewer points a side")


def _json(body: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the request must be JSON: {reprlib.repr(str(error))}") from None


def _table(value: Any, keys: Collection[str], name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{name} must be a JSON object, got {type(value).__name__}")
    for key in value:
        if key not in keys:
            raise _wrong(f"{name}: unknown key {reprlib.repr(key)}: {nearest(key[:40], keys)}")
    return value


def _text(table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise _wrong(f"{key} must be a string, got {reprlib.repr(value)}")
    return value


def _name(table: dict[str, Any], key: str, known: Collection[str]) -> str:
    return _known(_text(table, key), key, known)


def _known(value: Any, key: str, known: Collection[str]) -> str:
    if not isinstance(value, str):
        raise _wrong(f"a {key} must be a string, got {reprlib.repr(value)}")
    if value not in known:
        raise HTTPException(400, f"there is no {key} {reprlib.repr(value)} here: {nearest(value[:40], known)}")
    return value


def _file_name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_NAME:
        raise _wrong(f"file_name must be a string of 1 to {_MOST_NAME} characters, got {reprlib.repr(value)}")
    if "/" in value or value in (".", "..") or any(ord(letter) < 32 for letter in value):
        raise _wrong(f"file_name must be a name without folders, got {reprlib.repr(value)}")
    return value


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _list(table: dict[str, Any], key: str, most: int) -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list) or len(value) > most:
        got = f"{len(value)} entries" if isinstance(value, list) else reprlib.repr(value)
        raise _wrong(f"{key} must be a list of at most {most} entries, got {got}")
    return value


def _prompts(table: dict[str, Any], limits: Limits) -> PicturePrompts:
    boxes = tuple(_numbers(box, 4, "a box") for box in _list(table, "boxes", limits.prompts))
    points = tuple(_numbers(point, 2, "a point") for point in _list(table, "points", limits.prompts))
    labels = _list(table, "labels", limits.prompts)
    if len(labels) != len(points) or not all(type(label) is int and label in (0, 1) for label in labels):
        raise _wrong(
            f"labels must be one 1 or 0 for each of {len(points)} points, got {reprlib.repr(labels)}: "
            "1 is on the object, 0 off it"
        )
    everything = table.get("everything", False)
    if not isinstance(everything, bool):
        raise _wrong(f"everything must be true or false, got {reprlib.repr(everything)}")
    if everything == bool(boxes or points):
        raise _wrong("the request must have boxes or points, or ask for everything, and not both")
    corners = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes)
    return PicturePrompts(corners, tuple((x, y) for x, y in points), tuple(labels))


def _numbers(value: Any, count: int, name: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count or not all(_is_coordinate(number) for number in value):
        raise _wrong(f"{name} must be {count} numbers within {_MAX_COORDINATE:,.0f} pixels, got {reprlib.repr(value)}")
    return tuple(float(number) for number in value)


def _is_coordinate(value: Any) -> bool:
    return _is_number(value) and abs(value) <= _MAX_COORDINATE


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _grid(value: Any, usual: dict[str, float]) -> GridSettings:
    table = usual | _table(value, _GRID_KEYS, "grid")
    side = table["points_per_side"]
    if type(side) is not int or not 1 <= side <= MAX_POINTS_PER_SIDE:
        raise _wrong(
            f"points_per_side must be a whole number from 1 to {MAX_POINTS_PER_SIDE}, got {reprlib.repr(side)}"
        )
    for key in ("min_iou", "min_stability"):
        if not _is_number(table[key]) or not 0 <= table[key] <= 1:
            raise _wrong(f"{key} must be a number from 0 to 1, got {reprlib.repr(table[key])}: 0 keeps all masks")
    return GridSettings(
        points_per_side=side, iou_threshold=table["min_iou"], stability_threshold=table["min_stability"]
    )


def _wrong(message: str) -> HTTPException:
    return HTTPException(422, message)
