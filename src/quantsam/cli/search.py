"""`quantsam search`: a format for each layer."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import (
    calibration_source,
    command_line,
    dataset_options,
    open_store,
    quoted,
    store_options,
    threads_option,
    use_threads,
)
from quantsam.cli.output import json_option, print_json, print_table, progress

if TYPE_CHECKING:
    from quantsam.results.record import JsonValue, Record
    from quantsam.results.search import SearchEntry
    from quantsam.search.palette import Palette

_INDEX = "front.json"


@click.command(name="search")
@click.argument("model")
@click.option("--weights", type=click.Path(), help="A .pt or .safetensors file.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute.")
@click.option("--formats", help="What each layer may have. [float,w8a16,int8,w4a8; with --engine float,int8]")
@click.option("--cost", default="size", show_default=True, help="What is to be small: size, bit-operations or latency.")
@click.option("--budget", help="The most that it may cost: 40% of float, 1.5MB, 12ms, 90G. [the whole front]")
@click.option("--max-drop", type=float, help="Instead: points of mIoU that may be lost; finds the cheapest scheme.")
@click.option("--engine", help="Place tensors as this engine does, and confirm on it; --cost latency needs one.")
@click.option("--placement", help="Where tensors are quantized. [thesis, or the engine's own]")
@dataset_options
@click.option("--prompts", default="box", show_default=True, help="box, click, or clicks:N.")
@click.option("--first", default=8, show_default=True, help="Pictures on which each layer is measured alone.")
@click.option("--images", default=32, show_default=True, help="Pictures on which schemes are measured.")
@click.option("--held-out", default=64, show_default=True, help="Further pictures, to confirm.")
@click.option("--points", default=10, show_default=True, help="Schemes to keep of the front.")
@click.option("--trials", type=click.IntRange(min=0), help="Schemes that Optuna may try. [48 where it is installed]")
@click.option("--calibration", help="Calibration images: a folder, sa-1b, or scenes:COUNT:SEED.")
@click.option("--limit", type=click.IntRange(min=1), help="Calibrate on at most this many images.")
@click.option("--seed", default=0, show_default=True, help="Which images a limit takes, order of pictures, trials.")
@threads_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the schemes (TOML) and front.json.")
@store_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    weights: str | None,
    device: str,
    formats: str | None,
    cost: str,
    budget: str | None,
    max_drop: float | None,
    engine: str | None,
    placement: str | None,
    data: str,
    annotations: str | None,
    image_root: str | None,
    no_crowds: bool,
    strict: bool,
    prompts: str,
    first: int,
    images: int,
    held_out: int,
    points: int,
    trials: int | None,
    calibration: str | None,
    limit: int | None,
    seed: int,
    threads: int | None,
    out: Path | None,
    store: Path | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Find a format for each layer of MODEL: the most accurate scheme within a budget, or the smallest within a loss.

    quantsam search nano --budget 30% --out found, then quantsam evaluate --scheme found/nano-size-03.toml
    """
    from quantsam.data.open import open_dataset, open_images
    from quantsam.engines.encoder import check_formats
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.make import make_plan
    from quantsam.runtime.engines import check_engine
    from quantsam.search import palette as palettes
    from quantsam.search.budget import parse_budget
    from quantsam.search.search import search_schemes
    from quantsam.search.settings import SearchSettings, check_settings

    use_threads(threads)
    chosen = SearchSettings(cost, None, max_drop, engine, prompts, first, images, held_out, points, trials, seed)
    check_settings(chosen)
    if budget is not None:
        chosen = dataclasses.replace(chosen, budget=parse_budget(budget, cost))
        check_settings(chosen)
    names = (formats or ("float,int8" if engine else "float,w8a16,int8,w4a8")).lower().replace(" ", "").split(",")
    palettes.check_formats(names)
    if engine is not None:
        check_engine(engine)
    placed = placement or engine or "thesis"
    if engine is not None and placed != engine:
        raise click.UsageError(f"--engine {engine} has a placement of its own, got --placement {placed}: leave it out")
    if out is not None:
        _check_out(out)
    name = get_variant(model).name
    dataset = open_dataset(data, annotations=annotations, images=image_root, crowds=not no_crowds, strict=strict)
    source = open_images(calibration_source(name, calibration), limit=limit, seed=seed)
    results = open_store(store, no_store)
    loaded = load_model(name, weights, device=device)
    for one in names if engine is not None else ():
        check_formats(make_plan(loaded, palettes.format_scheme(one), placed).sites, str(engine))
    palette = palettes.make_palette(loaded, names, source, placement=placed, progress=progress("calibrating"))
    notes: dict[str, JsonValue] = {"limit": limit}
    record = search_schemes(
        loaded, palette, dataset, chosen, store=results, progress=progress, notes=notes, workers=threads
    )
    if out is not None:
        _write(out, record, palette)
    if as_json:
        print_json(record.to_json_dict())
        return
    _report(record)
    if out is not None:
        score = command_line(f"quantsam evaluate --scheme {quoted(out / _an_entry(record))}", results)
        click.echo(f"\nwritten to {out}: {score} scores one")
    else:
        arguments = (ctx.obj or {}).get("arguments", ["search", name])
        again = shlex.join(["quantsam", *arguments, "--out", f"{record.model}-{cost}"])
        kept = "" if results is None else "; layers that the store holds are not measured again"
        click.echo(f"\nno scheme was written: `{again}` does it{kept}")
    if results is not None:
        lists = command_line("quantsam results --kind search", results)
        click.echo(f"\nkept in {results.path}: {lists} lists it")


