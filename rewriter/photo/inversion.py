"""Inversion: the latents with which a generator draws a photo, by descent from the generated pictures most like it.

z → w → w for each layer, where the architecture has them (Abdal et al. 2019); else z, whose components are drawn anew
where they leave what a normal distribution gives (Lipton and Tripathi 2017), and which Gauss and Newton's method then
finds exactly, where it is affordable. Coarse things come first: pictures are compared at several scales, by their
pixels and their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.errors import InputError, OnStep, report
from rewriter.generators.base import Generator, exact
from rewriter.generators.layer import Features
from rewriter.photo.exactness import SAME, psnr
from rewriter.photo.nearest import Thumbnails, is_slow

SCALES = (1, 2, 4, 8)
EDGES = 0.5  # weight of gradients in the distance
PULL = 0.02  # of each layer's w to the common one, at faithfulness ½; ten times as much at 0, a tenth of it at 1
NOISE = 30.0  # of z's square, times the mean squared error, whose parts are correlated; with faithfulness like PULL
BOUND, BOUND_ONLY_Z = 2.0, 3.5  # of z's components, in standard deviations
AFFORDABLE = 2e11  # operations of all pictures of one Gauss-Newton step: some seconds on a core
AT_ONCE, DIFFERENCE = 64, 0.003  # derivatives, and of what differences of z
DAMPING, EASIER, HARDER, TRIES = 0.01, 0.2, 4.0, 8  # of Levenberg and Marquardt
CONVERGED = 1e-4  # relative improvement by a step
STEADY = 0.5  # share of a stage with the full rate, before it falls to zero
BETAS = (0.9, 0.99)
EXACTLY = 50  # weight of the squared error where it counts alone
SHOWN = 10  # steps between two pictures for `on_picture`

OnPicture = Callable[[Tensor], object]  # called with the picture so far, (3, H, W)


@dataclass(frozen=True)
class Stage:
    """One descent: where (z, w, or w of each layer), how many candidates at most, steps, and the learning rate.

    Without a rate the steps are Gauss-Newton's, of the first candidate; they end when one improves nothing.
    """

    space: str
    candidates: int
    steps: int
    rate: float
    exactly: bool = False  # whether to compare by squared error alone, at the end


STAGES = (
    Stage("z", 8, 25, 0.08),
    Stage("w", 2, 80, 0.05),
    Stage("layers", 1, 150, 0.03),
    Stage("layers", 1, 100, 0.01, True),
)
ONLY_Z = (Stage("z", 8, 40, 0.08), Stage("z", 2, 100, 0.05), Stage("z", 1, 150, 0.03), Stage("z", 1, 60, 0.01, True))
SMALL_Z = (Stage("z", 8, 40, 0.08), Stage("z", 2, 100, 0.05), Stage("z", 1, 20, 0.0, True))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """How much pictures (n, 3, H, W) differ, (n,): absolute and squared errors, of pixels and gradients, by scales."""
    total = a.new_zeros(len(a))
    for scale in SCALES:
        if scale < a.shape[-1]:
            d = F.avg_pool2d(a - b, scale)
            edges = d.diff(dim=2).abs().mean((1, 2, 3)) + d.diff(dim=3).abs().mean((1, 2, 3))
            total = total + d.abs().mean((1, 2, 3)) + 2 * d.square().mean((1, 2, 3)) + EDGES * edges
    return total


class Inversion:
    """The search for one photo (3, H, W) in [-1, 1]; `run` goes on where it was cancelled.

    Args:
        generator: its own rules do not count.
        photo: at the generator's resolution.
        faithful: from 0, which stays near what the generator draws by itself and is edited well, to 1, which comes as
            near to the photo as possible.
        effort: a factor on the number of steps.
        thumbnails: of the generator; None: they are looked up, or made.
    """

    def __init__(
        self,
        generator: Generator,
        photo: Tensor,
        *,
        faithful: float = 0.5,
        effort: float = 1.0,
        thumbnails: Thumbnails | None = None,
    ):
        side = generator.resolution
        if tuple(photo.shape) != (3, side, side):
            raise InputError(f"the photo is {tuple(photo.shape)}, but {generator.name} draws {(3, side, side)}: cut it")
        if not 0 <= faithful <= 1 or not 0.02 <= effort <= 50:
            raise InputError(f"faithful is {faithful} and effort {effort}, expected 0 to 1, and 0.02 to 50")
        self.generator, self.photo, self.faithful = generator, photo.to(generator.device).float(), faithful
        self.thumbnails, self._at, self._step = thumbnails, 0, 0
        self._latents = torch.zeros(0)
        self._common: Tensor | None = None  # the w from which each layer's own one starts
        self._adam: torch.optim.Adam | None = None
        self._damping = DAMPING
        layered = generator.spread(generator.embed(generator.latents([0]), 1.0)).ndim == 3
        small, share = generator.zdim * generator.operations <= AFFORDABLE, 3 if is_slow(generator) else 1
        self.stages = [
            replace(stage, candidates=-(-stage.candidates // share), steps=max(1, round(stage.steps * effort)))
            for stage in (STAGES if layered else SMALL_Z if small else ONLY_Z)
        ]

    @property
    def steps(self) -> tuple[int, int]:
        """Steps done, and of how many."""
        done = sum(stage.steps for stage in self.stages[: self._at]) + self._step
        return done, sum(stage.steps for stage in self.stages)

    @property
    def latent(self) -> Tensor:
        """The best latents so far, as `Generator.enter` takes them, without the axis of a batch."""
        if not len(self._latents):
            raise InputError("nothing is found yet: run the inversion")
        with torch.no_grad():
            return self._entering(self._latents[:1]).detach()[0].clone()

    def run(self, *, on_step: OnStep | None = None, on_picture: OnPicture | None = None) -> Tensor:
        """Search, or go on with it; returns the latents, see `latent`.

        `on_step` gets (steps done, of), `on_picture` the picture so far, now and then. CancelledError if `on_step`
        returned False: what was found until then is in `latent`.
        """
        if not len(self._latents):
            self._begin(on_step)
        while self._at < len(self.stages):
            stage = self.stages[self._at]
            while self._step < stage.steps:
                picture = self._descend(stage) if stage.rate else self._newton(stage)
                self._step += 1
                if on_picture is not None and (self._step % SHOWN == 0 or self._step == stage.steps):
                    on_picture(picture)
                report(on_step, *self.steps)
            self._next()
        report(on_step, *self.steps)  # of fewer steps than expected, if it was found early
        return self.latent

    def _begin(self, on_step: OnStep | None) -> None:
        """Start from the seeds whose thumbnails are most like the photo's."""
        self.thumbnails = self.thumbnails or Thumbnails.of(self.generator, on_step=on_step)
        order = self.thumbnails.distances(self.photo[None])[0].argsort(stable=True)
        self._latents = self.generator.latents(order[: self.stages[0].candidates].tolist())

    def _next(self) -> None:
        """Go on to the next stage with the best candidates, in its space."""
        done, self._at, self._step, self._adam = self.stages[self._at], self._at + 1, 0, None
        with torch.no_grad():
            latents = self._latents.detach()
            losses, pictures = self._loss(done, latents)
            order = losses.argsort(stable=True)
            if psnr(pictures[order[0]], self.photo) >= SAME:  # found: only Newton's few steps are still worth it
                self.stages[self._at :] = [stage for stage in self.stages[self._at :] if not stage.rate]
            if self._at == len(self.stages):
                self._latents = latents[order[:1]]
                return
            stage = self.stages[self._at]
            latents = latents[order[: stage.candidates]]
            if (done.space, stage.space) == ("z", "w"):
                latents = self.generator.embed(latents, 1.0)
            if (done.space, stage.space) == ("w", "layers"):
                self._common = latents
                latents = self.generator.spread(latents)
            self._latents = latents.clone()

    def _descend(self, stage: Stage) -> Tensor:
        """One step of Adam; returns the best candidate's picture before it."""
        if self._adam is None:
            self._scale = 1.0 if stage.space == "z" else self._deviation
            self._latents = self._latents.detach().clone().requires_grad_()
            self._adam = torch.optim.Adam([self._latents], betas=BETAS)
        share = 1 - self._step / stage.steps
        self._adam.param_groups[0]["lr"] = stage.rate * self._scale * min(1.0, share / STEADY)
        with torch.enable_grad():
            losses, pictures = self._loss(stage, self._latents)
            self._adam.zero_grad()
            losses.sum().backward()
        self._adam.step()
        if stage.space == "z":
            self._redraw(stage)
        return pictures[int(losses.argmin())].detach()

    @torch.no_grad()
    def _newton(self, stage: Stage) -> Tensor:
        """One step of Gauss and Newton's method, damped (Levenberg 1944, Marquardt 1963); returns the new picture.

        z is normal, and what is left of the photo counts as noise: the more of it, the more z is drawn to 0. So a
        picture that the generator can draw is found exactly, and no other is met by latents that draw no good picture.
        """
        z = self._latents[0].detach()

        def drawn(z: Tensor) -> Tensor:
            with exact(self.generator.device):
                return self.generator.picture(self._enter(stage, z), rules=[])

        def cost(z: Tensor, picture: Tensor) -> float:
            return float((picture - self.photo).square().sum() + weight * z.square().sum())

        picture, one = drawn(z[None])[0], torch.eye(len(z), device=z.device)
        weight = NOISE * 10 ** (1 - 2 * self.faithful) * float((picture - self.photo).square().mean())
        changes = [drawn(z + DIFFERENCE * some) - picture for some in one.split(AT_ONCE)]
        jacobian = torch.cat(changes).flatten(1) / DIFFERENCE  # (z, pixels)
        gradient = jacobian @ (picture - self.photo).flatten() + weight * z
        curvature, was = jacobian @ jacobian.T + weight * one, cost(z, picture)
        for _ in range(TRIES):
            there = z - torch.linalg.solve(curvature + self._damping * curvature.diag().diag(), gradient)
            new = drawn(there[None])[0]
            if (now := cost(there, new)) < was:
                self._latents, self._damping = there[None], self._damping * EASIER
                break
            self._damping *= HARDER
        else:
            now, new = was, picture
        if was - now < CONVERGED * was:
            self._step = stage.steps - 1
        return new

    def _loss(self, stage: Stage, latents: Tensor) -> tuple[Tensor, Tensor]:
        """How far each candidate (n, …) is from the photo, (n,), and its picture."""
        with exact(self.generator.device):
            pictures = self.generator.picture(self._enter(stage, latents), rules=[])
        photo = self.photo.expand_as(pictures)
        if stage.exactly:
            loss = EXACTLY * (pictures - photo).square().mean((1, 2, 3))
        else:
            loss = distance(pictures, photo)
        if stage.space == "layers" and self._common is not None:
            apart = (latents - self._common[:, None]) / self._deviation
            loss = loss + PULL * 10 ** (1 - 2 * self.faithful) * apart.square().mean((1, 2))
        return loss, pictures

    def _enter(self, stage: Stage, latents: Tensor) -> Features:
        return self.generator.enter(self.generator.embed(latents, 1.0) if stage.space == "z" else latents)

    def _entering(self, latents: Tensor) -> Tensor:
        at = min(self._at, len(self.stages) - 1)
        return self.generator.embed(latents, 1.0) if self.stages[at].space == "z" else latents

    @cached_property
    def _deviation(self) -> float:
        """The standard deviation of w: what a learning rate and a distance of latents are measured in."""
        with torch.no_grad():
            return max(float(self.generator.embed(self.generator.latents(range(512)), 1.0).std(0).mean()), 1e-6)

    @torch.no_grad()
    def _redraw(self, stage: Stage) -> None:
        """Draw components of z anew that are larger than what a normal distribution gives: stochastic clipping."""
        bound = BOUND_ONLY_Z if self.stages[-1].space == "z" else BOUND
        outside = self._latents.abs() > bound
        if not outside.any():
            return
        if stage.exactly or self._step > stage.steps * STEADY:  # so late a new number would be a loss
            self._latents.clamp_(-bound, bound)
            return
        draw = torch.Generator().manual_seed(self._step)
        fresh = torch.randn(self._latents.shape, generator=draw).clamp(-bound, bound).to(self._latents)
        self._latents.copy_(torch.where(outside, fresh, self._latents))
