"""Measure the real losses of choices: simulate each as a whole and compare it with FP32, object by object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from quantsam.data.dataset import Dataset
from quantsam.evaluation.journal import Outcomes
from quantsam.evaluation.prompts import Prompt
from quantsam.models.sam import EfficientViTSam
from quantsam.progress import Progress
from quantsam.results.record import identity
from quantsam.results.sensitivity_record import RowScore
from quantsam.runtime.engines import PYTORCH
from quantsam.search.palette import Choice, Palette
from quantsam.sensitivity.measure import RowMeter
from quantsam.sensitivity.rows import Row
from quantsam.sensitivity.table import RowPass

AT_ONCE = 8  # simulated encoders in memory


class Verifier:
    """Scores choices on images, each choice once.

    Attributes:
        scores: Scores of all choices so far.
    """

    def __init__(
        self,
        model: EfficientViTSam,
        palette: Palette,
        dataset: Dataset,
        image_ids: Sequence[int],
        prompt: Prompt,
        outcomes: Outcomes,
        progress: Callable[[str], Progress] | None = None,
        *,
        label: str = "verifying",
        engine: str = PYTORCH,
        workers: int | None = None,
    ) -> None:
        """Create a verifier. Results of an earlier, interrupted run in `outcomes` are not measured again.

        Args:
            model: The float model.
            palette: Formats and layers of the choices.
            dataset: Dataset to score on.
            image_ids: Ids of the images to use.
            prompt: Kind of prompts.
            outcomes: Journal of the results per image.
            progress: Maps a label to a wrapper of the iteration over the images.
            label: Label of the progress.
            engine: Engine that runs the choices; `pytorch` simulates.
            workers: Number of choices to compute in parallel; None for the number of processors.
        """
        self._model, self._palette, self._dataset, self._ids = model, palette, dataset, list(image_ids)
        self._prompt, self._outcomes, self._progress = prompt, outcomes, progress
        self._label, self._engine, self._workers = label, engine, workers
        self.scores: dict[Choice, RowScore] = {}

    def score(self, choices: Sequence[Choice]) -> Mapping[Choice, RowScore]:
        """Measure the choices that are not measured yet, several in parallel, and return all scores."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self.scores]
        for start in range(0, len(new), AT_ONCE):
            self._measure(new[start : start + AT_ONCE])
        return self.scores

    def _measure(self, choices: Sequence[Choice]) -> None:
        rows = [_row(self._palette, choice, str(number)) for number, choice in enumerate(choices)]
        base = dataclasses.replace(self._palette.plans[0], sites=())
        part = identity({"label": self._label, "choices": choices})
        engine, prompt = self._engine, self._prompt
        with RowMeter(self._model, base, rows, engine=engine, prompt=prompt, workers=self._workers) as meter:
            todo = RowPass(meter, rows, self._dataset, self._outcomes, part)
            todo.visit(
                self._ids, progress=self._progress(f"{self._label} {len(self.scores) + 1}") if self._progress else None
            )
        for row, choice in zip(rows, choices, strict=True):
            self.scores[choice] = todo.table.score(row)


def _row(palette: Palette, choice: Choice, name: str) -> Row:
    plan = palette.plan(choice)
    return Row(name, "both", "mixed", palette.layers, plan, frozenset(site.path for site in plan.sites))
