"""Find the repairs that help a model, by the masks that the float model finds: no ground truth is needed."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from quantsam.data.open import ImageSource, SomeImages
from quantsam.engines.encoder import check_formats
from quantsam.errors import CalibrationError, InputError, nearest
from quantsam.evaluation.evaluator import journals_of
from quantsam.evaluation.journal import Outcomes, open_journal
from quantsam.evaluation.latency import measure_latency
from quantsam.evaluation.prompts import parse_prompt
from quantsam.evaluation.record_fields import exactness
from quantsam.metrics.summary import mean_and_error
from quantsam.models.sam import EfficientViTSam
from quantsam.notices import notice
from quantsam.plans.make import make_plan
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import takes_offsets
from quantsam.plans.sizes import account
from quantsam.progress import Progress
from quantsam.repair.calibrated import calibrated_plans
from quantsam.results.record import JsonValue, identity
from quantsam.results.repair_record import UNREPAIRED, RepairRecord, RepairStep
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import PYTORCH, get_engine, placement_of, surroundings
from quantsam.schemes.line import uniform_scheme
from quantsam.schemes.load import parse_scheme
from quantsam.schemes.repairs import REPAIRS, RepairName, parse_repairs
from quantsam.schemes.scheme import Address, Rule, Scheme, Selector
from quantsam.schemes.target import FLOAT
from quantsam.schemes.write import scheme_to_toml
from quantsam.search.own_masks import OwnMasks
from quantsam.sensitivity.measure import RowMeter
from quantsam.sensitivity.rows import Row, make_rows
from quantsam.sensitivity.table import RowPass, RowTable

FallBack = Literal["float", "w8a16"]
FALL_BACKS: tuple[FallBack, ...] = get_args(FallBack)

BY_COST: tuple[tuple[RepairName, ...], ...] = (
    ("reflect", "streams"),
    ("shift",),
    ("ranges",),
    ("rounding",),
    ("bias",),
    ("migrate",),
)
"""The order in which repairs are tried: what costs nothing on any engine first. `reflect` alone helps nothing."""

HELD_OUT = 4
"""Every fourth image is not calibrated on, but what repairs are chosen by."""

_PROMPT = parse_prompt("box")


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """What a search for repairs does.

    Attributes:
        repairs: Which are tried.
        goal: Stop when masks lose no more than this against FP32's, in points; try all if None.
        minutes: Begin nothing more after this time; None for no limit.
        fall_back: How many layers at most may leave the scheme's formats, where the repairs do not reach the goal.
        fall_back_to: What they then have: `float` or `w8a16`.
        engine: What the plan is for and what times it; `pytorch` times nothing.
        rounds: Of the timing.
    """

    repairs: tuple[RepairName, ...] = REPAIRS
    goal: float | None = None
    minutes: float | None = None
    fall_back: int = 0
    fall_back_to: FallBack = "float"
    engine: str = PYTORCH
    rounds: int = 15

    def check(self) -> None:
        """Make sure, before long work, that it can be done.

        Raises:
            InputError: A value is not known or out of range.
        """
        if not self.repairs:
            raise InputError(f"repairs to try must be some of {', '.join(REPAIRS)}, got none")
        parse_repairs(self.repairs)
        if self.fall_back_to not in FALL_BACKS:
            hint = nearest(self.fall_back_to, FALL_BACKS)
            raise InputError(f"fall_back_to must be one of {', '.join(FALL_BACKS)}, got {self.fall_back_to!r}: {hint}")
        if self.fall_back < 0 or self.rounds < 1:
            raise InputError(
                f"fall_back must be at least 0 and rounds at least 1, got {self.fall_back} and {self.rounds}"
            )
        for name in ("goal", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{name} must be a number from 0 on, got {value}")


@dataclass(frozen=True, slots=True, eq=False)
class Repaired:
    """What a search for repairs gives.

    Attributes:
        plan: Calibrated and repaired, as it was measured.
        scheme: That gives this plan where it is calibrated on the same images; its repairs are those that were kept.
        record: What was tried.
    """

    plan: Plan
    scheme: Scheme
    record: RepairRecord


def find_repairs(
    model: EfficientViTSam,
    scheme: Scheme,
    images: ImageSource,
    settings: RepairSettings = RepairSettings(),
    *,
    placement: str | None = None,
    store: ResultStore | None = None,
    progress: Callable[[str], Progress] | None = None,
    notes: dict[str, JsonValue] | None = None,
) -> Repaired:
    """Try repairs one by one, and keep those that bring the masks nearer to the float model's.

    Every fourth image is held out: the float model's own masks on these, and boxes around them, are what plans are
    scored by; they are calibrated on the others. A repair is kept if the loss of masks falls by more than its standard
    error, paired by image. What did not help is tried again when something else has.

    Args:
        model: In float.
        scheme: What is quantized; repairs that it has of its own are among those that are tried.
        images: Pictures, at least eight.
        settings: What to do.
        placement: Where tensors are quantized; the engine's own, or `thesis`, if None.
        store: Where the record is appended, and beside which what came of each image is kept until then, so that the
            same call goes on where a killed one stopped; if it holds this very search, nothing is tried again.
        progress: Given a label, returns what wraps an iteration over images.
        notes: Added to the record's settings.

    Raises:
        InputError: A setting is out of range, or the scheme quantizes nothing.
        CalibrationError: There are too few images, they show nothing, or the float model finds nothing on them.
        PlanError: The engine lacks a format.
        SchemeError: The scheme does not fit the model.
        StoreError: The store cannot be written.
    """
    settings.check()
    placed = placement or placement_of(settings.engine)
    bare = make_plan(model, scheme, placed)
    if not any(site.role == "activation" for site in bare.sites):
        raise InputError(f"a repair needs quantized activations, got scheme {scheme.name!r}: take int8")
    if settings.engine != PYTORCH:
        check_formats(bare.sites, settings.engine)
        if settings.fall_back and settings.fall_back_to != FLOAT:
            check_formats(make_plan(model, uniform_scheme(settings.fall_back_to), placed).sites, settings.engine)
    if len(images) < 2 * HELD_OUT:
        raise CalibrationError(
            f"a search for repairs needs at least {2 * HELD_OUT} images, one in {HELD_OUT} of which is held out, got "
            f"{len(images)}: give more --calibration-images"
        )
    numbers = range(len(images))
    held_out = OwnMasks(model, SomeImages(images, [n for n in numbers if n % HELD_OUT == HELD_OUT - 1], "held out"))
    calibration = SomeImages(images, [n for n in numbers if n % HELD_OUT != HELD_OUT - 1], "without those held out")
    depends_on: dict[str, Any] = {
        "search": "repairs",
        "settings": dataclasses.asdict(settings),
        "weights_digest": model.weights_digest(),
        "scheme": bare.scheme_digest,
        "placement": placed,
        "images": images.digest,
        "device": str(model.device),
        "threads": torch.get_num_threads(),  # encoders are timed with as many
        **surroundings(settings.engine),
    }
    record_id = identity(depends_on)
    known = store.find(record_id) if store is not None else None
    if isinstance(known, RepairRecord):
        found = parse_scheme(str(known.results["scheme"]), scheme.name)
        (plan,) = calibrated_plans(
            model, [found], calibration, placed, progress=progress("calibrating") if progress else None
        )
        if plan.digest != known.plan_digest:
            notice("the plan was calibrated anew and differs in its last digits from the one that was measured")
        return Repaired(plan, found, known)
    with open_journal(journals_of(store), depends_on) if store else nullcontext(Outcomes()) as outcomes:
        trials = _Trials(model, scheme, calibration, held_out, settings, placed, outcomes, progress)
        trials.run()
        record = trials.record(record_id, {"calibration_images": len(calibration), **(notes or {})})
        if store is not None:
            store.append(record)
    return Repaired(trials.best.plan, trials.best.scheme, record)


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """A plan and what it scored.

    Attributes:
        name: See `RepairStep`.
        scheme: What it was made from.
        plan: Calibrated.
        losses: Of masks, in points, by image.
        mean: Of the losses, over the images.
        error: Its standard error.
        seconds: That it took.
    """

    name: str
    scheme: Scheme
    plan: Plan
    losses: Mapping[int, float]
    mean: float
    error: float | None
    seconds: float


@dataclass(slots=True, eq=False)
class _Trials:
    """The search while it runs."""

    model: EfficientViTSam
    start: Scheme
    calibration: ImageSource
    held_out: OwnMasks
    settings: RepairSettings
    placement: str
    outcomes: Outcomes
    progress: Callable[[str], Progress] | None
    began: float = field(default_factory=time.perf_counter)
    tried: list[tuple[_Tried, bool, float | None, float | None]] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)

    @property
    def best(self) -> _Tried:
        """What was kept last."""
        return [one for one, kept, *_ in self.tried if kept][-1]

    def run(self) -> None:
        """Try what there is to try."""
        own = self.held_out
        wrap = self._wrapped("finding the float model's masks")
        ids = wrap(own.image_ids, len(own.image_ids)) if wrap else own.image_ids
        self._ids = [image_id for image_id in ids if own.annotations(image_id)]
        if len(self._ids) < 2:
            raise CalibrationError(
                f"the float model must find masks on at least 2 held-out images, got {len(self._ids)} of "
                f"{len(own.image_ids)} of {own.name}: give other images"
            )
        wanted = {*parse_repairs(self.settings.repairs), *self.start.repairs}
        self.tried.append((self._try(UNREPAIRED, dataclasses.replace(self.start, repairs=())), True, None, None))
        if not any(takes_offsets(site.spec) for site in self.best.plan.sites if site.role == "weight"):
            wanted.discard("rounding")  # weights of 8 bits keep their codes
        together = [tuple(name for name in names if name in wanted) for names in BY_COST]
        waiting, missed = deque(names for names in together if names), list[tuple[RepairName, ...]]()
        while waiting and not self._is_done():
            names = waiting.popleft()
            if self._keeps(self._with_repairs(names)):
                waiting.extend(missed)
                missed.clear()
            else:
                missed.append(names)
        if self.settings.fall_back and not self._is_done():
            self._fall_back()

    def record(self, record_id: str, notes: dict[str, JsonValue]) -> RepairRecord:
        """Return what was tried, timed on the engine."""
        milliseconds = self._milliseconds()
        encoder, first, last = self.model.float_encoder, self.tried[0][0], self.best
        steps = [
            RepairStep(
                name=one.name,
                repairs=one.plan.repairs,
                kept=kept,
                mask_loss=one.mean,
                mask_loss_se=one.error,
                gain=gain,
                gain_se=error,
                size_bytes=account(encoder, one.plan.sites).size_bytes,
                encoder_ms=milliseconds.get(number),
                seconds=one.seconds,
            )
            for number, (one, kept, gain, error) in enumerate(self.tried)
        ]
        info, engine = last.plan.calibration, self.settings.engine
        asked = {key: value for key, value in dataclasses.asdict(self.settings).items() if key not in ("engine",)}
        return RepairRecord(
            id=record_id,
            model=self.model.name,
            weights_digest=self.model.weights_digest(),
            scheme=last.plan.scheme,
            scheme_digest=last.plan.scheme_digest,
            plan_digest=last.plan.digest,
            placement=self.placement,
            engine=engine,
            dataset=self.held_out.name,
            dataset_digest=self.held_out.digest,
            prompt=_PROMPT.name,
            calibration=info.name if info else None,
            calibration_digest=info.digest if info else None,
            figures={
                "steps": len(steps),
                "mask_loss": last.mean,
                "mask_loss_unrepaired": first.mean,
                "images": len(self._ids),
            },
            environment=surroundings(engine),
            settings={
                "tried": asked,
                "threads": torch.get_num_threads(),
                "repairs": list(last.plan.repairs),
                **exactness(last.plan, True),
                **notes,
            },
            results={"steps": [step.to_json_dict() for step in steps], "scheme": scheme_to_toml(last.scheme)},
        )

    def _is_done(self) -> bool:
        goal, minutes = self.settings.goal, self.settings.minutes
        reached = goal is not None and self.best.mean <= goal
        return reached or (minutes is not None and time.perf_counter() - self.began > 60 * minutes)

    def _with_repairs(self, added: Sequence[RepairName]) -> _Tried:
        names = {*self.best.scheme.repairs, *added}
        scheme = dataclasses.replace(self.start, repairs=tuple(known for known in REPAIRS if known in names))
        return self._try(", ".join(added), scheme)

    def _keeps(self, one: _Tried) -> bool:
        """Keep what was tried if it helps, and say whether."""
        before = self.best.losses
        gain, error = mean_and_error([before[i] - one.losses[i] for i in self._ids])
        kept = error is not None and gain > error
        self.tried.append((one, kept, gain, error))
        return kept

    def _try(self, name: str, scheme: Scheme) -> _Tried:
        """Calibrate a scheme with its repairs, and score it."""
        started = time.perf_counter()
        (plan,) = calibrated_plans(
            self.model, [scheme], self.calibration, self.placement, progress=self._wrapped(f"{name}: plan")
        )
        row = Row("all", "both", "mixed", (), plan, frozenset(site.path for site in plan.sites))
        table = self._scored(dataclasses.replace(plan, sites=()), [row], name)
        losses = table.losses[row.name]
        mean, error = mean_and_error([losses[i] for i in self._ids])
        return _Tried(name, scheme, plan, losses, mean, error, time.perf_counter() - started)

    def _scored(self, base: Plan, rows: Sequence[Row], name: str) -> RowTable:
        part = identity({"name": name, "plans": [row.plan.digest for row in rows]})
        with RowMeter(self.model, base, rows, prompt=_PROMPT) as meter:
            todo = RowPass(meter, rows, self.held_out, self.outcomes, part)
            todo.visit(self._ids, progress=self._wrapped(f"{name}: masks"))
        return todo.table

    def _fall_back(self) -> None:
        """Let the layers that hurt most leave the scheme's formats, one after the other."""
        plan = self.best.plan
        rows = make_rows(plan, mode="out")
        table = self._scored(plan, rows, "layers")
        losses = self.best.losses
        gains = {row.unit: sum(losses[i] - table.losses[row.name][i] for i in self._ids) for row in rows}
        worst = [unit for unit in sorted(gains, key=lambda unit: -gains[unit]) if gains[unit] > 0]
        left: list[str] = []
        for unit in worst[: self.settings.fall_back]:
            if self._is_done():
                return
            one = self._try(f"{self.settings.fall_back_to}: {', '.join([*left, unit])}", self._without([*left, unit]))
            if self._keeps(one):
                left.append(unit)

    def _without(self, units: Sequence[str]) -> Scheme:
        """Return the scheme in which some layers fall back."""
        to = self.settings.fall_back_to
        targets = {"weight": None, "activation": None} if to == FLOAT else uniform_scheme(to).rules[0].targets
        addresses = [Address.parse(unit) for unit in units]
        rules = [Rule(Selector((a.stage,), (a.block,), (a.layer,)), targets) for a in addresses]
        name = f"{self.start.name} but {len(units)} {to}"
        return Scheme(name, (*self.start.rules, *rules), self.start.description, self.best.scheme.repairs)

    def _milliseconds(self) -> dict[int, float]:
        """Return the encoder's time of every plan that was tried, by its number; none without an engine here."""
        engine = self.settings.engine
        if engine == PYTORCH or not get_engine(engine).on_processor:
            return {}
        plans = [(engine, one.plan) for one, *_ in self.tried]
        threads = torch.get_num_threads()
        found = measure_latency(self.model, plans, rounds=self.settings.rounds, threads=threads)
        return {number: found[number].median_ms for number in range(len(plans))}

    def _wrapped(self, label: str) -> Progress | None:
        return self.progress(label) if self.progress else None
