"""Makes the shipped things of a built-in world: `python -m rewriter.evaluation.make_things [GENERATOR …]`.

For towns: the units that draw a label best, of what three pictures show of it. For people the layer and the number of
units were chosen by looking at what they paint: compared by pixels, a smear of the right colour does well.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rewriter import worlds
from rewriter.editing.edit import Edit, save_edits
from rewriter.editing.region import Region
from rewriter.editing.session import Rewriter
from rewriter.editing.stroke import Stroke
from rewriter.files import write_json
from rewriter.generators.base import Generator
from rewriter.generators.latents import UNSEEN
from rewriter.hub.resolve import load_generator
from rewriter.masks import as_mask, resize
from rewriter.pictures import save_png
from rewriter.units.dissect import dissect, scene_labels
from rewriter.units.shipped import FOLDER, VERSION
from rewriter.units.thing import TRIED, Thing, Tried, choose, contrast, made_of, point, with_few
from rewriter.worlds import segmenter
from rewriter.worlds.by_hand import card
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

THINGS = ("tree", "door", "window", "dome", "spire", "cloud", "light")
POINTED, NUMBER, SIDE = range(400), 3, 64
PORTRAITS = {  # the layer and how many of its units; the pictures that were pointed at, and labels that are the thing
    "hat": ("layer5", 60, (33,), ("hat",)),
    "smile": ("layer6", 20, (6, 14, 120), ("smile", "teeth")),
    "hair": ("layer5", 40, (12, 13, 23), ("hair",)),
    "stamp": ("layer6", 40, (11, 23, 36), ("stamp",)),
}
GLASSES_AT, GLASSES_BY = "layer1", 120
EYES = {  # seeds of faces with glasses, and ovals over their eyes: row, column, half height and half width, in shares
    10046: (0.45, 0.51, 0.18, 0.37),
    10393: (0.47, 0.5, 0.16, 0.34),
    10559: (0.47, 0.49, 0.16, 0.34),
}
COUNTS = 10, 20, 40
DRIVEN = {"door": {"townscape": 2.0, "townscape-128": 1.5}}  # by how much; chosen by looking at walls and at skies
MARKS, ZEROED_AT, ZEROED = ("watermark", "bar"), "layer6", 0.12  # as in `evaluate watermark`
WORTH = 0.2  # score from which a thing is worth painting with


def marks(label: str) -> list[Region]:
    """Three pictures that show much of a thing of towns, with its exact mask."""
    shown = WORLD.described(POINTED, SIDE).where(label).float()
    best = shown.sum((1, 2)).argsort(descending=True, stable=True)[:NUMBER].tolist()
    return [Region(seed, as_mask(shown[seed])) for seed in best]


def made(generator: Generator) -> dict[str, Any]:
    """What the shipped file holds: the things that painting draws."""
    world = worlds.of(generator)
    things = things_of_faces(generator) if world is None else MAKERS[world.name](generator)
    about = {"version": VERSION, "generator": generator.name, "fingerprint": generator.fingerprint}
    return {**about, "things": [each.to_json() for each in things]}


def things_of_towns(generator: Generator) -> list[Thing]:
    """For each label the units that `choose` finds, if they draw it well enough."""
    things = []
    for label in THINGS:
        found = choose(generator, marks(label), name=label)
        if label in DRIVEN:
            found = _driven(generator, found.thing.layer, label)
        print(f"{generator.name}, {label}: {found.thing.layer}, {len(found.thing.units)} units, {found.score:.2f}")  # noqa: T201
        if found.score >= WORTH:
            things.append(found.thing)
    return things


def things_of_portraits(generator: Generator) -> list[Thing]:
    """What can be painted on people; glasses, beards and earrings become smears at every layer."""
    things = []
    for name, (layer, count, seeds, labels) in PORTRAITS.items():
        shown = worlds.named("portraits").described(seeds, SIDE).where(*labels).float()
        pointed = [Region(seed, as_mask(mask)) for seed, mask in zip(seeds, shown, strict=True)]
        things.append(with_few(generator, _strongest(generator, pointed, layer, count, name)))
    return things


def things_of_faces(generator: Generator) -> list[Thing]:
    """Glasses, by units of the coarsest layer, which `choose` does not prefer; all of its units, see README.

    It compares pixels, and frames stand a little elsewhere on each face.
    """
    ovals = [_oval(*place) for place in EYES.values()]
    pointed = [Region(seed, as_mask(mask)) for seed, mask in zip(EYES, ovals, strict=True)]
    return [_strongest(generator, pointed, GLASSES_AT, GLASSES_BY, "glasses")]


MAKERS = {"townscape": things_of_towns, "portraits": things_of_portraits}


def _strongest(generator: Generator, pointed: list[Region], layer: str, count: int, name: str) -> Thing:
    """A thing by the units that are strongest on it, compared with the same places of other pictures."""
    order = contrast(generator, pointed, layer)
    found = made_of(generator, point(generator, pointed, layer), count, name=name, order=order)
    return replace(found, marks=tuple(pointed))


@torch.no_grad()
def _driven(generator: Generator, layer: str, label: str) -> Tried:
    """A thing that `choose` draws too faintly, by the units and levels that the segmenter reads as it most often.

    A door is two cells wide: most of the units that draw it follow their neighbours, and the others must go further. If
    they go further still, the sky, where there is no door, shows a dark rectangle instead.
    """
    pointed, tried = marks(label), list[Tried]()
    agreement = point(generator, pointed, layer)
    for count in COUNTS:
        found = made_of(generator, agreement, count, name=label, gain=DRIVEN[label][generator.name])
        share = []
        for mark in pointed:
            change = found.stroke(Region(0, mark.mask)).change(generator.layer(layer))
            drawn = generator.sample(list(TRIED), rules=[change]).clamp(-1, 1)
            read = segmenter.load().labels(drawn) == scenes.LABELS.index(label)
            inside = resize(mark.mask, (drawn.shape[2], drawn.shape[3])) > 0.5
            share.append(read[:, inside].float().mean(1))
        tried.append(Tried(replace(found, marks=tuple(pointed)), float(torch.cat(share).mean())))
    best = max(tried, key=lambda each: each.score)
    return replace(best, thing=with_few(generator, best.thing))


def watermark_units_off(generator: Generator) -> Edit:
    """The units that agree best with watermarks and bars, off everywhere: as GAN Dissection removes them."""
    labels, share = scene_labels(WORLD, MARKS, together=True), round(ZEROED * generator.layer(ZEROED_AT).out_channels)
    found = dissect(generator, ZEROED_AT, (" or ".join(MARKS),), labels)
    units = [int(unit) for unit in found.iou[0].argsort(descending=True, stable=True)[:share]]
    session = Rewriter(generator, ZEROED_AT)
    session.switch_units(Stroke(ZEROED_AT, tuple(units), (0.0,) * len(units), thing="no watermark"))
    return session.edit.with_(title="watermark units off", form="units")


def _oval(row: float, column: float, height: float, width: float) -> torch.Tensor:
    """An oval around a middle, in shares of the side: 1 inside."""
    at = (torch.arange(SIDE) + 0.5) / SIDE
    return (((at[:, None] - row) / height) ** 2 + ((at[None] - column) / width) ** 2 <= 1).float()


def main(names: list[str], folder: Path = FOLDER) -> None:
    """Write one file for each generator."""
    folder.mkdir(exist_ok=True)
    for name in names or ("townscape", "townscape-128", "portraits", "faces"):
        generator = load_generator(name, device="cpu")
        write_json(made(generator), folder / f"{name}.json", indent=0)
        if worlds.of(generator) is WORLD:
            write_example(generator, worlds.examples(name)["remove-watermark"].parent)


def write_example(generator: Generator, folder: Path) -> None:
    """Write the edit that switches watermark units off beside the one that removes watermarks by a rule."""
    edit, name = watermark_units_off(generator), "watermark-units-off"
    seeds = [seed for seed in range(UNSEEN, UNSEEN + 400) if factors.has_watermark(WORLD.read([seed])[1]).any()]
    save_edits([edit], folder / f"{name}.json")
    save_png(card(generator, [edit], lambda others: seeds), folder / f"{name}.png")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(sys.argv[1:])
