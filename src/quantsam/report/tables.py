"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantsam.report.content import ModelResults
from quantsam.report.findings import Finding, Tone, points, smallest_that_holds, uniform_int8, verdict
from quantsam.report.tasks import Result, Task
from quantsam.results.agreement_record import AGREES, DIFFERS, MARGIN, UNDECIDED, AgreementRecord
from quantsam.results.differences import telling_columns
from quantsam.results.distribution_record import SiteDistribution
from quantsam.results.repair_record import RepairRecord
from quantsam.results.search_record import FOUND, SearchEntry, SearchRecord, dominating
from quantsam.results.sensitivity_record import SensitivityRecord
from quantsam.runtime.engines import ENGINES

MOST_ROWS = 100
_AGREEMENT_TONES: dict[str, Tone] = {AGREES: "good", DIFFERS: "bad", UNDECIDED: "plain"}


@dataclass(frozen=True, slots=True)
class TableRow:
    """Cells, the first of which names the row; and whether it is good news."""

    cells: tuple[str, ...]
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: What it shows.
        columns: Titles; those of numbers begin with `>`.
        rows: The rows.
        note: What must be said below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    note: str = ""


def results_table(task: Task) -> Table:
    """Schemes compared: accuracy by size of object, change against FP32, bytes and time."""
    seen = {r.record.id: (r.record.label, r.way) for r in task.results}
    telling = telling_columns([r.record for r in task.results], lambda record: seen[record.id])
    columns: dict[str, Callable[[Result], str]] = {
        "scheme": lambda r: r.record.label,
        "computed by": lambda r: r.way,
        **{title: lambda r, value=value: value(r.record) for title, value in telling.items()},  # type: ignore[misc]
        f">{task.metric} %": lambda r: _number(r.score),
        ">against FP32": lambda r: "" if r.change is None else points(r.change, r.change_se),
        "verdict": lambda r: _verdict(r)[1],
        ">lose 10 points": lambda r: _number(r.spoilt_percent, ".1f", " %"),
        ">of FP32": lambda r: _number(r.size_percent, ".0f", " %"),
        ">encoder MiB": lambda r: _number(r.size_mib),
        ">ms a picture": lambda r: _number(r.encoder_ms, ".1f"),
    }
    for size in ("small", "medium", "large"):
        key = f"{task.metric.lower()}_{size}"
        if any(r.record.figures.get(key) is not None for r in task.results):
            columns[f">{size}"] = lambda r, key=key: _number(r.record.figures.get(key))  # type: ignore[misc]
    if all(r.spoilt_percent is None for r in task.results):
        del columns[">lose 10 points"]
    if all(r.encoder_ms is None or r.is_float for r in task.results):
        del columns[">ms a picture"]
    shown = list(task.results)
    if len(shown) > MOST_ROWS:
        kept = {
            r.record.id
            for r in sorted(shown, key=lambda r: (r.is_float or r.on_front, r.record.created_utc))[-MOST_ROWS:]
        }
        shown = [r for r in shown if r.record.id in kept]
    rows = tuple(TableRow(tuple(cell(r) for cell in columns.values()), _verdict(r)[0]) for r in shown)
    count = task.results[0].record.figures.get("count")
    title = task.name if not count else f"{task.name}: {count:,} objects"
    hidden = len(task.results) - len(shown)
    notes = [f"{hidden} more are in the charts alone: the newest and the best are listed."] if hidden else []
    notes.append("± one standard error, over the same objects.")
    if ">lose 10 points" in columns:
        notes.append("Lose 10 points: objects whose IoU falls by that much or more.")
    fill = task.results[0].record.figures.get("box_fill_miou")
    if fill is not None and task.prompt == "box":
        notes.append(f"For comparison: answering with the box itself, filled, would give {fill:.1f} %.")
    return Table(title, tuple(columns), rows, " ".join(notes))


def _verdict(result: Result) -> tuple[Tone, str]:
    if result.change is None:
        return "plain", "the baseline" if result.is_float else ""
    said = verdict(result.change, result.change_se)
    return said.tone, said.text


