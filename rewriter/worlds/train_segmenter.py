"""Train the segmenter of a world: `python -m rewriter.worlds.train_segmenter OUT.safetensors --generator portraits`.

A network that has seen nothing but towns says "dome" wherever a tower ends. So things are cut out of one scene and put
anywhere into another, and colours, sharpness and noise vary. Half of the pictures are the generator's own, with the
labels of the scenes that their latents describe.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from rewriter import worlds
from rewriter.checkpoints.catalogue import BUILT_IN
from rewriter.files import check_writable, write_tensors
from rewriter.generators.base import Generator
from rewriter.worlds.base import World
from rewriter.worlds.segmenter import Segmenter, accuracy

PIXELS, SCENES, RATE = 24 * 64**2, 2048, 3e-3  # a step; to learn from; learning rate at the start
TEST_SEEDS = range(50_000, 50_200)  # not used for reported results
HARD, MORE = 2.0, 2.0  # labels that weigh so much in the generator's training, or more, weigh twice as much here
MOST_SHIFT = 0.375  # of a thing that is put elsewhere, in sides of the picture


@torch.no_grad()
def training_scenes(world: World, generator: Generator) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, H, W), every second one drawn by the generator, and labels (n, H, W)."""
    parts = []
    for z in torch.randn(SCENES, world.zdim).split(16):
        scene = world.draw(world.factors(z), generator.resolution)
        scene.picture[::2] = generator(z[::2])
        parts.append((scene.picture, scene.labels))
    pictures, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return pictures, labels


def collage(picture: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Into every second scene, put one thing of `number` from its neighbour, moved to a random place."""
    n, most = len(picture), round(MOST_SHIFT * picture.shape[-1])
    others, shift = torch.roll(torch.arange(n), 1), torch.randint(-most, most + 1, (n, 2)).tolist()
    thing = torch.randint(number, (n,))
    for i in range(0, n, 2):
        there = torch.roll(labels[others[i]] == thing[i], shift[i], (0, 1))
        picture[i] = torch.where(there, torch.roll(picture[others[i]], shift[i], (1, 2)), picture[i])
        labels[i] = torch.where(there, thing[i], labels[i])
    return picture, labels


def distorted(picture: Tensor) -> Tensor:
    """Vary colour, contrast, sharpness and noise."""
    n = len(picture)
    gain, shift = 1 + 0.08 * torch.randn(n, 3, 1, 1), 0.05 * torch.randn(n, 3, 1, 1)
    soft = F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)
    picture = torch.lerp(picture, soft, torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.5))
    noise = torch.randn_like(picture) * 0.06 * torch.rand(n, 1, 1, 1)
    return picture * gain + shift + noise


def train(world: World, generator: Generator, minutes: float) -> Segmenter:
    """Learn for some minutes; prints the loss every 500 steps."""
    torch.manual_seed(0)
    network: Segmenter = Segmenter(len(world.labels)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
    optimizer, (pictures, known) = torch.optim.Adam(network.parameters(), lr=RATE), training_scenes(world, generator)
    weight = torch.tensor([MORE if world.pixel_weights[label] >= HARD else 1.0 for label in world.labels])
    start, step, batch = time.monotonic(), 0, max(2, PIXELS // generator.resolution**2)
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = RATE * (1 - done) + 1e-5
        chosen = torch.randperm(len(known))[:batch]
        picture, labels = collage(pictures[chosen], known[chosen], len(world.labels))
        loss = F.cross_entropy(network(distorted(picture)), labels, weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step := step + 1) % 500 == 0:
            typer.echo(f"{done:.0%}: loss {float(loss):.3f}")
    return network.eval().requires_grad_(False)


def main(
    out: Path,
    generator: Annotated[str, typer.Option(help="A built-in generator; its world is learned.")] = BUILT_IN,
    minutes: float = 20.0,
) -> None:
    """Train, write the weights in half precision, print their accuracy on generated pictures."""
    check_writable(out)
    model = worlds.load(generator)
    world = worlds.of(model)
    assert world is not None  # it is built in
    network = train(world, model, minutes).half()
    write_tensors(network.state_dict(), out, {"format": "pt"})
    pictures, labels = model.sample(TEST_SEEDS), world.described(TEST_SEEDS, model.resolution).labels
    for thing, (share, count) in accuracy(network.float(), [(pictures, labels)], world.labels).items():
        typer.echo(f"{thing:10} {share:6.1%} of {count:,} pixels")


if __name__ == "__main__":
    typer.run(main)
