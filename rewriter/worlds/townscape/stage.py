"""Trains a generator to draw townscape at one resolution: examples, loss, optimizer, running average."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from rewriter.errors import ComputationError
from rewriter.generators.layer import Features
from rewriter.generators.stylegan2 import MAPPING_RATE, StyleGAN2
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.factors import Factor

SMALL = {"tower": 3.5, "window": 4.0, "door": 4.0, "dome": 7.0, "spire": 8.0, "watermark": 12.0, "bar": 30.0}
PIXEL_WEIGHTS = dict.fromkeys(scenes.LABELS, 1.0) | {"wall": 1.5, "tree": 1.5, "cloud": 2.0, "light": 2.0} | SMALL
BETAS = (0.9, 0.99)
WARM_UP = 100  # steps until the full learning rate
AVERAGE_DECAY = 0.999  # of the running average, after the first steps


@dataclass(frozen=True)
class Stage:
    """Side of the pictures in px, pictures a step, relative share of the time, learning rate at start and end."""

    size: int
    batch: int
    share: float
    rate_from: float = 3e-3
    rate_to: float = 1e-3

    def rate(self, done: float, step: int) -> float:
        """Learning rate when a share `done` of the time is over: a cosine, after a short warm-up."""
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return (self.rate_to + (self.rate_from - self.rate_to) * cosine) * min(1.0, (step + 1) / WARM_UP)


class Trainable(nn.Module):
    """A generator's forward pass without rules and without switching fast arithmetic off, which only cost time here."""

    def __init__(self, generator: StyleGAN2) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        """Latents (n, z_dim) → pictures, without truncation."""
        following: Features | Tensor = self.generator.start(z, 1.0)
        while isinstance(following, Features):
            values = self.generator.memory(following.layer).recall(following.keys, following.style)
            following = self.generator.step(following, values)
        return following


class StageTrainer:
    """Trains `generator` at one resolution; `average`, a running average of its weights, is the result."""

    def __init__(self, accelerator: Accelerator, generator: StyleGAN2, stage: Stage) -> None:
        self.accelerator, self.stage, self.step, self.seconds = accelerator, stage, 0, 0.0
        model = Trainable(generator).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
        optimizer = torch.optim.Adam(_parameters(generator), lr=stage.rate_from, betas=BETAS)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.generator, self.average = generator, copy.deepcopy(generator).requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """Everything needed to resume: tensors and numbers only."""
        parts = {name: getattr(self, name).state_dict() for name in ("generator", "average", "optimizer")}
        return {"size": self.stage.size, "step": self.step, "seconds": self.seconds, **parts}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.step, self.seconds = state["step"], state["seconds"]
        for name in ("generator", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])

    def train(self, seconds: float, *, every: int) -> Iterator[dict[str, float]]:
        """Train until `seconds` are over; yields a report every `every` steps; ComputationError if it diverged."""
        first = True
        device = self.accelerator.device
        # all processes go by the clock of the main one, so that they take the same number of steps
        while (done := float(broadcast(torch.tensor(self.seconds / seconds, device=device)))) < 1:
            start = time.perf_counter()
            error = self._learn(done)
            self.step += 1
            if not first:  # the first step of a run may compile, which is not training
                self.seconds += time.perf_counter() - start
            first = False
            if self.step % every == 0:
                yield self._report(done, float(error))

    def _learn(self, done: float) -> Tensor:
        """One step; returns the mean absolute error in 1/255."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate(done, self.step) * group["scale"]
        z = training_latents(self.stage.batch, self.accelerator.device)
        picture, weight = example(z, self.stage.size)
        drawn = self.model(z).float()
        self.optimizer.zero_grad()
        self.accelerator.backward(loss(drawn, picture, weight))
        self.optimizer.step()
        keep = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)
            return (drawn - picture).abs().mean() * 127.5

    def _report(self, done: float, error: float) -> dict[str, float]:
        if not math.isfinite(error):
            raise ComputationError(f"the training diverged at {self.stage.size} px: try another seed or fewer channels")
        pictures = self.step * self.stage.batch * self.accelerator.num_processes
        pace = pictures / self.seconds if self.seconds else 0.0
        report = {"size": self.stage.size, "step": self.step, "done": round(done, 4)}
        return report | {"error_255": round(error, 2), "pictures_per_second": round(pace, 1)}


def _parameters(generator: StyleGAN2) -> list[dict[str, Any]]:
    """Parameter groups: the mapping's weights are stored divided by its rate, so Adam's steps are divided as well."""
    mapping = list(generator.mapping.parameters())
    synthesis = [parameter for parameter in generator.synthesis.parameters() if parameter.requires_grad]
    return [{"params": mapping, "scale": 1 / MAPPING_RATE}, {"params": synthesis, "scale": 1.0}]


def training_latents(batch: int, device: torch.device) -> Tensor:
    """Random latents (batch, 32) in which the rare marks are more frequent than in the world."""
    z = torch.randn(batch, factors.LATENT_DIM, device=device)
    marks, bars = batch // 8, batch * 3 // 16
    z[:marks, Factor.MARK] = 0.5 * z[:marks, Factor.MARK] - 1.9
    z[marks : marks + bars, Factor.BAR] = 0.5 * z[marks : marks + bars, Factor.BAR] - 2.0
    return z


@torch.no_grad()
def example(z: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What latents (n, 32) should look like: pictures (n, 3, size, size) and weights (n, 1, size, size) of mean 1.

    Below 64 px scenes are drawn at twice the size and averaged, so that thin things fade instead of flickering.
    """
    picture, labels = scenes.draw(factors.factors(z), max(size, min(2 * size, 64)))
    table = torch.tensor([PIXEL_WEIGHTS[label] for label in scenes.LABELS], device=z.device)
    weight = F.max_pool2d(table[labels][:, None], 3, 1, 1)
    picture, weight = F.adaptive_avg_pool2d(picture, size), F.adaptive_avg_pool2d(weight, size)
    return picture, weight / weight.mean()


