"""Errors that a user may see. Each names the thing, the rule, the value received and what to do.

Code below the command line prints nothing; it raises one of these errors. The command line turns a
`QuantsamError` into one line on standard error and the exit code of its class. Any other exception is
a defect of quantsam and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QuantsamError(Exception):
    """Base class of errors that the user can fix."""

    exit_code = 1


class InputError(QuantsamError):
    """A value that the user gave (a name, a number, a shape) is not allowed."""

    exit_code = 2


class ImageError(QuantsamError):
    """A file or array cannot be read as an image."""


class DatasetError(QuantsamError):
    """A dataset's folder or annotation file does not follow its format."""


class WeightsError(QuantsamError):
    """A checkpoint is missing, damaged or belongs to another model."""


class SchemeError(InputError):
    """A quantization scheme cannot be parsed or selects nothing."""


class PlanError(QuantsamError):
    """A plan is damaged, not calibrated, or was made for another model."""


class CalibrationError(QuantsamError):
    """The calibration data gives no usable ranges."""


class EngineError(QuantsamError):
    """An inference engine is not installed, or cannot run what it was given."""


class BundleError(QuantsamError):
    """A bundle is damaged, or differs from what was exported."""


class StoreError(QuantsamError):
    """A result store cannot be read or written."""


class OutputError(QuantsamError):
    """Output cannot be written where the user asked for it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known names closest to `name`.

    Args:
        name: What the user wrote.
        known: All accepted names.

    Returns:
        `"did you mean 'int8'?"`, or the list of known names when nothing is close.

    >>> nearest("imt8", ["int8", "fp32"])
    "did you mean 'int8'?"
    """
    options = sorted(known)
    return _close(name, options) or "known are: " + ", ".join(options)


def one_of(what: str, name: object, known: Iterable[str], *, like: str | None = None) -> str:
    """Return the message for a name that is not among the known ones.

    Args:
        what: What the name stands for.
        name: What the user wrote.
        known: All accepted names, in the order to list them.
        like: What to look for among the known names; `name` if None.

    >>> one_of("scheme", "imt8", ["int8", "fp32"])
    "scheme must be one of int8, fp32, got 'imt8': did you mean 'int8'?"
    >>> one_of("scheme", "xyz", ["int8", "fp32"])
    "scheme must be one of int8, fp32, got 'xyz'"
    """
    names = list(known)
    close = _close(str(name) if like is None else like, names)
    return f"{what} must be one of {', '.join(names)}, got {name!r}" + (f": {close}" if close else "")


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def first_line(error: Exception) -> str:
    """Return the first non-empty line of an error's message, or else the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
