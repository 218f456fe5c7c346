"""The report of a search: its front on unseen images, beside well-known schemes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from quantsam.data.dataset import Dataset
from quantsam.evaluation.prompts import parse_prompt
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.make import resolve_sites
from quantsam.plans.sizes import account
from quantsam.results.record import JsonValue
from quantsam.results.search_record import FOUND, SearchEntry, SearchRecord
from quantsam.runtime.engines import PYTORCH, get_engine, surroundings
from quantsam.schemes.load import load_scheme
from quantsam.schemes.target import FLOAT
from quantsam.search.costs import encoder_ms
from quantsam.search.finder import Finder
from quantsam.search.palette import Choice, Palette
from quantsam.search.verify import Verifier

HAND_MADE = ("int8", "mix-dwsc", "mix-mbc-neck")


def known_choices(model: EfficientViTSam, palette: Palette) -> dict[str, Choice]:
    """Return the well-known schemes of a palette, by name: one format everywhere, and the hand-made mixtures."""
    found = {name: palette.uniform(number) for number, name in enumerate(palette.formats)}
    if FLOAT in found:
        found["fp32"] = found.pop(FLOAT)
    if {FLOAT, "int8"} <= set(palette.formats):
        eight, none = palette.formats.index("int8"), palette.formats.index(FLOAT)
        for name in HAND_MADE:
            sites = resolve_sites(model.float_encoder, load_scheme(name), palette.plans[0].placement)
            layers = {site.layer for site in sites}
            found[name] = tuple(eight if address in layers else none for address in palette.layers)
    return found


def confirm(
    model: EfficientViTSam,
    dataset: Dataset,
    finder: Finder,
    named: dict[str, Choice],
    verifier: Callable[..., Verifier],
    searched: int,
    held_out: Sequence[int],
    notes: dict[str, JsonValue] | None,
) -> SearchRecord:
    """Measure the front and the well-known schemes on unseen images, and the finalists on the engine.

    Args:
        model: The float model.
        dataset: The dataset that the search used.
        finder: The finished finder.
        named: The well-known schemes, by name.
        verifier: Makes a verifier from a label, images and an engine.
        searched: Number of images that schemes were measured on.
        held_out: Ids of the unseen images.
        notes: Entries to add to the record's settings.
    """
    settings, palette, table = finder.settings, finder.palette, finder.table
    chosen, front = finder.chosen(), finder.front()
    kept = {*_thin(front, settings.points), *([] if chosen is None else [chosen])}
    names = {choice: name for name, choice in named.items()}
    numbered = sorted((choice for choice in kept if choice not in names), key=table.cost)
    for number, choice in enumerate(numbered, start=1):
        names[choice] = f"{model.name}-{settings.cost}-{number:02}"
    shown = sorted({*kept, *named.values()}, key=table.cost)
    unseen = verifier("confirming", held_out).score(shown) if held_out else {}
    on_engine: Any = {}
    milliseconds: dict[str, float] = {}
    if settings.engine is not None:
        finalists = [choice for choice in shown if choice in named.values() or chosen is None or choice == chosen]
        if get_engine(settings.engine).on_processor:
            timed = {names[choice]: choice for choice in finalists}
            threads = torch.get_num_threads()
            milliseconds = encoder_ms(model, palette, settings.engine, timed, threads=threads, rounds=settings.rounds)
        if held_out:
            on_engine = verifier("on the engine", held_out, settings.engine).score(finalists)
    encoder = model.float_encoder
    entries = []
    for choice in shown:
        score, name = finder.scores[choice], names[choice]
        other, real = unseen.get(choice), on_engine.get(choice)
        entries.append(
            SearchEntry(
                name=name,
                origin="hand-made" if name in HAND_MADE else "uniform" if name in named else FOUND,
                on_front=choice in front,
                formats=tuple(palette.formats[number] for number in choice),
                cost=table.cost(choice),
                size_bytes=account(encoder, palette.plan(choice).sites).size_bytes,
                drop=score.drop or 0.0,
                drop_se=score.drop_se,
                mask_loss=score.mask_loss or 0.0,
                mask_loss_se=score.mask_loss_se,
                held_out_drop=other.drop if other else None,
                held_out_drop_se=other.drop_se if other else None,
                held_out_mask_loss=other.mask_loss if other else None,
                engine_drop=real.drop if real else None,
                measured_ms=milliseconds.get(name),
            )
        )
    found = {
        "searched_pictures": searched,
        "held_out_pictures": len(held_out),
    }
    entry = next((e for e in entries if chosen is not None and e.name == names[chosen]), None)
    return _record(model, dataset, finder, chosen, entry, entries, {**found, **(notes or {})})


def _record(
    model: EfficientViTSam,
    dataset: Dataset,
    finder: Finder,
    chosen: Choice | None,
    entry: SearchEntry | None,
    entries: Sequence[SearchEntry],
    found: dict[str, Any],
) -> SearchRecord:
    settings, palette, table = finder.settings, finder.palette, finder.table
    figures: dict[str, float | int | None] = {"schemes": len(finder.scores), "float_cost": table.float_cost}
    fields: dict[str, Any] = {"scheme": None}
    if chosen is not None and entry is not None:
        plan = palette.plan(chosen, entry.name)
        fields = {"scheme": plan.scheme, "scheme_digest": plan.scheme_digest, "plan_digest": plan.digest}
        figures |= {
            "cost": entry.cost,
            "size_bytes": entry.size_bytes,
            "drop": entry.drop if entry.held_out_drop is None else entry.held_out_drop,
            "mask_loss": entry.mask_loss if entry.held_out_mask_loss is None else entry.held_out_mask_loss,
        }
    info = next((plan.calibration for plan in palette.plans if plan.calibration), None)
    asked: dict[str, Any] = dataclasses.asdict(settings)
    prompt = parse_prompt(asked.pop("prompts")).name
    asked |= {"budget": finder.budget, "unit": table.unit, "formats": palette.formats, "layers": palette.layers}
    return SearchRecord(
        model=model.name,
        weights_digest=model.weights_digest(),
        placement=palette.plans[0].placement,
        engine=asked.pop("engine") or PYTORCH,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        prompt=prompt,
        calibration=info.name if info else None,
        calibration_digest=info.digest if info else None,
        figures=figures,
        environment=surroundings(settings.engine or PYTORCH),
        settings={**asked, **found},
        results={"entries": [entry.to_json_dict() for entry in entries]},
        **fields,
    )


def _thin(front: Sequence[Choice], count: int) -> list[Choice]:
    """Thin a front out evenly to `count` members; the ends stay."""
    if len(front) <= count:
        return list(front)
    return [front[round(i * (len(front) - 1) / (count - 1))] for i in range(count)]
