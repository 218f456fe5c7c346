"""What a user should know although nothing failed: warnings of a class of our own, one line each."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_SHOWN = 3  # of one kind; the rest is counted


class Notice(UserWarning):
    """Something about the data that changes what a figure means, or was left out."""


class InexactWarning(Notice):
    """An engine on this processor does not compute exactly what a plan says."""


def notice(text: str) -> None:
    """Tell the user something: for programs a warning of class `Notice`, on the command line one line.

    Args:
        text: One line that says the thing, what was done with it, and the way out.
    """
    warnings.warn(text, Notice, stacklevel=2)


@contextmanager
def shown_by(show: Callable[[str], object]) -> Iterator[None]:
    """Hand notices to a function, each once and only a few of one kind, for as long as the block lasts.

    Args:
        show: Takes a line; at the end also how many of a kind were not shown.
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
