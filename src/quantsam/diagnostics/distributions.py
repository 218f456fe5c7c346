"""How all weights and activations are distributed under a plan, as a record."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from quantsam.data.open import ImageSource
from quantsam.diagnostics.observed import observe_distributions, save_histograms
from quantsam.evaluation.record_fields import exactness, fields_of_plan
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.progress import Progress
from quantsam.results.distribution_record import DistributionRecord, SiteDistribution
from quantsam.results.machine import environment
from quantsam.results.record import JsonValue, identity
from quantsam.results.store import ResultStore


def measure_distributions(
    model: EfficientViTSam,
    plan: Plan,
    images: ImageSource,
    *,
    store: ResultStore | None = None,
    histograms: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    notes: dict[str, JsonValue] | None = None,
) -> DistributionRecord:
    """Measure how the values of every site are distributed: each weight, and each activation over all images.

    Args:
        model: In float.
        plan: Calibrated, for this model.
        images: What to look at.
        store: Where the record is appended; if it holds this very measurement already, that is returned.
        histograms: A file for every channel's histogram, see `save_histograms`. A store
            does not keep these, so where a file is given the sites are measured in any case.
        progress: Wraps the iteration over the images.
        notes: Added to the record's settings.

    Returns:
        A record whose `sites` are what was found.

    Raises:
        PlanError: The plan is not calibrated, or was made for another model.
        CalibrationError: There are no images, or a value is not finite.
        StoreError: The store cannot be read or written.
    """
    record_id = identity(_depends_on(model, plan, images))
    found = store.find(record_id) if store is not None else None
    if isinstance(found, DistributionRecord) and histograms is None:
        return found
    seen = observe_distributions(model, plan, images, progress=progress)
    if histograms is not None:
        save_histograms(seen, histograms)
    sites = seen.summaries()
    roles = {site.role for site in plan.sites}
    record = DistributionRecord(
        id=record_id,
        model=model.name,
        weights_digest=model.weights_digest(),
        **fields_of_plan(plan),
        dataset=images.name,
        dataset_digest=images.digest,
        prompt=None,
        figures={"sites": len(sites), "images": seen.images, **_figures(sites)},
        settings={
            **({"weights": "weight" in roles, "activations": "activation" in roles} if roles else {}),
            **exactness(plan, True),
            **(notes or {}),
        },
        results={"sites": [site.to_json_dict() for site in sites]},
    )
    if store is not None and found is None:
        store.append(record)
    return record


def _figures(sites: Sequence[SiteDistribution]) -> dict[str, float | int | None]:
    """Percent of all quantized activations' values that are clipped, and the largest outlier ratio of any site."""
    rounded = [(s.clipped, s.values) for s in sites if s.role == "activation" and s.clipped is not None]
    values = sum(count for _, count in rounded)
    return {
        "clipped_percent": 100 * sum(share * count for share, count in rounded) / values if values else None,
        "outlier_ratio": max((s.outlier_ratio for s in sites if s.outlier_ratio is not None), default=None),
    }


def _depends_on(model: EfficientViTSam, plan: Plan, images: ImageSource) -> dict[str, JsonValue]:
    """Return all that the record depends on."""
    return {
        "distributions": [plan.scheme, plan.scheme_digest],
        "weights_digest": model.weights_digest(),
        "plan_digest": plan.digest,
        "dataset": images.name,
        "dataset_digest": images.digest,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        **environment(),
    }
