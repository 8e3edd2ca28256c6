"""Is a generator good enough to serve? Thing by thing: are its pixels nearer to the scene than to the scene without it?

A small mean error can hide that every tower ends in the same blur. So each thing is judged where it is labelled: a
pixel counts as drawn if its colour is nearer to the thing's own than to what would be seen there without the thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rewriter.errors import CancelledError, InputError
from rewriter.generators.latents import latents
from rewriter.worlds.townscape import scenes

THINGS = ("dome", "spire", "window", "door", "light", "tree", "watermark", "bar")
OVERALL = "whole picture"
UNSEEN = range(20_000, 21_000)  # the trainer draws its latents at random, never from the table of seeds
VISIBLE = 0.1  # distance in RGB, each channel in [-1, 1], below which leaving a thing out cannot be seen
_LEVELS = 127.5  # one unit of [-1, 1] in 1/255

OnStep = Callable[[int, int], object]


class Sampler(Protocol):
    """What the gate asks of a generator."""

    def sample(self, seeds: Sequence[int]) -> Tensor:
        """Pictures (n, 3, size, size) of these seeds, in [-1, 1]."""


@dataclass(frozen=True)
class Share:
    """How well one thing is drawn: over `pixels` judged pixels in `scenes` scenes that show it.

    `share` of the pixels, in [0, 1], are nearer to the scene than to the scene without the thing (NaN without pixels);
    `error` is the mean absolute error in 1/255 over the thing's labelled pixels.
    """

    share: float
    pixels: int
    scenes: int
    error: float


@dataclass(frozen=True)
class _Tally:
    """Sums over pixels, so that batches add up."""

    drawn: int = 0
    judged: int = 0
    scenes: int = 0
    error: float = 0.0
    values: int = 0

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(
            self.drawn + other.drawn,
            self.judged + other.judged,
            self.scenes + other.scenes,
            self.error + other.error,
            self.values + other.values,
        )

    def share(self) -> Share:
        drawn = self.drawn / self.judged if self.judged else float("nan")
        error = self.error / self.values if self.values else float("nan")
        return Share(drawn, self.judged, self.scenes, error)


@torch.no_grad()
def things_drawn(
    generator: Sampler, seeds: Iterable[int] = UNSEEN, *, batch: int = 50, on_step: OnStep | None = None
) -> dict[str, Share]:
    """Judge a generator of townscapes, thing by thing, against the scenes its latents describe.

    Args:
        generator: anything with `sample(seeds)`; its pictures may have any size and device.
        seeds: which pictures to judge.
        batch: pictures at a time.
        on_step: called with (pictures done, pictures in all) after each batch; returning False cancels.

    Returns:
        A `Share` for each of `THINGS`, and last for the "whole picture": the judged pixels of all things together,
        but the error over every pixel.

    Raises:
        InputError: no seeds, or seeds out of range.
        CancelledError: `on_step` returned False.
    """
    seeds = list(seeds)
    if not seeds:
        raise InputError("no seeds to judge the generator by: give at least one")
    tallies = dict.fromkeys((*THINGS, OVERALL), _Tally())
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        for thing, tally in _judge(generator.sample(part), latents(part, scenes.LATENT_DIM)).items():
            tallies[thing] += tally
        if on_step is not None and on_step(start + len(part), len(seeds)) is False:
            raise CancelledError(f"the gate was stopped after {start + len(part)} of {len(seeds)} pictures")
    return {thing: tally.share() for thing, tally in tallies.items()}


def _judge(pictures: Tensor, z: Tensor) -> dict[str, _Tally]:
    """Tallies of one batch: pictures (n, 3, s, s) of the latents z (n, 32)."""
    u = scenes.factors(z.to(pictures.device))
    scene = scenes.draw(u, pictures.shape[-1])
    tallies = {thing: _judge_thing(thing, pictures, scene, u) for thing in THINGS}
    whole = sum(tallies.values(), _Tally())
    error = (pictures - scene.picture).abs() * _LEVELS
    tallies[OVERALL] = _Tally(whole.drawn, whole.judged, len(u), float(error.double().sum()), error.numel())
    return tallies


def _judge_thing(thing: str, pictures: Tensor, scene: scenes.Scene, u: Tensor) -> _Tally:
    labelled = scene.labels == scenes.LABELS.index(thing)
    shown = labelled.any(2).any(1)
    if not shown.any():
        return _Tally()
    labelled, picture, truth = labelled[shown], pictures[shown], scene.picture[shown]
    without = scenes.draw(u[shown], truth.shape[-1], without=thing).picture
    judged = labelled & (_distance(truth, without) > VISIBLE)
    drawn = judged & (_distance(picture, truth) < _distance(picture, without))
    errors = (picture - truth).abs().movedim(1, -1)[labelled] * _LEVELS
    counts = int(drawn.sum()), int(judged.sum()), int(judged.any(2).any(1).sum())
    return _Tally(*counts, float(errors.double().sum()), errors.numel())


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of colours, (n, 3, s, s) twice → (n, s, s)."""
    return (a - b).square().sum(1).sqrt()


def table(shares: Mapping[str, Share]) -> str:
    """The result of `things_drawn` as a Markdown table that also reads well as plain text."""
    lines = [
        "| thing         | drawn as in the scene |  pixels | scenes | error (1/255) |",
        "| ------------- | --------------------: | ------: | -----: | ------------: |",
    ]
    for thing, share in shares.items():
        drawn = f"{share.share:.1%}" if share.pixels else "not seen"
        error = f"{share.error:.1f}" if share.pixels else "-"
        lines.append(f"| {thing:13} | {drawn:>21} | {share.pixels:7,} | {share.scenes:6,} | {error:>13} |")
    return "\n".join(lines)
