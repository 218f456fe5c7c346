"""Findings: what the figures say, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from quantsam.metrics.summary import CONFIDENCE_95
from quantsam.report.content import ModelResults
from quantsam.report.tasks import Result, Task
from quantsam.results.agreement_record import DIFFERS, MARGIN, UNDECIDED, AgreementRecord
from quantsam.results.record import Record
from quantsam.results.repair_record import RepairRecord
from quantsam.results.sensitivity_record import SensitivityRecord

Tone = Literal["good", "slight", "bad", "plain"]
_UNNOTICED, _HELD = 0.3, 1.0  # points
_STANDS_OUT = 4.0  # times the range of the median channel: the other channels lose two bits


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, and its tone: good or bad news."""

    tone: Tone
    text: str


_LOSSES = (
    (_HELD, Finding("slight", "a slight loss")),
    (5.0, Finding("slight", "a clear loss")),
    (20.0, Finding("bad", "a severe loss")),
)
"""What a loss of less than so many points is called."""


def verdict(change: float, error: float | None) -> Finding:
    """Return in a few words what a change in points means.

    "No loss to speak of" has two conditions. The change is at most 0.3 points or may be chance, and the loss is surely
    at most one point. So few objects do not make a scheme good.

    >>> verdict(-0.1, 0.02).text, verdict(-12.0, 0.3).text, verdict(-10.0, 9.0).text
    ('no loss to speak of', 'a severe loss', 'too few objects to tell')
    """
    within = CONFIDENCE_95 * (error or 0.0)
    if change > _UNNOTICED and change > within:
        return Finding("good", "a gain")
    if abs(change) <= max(_UNNOTICED, within):
        held = largest_loss(change, error) <= _HELD
        return Finding("good", "no loss to speak of") if held else Finding("plain", "too few objects to tell")
    return next((said for limit, said in _LOSSES if -change < limit), Finding("bad", "a collapse"))


def largest_loss(change: float, error: float | None) -> float:
    """Return the upper end of the 95 % interval of a loss, in points."""
    return CONFIDENCE_95 * (error or 0.0) - change


def points(change: float, error: float | None) -> str:
    """Return a change with its standard error as text."""
    return f"{change:+.2f}" if error is None else f"{change:+.2f} ± {error:.2f}"


def smallest_that_holds(task: Task) -> Result | None:
    """Return the smallest quantized result that surely loses at most a point; None if none does."""
    held = [
        r
        for r in task.results
        if r.change is not None and r.size_percent is not None and largest_loss(r.change, r.change_se) <= _HELD
    ]
    return min(held, key=lambda r: (r.size_percent or 0.0, -(r.change or 0.0)), default=None)


def findings(model: ModelResults) -> list[Finding]:
    """Return the findings for a model, the most important first."""
    found = [finding for task in model.tasks[:1] for finding in (*_of_task(task), *_of_speed(task))]
    found += [*_of_engines(model.agreements), *_of_repairs(model.repairs)]
    return [*found, *_of_studies(model.studies), *_of_distributions(model)]


def _of_task(task: Task) -> Iterator[Finding]:
    whole, uniform = task.baseline, uniform_int8(task)
    if whole is not None:
        count = whole.record.figures.get("count")
        over = f" over {count:,} objects" if count else ""
        size = "" if whole.size_mib is None else f"; its encoder takes {whole.size_mib:.3g} MiB"
        yield Finding("plain", f"Unquantized (FP32), the model reaches {whole.score:.1f} % {task.metric}{over}{size}.")
        fill = whole.record.figures.get("box_fill_miou")
        if task.prompt == "box" and fill is not None and whole.score < fill:
            text = f"Each box answered with itself, filled, would give {fill:.1f} %: FP32 is worse, so losses say"
            yield Finding("bad", f"{text} little.")
    if uniform is not None:
        yield _of_result(f"INT8 everywhere, {uniform.where}", uniform, task)
    best = smallest_that_holds(task)
    if best is not None and best is not uniform:
        yield _of_result(f"The smallest scheme that loses less than a point, {best.label}, {best.where}", best, task)
    changed = [r for r in task.results if r.change is not None]
    if best is None and changed:
        nearest = max(changed, key=lambda r: r.change or 0.0)
        yield _of_result(f"No scheme here surely loses less than a point; the nearest, {nearest.label}", nearest, task)


def uniform_int8(task: Task) -> Result | None:
    """Return the result with all weights and activations in INT8; the simulated one if there is one."""
    return next((r for r in task.results if r.record.label == "int8" and r.change is not None), None)


def _of_result(name: str, result: Result, task: Task) -> Finding:
    change = result.change or 0.0
    said = verdict(change, result.change_se)
    size = "" if result.size_percent is None else f" in {result.size_percent:.0f} % of the encoder's bytes"
    text = f"{name}: {result.score:.1f} % {task.metric}{size}, {said.text} ({points(change, result.change_se)} points)."
    return Finding(said.tone, text)


