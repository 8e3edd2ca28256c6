"""The shipped edits of the built-in world, for its generator of 64 px."""

from __future__ import annotations

from pathlib import Path

from rewriter import worlds


def examples() -> dict[str, Path]:
    """Name → edit file."""
    return worlds.examples("townscape")
