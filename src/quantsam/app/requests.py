"""From what a browser sends to a request for masks; nothing in it is believed."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection
from typing import Any

from starlette.exceptions import HTTPException

from quantsam.app.answers import MaskRequest
from quantsam.app.limits import Limits
from quantsam.app.subjects import Catalogue
from quantsam.errors import InputError, nearest
from quantsam.models.grid import GridSettings
from quantsam.runtime.picture import PicturePrompts

MAX_POINTS_PER_SIDE = 64
_MAX_COORDINATE = 1e6
_KEYS = {"picture", "model", "schemes", "engine", "boxes", "points", "labels", "everything", "grid"}
_GRID_KEYS = {"points_per_side", "min_iou", "min_stability"}


def parse_request(body: bytes, catalogue: Catalogue, limits: Limits) -> MaskRequest:
    """Read a request for masks.

    Args:
        body: JSON: `picture` (a token), `model`, `schemes` (a list), `engine`; `boxes` (x0 y0 x1 y1 each), `points`
            (x y each) and `labels`, or `everything` and perhaps `grid`.
        catalogue: What can be chosen.
        limits: How much may be asked.

    Raises:
        HTTPException: 400 for what is not JSON or names what there is not; 422 for a wrong type or value.
    """
    table = _table(_json(body), _KEYS, "the request")
    model = _name(table, "model", catalogue.models)
    engine = _name(table, "engine", catalogue.engines)
    schemes = tuple(_known(name, "scheme", catalogue.schemes) for name in _list(table, "schemes", limits.prompts))
    if len(set(schemes)) < len(schemes):
        raise _wrong(f"schemes must differ, got {reprlib.repr(list(schemes))}")
    return MaskRequest(
        _text(table, "picture"), model, schemes, engine, _prompts(table, limits), _grid(table.get("grid", {}))
    )


def check_mask_bytes(request: MaskRequest, image_hw: tuple[int, int], limits: Limits) -> None:
    """Make sure that the prompts lie in the picture and that their masks fit into memory.

    Raises:
        HTTPException: They do not.
    """
    try:
        request.prompts.check(image_hw)
    except InputError as error:
        raise _wrong(str(error)) from None
    boxes, pixels = len(request.prompts.boxes_xyxy), image_hw[0] * image_hw[1]
    if boxes * pixels > limits.mask_bytes and boxes > 1:
        most = max(1, limits.mask_bytes // pixels)
        raise _wrong(f"on a picture of {pixels:,} pixels there may be {most} boxes at once, got {boxes}: clear some")


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
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_COORDINATE


def _grid(value: Any) -> GridSettings:
    table = _table(value, _GRID_KEYS, "grid")
    side = table.get("points_per_side", 16)
    if type(side) is not int or not 1 <= side <= MAX_POINTS_PER_SIDE:
        raise _wrong(
            f"points_per_side must be a whole number from 1 to {MAX_POINTS_PER_SIDE}, got {reprlib.repr(side)}"
        )
    try:
        return GridSettings(
            points_per_side=side,
            iou_threshold=table.get("min_iou", 0.88),
            stability_threshold=table.get("min_stability", 0.95),
        )
    except InputError as error:
        raise _wrong(str(error)) from None


def _wrong(message: str) -> HTTPException:
    return HTTPException(422, message)
