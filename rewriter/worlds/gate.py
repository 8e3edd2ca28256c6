"""Does a generator draw each thing? Each pixel of a thing is compared with the scene with and without that thing.

A small mean error can hide that every tower ends in the same blur. So each thing is judged where it is labelled: a
pixel counts as drawn if its colour is nearer to the thing's own than to what would be there without the thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rewriter.errors import InputError, OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.worlds.base import Scene, World

OVERALL = "whole picture"
UNSEEN = range(20_000, 21_000)  # the trainer draws its latents at random, not from the table of seeds
VISIBLE = 0.1  # least distance in RGB, each channel in [-1, 1], at which leaving a thing out is visible
_LEVELS = 127.5  # one unit of [-1, 1] in 1/255


@dataclass(frozen=True)
class Share:
    """How well one thing is drawn."""

    share: float  # of the judged pixels, nearer to the scene than to the scene without the thing; NaN without pixels
    pixels: int  # judged
    scenes: int  # that show the thing
    error: float  # mean absolute error in 1/255 over the thing's labelled pixels


@torch.no_grad()
def things_drawn(
    world: World, generator: Generator, seeds: Iterable[int] = UNSEEN, *, batch: int = 50, on_step: OnStep | None = None
) -> dict[str, Share]:
    """Compare a generator with the scenes of its world that its latents describe, thing by thing.

    The pictures of the seeds may have any size and device. The last `Share` is for the "whole picture": the judged
    pixels of all things together, but the error over every pixel. `on_step` is called with (pictures done, of);
    returning False raises CancelledError.
    """
    seeds = list(seeds)
    if not seeds:
        raise InputError("no seeds to judge the generator by: give at least one")
    sums = {thing: torch.zeros(5, dtype=torch.float64) for thing in (*world.things, OVERALL)}
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        for thing, counted in _count(world, generator.sample(part), latents(part, world.zdim)).items():
            sums[thing] += counted
        report(on_step, start + len(part), len(seeds))
    return {thing: _share(*total.tolist()) for thing, total in sums.items()}


def _share(drawn: float, pixels: float, shown: float, error: float, values: float) -> Share:
    nan = float("nan")
    return Share(drawn / pixels if pixels else nan, int(pixels), int(shown), error / values if values else nan)


def _count(world: World, pictures: Tensor, z: Tensor) -> dict[str, Tensor]:
    """For each thing in pictures (n, 3, s, s) of latents (n, zdim): pixels drawn and judged, scenes, error, values."""
    u = world.factors(z.to(pictures.device))
    scene = world.draw(u, pictures.shape[-1])
    counts = {thing: _count_thing(world, thing, pictures, scene, u) for thing in world.things}
    drawn, pixels, *_ = torch.stack(list(counts.values())).sum(0).tolist()
    error = (pictures - scene.picture).abs() * _LEVELS
    counts[OVERALL] = _sums(drawn, pixels, len(u), error.double().sum(), error.numel())
    return counts


def _count_thing(world: World, thing: str, pictures: Tensor, scene: Scene, u: Tensor) -> Tensor:
    labelled = scene.where(thing)
    shown = labelled.any(2).any(1)
    if not shown.any():
        return _sums(0, 0, 0, 0, 0)
    labelled, picture, truth = labelled[shown], pictures[shown], scene.picture[shown]
    without = world.draw(u[shown], truth.shape[-1], without=thing).picture
    judged = labelled & (_distance(truth, without) > VISIBLE)
    drawn = judged & (_distance(picture, truth) < _distance(picture, without))
    errors = (picture - truth).abs().movedim(1, -1)[labelled] * _LEVELS
    return _sums(drawn.sum(), judged.sum(), judged.any(2).any(1).sum(), errors.double().sum(), errors.numel())


def _sums(*numbers: Tensor | float) -> Tensor:
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of colours, (n, 3, s, s) twice → (n, s, s)."""
    return (a - b).square().sum(1).sqrt()


def table(shares: Mapping[str, Share]) -> str:
    """The result of `things_drawn` as a Markdown table that also reads well as plain text."""
    lines = ["| thing         | drawn as in the scene |  pixels | scenes | error (1/255) |"]
    lines += ["| ------------- | --------------------: | ------: | -----: | ------------: |"]
    for thing, share in shares.items():
        drawn = f"{share.share:.1%}" if share.pixels else "not seen"
        error = f"{share.error:.1f}" if share.pixels else "-"
        lines.append(f"| {thing:13} | {drawn:>21} | {share.pixels:7,} | {share.scenes:6,} | {error:>13} |")
    return "\n".join(lines)
