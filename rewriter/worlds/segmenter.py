"""A small network that labels every pixel of a world's pictures; its features measure perceptual distance.

It stands in for the judges of photographs (a segmenter, LPIPS): 227,000 weights, trained by us on our own scenes, whose
labels are exact. `accuracy` measures it; `python -m rewriter.worlds.train_segmenter` trains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from rewriter import worlds
from rewriter.generators.base import Generator

FILE = "segmenter.safetensors"  # in the folder of its world
CHANNELS = (16, 32, 48, 64)
BATCH = 50


class Block(nn.Sequential):
    """Two 3 × 3 convolutions, each with batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int):
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)


class Segmenter(nn.Module):
    """A U-Net: pictures (n, 3, H, W) in [-1, 1], sides divisible by 8, → scores (n, labels, H, W)."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(Block(a, b) for a, b in zip((3, *CHANNELS), CHANNELS, strict=False))
        pairs = list(zip(CHANNELS[1:], CHANNELS, strict=False))
        self.up = nn.ModuleList(Block(deep + shallow, shallow) for deep, shallow in reversed(pairs))
        self.head = nn.Conv2d(CHANNELS[0], labels, 1)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Activations (n, c, h, w) at the picture's resolution and at a half, a quarter and an eighth of it."""
        x, found = pictures.clamp(-1, 1), []
        for i, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if i else x)
            found.append(x)
        return found

    def forward(self, pictures: Tensor) -> Tensor:
        """Score every label at every pixel."""
        *shallow, x = self.features(pictures)
        for block, skipped in zip(self.up, reversed(shallow), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skipped], 1))
        scores: Tensor = self.head(x)
        return scores

    @torch.no_grad()
    def labels(self, pictures: Tensor) -> Tensor:
        """The most likely label of every pixel, (n, H, W)."""
        return torch.cat([self(part).argmax(1) for part in pictures.split(BATCH)])

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance of pictures (n, 3, H, W) at each pixel, (n, H, W), from 0 to 4.

        It has the form of LPIPS (Zhang et al. 2018, Eq. 1): squared differences of unit feature vectors, summed over
        four resolutions. The features are this network's own and not calibrated, so values differ from LPIPS.
        """
        parts = zip(a.split(BATCH), b.split(BATCH), strict=True)
        return torch.cat([self._distance(*pair) for pair in parts])

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        total = a.new_zeros(len(a), *a.shape[2:])
        for x, y in zip(self.features(a), self.features(b), strict=True):
            apart = (_unit(x) - _unit(y)).square().sum(1, keepdim=True)
            total += F.interpolate(apart, size=a.shape[2:], mode="bilinear")[:, 0]
        return total

    @torch.no_grad()
    def embedding(self, pictures: Tensor) -> Tensor:
        """One vector for each picture, (n, 64): the mean over all places of the last features."""
        return torch.cat([self.features(part)[-1].mean((2, 3)) for part in pictures.split(BATCH)])


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-8)


def of(generator: Generator) -> Segmenter:
    """The network for pictures of a generator: its world's; the towns' for generators without a world."""
    world = worlds.of(generator)
    return load(world.name) if world else load()


def load(world: str = "townscape") -> Segmenter:
    """The shipped network of a world, on the CPU; read only once."""
    return _read(world)


@cache
def _read(world: str) -> Segmenter:
    known = worlds.named(world)
    network = Segmenter(len(known.labels))
    network.load_state_dict(load_file(known.folder / FILE))
    return network.eval().requires_grad_(False)


def accuracy(
    network: Segmenter, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str]
) -> dict[str, tuple[float, int]]:
    """The share of each thing's pixels that are labelled correctly, and their number; "all" comes last.

    `batches`: pictures (n, 3, H, W) with their labels (n, H, W).
    """
    right, total = torch.zeros(2, len(names), dtype=torch.long)
    for pictures, labels in batches:
        right += labels[network.labels(pictures) == labels].bincount(minlength=len(names))
        total += labels.flatten().bincount(minlength=len(names))
    shares = {name: (float(r / t), int(t)) for name, r, t in zip(names, right, total, strict=True)}
    return shares | {"all": (float(right.sum() / total.sum()), int(total.sum()))}
