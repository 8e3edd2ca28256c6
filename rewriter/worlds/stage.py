"""Trains a generator to draw a world at one resolution: examples, loss, optimizer, running average."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from rewriter.errors import ComputationError
from rewriter.generators.filters import TAPS
from rewriter.generators.mapping import MAPPING_RATE
from rewriter.generators.stylegan2 import StyledConv, StyleGAN2
from rewriter.worlds.base import World
from rewriter.worlds.mapping import fit_reader, telling

BETAS = (0.9, 0.99)
WARM_UP = 100  # steps until the full learning rate
COMPILED_FROM = 64  # px: smaller generators train in less time than they compile
DRAWN = 2048  # examples drawn at once on a GPU: drawing is many small steps, whose number does not grow with them
WARM_UPS = 3  # steps before they are recorded as a CUDA graph
PARTS = ("generator", "average", "reader", "optimizer")  # of what a training needs to be resumed
REMEMBER = 1.0  # weight in the loss of what w does not say
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
    """A generator's forward pass as it trains fastest: without rules or noise, and with the filters in the weights."""

    def __init__(self, generator: StyleGAN2) -> None:
        super().__init__()
        self.generator = generator
        self.phases: Tensor
        self.register_buffer("phases", _phases())

    def forward(self, w: Tensor) -> Tensor:
        """(n, w_dim), not truncated → pictures."""
        x, picture = w, w  # of the first block, which starts from a constant
        for module in self.generator.synthesis.children():
            block: Any = module
            first = hasattr(block, "const")
            x = block.const.expand(len(w), -1, -1, -1) if first else _recall(block.conv0, x, w, self.phases)
            x = _recall(block.conv1, x, w, self.phases)
            part: Tensor = block.torgb(x, w).float()
            picture = part if first else _doubled(_doubled(picture, 2), 3) + part
        return picture


def _recall(layer: StyledConv, x: Tensor, w: Tensor, phases: Tensor) -> Tensor:
    """What `Memory.recall` computes; where the layer upsamples, as one convolution that yields four pixels a cell.

    Everything stays in the precision of the convolutions: of half the size, maps take half the time.
    """
    style: Tensor = layer.affine(w)
    keys, scale = x * style[:, :, None, None], layer.scale(style, layer.energy())
    if layer.up:
        response = F.pixel_shuffle(F.conv2d(keys, _upsampling(layer.weight, phases), padding=1), 2)
    else:
        response = F.conv2d(keys, layer.weight, padding=1)
    scale, bias = scale.to(response.dtype), layer.bias.to(response.dtype)
    return layer.activate(response * scale[:, :, None, None] + bias[:, None, None])


def _upsampling(weight: Tensor, phases: Tensor) -> Tensor:
    """Weight (o, i, 3, 3) of a transposed convolution with a blur → (4 o, i, 3, 3) for `pixel_shuffle`."""
    outputs, inputs = weight.shape[:2]
    spread = (weight.reshape(outputs, inputs, 9) @ phases).view(outputs, inputs, 4, 9)
    return spread.transpose(1, 2).reshape(4 * outputs, inputs, 3, 3)


def _phases() -> Tensor:
    """What the taps (9) of a transposed convolution with a blur add to those of four plain ones, (9, 4 · 9)."""
    row = torch.tensor(TAPS) / sum(TAPS) * 2
    blurred = F.conv2d(torch.eye(9).view(9, 1, 3, 3).flip(2, 3), torch.outer(row, row)[None, None], padding=3)
    return blurred.view(9, 3, 2, 3, 2).flip(2, 4).permute(0, 2, 4, 1, 3).reshape(9, 36)


def _doubled(x: Tensor, axis: int) -> Tensor:
    """Maps (n, c, h, w) twice as long along one axis, smoothed as `filters.upsample` does."""
    length, zero = x.shape[axis], torch.zeros_like(x.narrow(axis, 0, 1))
    before = torch.cat([zero, x.narrow(axis, 0, length - 1)], axis)
    after = torch.cat([x.narrow(axis, 1, length - 1), zero], axis)
    return torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1).flatten(axis, axis + 1)


