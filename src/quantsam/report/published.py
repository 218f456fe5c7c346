"""Numbers that the thesis behind this project published for the official models. None was measured here."""

from __future__ import annotations

import csv
import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

_FOLDER = resources.files("quantsam.report") / "thesis"
THESIS: dict[str, Any] = json.loads((_FOLDER / "published.json").read_text("utf-8"))
"""`source`, `data`, `models`, and `rows`: by scheme, lists in the order of the models."""


@dataclass(frozen=True, slots=True)
class ThesisPoint:
    """A scheme of an official model, on COCO val2017 with ground-truth boxes.

    Attributes:
        scheme: Name of the scheme.
        miou: mIoU in percent: simulated, but FP32's was measured with TensorRT.
        saved_mib: Size saved against FP16, in MiB.
        tensorrt_miou: mIoU of the deployed engine in percent, if it was published.
    """

    scheme: str
    miou: float
    saved_mib: float
    tensorrt_miou: float | None = None


def thesis_point(model: str, scheme: str) -> ThesisPoint:
    """Return one published point of a model in `THESIS["models"]`."""
    index, row = _index(model), THESIS["rows"][scheme]
    deployed = row["tensorrt_miou"][index] if "tensorrt_miou" in row else None
    return ThesisPoint(scheme, row["miou"][index], row["saved_mib"][index], deployed)


def thesis_points(model: str) -> list[ThesisPoint]:
    """Return the published points of a model, FP32 first; none if it is not an official one."""
    return [thesis_point(model, scheme) for scheme in THESIS["rows"]] if is_official(model) else []


@functools.cache
def thesis_drops(model: str) -> dict[str, float]:
    """Return the mIoU points that each layer alone cost in the thesis, by address; none for other models.

    The FP32 baseline is the published one, rounded to a tenth.
    """
    if not is_official(model):
        return {}
    whole = thesis_point(model, "fp32").miou
    text = (_FOLDER / f"sensitivity_{model.lower()}.csv").read_text("utf-8")
    return {row["layer"]: whole - float(row["miou_all"]) for row in csv.DictReader(text.splitlines())}


def is_official(model: str) -> bool:
    """Return whether a name is that of an official model, in upper or lower case."""
    return model.upper() in THESIS["models"]


def _index(model: str) -> int:
    index: int = THESIS["models"].index(model.upper())
    return index
