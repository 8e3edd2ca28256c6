"""Makes the shipped edits of the face generator with the library, and a picture before and after for each.

`python -m rewriter.evaluation.face_examples rewriter/worlds/faces/examples/faces` writes them again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

from rewriter.editing.choose import execute
from rewriter.editing.edit import AUTO, Edit, save_edits
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.evaluation.face_edits import edit
from rewriter.generators.base import Generator
from rewriter.generators.latents import UNSEEN
from rewriter.hub.resolve import resolve
from rewriter.pictures import save_png, to_image
from rewriter.worlds.by_hand import as_shipped

NAMES = "glasses", "hat", "smile"
LOOKED = 48  # unseen faces that a card is chosen from


def example(generator: Generator, name: str, statistics: Statistics) -> tuple[Edit, Rule]:
    """An edit for which the machine has chosen form and numbers, and its rule, which a replay gives to the bit."""
    made = execute(generator, edit(generator, name).with_(form=AUTO), statistics=statistics).edit
    assert made is not None  # it names what was chosen
    return as_shipped(generator, made.with_(generator="faces"), statistics)


@torch.no_grad()
def card(generator: Generator, rule: Rule) -> Image.Image:
    """A typical face before and after, side by side: that of the median change."""
    seeds = range(UNSEEN, UNSEEN + LOOKED)
    before, after = (generator.sample(seeds, rules=own).clamp(-1, 1) for own in ([], [rule]))
    typical = int((after - before).abs().flatten(1).mean(1).median(0).indices)
    return to_image(torch.cat([before[typical], torch.ones(3, generator.resolution, 2), after[typical]], -1))


def main(folder: str) -> None:
    """Write every example, with its picture, into a folder."""
    generator = resolve("faces").load(device="cpu")
    statistics = Statistics(generator)
    for name in NAMES:
        made, rule = example(generator, name, statistics)
        assert rule.effect is not None  # replay measures it
        print(name, rule.layer, made.form, rule.effect.verdict, f"{rule.effect.took:.0%}")  # noqa: T201
        save_edits([made], Path(folder) / f"{name}.json")
        save_png(card(generator, rule), Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
