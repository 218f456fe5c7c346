"""Read a JSON file of somebody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantsam.errors import DatasetError


def read_json(
    path: Path, what: str, way_out: str, object_hook: Callable[[dict[str, Any]], object] | None = None
) -> object:
    """Parse a file.

    Args:
        path: The file.
        what: What it is, for messages: `the annotation file`.
        way_out: What to do when it is missing.
        object_hook: Makes something else of each object, as `json.loads` does.

    Raises:
        DatasetError: It is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except FileNotFoundError:
        raise DatasetError(f"{what} {path} does not exist: {way_out}") from None
    except OSError as error:
        raise DatasetError(f"{what} {path} cannot be read: {error.strerror}: {way_out}") from None
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at line {error.lineno}, column {error.colno} (character {error.pos})"
    except UnicodeDecodeError as error:
        problem = f"it is no text at byte {error.start}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        problem = str(error)
    raise DatasetError(f"{path} is not valid JSON: {problem}: download it again")
