"""Write schemes as text, and make a scheme from one format per layer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from quantsam.quant.quantizers import quantizers_of
from quantsam.schemes.line import uniform_scheme
from quantsam.schemes.scheme import Address, Rule, Scheme, Selector, Target
from quantsam.schemes.target import FLOAT


def scheme_from_layers(formats: Mapping[str, str], kinds: Mapping[str, str], name: str) -> Scheme:
    """Return the scheme that gives each layer its format, in few rules.

    Args:
        formats: Format of each layer, keyed by address: anything that `uniform_scheme` accepts, or `float`.
        kinds: Kind of each layer, keyed by address.
        name: The scheme's name.
    """
    counts = Counter(formats.values())
    usual = max(counts, key=lambda f: (counts[f], f))
    rules = [] if usual == FLOAT else [Rule(Selector(), _targets(usual))]
    for fmt in sorted(counts.keys() - {usual}):
        chosen = {address for address, own in formats.items() if own == fmt}
        whole = tuple(k for k in dict.fromkeys(kinds.values()) if {a for a in kinds if kinds[a] == k} <= chosen)
        selectors = [Selector(kind=whole)] if whole else []
        rest = [address for address in formats if address in chosen and kinds[address] not in whole]
        selectors += _by_block(rest)
        rules += [Rule(selector, _targets(fmt)) for selector in selectors]
    parts = ", ".join(f"{fmt} in {count}" for fmt, count in counts.most_common())
    return Scheme(name, tuple(rules), f"{parts} of {len(formats)} layers")


def scheme_to_toml(scheme: Scheme) -> str:
    """Return the scheme as TOML text that `parse_scheme` can read."""
    lines = [f"name = {_toml(scheme.name)}"]
    if scheme.description:
        lines.append(f"description = {_toml(scheme.description)}")
    for rule in scheme.rules:
        lines += ["", "[[rules]]"]
        select = [
            f"{key} = {_toml(list(values))}"
            for key in ("stage", "block", "layer", "kind", "model")
            if (values := getattr(rule.select, key))
        ]
        if select:
            lines.append(f"select = {{ {', '.join(select)} }}")
        own = {key: target for key, target in rule.targets.items() if key not in ("weight", "activation")}
        lines += [f"{key} = {_target(rule.targets[key])}" for key in ("weight", "activation") if key in rule.targets]
        if own:
            sites = ", ".join(f"{_toml(key)} = {_target(target)}" for key, target in own.items())
            lines.append(f"sites = {{ {sites} }}")
    if scheme.repairs:
        lines += ["", "[repair]", f"apply = {_toml(list(scheme.repairs))}"]
    return "\n".join(lines) + "\n"


def _targets(fmt: str) -> Mapping[str, Target | None]:
    return {"weight": None, "activation": None} if fmt == FLOAT else uniform_scheme(fmt).rules[0].targets


def _by_block(addresses: list[str]) -> list[Selector]:
    """Join layers into selectors: one for all blocks of a stage with the same layers chosen."""
    blocks: dict[tuple[str, int], list[int]] = {}
    for address in map(Address.parse, addresses):
        blocks.setdefault((address.stage, address.block), []).append(address.layer)
    joined: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for (stage, block), layers in blocks.items():
        joined.setdefault((stage, tuple(layers)), []).append(block)
    return [Selector((stage,), tuple(numbers), layers) for (stage, layers), numbers in joined.items()]


def _target(target: Target | None) -> str:
    if target is None:
        return _toml(FLOAT)
    usual = quantizers_of(target.fmt)[0]
    fields = {
        "format": target.format,
        "observer": target.observer,
        "symmetric": target.symmetric,
        "per_channel": target.per_channel,
        "quantizer": None if target.quantizer == usual else target.quantizer,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    if given.keys() == {"format"}:
        return _toml(target.format)
    return "{ " + ", ".join(f"{key} = {_toml(value)}" for key, value in given.items()) + " }"


def _toml(value: object) -> str:
    """Return text, a flag or a list as TOML. TOML and JSON differ in the characters that must be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
