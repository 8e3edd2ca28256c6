"""Judges an edit of any generator as the paper does: LPIPS away from the thing, and pixels that a network labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rewriter.editing.edit import Edit
from rewriter.evaluation.judges import LPIPS, CLIPSeg
from rewriter.evaluation.methods import ONE_GOAL, OURS, PAPER
from rewriter.evaluation.metrics import Draw, Judge, Metric, Rows, ratios
from rewriter.evaluation.run import Experiment
from rewriter.generators.latents import latents
from rewriter.pictures import difference

METRICS = (
    Metric("segmented", better="more"),
    Metric("side effect", "1/255", "less"),
    Metric("LPIPS", "", "less"),
    Metric("pictures", "per 1,000"),
)


@dataclass(frozen=True)
class Photographs:
    """Without a segmenter no pixels are labelled `was` or `becomes`; without LPIPS that metric is not defined."""

    zdim: int
    was: str
    becomes: str
    segmenter: CLIPSeg | None
    lpips: LPIPS | None

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Rows of `METRICS`."""
        z = latents(list(seeds), self.zdim)
        x, y = before(z).clamp(-1, 1), after(z).clamp(-1, 1)
        was = became = torch.zeros_like(x[:, 0], dtype=torch.bool)
        if self.segmenter is not None:
            one, other = (self.segmenter(pictures, [self.was, self.becomes]) for pictures in (x, y))
            was, became = one == 0, (one == 0) & (other == 1)
        perceived = torch.full_like(x[:, 0], torch.nan)
        if self.lpips is not None:
            perceived = self.lpips(x, torch.where(was[:, None], x, y)) * ~was
        about, away = was.flatten(1).any(1), ~was
        damage = {"side effect": (difference(x, y) * away, away), "LPIPS": (perceived, away)}
        return ratios({"segmented": (became, was), **damage, "pictures": (about, torch.ones_like(about))})


def experiment(name: str, edit: Edit, judge: Photographs) -> Experiment:
    """An edit by every method that makes a rule. Tuning all weights and copying pixels need the built-in world."""
    methods = OURS | ONE_GOAL | {name: method for name, method in PAPER.items() if name != "all-weights"}
    shown, title = ("segmented", "side effect", "LPIPS"), f"{judge.was} → {judge.becomes}"
    return Experiment(name, Judge(METRICS, judge), methods, lambda _: [edit], shown, (shown[0], shown[2]), title=title)
