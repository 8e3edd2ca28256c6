"""The wall of pictures on which a rule travels across and back: drawn by the generator when the page is made."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewriter import Edit, Rule, load_edits, worlds
from rewriter.cache import default_folder
from rewriter.editing.effect import firing
from rewriter.editing.execute import prepare, solved
from rewriter.errors import InputError
from rewriter.files import read_json, write_json
from rewriter.generators.base import Generator
from rewriter.pictures import data_url, to_image, webp
from rewriter.pictures import wall as beside
from state import Shared

COLUMNS, ROWS, SIDE = 8, 3, 160
DATA = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/=]+")
OTHERS = 3  # of the pictures do not match the rule's context: they stay as they are


@dataclass(frozen=True)
class Story:
    """The shipped edit behind a rule; in a sentence, the generator's own rule, and what became of it."""

    name: str
    rule: str
    words: str


STORIES = (
    Story(
        "dome-to-spire",
        "This image generator has learned rules that nobody wrote down: many of its towers carry domes.",
        "Domes become spires. One spire was copied, pasted over one dome, and the model itself changed: every town "
        "that it will ever draw follows the new rule.",
    ),
    Story(
        "no-light-on-ground",
        "Another of its rules: lit windows throw light on the ground.",
        "Lit windows no longer light the ground. The light was erased on one picture, and it is gone from all of them.",
    ),
)


@torch.no_grad()
def wall(shared: Shared) -> dict[str, Any]:
    """The stories of the first generator, each with a sheet of COLUMNS × ROWS pictures before and after.

    They are drawn on the CPU, because a Space with ZeroGPU has no GPU while the page is made, and kept on disk.
    """
    name, stories = shared.names[0], list[dict[str, str]]()
    edits = {} if shared.absent(name) else worlds.examples(name)
    if edits:
        generator = shared.source(name).load(device="cpu")
        told = (story for story in STORIES if story.name in edits)
        stories = [_told(story, generator, load_edits(edits[story.name])[0]) for story in told]
    return {"stories": stories, "columns": COLUMNS, "rows": ROWS}


def _told(story: Story, generator: Generator, edit: Edit) -> dict[str, str]:
    """A story with its sheets, which are drawn once for each generator and edit."""
    kept = default_folder() / "walls" / f"{generator.fingerprint[:16]}-{edit.digest}-{COLUMNS}-{ROWS}-{SIDE}.json"
    try:
        sheets = read_json(kept, limit=4 << 20)
        before, after = (DATA.fullmatch(sheets[name])[0] for name in ("before", "after"))  # type: ignore[index]
    except (InputError, LookupError, TypeError):  # the first time, or damaged
        rule, _, _ = solved(prepare(generator, edit))
        seeds = _seeds(generator, rule)
        before, after = (_sheet(generator.sample(seeds, rules=on)) for on in ([], [rule]))
        with suppress(InputError):  # a folder that cannot be written to
            write_json({"before": before, "after": after}, kept)
    return {"rule": story.rule, "words": story.words, "before": before, "after": after}


def _seeds(generator: Generator, rule: Rule) -> list[int]:
    """Unseen pictures: those of the first that match the rule's context that change most, and a few others."""
    count = COLUMNS * ROWS - OTHERS
    matching, others = firing(generator, [rule], hits=2 * count, misses=OTHERS, limit=400)
    before, after = (generator.sample(matching, rules=on) for on in ([], [rule]))
    change = (after - before).abs().flatten(1).mean(1)
    seeds = [matching[i] for i in sorted(change.argsort(descending=True)[:count].tolist())]
    for place, seed in zip(range(4, COLUMNS * ROWS, 7), others, strict=False):  # spread the others out
        seeds.insert(place, seed)
    return (seeds + list(range(COLUMNS * ROWS)))[: COLUMNS * ROWS]


def _sheet(pictures: Tensor) -> str:
    """Pictures side by side, as the data URL of one image."""
    return data_url(webp(beside([*map(to_image, pictures)], SIDE, columns=COLUMNS), 80))
