"""Read a JSON file from another program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantsam.data.packed import foreign, text_kind, unpacked
from quantsam.errors import DatasetError


def read_json(
    path: Path, what: str, way_out: str, object_hook: Callable[[dict[str, Any]], object] | None = None
) -> object:
    """Parse a JSON file, which may be compressed with gzip, bzip2, xz or zip.

    Args:
        path: The file.
        what: Description of the file for messages, such as `the annotation file`.
        way_out: Advice if the file is missing.
        object_hook: Converts each object, as in `json.loads`.

    Raises:
        DatasetError: The file is missing, unreadable, in another known format (which the message names), or not JSON.
    """
    content = _content(path, what, way_out)
    other = foreign(content)
    if other is not None:
        raise DatasetError(f"{what} {path} is not valid JSON: it is {other[0]}: {other[1]}")
    try:
        return json.loads(content, object_hook=object_hook)
    except json.JSONDecodeError as error:
        problem, cause = f"{error.msg} at line {error.lineno}, column {error.colno} (character {error.pos})", error
        kind = text_kind(content, cause)
        remedy = "download it again" if kind is None else "give a file in COCO's format"
        problem += "" if content else ", it is empty (0 bytes)"
        problem += "" if kind is None else f", {kind}"
    except UnicodeDecodeError as error:
        problem, remedy = f"it is no text at byte {error.start}", "save it as UTF-8, or download it again"
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or endless nesting
        problem, remedy = str(error), "download it again"
    raise DatasetError(f"{path} is not valid JSON: {problem}: {remedy}")


def _content(path: Path, what: str, way_out: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{what} {path} does not exist: {way_out}") from None
    except OSError as error:
        raise DatasetError(f"{what} {path} cannot be read: {error.strerror}: {way_out}") from None
    except ValueError as error:  # a NUL in the name
        raise DatasetError(f"{what} {str(path)!r} cannot be read: {error}: {way_out}") from None
    return unpacked(content, f"{what} {path}")
