"""Makes the shipped things of a built-in world: `python -m rewriter.units.make_things [GENERATOR …]`.

For each label of the world: three pictures that show much of it, the units that draw it best on others.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from rewriter.editing.region import Region
from rewriter.files import write_json
from rewriter.generators.base import Generator
from rewriter.masks import as_mask
from rewriter.units.shipped import FOLDER, VERSION
from rewriter.units.thing import choose
from rewriter.worlds import townscape
from rewriter.worlds.townscape import scenes

THINGS = ("tree", "door", "window", "dome", "spire", "cloud", "light")
POINTED, NUMBER, SIDE = range(400), 3, 64
WORTH = 0.2  # score from which a thing is worth painting with


def marks(label: str) -> list[Region]:
    """Three pictures that show much of a thing, with its exact mask."""
    shown = scenes.described(POINTED, SIDE).where(label).float()
    best = shown.sum((1, 2)).argsort(descending=True, stable=True)[:NUMBER].tolist()
    return [Region(seed, as_mask(shown[seed])) for seed in best]


def made(generator: Generator, labels: tuple[str, ...] = THINGS) -> dict[str, Any]:
    """What the shipped file holds: the things that painting draws."""
    things = []
    for label in labels:
        found = choose(generator, marks(label), name=label)
        print(f"{generator.name}, {label}: {found.thing.layer}, {len(found.thing.units)} units, {found.score:.2f}")  # noqa: T201
        if found.score >= WORTH:
            things.append(found.thing.to_json())
    return {"version": VERSION, "generator": generator.name, "fingerprint": generator.fingerprint, "things": things}


def main(names: list[str], folder: Path = FOLDER) -> None:
    """Write one file for each generator."""
    folder.mkdir(exist_ok=True)
    for name in names or townscape.WEIGHTS:
        write_json(made(townscape.load(name)), folder / f"{name}.json", indent=0)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(sys.argv[1:])
