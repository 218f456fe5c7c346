"""From a store to what a report shows: models, what they were scored on, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from quantsam.errors import InputError, StoreError
from quantsam.metrics.summary import compare_paired
from quantsam.results.distributions import KIND as DISTRIBUTIONS
from quantsam.results.gallery import GalleryEntry
from quantsam.results.record import Record
from quantsam.results.search import KIND as SEARCH
from quantsam.results.search import pareto
from quantsam.results.sensitivity import KIND as SENSITIVITY
from quantsam.results.store import RecordFilter, ResultStore

FLOAT, SIMULATED, LATENCY = "fp32", "simulated", "latency"
MOST_RECORDS = 5000
_MOST_PAIRED, _MOST_PICTURED = 60, 12
MOST_MODELS, MOST_TASKS, MOST_STUDIES = 12, 12, 4


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluated scheme.

    Attributes:
        record: Its record.
        label: The scheme, with what tells it from others of the same name.
        way: What computed: `simulated` (PyTorch), or an engine's name.
        score: Mean IoU or average precision, in percent.
        change: Points gained against FP32 of the same way, or simulated; None for FP32, or without one.
        change_se: Standard error of that, over the same objects; None where objects were not kept.
        size_mib: Of the encoder.
        size_percent: Of FP32's.
        encoder_ms: Of one picture, on an engine or in FP32; a simulation's time says nothing.
        on_front: No other result of its task is smaller and better.
    """

    record: Record
    label: str
    way: str
    score: float
    change: float | None = None
    change_se: float | None = None
    size_mib: float | None = None
    size_percent: float | None = None
    encoder_ms: float | None = None
    on_front: bool = False

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.record.scheme == FLOAT


@dataclass(frozen=True, slots=True)
class Task:
    """Results on the same data with the same prompts, to be compared.

    Attributes:
        dataset: Name of the data.
        prompt: Kind of prompt.
        metric: `mIoU` or `AP`.
        results: FP32 first, then from the smallest to the largest.
    """

    dataset: str
    prompt: str
    metric: str
    results: tuple[Result, ...]

    @property
    def name(self) -> str:
        """What was asked of which data."""
        asked = "a detector's boxes" if self.prompt == "detections" else f"{self.prompt} prompts"
        return f"{self.dataset}, {asked}"

    @property
    def baseline(self) -> Result | None:
        """FP32's result, PyTorch's where there are several."""
        floats = [r for r in self.results if r.is_float]
        return min(floats, key=lambda r: r.way != SIMULATED, default=None)


@dataclass(slots=True)
class Subject:
    """All that is known of one model with one set of weights.

    Attributes:
        model: The variant's name.
        weights_digest: Of its weights.
        tasks: The one with the most results first.
        agreements: Records of kind `agree`.
        studies: Records of kind `sensitivity`, newest first.
        searches: Records of kind `search`, newest first.
        distributions: Records of kind `distributions`, newest first.
        galleries: By record id, worst objects first.
    """

    model: str
    weights_digest: str
    tasks: list[Task] = field(default_factory=list)
    agreements: list[Record] = field(default_factory=list)
    studies: list[Record] = field(default_factory=list)
    searches: list[Record] = field(default_factory=list)
    distributions: list[Record] = field(default_factory=list)
    galleries: dict[str, list[GalleryEntry]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Content:
    """All that a report shows.

    Attributes:
        store: Name of the store's file.
        subjects: In the order in which they were first measured.
        shown: How many records.
        total: How many the store has that pass the filters.
        left_out: What was left out to keep the report small, a sentence each.
        newest: The newest record, whose machine and versions are named.
    """

    store: str
    subjects: tuple[Subject, ...]
    shown: int
    total: int
    left_out: tuple[str, ...]
    newest: Record


def read_content(store: ResultStore, filters: RecordFilter | None = None) -> Content:
    """Read a store.

    Args:
        store: The store.
        filters: Which of its records.

    Raises:
        InputError: No record passes.
        StoreError: The store cannot be read, or a record or its pictures are damaged.
    """
    wanted = filters or {}
    records, total = store.newest(MOST_RECORDS, **wanted)
    if not records:
        rest = store.newest(1)[1] if wanted else 0
        way_out = f"leave out a filter ({rest} others are there)" if rest else "`quantsam evaluate` adds some"
        raise InputError(f"a report needs results, got none in {store.path}: {way_out}")
    left_out = []
    if len(records) == MOST_RECORDS:
        left_out.append(f"Only the newest {MOST_RECORDS:,} results are shown; `quantsam report --scheme` narrows them.")
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.model, record.weights_digest), []).append(record)
    groups = {key: members for key, members in groups.items() if any(r.kind != LATENCY for r in members)}
    if not groups:
        raise InputError(f"a report needs more than latencies, got nothing else in {store.path}: `quantsam evaluate`")
    if len(groups) > MOST_MODELS:
        left_out.append(f"{len(groups) - MOST_MODELS} further models are left out; `quantsam report --model` picks.")
    subjects = [_subject(store, *key, members, left_out) for key, members in list(groups.items())[:MOST_MODELS]]
    return Content(store.path.name, tuple(subjects), len(records), total, tuple(left_out), records[-1])


