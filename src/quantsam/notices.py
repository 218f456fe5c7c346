"""Notices: what a user should know although nothing failed. Each is a warning of one line."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_SHOWN = 3  # notices of one kind; the others are only counted


class Notice(UserWarning):
    """Something in the data was left out, or changes what a figure means."""


class InexactWarning(Notice):
    """An engine on this processor does not compute exactly what a plan says."""


def notice(text: str) -> None:
    """Tell the user something: programs get a warning of class `Notice`, the command line prints one line.

    Args:
        text: One line that names the thing, says how it was handled, and what the user can do.
    """
    warnings.warn(text, Notice, stacklevel=2)


@contextmanager
def shown_by(show: Callable[[str], object]) -> Iterator[None]:
    """Pass notices to a function while the block runs: each notice once, and only a few of one kind.

    Args:
        show: Gets each line. At the end it also gets a line for each kind that says how many were not shown.
    """
    seen: dict[tuple[str, int], set[str]] = {}
    more: Counter[tuple[str, int]] = Counter()
    first: dict[tuple[str, int], str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        otherwise = warnings.showwarning

        def take(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, Notice):
                otherwise(message, category, filename, lineno, file, line)
                return
            known, text = seen.setdefault((filename, lineno), set()), " ".join(str(message).split())
            if text in known:
                return
            known.add(text)
            first.setdefault((filename, lineno), text)
            if len(known) <= _SHOWN:
                show(text)
            else:
                more[filename, lineno] += 1

        warnings.showwarning = take
        try:
            yield
        finally:
            for place, count in more.items():
                show(f"and {count} more like: {first[place]}")
