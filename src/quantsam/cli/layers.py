"""`quantsam layers`: what can be quantized, and how large it is."""

from __future__ import annotations

from typing import Any

import click

from quantsam.cli.output import json_option, print_json, print_table


@click.command(name="layers")
@click.argument("model")
@click.option("--scheme", help="Show formats under a scheme: a name, a TOML file, or a line like int8@stage3:2:2.")
@click.option("--placement", default="thesis", show_default=True, help="Where tensors are quantized.")
@json_option
def command(model: str, scheme: str | None, placement: str, as_json: bool) -> None:
    """List the quantizable layers of MODEL: address, kind, shape, parameters, MACs. No weights are needed."""
    import torch

    from quantsam.models.encoder import ImageEncoder
    from quantsam.models.variants import get_variant
    from quantsam.plans.layers import count_macs, discover_layers
    from quantsam.plans.make import resolve_sites
    from quantsam.plans.placements import get_placement
    from quantsam.plans.sizes import account
    from quantsam.schemes.load import load_scheme

    variant = get_variant(model)
    with torch.device("meta"):
        encoder = ImageEncoder(variant)
    layers = discover_layers(encoder, shortcuts="shortcut" in get_placement(placement).places)
    macs = count_macs(encoder)
    sites = resolve_sites(encoder, load_scheme(scheme), placement) if scheme else ()
    rows: list[dict[str, Any]] = []
    for layer in layers:
        row: dict[str, Any] = {
            "address": str(layer.address),
            "kind": layer.kind,
            "weight_shape": list(layer.weight_shape) if layer.weight_shape else None,
            "parameters": layer.parameters,
            "macs": macs[layer.address],
        }
        if scheme:
            for role in ("weight", "activation"):
                used = [s for s in sites if s.layer == row["address"] and s.role == role]
                row[role] = _formats({s.spec.format for s in used}, len(used), _count(layer.sites, role))
        rows.append(row)
    size = account(encoder, sites)
    totals = {
        "layers": len(rows),
        "parameters": sum(r["parameters"] for r in rows),
        "macs": sum(macs.values()),
    }
    sizes = {
        "quantized_parameters": size.quantized_parameters,
        "saved_mib": round(size.saved_mib, 4),
        "size_bytes": size.size_bytes,
        "fp32_bytes": size.fp32_bytes,
    }
    if as_json:
        print_json({"model": variant.name, "scheme": scheme, "layers": rows, "totals": totals, "sizes": sizes})
        return
    columns = ["address", "kind", "weight", ">parameters", ">MACs (M)"] + (
        ["weights in", "activations in"] if scheme else []
    )
    print_table(f"{variant.name}: {len(rows)} layers", columns, [_cells(row) for row in rows])
    click.echo(f"\n{totals['parameters']:,} parameters, {totals['macs'] / 1e9:.2f} GMAC an image in these layers")
    if scheme:
        click.echo(
            f"scheme {scheme}: {size.quantized_parameters:,} parameters quantized, {size.saved_mib:.2f} MiB saved "
            f"against FP16 (the thesis' convention); all encoder weights {size.size_bytes / 2**20:.2f} MiB, in FP32 "
            f"{size.fp32_bytes / 2**20:.2f} MiB"
        )


def _count(sites: tuple[Any, ...], role: str) -> int:
    return sum(site.role == role for site in sites)


def _formats(formats: set[str], quantized: int, total: int) -> str | None:
    if not total:
        return None
    names = sorted(formats) + (["float"] if quantized < total else [])
    return "+".join(names)


def _cells(row: dict[str, Any]) -> list[object]:
    shape = "x".join(map(str, row["weight_shape"])) if row["weight_shape"] else ""
    cells = [row["address"], row["kind"], shape, f"{row['parameters']:,}", f"{row['macs'] / 1e6:,.1f}"]
    return cells + [row[role] or "" for role in ("weight", "activation") if role in row]
