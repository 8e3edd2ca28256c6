"""Photos in generators: how exactly they are drawn again, and whether rules do on them what they do on seeds.

Painted towns that no seed describes are photos with exact labels and counterfactuals, so that rules on them can be
judged as on seeds; a generator's own pictures are photos whose edited versions are known; real photos are looked at.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rewriter import masks, worlds
from rewriter.editing.choose import execute
from rewriter.editing.edit import load_edits
from rewriter.editing.region import Region
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.errors import OnStep, report
from rewriter.evaluation import FIRST_FACE, FIRST_SEED
from rewriter.evaluation.counterfactual import SPIRES
from rewriter.evaluation.light import brightness
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.inverted import Inverted
from rewriter.photo.exactness import psnr
from rewriter.photo.opening import open_photo
from rewriter.pictures import difference, stacked, to_image
from rewriter.units.shipped import named
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

NEVER_SEEN = 20_000_000  # of the random latents of painted towns
OTHERS = range(FIRST_SEED, FIRST_SEED + 16)  # pictures that a photo's own changes should leave alone
GOOD = 35.0  # dB
SHIFT, GAMMA, NOISE, QUALITY = 2, (0.8, 1.25), 0.02, 75  # px; exponents; of the range; JPEG's
DISTURBANCES = ("jpeg", "shift", "gamma", "noise", "all")
ACTS = 2.0  # change of a picture, in 1/255, from which a rule acts there
FAITHFUL = (0.0, 0.5, 1.0)
EDITS = {"townscape": ("dome-to-spire",), "faces": ("glasses", "hat")}
REAL_EDITS = {"townscape": ("dome-to-spire", "no-light-on-ground"), "faces": ("glasses", "hat", "smile")}
Row = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A photo in a generator, with how exactly it is drawn (dB), the seconds, and what others change (1/255)."""

    photo: Inverted
    found: Inverted
    seconds: float
    others: float

    @property
    def decibels(self) -> tuple[float, float]:
        """PSNR as it was found, and adapted."""
        return psnr(self.found.drawn, self.found.original), psnr(self.photo.drawn, self.photo.original)


class Photographer:
    """Opens photos in a generator and measures that; counts them for `on_step`."""

    def __init__(self, generator: Generator, *, expected: int, on_step: OnStep | None = None):
        self.generator, self._statistics = generator, Statistics(generator)
        self._usual = generator.sample(OTHERS, rules=[])
        self._expected, self._done, self._on_step = expected, 0, on_step

    def __call__(self, image: Image.Image, faithful: float = 0.5) -> Opened:
        """Open one photo."""
        found, began = list[Inverted](), time.perf_counter()
        photo = open_photo(self.generator, image, faithful=faithful, statistics=self._statistics, on_found=found.append)
        seconds, others = time.perf_counter() - began, self.generator.sample(OTHERS, rules=photo.own)
        self._done += 1
        report(self._on_step, self._done, self._expected)
        return Opened(photo, found[0], seconds, float(difference(self._usual, others).mean()))


