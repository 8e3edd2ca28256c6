"""Counting watermarks in the middle and bars along the bottom of generated pictures, apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.masks import grow
from rewriter.rule import Rule
from rewriter.townscape import scenes

JUDGED = range(20_000, 22_000)
PRINTED = range(60_000, 60_200)  # the prints are taken from these scenes
VISIBLE = 0.3  # share of a full mark from which on it counts as visible
KINDS = ("middle", "bottom")
BATCH = 50


@dataclass(frozen=True)
class Count:
    """One kind of mark: how many pictures visibly carry it before and with the rules, of how many pictures.

    misses, alarms: the detector's errors on pictures without rules: marked scenes in which it saw nothing, unmarked
    ones in which it saw a mark. Among the misses are marks that the generator did not draw.
    """

    before: int
    after: int
    pictures: int
    misses: float
    alarms: float

    @property
    def gone(self) -> float:
        """Share of the visible marks that the rules removed."""
        return 1 - self.after / self.before if self.before else float("nan")


class Detector:
    """Sees a mark by its print: how much of what the mark adds to a scene a picture's brightness shows.

    In the middle the print is letters against the gaps between them, row by row; at the bottom it is the strip against
    the ground above it. What a scene has there anyway then cancels.
    """

    def __init__(self, kind: str, side: int) -> None:
        u = scenes.factors(latents(list(PRINTED), scenes.LATENT_DIM))
        bare = scenes.change(u, watermark=False, bar=False)
        marked = scenes.change(bare, watermark=kind == "middle", bar=kind == "bottom")
        added = (scenes.draw(marked, side).picture - scenes.draw(bare, side).picture).mean((0, 1))  # (H, W)
        touched = added.abs() > 0.05
        if kind == "middle":
            self.fine, rows = True, touched
        else:
            self.fine, rows = False, grow(touched.float(), int(touched.any(1).sum()), 0, 0, 0) > 0
        added = self._local(added)
        self.print = torch.where(rows, added - added[rows].mean(), 0.0)
        self.print /= (added * self.print).sum()

    def _local(self, brightness: Tensor) -> Tensor:
        """Letters stand out from the nine pixels beside them; towers and roofs mostly do not."""
        if not self.fine:
            return brightness
        return brightness - F.avg_pool2d(brightness[None], (1, 9), 1, (0, 4), count_include_pad=False)[0]

    def score(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) → how much of a mark each shows, (n,): about 0 without one, about 1 with one."""
        return (self._local(pictures.clamp(-1, 1).mean(1)) * self.print).sum((1, 2))

    def sees(self, pictures: Tensor) -> Tensor:
        """Which pictures visibly show the mark, bool (n,)."""
        return self.score(pictures) > VISIBLE


@torch.no_grad()
def count_marks(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int] = JUDGED) -> dict[str, Count]:
    """Count visible marks before and with the rules, "middle" and "bottom" apart."""
    detectors = {kind: Detector(kind, generator.resolution) for kind in KINDS}
    seen: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for i in range(0, len(seeds), BATCH):
        batch = list(seeds[i : i + BATCH])
        u = scenes.factors(latents(batch, scenes.LATENT_DIM))
        before, after = (generator.sample(batch, rules=own).cpu() for own in ([], rules))
        truth = {"middle": scenes.has_watermark(u), "bottom": scenes.has_bar(u)}
        for kind, detector in detectors.items():
            seen[kind].append(torch.stack([truth[kind], detector.sees(before), detector.sees(after)]))
    return {kind: _count(torch.cat(parts, 1)) for kind, parts in seen.items()}


def detector_errors(seeds: Sequence[int] = JUDGED, side: int = 64) -> dict[str, tuple[float, float]]:
    """Misses and false alarms of the detectors on the scenes themselves, whose marks are known, for each kind."""
    u = scenes.factors(latents(list(seeds), scenes.LATENT_DIM))
    truth = {"middle": scenes.has_watermark(u), "bottom": scenes.has_bar(u)}
    pictures = torch.cat([scenes.draw(part, side).picture for part in u.split(BATCH)])
    seen = {kind: Detector(kind, side).sees(pictures) for kind in KINDS}
    return {k: (float((~seen[k][truth[k]]).float().mean()), float(seen[k][~truth[k]].float().mean())) for k in KINDS}


def _count(seen: Tensor) -> Count:
    """Rows of bool (3, n): marked in the scene, seen before, seen after."""
    marked, before, after = seen
    misses, alarms = float((~before[marked]).float().mean()), float(before[~marked].float().mean())
    return Count(int(before.sum()), int((before & after).sum()), seen.shape[1], misses, alarms)
