"""Find the rows that need more images, because their rank is not decided yet."""

from __future__ import annotations

import math
from collections.abc import Mapping

from quantsam.metrics.summary import mean_and_error

_CONFIDENCE = 1.645  # 95 %, one-sided


def undecided(losses: Mapping[str, Mapping[int, float]], least: float) -> set[str]:
    """Return the rows that cannot be distinguished from a neighbour in the ranking.

    Args:
        losses: For each row, the loss on each image that it was measured on.
        least: Rows whose loss is confidently below this need no more images.
    """
    means = {name: math.fsum(values.values()) / len(values) for name, values in losses.items()}
    ranked = sorted(means, key=lambda name: -means[name])
    open_rows: set[str] = set()
    for better, worse in zip(ranked[1:], ranked[:-1], strict=True):
        shared = losses[better].keys() & losses[worse].keys()
        gaps = [losses[worse][i] - losses[better][i] for i in shared]
        mean, error = mean_and_error(gaps)
        _, own = mean_and_error(list(losses[worse].values()))
        if means[worse] + _CONFIDENCE * (own or 0) > least and mean <= _CONFIDENCE * (error or math.inf):
            open_rows |= {better, worse}
    return open_rows
