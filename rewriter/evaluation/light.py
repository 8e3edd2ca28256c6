"""The physical rule: lit windows throw light on the ground. How much of it is left, and do the windows still shine?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rewriter.evaluation import segmenter
from rewriter.evaluation.counterfactual import around, labelled
from rewriter.evaluation.judging import Draw, Figure, Rows, towns, unchanged
from rewriter.pictures import difference
from rewriter.worlds.townscape import scenes

STEADY = 0.05  # windows whose brightness changes by no more than this share stay as they are
FIGURES = (
    Figure("rule", "gap", "gap_before", "", ""),
    Figure("light left", "left", "thrown", better="less"),
    Figure("windows", "shine", "shone", better=""),
    Figure("windows' difference", "window_gap", "window_gap_before", "", ""),
    Figure("steady", "steady", "one", better="more"),
    Figure("side effect", "damage", "damage_pixels", "1/255", "less"),
    Figure("perceptual", "perceived", "damage_pixels", "", "less"),
    Figure("ground of unlit towns", "unlit_ground", "light", "1/255", ""),
)


@dataclass(frozen=True)
class Light:
    """A judge of rules about light: every town twice, with its lights on and with them off, otherwise the same.

    Of the figures, *rule* is the difference of light on the ground between the two, as a share of what it was: 1 is
    the world's rule, 0 none, −1 the rule upside down. *light left*: Σ|lit − unlit scene| over the light's pixels, as a
    share of what it was; ground darker than unlit counts too. *windows*: their brightness after over that before;
    *steady*: towns in which that is within 5 %. *windows' difference*: like *rule*, of the windows, which should stay
    at 1. *side effect*: mean change in both pictures away from the light and its surroundings, windows included.
    """

    figures: tuple[Figure, ...] = FIGURES

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Columns named in `FIGURES`, and the embeddings of lit towns and of what was wanted of them."""
        z, u = towns(seeds)
        lamps = [scenes.change(u, lit=on) for on in (True, False)]
        z_on, z_off = (scenes.latents_of(each, z) for each in lamps)
        x_on, x_off, y_on, y_off = (draw(at).cpu() for draw in (before, after) for at in (z_on, z_off))
        lit, unlit, wanted = _scenes(tuple(seeds), x_on.shape[-1])
        light, windows = labelled(lit, "light"), labelled(lit, "window")
        bright = [brightness(p) for p in (x_on, x_off, y_on, y_off)]
        dark, away = brightness(unlit.picture), ~around(light) | windows
        network, pairs = segmenter.load(), ((x_on, y_on), (x_off, y_off))
        shone, shine = ((b * windows).flatten(1).double().sum(1) for b in (bright[0], bright[2]))
        columns = {
            "light": light,
            "gap_before": (bright[0] - bright[1]) * light,
            "gap": (bright[2] - bright[3]) * light,
            "thrown": (bright[0] - dark).abs() * light,
            "left": (bright[2] - dark).abs() * light,
            "window_gap_before": (bright[0] - bright[1]) * windows,
            "window_gap": (bright[2] - bright[3]) * windows,
            "damage_pixels": 2.0 * away,
            "damage": sum(difference(*pair) for pair in pairs) * away,
            "perceived": sum(network.distance(x, unchanged(x, y, away)) for x, y in pairs) * away,
            "unlit_ground": difference(x_off, y_off) * light,
        }
        rows = {name: pixels.flatten(1).double().sum(1) for name, pixels in columns.items()}
        rows |= {"shone": shone, "shine": shine, "one": torch.ones_like(shone)}
        rows["steady"] = ((shine - shone).abs() <= STEADY * shone).double()
        return rows | {"embedding": network.embedding(y_on), "wanted": wanted}


@lru_cache(maxsize=1)  # method after method is judged on the same seeds
def _scenes(seeds: tuple[int, ...], side: int) -> tuple[scenes.Scene, scenes.Scene, Tensor]:
    """Towns with their lights on and off, and the embedding of those that are lit without lighting the ground."""
    lit, unlit = (scenes.change(towns(seeds)[1], lit=on) for on in (True, False))
    wanted = scenes.draw(lit, side, without="light").picture
    return scenes.draw(lit, side), scenes.draw(unlit, side), segmenter.load().embedding(wanted)


def brightness(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] → (n, H, W) in [0, 1]."""
    return (pictures.clamp(-1, 1).mean(1) + 1) / 2
