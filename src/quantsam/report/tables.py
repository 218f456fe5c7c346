"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantsam.report.content import ModelResults
from quantsam.report.findings import Finding, Tone, points, smallest_that_holds, uniform_int8, verdict
from quantsam.report.tasks import Result, Task
from quantsam.results.agreement_record import AGREES, DIFFERS, MARGIN, UNDECIDED, AgreementRecord
from quantsam.results.differences import telling_columns
from quantsam.runtime.engines import ENGINES

MOST_ROWS = 100
STANDARD_ERROR = "±: one standard error, over objects."
_AGREEMENT_TONES: dict[str, Tone] = {AGREES: "good", DIFFERS: "bad", UNDECIDED: "plain"}


@dataclass(frozen=True, slots=True)
class TableRow:
    """The cells of a row, and its tone: good or bad news. The first cell names the row."""

    cells: tuple[str, ...]
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: What the table shows.
        columns: Titles of the columns; titles of numbers begin with `>`.
        rows: The rows.
        note: Note below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    note: str = ""


def results_table(task: Task) -> Table:
    """Return a comparison of schemes: accuracy by object size, change against FP32, bytes and time."""
    seen = {r.record.id: (r.record.label, r.way) for r in task.results}
    telling = telling_columns([r.record for r in task.results], lambda record: seen[record.id])
    columns: dict[str, Callable[[Result], str]] = {
        "scheme": lambda r: r.record.label,
        "computed by": lambda r: r.way,
        **{title: lambda r, value=value: value(r.record) for title, value in telling.items()},  # type: ignore[misc]
        f">{task.metric} %": lambda r: number(r.score),
        ">against FP32": lambda r: "" if r.change is None else points(r.change, r.change_se),
        "verdict": lambda r: _verdict(r)[1],
        ">lose 10 points": lambda r: number(r.spoilt_percent, ".1f", " %"),
        ">of FP32": lambda r: number(r.size_percent, ".0f", " %"),
        ">encoder MiB": lambda r: number(r.size_mib),
        ">ms an image": lambda r: number(r.encoder_ms, ".1f"),
    }
    for size in ("small", "medium", "large"):
        key = f"{task.metric.lower()}_{size}"
        if any(r.record.figures.get(key) is not None for r in task.results):
            columns[f">{size}"] = lambda r, key=key: number(r.record.figures.get(key))  # type: ignore[misc]
    if all(r.spoilt_percent is None for r in task.results):
        del columns[">lose 10 points"]
    if all(r.encoder_ms is None or r.is_float for r in task.results):
        del columns[">ms an image"]
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
    notes.append(f"{STANDARD_ERROR} Changes are paired: over the same objects.")
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
    """Return simulations and engines side by side."""
    columns: dict[str, Callable[[AgreementRecord], str]] = {
        "scheme": lambda r: r.label,
        "engine": lambda r: r.engine,
        "prompt": lambda r: r.prompt or "",
        "data": lambda r: r.dataset or "",
        ">objects": lambda r: number(r.figures.get("count"), ",.0f"),
        ">simulated": lambda r: number(r.figures.get("miou_simulated")),
        ">engine": lambda r: number(r.figures.get("miou")),
        ">gap": lambda r: points(r.figures.get("gap") or 0.0, r.figures.get("gap_standard_error")),
        ">IoU of masks %": lambda r: number(r.figures.get("mask_iou")),
        "verdict": lambda r: str(r.verdict.answer),
        ">in integers": lambda r: _of(r.figures.get("convolutions_integer"), r.figures.get("convolutions_quantized")),
    }
    compared = [record for record in records if record.figures.get("gap") is not None]
    rows = tuple(
        TableRow(tuple(cell(r) for cell in columns.values()), _AGREEMENT_TONES[r.verdict.answer]) for r in compared
    )
    note = "Each engine beside a simulation that rounds where it does, so simulations differ too. Gap: paired. "
    note += f"{STANDARD_ERROR} Agrees: the whole 95 % interval within {MARGIN:g} points, and masks as alike as the "
    note += "noise of rounding lets them be; judged by the simulation in exact integers where there is one. "
    note += "In integers: convolutions that the engine really computed so, of those that the plan quantizes."
    return Table("Simulation and engine, mask by mask", tuple(columns), rows, note)


def _of(part: float | int | None, whole: float | int | None) -> str:
    return "" if part is None or whole is None else f"{part} of {whole}"


def overview_table(models: Sequence[ModelResults]) -> Table | None:
    """Return the models side by side, by their first comparison; None for a single model."""
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
    return Table("At a glance", columns, tuple(rows), STANDARD_ERROR) if len(rows) > 1 else None


def provenance_table(model: ModelResults) -> Table:
    """Return what is needed to repeat the measurements."""
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


def number(value: float | int | None, form: str = ".2f", unit: str = "") -> str:
    """Return a number as text; an empty text for None."""
    return "" if value is None else f"{value:{form}}{unit}"
