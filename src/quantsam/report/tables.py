"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantsam.report.content import SIMULATED, Result, Subject, Task
from quantsam.report.findings import Tone, points, verdict
from quantsam.results.distributions import SiteDistribution
from quantsam.results.record import Record
from quantsam.results.search import FOUND, SearchEntry, dominating, entries_of
from quantsam.results.sensitivity import rows_of

MOST_ROWS = 100


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
    columns: dict[str, Callable[[Result], str]] = {
        "scheme": lambda r: r.label,
        "computed by": lambda r: "PyTorch" if r.way == SIMULATED and r.is_float else r.way,
        f">{task.metric} %": lambda r: _number(r.score),
    }
    for size in ("small", "medium", "large"):
        key = f"{task.metric.lower()}_{size}"
        if any(r.record.figures.get(key) is not None for r in task.results):
            columns[f">{size}"] = lambda r, key=key: _number(r.record.figures.get(key))  # type: ignore[misc]
    columns |= {
        ">against FP32": lambda r: "" if r.change is None else points(r.change, r.change_se),
        ">encoder MiB": lambda r: _number(r.size_mib),
        ">of FP32": lambda r: _number(r.size_percent, ".0f", " %"),
        ">ms a picture": lambda r: _number(r.encoder_ms, ".1f"),
        "verdict": lambda r: _verdict(r)[1],
    }
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
    fill = task.results[0].record.figures.get("box_fill_miou")
    if fill is not None and task.prompt == "box":
        notes.append(f"For comparison: answering with the box itself, filled, would give {fill:.1f} %.")
    return Table(title, tuple(columns), rows, " ".join(notes))


def _verdict(result: Result) -> tuple[Tone, str]:
    if result.change is None:
        return "plain", "the yardstick" if result.is_float else ""
    said = verdict(result.change, result.change_se)
    return said.tone, said.text


def agreement_table(records: Sequence[Record]) -> Table:
    """Simulation and engine side by side."""
    columns = ("scheme", "engine", "prompt", "data", ">simulated", ">engine", ">gap", ">IoU of masks %", ">in integers")
    rows = []
    for record in records:
        f = record.figures
        cells = (record.label, record.engine, record.prompt, record.dataset, _number(f.get("miou_simulated")))
        gap, error = f.get("gap"), f.get("gap_standard_error")
        ran = f"{f.get('convolutions_integer')} of {f.get('convolutions_quantized')}"
        shown = "" if gap is None else points(gap, error)
        rows.append(TableRow((*cells, _number(f.get("miou")), shown, _number(f.get("mask_iou")), ran)))
    note = "In integers: convolutions that the engine really computed so, of those that the plan quantizes."
    return Table("Simulation and engine, mask by mask", columns, tuple(rows), note)


def study_table(record: Record) -> Table:
    """The rows of a study, the worst first."""
    columns = (
        str(record.settings.get("by", "layer")),
        "kind",
        ">mIoU lost",
        ">± SE",
        ">mask loss",
        ">SQNR dB",
        ">pictures",
    )
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
        for row in sorted(rows_of(record), key=lambda row: -row.damage)
    ]
    note = "Mask loss: 100 less the mean IoU of the masks with FP32's own."
    return Table(f"{record.scheme} on {record.dataset}, worst first", columns, tuple(rows), note)


def search_table(record: Record) -> Table:
    """What a search found, beside the hand-made schemes."""
    entries = entries_of(record)
    columns = ("scheme", "origin", ">encoder MB", ">mIoU lost", ">± SE", ">held out: lost", ">± SE", "")
    rows = []
    for entry in entries:
        numbers = (entry.drop, entry.drop_se, entry.held_out_drop, entry.held_out_drop_se)
        cells = (entry.name, entry.origin, f"{entry.size_bytes / 1e6:.2f}", *map(_number, numbers))
        rows.append(TableRow((*cells, _remark(entry, entries))))
    return Table(f"Search on {record.dataset}", columns, tuple(rows))


def _remark(entry: SearchEntry, entries: Sequence[SearchEntry]) -> str:
    if entry.origin == FOUND:
        return "on the front" if entry.on_front else ""
    better = dominating(entry, entries)
    return "" if better is None else f"{better.name} costs less and loses no more"


def distribution_table(sites: Sequence[SiteDistribution]) -> Table:
    """The sites whose channels differ most, with what their grids do to them."""
    columns = (
        "site",
        "kind",
        "format",
        ">range",
        ">grid",
        ">clipped",
        ">SQNR dB",
        ">outlier ratio",
        "outlier channels",
    )
    rows = [
        TableRow(
            (
                site.site,
                site.kind,
                f"{site.format or 'float'}{', per channel' if site.per_channel else ''}",
                _range(site.low, site.high),
                ""
                if site.grid_low is None or site.grid_high is None
                else f"{site.grid_low:.3g} … {site.grid_high:.3g}",
                "" if site.clipped is None else f"{100 * site.clipped:.2g} %",
                _number(site.sqnr_db, ".1f"),
                _number(site.outlier_ratio, ".1f"),
                ", ".join(f"{o.index} ({o.ratio:.0f} times)" for o in site.outliers[:3]),
            )
        )
        for site in sites
    ]
    note = (
        "Outlier ratio: how much further the widest channel reaches than the median; a doubling costs the others a bit."
    )
    return Table("Sites with the widest outlier channels", columns, tuple(rows), note)


def provenance_table(subject: Subject) -> Table:
    """What a repetition needs to know."""
    records = [r.record for task in subject.tasks for r in task.results]
    records += [*subject.agreements, *subject.studies, *subject.searches, *subject.distributions]
    seen: dict[tuple[str, ...], None] = {}
    for record in records:
        versions = [f"{k} {v}" for k, v in record.environment.items() if k in _VERSIONS and v != "not installed"]
        place = f"{record.environment.get('cpu', '')}, {record.environment.get('cpu_count', '?')} processors"
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
    return Table(f"Weights {subject.weights_digest[:16]}", columns, rows)


_VERSIONS = ("python", "quantsam", "torch", "numpy", "onnxruntime", "openvino", "tensorrt")


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_short(low)} … {_short(high)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _number(value: float | int | None, form: str = ".2f", unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
