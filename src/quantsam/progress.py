"""The type of a progress display: a function that wraps an iteration."""

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], int | None], Iterable[Any]]
"""Given items and their number, None where it is not known, returns what gives the same items."""
