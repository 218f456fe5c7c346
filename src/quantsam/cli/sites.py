"""Match sites by name, for the option --site."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from quantsam.models.sam import EfficientViTSam


def check_site(pattern: str, model: EfficientViTSam, placement: str) -> None:
    """Check, before long work, that a pattern matches a site.

    Raises:
        click.UsageError: It matches none; the message has the nearest name.
    """
    from quantsam.diagnostics.observed import site_names
    from quantsam.errors import nearest

    names = site_names(model, placement)
    if not any(matches_site(name, pattern) for name in names):
        layers = dict.fromkeys(name.partition("/")[0] for name in names)
        known = names if "/" in pattern else layers
        close = nearest(pattern, known)
        hint = close if close.startswith("did") else f"see `quantsam layers {model.name}`"
        raise click.UsageError(
            f"--site must match one of the {len(names)} sites of {model.name} under placement {placement}, "
            f"got {pattern!r}: {hint}"
        )


def matches_site(site: str, pattern: str) -> bool:
    """Return whether a pattern matches a site or its layer."""
    return fnmatchcase(site, pattern) or fnmatchcase(site.partition("/")[0], pattern)
