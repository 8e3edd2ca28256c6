"""The shipped edits of the built-in world."""

from __future__ import annotations

from pathlib import Path


def examples() -> dict[str, Path]:
    """Name → edit file."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("examples").glob("*.json"))}
