"""An edit of any generator, judged as the paper judges: LPIPS away from the thing, and pixels that a network names.

For generators whose pictures have no exact labels; the judges are `judges.lpips` and `judges.segmenter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rewriter.edit import Edit
from rewriter.effect import difference
from rewriter.evaluation.experiments import OURS, PAPER, Experiment
from rewriter.evaluation.judges import Perceptual, Segmenter
from rewriter.evaluation.judging import Draw, Figure, Rows
from rewriter.generators.latents import latents

FIGURES = (
    Figure("segmented", "became", "was", better="more"),
    Figure("side effect", "damage", "away", "1/255", "less"),
    Figure("LPIPS", "perceived", "away", "", "less"),
    Figure("pictures", "about", "one", "per 1,000"),
)


@dataclass(frozen=True)
class Photographs:
    """Of the pixels named `was` before, the share named `becomes` after; and how much changes away from `was`."""

    zdim: int
    was: str
    becomes: str
    segmenter: Segmenter
    lpips: Perceptual
    figures: tuple[Figure, ...] = FIGURES

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Columns named in `FIGURES`."""
        z = latents(list(seeds), self.zdim)
        x, y = before(z).clamp(-1, 1), after(z).clamp(-1, 1)
        named = [self.segmenter(pictures, [self.was, self.becomes]) for pictures in (x, y)]
        was = named[0] == 0
        columns = {
            "was": was,
            "became": was & (named[1] == 1),
            "away": ~was,
            "damage": difference(x, y) * ~was,
            "perceived": self.lpips(x, y) * ~was,
        }
        rows = {name: pixels.flatten(1).double().sum(1).cpu() for name, pixels in columns.items()}
        rows["about"] = was.flatten(1).any(1).double().cpu()
        return rows | {"one": torch.ones(len(z), dtype=torch.float64)}


def experiment(name: str, edit: Edit, judge: Photographs) -> Experiment:
    """An edit by every method that makes a rule; tuning all weights and copying pixels are for the built-in world."""
    methods = OURS | {name: method for name, method in PAPER.items() if name != "all-weights"}
    title, shown = f"{judge.was} becomes {judge.becomes}", ("segmented", "side effect", "LPIPS")
    return Experiment(name, title, judge, methods, shown, ("segmented", "LPIPS"), lambda _: [edit])