def _check_out(out: Path) -> None:
    """Make sure that a search may write a folder, and that replacing an older one deletes nothing of the user's."""
    from quantsam.files import check_holds_only, check_replaceable

    check_replaceable(out, _INDEX)
    try:
        entries = json.loads((out / _INDEX).read_text("utf-8"))["settings"]["entries"]
        ours = {_INDEX, *(f"{entry['name']}.toml" for entry in entries)}
    except (OSError, ValueError, LookupError, TypeError):
        ours = {_INDEX}
    check_holds_only(out, ours, "schemes")


def _write(out: Path, record: Record, palette: Palette) -> None:
    from quantsam.files import atomic_folder
    from quantsam.results.search import FOUND, entries_of
    from quantsam.schemes.write import scheme_to_toml

    _check_out(out)
    with atomic_folder(out, replaces=_INDEX) as folder:
        for entry in entries_of(record):
            if entry.origin == FOUND:
                choice = tuple(palette.formats.index(name) for name in entry.formats)
                text = scheme_to_toml(palette.scheme(choice, entry.name))
                (folder / f"{entry.name}.toml").write_text(text, "utf-8")
        (folder / _INDEX).write_text(json.dumps(record.to_json_dict(), indent=1), "utf-8")


def _an_entry(record: Record) -> str:
    """Return the file's name of the chosen scheme if it was found by this search, else of any that was."""
    from quantsam.results.search import FOUND, entries_of

    names = [entry.name for entry in entries_of(record) if entry.origin == FOUND]
    chosen = record.scheme if record.scheme in names else names[0] if names else "NAME"
    return f"{chosen}.toml"


def _report(record: Record) -> None:
    from quantsam.results.search import dominating, entries_of

    entries = entries_of(record)
    unit = record.settings["unit"]
    seen, unseen = record.settings["searched_pictures"], record.settings["held_out_pictures"]
    title = f"{record.model} on {record.dataset}: {seen} pictures searched, {unseen} held out"
    columns = ["scheme", "role", f">{record.settings['cost']}", ">of float", ">mask loss", ">mIoU drop"]
    columns += [">± SE", ">held out: mask loss", ">mIoU drop", ">± SE"]
    if record.engine != "pytorch":
        columns += [">on the engine", ">ms"]
    whole = float(record.figures["float_cost"] or 1)
    rows = [_cells(e, str(unit), whole, len(columns), record.scheme) for e in entries]
    print_table(title, columns, rows, spare=(">± SE", ">of float", ">mask loss"))
    click.echo(
        "\ndrop: points of mIoU lost against FP32, paired; mask loss: 100 less the mean IoU of the masks with FP32's"
    )
    for entry in entries:
        better = dominating(entry, entries) if entry.origin == "hand-made" else None
        if better is not None:
            click.echo(f"{better.name} loses no more than {entry.name}, at {better.cost / entry.cost:.0%} of its cost")
    if record.scheme != "front":
        click.echo(f"chosen: {record.scheme}")


def _cells(entry: SearchEntry, unit: str, whole: float, count: int, chosen: str) -> Sequence[object]:
    def points(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    mark = "chosen" if entry.name == chosen else "front" if entry.on_front else ""
    cells = [entry.name, mark, _amount(entry.cost, unit), f"{entry.cost / whole:.1%}"]
    cells += [points(v) for v in (entry.mask_loss, entry.drop, entry.drop_se)]
    cells += [points(v) for v in (entry.held_out_mask_loss, entry.held_out_drop, entry.held_out_drop_se)]
    return [*cells, points(entry.engine_drop), points(entry.measured_ms)][:count]


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e6:.3f} MB"
    return f"{value:.2f} ms" if unit == "ms" else f"{value / 1e9:.1f} G"
