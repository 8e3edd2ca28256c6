"""Collections: numbered pictures of consecutive seeds with a manifest; an interrupted run resumes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewriter.cli.common import seeds_from
from rewriter.errors import InputError, OnStep, report
from rewriter.files import read_json, write_json
from rewriter.generators.base import Generator
from rewriter.generators.change import digest
from rewriter.pictures import save_png, to_image

MANIFEST = "manifest.json"
BATCH = 16


@dataclass(frozen=True)
class Collection:
    """Which pictures to write where: seeds first … first + count - 1; `pairs` adds each picture without the rules."""

    folder: Path
    first: int
    count: int
    truncation: float = 1.0
    pairs: bool = False

    def __post_init__(self) -> None:
        seeds_from(self.first, self.count)

    def files(self, seed: int) -> dict[str, str]:
        """File names of one seed: "picture", or "before" and "after"."""
        kinds = ("before", "after") if self.pairs else ("picture",)
        return {kind: f"{seed:06d}{'' if kind == 'picture' else '-' + kind}.png" for kind in kinds}

    def manifest(self, generator: Generator) -> dict[str, Any]:
        """What the folder holds and how it was drawn."""
        model = {"generator": generator.name, "fingerprint": generator.fingerprint, "rules": digest(generator.rules)}
        pictures = [{"seed": seed, **self.files(seed)} for seed in seeds_from(self.first, self.count)]
        return {**model, "truncation": self.truncation, "pairs": self.pairs, "pictures": pictures}


def draw(generator: Generator, plan: Collection, *, on_step: OnStep | None = None) -> int:
    """Write the pictures that are not there yet, with the rules that the generator carries; returns how many.

    InputError for pairs without a rule, or a folder that holds another collection; CancelledError if cancelled.
    """
    if plan.pairs and not generator.rules:
        raise InputError("pairs show pictures before and after a rule: name one with --rule FILE")
    manifest, path = plan.manifest(generator), plan.folder / MANIFEST
    wanted = manifest["pictures"]
    if os.path.exists(path):
        old = read_json(path)
        _check_same(old, manifest, plan.folder)
        by_seed = {entry["seed"]: entry for entry in [*old["pictures"], *wanted]}
        manifest["pictures"] = [by_seed[seed] for seed in sorted(by_seed)]
    write_json(manifest, path)
    missing = [p for p in wanted if not all((plan.folder / p[k]).exists() for k in p if k != "seed")]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        _draw(generator, plan, batch)
        done = start + len(batch)
        words = f"stopped after {done} of {len(missing)} pictures; the same command resumes"
        report(on_step, done, len(missing), cancelled=words)
    return len(missing)


def _check_same(old: Any, new: dict[str, Any], folder: Path) -> None:
    """Raise InputError unless the folder's pictures were drawn with the same settings."""
    settings = ("generator", "fingerprint", "rules", "truncation", "pairs")
    other = [s for s in settings if not isinstance(old, dict) or old.get(s) != new[s]]
    if other:
        raise InputError(f"{folder} holds pictures of another kind ({other[0]} differs): choose an empty folder")
    entries = old.get("pictures")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "seed" in entry for entry in entries):
        raise InputError(f"{folder / MANIFEST} is damaged: delete it and run the same command again")


def _draw(generator: Generator, plan: Collection, batch: list[dict[str, Any]]) -> None:
    seeds = [entry["seed"] for entry in batch]
    versions = {"before": (), "after": None, "picture": None}
    for kind in plan.files(0):
        drawn = generator.sample(seeds, truncation=plan.truncation, rules=versions[kind])
        for entry, picture in zip(batch, drawn, strict=True):
            save_png(to_image(picture), plan.folder / entry[kind])
