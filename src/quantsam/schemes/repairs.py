"""The names of repairs. This module does not import PyTorch, so command-line options and sweeps can use it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from quantsam.errors import InputError, one_of

RepairName = Literal["reflect", "streams", "shift", "migrate", "ranges", "rounding", "bias"]
REPAIRS: tuple[RepairName, ...] = get_args(RepairName)
"""Names of all repairs, in the order in which they are applied."""


def parse_repairs(text: str | Sequence[str]) -> tuple[RepairName, ...]:
    """Read names of repairs, `streams,migrate`, in any order.

    A plus sign works like a comma: `streams+migrate`. It is for places where a comma separates values, for example
    `--set` of sweeps.

    Returns:
        Each name once, in the order in which repairs are applied.

    Raises:
        InputError: A name is not known, or there is none.

    >>> parse_repairs("migrate, streams")
    ('streams', 'migrate')
    """
    names = [name.strip().lower() for name in (re.split("[,+]", text) if isinstance(text, str) else text)]
    for name in names:
        if name not in REPAIRS:
            raise InputError(one_of("a repair", name, REPAIRS))
    if not names:
        raise InputError(f"repairs must be some of {', '.join(REPAIRS)}, got none")
    return tuple(name for name in REPAIRS if name in names)


def asked_repairs(text: str) -> tuple[RepairName, ...]:
    """Read the repairs that a user asks for: `none`, or names as in `parse_repairs`.

    Raises:
        InputError: See `parse_repairs`.

    >>> asked_repairs("none")
    ()
    """
    return () if text.strip().lower() == "none" else parse_repairs(text)