class Lesson(nn.Module):
    """A generator and what it is compared with, in one: compiled together, they take less time.

    `reader` reads from w what latents mean. Unless it has to, the mapping network forgets in a thousand steps what
    small pictures do not show: of portraits, it then knew kinds of what is worn to 67 % instead of 98 %.
    """

    def __init__(self, generator: StyleGAN2, reader: nn.Linear) -> None:
        super().__init__()
        self.drawing, self.reader = Trainable(generator), reader

    def forward(self, z: Tensor, told: Tensor, picture: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, what they mean, pictures, weights → the loss, and (3,): what `StageTrainer` reports of it."""
        w: Tensor = self.drawing.generator.mapping(z)
        drawn, forgotten = self.drawing(w).float(), (self.reader(w).float() - told).square().mean()
        with torch.no_grad():
            seen = torch.stack([(drawn - picture).abs().mean() * 127.5, sharpness(drawn, picture), forgotten])
        return loss(drawn, picture, weight) + REMEMBER * forgotten, seen


class StageTrainer:
    """Trains `generator` at one resolution; `average`, a running average of its weights, is the result."""

    def __init__(self, accelerator: Accelerator, world: World, generator: StyleGAN2, stage: Stage) -> None:
        self.accelerator, self.world, self.stage = accelerator, world, stage
        self.step, self.seconds, self.fast = 0, 0.0, accelerator.device.type == "cuda"
        self.reader = fit_reader(world, generator)
        model = Lesson(generator, self.reader).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
        if self.fast:
            torch.backends.cudnn.benchmark = True
        if self.fast and stage.size >= COMPILED_FROM:
            model.forward = torch.compile(model.forward, dynamic=False)
        self._tell = telling(world, accelerator.device)
        groups = _parameters(generator, self.reader, accelerator.device)
        optimizer = torch.optim.Adam(groups, betas=BETAS, fused=self.fast, capturable=self.fast)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.generator, self.average = generator, copy.deepcopy(generator).requires_grad_(False)
        self._lessons, self._take = self._examples(), self._update
        if self.fast and accelerator.num_processes == 1:
            self._take = self._record

    def state(self) -> dict[str, Any]:
        """Everything needed to resume: tensors and numbers only."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        return {"size": self.stage.size, "step": self.step, "seconds": self.seconds, **parts}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned, on any device."""
        for saved, group in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            saved.update({name: group[name] for name in ("lr", "fused", "capturable")})
        self.step, self.seconds = state["step"], state["seconds"]
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])

    def train(self, seconds: float, *, every: int) -> Iterator[dict[str, float]]:
        """Train until `seconds` are over; yields a report every `every` steps; ComputationError if it diverged."""
        first = True
        while (done := self._clock() / seconds) < 1:
            start = time.perf_counter()
            seen = self._learn(done)
            self.step += 1
            if not first:  # the first step of a run may compile, which is not training
                self.seconds += time.perf_counter() - start
            first = False
            if self.step % every == 0:
                yield self._report(done, *seen.tolist())

    def _clock(self) -> float:
        """Seconds of training; all processes go by the main one's, so that they take the same number of steps."""
        if self.accelerator.num_processes == 1:
            return self.seconds
        return float(broadcast(torch.tensor(self.seconds, device=self.accelerator.device)))

    def _learn(self, done: float) -> Tensor:
        """One step; returns what `Lesson` sees."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.stage.rate(done, self.step) * group["scale"])
        seen = self._take(next(self._lessons))
        keep = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)
        return seen

    def _update(self, lesson: Sequence[Tensor]) -> Tensor:
        """Descend once on what `Lesson` takes."""
        self.optimizer.zero_grad()
        wrong, seen = self.model(*lesson)
        self.accelerator.backward(wrong)
        self.optimizer.step()
        return seen.detach()

    def _record(self, lesson: Sequence[Tensor]) -> Tensor:
        """The first step on a GPU records a CUDA graph, which the others replay: launching kernels takes longer."""
        fixed = [part.clone(memory_format=torch.contiguous_format) for part in lesson]
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        self._update(fixed)  # compiles
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._update(fixed)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        with torch.cuda.graph(graph, stream=stream):
            seen = self._update(fixed)

        def replay(lesson: Sequence[Tensor]) -> Tensor:
            torch._foreach_copy_(fixed, list(lesson))
            graph.replay()
            return seen

        self._take = replay
        return replay(lesson)

    def _examples(self) -> Iterator[list[Tensor]]:
        """What `Lesson` takes, a batch at a time."""
        batches = max(1, DRAWN // self.stage.batch) if self.fast else 1
        while True:
            z = training_latents(self.world, batches * self.stage.batch, self.accelerator.device)
            z = z[torch.randperm(len(z), device=z.device)]
            parts = (z, self._tell(z), *self._example(z))
            yield from zip(*(part.split(self.stage.batch) for part in parts), strict=True)

    def _example(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """On a GPU, the thousands of small steps of drawing large scenes are compiled into a few."""
        size, largest = self.stage.size, self.world.oversample
        if not self.fast or size < COMPILED_FROM:
            return example(self.world, z, size)
        with torch.no_grad():
            return shrunk(*_compiled(self.world)(z, max(size, largest)), size)

    def _report(self, done: float, error: float, sharp: float, forgotten: float) -> dict[str, float]:
        if not math.isfinite(error):
            raise ComputationError(f"the training diverged at {self.stage.size} px: try another seed or fewer channels")
        pictures = self.step * self.stage.batch * self.accelerator.num_processes
        pace = pictures / self.seconds if self.seconds else 0.0
        report = {"size": self.stage.size, "step": self.step, "done": round(done, 4)}
        report |= {"error_255": round(error, 2), "sharpness": round(sharp, 3)}
        return report | {"forgotten": round(forgotten, 4), "pictures_per_second": round(pace, 1)}


def _parameters(generator: StyleGAN2, reader: nn.Linear, device: torch.device) -> list[dict[str, Any]]:
    """Parameter groups: the mapping's weights are stored divided by its rate, so Adam's steps are divided as well.

    Their learning rates are tensors, so that a recorded step reads them anew.
    """
    mapping = list(generator.mapping.parameters())
    synthesis = [parameter for parameter in generator.synthesis.parameters() if parameter.requires_grad]
    groups = {1 / MAPPING_RATE: mapping, 1.0: [*synthesis, *reader.parameters()]}
    return [{"params": group, "scale": scale, "lr": torch.zeros((), device=device)} for scale, group in groups.items()]


def training_latents(world: World, batch: int, device: torch.device) -> Tensor:
    """Random latents (batch, zdim) in which rare things are more frequent than in the world."""
    return world.frequent(torch.randn(batch, world.zdim, device=device))


@torch.no_grad()
def example(world: World, z: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What latents (n, zdim) should look like: pictures (n, 3, size, size) and weights (n, 1, size, size) of mean 1.

    Small scenes are drawn at twice the size and averaged, so that thin things fade instead of flickering.
    """
    return shrunk(*_scene(world, z, max(size, min(2 * size, world.oversample))), size)


