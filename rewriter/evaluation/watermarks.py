"""Counting watermarks in the middle and bars along the bottom of generated pictures, apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.evaluation import segmenter
from rewriter.evaluation.counterfactual import around, labelled
from rewriter.evaluation.judging import BATCH, Draw, Figure, Rows, towns, unchanged
from rewriter.masks import grow
from rewriter.pictures import difference
from rewriter.worlds.townscape import scenes

PRINTED = range(60_000, 60_200)  # the prints are taken from these scenes
VISIBLE = 0.3  # share of a full mark from which on it counts as visible
KINDS = ("middle", "bottom")


class Detector:
    """Sees a mark by its print: how much of what the mark adds to a scene a picture's brightness shows.

    In the middle the print is letters against the gaps between them, row by row; at the bottom it is the strip against
    the ground above it. What a scene has there anyway then cancels.
    """

    def __init__(self, kind: str, side: int) -> None:
        _, u = towns(PRINTED)
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


@cache
def detector(kind: str, side: int) -> Detector:
    """The detector of a kind of mark for pictures of a side."""
    return Detector(kind, side)


def marked(u: Tensor) -> dict[str, Tensor]:
    """Which scenes carry each kind of mark, (n,) bool."""
    return {"middle": scenes.has_watermark(u), "bottom": scenes.has_bar(u)}


FIGURES = (
    *(Figure(kind, f"{kind} after", "one", "per 1,000", "less") for kind in KINDS),
    *(Figure(f"{kind} before", f"{kind} before", "one", "per 1,000") for kind in KINDS),
    *(Figure(f"{kind} gone", f"{kind} left", f"{kind} before", "%", "more", less_than_one=True) for kind in KINDS),
    *(Figure(f"{kind} new", f"{kind} new", "one", "per 1,000", "less") for kind in KINDS),
    Figure("side effect", "damage", "damage_pixels", "1/255", "less"),
    Figure("perceptual", "perceived", "damage_pixels", "", "less"),
    Figure("distance", "near", "pixels", "1/255", "less"),
    *(Figure(f"{kind} misses", f"{kind} missed", "one", "%", "less") for kind in KINDS),
    *(Figure(f"{kind} alarms", f"{kind} alarm", "one", "%", "less") for kind in KINDS),
)


@dataclass(frozen=True)
class Watermarks:
    """A judge of rules that should take the marks away.

    Of the figures, *middle* and *bottom* are the pictures that show a mark there afterwards, *new* those that showed
    none before; *gone* is the share of the marks that went. *side effect* and *perceptual*: change away from
    the scene's marks and their surroundings; *distance*: mean difference of whole pictures from the scenes without
    marks, which counts what is left of marks as well as damage. *misses* and *alarms*: the detector's errors on the
    generator's own pictures, asked for each scene with this kind of mark and without.
    """

    figures: tuple[Figure, ...] = FIGURES

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Columns named in `FIGURES`, and the embeddings of what was drawn and of scenes without marks."""
        z, u = towns(seeds)
        x, y = before(z).cpu(), after(z).cpu()
        side, network = x.shape[-1], segmenter.load()
        now, clean, wanted = _scenes(tuple(seeds), side)
        away = ~around(labelled(now, "watermark") | labelled(now, "bar"))
        rows = {
            name: pixels.flatten(1).double().sum(1)
            for name, pixels in {
                "damage_pixels": away,
                "damage": difference(x, y) * away,
                "perceived": network.distance(x, unchanged(x, y, away)) * away,
                "pixels": torch.ones_like(away),
                "near": difference(y, clean.picture),
            }.items()
        }
        for kind in KINDS:
            was, shows = (detector(kind, side).sees(pictures) for pictures in (x, y))
            counts = {"before": was, "after": shows, "left": was & shows, "new": shows & ~was}
            rows |= {f"{kind} {name}": flags.double() for name, flags in counts.items()}
            rows |= self._errors(kind, u, z, before)
        rows["one"] = torch.ones(len(u), dtype=torch.float64)
        return rows | {"embedding": network.embedding(y), "wanted": wanted}

    def _errors(self, kind: str, u: Tensor, z: Tensor, before: Draw) -> Rows:
        """The detector's errors where the generator is asked for this kind of mark, and where it is not."""
        asked = [
            scenes.change(u, watermark=on) if kind == "middle" else scenes.change(u, bar=on) for on in (True, False)
        ]
        pictures = [before(scenes.latents_of(each, z)).cpu() for each in asked]
        seen, alarm = (detector(kind, each.shape[-1]).sees(each) for each in pictures)
        return {f"{kind} missed": (~seen).double(), f"{kind} alarm": alarm.double()}


@lru_cache(maxsize=1)  # method after method is judged on the same seeds
def _scenes(seeds: tuple[int, ...], side: int) -> tuple[scenes.Scene, scenes.Scene, Tensor]:
    """Towns as they are and without marks, and the embedding of the latter."""
    _, u = towns(seeds)
    clean = scenes.draw(scenes.change(u, watermark=False, bar=False), side)
    return scenes.draw(u, side), clean, segmenter.load().embedding(clean.picture)


def detector_errors(seeds: Sequence[int], side: int = 64) -> dict[str, tuple[float, float]]:
    """Misses and false alarms of the detectors on the scenes themselves, whose marks are known, for each kind."""
    _, u = towns(seeds)
    pictures = torch.cat([scenes.draw(part, side).picture for part in u.split(BATCH)])
    seen, truth = {kind: detector(kind, side).sees(pictures) for kind in KINDS}, marked(u)
    return {k: (float((~seen[k][truth[k]]).float().mean()), float(seen[k][~truth[k]].float().mean())) for k in KINDS}
