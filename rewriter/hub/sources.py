"""What a generator can be loaded from. Each kind of source knows whether it is local, and how to fetch and read it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from rewriter.checkpoints import store
from rewriter.checkpoints.catalogue import CHECKS, Entry, PinnedFile, built_ins, catalogue
from rewriter.checkpoints.config import CONFIG, apply_config, read_config
from rewriter.checkpoints.device import place
from rewriter.checkpoints.download import cached, fetch, hash_of, verify
from rewriter.checkpoints.stated import RATE
from rewriter.editing.rule import carried_rules
from rewriter.errors import InputError, OnStep
from rewriter.generators.base import Generator
from rewriter.generators.origin import Origin
from rewriter.hub import browse, repository

GIVEN = {"conv_clamp": CHECKS["clamp"], "mapping_rate": RATE}  # what a file may not say
KNOWN = {"conv_clamp": "whether its features are clamped", "mapping_rate": "how its mapping network was trained"}


@dataclass(frozen=True)
class Source(ABC):
    """Something that a generator can be loaded from; `name` is what the user called it."""

    name: str
    takes: ClassVar[frozenset[str]] = frozenset()  # what of GIVEN the user may say

    @property
    def is_local(self) -> bool:
        """Whether `load` has nothing to download."""
        return True

    @property
    def origin(self) -> Origin:
        """What is known about the generator without loading it."""
        return Origin()

    def fetch(self, on_step: OnStep | None = None) -> Source:
        """Download what `load` needs; returns this source, pinned to the revision that was downloaded."""
        return self

    def load(
        self,
        *,
        device: torch.device | str | None = None,
        on_step: OnStep | None = None,
        **given: float | None,
    ) -> Generator:
        """Download what is missing and read the generator; see `load_generator`, also for what may be `given`."""
        told = {name: GIVEN[name](name, value) for name, value in given.items() if value is not None}
        if known := sorted(told.keys() - self.takes):
            raise InputError(f"{self.name} says itself {KNOWN[known[0]]}: leave {known[0]} out")
        generator = place(self.fetch(on_step).read(**told), device)
        generator.rules = tuple(rule.to(generator.device) for rule in carried_rules(generator))
        return generator

    @abstractmethod
    def read(self, **given: float) -> Generator:
        """The generator, on the CPU, from files that are on this machine; `given`: what they do not say."""


@dataclass(frozen=True)
class Known(Source):
    """A file that is known by its hash: an entry of the catalogue, or the base of a published generator."""

    file: PinnedFile
    takes: ClassVar[frozenset[str]] = frozenset({"conv_clamp"})

    @property
    def is_local(self) -> bool:
        """Whether the file is on this machine."""
        return cached(self.file) is not None

    @property
    def origin(self) -> Origin:
        """What the catalogue says."""
        return self.file.origin if isinstance(self.file, Entry) else Origin()

    def fetch(self, on_step: OnStep | None = None) -> Source:
        """Download the file unless it is here, and verify it."""
        fetch(self.file, on_step=on_step)
        return self

    def read(self, **given: float) -> Generator:
        """Read the file, and check it against the catalogue."""
        path = fetch(self.file)
        if isinstance(self.file, Entry):
            return _read_entry(self.file, path, verify(self.file, path), **given)
        return store.read_file(path, name=self.file.id, **given)


@dataclass(frozen=True)
class File(Source):
    """A checkpoint file; one that is in the catalogue is recognised by its hash."""

    takes: ClassVar[frozenset[str]] = frozenset(GIVEN)

    def read(self, **given: float) -> Generator:
        """Read the file."""
        path = Path(self.name)
        entry, sha256 = _entry_of(path)
        if entry is not None:
            return _read_entry(entry, path, sha256, **given)
        generator = store.read_file(path, name=path.stem, **given)
        generator.origin = Origin(file=path.name)
        return generator


@dataclass(frozen=True)
class Folder(Source):
    """A folder of ours: weights; or rules, on top of weights that are beside them or elsewhere."""

    path: Path

    @property
    def is_local(self) -> bool:
        """Whether the weights are on this machine."""
        base = _base(repository.read(self.path))
        return base is None or base.is_local

    def fetch(self, on_step: OnStep | None = None) -> Source:
        """Download the weights if they are elsewhere."""
        if (base := _base(repository.read(self.path))) is not None:
            base.fetch(on_step)
        return self

    def read(self, **given: float) -> Generator:
        """Read the weights and the rules, and check that they belong together."""
        config = repository.read(self.path)
        base = _base(config)
        if config is None:
            return store.load(self.path)
        clamp = {} if config.known or config.clamp is None else {"conv_clamp": config.clamp}
        generator = base.read(**clamp) if base else store.load(self.path)
        if base is None and config.known:  # a repository cannot override the licence of a known base
            generator.origin = replace(catalogue()[config.known].origin, sha256=None, rules=generator.origin.rules)
            if config.known in built_ins() and not repository.is_built_in(generator):
                raise InputError(f"{self.path / CONFIG} says that its base is {config.known}, but the weights differ")
        elif not config.known:
            apply_config(generator, read_config(self.path))
        generator.rules = repository.rules_in(self.path, config, generator)
        return generator


@dataclass(frozen=True)
class Repository(Source):
    """A published generator on the Hub, at a revision; None: the newest."""

    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is pinned to a commit of which all files are on this machine."""
        folder = browse.snapshot(self.name, self.revision)
        return folder is not None and Folder(self.name, folder).is_local

    def fetch(self, on_step: OnStep | None = None) -> Source:
        """Download the repository's files, and the base's weights if they are elsewhere; pins the commit."""
        folder, commit = browse.fetch(self.name, self.revision, on_step=on_step)
        Folder(self.name, folder).fetch(on_step)
        return replace(self, revision=commit)

    def read(self, **given: float) -> Generator:
        """Read the files of a pinned revision."""
        folder = browse.snapshot(self.name, self.revision)
        if folder is None:
            raise InputError(f"{self.name} is not on this machine any more: fetch it again")
        generator = Folder(self.name, folder).read()
        generator.origin = replace(generator.origin, published=f"{self.name}@{self.revision}")
        return generator


