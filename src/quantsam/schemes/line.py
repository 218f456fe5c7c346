"""Schemes in one line: a format for all layers, `int8@stage3:2:2`, `mix-dwsc:percentile`."""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from quantsam.errors import SchemeError, nearest, one_of
from quantsam.models.variants import VARIANTS
from quantsam.quant.formats import FORMATS
from quantsam.quant.observers import OBSERVERS
from quantsam.schemes.scheme import LAYER_KINDS, Rule, Scheme, Selector, Target
from quantsam.schemes.target import make_target

_SCOPE = re.compile(
    rf"(?:(?P<model>{'|'.join(sorted(VARIANTS, reverse=True))}):)?"
    r"(?P<stage>stage\d+|neck)(?::(?P<block>\d+)(?::(?P<layer>\d+))?)?",
    re.ASCII,
)
_WEIGHT_ACTIVATION = re.compile(r"w(\d+)a(\d+)", re.ASCII)


class SplitLine(NamedTuple):
    """A line's scheme and the observer that followed it."""

    scheme: str
    observer: str


def split_observer(text: str) -> SplitLine | None:
    """Split `int8:percentile` or `int8:percentile@stage3` into a scheme and an observer; None if there is none.

    >>> split_observer("int8:percentile@stage3")
    SplitLine(scheme='int8@stage3', observer='percentile')
    """
    head, at, scope = text.partition("@")
    scheme, colon, observer = head.rpartition(":")
    return SplitLine(f"{scheme.strip()}{at}{scope}", observer.strip().lower()) if colon else None


def with_observer(scheme: Scheme, observer: str, name: str | None = None) -> Scheme:
    """Return a scheme in which one observer finds the ranges of all activations.

    Args:
        scheme: The scheme to change.
        observer: A key of `OBSERVERS`.
        name: The new scheme's name; `SCHEME:OBSERVER` if None.

    Raises:
        SchemeError: There is no such observer, or the scheme quantizes no activation.
    """
    name = name or f"{scheme.name}:{observer}"
    if observer not in OBSERVERS:
        raise SchemeError(one_of(f"scheme {name!r}: the observer", observer, OBSERVERS))
    if not scheme.quantizes_activations:
        raise SchemeError(f"scheme {name!r}: an observer finds ranges of activations, got none: leave {observer!r} out")

    def changed(key: str, target: Target | None) -> Target | None:
        if key == "weight" or target is None:
            return target
        per_channel = None if observer == "ptf" else target.per_channel  # ptf has a scale per channel
        return dataclasses.replace(target, observer=observer, per_channel=per_channel)

    rules = tuple(
        Rule(rule.select, {key: changed(key, target) for key, target in rule.targets.items()}) for rule in scheme.rules
    )
    description = f"{scheme.description}, ranges by {observer}"
    return dataclasses.replace(scheme, name=name, rules=rules, description=description)


def parse_line(text: str) -> Scheme:
    """Read a scheme from a line such as `int8@stage3:2:2`.

    Raises:
        SchemeError: The line cannot be understood.
    """
    base, _, scope = text.partition("@")
    base = base.strip().lower()
    targets = _base_targets(base, text)
    selectors = [_scope(part.strip(), text) for part in scope.split(",")]
    return Scheme(text, tuple(Rule(selector, targets) for selector in selectors), f"{base} on {scope} alone")


def uniform_scheme(format_name: str) -> Scheme:
    """Return the scheme that gives every layer one format.

    Args:
        format_name: A format (`int8`), or `wNaM`: weights with N bits and activations with M bits.

    Raises:
        SchemeError: There is no such format.

    >>> uniform_scheme("w4a8").rules[0].targets["weight"].format
    'int4'
    """
    base = format_name.strip().lower()
    return Scheme(base, (Rule(Selector(), _base_targets(base, base)),), f"{base} on all layers")


def is_format(text: str) -> bool:
    """Whether `uniform_scheme` accepts a text."""
    return set(_formats(text.strip().lower())) <= FORMATS.keys()


def _formats(base: str) -> tuple[str, str]:
    """Return the formats of weights and activations."""
    match = _WEIGHT_ACTIVATION.fullmatch(base)
    return (f"int{match[1]}", f"int{match[2]}") if match else (base, base)


def _base_targets(base: str, text: str) -> dict[str, Target | None]:
    weight, activation = _formats(base)
    if weight not in FORMATS or activation not in FORMATS:
        known = [*FORMATS, "w8a8", "w8a16", "w4a8"]
        raise SchemeError(
            f"scheme {text!r}: the format must be one of quantsam's or wNaM, got {base!r}: {nearest(base, known)}"
        )
    return {"weight": make_target(weight), "activation": make_target(activation)}


def _scope(part: str, text: str) -> Selector:
    part = part.lower()
    if part in LAYER_KINDS:
        return Selector(kind=(part,))
    match = _SCOPE.fullmatch(part)
    if match is None:
        known = [*LAYER_KINDS, "stage3", "stage3:2", "stage3:2:2", "neck"]
        raise SchemeError(
            f"scheme {text!r}: what stands after '@' must be addresses like 'stage3:2:2', stages or kinds, "
            f"got {part!r}: {nearest(part, known)}"
        )
    block, layer = ((int(match[key]),) if match[key] else () for key in ("block", "layer"))
    model = (match["model"],) if match["model"] else ()
    return Selector(stage=(match["stage"],), block=block, layer=layer, model=model)