def loss(drawn: Tensor, picture: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 + 2 · L2 + ½ · L1 of the gradients; pictures (n, 3, s, s), weights (n, 1, s, s)."""
    difference = drawn - picture
    rows = (weight[:, :, 1:] * difference.diff(dim=2).abs()).mean()
    columns = (weight[..., 1:] * difference.diff(dim=3).abs()).mean()
    pixels = (weight * difference.abs()).mean() + 2 * (weight * difference.square()).mean()
    return pixels + 0.5 * (rows + columns)


def train_mapping(generator: StyleGAN2, seconds: float) -> None:
    """Train only the mapping network to encode what a latent means, then scale its output to unit variance.

    This mattered most of all. Without scaling, w had a standard deviation of 8 and the training diverged.
    """
    head = nn.Linear(generator.config.w_dim, factors.NUM_FACTORS + 8).to(generator.device)
    mapping = {"params": list(generator.mapping.parameters()), "scale": 1 / MAPPING_RATE}
    optimizer = torch.optim.Adam([mapping, {"params": list(head.parameters()), "scale": 1.0}])
    start = time.perf_counter()
    while (done := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (2e-3 * (1 - done) + 1e-5) * group["scale"]
        z = torch.randn(1024, factors.LATENT_DIM, device=generator.device)
        error = (head(generator.mapping(z)) - _meaning(factors.factors(z))).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    _normalise(generator)


def _meaning(u: Tensor) -> Tensor:
    """Factors (n, 24) and the switches that they set (n, 8), all in [-1, 1]."""
    left, paved, blue = u[:, Factor.SIDE] < 0.5, u[:, Factor.PAVED] > 0.5, u[:, Factor.DOOR] > 0.5
    tops, trees = (factors.has_dome(u), factors.has_spire(u)), (factors.has_left_tree(u), factors.has_right_tree(u))
    switches = torch.stack([left, factors.is_lit(u), *tops, paved, blue, *trees], 1)
    return torch.cat([u, switches.float()], 1) * 2 - 1


@torch.no_grad()
def _normalise(generator: StyleGAN2) -> None:
    """Scale the last mapping layer until w has unit variance: its leaky ReLU is homogeneous."""
    deviation = generator.mapping(torch.randn(4096, generator.zdim, device=generator.device)).std()
    last = generator.mapping.get_submodule(f"fc{generator.config.mapping_layers - 1}")
    for parameter in last.parameters():
        parameter.div_(deviation)