def _scene(world: World, z: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, size, size) of latents (n, zdim), and what each pixel weighs (n, 1, size, size)."""
    scene = world.draw(world.factors(z), size)
    table = torch.tensor([world.pixel_weights[label] for label in world.labels], device=z.device)
    return scene.picture, F.max_pool2d(table[scene.labels][:, None], 3, 1, 1)


@cache
def _compiled(world: World) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    return torch.compile(partial(_scene, world), dynamic=False)


def shrunk(picture: Tensor, weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures and weights averaged to `size` pixels a side; then the weights have a mean of 1."""
    if size < picture.shape[-1]:
        picture, weight = F.adaptive_avg_pool2d(picture, size), F.adaptive_avg_pool2d(weight, size)
    return picture, weight / weight.mean()


def sharpness(drawn: Tensor, picture: Tensor) -> Tensor:
    """Energy of the gradients of pictures (n, 3, s, s), relative to that of the scenes that they should show."""
    mine, theirs = (sum(x.diff(dim=dim).square().mean() for dim in (2, 3)) for x in (drawn, picture))
    return torch.as_tensor(mine / theirs)


def loss(drawn: Tensor, picture: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 + 2 · L2 + ½ · L1 of the gradients + L1 of their strength nearby; pictures (n, 3, s, s).

    Weights are (n, 1, s, s). Where the place of an edge is not certain, the first three want a blur, or do not mind it.
    """
    difference = drawn - picture
    rows = (weight[:, :, 1:] * difference.diff(dim=2).abs()).mean()
    columns = (weight[..., 1:] * difference.diff(dim=3).abs()).mean()
    pixels = (weight * difference.abs()).mean() + 2 * (weight * difference.square()).mean()
    return pixels + 0.5 * (rows + columns) + (_strength(drawn) - _strength(picture)).abs().mean()


def _strength(x: Tensor) -> Tensor:
    """How strong the edges of pictures (n, 3, s, s) are, wherever exactly: in squares of 4 px, (n, 1, s/4, s/4)."""
    energy = x.diff(dim=2)[..., :-1].square() + x.diff(dim=3)[:, :, :-1].square()
    return (F.avg_pool2d(F.pad(energy.sum(1, keepdim=True), (0, 1, 0, 1)), 4) + 1e-4).sqrt()
