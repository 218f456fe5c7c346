"""Tasks: results that can be compared, on the same data, with the same prompts, against FP32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantsam.errors import InputError, StoreError
from quantsam.metrics.summary import ObjectScore, compare_paired
from quantsam.results.kept import find_baseline, is_float
from quantsam.results.object_names import ObjectNames
from quantsam.results.record import Record
from quantsam.results.search_record import pareto
from quantsam.results.store import ResultStore

SIMULATED, PYTORCH, LATENCY = "simulated", "PyTorch", "latency"
_MOST_PAIRED = 60
_SPOILT = 0.1  # loss of IoU
Latencies = Mapping[tuple[str, str, str], tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluated scheme.

    Attributes:
        record: The record.
        label: Name of the scheme, with what distinguishes it from others of the same name.
        way: What computed: `simulated`, `PyTorch` for its FP32, or an engine's name.
        score: Mean IoU or average precision, in percent.
        change: Points gained against FP32 of the same engine, or else PyTorch's; None for FP32, or without FP32.
        change_se: Standard error of `change` over the same objects; None if objects were not kept.
        spoilt_percent: Objects that lose 10 points of IoU or more, in percent; None if objects were not kept.
        size_mib: Size of the encoder in MiB.
        size_percent: Size in percent of FP32's.
        encoder_ms: Time of the encoder for one image, on an engine or in FP32; None for a simulation.
        timed_on: Machine, threads and device of `encoder_ms`: compare only times with equal values.
        on_front: Whether no other result of the task is both smaller and better.
    """

    record: Record
    label: str
    way: str
    score: float
    change: float | None = None
    change_se: float | None = None
    spoilt_percent: float | None = None
    size_mib: float | None = None
    size_percent: float | None = None
    encoder_ms: float | None = None
    timed_on: str = ""
    on_front: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the result is FP32: nothing is quantized, and nothing has fewer than 32 bits."""
        return is_float(self.record)

    @property
    def where(self) -> str:
        """What computed, as part of a sentence."""
        return self.way if self.way == SIMULATED else f"on {self.way}"


@dataclass(frozen=True, slots=True)
class Task:
    """Results to be compared.

    Attributes:
        dataset: Name of the data.
        prompt: Kind of prompt.
        detector: Name of the detections, if they were the prompts.
        metric: `mIoU` or `AP`.
        results: FP32 first, then simulated ones, then each engine's; each from the smallest to the largest.
        names: Names of objects and images, as far as the store knows them.
    """

    dataset: str
    prompt: str
    detector: str
    metric: str
    results: tuple[Result, ...]
    names: ObjectNames = field(default_factory=ObjectNames)

    @property
    def name(self) -> str:
        """The task's data and prompts."""
        asked = f"boxes of {self.detector or 'a detector'}" if self.prompt == "detections" else f"{self.prompt} prompts"
        return f"{self.dataset}, {asked}"

    @property
    def baseline(self) -> Result | None:
        """FP32's result; PyTorch's if there are several."""
        floats = [r for r in self.results if r.is_float]
        return min(floats, key=lambda r: r.way != PYTORCH, default=None)


def group_tasks(records: Iterable[Record]) -> list[list[Record]]:
    """Return evaluations in groups that can be compared, the largest first."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record.kind == "evaluate" and metric_of(record) is not None:
            detections = record.settings.get("detections_digest")
            key = (record.dataset, record.dataset_digest, record.prompt, detections, metric_of(record))
            groups.setdefault(key, []).append(record)
    return sorted(groups.values(), key=len, reverse=True)


def make_task(store: ResultStore, records: Sequence[Record], latencies: Latencies) -> Task:
    """Return a group's results, compared with FP32.

    Raises:
        StoreError: Scores are damaged.
    """
    first = records[0]
    metric = metric_of(first)
    assert metric is not None, "a group of evaluations"
    results = [_result(record, metric, latencies) for record in records]
    results = _with_changes(store, _labelled(results), metric)
    sized = [r for r in results if r.size_mib is not None]
    front = {sized[i].record.id for i in pareto([(r.size_mib or 0.0, -r.score) for r in sized])}
    results = [dataclasses.replace(r, on_front=r.record.id in front) for r in results]
    results.sort(key=lambda r: (not r.is_float, r.way not in (SIMULATED, PYTORCH), r.way, r.size_mib or 0.0, r.label))
    detector = str(first.settings.get("detections") or "")
    names = store.names(first.dataset_digest) or ObjectNames()
    shown = "mIoU" if metric == "miou" else "AP"
    return Task(str(first.dataset), str(first.prompt), detector, shown, tuple(results), names)


def metric_of(record: Record) -> str | None:
    """Return the figure by which a record's scheme is compared with others."""
    return next((name for name in ("miou", "ap") if record.figures.get(name) is not None), None)


