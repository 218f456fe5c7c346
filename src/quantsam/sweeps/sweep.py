"""A sweep: sets of runs, in a TOML file or on the command line."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantsam.errors import InputError, nearest
from quantsam.files import expanded, read_text, shown
from quantsam.sweeps.point import Point, make_point, value_type

_KEYS = {"name": str, "description": str, "threads": int, "common": dict, "runs": list}
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Sweep:
    """A set of runs.

    Attributes:
        name: Name of the sweep; kept with each record.
        points: Runs of the sweep, each once.
        threads: Threads per worker. The last digits depend on it, so it is the same wherever a point runs.
    """

    name: str
    points: tuple[Point, ...]
    threads: int = 1


def read_sweep(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """Read a sweep's file.

    `[common]` holds keys of `Point` for all runs; each `[[runs]]` adds or overrides some. A key may have a list of
    values: the points are all combinations.

    Args:
        path: The file.
        overrides: Keys and values that override the file's in every run, see `parse_settings`.

    Raises:
        InputError: The file cannot be read, is not TOML, has unknown keys or values of the wrong type.
    """
    try:
        document = tomllib.loads(read_text(expanded(path)))
    except (OSError, ValueError, RecursionError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(f"sweep {str(path)!r} must be a readable TOML file: {reason}") from error
    where = f"sweep {Path(path).name}"
    for key, value in document.items():
        if key not in _KEYS:
            raise InputError(f"{where}: unknown key {key!r}: {nearest(key, _KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise InputError(f"{where}: {key!r} must be {_WORDS[_KEYS[key]]}, got {value!r}")
    threads = document.get("threads", 1)
    if threads < 1:
        raise InputError(f"{where}: 'threads' must be at least 1, got {threads}")
    runs = document.get("runs", [{}])
    common = document.get("common", {})
    points: list[Point] = []
    for number, run in enumerate(runs, start=1):
        if not isinstance(run, dict):
            raise InputError(f"{where}, run {number}: expected a [[runs]] table, got {run!r}")
        points += expand({**common, **run, **(overrides or {})}, f"{where}, run {number}")
    return make_sweep(document.get("name", shown(Path(path).stem)), points, threads, where)


def make_sweep(name: str, points: Sequence[Point], threads: int = 1, where: str = "sweep") -> Sweep:
    """Make a sweep of points. A repeated point counts once.

    Raises:
        InputError: There are no points, or too many.
    """
    once = tuple(dict.fromkeys(points))
    if not 1 <= len(once) <= _MOST:
        raise InputError(f"{where} must have 1 to {_MOST} points, got {len(once)}: see its [[runs]]")
    return Sweep(name, once, threads)


def expand(table: Mapping[str, Any], where: str) -> list[Point]:
    """Return all combinations of a table whose values may be lists."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in table.items()}
    for key, values in lists.items():
        if not values:
            raise InputError(f"{where}: {key!r} must have a value, got an empty list")
    return [make_point(dict(zip(lists, values, strict=True)), where) for values in itertools.product(*lists.values())]


def with_repeats(sweep: Sweep, repeats: int) -> Sweep:
    """Return a sweep that repeats each run on other calibration images, with calibration seeds 0, 1, ...

    Runs that calibrate on all available images have nothing to repeat and stay as they are. If there are few images,
    two seeds may draw the same ones; such runs have the same identity and are done once.

    Raises:
        InputError: No run takes a number of calibration images, or a run has its own calibration seed.
    """
    given = next((p.calibration_seed for p in sweep.points if p.calibration_seed is not None), None)
    if given is not None:
        raise InputError(f"repeats and calibration_seed exclude each other, got seed {given}: leave one out")
    points: list[Point] = []
    for point in sweep.points:
        is_choice = point.calibration_images is not None
        seeds = range(repeats) if is_choice else [point.calibration_seed]
        points += [dataclasses.replace(point, calibration_seed=seed) for seed in seeds]
    if all(point.calibration_images is None for point in sweep.points):
        raise InputError(
            "repeats draw other calibration images, got no run that takes a number of them: set calibration_images"
        )
    return make_sweep(sweep.name, points, sweep.threads)


def parse_settings(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read `key=value` or `key=value,value` from the command line into a table for `expand`.

    Raises:
        InputError: A text has another form, or a key appears twice.
    """
    table: dict[str, list[Any]] = {}
    for text in texts:
        key, separator, values = text.partition("=")
        if not separator or key in table:
            raise InputError(f"a setting must look like scheme=int8,mix-dwsc, each key once, got {text!r}")
        parts = [part.strip() for part in values.split(",")]
        is_number = value_type(key) is int and all(part.isdecimal() for part in parts)
        table[key] = [int(part) for part in parts] if is_number else parts
    return table


_WORDS: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    dict: "a table",
    list: "a list of [[runs]] tables",
}