def agreement_table(records: Sequence[AgreementRecord]) -> Table:
    """Simulation and engine side by side."""
    columns: dict[str, Callable[[AgreementRecord], str]] = {
        "scheme": lambda r: r.label,
        "engine": lambda r: r.engine,
        "prompt": lambda r: r.prompt or "",
        "data": lambda r: r.dataset or "",
        ">objects": lambda r: _number(r.figures.get("count"), ",.0f"),
        ">simulated": lambda r: _number(r.figures.get("miou_simulated")),
        ">engine": lambda r: _number(r.figures.get("miou")),
        ">gap": lambda r: points(r.figures.get("gap") or 0.0, r.figures.get("gap_standard_error")),
        ">IoU of masks %": lambda r: _number(r.figures.get("mask_iou")),
        "verdict": lambda r: str(r.verdict.answer),
        ">in integers": lambda r: _of(r.figures.get("convolutions_integer"), r.figures.get("convolutions_quantized")),
    }
    compared = [record for record in records if record.figures.get("gap") is not None]
    rows = tuple(
        TableRow(tuple(cell(r) for cell in columns.values()), _AGREEMENT_TONES[r.verdict.answer]) for r in compared
    )
    note = "Each engine beside a simulation that rounds where it does, so simulations differ too. Gap: ± one standard "
    note += f"error. Agrees: the whole 95 % interval within {MARGIN:g} points, and masks as alike as the noise of "
    note += "rounding lets them be; judged by the simulation in exact integers where there is one. In integers: "
    note += "convolutions that the engine really computed so, of those that the plan quantizes."
    return Table("Simulation and engine, mask by mask", tuple(columns), rows, note)


def _of(part: float | int | None, whole: float | int | None) -> str:
    return "" if part is None or whole is None else f"{part} of {whole}"


def study_table(record: SensitivityRecord) -> Table:
    """The rows of a study, the worst first."""
    by = str(record.settings.get("by", "layer"))
    columns = (by, "kind", ">mIoU lost", ">± SE", ">mask loss", ">SQNR dB", ">pictures")
    rows = [
        TableRow(
            (
                row.name,
                row.kind,
                _number(row.drop),
                _number(row.drop_se),
                _number(row.mask_loss),
                _number(row.sqnr_db, ".1f"),
                str(row.images),
            )
        )
        for row in record.worst_first
    ]
    note = "Ordered by mask loss, 100 less the mean IoU of the masks with FP32's own, which is less noisy than mIoU."
    if record.settings.get("method") == "race":
        note += f" A race: a {by} is measured on more pictures while its rank is undecided."
    return Table(f"{record.label} on {record.dataset}, by mask loss", columns, tuple(rows), note)


def repair_table(record: RepairRecord) -> Table:
    """What each repair gave and cost."""
    columns = ["tried", "kept", ">mask loss", ">± SE", ">gain", ">± SE", ">encoder MiB"]
    first, timed = record.steps[0].encoder_ms, all(step.encoder_ms for step in record.steps)
    columns += [">ms", ">of unrepaired"] if timed else []
    rows = []
    for step in record.steps:
        numbers = map(_number, (step.mask_loss, step.mask_loss_se, step.gain, step.gain_se))
        cells = [step.name, "yes" if step.kept else "", *numbers, f"{step.size_bytes / 2**20:.2f}"]
        if timed and step.encoder_ms and first:
            cells += [_number(step.encoder_ms, ".1f"), f"{step.encoder_ms / first:.2f}"]
        rows.append(TableRow(tuple(cells), "good" if step.kept and step.gain is not None else "plain"))
    note = "Mask loss: 100 less the mean IoU of the masks with FP32's own, on calibration images that were held out. "
    note += "Gain: paired by image with what was kept before."
    return Table(f"Repairs of {record.scheme}, placed as {record.placement} does", tuple(columns), tuple(rows), note)


def search_table(record: SearchRecord) -> Table:
    """What a search found, beside the hand-made schemes."""
    entries = record.entries
    columns = ("scheme", "origin", ">encoder MiB", ">mIoU lost", ">± SE", ">held out: lost", ">± SE", "")
    rows = []
    for entry in entries:
        numbers = (entry.drop, entry.drop_se, entry.held_out_drop, entry.held_out_drop_se)
        cells = (entry.name, entry.origin, f"{entry.size_bytes / 2**20:.2f}", *map(_number, numbers))
        rows.append(TableRow((*cells, _remark(entry, entries))))
    return Table(f"Search on {record.dataset}", columns, tuple(rows))


