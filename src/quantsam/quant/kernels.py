"""Compiled elementwise kernels for the processor: one pass over memory instead of five.

Numba compiles them at first use and keeps the result in its cache (`quant.compiled`). They take contiguous float32 and
round exactly as `torch.round(x / scale)` does. On other devices PyTorch's own operations are used.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsam.quant.compiled import kernel


def _start_threads() -> int:
    """Start Numba's threads and return their number, the largest possible one.

    Numba sets OpenMP's number of threads when it starts. PyTorch shares that number, and keeps its own here.
    """
    before = torch.get_num_threads()
    most = numba.get_num_threads()
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)
    return most


_MOST_THREADS = _start_threads()
_WORTH_THREADS = 1 << 17  # values; one thread rounds them in about 0.1 ms
_BLOCK = 1 << 13  # values per task: large enough to amortize the call, small enough to stay in the cache

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


@kernel(parallel=True, error_model="numpy")
def _fake_quantize(  # pragma: no cover - compiled
    x: Float32, out: Float32, scales: Float32, zero_points: Float32, inner: int, qmin: float, qmax: float
) -> None:
    """Round rows of `inner` values; row r uses scale r % len(scales)."""
    rows = x.size // inner
    blocks = (inner + _BLOCK - 1) // _BLOCK
    low, high = np.float32(qmin), np.float32(qmax)
    for task in numba.prange(rows * blocks):
        row, block = task // blocks, task % blocks
        scale, zero = scales[row % scales.size], zero_points[row % scales.size]
        start = row * inner + block * _BLOCK
        stop = min(start + _BLOCK, (row + 1) * inner)
        source, target = x[start:stop], out[start:stop]
        for i in range(source.size):
            code = np.rint(source[i] / scale) + zero
            code = low if code < low else code
            code = high if code > high else code
            target[i] = (code - zero) * scale


@kernel(parallel=True, error_model="numpy")
def _lookup(  # pragma: no cover - compiled
    x: Float32, out: Float32, table: Float32, inner: int, scale: float, zero: float, qmin: float
) -> None:
    """Replace each value of row r by the entry at the value's code in table row r % len(table)."""
    channels, levels = table.shape
    rows = x.size // inner
    blocks = (inner + _BLOCK - 1) // _BLOCK
    step, shift, top = np.float32(scale), np.float32(zero - qmin), np.float32(levels - 1)
    for task in numba.prange(rows * blocks):
        row, block = task // blocks, task % blocks
        entries = table[row % channels]
        start = row * inner + block * _BLOCK
        stop = min(start + _BLOCK, (row + 1) * inner)
        source, target = x[start:stop], out[start:stop]
        codes = np.empty(source.size, np.uint32)  # unsigned: no check for indices from the end
        for i in range(source.size):  # a loop of its own, because it vectorizes and the reading of the table does not
            code = np.rint(source[i] / step) + shift
            code = code if code > np.float32(0) else np.float32(0)  # NaN too: never outside the table
            codes[i] = np.uint32(code if code < top else top)
        for i in range(source.size):
            value = source[i]
            target[i] = entries[codes[i]] if value == value else value


@kernel(parallel=True, error_model="numpy")
def _count(x: Float32, counts: Int64, bins_per_unit: Float64) -> None:  # pragma: no cover - compiled
    """Count row r of `x` in row r of `counts`; one task per row, so no two tasks write to the same counts."""
    half = counts.shape[1] // 2
    for row in numba.prange(x.shape[0]):
        entries, factor = counts[row], bins_per_unit[row]
        places = np.empty(_BLOCK, np.uint32)
        for start in range(0, x.shape[1], _BLOCK):
            source = x[row, start : start + _BLOCK]
            for i in range(source.size):  # a loop of its own, because it vectorizes and counting does not
                places[i] = np.uint32(np.int32(np.floor(np.float64(source[i]) * factor)) + half)
            for i in range(source.size):
                entries[places[i]] += 1


@kernel(parallel=True, error_model="numpy", fastmath={"reassoc"})
def _compare(  # pragma: no cover - compiled
    x: Float32, rounded: Float32, lows: Float32, highs: Float32, sums: Float64, beyond: Int64
) -> None:
    """Sum the squares of `x` and of `rounded - x` per row, and count the values of `x` outside the bounds."""
    for row in numba.prange(x.shape[0]):
        low, high = lows[row % lows.size], highs[row % highs.size]
        power, noise, count = 0.0, 0.0, 0
        for i in range(x.shape[1]):
            value = x[row, i]
            change = np.float64(rounded[row, i] - value)
            power += np.float64(value) * np.float64(value)
            noise += change * change
            count += (value < low) | (value > high)
        sums[row, 0], sums[row, 1], beyond[row] = power, noise, count


