"""Read the content of a report from a store: models, the tasks they were scored on, and the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantsam.errors import InputError
from quantsam.report.comparison import MOST_IOUS, Comparison, is_comparable, make_comparison
from quantsam.report.tasks import LATENCY, Task, group_tasks, latencies_of, make_task
from quantsam.results.activation_record import ActivationRecord
from quantsam.results.agreement_record import AgreementRecord
from quantsam.results.distribution_record import DistributionRecord
from quantsam.results.gallery import GalleryEntry
from quantsam.results.record import Record
from quantsam.results.repair_record import RepairRecord
from quantsam.results.search_record import SearchRecord
from quantsam.results.sensitivity_record import SensitivityRecord
from quantsam.results.store import RecordFilter, ResultStore

MOST_RECORDS = 5000
MOST_MODELS, MOST_TASKS, MOST_STUDIES, MOST_AGREEMENTS = 12, 12, 4, 40
_MOST_PICTURED = 12


@dataclass(slots=True)
class ModelResults:
    """All that is known of one model with one set of weights.

    Attributes:
        model: Name of the variant.
        weights_digest: Digest of the weights.
        tasks: Tasks, the one with the most results first.
        agreements: Records of kind `agree`, newest first.
        studies: Records of kind `sensitivity` that a user asked for: unrepaired plans first, newest first.
        search_studies: Records of kind `sensitivity` that searches measured for their own use, newest first.
        searches: Records of kind `search`, newest first.
        repairs: Records of kind `repair`, newest first.
        distributions: Records of kind `distributions`: unrepaired plans first, newest first.
        activations: Records of kind `activations`, newest first.
        comparisons: For each task, the data to compare its results object by object; None without scores.
        galleries: Galleries of the first task's newest results by record id, worst objects first.
    """

    model: str
    weights_digest: str
    tasks: list[Task] = field(default_factory=list)
    agreements: list[AgreementRecord] = field(default_factory=list)
    studies: list[SensitivityRecord] = field(default_factory=list)
    search_studies: list[SensitivityRecord] = field(default_factory=list)
    searches: list[SearchRecord] = field(default_factory=list)
    repairs: list[RepairRecord] = field(default_factory=list)
    distributions: list[DistributionRecord] = field(default_factory=list)
    activations: list[ActivationRecord] = field(default_factory=list)
    comparisons: list[Comparison | None] = field(default_factory=list)
    galleries: dict[str, list[GalleryEntry]] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """Every record that is shown."""
        evaluated = [result.record for task in self.tasks for result in task.results]
        studied = [*self.studies, *self.search_studies, *self.searches, *self.repairs]
        return [*evaluated, *self.agreements, *studied, *self.distributions, *self.activations]


@dataclass(frozen=True, slots=True)
class Content:
    """All that a report shows.

    Attributes:
        store: Name of the store's file.
        models: Models in the order of their newest records, the newest last.
        total: Number of records in the store that pass the filters.
        left_out: What was left out to keep the report small; one sentence for each.
    """

    store: str
    models: tuple[ModelResults, ...]
    total: int
    left_out: tuple[str, ...]

    @property
    def shown(self) -> int:
        """Number of records that are shown."""
        return sum(len(model.records) for model in self.models)

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines that the records name."""
        environments = (record.environment for model in self.models for record in model.records)
        named = (f"{e.get('cpu', 'an unnamed processor')}, {e.get('cpu_count', '?')} processors" for e in environments)
        return tuple(dict.fromkeys(named))


def read_content(store: ResultStore, filters: RecordFilter | None = None) -> Content:
    """Read a store.

    Args:
        store: The store.
        filters: Which of the store's records to read.

    Raises:
        InputError: No record passes.
        StoreError: The store cannot be read, or a record or its images are damaged.
    """
    wanted = filters or {}
    records, total = store.newest(MOST_RECORDS + 1, **wanted)
    if not records:
        rest = store.newest(1)[1] if wanted else 0
        way_out = f"leave out a filter ({rest} others are there)" if rest else "`quantsam evaluate` adds some"
        raise InputError(f"a report needs results, got none in {store.path}: {way_out}")
    left_out = []
    if len(records) > MOST_RECORDS:
        records = records[-MOST_RECORDS:]
        left_out.append(f"Only the newest {MOST_RECORDS:,} results are read; `quantsam report --scheme` narrows them.")
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in reversed(records):  # so that groups are in the order of their newest records
        groups.setdefault((record.model, record.weights_digest), []).append(record)
    groups = {key: members for key, members in groups.items() if any(r.kind != LATENCY for r in members)}
    if not groups:
        raise InputError(f"a report needs more than latencies, got nothing else in {store.path}: `quantsam evaluate`")
    chosen = list(groups.items())[:MOST_MODELS]
    if len(groups) > len(chosen):
        left_out.append(f"{len(groups) - len(chosen)} further models are left out; `quantsam report --model` picks.")
    models = [_model(store, *key, members[::-1], left_out) for key, members in reversed(chosen)]
    _compare(store, models, left_out)
    return Content(store.path.name, tuple(models), total, tuple(left_out))


