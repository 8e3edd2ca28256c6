"""Latents by seed, as in the original implementation: seed n is row n of one fixed random table."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewriter.errors import InputError

Seed = int | str  # which picture: a number, or the name of a photo
SEEDS = 100_000
PHOTO = r"photo-[0-9a-f]{16}"  # the name of a photo
UNSEEN = 10_000  # the first seed to measure effects on; statistics and most edits use lower ones
_BLOCK = 1000  # rows between two saved states of the random stream


@lru_cache(maxsize=256)
def _stream(zdim: int, block: int) -> Any:
    """State of the original's random stream before row 1000 · block."""
    stream = np.random.RandomState(1)
    if block:
        stream.set_state(_stream(zdim, block - 1))
        stream.standard_normal(_BLOCK * zdim)
    return stream.get_state()


@lru_cache(maxsize=8)
def _rows(zdim: int, block: int) -> Tensor:
    """Rows 1000 · block to 1000 · block + 999 of the latent table."""
    stream = np.random.RandomState(1)
    stream.set_state(_stream(zdim, block))
    return torch.from_numpy(stream.standard_normal(_BLOCK * zdim).reshape(_BLOCK, zdim).astype(np.float32))


def in_order(seeds: Iterable[Seed]) -> list[Seed]:
    """Seeds in order, photos last."""
    return sorted(seeds, key=lambda seed: (isinstance(seed, str), seed if isinstance(seed, int) else 0, f"{seed}"))


def latents(seeds: Sequence[Seed], zdim: int) -> Tensor:
    """Latents (n, zdim) of seeds in 0…99,999, or InputError: seed n is row n of RandomState(1).standard_normal."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < SEEDS:
            raise InputError(f"seed {seed!r} is not a whole number from 0 to {SEEDS - 1:,}")
    rows = [_rows(zdim, int(seed) // _BLOCK)[int(seed) % _BLOCK] for seed in seeds]
    return torch.stack(rows) if rows else torch.zeros(0, zdim)


def fixed_noise(name: str, side: int) -> Tensor:
    """Standard normal noise (side, side) for a tensor of that name: the same on every machine."""
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(stream.standard_normal((side, side)).astype(np.float32))


def parse_seeds(text: str, *, most: int, what: str = "seeds") -> list[int]:
    """Seeds as people write them, "0-3, 8" → [0, 1, 2, 3, 8]; InputError for other texts, or more than `most`.

    `what` names them in errors, so that other numbers can be written in the same way.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, _, high = (piece.strip() for piece in part.partition("-"))
        if not (low.isdecimal() and (high or low).isdecimal() and len(low) < 7 and len(high) < 7):
            raise InputError(f"{what} {text[:60]!r} are not like 0-11,40,97")
        if int(high or low) < int(low):
            raise InputError(f"{what} {part.strip()!r} run backwards: write the smaller one first")
        seeds += range(int(low), int(high or low) + 1)
        if len(seeds) > most:
            raise InputError(f"{what} {text[:60]!r} are more than {most} at once")
    if max(seeds) >= SEEDS:
        raise InputError(f"{what} {text[:60]!r}: they go from 0 to {SEEDS - 1:,}")
    return seeds


def format_seeds(seeds: Sequence[int]) -> str:
    """Seeds as `parse_seeds` reads them: (0, 1, 2, 8) → "0-2, 8"."""
    runs = [[seed for _, seed in run] for _, run in groupby(enumerate(seeds), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