def _subject(
    store: ResultStore, model: str, weights_digest: str, records: Sequence[Record], left_out: list[str]
) -> Subject:
    subject = Subject(model, weights_digest)
    kinds = {SENSITIVITY: subject.studies, SEARCH: subject.searches, DISTRIBUTIONS: subject.distributions}
    for record in reversed(records):
        if record.kind in kinds:
            kinds[record.kind].append(record)
        elif record.kind == "agree":
            subject.agreements.append(record)
    for studies in (*kinds.values(), subject.agreements):
        most = MOST_STUDIES if studies is not subject.agreements else 10 * MOST_STUDIES
        if len(studies) > most:
            left_out.append(f"{model}: {len(studies) - most} older records of kind {studies[0].kind} are left out.")
            del studies[most:]
    latencies = _latencies(records)
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.kind == "evaluate" and _metric(record) is not None:
            groups.setdefault((record.dataset, record.dataset_digest, record.prompt), []).append(record)
    ranked = sorted(groups.values(), key=len, reverse=True)
    if len(ranked) > MOST_TASKS:
        left_out.append(f"{model}: {len(ranked) - MOST_TASKS} further sets of data and prompts are left out.")
    subject.tasks = [_task(store, members, latencies) for members in ranked[:MOST_TASKS]]
    for task in subject.tasks[:1]:
        shown = sorted(task.results, key=lambda r: r.record.created_utc)[-_MOST_PICTURED:]
        found = {r.record.id: store.gallery(r.record.id) for r in shown if not r.is_float}
        subject.galleries |= {key: entries for key, entries in found.items() if entries}
    return subject


def _latencies(records: Iterable[Record]) -> dict[tuple[str, str, str], float]:
    """Return what a stopwatch said of each way to compute; the newest counts."""
    return {_way(r): r.times["encoder_ms_median"] for r in records if r.kind == LATENCY}


def _way(record: Record) -> tuple[str, str, str]:
    """Engine, scheme and placement; where tensors are rounded makes no difference to PyTorch's FP32."""
    return record.engine, record.label, "" if record.engine == "pytorch" else record.placement or ""


def _metric(record: Record) -> str | None:
    """Return the figure that a record's schemes are compared by."""
    return next((name for name in ("miou", "ap") if record.figures.get(name) is not None), None)


def _task(store: ResultStore, records: Sequence[Record], latencies: dict[tuple[str, str, str], float]) -> Task:
    metric = _metric(records[0])
    records = [record for record in records if _metric(record) == metric]
    assert metric is not None
    results = [_result(record, metric, latencies) for record in records]
    results = _with_changes(store, _labelled(results))
    sized = [r for r in results if r.size_mib is not None]
    front = {sized[i].record.id for i in pareto([(r.size_mib or 0.0, -r.score) for r in sized])}
    results = [dataclasses.replace(r, on_front=r.record.id in front) for r in results]
    results.sort(key=lambda r: (not r.is_float, r.way != SIMULATED, r.way, r.size_mib or 0.0, r.label))
    first = records[0]
    return Task(first.dataset, first.prompt, "mIoU" if metric == "miou" else "AP", tuple(results))


def _result(record: Record, metric: str, latencies: dict[tuple[str, str, str], float]) -> Result:
    score, size, whole = (record.figures.get(name) for name in (metric, "size_bytes", "fp32_bytes"))
    assert score is not None
    measured = latencies.get(_way(record))
    timed = record.engine != "pytorch" or record.scheme == FLOAT
    return Result(
        record=record,
        label=record.label,
        way=SIMULATED if record.engine == "pytorch" else record.engine,
        score=score,
        size_mib=None if size is None else size / 2**20,
        size_percent=None if size is None or not whole else 100 * size / whole,
        encoder_ms=(measured or record.times.get("encoder_ms_median")) if timed else None,
    )


def _labelled(results: list[Result]) -> list[Result]:
    """Tell apart what bears one name: by placement, by calibration data, or else by id."""
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


def _with_changes(store: ResultStore, results: list[Result]) -> list[Result]:
    """Compare each result with FP32: the newest ones object by object."""
    floats = {r.way: r for r in results if r.is_float}
    fallback = floats.get(SIMULATED) or next(iter(floats.values()), None)
    if fallback is None:
        return results
    scores = {way: store.scores(r.record.id) for way, r in floats.items()}
    newest = {r.record.id for r in results[-_MOST_PAIRED:]}
    compared = []
    for result in results:
        whole = floats.get(result.way, fallback)
        change = None if result.is_float else result.score - whole.score
        error = None
        if change is not None and result.record.id in newest and scores[whole.way]:
            mine = store.scores(result.record.id)
            if mine:
                try:
                    paired = compare_paired(scores[whole.way], mine)
                except InputError as problem:
                    raise StoreError(f"scores of record {result.record.id} are damaged: {problem}") from problem
                change, error = paired.mean_difference, paired.standard_error
        compared.append(dataclasses.replace(result, change=change, change_se=error))
    return compared
