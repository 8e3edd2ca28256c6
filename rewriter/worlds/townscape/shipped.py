"""The shipped edits of the built-in world, for its generator of 64 px."""

from __future__ import annotations

from pathlib import Path


def examples() -> dict[str, Path]:
    """Name → edit file."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("examples").glob("*.json"))}
