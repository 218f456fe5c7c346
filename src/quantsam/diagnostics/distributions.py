"""Record how all weights and activations are distributed under a plan."""

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
    """Measure the distribution of every site's values: each weight, and each activation over all images.

    Args:
        model: The float model.
        plan: A calibrated plan for this model.
        images: The images to measure on.
        store: The store that receives the record; if it already holds the same measurement, that record is returned.
        histograms: A file for every channel's histogram; see `save_histograms`. A store does not keep the histograms,
            so the sites are always measured if a file is given.
        progress: Wraps the iteration over the images.
        notes: Added to the record's settings.

    Returns:
        A record with the results in `sites`.

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
    """Return the percentage of clipped values in all quantized activations, and the largest outlier ratio."""
    rounded = [(s.clipped, s.values) for s in sites if s.role == "activation" and s.clipped is not None]
    values = sum(count for _, count in rounded)
    return {
        "clipped_percent": 100 * sum(share * count for share, count in rounded) / values if values else None,
        "outlier_ratio": max((s.outlier_ratio for s in sites if s.outlier_ratio is not None), default=None),
    }


def _depends_on(model: EfficientViTSam, plan: Plan, images: ImageSource) -> dict[str, JsonValue]:
    """Return everything that the record depends on."""
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
