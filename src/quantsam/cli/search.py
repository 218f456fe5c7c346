"""`quantsam search`: find a format for each layer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.groups import option_group
from quantsam.cli.options import (
    PLACEMENT,
    REPAIR,
    calibration_options,
    deployment_options,
    engine_option,
    model_argument,
    prompts_option,
    threads_option,
    use_threads,
    whole_data_options,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.cli.stores import StoreChoice, command_line, quoted, store_options, tell_kept
from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, ModelSource

if TYPE_CHECKING:
    from quantsam.results.record import JsonValue
    from quantsam.results.search_record import SearchEntry, SearchRecord
    from quantsam.search.palette import Palette
    from quantsam.search.settings import SearchSettings

_INDEX = "front.json"


def _settings(given: Mapping[str, Any]) -> SearchSettings:
    from quantsam.search.settings import SearchSettings

    return SearchSettings(**{f.name: given[f.name] for f in fields(SearchSettings) if f.name in given})


settings_options = option_group(
    "settings",
    _settings,
    click.option(
        "--cost", default="size", show_default=True, help="Cost to keep small: size, bit-operations or latency."
    ),
    click.option("--budget", help="Highest cost: 40% (of float), 1.5MB, 12ms or 90G. [the whole front]"),
    click.option("--max-drop", type=float, help="Instead of --budget: largest loss in points of mIoU."),
    prompts_option,
    click.option("--first", default=8, show_default=True, help="Images for measuring each layer alone."),
    click.option("--images", default=32, show_default=True, help="Images for measuring schemes."),
    click.option("--held-out", default=64, show_default=True, help="Further images for confirming the results."),
    click.option("--points", default=10, show_default=True, help="Number of schemes to keep from the front."),
    click.option(
        "--trials", type=click.IntRange(min=0), help="Number of schemes that Optuna may try. [48 if installed]"
    ),
)
"""Add --cost to --trials: `settings`, a `SearchSettings`. Needs --engine, --seed."""


@click.command(name="search")
@model_argument
@click.option("--formats", help="Formats to choose from. [float,w8a16,int8,w4a8; with --engine: float,int8]")
@settings_options
@deployment_options(
    engine_option("Place tensors as this engine does, and confirm on it; --cost latency needs one.", None),
    PLACEMENT,
    REPAIR,
)
@whole_data_options
@calibration_options
@threads_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the schemes (TOML) and front.json.")
@store_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: ModelSource,
    formats: str | None,
    settings: SearchSettings,
    deployment: Deployment,
    data: DataSource,
    calibration: CalibrationSource,
    threads: int | None,
    out: Path | None,
    store: StoreChoice,
    as_json: bool,
) -> None:
    """Find a format for each layer of MODEL: the most accurate scheme within a budget, or the smallest within a loss.

    quantsam search nano --budget 30% --out found, then quantsam evaluate --scheme found/nano-size-03.toml
    """
    from quantsam.runs.run import open_run
    from quantsam.search import palette as palettes
    from quantsam.search.schemes import search_schemes
    from quantsam.search.settings import check_settings

    use_threads(threads)
    check_settings(settings)
    usual = "float,int8" if settings.engine else "float,w8a16,int8,w4a8"
    names = (formats or usual).lower().replace(" ", "").split(",")
    palettes.check_choice(names)
    palettes.check_repairs(deployment.repairs or ())
    if out is not None:
        _check_out(out)
    results = store.open()
    run = open_run(
        model, schemes=palettes.format_schemes(names), deployments=[deployment], calibration=calibration, data=data
    )
    run.check_formats(deployment)
    palette = palettes.make_palette(
        run.model,
        names,
        run.calibration or (),
        placement=deployment.placed,
        repairs=deployment.repairs or (),
        progress=progress("calibrating"),
    )
    notes: dict[str, JsonValue] = {"calibration_images": calibration.images}
    notes |= {"repairs": list(palette.repairs)} if palette.repairs else {}
    record = search_schemes(
        run.model,
        palette,
        run.dataset_to_score(),
        settings,
        store=results,
        progress=progress,
        notes=notes,
        workers=threads,
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
        arguments = (ctx.obj or {}).get("arguments", ["search", model.name])
        again = shlex.join(["quantsam", *arguments, "--out", f"{record.model}-{settings.cost}"])
        kept = "" if results is None else "; layers that the store holds are not measured again"
        click.echo(f"\nno scheme was written: `{again}` does it{kept}")
    tell_kept(results, ("quantsam results --kind search", "lists it"))


def _check_out(out: Path) -> None:
    """Check that a search may write a folder, and that replacing an older one deletes none of the user's files."""
    from quantsam.files import check_holds_only, check_replaceable
    from quantsam.results.kinds import in_current_form

    check_replaceable(out, _INDEX)
    try:
        entries = in_current_form(json.loads((out / _INDEX).read_text("utf-8")))["results"]["entries"]
        ours = {_INDEX, *(f"{entry['name']}.toml" for entry in entries)}
    except (OSError, ValueError, LookupError, TypeError):
        ours = {_INDEX}
    check_holds_only(out, ours, "schemes")


def _write(out: Path, record: SearchRecord, palette: Palette) -> None:
    from quantsam.files import atomic_folder
    from quantsam.results.search_record import FOUND
    from quantsam.schemes.write import scheme_to_toml

    _check_out(out)
    with atomic_folder(out, replaces=_INDEX) as folder:
        for entry in record.entries:
            if entry.origin == FOUND:
                choice = tuple(palette.formats.index(name) for name in entry.formats)
                text = scheme_to_toml(palette.scheme(choice, entry.name))
                (folder / f"{entry.name}.toml").write_text(text, "utf-8")
        (folder / _INDEX).write_text(json.dumps(record.to_json_dict(), indent=1), "utf-8")


def _an_entry(record: SearchRecord) -> str:
    """Return the file name of the chosen scheme if this search found it, or else of any scheme that it found."""
    from quantsam.results.search_record import FOUND

    names = [entry.name for entry in record.entries if entry.origin == FOUND]
    chosen = record.scheme if record.scheme in names else names[0] if names else "NAME"
    return f"{chosen}.toml"


def _report(record: SearchRecord) -> None:
    from quantsam.results.search_record import dominating

    entries = record.entries
    unit = record.settings["unit"]
    seen, unseen = record.settings["searched_pictures"], record.settings["held_out_pictures"]
    title = f"{record.model} on {record.dataset}: {seen} images searched, {unseen} held out"
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
    slow = _slower_than_float(entries)
    if slow:
        click.echo(f"no faster than float on {record.engine}, whatever it saves in bytes: {', '.join(slow)}")
    if record.scheme is not None:
        click.echo(f"chosen: {record.scheme}")


def _slower_than_float(entries: Sequence[SearchEntry]) -> list[str]:
    """Return the schemes that an engine runs no faster than its FP32."""
    whole = next((entry.measured_ms for entry in entries if entry.name == "fp32"), None)
    timed = [entry for entry in entries if entry.measured_ms is not None and entry.name != "fp32"]
    return [] if whole is None else [entry.name for entry in timed if (entry.measured_ms or 0.0) >= whole]


def _cells(entry: SearchEntry, unit: str, whole: float, count: int, chosen: str | None) -> Sequence[object]:
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
