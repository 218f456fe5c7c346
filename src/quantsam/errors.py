"""The errors a user may see: each says the thing, the rule, the value received and the way out.

Below the command line nothing is printed; code raises one of these. The command line turns any
`QuantsamError` into one line on standard error and the exit code of its class; everything else is
a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QuantsamError(Exception):
    """Base of every error that is the user's to mend."""

    exit_code = 1


class InputError(QuantsamError):
    """A value given by the user is outside what is allowed (a name, a number, a shape)."""

    exit_code = 2


class ImageError(QuantsamError):
    """An image file or array cannot be read as a picture."""


class DatasetError(QuantsamError):
    """A dataset's folder or annotation file is not what its format says."""


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
    """A bundle is damaged, or not what was exported."""


class StoreError(QuantsamError):
    """A result store cannot be read or written."""


class OutputError(QuantsamError):
    """Something cannot be written where the user asked for it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a ready-made hint naming the known names closest to `name`.

    Args:
        name: What the user wrote.
        known: Every name that would have been accepted.

    Returns:
        `"did you mean 'int8'?"`, or the list of known names when nothing is close.

    >>> nearest("imt8", ["int8", "fp32"])
    "did you mean 'int8'?"
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(option) for option in close) + "?"
    return "known are: " + ", ".join(options)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that says something, or its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
