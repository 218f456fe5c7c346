"""The names of repairs. Imports no PyTorch, for options and sweeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from quantsam.errors import InputError, nearest

RepairName = Literal["reflect", "streams", "shift", "migrate", "ranges", "rounding", "bias"]
REPAIRS: tuple[RepairName, ...] = get_args(RepairName)
"""In the order in which they are applied."""


def parse_repairs(text: str | Sequence[str]) -> tuple[RepairName, ...]:
    """Read names of repairs, `streams,migrate`, in any order.

    Where a comma stands between values, as in `--set` of sweeps, a plus sign does the same: `streams+migrate`.

    Returns:
        Each once, in the order in which they are applied.

    Raises:
        InputError: One is not known, or there is none.

    >>> parse_repairs("migrate, streams")
    ('streams', 'migrate')
    """
    names = [name.strip().lower() for name in (re.split("[,+]", text) if isinstance(text, str) else text)]
    for name in names:
        if name not in REPAIRS:
            raise InputError(f"a repair must be one of {', '.join(REPAIRS)}, got {name!r}: {nearest(name, REPAIRS)}")
    if not names:
        raise InputError(f"repairs must be some of {', '.join(REPAIRS)}, got none")
    return tuple(name for name in REPAIRS if name in names)


def asked_repairs(text: str) -> tuple[RepairName, ...]:
    """Read what somebody asks for: `none`, or names as `parse_repairs` takes them.

    Raises:
        InputError: See `parse_repairs`.

    >>> asked_repairs("none")
    ()
    """
    return () if text.strip().lower() == "none" else parse_repairs(text)