def _flat(x: Tensor) -> Float32:
    array: Float32 = x.detach().view(-1).numpy()
    return array


def _match_threads(values: int) -> None:
    """Use as many threads as PyTorch, but one for a small tensor: waking another thread takes longer."""
    threads = min(torch.get_num_threads(), _MOST_THREADS) if values >= _WORTH_THREADS else 1
    if numba.get_num_threads() != threads:
        numba.set_num_threads(threads)


def supports(x: Tensor) -> bool:
    """Return whether the kernels can take a tensor: float32 on the processor, and no gradient is required."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not (torch.is_grad_enabled() and x.requires_grad)


def fake_quantize_uniform(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, qmin: float, qmax: float
) -> Tensor:
    """Round a tensor to an integer grid.

    Args:
        x: float32 on the processor, any shape.
        scale: () or (C,) float32.
        zero_point: () or (C,) int32.
        axis: The channel axis, counted from either end; None for one scale.
        qmin: Smallest code.
        qmax: Largest code.

    Returns:
        A new, contiguous tensor of the same shape. Infinity saturates, NaN stays NaN.
    """
    assert scale.numel() in (1, x.shape[axis] if axis is not None else 1), "one scale a channel"
    _match_threads(x.numel())
    x = x.contiguous()
    out = torch.empty_like(x)
    inner = x.numel() if axis is None else math.prod(x.shape[axis % x.ndim + 1 :])
    if x.numel():
        zero = zero_point.reshape(-1).float()
        _fake_quantize(_flat(x), _flat(out), _flat(scale.reshape(-1)), _flat(zero), inner, qmin, qmax)
    return out


def lookup_(x: Tensor, table: Tensor, scale: float, zero_point: int, qmin: int) -> Tensor:
    """Quantize a tensor and replace every code by its entry in the channel's table, in place where possible.

    Args:
        x: (N, C, ...) float32 on the processor.
        table: (C, levels) float32.
        scale: Scale of the codes.
        zero_point: Zero point of the codes.
        qmin: Code of the table's first column.

    Returns:
        `x` if it was contiguous, else a new tensor. Infinity saturates, NaN stays NaN.
    """
    _match_threads(x.numel())
    x = x.contiguous()
    if x.numel():
        _lookup(_flat(x), _flat(x), table.numpy(), x[0, 0].numel(), scale, float(zero_point), float(qmin))
    return x


def count_(counts: Tensor, x: Tensor, bins_per_unit: Tensor) -> None:
    """Add values to histograms, one per row: bin `floor(value * bins_per_unit) + bins / 2`, computed in float64.

    Args:
        counts: (C, bins) contiguous int64 on the processor; changed in place.
        x: (C, n) float32 on the processor. Every value must have a bin; this is not checked.
        bins_per_unit: (C,) float64.
    """
    _match_threads(x.numel())
    if x.numel():
        _count(x.detach().contiguous().numpy(), counts.numpy(), bins_per_unit.numpy())


def compare(x: Tensor, rounded: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Compare values with their rounded values, in one pass.

    Args:
        x: (C, n) float32 on the processor.
        rounded: Rounded values, the same shape.
        low: (1,) or (C,) float32, lower bound of the values that are not clipped.
        high: Upper bound, the same shape.

    Returns:
        (C, 2) float64: each row's sums of squares of `x` and of `rounded - x`; (C,) int64: values out of bounds.
    """
    _match_threads(x.numel())
    sums = torch.zeros(len(x), 2, dtype=torch.float64)
    beyond = torch.zeros(len(x), dtype=torch.int64)
    rows, near = x.detach().contiguous().numpy(), rounded.contiguous().numpy()
    _compare(rows, near, _flat(low), _flat(high), sums.numpy(), beyond.numpy())
    return sums, beyond


def threads_may_meet() -> bool:
    """Return whether several threads may call these kernels at once. Numba's simplest threading layer forbids it."""
    fake_quantize_uniform(torch.zeros(1), torch.ones(()), torch.zeros((), dtype=torch.int32), None, -128, 127)
    layer: str = numba.threading_layer()  # type: ignore[attr-defined]  # known after the first call
    return layer != "workqueue"
