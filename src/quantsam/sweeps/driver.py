"""The driver of a sweep: it hands out the work and collects the results."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantsam.errors import QuantsamError, StoreError
from quantsam.evaluation.evaluator import journals_of, keep_names
from quantsam.evaluation.journal import Journal, journal_path, open_journal
from quantsam.plans.calibration import calibrate, with_observations
from quantsam.plans.make import make_plan
from quantsam.plans.observation import Observations
from quantsam.plans.plan import Plan
from quantsam.repair.calibrated import calibrated_plans
from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore
from quantsam.sweeps.opened import OpenedPoint, open_points
from quantsam.sweeps.point import Point
from quantsam.sweeps.runners import LocalRunner, Runner, WorkItem
from quantsam.sweeps.state import SweepState
from quantsam.sweeps.sweep import Sweep
from quantsam.sweeps.worker import Job, Shelf

_PICTURES_A_TASK = 16  # at most; a killed sweep repeats at most these for each worker


@dataclass(slots=True)
class SweepProgress:
    """Progress of a sweep.

    Attributes:
        done: Points that this run finished.
        skipped: Points that the store already held.
        failed: Points that failed, with causes: in this run, or in earlier runs and not retried.
        left: Points still to do.
        pictures_done: Images scored so far, for the points of this run.
        pictures: All images of those points.
        calibrating: Label of the point that is being calibrated; None between calibrations.
    """

    done: list[tuple[Point, Record, float]] = field(default_factory=list)
    skipped: list[tuple[Point, Record]] = field(default_factory=list)
    failed: list[tuple[Point, str]] = field(default_factory=list)
    left: int = 0
    pictures_done: int = 0
    pictures: int = 0
    calibrating: str | None = None


def run_sweep(
    sweep: Sweep,
    store: ResultStore,
    start: Callable[[Shelf], Runner] | None = None,
    *,
    retry: bool = False,
    report: Callable[[SweepProgress], None] | None = None,
) -> SweepProgress:
    """Run all points of a sweep that the store does not hold yet.

    A point's identity is a digest of everything that determines its numbers. It is also the id of the point's record,
    so the store holds a point once or not at all, whoever ran it. Results of single images are kept until the record
    is written: after a kill at any moment, the same call resumes the sweep.

    A sensitivity study is one task. Workers of this process keep its images too; workers elsewhere restart the study.

    Args:
        sweep: Sweep to run.
        store: Store for the records; `STORE-sweep` beside it holds failures, calibrated plans and the lock.
        start: Makes the runner from models and data that it may share; called only if there is something to do. If
            None, the runner uses as many threads of this process as fill the processor.
        retry: Retry points that failed before.
        report: Called whenever a point has made progress.

    Returns:
        What was done. Failures are noted and do not stop other points.

    Raises:
        QuantsamError: A point cannot run. This is found before anything starts.
        StoreError: The store is of another program or version, cannot be written, or another process sweeps into it.
    """
    store.check_writable()
    state = SweepState(store)
    with state.locked():
        shelf = Shelf()
        known = state.failures()
        progress = SweepProgress()
        todo: list[OpenedPoint] = []
        for opened in open_points(sweep.points, shelf, sweep.threads):
            record = store.find(opened.identity)
            if record is not None:
                progress.skipped.append((opened.point, record))
                # left behind by a process that was killed just after it appended the record
                journal_path(journals_of(store), {"point": opened.identity}).unlink(missing_ok=True)
            elif opened.identity in known and not retry:
                progress.failed.append((opened.point, known[opened.identity]["cause"]))
            elif all(opened.identity != other.identity for other in todo):
                todo.append(opened)
        progress.left = len(todo)
        progress.pictures = sum(len(opened.image_ids) for opened in todo)
        if todo:
            runner = start(shelf) if start is not None else LocalRunner(shelf, threads=sweep.threads)
            try:
                _Driver(sweep, store, state, shelf, runner, progress, report or (lambda _: None)).run(todo)
            finally:
                runner.close()
    return progress


@dataclass(slots=True, eq=False)
class _Active:
    """A point in progress."""

    opened: OpenedPoint
    plan: Plan
    started: float
    stack: contextlib.ExitStack
    journal: Journal | None = None
    left: int = 0


class _Driver:
    def __init__(
        self,
        sweep: Sweep,
        store: ResultStore,
        state: SweepState,
        shelf: Shelf,
        runner: Runner,
        progress: SweepProgress,
        report: Callable[[SweepProgress], None],
    ) -> None:
        self._sweep, self._store, self._state, self._shelf = sweep, store, state, shelf
        self._runner, self._progress, self._report = runner, progress, report
        self._active: dict[str, _Active] = {}
        self._ready: deque[WorkItem] = deque()
        self._outstanding = 0

    def run(self, todo: Sequence[OpenedPoint]) -> None:
        for _, several in itertools.groupby(todo, key=lambda o: (o.point.model, o.point.weights, o.point.device)):
            group = list(several)
            plans = self._plans(group)
            waiting = deque(opened for opened in group if opened.identity in plans)
            while waiting or self._ready or self._outstanding:
                while self._outstanding < 2 * self._runner.workers and (self._ready or waiting):
                    if self._ready:
                        self._submit(self._ready.popleft())
                    else:
                        opened = waiting.popleft()
                        self._activate(opened, plans[opened.identity])
                if self._outstanding:
                    self._take(*self._next())

    # calibration

    def _plans(self, group: Sequence[OpenedPoint]) -> dict[str, Plan]:
        """Return the calibrated plan of each point of a model; points that cannot be calibrated have failed."""
        found: dict[str, Plan] = {}
        missing: list[OpenedPoint] = []
        model = self._shelf.model(group[0].point)
        for opened in group:
            kept = None if opened.calibration is None else self._state.plan(opened.calibration, model)
            if kept is not None:
                found[opened.identity] = dataclasses.replace(kept, scheme=opened.scheme.name)
            elif opened.calibration is not None:
                missing.append(opened)
            else:
                found |= self._tried([opened], self._without_images)

        def together(opened: OpenedPoint) -> tuple[Any, ...]:
            point = opened.point
            return tuple(map(str, (point.deployment.placed, point.quantized, point.repair, point.calibration_source)))

        for _, several in itertools.groupby(sorted(missing, key=together), key=together):
            same = list(several)
            self._progress.calibrating = same[0].point.label
            self._report(self._progress)
            found |= self._tried(same, self._calibrate)
        self._progress.calibrating = None
        return found

    def _tried(
        self, points: Sequence[OpenedPoint], make_plans: Callable[[Sequence[OpenedPoint]], dict[str, Plan]]
    ) -> dict[str, Plan]:
        """Calibrate all schemes together; if that fails, each one alone, so that no scheme fails because of another."""
        try:
            return make_plans(points)
        except StoreError:
            raise
        except Exception as error:
            schemes = {
                opened.calibration: [o for o in points if o.calibration == opened.calibration] for opened in points
            }
            if len(schemes) == 1:
                for opened in points:
                    self._fail(opened, error)
                return {}
            found: dict[str, Plan] = {}
            for several in schemes.values():
                found |= self._tried(several, make_plans)
            return found

    def _without_images(self, points: Sequence[OpenedPoint]) -> dict[str, Plan]:
        model = self._shelf.model(points[0].point)
        plans = {}
        for opened in points:
            deployment = opened.point.deployment
            plan = make_plan(model, opened.scheme, deployment.placed, weights=deployment.weights, activations=False)
            plans[opened.identity] = calibrate(model, plan)
        return plans

    def _calibrate(self, points: Sequence[OpenedPoint]) -> dict[str, Plan]:
        """Calibrate all schemes in one pass; the workers share the images."""
        point = points[0].point
        model, images = self._shelf.model(point), self._shelf.images(point)
        schemes = {opened.calibration: opened.scheme for opened in points}
        deployment = point.deployment

        def shared_out(plan: Plan) -> Plan:
            if not any(site.role == "activation" for site in plan.sites):
                return calibrate(model, plan)
            seen = self._observe(points[0], plan, len(images))
            return with_observations(model, plan, seen, images.name, images.digest)

        plans = calibrated_plans(
            model,
            list(schemes.values()),
            images,  # repairs use them in this process
            deployment.placed,
            **deployment.roles,
            repairs=deployment.repairs,
            calibrate_one=shared_out,
        )
        by_key = dict(zip(schemes, plans, strict=True))
        for key, plan in by_key.items():
            self._state.keep(str(key), plan)
        return {o.identity: dataclasses.replace(by_key[o.calibration], scheme=o.scheme.name) for o in points}

    def _observe(self, opened: OpenedPoint, plan: Plan, count: int) -> Observations:
        size = max(-(-count // (2 * self._runner.workers)), 1)
        starts = list(range(0, count, size))
        job = _job(opened, plan)
        for start in starts:
            self._submit(WorkItem("observe", (job, start, min(start + size, count)), start))
        results = {task.tag: result for task, result in (self._next() for _ in starts)}
        for start in starts:
            if isinstance(results[start], BaseException):
                raise results[start]
        seen: Observations = results[starts[0]]
        for start in starts[1:]:  # in the order of the images, as if one worker had seen them all
            seen.merge(results[start])
        return seen

    # points

    def _activate(self, opened: OpenedPoint, plan: Plan) -> None:
        active = _Active(opened, plan, time.monotonic(), contextlib.ExitStack())
        self._active[opened.identity] = active
        if opened.point.kind == "sensitivity":
            store = self._store if self._runner.is_local else None
            study = (_job(opened, plan), opened.identity, self._notes(opened), store)
            self._ready.append(WorkItem("study", study, opened.identity))
            return
        depends_on: dict[str, JsonValue] = {"point": opened.identity}
        active.journal = active.stack.enter_context(open_journal(journals_of(self._store), depends_on))
        ids = [image_id for image_id in opened.image_ids if image_id not in active.journal.done]
        active.left = len(ids)
        self._progress.pictures_done += len(opened.image_ids) - len(ids)
        size = max(1, min(_PICTURES_A_TASK, -(-len(ids) // (4 * self._runner.workers))))
        job = _job(opened, plan)
        for start in range(0, len(ids), size):
            self._ready.append(WorkItem("score", (job, ids[start : start + size]), opened.identity))
        if not ids:
            self._finish(active)

    def _finish(self, active: _Active) -> None:
        assert active.journal is not None
        opened = active.opened
        outcomes = list(active.journal.in_order(opened.image_ids))
        arguments = (_job(opened, active.plan), outcomes, opened.identity, self._notes(opened))
        self._ready.appendleft(WorkItem("finish", arguments, opened.identity))

    def _take(self, task: WorkItem, result: Any) -> None:
        active = self._active.get(task.tag)
        if active is None:  # the point failed while this task was running
            return
        if isinstance(result, StoreError):
            raise result
        if isinstance(result, BaseException):
            active.stack.__exit__(type(result), result, None)  # the journal stays
            del self._active[task.tag]
            self._ready = deque(other for other in self._ready if other.tag != task.tag)
            if active.journal is not None:
                self._progress.pictures_done -= len(active.opened.image_ids) - active.left
            self._fail(active.opened, result)
        elif task.method == "score":
            assert active.journal is not None
            for outcome in result:
                active.journal.append(outcome)
            active.left -= len(result)
            self._progress.pictures_done += len(result)
            if not active.left:
                self._finish(active)
            self._report(self._progress)
        else:
            self._keep(active, result)

    def _keep(self, active: _Active, record: Record) -> None:
        opened = active.opened
        if opened.point.kind == "sensitivity":
            self._progress.pictures_done += len(opened.image_ids)
        if opened.point.kind == "evaluate" or not self._runner.is_local:
            self._store.append(record)
        if opened.point.kind == "evaluate":
            keep_names(self._store, self._shelf.dataset(opened.point))
        active.stack.close()  # removes the journal
        del self._active[opened.identity]
        self._state.forget(opened.identity)
        self._progress.left -= 1
        self._progress.done.append((opened.point, record, time.monotonic() - active.started))
        self._report(self._progress)

    def _fail(self, opened: OpenedPoint, error: BaseException) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        cause = text if isinstance(error, QuantsamError) else f"{type(error).__name__}: {text}"
        self._state.fail(opened.identity, opened.point.label, cause)
        self._progress.left -= 1
        self._progress.pictures -= len(opened.image_ids)
        self._progress.failed.append((opened.point, cause))
        self._report(self._progress)

    def _notes(self, opened: OpenedPoint) -> dict[str, JsonValue]:
        point = opened.point
        return {
            "sweep": self._sweep.name,
            "seed": point.seed,
            "calibration_images": point.calibration_images,
            **({} if point.calibration_seed is None else {"calibration_seed": point.calibration_seed}),
            "images": point.images,
        }

    def _submit(self, task: WorkItem) -> None:
        self._runner.submit(task)
        self._outstanding += 1

    def _next(self) -> tuple[WorkItem, Any]:
        task, result = self._runner.next()
        self._outstanding -= 1
        return task, result


def _job(opened: OpenedPoint, plan: Plan) -> Job:
    return Job(opened.point, plan, opened.expected)