def latencies_of(records: Iterable[Record]) -> Latencies:
    """Return the newest measured times of single images by engine, scheme and placement, with the machine."""
    return {
        _way(r): (r.times["encoder_ms_median"], _timed_on(r))
        for r in records
        if r.kind == LATENCY and r.settings.get("batch", 1) == 1 and "encoder_ms_median" in r.times
    }


def _way(record: Record) -> tuple[str, str, str]:
    """Return engine, scheme and placement. The placement makes no difference for PyTorch, so it is left out there."""
    return record.engine, record.label, "" if record.engine == "pytorch" else record.placement or ""


def _timed_on(record: Record) -> str:
    device = record.settings.get("device", "cpu")
    place = record.environment.get("cpu", "an unnamed processor") if device == "cpu" else str(device)
    return f"{place}, {record.settings.get('threads', '?')} threads"


def _result(record: Record, metric: str, latencies: Latencies) -> Result:
    score, size, whole = (record.figures.get(name) for name in (metric, "size_bytes", "fp32_bytes"))
    assert score is not None, "a group of evaluations"
    measured = latencies.get(_way(record), (record.times.get("encoder_ms_median"), _timed_on(record)))
    simulated = record.engine == "pytorch" and not is_float(record)
    return Result(
        record=record,
        label=record.label,
        way=SIMULATED if simulated else PYTORCH if record.engine == "pytorch" else record.engine,
        score=score,
        size_mib=None if size is None else size / 2**20,
        size_percent=None if size is None or not whole else 100 * size / whole,
        encoder_ms=None if simulated else measured[0],
        timed_on=measured[1],
    )


def _labelled(results: list[Result]) -> list[Result]:
    """Distinguish results of the same name: by placement, by calibration data, or else by id."""
    tells: tuple[Callable[[Record], str | None], ...] = (
        lambda r: r.placement,
        lambda r: r.calibration,
        lambda r: r.id[:8],
    )
    for tell in tells:
        names = [(r.label, r.way) for r in results]
        values: dict[tuple[str, str], set[str | None]] = {}
        for result, name in zip(results, names, strict=True):
            values.setdefault(name, set()).add(tell(result.record))
        results = [
            dataclasses.replace(r, label=f"{r.label} · {tell(r.record)}") if len(values[name]) > 1 else r
            for r, name in zip(results, names, strict=True)
        ]
    return results


def _with_changes(store: ResultStore, results: list[Result], metric: str) -> list[Result]:
    """Compare each result with FP32; the newest results object by object."""
    floats = {r.way: r for r in results if r.is_float}
    fallback = floats.get(PYTORCH) or next(iter(floats.values()), None)
    if fallback is None:  # a filter of the report may have left it out
        other = find_baseline(store, results[0].record)
        if other is None or metric_of(other) != metric:
            return results
        fallback = _result(other, metric, {})
        floats = {fallback.way: fallback}
    scores = {way: store.scores(r.record.id) for way, r in floats.items()}
    newest = {r.record.id for r in results[-_MOST_PAIRED:]}
    compared = []
    for result in results:
        whole = floats.get(result.way, fallback)
        if not result.is_float:
            result = dataclasses.replace(result, change=result.score - whole.score)
            mine = store.scores(result.record.id) if result.record.id in newest and scores[whole.way] else []
            if mine:
                result = _paired(result, scores[whole.way], mine)
        compared.append(result)
    return compared


def _paired(result: Result, before: Sequence[ObjectScore], after: Sequence[ObjectScore]) -> Result:
    try:
        found = compare_paired(before, after)
    except InputError as problem:
        raise StoreError(f"scores of record {result.record.id} are damaged: {problem}") from problem
    ious = {score.annotation_id: score.iou for score in before}
    spoilt = sum(ious[score.annotation_id] - score.iou >= _SPOILT for score in after)
    return dataclasses.replace(
        result,
        change=found.mean_difference,
        change_se=found.standard_error,
        spoilt_percent=100 * spoilt / len(after),
    )
