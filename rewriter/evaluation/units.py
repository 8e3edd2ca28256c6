"""What units do on the built-in world: which thing each layer's best unit draws, and painting with them, judged.

Trees and doors are painted with the things that are shipped, on towns that nobody looked at; the segmenter says what is
there afterwards, and the scene without the trees what was hidden behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rewriter import masks, worlds
from rewriter.editing.edit import load_edits
from rewriter.editing.execute import replay
from rewriter.editing.region import Region
from rewriter.editing.session import Rewriter
from rewriter.errors import OnStep, report
from rewriter.evaluation import FIRST_SEED
from rewriter.evaluation.counterfactual import ADD_TREE
from rewriter.evaluation.faces import Faces, look
from rewriter.evaluation.metrics import Draw
from rewriter.evaluation.tables import markdown_table
from rewriter.evaluation.wearing import Wearing
from rewriter.generators.base import Generator
from rewriter.generators.beside import form_of
from rewriter.generators.change import LowRank
from rewriter.pictures import difference, stacked
from rewriter.units.dissect import dissect, scene_labels
from rewriter.units.shipped import named
from rewriter.units.survival import Left, survival
from rewriter.units.thing import Thing, point
from rewriter.worlds import segmenter
from rewriter.worlds.base import Scene
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

THINGS = ("dome", "spire", "window", "door", "light", "tree", "watermark", "sky", "ground")
POINTED, FIRST = ("tree", "door", "dome", "cloud", "light"), 10
BATCH, MOST = 20, 300  # pictures at once, and for each row
JUDGED = ("changed", "elsewhere", "others")
HARDLY = 0.95  # share of a door's place that must be wall, or sky
Row = dict[str, Any]


def best_units(generator: Generator, on_step: OnStep | None = None) -> list[Row]:
    """For each thing the unit that agrees with it best, of all layers: at its 0.99 quantile, and at its best level."""
    layers = [name for name, info in generator.layers.items() if info.resolution >= 8]
    found = {}
    for i, layer in enumerate(layers):
        found[layer] = dissect(generator, layer, THINGS, scene_labels(WORLD, THINGS))
        report(on_step, i + 1, len(layers))
    rows = []
    for t, thing in enumerate(THINGS):
        row: Row = {"thing": thing}
        for name in ("iou", "best"):
            value, layer = max((float(getattr(each, name)[t].max()), layer) for layer, each in found.items())
            unit = int(getattr(found[layer], name)[t].argmax())
            row |= {name: value, f"{name} at": f"{layer}, unit {unit}"}
            if name == "best":
                row["auc"] = float(found[layer].auc[t, unit])
        rows.append(row)
    return rows


def towns(generator: Generator, count: int, on_step: OnStep | None = None) -> dict[str, list[Row]]:
    """Everything that is measured on towns, as tables by title; `count` pictures for each row."""
    return {
        "units and things": best_units(generator, on_step),
        "pointing": [pointed(generator, name) for name in POINTED],
        "trees": [trees_drawn(generator, count), trees_removed(generator, count)],
        "doors": doors(generator, count),
        "a painted tree as a rule": rules_of_trees(generator, count),
    }


def faces(generator: Generator) -> tuple[list[Row], Image.Image]:
    """Glasses switched off on faces, and a sheet of every wearer before and after."""
    row, before, after = glasses_off(generator, look(generator))
    return [row], stacked([before, after], [""] * len(before), columns=14, title="glasses switched off")


def pointed(generator: Generator, name: str) -> Row:
    """How many of the first ten units that labels find are found by pointing at a thing on two pictures."""
    layer = named(generator, name).layer
    by_labels = dissect(generator, layer, [name], scene_labels(WORLD, [name])).order()[:FIRST]
    by_hand = point(generator, named(generator, name).marks[:2], layer).order()[:FIRST]
    return {"thing": name, "layer": layer, f"of the first {FIRST}": len({*by_labels} & {*by_hand})}


def rules_of_trees(generator: Generator, count: int) -> list[Row]:
    """The shipped edit that adds a tree, and the same with a painted tree in place of the copied one.

    Both are executed as usual, and judged by the exact counterfactual: towns with a tree on the right.
    """
    (edit,) = load_edits(worlds.examples(generator.name)["add-tree"])
    assert edit.paste is not None and edit.copy is not None
    session = Rewriter(generator)
    for region in edit.context:
        session.add_context(region.seed, region.mask)
    # as large as the copied tree, where that was pasted
    (row, column), box = masks.centre(edit.paste.mask), masks.bounds(edit.copy.mask, above=0.5)
    place = Region(edit.paste.seed, _oval_at(edit.paste.mask.shape, (row, column), box.size))
    session.paint(named(generator, "tree").stroke(place))
    rows = []
    for what, rule in (("copied", replay(generator, edit)), ("painted", session.execute())):
        judged = ADD_TREE.rows(range(FIRST_SEED, FIRST_SEED + count), *_draws(generator, rule))
        rows.append({"tree": what, "layer": rule.layer, "form": form_of(rule.beside), **_means(judged)})
    return rows


def _draws(generator: Generator, rule: LowRank) -> tuple[Draw, Draw]:
    """How to draw latents without and with a rule."""
    before, after = ((lambda z, rules=rules: generator(z, rules=rules).clamp(-1, 1)) for rules in ([], [rule]))
    return before, after


def _means(rows: Mapping[str, Tensor]) -> Row:
    """The means of some metrics over all pictures."""
    return {name: float(rows[name][:, 0].sum() / rows[name][:, 1].sum()) for name in JUDGED}


@dataclass(frozen=True)
class Places:
    """Where to paint: seeds, what is painted on each (n, H, W), and the part of it that is judged."""

    seeds: list[int]
    painted: Tensor
    judged: Tensor | None = None  # None: all of it

    @property
    def away(self) -> Tensor:
        """Pixels outside the painted place and its surroundings, (n, H, W) bool."""
        return ~masks.around(self.painted > 0)


def painted(generator: Generator, thing: Thing, places: Places, *, remove: bool = False) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, H, W) before and after a stroke on each of them."""
    before, after = [], []
    for i in range(0, len(places.seeds), BATCH):
        seeds, info = places.seeds[i : i + BATCH], generator.layer(thing.layer)
        strokes = [
            thing.stroke(Region(seed, masks.as_mask(mask)), remove=remove)
            for seed, mask in zip(seeds, places.painted[i : i + BATCH], strict=True)
        ]
        before.append(generator.sample(seeds, rules=[]))
        after.append(generator.sample(seeds, rules=[[stroke.change(info)] for stroke in strokes]))
    return torch.cat(before).clamp(-1, 1), torch.cat(after).clamp(-1, 1)


