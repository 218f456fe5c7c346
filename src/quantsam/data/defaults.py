"""What data is used where none was named."""

from __future__ import annotations

NANO_CALIBRATION = "scenes:32:1"


def default_calibration(model: str) -> str | None:
    """Return what a model is calibrated on; None for a full-size one, which needs photographs of its user's."""
    return NANO_CALIBRATION if model in ("nano", "nano-outlier") else None
