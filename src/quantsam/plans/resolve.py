"""Resolve a scheme on a model's layers: one specification for every quantized site."""

from __future__ import annotations

from collections.abc import Iterable

from quantsam.errors import SchemeError, nearest
from quantsam.plans.layers import Layer, LayerSite
from quantsam.plans.placements import Placement
from quantsam.plans.processors import protected, weights_in_pairs
from quantsam.quant.params import TensorSpec
from quantsam.quant.saturation import PairOrder
from quantsam.schemes.scheme import Rule, Scheme, Target

_ROLES = ("weight", "activation")
Resolved = list[tuple[Layer, LayerSite, TensorSpec]]


def resolve(scheme: Scheme, placement: Placement, layers: Iterable[Layer], model: str) -> Resolved:
    """Apply a scheme's rules in order.

    Args:
        scheme: What to quantize.
        placement: Which sites exist, and defaults for what the scheme leaves open.
        layers: The model's layers.
        model: The variant's name; rules for other models are skipped.

    Returns:
        Every quantized site with its layer and specification, in the order of the forward pass.

    Raises:
        SchemeError: A rule selects no layer, names a site that none of its layers has, or no rule applies to
            this model.
    """
    layers = tuple(layers)
    numbered = [(n, r) for n, r in enumerate(scheme.rules, 1) if not r.select.model or model in r.select.model]
    rules = [rule for _, rule in numbered]
    if scheme.rules and not rules:
        meant = ", ".join(sorted({name for rule in scheme.rules for name in rule.select.model}))
        raise SchemeError(f"scheme {scheme.name} must have a rule for model {model}, got rules for {meant} alone")
    for number, rule in numbered:
        _check(rule, f"scheme {scheme.name}, rule {number}", placement, layers, model)
    resolved: Resolved = []
    for layer in layers:
        matching = [rule for rule in rules if rule.select.matches(layer.address, layer.kind)]
        for site in placement.sites(layer):
            target = _last_word(matching, site)
            if target is not None:
                resolved.append((layer, site, placement.complete(target, layer, site)))
    return _saturation_free(resolved, placement.pairs or "padded") if placement.saturation_free else resolved


def _saturation_free(resolved: Resolved, order: PairOrder) -> Resolved:
    in_pairs = weights_in_pairs(((layer.kind, site, spec) for layer, site, spec in resolved), order)
    return [
        (layer, site, protected(spec) if site.role == "weight" and site.path in in_pairs else spec)
        for layer, site, spec in resolved
    ]


def _last_word(rules: Iterable[Rule], site: LayerSite) -> Target | None:
    target: Target | None = None
    for rule in rules:
        for key in (site.name, site.tensor, site.role):
            if key in rule.targets:
                target = rule.targets[key]
                break
    return target


def _check(rule: Rule, place: str, placement: Placement, layers: tuple[Layer, ...], model: str) -> None:
    selected = [layer for layer in layers if rule.select.matches(layer.address, layer.kind)]
    if not selected:
        known = sorted({str(layer.address) for layer in layers})
        hint = "see `quantsam layers " + model + "`"
        if len(rule.select.stage) == len(rule.select.block) == len(rule.select.layer) == 1:
            wanted = f"{rule.select.stage[0]}:{rule.select.block[0]}:{rule.select.layer[0]}"
            hint = f"{nearest(wanted, known)} {hint}" if wanted not in known else hint
        raise SchemeError(f"{place}: the selector must match a layer of {model}, got {rule.select}: {hint}")
    names = {name for layer in selected for s in placement.sites(layer) for name in (s.name, s.name.split(".")[-1])}
    for key in rule.targets:
        if key not in _ROLES and key not in names:
            raise SchemeError(f"{place}: no selected layer has a site {key!r}: {nearest(key, names)}")
