"""An edit of any generator, judged as the paper judges: LPIPS away from the thing, and pixels that a network names.

For generators whose pictures have no exact labels; the judges are `judges.lpips` and `judges.segmenter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rewriter.editing.edit import Edit
from rewriter.evaluation.experiments import ONE_GOAL, OURS, PAPER, Experiment
from rewriter.evaluation.judges import Perceptual, Segmenter
from rewriter.evaluation.judging import Draw, Figure, Rows, unchanged
from rewriter.generators.latents import latents
from rewriter.pictures import difference

FIGURES = (
    Figure("segmented", "became", "was", better="more"),
    Figure("side effect", "damage", "away", "1/255", "less"),
    Figure("LPIPS", "perceived", "away", "", "less"),
    Figure("pictures", "about", "one", "per 1,000"),
)


@dataclass(frozen=True)
class Photographs:
    """Of the pixels named `was` before, the share named `becomes` after; and how much changes away from `was`.

    Without a segmenter all of a picture counts as away; without LPIPS there is no perceptual distance.
    """

    zdim: int
    was: str
    becomes: str
    segmenter: Segmenter | None
    lpips: Perceptual | None
    figures: tuple[Figure, ...] = FIGURES

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Columns named in `FIGURES`."""
        z = latents(list(seeds), self.zdim)
        x, y = before(z).clamp(-1, 1), after(z).clamp(-1, 1)
        was = became = torch.zeros_like(x[:, 0], dtype=torch.bool)
        if self.segmenter is not None:
            named = [self.segmenter(pictures, [self.was, self.becomes]) for pictures in (x, y)]
            was, became = named[0] == 0, (named[0] == 0) & (named[1] == 1)
        columns = {"was": was, "became": became, "away": ~was, "damage": difference(x, y) * ~was}
        columns["perceived"] = torch.full_like(x[:, 0], torch.nan)
        if self.lpips is not None:
            columns["perceived"] = self.lpips(x, unchanged(x, y, ~was)) * ~was
        rows = {name: pixels.flatten(1).double().sum(1).cpu() for name, pixels in columns.items()}
        rows["about"] = was.flatten(1).any(1).double().cpu()
        return rows | {"one": torch.ones(len(z), dtype=torch.float64)}


def experiment(name: str, edit: Edit, judge: Photographs) -> Experiment:
    """An edit by every method that makes a rule; tuning all weights and copying pixels are for the built-in world."""
    methods = OURS | ONE_GOAL | {name: method for name, method in PAPER.items() if name != "all-weights"}
    title, shown = f"{judge.was} becomes {judge.becomes}", ("segmented", "side effect", "LPIPS")
    return Experiment(name, title, judge, methods, shown, ("segmented", "LPIPS"), lambda _: [edit])
