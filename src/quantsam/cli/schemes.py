"""`quantsam schemes`: the shipped schemes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quantsam.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from quantsam.schemes.scheme import Target


def _described(spec: Target | None) -> str:
    """Return what a scheme says about a tensor, and what it leaves to the placement."""
    if spec is None:
        return "float"
    said, left = [spec.format], []
    for name, value in (
        ("symmetry", None if spec.symmetric is None else "symmetric" if spec.symmetric else "affine"),
        ("channels", None if spec.per_channel is None else "per channel" if spec.per_channel else "per tensor"),
        ("observer", spec.observer),
    ):
        if value is None:
            left.append(name)
        else:
            said.append(value)
    said.append(spec.quantizer)
    return ", ".join(said) + (f" ({', '.join(left)}: left to the placement)" if left else "")


@click.command(name="schemes")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the shipped schemes. With NAME (or a TOML file, or a line), show the rules of a scheme."""
    from quantsam.schemes.load import load_scheme, scheme_names

    if name is None:
        schemes = [load_scheme(known) for known in scheme_names()]
        if as_json:
            print_json([{"name": s.name, "description": s.description, "digest": s.digest} for s in schemes])
            return
        print_table("schemes", ["name", "what it does"], [(s.name, s.description) for s in schemes])
        click.echo(
            "\nBesides: a TOML file of your own, or one line such as 'int8@stage3:2:2' or 'w4a8@neck,mbc_project'."
        )
        return
    scheme = load_scheme(name)
    rows = []
    for number, rule in enumerate(scheme.rules, start=1):
        for target, spec in rule.targets.items():
            rows.append({"rule": number, "layers": str(rule.select), "target": target, "format": _described(spec)})
    if as_json:
        shown = {"name": scheme.name, "description": scheme.description, "digest": scheme.digest, "rules": rows}
        print_json(shown | {"repairs": list(scheme.repairs)})
        return
    print_table(
        f"{scheme.name}: {scheme.description}",
        ["rule", "layers", "target", "format"],
        [list(r.values()) for r in rows],
    )
    if scheme.repairs:
        click.echo(f"\nRepaired: {', '.join(scheme.repairs)}.")