def _model(
    store: ResultStore, name: str, weights_digest: str, records: Sequence[Record], left_out: list[str]
) -> ModelResults:
    model = ModelResults(name, weights_digest)
    lists: dict[type[Record], tuple[list[Any], int]] = {
        AgreementRecord: (model.agreements, MOST_AGREEMENTS),
        SensitivityRecord: (model.studies, MOST_STUDIES),
        SearchRecord: (model.searches, MOST_STUDIES),
        RepairRecord: (model.repairs, MOST_STUDIES),
        DistributionRecord: (model.distributions, MOST_STUDIES),
        ActivationRecord: (model.activations, MOST_STUDIES),
    }
    for record in reversed(records):
        if type(record) in lists:
            lists[type(record)][0].append(record)
    own, of_searches = _apart(model.studies, model.searches)
    model.studies[:], model.search_studies[:] = own, of_searches
    for kept, most in (*lists.values(), (model.search_studies, MOST_STUDIES)):
        if len(kept) > most:
            of = " of searches" if kept is model.search_studies else ""
            left_out.append(f"{name}: {len(kept) - most} older records of kind {kept[0].kind}{of} are left out.")
            del kept[most:]
    model.studies.sort(key=_is_repaired)  # first the problem, then the result of its repair
    model.distributions.sort(key=_is_repaired)
    groups, latencies = group_tasks(records), latencies_of(records)
    if len(groups) > MOST_TASKS:
        left_out.append(f"{name}: {len(groups) - MOST_TASKS} further sets of data and prompts are left out.")
    model.tasks = [make_task(store, members, latencies) for members in groups[:MOST_TASKS]]
    for task in model.tasks[:1]:
        newest = sorted((r.record for r in task.results), key=lambda record: record.created_utc)[-_MOST_PICTURED:]
        found = {record.id: store.gallery(record.id) for record in newest}
        model.galleries = {record_id: entries for record_id, entries in found.items() if entries}
    return model


def _is_repaired(record: Record) -> bool:
    return bool(record.settings.get("repairs"))


def _apart(
    studies: Sequence[SensitivityRecord], searches: Sequence[SearchRecord]
) -> tuple[list[SensitivityRecord], list[SensitivityRecord]]:
    """Return the studies that a user asked for, and those that searches measured for their own use."""
    own: list[SensitivityRecord] = []
    of_searches: list[SensitivityRecord] = []
    for study in studies:
        found = study.is_of_a_search or any(_measured_for(study, search) for search in searches)
        (of_searches if found else own).append(study)
    return own, of_searches


def _measured_for(study: SensitivityRecord, search: SearchRecord) -> bool:
    """Whether a study looks like one of a search, in a store of an earlier version that did not note this.

    A search races all layers on its first images only. A command notes how many images it was given.
    """
    first = search.settings.get("first")
    return (
        study.settings.get("method") == "race"
        and study.settings.get("first") == study.settings.get("most") == first is not None
        and "images" not in study.settings
        and (study.dataset_digest, study.prompt) == (search.dataset_digest, search.prompt)
    )


def _compare(store: ResultStore, models: Iterable[ModelResults], left_out: list[str]) -> None:
    """Add the data for comparing results object by object, as long as the page is small enough."""
    room, without = MOST_IOUS, 0
    for model in models:
        for task in model.tasks:
            found = make_comparison(store, task) if room > 0 else None
            room -= 0 if found is None else found.size
            without += room <= 0 and found is None and is_comparable(task)
            model.comparisons.append(found)
    if without:
        left_out.append(f"{without} sets of data and prompts cannot be compared object by object: the page is full.")
