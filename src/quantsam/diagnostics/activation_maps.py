"""Make small maps and histograms of activations, for both drawings and records."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantsam.diagnostics.activations import SiteActivations
from quantsam.results.activation_record import (
    CODES_ASIDE,
    LONGEST,
    ZERO_CODE,
    CodedMap,
    DrawnChannel,
    PairedBins,
)

_BINS = 40


def plane(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a channel of any shape as a plane."""
    return values if values.ndim == 2 else values.reshape(1, -1)


def paired_bins(fp32: NDArray[np.float32], quantized: NDArray[np.float32]) -> PairedBins:
    """Count values of any shape in shared bins, from the smallest value of both to the largest."""
    low = min(float(fp32.min()), float(quantized.min()))
    high = max(float(fp32.max()), float(quantized.max()))
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-30):  # no room for bins between low and high
        middle, half = (low + high) / 2, max(abs(low), abs(high), 1.0) / 2
        low, high = middle - half, middle + half
    counts = [np.histogram(x.astype(np.float64), _BINS, (low, high))[0].tolist() for x in (fp32, quantized)]
    return PairedBins(low, (high - low) / _BINS, tuple(counts[0]), tuple(counts[1]))


def draw_channel(site: SiteActivations, channel: int, sqnr_db: float | None, longest: int = LONGEST) -> DrawnChannel:
    """Return a channel drawn as small figures.

    Args:
        site: The site that holds the channel.
        channel: Index of the channel.
        sqnr_db: SQNR of the channel, finite; or None.
        longest: Largest number of pixels per side of a map.
    """
    fp32, quantized = (plane(x[channel].numpy()) for x in (site.fp32, site.quantized))
    difference = quantized.astype(np.float64) - fp32
    largest = float(np.abs(difference).max())
    low, high = float(fp32.min()), float(fp32.max())
    shown, changed = thinned(fp32.astype(np.float64), difference, longest)
    return DrawnChannel(
        index=channel,
        sqnr_db=sqnr_db,
        fp32=CodedMap.of(shown, low, high),
        difference=CodedMap.of(changed, -largest * ZERO_CODE / CODES_ASIDE, largest),
        bins=paired_bins(fp32, quantized),
    )


def thinned(
    values: NDArray[np.float64], difference: NDArray[np.float64], longest: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shrink two planes in the same way: for each block, both keep the place of the largest absolute difference.

    Args:
        values: The values, (h, w).
        difference: The differences, (h, w).
        longest: Largest number of blocks per side.

    Returns:
        Both planes, (ceil(h / block height), ceil(w / block width)); unchanged if they are small enough.
    """
    rows, columns = (-(-side // longest) for side in values.shape)
    if rows == columns == 1:
        return values, difference
    padding = [(0, -side % block) for side, block in zip(values.shape, (rows, columns), strict=True)]
    magnitudes = _blocks(np.pad(np.abs(difference), padding, constant_values=-1.0), rows, columns)
    places = magnitudes.argmax(-1)[..., None]
    both = (_blocks(np.pad(x, padding), rows, columns) for x in (values, difference))
    first, second = (np.take_along_axis(x, places, -1)[..., 0] for x in both)
    return first, second


def _blocks(x: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Return (H, W) as (H / rows, W / columns, rows * columns)."""
    height, width = x.shape[0] // rows, x.shape[1] // columns
    return x.reshape(height, rows, width, columns).swapaxes(1, 2).reshape(height, width, -1)