def _remark(entry: SearchEntry, entries: Sequence[SearchEntry]) -> str:
    if entry.origin == FOUND:
        return "on the front" if entry.on_front else ""
    better = dominating(entry, entries)
    return "" if better is None else f"{better.name} costs less and loses no more"


def distribution_table(sites: Sequence[SiteDistribution], most: int) -> Table:
    """The sites whose channels differ most, with what their grids do to them; one tensor is listed once.

    Args:
        sites: Ranked.
        most: How many tensors to list.
    """
    columns = ("site", "kind", "format", ">range", ">grid", ">clipped", ">SQNR dB", ">outlier ratio", "channels")
    same: dict[tuple[object, ...], list[SiteDistribution]] = {}
    for site in sites:  # what a layer gives is what the next one takes in
        same.setdefault((site.values, site.low, site.high, site.outliers), []).append(site)
    rows = [_distribution_row(together) for together in list(same.values())[:most]]
    note = "Outlier ratio: how much further the widest channel reaches than the median one; each doubling costs the "
    note += "other channels one bit of resolution. Channels: the widest ones, each with its ratio."
    return Table("Sites with the widest outlier channels", columns, tuple(rows), note)


def _distribution_row(together: Sequence[SiteDistribution]) -> TableRow:
    site = together[0]
    return TableRow(
        (
            " = ".join(s.site for s in together),
            site.kind,
            f"{site.format or 'float'}{', per channel' if site.per_channel else ''}",
            _range(site.low, site.high),
            _range(site.grid_low, site.grid_high),
            "" if site.clipped is None else f"{100 * site.clipped:.2g} %",
            _number(site.sqnr_db, ".1f"),
            _number(site.outlier_ratio, ".1f"),
            ", ".join(f"{o.index} ({o.ratio:.0f}x)" for o in site.outliers[:3]),
        )
    )


def overview_table(models: Sequence[ModelResults]) -> Table | None:
    """The models beside one another, by their first comparison; None for a single one."""
    rows = []
    for model in models:
        for task in model.tasks[:1]:
            whole, int8 = task.baseline, uniform_int8(task)
            best = smallest_that_holds(task)
            said = Finding("plain", "") if int8 is None else verdict(int8.change or 0.0, int8.change_se)
            cells = (
                model.model,
                "" if whole is None else f"{whole.score:.1f} %",
                "" if int8 is None else f"{int8.score:.1f} %",
                "" if int8 is None else points(int8.change or 0.0, int8.change_se),
                said.text,
                "none" if best is None else f"{best.label} ({best.size_percent:.0f} % of FP32)",
                task.name,
            )
            rows.append(TableRow(cells, said.tone))
    columns = ("model", ">FP32", ">INT8", ">change", "verdict", "smallest that loses less than a point", "data")
    return Table("At a glance", columns, tuple(rows)) if len(rows) > 1 else None


def provenance_table(model: ModelResults) -> Table:
    """What a repetition needs to know."""
    seen: dict[tuple[str, ...], None] = {}
    for record in model.records:
        versions = [f"{k} {v}" for k, v in record.environment.items() if k in _VERSIONS and v != "not installed"]
        place = f"{record.environment.get('cpu', '')}, {record.environment.get('cpu_count', '?')} processors"
        place += f", {sets}" if (sets := record.environment.get("instruction_sets")) else ""
        seen[
            record.kind,
            record.placement or "",
            record.calibration or "",
            place,
            ", ".join(versions),
            record.created_utc[:10],
        ] = None
    columns = ("what", "placement", "calibrated on", "machine", "versions", "day (UTC)")
    rows = tuple(TableRow(cells) for cells in list(seen)[:MOST_ROWS])
    return Table(f"Weights {model.weights_digest[:16]}", columns, rows)


_VERSIONS = ("python", "quantsam", "torch", "numpy", *ENGINES)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_short(low)} … {_short(high)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _number(value: float | int | None, form: str = ".2f", unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
