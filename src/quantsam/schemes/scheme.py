"""Schemes: declarations of which layers are quantized, and how. A scheme does not depend on a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantsam.errors import SchemeError
from quantsam.quant.formats import Format, get_format
from quantsam.quant.params import QuantizerName
from quantsam.schemes.repairs import RepairName

FLOAT_NAME = "fp32"
"""Name of the scheme without rules; results of the float model are stored and shown under it."""

LAYER_KINDS = (
    "conv",
    "resblock",
    "fmbc_3x3",
    "fmbc_1x1",
    "mbc_expand",
    "mbc_depthwise",
    "mbc_project",
    "qkv",
    "attention",
    "attention_proj",
    "neck_in",
    "neck_out",
)

_ADDRESS = re.compile(
    r"(?:[a-z-]+\d?:)?(?P<stage>stage\d+|neck):(?P<block>\d+):(?P<layer>\d+)", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Address of a layer: stage, block in the stage, layer in the block, all counted from zero."""

    stage: str
    block: int
    layer: int

    def __str__(self) -> str:
        return f"{self.stage}:{self.block}:{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `stage3:4:2`. A model in front (`L0:stage3:4:2`) is allowed and ignored.

        Raises:
            SchemeError: The text has another form.

        >>> str(Address.parse("L0:stage3:4:2"))
        'stage3:4:2'
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise SchemeError(
                f"layer address must look like 'stage3:4:2' or 'neck:7:0', got {text!r}: see `quantsam layers MODEL`"
            )
        return cls(match["stage"].lower(), int(match["block"]), int(match["layer"]))


@dataclass(frozen=True, slots=True)
class Selector:
    """The layers that a rule applies to. All conditions must hold; an empty condition always holds.

    Attributes:
        stage: Names such as `stage3`, `neck`.
        block: Numbers of blocks in their stage.
        layer: Numbers of layers in their block.
        kind: Kinds of layers, see `LAYER_KINDS`.
        model: Names of variants; a rule for other models is skipped and is not an error.
    """

    stage: tuple[str, ...] = ()
    block: tuple[int, ...] = ()
    layer: tuple[int, ...] = ()
    kind: tuple[str, ...] = ()
    model: tuple[str, ...] = ()

    def matches(self, address: Address, kind: str) -> bool:
        """Return whether the selector selects a layer; `model` is not checked here."""
        return (
            (not self.stage or address.stage in self.stage)
            and (not self.block or address.block in self.block)
            and (not self.layer or address.layer in self.layer)
            and (not self.kind or kind in self.kind)
        )

    def __str__(self) -> str:
        parts = [f"{f.name}={list(value)}" for f in dataclasses.fields(self) if (value := getattr(self, f.name))]
        return ", ".join(parts) or "all layers"


@dataclass(frozen=True, slots=True)
class Target:
    """How a scheme quantizes a tensor. The placement fills in what is None.

    Attributes:
        format: Name of the number format.
        observer: Name of the observer that finds its range.
        symmetric: Zero point 0 and a range symmetric about it; else affine.
        per_channel: One scale per channel instead of one for the tensor.
        quantizer: `uniform`, `log2` or `float8`.
    """

    format: str
    observer: str | None = None
    symmetric: bool | None = None
    per_channel: bool | None = None
    quantizer: QuantizerName = "uniform"

    @property
    def fmt(self) -> Format:
        """The number format itself."""
        return get_format(self.format)


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the selected layers.

    Attributes:
        select: The layers.
        targets: Maps `weight`, `activation` or the name of a site to its target; None keeps the tensor
            in float. A site's own entry overrides `activation` and `weight`. Tensors that are not named
            stay as earlier rules left them.
    """

    select: Selector
    targets: Mapping[str, Target | None]


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization scheme: rules applied in order to a model whose layers all start in float.

    Attributes:
        name: Name in records and tables.
        rules: Rules, in the order in which they are applied.
        description: Short text for lists.
        repairs: Repairs of its plan, see `schemes.repairs`. `calibrated_plans` and every command that calibrates
            apply them; `make_plan` and `calibrate` are single steps and do not.

    Raises:
        SchemeError: It has rules and the name of the float model, so its results would be mistaken for that model's; or
            it has repairs but no rule that quantizes activations.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    description: str = field(default="", compare=False)
    repairs: tuple[RepairName, ...] = ()

    def __post_init__(self) -> None:
        if self.rules and self.name.lower() == FLOAT_NAME:
            raise SchemeError(
                f"a scheme with rules must not have the name of the float model, got {self.name!r}: give it another"
            )
        if self.repairs and not self.quantizes_activations:
            raise SchemeError(
                f"a scheme that is repaired must quantize activations, got none in {self.name!r}: add a rule with "
                "'activation', or leave [repair] out"
            )

    @property
    def quantizes_activations(self) -> bool:
        """Whether a rule quantizes an activation; if none does, a plan needs no images and nothing is repaired."""
        targets = (item for rule in self.rules for item in rule.targets.items())
        return any(tensor != "weight" and target is not None for tensor, target in targets)

    @property
    def digest(self) -> str:
        """Hex digest of the rules and repairs, without name and description."""
        content: list[Any] = [_plain(rule) for rule in self.rules]
        content += [{"repairs": list(self.repairs)}] if self.repairs else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _plain(rule: Rule) -> dict[str, Any]:
    targets = {key: dataclasses.asdict(spec) if spec else None for key, spec in sorted(rule.targets.items())}
    return {"select": dataclasses.asdict(rule.select), "targets": targets}
