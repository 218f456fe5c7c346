"""The cost of a choice of formats in bytes, bit operations, or milliseconds on an engine, as a sum over layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from quantsam.engines.profile import layer_times
from quantsam.errors import InputError
from quantsam.evaluation.latency import measure_latency
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import count_macs
from quantsam.plans.sizes import account
from quantsam.schemes.target import FLOAT
from quantsam.search.palette import Choice, Palette, format_schemes

_FLOAT_BITS = 32


@dataclass(frozen=True, eq=False)
class CostTable:
    """Costs that add up.

    Attributes:
        name: `size`, `bit-operations` or `latency`.
        unit: `bytes`, `bit operations` or `ms`.
        constant: Cost that all choices share.
        cells: Added cost, by layer and format.
        float_cost: Cost of the float model.
    """

    name: str
    unit: str
    constant: float
    cells: tuple[tuple[float, ...], ...]
    float_cost: float

    def cost(self, choice: Choice) -> float:
        """Return the cost of a choice."""
        return self.constant + sum(row[number] for row, number in zip(self.cells, choice, strict=True))

    @property
    def lowest(self) -> float:
        """The least cost of any choice."""
        return self.constant + sum(min(row) for row in self.cells)

    @property
    def highest(self) -> float:
        """The highest cost of any choice."""
        return self.constant + sum(max(row) for row in self.cells)


def size_table(model: EfficientViTSam, palette: Palette) -> CostTable:
    """Return the costs in bytes of the encoder's weights, see `plans.sizes`."""
    encoder = model.float_encoder
    whole = account(encoder, ()).fp32_bytes
    cells = tuple(
        tuple(float(account(encoder, palette.sites(layer, f)).size_bytes - whole) for f in range(len(palette.formats)))
        for layer in range(len(palette.layers))
    )
    return CostTable("size", "bytes", float(whole), cells, float(whole))


def bit_operations_table(model: EfficientViTSam, palette: Palette) -> CostTable:
    """Return the costs in bit operations: multiply-accumulates for one image times weight bits times activation bits.

    Float counts as 32 bits. In linear attention both factors are activations.
    """
    macs = {str(address): count for address, count in count_macs(model.float_encoder).items()}
    bits = []
    for scheme in format_schemes(palette.formats):
        targets = [rule.targets for rule in scheme.rules]
        found = {role: t.fmt.num_bits for role in ("weight", "activation") if targets and (t := targets[0][role])}
        bits.append((found.get("weight", _FLOAT_BITS), found.get("activation", _FLOAT_BITS)))
    cells = tuple(
        tuple(float(macs[address] * (a if kind == "attention" else w) * a) for w, a in bits)
        for address, kind in zip(palette.layers, palette.kinds, strict=True)
    )
    others = float(sum(count for address, count in macs.items() if address not in palette.layers) * _FLOAT_BITS**2)
    whole = float(sum(macs.values()) * _FLOAT_BITS**2)
    return CostTable("bit-operations", "bit operations", others, cells, whole)


def latency_table(
    model: EfficientViTSam, palette: Palette, engine: str, *, threads: int, rounds: int = 20
) -> CostTable:
    """Return the costs in milliseconds on an engine.

    The engine profiles each format on all layers; the profile is scaled to the time of the whole without profiler.

    Args:
        model: The float model.
        palette: A palette with the engine's placement.
        engine: `onnxruntime` or `openvino`.
        threads: Number of threads per inference.
        rounds: Number of inferences per format, with the profiler and without.
    """
    plans = [(engine, plan) for plan in palette.plans]
    whole = [entry for entry in measure_latency(model, plans, rounds=rounds, threads=threads) if entry.engine == engine]
    columns, constants = [], []
    for (_, plan), measured in zip(plans, whole, strict=True):
        times = layer_times(model, plan, engine, rounds=rounds, threads=threads)
        factor = measured.median_ms / times.total
        own = {address: factor * spent for address, spent in times.layers.items()}
        columns.append([own.get(address, 0.0) for address in palette.layers])
        constants.append(measured.median_ms - sum(columns[-1]))
    constant = min(constants)
    # time that differs between formats but belongs to no layer of the palette counts for the first layer
    cells = tuple(
        tuple(
            column[layer] + (extra - constant if layer == 0 else 0.0)
            for column, extra in zip(columns, constants, strict=True)
        )
        for layer in range(len(palette.layers))
    )
    floats = [e.median_ms for e, plan in zip(whole, palette.plans, strict=True) if not plan.sites]
    return CostTable("latency", "ms", constant, cells, floats[0] if floats else max(e.median_ms for e in whole))


def without_slow_formats(palette: Palette, table: CostTable) -> tuple[Palette, CostTable, tuple[str, ...]]:
    """Remove formats in which the whole encoder is no faster than in float.

    Args:
        palette: Formats and layers.
        table: Latency costs.

    Returns:
        Palette and costs of the remaining formats, and the names of the removed formats.

    Raises:
        InputError: Nothing but float is left.
    """
    is_slow = [
        name != FLOAT and table.cost(palette.uniform(number)) >= table.float_cost
        for number, name in enumerate(palette.formats)
    ]
    kept = [number for number, slow in enumerate(is_slow) if not slow]
    slow = tuple(name for name, one in zip(palette.formats, is_slow, strict=True) if one)
    if not slow:
        return palette, table, ()
    if all(palette.formats[number] == FLOAT for number in kept):
        raise InputError(
            f"a search for latency needs a format that the engine runs faster than float, got {', '.join(slow)}: "
            "give others with --formats, or search for size"
        )
    cells = tuple(tuple(row[number] for number in kept) for row in table.cells)
    fewer = dataclasses.replace(
        palette,
        formats=tuple(palette.formats[number] for number in kept),
        plans=tuple(palette.plans[number] for number in kept),
    )
    return fewer, dataclasses.replace(table, cells=cells), slow


def encoder_ms(
    model: EfficientViTSam,
    palette: Palette,
    engine: str,
    choices: Mapping[str, Choice],
    *,
    threads: int,
    rounds: int = 20,
) -> dict[str, float]:
    """Return the median time of each choice's whole encoder on an engine, in milliseconds, keyed by name."""
    plans = [(engine, palette.plan(choice, name)) for name, choice in choices.items()]
    measured = measure_latency(model, plans, rounds=rounds, threads=threads)
    return {name: entry.median_ms for name, entry in zip(choices, measured, strict=False)}  # the decoder follows