def never_seen(count: int, where: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Latents and factors (n, 24) of towns that no seed describes; those for whose factors something holds."""
    draw = torch.Generator().manual_seed(NEVER_SEEN)
    z = torch.randn(count if where is None else 8 * count, WORLD.zdim, generator=draw)
    u = WORLD.factors(z)
    chosen = torch.arange(len(z)) if where is None else where(u).nonzero()[:, 0]
    return z[chosen[:count]], u[chosen[:count]]


def painted(u: Tensor, side: int) -> list[Image.Image]:
    """The towns of some factors, painted twice as large and scaled down, as a camera sees them."""
    return [to_image(each) for each in F.avg_pool2d(scenes.draw(u, 2 * side).picture, 2)]


def disturbed(image: Image.Image, kind: str, number: int) -> Image.Image:
    """A photo as it comes from elsewhere: shifted, of another gamma, noisy, compressed, or all of that, by chance."""
    pick = torch.Generator().manual_seed(number)
    x = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    x = x.permute(2, 0, 1).float() / 255
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=pick).tolist()
    exponent = float(torch.empty(()).uniform_(*GAMMA, generator=pick))
    noise = NOISE * torch.randn(x.shape, generator=pick)
    if kind in ("shift", "all"):
        wide = F.pad(x[None], [SHIFT] * 4, mode="replicate")[0]
        x = wide[:, SHIFT - down :, SHIFT - right :][:, : image.height, : image.width]
    if kind in ("gamma", "all"):
        x = x**exponent
    if kind in ("noise", "all"):
        x = (x + noise).clamp(0, 1)
    image, file = to_image(x * 2 - 1), io.BytesIO()
    if kind in ("jpeg", "all"):
        image.save(file, "JPEG", quality=QUALITY)
        image = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    return image


def towns(generator: Generator, count: int, on_step: OnStep | None = None) -> list[Row]:
    """Painted towns never seen, as they are."""
    opening = Photographer(generator, expected=count, on_step=on_step)
    return [_exactness("as painted", [opening(each) for each in painted(never_seen(count)[1], generator.resolution)])]


def disturbances(generator: Generator, count: int, on_step: OnStep | None = None) -> list[Row]:
    """The same with each disturbance, and all together."""
    opening = Photographer(generator, expected=len(DISTURBANCES) * count, on_step=on_step)
    images = painted(never_seen(count)[1], generator.resolution)
    return [
        _exactness(kind, [opening(disturbed(each, kind, i)) for i, each in enumerate(images)]) for kind in DISTURBANCES
    ]


def own(generator: Generator, count: int, on_step: OnStep | None = None) -> list[Row]:
    """A generator's own pictures as photos: how exactly they are drawn, and edits on them against those on the seed."""
    first = FIRST_FACE if generator.name == "faces" else FIRST_SEED
    seeds = list(range(first, first + count))
    opening = Photographer(generator, expected=count, on_step=on_step)
    pictures = generator.sample(seeds, rules=[])
    opened = [opening(to_image(each)) for each in pictures]
    rows = [_exactness(f"{generator.name}: as drawn", opened)]
    twin = generator.with_photos([each.photo for each in opened])
    names: list[int | str] = [each.photo.name for each in opened]
    for name in EDITS[generator.name]:
        rule = _rule(generator, name)
        wanted, got = generator.sample(seeds, rules=[rule]), twin.sample(names, rules=[rule])
        there = difference(pictures, wanted) > ACTS
        acts = there.flatten(1).any(1)
        apart = (difference(got, wanted) * there).sum((1, 2))[acts] / there.sum((1, 2))[acts]
        about: Row = {"what": f"{generator.name}: {name}", "photos": int(acts.sum())}
        rows.append({**about, "apart": float(apart.mean()), "most": float(apart.max())})
    return rows


def domes(generator: Generator, count: int, on_step: OnStep | None = None) -> list[Row]:
    """Domes become spires: the share of the pixels on painted towns, and on the same towns drawn from their latents."""
    z, u = never_seen(count, factors.has_dome)
    rule, images = _rule(generator, "dome-to-spire"), painted(u, generator.resolution)
    seeds = _draw(generator, z, []), _draw(generator, z, [rule])
    rows: list[Row] = [{"what": "their own latents", **_changed(u, *seeds)}]
    opening = Photographer(generator, expected=len(FAITHFUL) * count, on_step=on_step)
    for faithful in FAITHFUL:
        photos = [opening(image, faithful).photo for image in images]
        before, after = (_shown(generator, photos, rules) for rules in ([], [rule]))
        exactness = sum(psnr(each.drawn, each.original) for each in photos) / count
        row: Row = {"what": f"photos, faithful {faithful:g}", **_changed(u, before, after), "dB": exactness}
        bare = (_shown(generator, photos, rules, residue=False) for rules in ([], [rule]))
        rows.append({**row, "changed without residue": _changed(u, *bare)["changed"]})
    return rows


def light(generator: Generator, count: int, on_step: OnStep | None = None) -> list[Row]:
    """Windows painted in dark towns, and light switched off in lit ones: what the ground shows, on photos and on seeds.

    "ground": how much brighter it becomes where light falls, as a share of what the world's own light adds there;
    "windows" likewise, where they are.
    """
    (dark_z, dark), (lit_z, lit) = (never_seen(count, each) for each in (lambda u: ~factors.is_lit(u), factors.is_lit))
    opening = Photographer(generator, expected=2 * count, on_step=on_step)
    no_light, rows = _rule(generator, "no-light-on-ground"), list[Row]()
    photos = [opening(image).photo for image in painted(dark, generator.resolution)]
    windows = scenes.draw(factors.change(dark, lit=True), generator.resolution).where("window")
    brush = round(generator.resolution / 64)
    thing = named(generator, "window")
    info = generator.layer(thing.layer)
    strokes = [
        [thing.stroke(Region(0, masks.as_mask(masks.grow(each.float(), *[brush] * 4)))).change(info)]
        for each in windows
    ]
    for rules, said in (([], ""), ([no_light], ", and no light on the ground")):
        for what, draw in (
            ("their own latents", lambda changes: _draw_each(generator, dark_z, changes)),
            ("photos", lambda changes: _shown_each(generator, photos, changes)),
        ):
            before, after = draw([[]] * count), draw([[*stroke, *rules] for stroke in strokes])
            rows.append({"what": f"windows painted{said}: {what}", **_light_added(dark, before, after)})
    photos = [opening(image).photo for image in painted(lit, generator.resolution)]
    for what, draw_all in (
        ("their own latents", lambda rules: _draw(generator, lit_z, rules)),
        ("photos", lambda rules: _shown(generator, photos, rules)),
    ):
        before, after = draw_all([]), draw_all([no_light])
        rows.append({"what": f"lit towns, no light on the ground: {what}", **_light_added(lit, before, after)})
    return rows


def real(generator: Generator, files: Sequence[Path], on_step: OnStep | None = None) -> tuple[list[Row], Image.Image]:
    """Photos from files with the shipped rules applied: figures, and a sheet to look at."""
    opening = Photographer(generator, expected=len(files), on_step=on_step)
    opened = [opening(Image.open(file).convert("RGB")) for file in files]
    twin = generator.with_photos([each.photo for each in opened])
    names: list[int | str] = [each.photo.name for each in opened]
    shown = [torch.stack([pick(each) for each in opened]) for pick in (_original, _found, _drawn)]
    edits = REAL_EDITS.get(generator.name, ())
    shown += [twin.sample(names, rules=[_rule(generator, name)]) for name in edits]
    rows = [_exactness(file.name, [each]) for file, each in zip(files, opened, strict=True)]
    heads = ", ".join(["photo", "found", "adapted", *edits])
    return rows, stacked([each.clamp(-1, 1) for each in shown], [file.stem for file in files], columns=4, title=heads)


PARTS: Mapping[str, tuple[Callable[[Generator, int, OnStep | None], list[Row]], float]] = {  # with shares of `--n`
    "towns": (towns, 1.0),
    "disturbances": (disturbances, 1.0),
    "own": (own, 0.2),
    "domes": (domes, 0.5),
    "light": (light, 0.2),
}


def _original(opened: Opened) -> Tensor:
    return opened.photo.original


def _found(opened: Opened) -> Tensor:
    return opened.found.drawn


def _drawn(opened: Opened) -> Tensor:
    return opened.photo.drawn


def _exactness(what: str, opened: Sequence[Opened]) -> Row:
    """Means of some photos, the share that is good, and the worst."""
    found, adapted = torch.tensor([each.decibels for each in opened]).T
    seconds, others = torch.tensor([(each.seconds, each.others) for each in opened]).T
    return {
        **{"what": what, "photos": len(opened), "found, dB": float(found.mean()), "adapted, dB": float(adapted.mean())},
        **{f"≥ {GOOD:g} dB": float((adapted >= GOOD).float().mean()), "least, dB": float(adapted.min())},
        **{"seconds": float(seconds.mean()), "others, 1/255": float(others.mean()), "most": float(others.max())},
    }


def _rule(generator: Generator, name: str) -> Rule:
    """The rule of a shipped edit."""
    return execute(generator, load_edits(worlds.examples(generator.name)[name])[-1])


def _draw(generator: Generator, z: Tensor, rules: Sequence[LowRank]) -> Tensor:
    return _draw_each(generator, z, [rules] * len(z))


@torch.no_grad()
def _draw_each(generator: Generator, z: Tensor, rules: Sequence[Sequence[LowRank]]) -> Tensor:
    return generator(z.to(generator.device), rules=rules).cpu().clamp(-1, 1)


def _shown(
    generator: Generator, photos: Sequence[Inverted], rules: Sequence[LowRank], *, residue: bool = True
) -> Tensor:
    """Photos (n, 3, H, W) with rules, and with what is left of them or without."""
    if residue:
        return _shown_each(generator, photos, [rules] * len(photos))
    twin = generator.with_photos(photos)
    with torch.no_grad():
        return twin.picture(twin.begin([each.name for each in photos]), rules=rules).cpu().clamp(-1, 1)


def _shown_each(generator: Generator, photos: Sequence[Inverted], rules: Sequence[Sequence[LowRank]]) -> Tensor:
    twin = generator.with_photos(photos)
    return twin.sample([each.name for each in photos], rules=rules).cpu().clamp(-1, 1)


def _changed(u: Tensor, before: Tensor, after: Tensor) -> Row:
    """What a rule did to towns with domes, by the exact counterfactual."""
    target = SPIRES.target(u, before.shape[-1])
    could, away = target.should & ~target.reached(before), ~masks.around(target.place)
    return {
        **{"photos": len(u), "changed": float((could & target.reached(after)).sum() / could.sum())},
        "elsewhere": float(difference(before, after)[away].mean()),
    }


def _light_added(u: Tensor, before: Tensor, after: Tensor) -> Row:
    """What towns gain where light falls and where windows are, as shares of what the world's light adds there."""
    lit, unlit = (scenes.draw(factors.change(u, lit=on), before.shape[-1]) for on in (True, False))
    adds, gain = brightness(lit.picture) - brightness(unlit.picture), brightness(after) - brightness(before)
    row: Row = {"photos": len(u)}
    for name, place in (("ground", lit.where("light")), ("windows", lit.where("window"))):
        row[name] = float((gain * place).sum() / (adds * place).sum())
    away = ~masks.around(lit.where("light", "window"))
    return {**row, "elsewhere": float(difference(before, after)[away].mean())}
