"""Training samples of the nano recipe: windows of scenes and photographs, with prompts.

Everything is a function of (seed, step): a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from photographs import Mask, Pool
from scipy.ndimage import distance_transform_edt
from torch.utils.data import Dataset as TorchDataset
from windows import FRAME, MOST_MASKS, Window, balanced, draw_window

CELL = 4
SIDES = {160: 8, 224: 5, 320: 3}  # windows of this side: how many a step, times the batch
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """What a step is like.

    Attributes:
        side: Of its windows, px.
        windows: How many.
        rounds: How many corrective clicks come before the answer that is trained; 0 trains the first click's.
        feedback: Whether the answer before is a prompt too.
        boxed: Whether the objects that are clicked have their boxes as well.
    """

    side: int
    windows: int
    rounds: int
    feedback: bool
    boxed: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """The windows of a step and their prompts; coordinates are px of the frame.

    Attributes:
        form: What the step is like.
        images: (N, S, S, 3) uint8.
        corners: (N, 2) float32, where the windows lie in the frame.
        members: (N, S, S) int32; bit k of a pixel says whether it is in object k. Bits of no pixel are padding.
        complete: (N,) bool.
        seeds: (N, M, 2) int64, x y of a cell in each object.
        boxed: (N, B) int64, which objects are prompted by a box.
        boxes: (N, B, 4) float32.
        clicked: (N, C) int64, which objects are prompted by clicks.
        clicks: (N, C, 2) float32, the first one, inside the object.
        clicked_boxes: (N, C, 4) float32.
    """

    form: Form
    images: NDArray[np.uint8]
    corners: Float
    members: NDArray[np.int32]
    complete: NDArray[np.bool_]
    seeds: NDArray[np.int64]
    boxed: NDArray[np.int64]
    boxes: Float
    clicked: NDArray[np.int64]
    clicks: Float
    clicked_boxes: Float


def jittered(box: Float, side: int, rng: np.random.Generator) -> Float:
    """Return the box as it is, or with every side moved by up to 10 % of its length, at most 12 px."""
    if rng.random() < 0.6:
        return box
    lengths = np.tile(box[2:] - box[:2], 2)
    noise = np.clip(rng.normal(0, 0.05, 4), -0.1, 0.1) * lengths
    return np.clip(box + np.clip(noise, -12, 12), 0, side).astype(np.float32)


def deep_pixel(region: Mask, rng: np.random.Generator | None) -> NDArray[np.float32]:
    """Return x and y of a pixel deep inside a region, (2,) px: the deepest, or with `rng` one of the deep ones.

    Depth is the distance to the nearest pixel outside; beyond the window is outside. An empty region gives (0, 0).
    """
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if len(rows) == 0:
        return np.zeros(2, np.float32)
    top, left = rows[0], columns[0]
    part = region[top : rows[-1] + 1, left : columns[-1] + 1]
    depth = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    if rng is not None:
        deep = np.argwhere(depth > rng.uniform(0, 0.8) * depth.max())
        y, x = deep[rng.integers(len(deep))]
    return np.array([left + x, top + y], np.float32)


class StepDataset(TorchDataset[Batch]):
    """Item `i` is the batch of step `i`."""

    def __init__(
        self,
        seed: int,
        pool: Pool,
        *,
        sides: dict[int, float],
        prompts: tuple[int, int],
        pasting: float,
        batch: int = 1,
    ) -> None:
        """Make ready.

        Args:
            seed: Decides everything, with the step.
            pool: Pictures.
            sides: How often windows of each side are drawn.
            prompts: How many objects of a window are prompted by a box, and how many by clicks.
            pasting: Share of windows with objects of other photographs.
            batch: How many times the windows of `SIDES` a step has.
        """
        self.seed, self.pool, self.prompts, self.pasting, self.batch = seed, pool, prompts, pasting, batch
        self._sides = list(sides)
        self._often = np.array(list(sides.values())) / sum(sides.values())

    def form(self, step: int) -> Form:
        """Return what a step is like."""
        rng = np.random.default_rng((self.seed, 1, step))
        side = self._sides[rng.choice(len(self._sides), p=self._often)]
        rounds = 0 if rng.random() < 0.5 else int(rng.integers(1, 6))
        return Form(side, SIDES[side] * self.batch, rounds, bool(rng.random() < 0.2), bool(rng.random() < 0.15))

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step."""
        form = self.form(step)
        rng = np.random.default_rng((self.seed, 2, step))
        windows = [draw_window(self.pool, form.side, self.pasting, rng) for _ in range(form.windows)]
        prompted = [self._prompts(window, form, rng) for window in windows]
        return Batch(
            form=form,
            images=np.stack([w.image for w in windows]),
            members=np.stack([_members(w.masks) for w in windows]),
            complete=np.array([w.complete for w in windows]),
            **{name: np.stack([p[name] for p in prompted]) for name in prompted[0]},
        )

    def _prompts(self, window: Window, form: Form, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """Draw objects and prompts of a window: sizes in turn, again from the start where there are too few."""
        boxes, clicks = self.prompts
        areas = window.masks.sum((1, 2)).astype(np.float64)
        order = np.resize(balanced(areas, MOST_MASKS, rng), boxes + clicks)
        corner = np.zeros(2, np.float32)
        if rng.random() < 0.7:
            corner = (CELL * rng.integers((FRAME - form.side) // CELL + 1, size=2)).astype(np.float32)
        shift = np.tile(corner, 2)
        points = [deep_pixel(window.masks[k], None if rng.random() < 0.5 else rng) for k in order[boxes:]]
        seeds = np.zeros((MOST_MASKS, 2), np.int64)
        for k, mask in enumerate(window.masks):
            inside = np.argwhere(mask)
            seeds[k] = inside[rng.integers(len(inside))][::-1] // CELL
        drawn = np.stack([jittered(window.boxes[k], form.side, rng) for k in order])
        return {
            "corners": corner,
            "seeds": seeds,
            "boxed": order[:boxes],
            "boxes": drawn[:boxes] + shift,
            "clicked": order[boxes:],
            "clicks": (np.array(points, np.float32).reshape(-1, 2) + rng.uniform(-0.5, 0.5, 2) + corner).astype(
                np.float32
            ),
            "clicked_boxes": drawn[boxes:] + shift,
        }


def _members(masks: NDArray[np.bool_]) -> NDArray[np.int32]:
    bits = np.left_shift(1, np.arange(len(masks)), dtype=np.int32)
    members: NDArray[np.int32] = np.tensordot(bits, masks.astype(np.int32), 1)
    return members
