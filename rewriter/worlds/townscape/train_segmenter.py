"""Train the segmenter: `python -m rewriter.worlds.townscape.train_segmenter OUT.safetensors --minutes 20`.

A network that has seen nothing but towns says "dome" wherever a tower ends. So things are cut out of one scene and put
anywhere into another, and colours, sharpness and noise vary. Half of the pictures are the generator's own, with the
labels of the scenes that their latents describe.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from rewriter.files import check_writable, write_tensors
from rewriter.worlds import townscape
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.segmenter import Segmenter, accuracy

BATCH, SCENES, RATE = 24, 2048, 3e-3
TEST_SEEDS = range(50_000, 50_200)  # not used for reported results
SMALL = ("dome", "spire", "window", "door", "light", "watermark", "bar", "cloud")


@torch.no_grad()
def training_scenes() -> scenes.Scene:
    """Pictures (n, 3, 64, 64), every second one drawn by the generator, and labels (n, 64, 64)."""
    generator, parts = townscape.load(), []
    for z in torch.randn(SCENES, factors.LATENT_DIM).split(BATCH):
        scene = scenes.draw(factors.factors(z))
        scene.picture[::2] = generator(z[::2])
        parts.append(scene)
    return scenes.Scene(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def collage(picture: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Into every second scene, put one thing from its neighbour, moved to a random place."""
    n = len(picture)
    others, shift = torch.roll(torch.arange(n), 1), torch.randint(-24, 25, (n, 2)).tolist()
    thing = torch.randint(len(scenes.LABELS), (n,))
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


def train(minutes: float) -> Segmenter:
    """Learn for some minutes; prints the loss every 500 steps."""
    torch.manual_seed(0)
    network = Segmenter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
    known, optimizer = training_scenes(), torch.optim.Adam(network.parameters(), lr=RATE)
    weight = torch.tensor([2.0 if label in SMALL else 1.0 for label in scenes.LABELS])
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = RATE * (1 - done) + 1e-5
        chosen = torch.randperm(len(known.labels))[:BATCH]
        picture, labels = collage(known.picture[chosen], known.labels[chosen])
        loss = F.cross_entropy(network(distorted(picture)), labels, weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step := step + 1) % 500 == 0:
            typer.echo(f"{done:.0%}: loss {float(loss):.3f}")
    return network.eval().requires_grad_(False)


def main(out: Path, minutes: float = 20.0) -> None:
    """Train, write the weights in half precision, print their accuracy on generated pictures."""
    check_writable(out)
    network = train(minutes).half()
    write_tensors(network.state_dict(), out, {"format": "pt"})
    pictures, labels = townscape.load().sample(TEST_SEEDS), scenes.described(TEST_SEEDS).labels
    for thing, (share, count) in accuracy(network.float(), pictures, labels).items():
        typer.echo(f"{thing:10} {share:6.1%} of {count:,} pixels")


if __name__ == "__main__":
    typer.run(main)
