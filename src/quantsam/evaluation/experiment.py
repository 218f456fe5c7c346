"""Score several plans on one dataset, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from quantsam.data.dataset import Dataset
from quantsam.data.detections import DetectionFile
from quantsam.evaluation.evaluator import evaluate
from quantsam.evaluation.gallery import keep_gallery
from quantsam.evaluation.quantized import quantized_model
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.progress import Progress
from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import PYTORCH
from quantsam.runtime.sessions import Precision


def score_plans(
    model: EfficientViTSam,
    plans: Sequence[Plan],
    dataset: Dataset,
    *,
    prompts: str = "box",
    detections: DetectionFile | None = None,
    engine: str = PYTORCH,
    precision: Precision = "f32",
    store: ResultStore | None = None,
    settings: dict[str, JsonValue] | None = None,
    progress: Callable[[str], Progress] | None = None,
    gallery: int = 0,
    again: bool = False,
) -> Iterable[Record]:
    """Score the model under each plan; a plan without sites is the float model.

    Args:
        model: The float model.
        plans: Calibrated plans.
        dataset: The dataset to score on.
        prompts: Kind of prompt.
        detections: A detector's boxes, instead of `prompts`.
        engine: What computes the embeddings: `pytorch` simulates the plans; an engine runs them, and the plans must
            have its placement.
        precision: Precision of the parts that the plan leaves in float, on an engine.
        store: The store that receives each record, or already holds it; see `evaluate`.
        settings: Added to each record's settings.
        progress: Takes a label and returns a wrapper for the iteration over the images.
        gallery: Number of worst, median and best objects of each quantized record whose images are kept in the store;
            ignored for a detector's boxes.
        again: Score again even if the store holds the record.

    Yields:
        One record per plan, in order.
    """
    for plan in plans:
        quantized = quantized_model(model, plan, engine, precision)
        wrap = progress(plan.scheme) if progress else None
        record = evaluate(
            quantized,
            dataset,
            prompts=prompts,
            detections=detections,
            store=store,
            progress=wrap,
            settings=settings,
            again=again,
        )
        if gallery and plan.sites and store is not None and detections is None and not store.gallery(record.id):
            keep_gallery(store, quantized, record, dataset, each=gallery)
        yield record
