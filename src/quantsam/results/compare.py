"""The difference of two records, object by object."""

from __future__ import annotations

from quantsam.errors import InputError
from quantsam.metrics.summary import PairedDifference, compare_paired
from quantsam.results.record import Record


def compare(a: Record, b: Record) -> PairedDifference:
    """Return b - a in points of mIoU over the same objects, with the standard error of that difference.

    Raises:
        InputError: The two records do not score the same objects of the same dataset.
    """
    if a.dataset_digest != b.dataset_digest:
        raise InputError(
            f"paired records must be of the same data, got {a.dataset} ({a.dataset_digest[:12]}) and "
            f"{b.dataset} ({b.dataset_digest[:12]}): evaluate both on one dataset"
        )
    return compare_paired(a.scores, b.scores)
