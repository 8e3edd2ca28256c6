"""Built-in worlds: towns that this package draws and judges exactly; and the shipped edits of all generators."""

from __future__ import annotations

from pathlib import Path

FOLDERS = {  # of shipped edits, by generator
    "townscape": "townscape/examples",
    "townscape-128": "townscape/examples_128px",
    "faces": "faces/examples",
}


def examples(generator: str | None = None) -> dict[str, Path]:
    """The shipped edits of a generator, name → edit file; its picture lies beside it.

    None: those that have a name of their own, of the smaller towns and of faces.
    """
    chosen = ("townscape", "faces") if generator is None else (generator,) if generator in FOLDERS else ()
    folders = (Path(__file__).parent / FOLDERS[name] for name in chosen)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}
