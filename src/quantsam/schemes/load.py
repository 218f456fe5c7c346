"""Read schemes: by name from the library, from a TOML file, or from a line such as `int8@stage3:4:2`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from quantsam.errors import InputError, SchemeError, nearest
from quantsam.files import expanded, read_text, shown
from quantsam.models.variants import VARIANTS
from quantsam.quant.formats import FORMATS, get_format
from quantsam.quant.observers import OBSERVERS
from quantsam.quant.quantizers import quantizers_of
from quantsam.schemes.repairs import REPAIRS, RepairName, parse_repairs
from quantsam.schemes.scheme import LAYER_KINDS, Rule, Scheme, Selector, Target

FLOAT = "float"
_TARGET_KEYS = {"format": str, "observer": str, "symmetric": bool, "per_channel": bool, "quantizer": str}
_SELECT_KEYS = {"stage": str, "block": int, "layer": int, "kind": str, "model": str}
_SELECT_NAMES = {"kind": LAYER_KINDS, "model": tuple(VARIANTS)}
_SCOPE = re.compile(
    rf"(?:(?P<model>{'|'.join(sorted(VARIANTS, reverse=True))}):)?"
    r"(?P<stage>stage\d+|neck)(?::(?P<block>\d+)(?::(?P<layer>\d+))?)?",
    re.ASCII,
)
_WEIGHT_ACTIVATION = re.compile(r"w(\d+)a(\d+)", re.ASCII)


def scheme_names() -> list[str]:
    """Return the names of the schemes that come with quantsam."""
    library = resources.files("quantsam.schemes") / "library"
    return sorted(entry.name.removesuffix(".toml") for entry in library.iterdir() if entry.name.endswith(".toml"))


def load_scheme(source: str | Path) -> Scheme:
    """Load a scheme.

    Args:
        source: The name of a library scheme (`mix-dwsc`), the path of a TOML file, or one line:
            a format (`int8`) or `wNaM`, then `@` and what it applies to: addresses, stages, blocks
            (`stage3:4`) or kinds, separated by commas.

    Raises:
        SchemeError: There is no such scheme, or it cannot be understood.

    >>> load_scheme("int8@stage3:4:2").rules[0].select.block
    (4,)
    """
    text = str(source)
    is_file = isinstance(source, Path) or text.endswith(".toml")
    if "@" in text and not is_file:
        return _from_line(text)
    if text in scheme_names():
        library = resources.files("quantsam.schemes") / "library"
        return parse_scheme((library / f"{text}.toml").read_text("utf-8"), default_name=text)
    if is_file:
        try:
            content = read_text(expanded(source))
        except (OSError, ValueError) as error:  # ValueError: no text, or a null byte in the path
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise SchemeError(f"scheme file {text!r} must be a readable TOML file: {reason}") from error
        return parse_scheme(content, default_name=shown(Path(source).stem), where=text)
    raise SchemeError(
        f"scheme must be a library name, a .toml file or a line like 'int8@stage3:4:2', got {text!r}: "
        f"{nearest(text, scheme_names())}"
    )


def parse_scheme(content: str, default_name: str, where: str | None = None) -> Scheme:
    """Parse the text of a scheme.

    Args:
        content: TOML.
        default_name: The scheme's name where the text gives none.
        where: How to call the text in errors; the name by default.

    Raises:
        SchemeError: Not TOML, an unknown key, a value of the wrong type, rules under the name `fp32`.
    """
    where = where or default_name
    try:
        data = tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: numbers or nesting without end
        raise SchemeError(f"scheme {where} must be valid TOML: {error}") from error
    _known(data, {"name": str, "description": str, "rules": list, "repair": dict}, f"scheme {where}")
    rules = []
    for number, rule in enumerate(data.get("rules", []), start=1):
        place = f"scheme {where}, rule {number}"
        _known(rule, {"select": dict, "weight": None, "activation": None, "sites": dict}, place)
        rules.append(Rule(_selector(rule.get("select", {}), place), _targets(rule, place)))
    try:
        repairs = _repairs(data["repair"], f"scheme {where}, repair") if "repair" in data else ()
        return Scheme(data.get("name", default_name), tuple(rules), data.get("description", ""), repairs)
    except SchemeError as error:
        text = str(error)
        raise SchemeError(text if text.startswith("scheme ") else f"scheme {where}: {text}") from error


def _repairs(table: dict[str, Any], place: str) -> tuple[RepairName, ...]:
    _known(table, {"apply": None}, place)
    names = table.get("apply", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SchemeError(f"{place}: 'apply' must be a list of {', '.join(REPAIRS)}, got {names!r}")
    try:
        return parse_repairs(names)
    except InputError as error:
        raise SchemeError(f"{place}: {error}") from error


def _known(table: Any, keys: Mapping[str, type | None], place: str) -> None:
    if not isinstance(table, dict):
        raise SchemeError(f"{place}: expected a table with keys {', '.join(keys)}, got {table!r}")
    for key, value in table.items():
        if key not in keys:
            raise SchemeError(f"{place}: unknown key {key!r}: {nearest(key, keys)}")
        kind = keys[key]
        if kind is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise SchemeError(f"{place}: {key!r} must be {_TYPE_NAMES[kind]}, got {value!r}")


_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    dict: "a table",
    list: "a list of [[rules]] tables",
}


def _selector(table: dict[str, Any], place: str) -> Selector:
    _known(table, dict.fromkeys(_SELECT_KEYS), f"{place}, select")
    fields: dict[str, tuple[Any, ...]] = {}
    for key, value in table.items():
        values = value if isinstance(value, list) else [value]
        for item in values:
            if not isinstance(item, _SELECT_KEYS[key]) or isinstance(item, bool):
                one = _TYPE_NAMES[_SELECT_KEYS[key]]
                raise SchemeError(f"{place}, select: {key!r} must be {one} or a list of such, got {value!r}")
        fields[key] = tuple(v.lower() if isinstance(v, str) else v for v in values)
        known = _SELECT_NAMES.get(key, fields[key])
        for item in fields[key]:
            if item not in known:
                raise SchemeError(f"{place}, select: unknown {key} {item!r}: {nearest(item, known)}")
    return Selector(**fields)


def _targets(rule: dict[str, Any], place: str) -> dict[str, Target | None]:
    targets: dict[str, Target | None] = {}
    for role in ("weight", "activation"):
        if role in rule:
            targets[role] = make_target(rule[role], f"{place}, {role}")
    for name, value in rule.get("sites", {}).items():
        targets[name] = make_target(value, f"{place}, site {name!r}")
    if not targets:
        raise SchemeError(f"{place}: a rule must set 'weight', 'activation' or 'sites', got none of them")
    return targets


def make_target(value: Any, place: str = "specification") -> Target | None:
    """Read what a rule says of a tensor.

    Args:
        value: A format's name, `"float"`, or a table with the fields of `Target`.
        place: How to call it in errors.

    Raises:
        SchemeError: A key or value is not known.
    """
    if value == FLOAT:
        return None
    if not isinstance(value, str | dict):
        raise SchemeError(f"{place}: must be a format such as 'int8', 'float' or a table, got {value!r}")
    table: dict[str, Any] = {"format": value} if isinstance(value, str) else value
    _known(table, _TARGET_KEYS, place)
    if "format" not in table:
        raise SchemeError(f"{place}: 'format' must be given, got only {', '.join(table) or 'nothing'}")
    try:
        fmt = get_format(table["format"])
    except SchemeError as error:
        raise SchemeError(f"{place}: {error}") from error
    observer = table.get("observer")
    if observer is not None and observer not in OBSERVERS:
        raise SchemeError(f"{place}: unknown observer {observer!r}: {nearest(observer, OBSERVERS)}")
    able = quantizers_of(fmt)
    quantizer = table.get("quantizer", able[0])
    if quantizer not in able:
        raise SchemeError(f"{place}: quantizer of format {fmt.name!r} cannot be {quantizer!r}: use {able[0]!r}")
    per_channel = table.get("per_channel")
    if observer == "ptf" and per_channel is False:
        raise SchemeError(f"{place}: observer 'ptf' must be per channel, got per_channel = false")
    return Target(fmt.name, observer, table.get("symmetric"), per_channel, quantizer)


def _from_line(text: str) -> Scheme:
    base, _, scope = text.partition("@")
    base = base.strip().lower()
    targets = _base_targets(base, text)
    selectors = [_scope(part.strip(), text) for part in scope.split(",")]
    return Scheme(text, tuple(Rule(selector, targets) for selector in selectors), f"{base} on {scope} alone")


def uniform_scheme(format_name: str) -> Scheme:
    """Return the scheme that gives every layer one format.

    Args:
        format_name: A format (`int8`), or `wNaM`: weights of N bits and activations of M.

    Raises:
        SchemeError: There is no such format.

    >>> uniform_scheme("w4a8").rules[0].targets["weight"].format
    'int4'
    """
    base = format_name.strip().lower()
    return Scheme(base, (Rule(Selector(), _base_targets(base, base)),), f"{base} on all layers")


def _base_targets(base: str, text: str) -> dict[str, Target | None]:
    match = _WEIGHT_ACTIVATION.fullmatch(base)
    if match:
        weight, activation = f"int{match[1]}", f"int{match[2]}"
    else:
        weight = activation = base
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
        known = [*LAYER_KINDS, "stage3", "stage3:4", "stage3:4:2", "neck"]
        raise SchemeError(
            f"scheme {text!r}: what stands after '@' must be addresses like 'stage3:4:2', stages or kinds, "
            f"got {part!r}: {nearest(part, known)}"
        )
    block, layer = ((int(match[key]),) if match[key] else () for key in ("block", "layer"))
    model = (match["model"],) if match["model"] else ()
    return Selector(stage=(match["stage"],), block=block, layer=layer, model=model)