def _of_speed(task: Task) -> Iterator[Finding]:
    """Compare times of one engine, measured alike on one machine, and the fastest scheme with the fastest FP32."""
    floats = {(r.way, r.timed_on): r.encoder_ms for r in task.results if r.is_float and r.encoder_ms}
    fastest: dict[tuple[str, str], Result] = {}
    for result in task.results:
        key = (result.way, result.timed_on)
        if not result.is_float and result.encoder_ms and key in floats:
            fastest[key] = min(fastest.get(key, result), result, key=lambda r: r.encoder_ms or 0.0)
    if not fastest:
        return
    told = []
    for key, result in fastest.items():
        before, after = floats[key] or 0.0, result.encoder_ms or 1.0
        times = f"{result.label}: {before:.1f} to {after:.1f} ms"
        told.append(f"{before / after:.1f} times as fast on {result.way} ({times})")
    pays = min(r.encoder_ms or 0.0 for r in fastest.values()) < min(ms or 0.0 for ms in floats.values())
    text = f"The quantized encoder against FP32's, one image at a time: {', '.join(told)}."
    yield Finding("good" if pays else "slight", text)


def _of_engines(agreements: Sequence[AgreementRecord]) -> Iterator[Finding]:
    compared = [record for record in agreements if record.figures.get("gap") is not None]
    if not compared:
        return
    verdicts = [(record, record.verdict) for record in compared]
    failing = [(record, said) for record, said in verdicts if said.answer == DIFFERS]
    open_ones = [(record, said) for record, said in verdicts if said.answer == UNDECIDED]
    for record, said in failing[:3]:
        yield Finding("bad", f"{_compared(record)} does not agree with its simulation: {said.reason}.")
    if not failing and open_ones:
        record, said = open_ones[0]
        yield Finding("plain", f"{_compared(record)} beside its simulation: {said}.")
    elif not failing:
        engines = " and ".join(sorted({record.engine for record in compared}))
        text = f"{engines}: each agrees with its simulation, with 95 % confidence within {MARGIN:g} points of mIoU."
        yield Finding("good", text)
    for record in compared:
        planned, ran = (record.figures.get(f"convolutions_{what}") for what in ("quantized", "integer"))
        if planned is not None and ran is not None and ran < planned:
            text = f"{record.engine} computed {ran} of {record.label}'s {planned} quantized convolutions in integers."
            yield Finding("slight", text)


def _compared(record: Record) -> str:
    return f"{record.label} on {record.engine}, {record.prompt} prompts on {record.dataset},"


def _of_repairs(repairs: Sequence[RepairRecord]) -> Iterator[Finding]:
    for record in repairs[:1]:
        first, last = record.steps[0], record.last_kept
        if last == first:
            yield Finding("plain", f"No repair of {record.scheme} brings its masks nearer to FP32's.")
            continue
        lost = f"masks lose {last.mask_loss:.1f} points against FP32's, where they lost {first.mask_loss:.1f}"
        yield Finding("good", f"{record.scheme} repaired by {', '.join(last.repairs) or last.name}: {lost}.")


def _of_studies(studies: Sequence[SensitivityRecord]) -> Iterator[Finding]:
    for record in studies[:1]:
        rows = [row for row in record.rows if row.drop is not None]
        if not rows or record.settings.get("mode") != "in":
            continue
        by = record.settings.get("by", "layer")
        hurt = [r for r in rows if (r.drop or 0.0) > max(_UNNOTICED, CONFIDENCE_95 * (r.drop_se or 0.0))]
        if not hurt:
            yield Finding("good", f"No {by} quantized alone to {record.label} loses anything that shows.")
            continue
        ranked = sorted(hurt, key=lambda row: -(row.drop or 0.0))[:3]
        named = ", ".join(f"{row.name} ({row.kind}) {row.drop:.1f} ± {row.drop_se or 0.0:.1f}" for row in ranked)
        yield Finding("plain", f"Quantized alone to {record.label}, these {by}s lose most, in points: {named}.")


def _of_distributions(model: ModelResults) -> Iterator[Finding]:
    for record in model.distributions[:1]:
        sites = [
            site
            for site in record.sites
            if site.role == "activation" and site.format is not None and not site.per_channel and site.outliers
        ]
        worst = max(sites, key=lambda s: s.outlier_ratio or 0.0, default=None)
        if worst is not None and worst.outliers[0].ratio >= _STANDS_OUT:
            channel = worst.outliers[0]
            text = f"Channel {channel.index} of {worst.site} reaches {channel.ratio:.0f} times as far as the median "
            text += f"channel in {record.label}: one grid for all leaves few of its steps to the others."
            yield Finding("plain", text)


def headline(models: Sequence[ModelResults]) -> str:
    """Return a headline that names the models."""
    names = list(dict.fromkeys(model.model for model in models))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