def trees_drawn(generator: Generator, count: int) -> Row:
    """Trees painted where the world may have one: an oval over the place of the tree that the scene lacks."""
    seeds, side = _seeds(lambda u: ~factors.has_right_tree(u), count), generator.resolution
    _, u = WORLD.read(seeds)
    then = scenes.draw(factors.change(u, right_tree=True), side).where("tree") & ~scenes.draw(u, side).where("tree")
    shown = then.flatten(1).any(1)
    places = Places([s for s, on in zip(seeds, shown.tolist(), strict=True) if on], _ovals(then[shown]))
    return {"what": "trees painted where they may stand", **_read_as(generator, named(generator, "tree"), places)}


def trees_removed(generator: Generator, count: int) -> Row:
    """Trees painted away: how much of them is gone, and whether what appears is what the scene has behind them."""
    seeds, side = _seeds(factors.has_right_tree, count), generator.resolution
    _, u = WORLD.read(seeds)
    scene, behind = scenes.draw(u, side), scenes.draw(u, side, without="tree").picture
    tree, brush = scene.where("tree"), round(side / 32)
    places = Places(seeds, masks.grow(tree.float(), brush, brush, brush, brush))
    before, after = painted(generator, named(generator, "tree"), places, remove=True)
    was, still = (_labelled(each, "tree") for each in (before, after))
    nearer = (after - behind).square().sum(1) < (after - scene.picture).square().sum(1)
    visible = tree & ((scene.picture - behind).square().sum(1) > 0.01)
    return {
        **{"what": "trees painted away", "pictures": len(seeds)},
        "gone": float((was & ~still).sum() / was.sum()),
        "as behind them": float(nearer[visible].float().mean()),
        "elsewhere": float(difference(before, after)[places.away].mean()),
    }


def doors(generator: Generator, count: int) -> list[Row]:
    """Doors painted at the foot of a wall, anywhere on a wall, and in the sky.

    What is judged has the size of the town's own door; the brush reaches a 64th of the picture's side beyond it.
    """
    seeds, side = list(range(FIRST_SEED, FIRST_SEED + count)), generator.resolution
    scene = WORLD.described(seeds, side)
    thing, rows = named(generator, "door"), []
    for what, where in (
        ("at the foot of a wall", ("wall",)),
        ("anywhere on a wall", ("wall", "tower", "window")),
        ("in the sky", ("sky", "cloud")),
    ):
        places = _doors(seeds, scene, where, foot="foot" in what)
        regions = [Region(seed, masks.as_mask(mask)) for seed, mask in zip(places.seeds, places.painted, strict=True)]
        left = [survival(generator, thing, thing.stroke(region)).left for region in regions[:BATCH]]
        steps = {name: sum(each.share for each in one) / len(one) for name, one in _by_layer(left).items()}
        rows.append({"what": f"doors painted {what}", **_read_as(generator, thing, places), "left": steps})
    return rows


def _by_layer(walks: Sequence[Sequence[Left]]) -> dict[str, list[Left]]:
    return {column[0].layer: list(column) for column in zip(*walks, strict=True)}


