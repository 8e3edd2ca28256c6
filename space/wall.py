"""The wall of pictures on which a rule travels across and back: drawn by the generator when the page is made."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
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
NEW = 2  # stories that one start draws at most, because the page waits for them; the next start draws more
LIMIT = 160  # unseen pictures that are looked through


@dataclass(frozen=True)
class Story:
    """The shipped edit behind a rule; in a sentence, the generator's own rule, and what became of it."""

    name: str
    rule: str
    words: str


STORIES = (
    Story(
        "frown-to-smile",
        "This image generator has learned rules that nobody wrote down: some of its people frown.",
        "Frowns become smiles, and so do most straight mouths. One smile was copied, pasted over one frown, and the "
        "model itself changed: everybody whom it will ever draw follows the new rule.",
    ),
    Story(
        "hats-for-all",
        "Another of its rules: most heads are bare.",
        "Hats for all! One woolly hat was pasted onto one head, and the model now draws it on others too.",
    ),
    Story(
        "add-glasses",
        "Another of its rules: most people wear no glasses.",
        "Everyone gets dark glasses. One pair was copied and pasted over one pair of eyes.",
    ),
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
        generator, new = shared.source(name).load(device="cpu"), 0
        for story in (story for story in STORIES if story.name in edits):
            edit = load_edits(edits[story.name])[0]
            kept = _kept(generator, edit)
            if (sheets := _read(kept)) is None and (new := new + 1) <= NEW:
                sheets = _draw(generator, edit, kept)
            if sheets:
                stories.append({"rule": story.rule, "words": story.words, **sheets})
    return {"stories": stories, "columns": COLUMNS, "rows": ROWS}


def _kept(generator: Generator, edit: Edit) -> Path:
    """Where the sheets of a generator and an edit are kept."""
    return default_folder() / "walls" / f"{generator.fingerprint[:16]}-{edit.digest}-{COLUMNS}-{ROWS}-{SIDE}.json"


def _read(kept: Path) -> dict[str, str] | None:
    """A story's sheets before and after; None if they are not kept, or damaged."""
    try:
        sheets = read_json(kept, limit=4 << 20)
        return {name: DATA.fullmatch(sheets[name])[0] for name in ("before", "after")}  # type: ignore[index]
    except (InputError, LookupError, TypeError):
        return None


def _draw(generator: Generator, edit: Edit, kept: Path) -> dict[str, str]:
    """A story's sheets, which are then kept."""
    rule, _, _ = solved(prepare(generator, edit))
    sheets = dict(zip(("before", "after"), map(_sheet, _drawn(generator, rule)), strict=True))
    with suppress(InputError):  # a folder that cannot be written to
        write_json(sheets, kept)
    return sheets


def _drawn(generator: Generator, rule: Rule) -> tuple[Tensor, Tensor]:
    """Unseen pictures (COLUMNS × ROWS, 3, H, W) without the rule and with it.

    Of those that match its context, they are the ones whose features change most; a few that do not match are among
    them. Only what is shown is drawn to the end.
    """
    most = COLUMNS * ROWS
    matching, others = firing(generator, [rule], hits=3 * most, misses=OTHERS, limit=LIMIT)
    features = generator.keys(matching, rule.layer, rules=[])
    plain, ruled = (generator.values(features, rules=on) for on in ([], [rule]))
    change = (ruled - plain).square().flatten(1).sum(1)
    seeds = [matching[i] for i in sorted(change.argsort(descending=True)[: most - len(others)].tolist())]
    for place, seed in zip(range(4, most, 7), others, strict=False):  # spread the others out
        seeds.insert(place, seed)
    features = generator.keys((seeds + [*range(most)])[:most], rule.layer, rules=[])
    before, after = (generator.picture(features, rules=on) for on in ([], [rule]))
    return before, after


def _sheet(pictures: Tensor) -> str:
    """Pictures side by side, as the data URL of one image."""
    return data_url(webp(beside([*map(to_image, pictures)], SIDE, columns=COLUMNS), 80))
