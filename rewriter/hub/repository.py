"""Published generators: what the files of a repository on the Hub, or of a copy of one, say about base and rules.

Rules are data, tensors and plain values, checked like any stranger's file. Nothing else in a repository is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewriter import worlds
from rewriter.checkpoints.catalogue import CHECKS, PinnedFile, built_ins, catalogue
from rewriter.checkpoints.config import CONFIG, VERSIONS, WEIGHTS, config_of, read_config
from rewriter.checks import Check, fields, flag, list_of, matching, object_of, optional
from rewriter.editing.rule import CELLS, RULES, Rule
from rewriter.errors import InputError
from rewriter.files import as_json
from rewriter.generators.base import Generator

TAG = "rewritten-generator"  # of repositories on the Hub
_BASE = {n: CHECKS[n] for n in ("id", "repository", "package", "file", "revision", "size", "sha256", "clamp")}
_PINNED = object_of(_BASE, optional=("package",))
_CONFIG: dict[str, Check] = {
    "fingerprint": matching(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal digits"),
    "rules": list_of(matching(r"rules/[a-z0-9][a-z0-9-]{0,80}\.safetensors", "a file in rules/"), RULES),
    "weights": flag,
    "base": optional(_PINNED),
}


@dataclass(frozen=True)
class Config:
    """What config.json of a published generator says."""

    fingerprint: str  # of the base
    rules: tuple[str, ...]  # their files, in order
    weights: bool  # whether the base's weights are in the repository
    base: PinnedFile | None = None  # where else the weights are; None: nowhere
    clamp: float | None = None  # of the base's features

    @property
    def known(self) -> str | None:
        """The catalogue's id of the base, if it is the same file with the same clamp."""
        if self.base is None:
            return None
        if not self.base.remote:
            return self.base.id
        own = (*_place(self.base), self.clamp)
        return next((id for id, entry in catalogue().items() if (*_place(entry), entry.clamp) == own), None)

    @property
    def files(self) -> tuple[str, ...]:
        """What has to be in the repository."""
        return (*self.rules, WEIGHTS) if self.weights else self.rules


def config(generator: Generator, rules: Sequence[str], *, weights: bool) -> bytes:
    """config.json for a generator and its files of rules; InputError if nobody could load it without the weights."""
    base = {name: getattr(generator.origin, name) for name in _BASE}
    if base["package"] is None:  # a field that earlier versions of this package do not know
        del base["package"]
    try:
        file, _ = _check_base(_PINNED("base", base))
        elsewhere = not generator.origin.rules if file.remote else is_built_in(generator)
    except InputError:
        elsewhere = False
    if not weights and not elsewhere:
        raise InputError(f"others could not download {generator.name} from anywhere: publish it with its weights")
    about = config_of(generator) | {"version": VERSIONS[1], "rules": list(rules)}
    return as_json({**about, "weights": weights, "base": base if elsewhere else None}, indent=2).encode()


def is_built_in(generator: Generator) -> bool:
    """Whether this is a built-in generator: its name alone does not prove it."""
    known = generator.origin.id
    return known in built_ins() and generator.fingerprint == worlds.fingerprint(known)


def read(folder: Path) -> Config | None:
    """Validate a folder's config.json, or raise InputError; None: the folder holds a generator without rules."""
    about = read_config(folder)
    if "rules" not in about:
        return None
    try:
        told = fields("it", {name: about[name] for name in _CONFIG if name in about}, _CONFIG, optional=("base",))
        file, clamp = _check_base(told["base"]) if told.get("base") else (None, None)
        if not told["rules"] or (not told["weights"] and file is None):
            raise InputError("it has no rules, or neither weights nor base")
    except InputError as error:
        raise InputError(f"{folder / CONFIG} cannot be used: {error}") from error
    return Config(told["fingerprint"], told["rules"], told["weights"], file, clamp)


def _check_base(values: dict[str, Any]) -> tuple[PinnedFile, float | None]:
    """The base's file and clamp, if it is built in, pinned by revision and hash, or in a package of the catalogue."""
    file = PinnedFile(**{name: value for name, value in values.items() if name != "clamp"})
    listed = ((*_place(entry), entry.clamp) for entry in catalogue().values())
    if file.package and (*_place(file), values["clamp"]) not in listed:
        raise InputError(f"its base is in the package {file.package}, which the catalogue does not list")
    if not file.remote and file.id not in built_ins():
        raise InputError(f"its base {file.id!r} is in no repository")
    if file.repository and not (file.revision and file.sha256):
        raise InputError("its base lacks revision or sha256")
    return file, values["clamp"]


def _place(file: PinnedFile) -> tuple[str | None, ...]:
    """Where a file is published."""
    return file.repository, file.package, file.file, file.revision


def rules_in(folder: Path, about: Config, generator: Generator | None = None) -> tuple[Rule, ...]:
    """The rules in a folder, in order, validated; InputError for those of another generator than config or argument."""
    if generator is not None and generator.fingerprint != about.fingerprint:
        raise InputError(
            f"the base {generator.name} is not the one that the rules in {folder} were made on: expected the "
            f"fingerprint {about.fingerprint[:12]}, found {generator.fingerprint[:12]}"
        )
    found: list[Rule] = []
    for file in about.rules:
        rule = Rule.load(folder / file)
        if rule.fingerprint != about.fingerprint:
            raise InputError(f"{folder / file} belongs to another generator than {CONFIG} says: fetch both again")
        if generator is not None:
            generator.check(rule)
        found.append(rule)
        check_edits(found)  # after each: masks are large once they are decoded
    return tuple(found)


def check_edits(rules: Sequence[Rule]) -> None:
    """Raise InputError for rules whose masks together are too large to decode in reasonable time."""
    if sum(rule.edit.cells for rule in rules if rule.edit) > CELLS:
        raise InputError(f"the masks of all rules together have more than {CELLS >> 20} million cells")