def _base(config: repository.Config | None) -> Source | None:
    """Where the weights of a published generator come from; None: they are beside its config."""
    if config is None or config.weights or config.base is None:
        return None
    return Known(config.base.id, catalogue()[config.known] if config.known else config.base)


def _entry_of(path: Path) -> tuple[Entry | None, str]:
    """The catalogue entry that a file is, and the file's SHA-256 if it had to be computed."""
    size = path.stat().st_size
    similar = [e for e in catalogue().values() if e.size == size or not e.size and path.name == Path(e.file).name]
    hashed = [entry for entry in similar if entry.sha256]
    found = hash_of(path) if hashed else ""
    return next((entry for entry in hashed if found.startswith(entry.sha256 or "-")), None), found


def _read_entry(entry: Entry, path: Path, sha256: str, **given: float) -> Generator:
    """The generator of a catalogue entry; InputError if the entry is wrong."""
    if given.keys() - {"conv_clamp"}:
        raise InputError(
            f"{path} is {entry.id}, of which the catalogue knows how it was trained: leave mapping_rate out"
        )
    generator = store.read_file(path, name=entry.id, default_clamp=entry.clamp, **given)
    for what in ("architecture", "resolution"):
        found, listed = getattr(generator, what), f"{getattr(entry, what)} as the catalogue says"
        if found != getattr(entry, what):
            raise InputError(f"the {what} of {entry.id} is {found}, not {listed}: correct the entry")
    generator.origin = replace(entry.origin, clamp=given.get("conv_clamp") or entry.clamp, sha256=sha256)
    generator.advice = {good: layer for good, layer in entry.layers.items() if layer in generator.layers}
    return generator