def glasses_off(generator: Generator, faces: Faces) -> tuple[Row, Tensor, Tensor]:
    """The shipped glasses switched off on every face that wears them; the pictures before and after.

    Inside the places that were pointed at together: as a rule it acts there on every face. Faces that were pointed at
    do not count. "lost": of the wearers whom the judge sees, those whom it does not see any more.
    """
    frontal = faces.only([i for i, on in enumerate(faces.landmarks.frontal.tolist()) if on])
    judge, thing = Wearing(frontal), named(generator, "glasses")
    pointed = {mark.seed for mark in thing.marks}
    place = replace(thing.marks[0], mask=torch.stack([mark.mask for mark in thing.marks]).amax(0))
    change = thing.stroke(place, remove=True).change(generator.layer(thing.layer))
    rows = [i for i, on in enumerate(judge.worn.tolist()) if on and frontal.seeds[i] not in pointed]
    after = frontal.pictures.clone()
    after[rows] = generator.sample([frontal.seeds[i] for i in rows], rules=[change]).cpu().clamp(-1, 1)
    seen = (judge(frontal.pictures) > 0)[rows]
    lost = (judge(after) <= 0)[rows] & seen
    near = masks.resize(place.mask, (generator.resolution,) * 2) > 0
    away = ~masks.around(near[None]).expand(len(rows), -1, -1)
    changed = difference(frontal.pictures[rows], after[rows])
    row = {
        **{"what": "glasses switched off", "wearers": len(rows), "seen by the judge": int(seen.sum())},
        **{"lost": float(lost.sum() / seen.sum()), "elsewhere": float(changed[away].mean())},
        "judge's area under the curve": judge.accuracy(),
    }
    return row, frontal.pictures[rows], after[rows]


def _doors(seeds: Sequence[int], scene: Scene, where: Sequence[str], *, foot: bool) -> Places:
    """A place of the door's own size and, at the foot, height, on what should be there; by a fixed choice of many."""
    free, chosen, found = scene.where(*where).float(), list[int](), list[Tensor]()
    pick = torch.Generator().manual_seed(0)
    for seed, own, door in zip(seeds, free, scene.where("door"), strict=True):
        if not door.any():
            continue
        box = masks.bounds(door.float())
        share = F.avg_pool2d(own[None, None], box.size, 1)[0, 0]
        fits = share >= HARDLY
        if foot:
            fits[: box.top], fits[box.top + 1 :] = False, False
        corners = fits.nonzero().tolist()
        if corners:
            top, left = corners[int(torch.randint(len(corners), (1,), generator=pick))]
            mask = torch.zeros_like(own)
            mask[top : top + box.size[0], left : left + box.size[1]] = 1
            chosen, found = [*chosen, seed], [*found, mask]
    judged, brush = torch.stack(found), round(scene.picture.shape[-1] / 64)
    return Places(chosen, masks.grow(judged, brush, brush, brush, brush), judged)


def _read_as(generator: Generator, thing: Thing, places: Places) -> Row:
    """The share of the painted pixels that the segmenter reads as the thing, and what changes elsewhere."""
    before, after = painted(generator, thing, places)
    where = (places.painted if places.judged is None else places.judged) > 0.5
    was, now = (_labelled(each, thing.name)[where].float().mean() for each in (before, after))
    return {
        **{"pictures": len(places.seeds), "read as it": float(now), "before": float(was)},
        "elsewhere": float(difference(before, after)[places.away].mean()),
    }


def _labelled(pictures: Tensor, thing: str) -> Tensor:
    """Where the segmenter sees a thing, (n, H, W) bool."""
    seen = [segmenter.load().labels(each) for each in pictures.cpu().split(BATCH)]
    return torch.cat(seen) == scenes.LABELS.index(thing)


def _seeds(where: Callable[[Tensor], Tensor], count: int) -> list[int]:
    """The first towns, of those that results are reported on, for which something holds."""
    seeds = list(range(FIRST_SEED, FIRST_SEED + 4 * count))
    return [seed for seed, on in zip(seeds, where(WORLD.read(seeds)[1]).tolist(), strict=True) if on][:count]


def _ovals(places: Tensor) -> Tensor:
    """The oval inside the box around each place (n, H, W), a tenth smaller: as a hand would paint it."""
    boxes = [masks.bounds(place.float()) for place in places]
    height, width = places.shape[1:]
    ovals = [_oval_at((height, width), box.centre, (0.9 * box.size[0], 0.9 * box.size[1])) for box in boxes]
    return torch.stack(ovals)


def _oval_at(shape: Sequence[int], middle: tuple[float, float], size: tuple[float, float]) -> Tensor:
    """An oval of a height and a width around a middle, in cells of a mask (H, W): 1 inside."""
    down, right = (
        (torch.arange(side) + 0.5 - at) / (length / 2) for side, at, length in zip(shape, middle, size, strict=True)
    )
    return (down[:, None] ** 2 + right[None] ** 2 <= 1).float()


def table(rows: Sequence[Row]) -> str:
    """Rows with the same names as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return "\n".join(markdown_table(names, [[_said(row.get(name)) for name in names] for row in rows]))


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:.0%}" for name, share in value.items())
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
