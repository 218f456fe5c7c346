"""Read schemes: by name from the library, from a TOML file, or from a line such as `int8@stage3:2:2`."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from quantsam.errors import InputError, SchemeError, nearest
from quantsam.files import expanded, read_text, shown
from quantsam.models.variants import VARIANTS
from quantsam.schemes.line import is_format, parse_line, split_observer, uniform_scheme, with_observer
from quantsam.schemes.repairs import REPAIRS, RepairName, parse_repairs
from quantsam.schemes.scheme import LAYER_KINDS, Rule, Scheme, Selector, Target
from quantsam.schemes.target import TYPE_NAMES, check_keys, make_target

_SELECT_KEYS = {"stage": str, "block": int, "layer": int, "kind": str, "model": str}
_SELECT_NAMES = {"kind": LAYER_KINDS, "model": tuple(VARIANTS)}


def scheme_names() -> list[str]:
    """Return the names of the schemes that come with quantsam."""
    library = resources.files("quantsam.schemes") / "library"
    return sorted(entry.name.removesuffix(".toml") for entry in library.iterdir() if entry.name.endswith(".toml"))


def load_scheme(source: str | Path) -> Scheme:
    """Load a scheme.

    Args:
        source: The name of a library scheme (`mix-dwsc`), the path of a TOML file, or one line:
            a format (`int4`) or `wNaM` for all layers, or behind it `@` and what it applies to: addresses, stages,
            blocks (`stage3:4`) or kinds, separated by commas. A colon and an observer after the name, file or format
            (`int8:percentile`) set the observer of all activations.

    Raises:
        SchemeError: There is no such scheme, or it cannot be understood.

    >>> load_scheme("int8@stage3:2:2").rules[0].select.block
    (2,)
    >>> load_scheme("int8:omse").rules[0].targets["activation"].observer
    'omse'
    """
    text = str(source)
    is_file = isinstance(source, Path) or text.endswith(".toml")
    split = None if is_file else split_observer(text)
    if split is not None:
        return with_observer(load_scheme(split.scheme), split.observer, text)
    if "@" in text and not is_file:
        return parse_line(text)
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
    if is_format(text):
        return uniform_scheme(text)
    raise SchemeError(
        f"scheme must be a library name, a format, a .toml file or a line like 'int8@stage3:2:2', got {text!r}: "
        f"{nearest(text, scheme_names())}"
    )


def parse_scheme(content: str, default_name: str, where: str | None = None) -> Scheme:
    """Parse the text of a scheme.

    Args:
        content: TOML text.
        default_name: The scheme's name if the text has none.
        where: Name of the text in errors; `default_name` if None.

    Raises:
        SchemeError: The text is not TOML, has an unknown key or a value of the wrong type, or has rules under the name
            `fp32`.
    """
    where = where or default_name
    try:
        data = tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: numbers or nesting without end
        raise SchemeError(f"scheme {where} must be valid TOML: {error}") from error
    check_keys(data, {"name": str, "description": str, "rules": list, "repair": dict}, f"scheme {where}")
    rules = []
    for number, rule in enumerate(data.get("rules", []), start=1):
        place = f"scheme {where}, rule {number}"
        check_keys(rule, {"select": dict, "weight": None, "activation": None, "sites": dict}, place)
        rules.append(Rule(_selector(rule.get("select", {}), place), _targets(rule, place)))
    try:
        repairs = _repairs(data["repair"], f"scheme {where}, repair") if "repair" in data else ()
        return Scheme(data.get("name", default_name), tuple(rules), data.get("description", ""), repairs)
    except SchemeError as error:
        text = str(error)
        raise SchemeError(text if text.startswith("scheme ") else f"scheme {where}: {text}") from error


def _repairs(table: dict[str, Any], place: str) -> tuple[RepairName, ...]:
    check_keys(table, {"apply": None}, place)
    names = table.get("apply", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SchemeError(f"{place}: 'apply' must be a list of {', '.join(REPAIRS)}, got {names!r}")
    try:
        return parse_repairs(names)
    except InputError as error:
        raise SchemeError(f"{place}: {error}") from error


def _selector(table: dict[str, Any], place: str) -> Selector:
    check_keys(table, dict.fromkeys(_SELECT_KEYS), f"{place}, select")
    fields: dict[str, tuple[Any, ...]] = {}
    for key, value in table.items():
        values = value if isinstance(value, list) else [value]
        for item in values:
            if not isinstance(item, _SELECT_KEYS[key]) or isinstance(item, bool):
                one = TYPE_NAMES[_SELECT_KEYS[key]]
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
