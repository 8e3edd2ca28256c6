"""The shipped edits of the built-in world."""

from __future__ import annotations

from pathlib import Path

FOLDERS = {"townscape": "examples", "townscape-128": "examples_128px"}


def examples(generator: str = "townscape") -> dict[str, Path]:
    """Name → edit file, of the built-in generator of this name; none for another."""
    folder = Path(__file__).with_name(FOLDERS[generator]) if generator in FOLDERS else None
    return {path.stem: path for path in sorted(folder.glob("*.json"))} if folder else {}
