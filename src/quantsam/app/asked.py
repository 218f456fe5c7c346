"""What is asked of the server, once it is checked."""

from __future__ import annotations

from dataclasses import dataclass

from quantsam.prediction.grid import GridSettings
from quantsam.runtime.picture import PicturePrompts


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """What to segment and who shall do it.

    Attributes:
        token: Of the picture.
        model: Its name.
        schemes: To compare with FP32.
        engine: What runs all of them.
        prompts: What to segment; none means everything.
        grid: How everything is looked for.
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
        masks: What was segmented.
        scheme: Whose masks, perhaps FP32's.
        kind: One of `saving.KINDS`.
        chosen: The number of the one object to save; None: all.
        numbers: Of each prompt's masks the one that is meant; empty: those of highest predicted IoU.
        file_name: The picture's, for the annotations.
    """

    masks: MaskRequest
    scheme: str
    kind: str
    chosen: int | None
    numbers: tuple[int, ...]
    file_name: str
