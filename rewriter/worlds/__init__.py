"""Built-in worlds: towns that this package draws and judges exactly; and the shipped edits of all generators."""

from __future__ import annotations

from pathlib import Path

SHIPPED = "townscape", "faces"  # folders with shipped edits, in the order in which they are listed


def examples() -> dict[str, Path]:
    """The shipped edits of all worlds, name → edit file, which names its generator; its picture lies beside it."""
    here = Path(__file__).parent
    return {path.stem: path for world in SHIPPED for path in sorted((here / world / "examples").glob("*.json"))}
