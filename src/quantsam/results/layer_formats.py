"""The number formats of each layer's tensors, as kept in a record."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from quantsam.results.record import JsonValue, Record, parsed_items
from quantsam.results.typed import typed

KEY = "layers"
"""Where a record's results keep them."""

FLOAT = "float"
_INTEGER = re.compile(r"u?int(\d+)")
_PAIR = re.compile(r"w(\d+)a(\d+)")


@dataclass(frozen=True, slots=True)
class LayerFormat:
    """One layer of a plan.

    Attributes:
        address: Address of the layer, such as `stage3:4:2`.
        kind: Kind of the layer, such as `mbc_depthwise`.
        weights: Format of the layer's weights, several joined by a slash; None in float or without weights.
        activations: Format of the layer's activations, likewise.
    """

    address: str
    kind: str
    weights: str | None
    activations: str | None

    @property
    def short(self) -> str:
        """Bits of weights and activations, such as `W4 A8`; `float` if neither is quantized."""
        named = (("W", self.weights), ("A", self.activations))
        return " ".join(f"{letter}{_bits(formats)}" for letter, formats in named if formats) or FLOAT

    def to_json(self) -> JsonValue:
        """Return only the values, because a record holds one entry per layer."""
        return list(dataclasses.astuple(self))


def layer_formats(record: Record) -> list[LayerFormat]:
    """Return the layers that a record evaluated, in the order of the forward pass; empty if it lists none.

    Raises:
        StoreError: The record is damaged.
    """
    if KEY not in record.results:
        return []
    names = [field.name for field in dataclasses.fields(LayerFormat)]
    return parsed_items(record, KEY, lambda e: typed(LayerFormat, dict(zip(names, e, strict=True))))


def uniform_format(address: str, kind: str, name: str) -> LayerFormat:
    """Return a layer in a format with a search's name: `int8`, `w4a8`, `float`. Attention has no weights.

    >>> uniform_format("stage3:4:2", "conv", "w4a8").short, uniform_format("stage4:1:1", "attention", "int8").short
    ('W4 A8', 'A8')
    """
    pair = _PAIR.fullmatch(name)
    weights, activations = (f"int{pair[1]}", f"int{pair[2]}") if pair else (name, name)
    if name == FLOAT:
        return LayerFormat(address, kind, None, None)
    return LayerFormat(address, kind, None if kind == "attention" else weights, activations)


def forward_order(address: str) -> tuple[bool, list[tuple[int, int | str]]]:
    """Return the sort key of an address for the order of the forward pass; the neck is last.

    >>> sorted(["neck:0:0", "stage10:0:0", "stage2:1:0", "stage2:0:10"], key=forward_order)
    ['stage2:0:10', 'stage2:1:0', 'stage10:0:0', 'neck:0:0']
    """
    parts = re.findall(r"\d+|\D+", address)
    return address.startswith("neck"), [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _bits(formats: str) -> str:
    found = [_INTEGER.fullmatch(name) for name in formats.split("/")]
    names = [match[1] if match else name for match, name in zip(found, formats.split("/"), strict=True)]
    return "/".join(dict.fromkeys(names))
