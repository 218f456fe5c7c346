"""The difference of two records, object by object."""

from __future__ import annotations

from quantsam.errors import InputError
from quantsam.metrics.summary import PairedDifference, compare_paired
from quantsam.results.record import Record


def compare(a: Record, b: Record) -> PairedDifference:
    """Return b - a in points of mIoU over the same objects, with its standard error.

    Raises:
        InputError: The two records do not score the same objects of the same dataset.
    """
    check_same_data(a, b)
    return compare_paired(a.scores, b.scores)


def check_same_data(a: Record, b: Record) -> None:
    """Make sure that two records have the same dataset.

    Raises:
        InputError: The datasets differ.
    """
    if a.dataset_digest != b.dataset_digest:
        one, other = (f"{r.dataset} ({(r.dataset_digest or 'no digest')[:12]})" for r in (a, b))
        raise InputError(
            f"paired records must be of the same data, got {one} and {other}: evaluate both on one dataset"
        )
