"""Requests to the server, after they are checked."""

from __future__ import annotations

from dataclasses import dataclass

from quantsam.prediction.grid import GridSettings
from quantsam.runtime.picture import PicturePrompts


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """What to segment, and with which models.

    Attributes:
        token: Token of the image.
        model: Name of the model.
        schemes: Names of schemes to compare with FP32.
        engine: What runs all of them.
        prompts: What to segment; no prompts mean everything.
        grid: Settings for segmenting everything.
    """

    token: str
    model: str
    schemes: tuple[str, ...]
    engine: str
    prompts: PicturePrompts
    grid: GridSettings


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """Which masks to save, and how.

    Attributes:
        masks: The request that the masks answered.
        scheme: Scheme whose masks to save, or FP32.
        kind: One of `saving.KINDS`.
        chosen: Number of the one object to save; None for all objects.
        numbers: For each prompt, the number of the mask to save; empty for the masks of highest predicted IoU.
        file_name: File name of the image, for the annotations.
    """

    masks: MaskRequest
    scheme: str
    kind: str
    chosen: int | None
    numbers: tuple[int, ...]
    file_name: str
