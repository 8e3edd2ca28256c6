"""Train the segmenter: `python -m rewriter.evaluation.train_segmenter OUT.safetensors --minutes 20`.

A network that has only seen towns says "dome" where a tower ends, whatever stands there. So things are cut out of one
scene and put anywhere into another, colours, sharpness and noise vary, and half of the pictures are the generator's
own, with the labels of the scenes that it was asked for.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from rewriter.evaluation.segmenter import Segmenter, accuracy, described
from rewriter.files import check_writable, replacing
from rewriter.generators.base import Generator
from rewriter.worlds import townscape
from rewriter.worlds.townscape import scenes

BATCH, BANK = 24, 2048
RATE = 3e-3
LOOKED_AT = range(50_000, 50_200)  # seeds that no reported figure uses
SMALL = ("dome", "spire", "window", "door", "light", "watermark", "bar", "cloud")


@torch.no_grad()
def bank(generator: Generator) -> scenes.Scene:
    """Scenes, every second of them as the generator draws it: pictures (n, 3, 64, 64) and labels (n, 64, 64)."""
    z = torch.randn(BANK, scenes.LATENT_DIM)
    parts = []
    for some in z.split(BATCH):
        scene = scenes.draw(scenes.factors(some))
        scene.picture[::2] = generator(some[::2])
        parts.append(scene)
    return scenes.Scene(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


@torch.no_grad()
def example(seen: scenes.Scene) -> tuple[Tensor, Tensor]:
    """A batch of pictures and labels to learn from."""
    some = torch.randperm(len(seen.labels))[:BATCH]
    return _disturbed(*_collage(seen.picture[some], seen.labels[some]))


def _collage(picture: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Into every second scene, put one thing from its neighbour, moved anywhere."""
    n = len(picture)
    others, shift = torch.roll(torch.arange(n), 1), torch.randint(-24, 25, (n, 2)).tolist()
    thing = torch.randint(len(scenes.LABELS), (n,))
    for i in range(0, n, 2):
        there = torch.roll(labels[others[i]] == thing[i], shift[i], (0, 1))
        moved = torch.roll(picture[others[i]], shift[i], (1, 2))
        picture[i] = torch.where(there, moved, picture[i])
        labels[i] = torch.where(there, thing[i], labels[i])
    return picture, labels


def _disturbed(picture: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Vary colour, contrast, sharpness and noise."""
    n = len(picture)
    gain, shift = 1 + 0.08 * torch.randn(n, 3, 1, 1), 0.05 * torch.randn(n, 3, 1, 1)
    soft = F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)
    picture = torch.lerp(picture, soft, torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.5))
    noise = torch.randn_like(picture) * 0.06 * torch.rand(n, 1, 1, 1)
    return picture * gain + shift + noise, labels


def train(minutes: float, *, report_every: float = 60.0) -> Segmenter:
    """Learn for so many minutes; prints how it goes."""
    torch.manual_seed(0)
    network = Segmenter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
    seen = bank(townscape.load())
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    weight = torch.tensor([2.0 if label in SMALL else 1.0 for label in scenes.LABELS])
    start = said = time.monotonic()
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = RATE * (1 - done) + 1e-5
        picture, labels = example(seen)
        loss = F.cross_entropy(network(picture), labels, weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if time.monotonic() - said > report_every:
            said = time.monotonic()
            print(f"{done:.0%}: loss {float(loss):.3f}", flush=True)  # noqa: T201 (a command)
    return network.eval().requires_grad_(False)


def main() -> None:
    """Train, write the weights in half precision, say how good they are on generated pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--minutes", type=float, default=20.0)
    arguments = parser.parse_args()
    check_writable(arguments.out)
    network = train(arguments.minutes)
    with replacing(arguments.out) as temporary:
        state = network.half().state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
    network.float()
    pictures = townscape.load().sample(LOOKED_AT)
    for thing, (share, pixels) in accuracy(network, pictures, described(LOOKED_AT, 64).labels).items():
        print(f"{thing:10} {share:6.1%} of {pixels:,} pixels")  # noqa: T201 (a command)


if __name__ == "__main__":
    main()
