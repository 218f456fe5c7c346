"""What "segment everything" dropped, and why. This module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantsam.prediction.grid import GridSettings

_NEAR = 0.1  # distance below a threshold that counts as near


@dataclass(slots=True)
class Tally:
    """Counts of masks, updated while an image is segmented.

    Attributes:
        asked: Masks that the model predicted: three per point.
        poor: Masks with too low a predicted IoU.
        nearly_good: Poor masks within 0.1 of the threshold.
        best_iou: The highest predicted IoU of all masks.
        empty: Masks without a pixel but with a good predicted IoU, including masks that lose all pixels when resized.
        unstable: Remaining masks with too low a stability.
        nearly_stable: Unstable masks within 0.1 of the threshold.
        best_stability: The highest stability of the masks that are not poor.
        cut: Masks cut by a crop's border.
        repeated: Masks of which a better copy was kept.
    """

    asked: int = 0
    poor: int = 0
    nearly_good: int = 0
    best_iou: float = 0.0
    empty: int = 0
    unstable: int = 0
    nearly_stable: int = 0
    best_stability: float = 0.0
    cut: int = 0
    repeated: int = 0

    def note_quality(self, predicted_iou: NDArray[np.floating], is_empty: NDArray[np.bool_], lowest: float) -> None:
        """Count masks by predicted IoU, which must be greater than `lowest`."""
        poor = ~(predicted_iou > lowest)
        self.asked += predicted_iou.size
        self.poor += int(poor.sum())
        self.nearly_good += int((poor & (predicted_iou > lowest - _NEAR)).sum())
        self.best_iou = max(self.best_iou, float(predicted_iou.max(initial=0.0)))
        self.empty += int((~poor & is_empty).sum())

    def note_stability(self, stability: NDArray[np.floating], lowest: float) -> None:
        """Count masks by stability, which must be at least `lowest`."""
        unstable = ~(stability >= lowest)
        self.unstable += int(unstable.sum())
        self.nearly_stable += int((unstable & (stability >= lowest - _NEAR)).sum())
        self.best_stability = max(self.best_stability, float(stability.max(initial=0.0)))

    def sentence(self, settings: GridSettings) -> str:
        """Say which masks were dropped, and why.

        >>> tally = Tally(asked=48, poor=40, nearly_good=7, best_iou=0.91, unstable=6, best_stability=0.97, repeated=1)
        >>> tally.sentence(GridSettings())  # doctest: +ELLIPSIS
        'of 48 masks 40 have ...0.88 (7 nearly; the highest: 0.91), 6 a stability below 0.95 ..., 1 repeats another'
        """
        parts = []
        if self.poor:
            parts.append(
                f"{self.poor} have a predicted IoU of at most {settings.iou_threshold:g} "
                f"({self.nearly_good} nearly; the highest: {self.best_iou:.2f})"
            )
        if self.unstable:
            parts.append(
                f"{self.unstable} a stability below {settings.stability_threshold:g} "
                f"({self.nearly_stable} nearly; the highest: {self.best_stability:.2f})"
            )
        parts += [f"{self.empty} are empty"] * bool(self.empty)
        parts += [f"{self.cut} are cut by a crop's border"] * bool(self.cut)
        parts += [f"{self.repeated} repeat{'s' if self.repeated == 1 else ''} another"] * bool(self.repeated)
        return f"of {self.asked} masks " + (", ".join(parts) if parts else "none was left out")

    def way_out(self) -> str:
        """Say which options would let more masks through."""
        stricter = ["--min-iou"] * bool(self.poor) + ["--min-stability"] * bool(self.unstable)
        return f"lower {' or '.join(stricter)}" if stricter else "ask at more points: --points-per-side"
