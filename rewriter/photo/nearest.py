"""Which generated pictures look like a photo: thumbnails of a thousand seeds, made once for each generator."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rewriter.cache import default_folder
from rewriter.errors import InputError, OnStep, report
from rewriter.files import write_tensors
from rewriter.generators.base import Generator

SIDE = 16  # px of a thumbnail
SEEDS, FEW, SLOW = 1000, 192, 2e9  # pictures; fewer where one takes so many operations and there is no GPU
BATCH = 16


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Small versions of a generator's pictures, (n, 3, 16, 16) uint8, of the first n seeds."""

    small: Tensor

    @staticmethod
    def of(generator: Generator, *, cache: Path | None = None, on_step: OnStep | None = None) -> Thumbnails:
        """The thumbnails of a generator, drawn once and kept in the cache folder; `on_step` gets (pictures, of)."""
        count = FEW if is_slow(generator) else SEEDS
        folder = (default_folder() if cache is None else cache) / "thumbnails"
        path = folder / f"{generator.fingerprint[:16]}-{count}.safetensors"
        if (known := _read(path, generator.fingerprint, count)) is not None:
            return Thumbnails(known)
        parts = []
        for start in range(0, count, BATCH):
            seeds = list(range(start, min(start + BATCH, count)))
            with torch.no_grad():
                parts.append(thumbnail(generator.sample(seeds, rules=[]).clamp(-1, 1)))
            report(on_step, start + len(seeds), count)
        small = torch.cat(parts)
        with contextlib.suppress(InputError):  # a cache that cannot be written is no reason to fail
            write_tensors({"small": small}, path, {"fingerprint": generator.fingerprint})
        return Thumbnails(small)

    def distances(self, photos: Tensor) -> Tensor:
        """How much each picture differs from each of some photos (m, 3, H, W) in [-1, 1]: (m, n), 0 if they are alike.

        Colours and edges count, each by its absolute difference, so that a few places cannot decide alone.
        """
        ours, theirs = (_described(each.float() / 127.5 - 1) for each in (self.small, thumbnail(photos)))
        return torch.cdist(theirs, ours, p=1) / ours.shape[1]


def is_slow(generator: Generator) -> bool:
    """Whether drawing a picture takes so long here that fewer are tried."""
    return generator.operations > SLOW and generator.device.type == "cpu"


def thumbnail(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] → (n, 3, 16, 16), uint8, on the CPU."""
    small = F.adaptive_avg_pool2d(pictures.float(), SIDE)
    return ((small + 1) * 127.5).round().clamp(0, 255).byte().cpu()


def _described(small: Tensor) -> Tensor:
    """Pixels and edges of thumbnails, (n, numbers)."""
    parts = (small, small.diff(dim=2), small.diff(dim=3))
    return torch.cat([part.flatten(1) for part in parts], 1)


def _read(path: Path, fingerprint: str, count: int) -> Tensor | None:
    try:
        with safe_open(path, "pt") as file:
            small: Tensor = file.get_tensor("small")
            known = (file.metadata() or {}).get("fingerprint") == fingerprint
    except (OSError, SafetensorError):
        return None
    fits = tuple(small.shape) == (count, 3, SIDE, SIDE) and small.dtype == torch.uint8
    return small if known and fits else None
