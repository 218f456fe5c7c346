"""What the figures say, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from quantsam.report.content import Result, Subject, Task
from quantsam.results.distributions import distributions_of
from quantsam.results.sensitivity import rows_of

Tone = Literal["good", "slight", "bad", "plain"]
_UNNOTICED, _SLIGHT, _PROMISED = 0.3, 1.0, 0.3  # points


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, and whether it is good news."""

    tone: Tone
    text: str


_LOSSES = (
    (_SLIGHT, Finding("slight", "a slight loss")),
    (5.0, Finding("slight", "a clear loss")),
    (20.0, Finding("bad", "a severe loss")),
)
"""What a loss of less than so many points is called."""


def verdict(change: float, error: float | None) -> Finding:
    """Say in a few words what a change in points means.

    >>> verdict(-0.1, 0.02).text, verdict(-12.0, 0.3).text
    ('no loss to speak of', 'a severe loss')
    """
    if abs(change) <= max(_UNNOTICED, 1.96 * (error or 0.0)):
        return Finding("good", "no loss to speak of")
    if change > 0:
        return Finding("good", "a gain")
    return next((said for limit, said in _LOSSES if -change < limit), Finding("bad", "a collapse"))


def points(change: float, error: float | None) -> str:
    """Write a change with its standard error."""
    return f"{change:+.2f}" if error is None else f"{change:+.2f} ± {error:.2f}"


def findings(subject: Subject) -> list[Finding]:
    """Return what there is to say of a model, the most important first."""
    found = [finding for task in subject.tasks[:1] for finding in _of_task(task)]
    return [*found, *_of_engines(subject), *_of_studies(subject), *_of_distributions(subject)]


def _of_task(task: Task) -> Iterator[Finding]:
    whole = task.baseline
    quantized = [r for r in task.results if not r.is_float]
    if whole is not None:
        count = whole.record.figures.get("count")
        over = f" over {count:,} objects" if count else ""
        size = "" if whole.size_mib is None else f"; its encoder takes {whole.size_mib:.3g} MiB"
        yield Finding("plain", f"Unquantized (FP32), the model reaches {whole.score:.1f} % {task.metric}{over}{size}.")
    uniform = next((r for r in quantized if r.record.scheme == "int8"), None)
    if uniform is not None and uniform.change is not None:
        yield _of_result("INT8 everywhere", uniform, task)
    kept = [r for r in quantized if r.change is not None and r.size_percent is not None]
    safe = [r for r in kept if verdict(r.change or 0.0, r.change_se).tone == "good" or -(r.change or 0.0) < _SLIGHT]
    best = min(safe, key=lambda r: (r.size_percent or 0.0, r.change or 0.0), default=None)
    if best is not None and (uniform is None or best.record.scheme != "int8"):
        yield _of_result(f"The smallest scheme that loses less than {_SLIGHT:g} point, {best.label}", best, task)
    elif best is None and kept:
        nearest = max(kept, key=lambda r: r.change or 0.0)
        yield _of_result(f"No scheme here keeps within {_SLIGHT:g} point; the nearest, {nearest.label}", nearest, task)


def _of_result(name: str, result: Result, task: Task) -> Finding:
    change = result.change or 0.0
    said = verdict(change, result.change_se)
    size = "" if result.size_percent is None else f" in {result.size_percent:.0f} % of the bytes"
    text = f"{name}: {result.score:.1f} % {task.metric}{size}, {said.text} ({points(change, result.change_se)} points)."
    return Finding(said.tone, text)


def _of_engines(subject: Subject) -> Iterator[Finding]:
    gaps = [(abs(gap), r) for r in subject.agreements if (gap := r.figures.get("gap")) is not None]
    if gaps:
        gap, record = max(gaps, key=lambda pair: pair[0])
        error = record.figures.get("gap_standard_error") or 0.0
        kept = gap <= max(_PROMISED, 1.96 * error)
        engines = " and ".join(sorted({r.engine for _, r in gaps}))
        text = (
            "Run in integers on {}, the model gives {} the simulation promised: the largest gap is {:.2f} points ({})."
        )
        said = "what" if kept else "not what"
        yield Finding("good" if kept else "bad", text.format(engines, said, gap, f"{record.label} on {record.engine}"))
    for task in subject.tasks[:1]:
        yield from _of_speed(task)


def _of_speed(task: Task) -> Iterator[Finding]:
    floats = {r.way: r.encoder_ms for r in task.results if r.is_float and r.encoder_ms}
    fast = [r for r in task.results if not r.is_float and r.encoder_ms and r.way in floats]
    if fast:
        best = max(fast, key=lambda r: (floats[r.way] or 0.0) / (r.encoder_ms or 1.0))
        before, after = floats[best.way] or 0.0, best.encoder_ms or 1.0
        text = f"On {best.way}, {best.label}'s encoder takes {after:.1f} ms a picture, FP32's {before:.1f} ms: "
        yield Finding("good" if before > after else "slight", f"{text}{before / after:.1f} times as fast.")


def _of_studies(subject: Subject) -> Iterator[Finding]:
    for record in subject.studies[:1]:
        rows = [row for row in rows_of(record) if row.drop is not None]
        if rows and record.settings.get("mode") == "in":
            ranked = sorted(rows, key=lambda row: -(row.drop or 0.0))
            worst = ranked[0]
            by = record.settings.get("by", "layer")
            if verdict(-(worst.drop or 0.0), worst.drop_se).tone == "good":
                yield Finding("good", f"No {by} alone, quantized to {record.scheme}, costs anything to speak of.")
                continue
            named = ", ".join(f"{row.unit} ({row.kind}) {-(row.drop or 0.0):+.1f}" for row in ranked[:3])
            yield Finding("plain", f"Quantized alone to {record.scheme}, these {by}s cost most, in points: {named}.")


def _of_distributions(subject: Subject) -> Iterator[Finding]:
    for record in subject.distributions[:1]:
        sites = [s for s in distributions_of(record) if s.role == "activation" and s.outliers and s.outlier_ratio]
        if sites:
            worst = max(sites, key=lambda s: s.outlier_ratio or 0.0)
            channel = worst.outliers[0]
            yield Finding(
                "plain",
                f"The channel that stands out most, {channel.index} of {worst.site}, reaches {channel.ratio:.0f} times "
                "as far as the median channel: one grid for all leaves the others few codes.",
            )


def headline(subjects: Sequence[Subject]) -> str:
    """Name the models."""
    names = list(dict.fromkeys(subject.model for subject in subjects))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
