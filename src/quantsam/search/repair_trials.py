"""Trials of repairs: which are tried, in which order, and which are kept."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from quantsam.data.open import ImageSource
from quantsam.errors import CalibrationError
from quantsam.evaluation.journal import Outcomes
from quantsam.evaluation.latency import measure_latency
from quantsam.evaluation.prompts import parse_prompt
from quantsam.evaluation.record_fields import exactness
from quantsam.metrics.summary import mean_and_error
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import takes_offsets
from quantsam.plans.sizes import account
from quantsam.progress import Progress
from quantsam.repair.calibrated import calibrated_plans
from quantsam.results.record import JsonValue, identity
from quantsam.results.repair_record import UNREPAIRED, RepairRecord, RepairStep
from quantsam.runtime.engines import PYTORCH, get_engine, surroundings
from quantsam.schemes.line import uniform_scheme
from quantsam.schemes.repairs import REPAIRS, RepairName, parse_repairs
from quantsam.schemes.scheme import Address, Rule, Scheme, Selector
from quantsam.schemes.target import FLOAT
from quantsam.schemes.write import scheme_to_toml
from quantsam.search.own_masks import OwnMasks
from quantsam.search.repair_settings import RepairSettings
from quantsam.sensitivity.measure import RowMeter
from quantsam.sensitivity.rows import Row, make_rows
from quantsam.sensitivity.table import RowPass, RowTable

Group = tuple[RepairName, ...]

BY_COST: tuple[Group, ...] = (
    ("reflect", "streams"),
    ("shift",),
    ("ranges",),
    ("rounding",),
    ("bias",),
    ("migrate",),
)
"""The order in which repairs are tried: first those that cost nothing on any engine. `reflect` alone does not help."""

_PROMPT = parse_prompt("box")


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """A plan and its score.

    Attributes:
        name: See `RepairStep`.
        scheme: The scheme of the plan.
        plan: The calibrated plan.
        losses: Losses of masks, in points, by image.
        mean: Mean of the losses over the images.
        error: Standard error of the mean.
        seconds: Time that the trial took.
    """

    name: str
    scheme: Scheme
    plan: Plan
    losses: Mapping[int, float]
    mean: float
    error: float | None
    seconds: float


@dataclass(slots=True, eq=False)
class RepairTrials:
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
    tried: list[tuple[Tried, bool, float | None, float | None]] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _wanted: frozenset[str] = frozenset()
    _is_late: bool = False

    @property
    def best(self) -> Tried:
        """The last plan that was kept."""
        return [one for one, kept, *_ in self.tried if kept][-1]

    def run(self) -> None:
        """Try all repairs, then let layers fall back."""
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
        self._wanted = frozenset(wanted)
        groups = [tuple(name for name in names if name in wanted) for names in BY_COST]
        left = self._one_by_one([names for names in groups if names])
        while (rest := self._together(left)) is not None:
            left = self._one_by_one(rest)
        if self.settings.fall_back and not self._must_stop():
            self._fall_back()

    def _one_by_one(self, groups: Sequence[Group]) -> list[Group]:
        """Keep each group that helps, and try those that did not again when another has; return what never helped."""
        waiting, missed = deque(groups), list[Group]()
        while waiting and not self._must_stop():
            names = waiting.popleft()
            if self._keeps(self._with_repairs(names)):
                waiting.extend(missed)
                missed.clear()
            else:
                missed.append(names)
        return [*missed, *waiting]

    def _together(self, groups: Sequence[Group]) -> list[Group] | None:
        """Try groups at once that do not help alone: first those that cost no time, then all.

        A model with several causes of loss needs this, since each cause hides what the repair of another gives.

        Returns:
            The groups that were left out of what helped; None if nothing helped.
        """
        free = [names for names in groups if names != BY_COST[-1]]
        for at_once in (free, groups) if len(free) < len(groups) else (free,):
            if len(at_once) < 2 or self._must_stop():
                continue
            if self._keeps(self._with_repairs([name for names in at_once for name in names])):
                return [names for names in groups if names not in at_once]
        return None

    def record(self, record_id: str, notes: dict[str, JsonValue]) -> RepairRecord:
        """Return the record of all tried plans, timed on the engine."""
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
            results={
                "steps": [step.to_json_dict() for step in steps],
                "scheme": scheme_to_toml(last.scheme),
                "untried": self._untried(),
                "out_of_time": self._is_late and not self._has_reached_goal,
            },
        )

    def _untried(self) -> list[str]:
        """Return the repairs that no trial had."""
        tried = {name for one, *_ in self.tried for name in one.scheme.repairs}
        return [name for name in REPAIRS if name in self._wanted and name not in tried]

    @property
    def _has_reached_goal(self) -> bool:
        return self.settings.goal is not None and self.best.mean <= self.settings.goal

    def _must_stop(self) -> bool:
        """Return whether the goal is reached or the time is over, and note the latter."""
        minutes = self.settings.minutes
        self._is_late = minutes is not None and time.perf_counter() - self.began > 60 * minutes
        return self._has_reached_goal or self._is_late

    def _with_repairs(self, added: Sequence[RepairName]) -> Tried:
        names = {*self.best.scheme.repairs, *added}
        scheme = dataclasses.replace(self.start, repairs=tuple(known for known in REPAIRS if known in names))
        return self._try(", ".join(added), scheme)

    def _keeps(self, one: Tried) -> bool:
        """Keep a tried plan if it helps, and return whether it does."""
        before = self.best.losses
        gain, error = mean_and_error([before[i] - one.losses[i] for i in self._ids])
        kept = error is not None and gain > error
        self.tried.append((one, kept, gain, error))
        return kept

    def _try(self, name: str, scheme: Scheme) -> Tried:
        """Calibrate a scheme with its repairs, and score it."""
        started = time.perf_counter()
        (plan,) = calibrated_plans(
            self.model, [scheme], self.calibration, self.placement, progress=self._wrapped(f"{name}: plan")
        )
        row = Row("all", "both", "mixed", (), plan, frozenset(site.path for site in plan.sites))
        table = self._scored(dataclasses.replace(plan, sites=()), [row], name)
        losses = table.losses[row.name]
        mean, error = mean_and_error([losses[i] for i in self._ids])
        return Tried(name, scheme, plan, losses, mean, error, time.perf_counter() - started)

    def _scored(self, base: Plan, rows: Sequence[Row], name: str) -> RowTable:
        part = identity({"name": name, "plans": [row.plan.digest for row in rows]})
        with RowMeter(self.model, base, rows, prompt=_PROMPT) as meter:
            todo = RowPass(meter, rows, self.held_out, self.outcomes, part)
            todo.visit(self._ids, progress=self._wrapped(f"{name}: masks"))
        return todo.table

    def _fall_back(self) -> None:
        """Let the layers that hurt most fall back from the scheme's formats, one after the other."""
        plan = self.best.plan
        rows = make_rows(plan, mode="out")
        table = self._scored(plan, rows, "layers")
        losses = self.best.losses
        gains = {row.unit: sum(losses[i] - table.losses[row.name][i] for i in self._ids) for row in rows}
        worst = [unit for unit in sorted(gains, key=lambda unit: -gains[unit]) if gains[unit] > 0]
        left: list[str] = []
        for unit in worst[: self.settings.fall_back]:
            if self._must_stop():
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
        """Return the encoder's time for every tried plan, keyed by number; empty unless an engine runs on the CPU."""
        engine = self.settings.engine
        if engine == PYTORCH or not get_engine(engine).on_processor:
            return {}
        plans = [(engine, one.plan) for one, *_ in self.tried]
        threads = torch.get_num_threads()
        found = measure_latency(self.model, plans, rounds=self.settings.rounds, threads=threads)
        return {number: found[number].median_ms for number in range(len(plans))}

    def _wrapped(self, label: str) -> Progress | None:
        return self.progress(label) if self.progress else None
