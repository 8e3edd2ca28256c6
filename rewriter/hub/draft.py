"""What a published generator's repository is to hold, before anything is sent."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch.nn.functional as F
from PIL import Image

import rewriter
from rewriter.checkpoints import store
from rewriter.checkpoints.client import check_name
from rewriter.checkpoints.layouts import NAMES, layout_for
from rewriter.editing.effect import firing
from rewriter.editing.history import RULES
from rewriter.editing.rule import Rule, carried_rules
from rewriter.errors import InputError
from rewriter.files import as_json, replacing
from rewriter.generators.base import Generator
from rewriter.generators.origin import Licence
from rewriter.hub import card, licences, repository
from rewriter.hub.card import Named
from rewriter.pictures import before_after

OURS = ("rules", "edits", "pictures", "exported")  # folders of a repository that are ours to keep in order
EXPORTED = "exported/{}.pt"  # by layout
TITLE, DESCRIPTION = 80, 2000  # characters
SIDE = 256  # pixels of a picture on a card
SLOW = 10e9  # operations of a picture, from where on fewer are drawn without a GPU


@dataclass(frozen=True)
class Draft:
    """What a repository is to hold, before anything is sent.

    files: path → content. later: path → what writes the file when it is sent, for what is large.
    sizes: bytes of each, near enough for those that are not written yet.
    """

    repo_id: str
    title: str
    files: Mapping[str, bytes]
    later: Mapping[str, Callable[[Path], None]] = field(default_factory=dict, repr=False)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def card(self) -> str:
        """README.md."""
        return self.files["README.md"].decode()

    def having(self, more: Mapping[str, bytes]) -> Draft:
        """The same with more files."""
        sizes = {**self.sizes, **{path: len(data) for path, data in more.items()}}
        files = dict(sorted({**self.files, **more}.items()))
        return replace(self, files=files, sizes=dict(sorted(sizes.items())))

    def save(self, folder: str | Path) -> None:
        """Write all of it into a folder, which `load_generator` takes; what an earlier draft left there goes."""
        folder = Path(folder)
        for path in stale(_left(folder), self):
            (folder / path).unlink(missing_ok=True)
        for path, data in self.files.items():
            with replacing(folder / path) as temporary:
                temporary.write_bytes(data)
        for path, write in self.later.items():
            write(folder / path)


def stale(there: Iterable[str], made: Draft) -> list[str]:
    """What an earlier version left: in our folders, and weights that do not go along any more."""
    wanted = {*made.files, *made.later}
    gone = [path for path in there if path not in wanted]
    return [path for path in gone if PurePosixPath(path).parts[0] in OURS or path == store.WEIGHTS]


def _left(folder: Path) -> list[str]:
    """The files of a draft that was saved in a folder, as its config names them."""
    try:
        about = repository.read(folder)
    except InputError:  # none was
        return []
    slugs = [PurePosixPath(file).stem for file in about.rules] if about else []
    exported = [EXPORTED.format(layout) for layout in NAMES]
    return [store.WEIGHTS, *exported, *(place.format(slug) for slug in slugs for place in card.PLACES.values())]


def draft(
    generator: Generator,
    rules: Sequence[Rule] | None,
    repo_id: str,
    *,
    title: str = "",
    description: str = "",
    weights: bool = True,
    export: Sequence[str] = (),
    licence: str = "",
    pictures: bool = True,
    on_step: Callable[[int, int], object] = lambda done, of: None,
) -> Draft:
    """What `publish` would send; asks the network for nothing but a licence's text.

    Args:
        generator: the base.
        rules: in order; None: those that the generator carries.
        repo_id: where it is to go.
        title: "": from the rules' titles. At most 80 characters, on one line.
        description: a paragraph or more for the card, at most 2,000 characters.
        weights: whether the base's weights go along; without them they are fetched from where the base lives.
        export: layouts in which folded weights go along too, for other people's tools: see `rewriter convert`.
        licence: of a base whose licence is not known: its id on the Hub.
        pictures: whether to draw the `comparisons`, which takes longest; else they are to be added.
        on_step: called with (pictures done, of).

    Raises:
        InputError: no rules, rules of another generator, a name or words that cannot be used, a layout that does not
            exist, a base that is nowhere to be fetched from, or a licence that contradicts the one that is known.
    """
    check_name(repo_id)
    own = list(carried_rules(generator) if rules is None else rules)
    _check(generator, own, title, description)
    base = licensed(generator, licence)
    each = card.named(own)
    title = title.strip() or ", ".join(one.title for one in each)[:TITLE]
    title = title[:1].upper() + title[1:]
    layouts = _layouts(generator, export)
    listed = [one.path("rule") for one in each]
    config = repository.config(base, listed, weights=weights)
    files: dict[str, bytes] = {store.CONFIG: config, "LICENSE": licences.text_of(base.origin)}
    for one in each:
        files[one.path("rule")] = _saved(one.rule)
        if one.rule.edit:
            files[one.path("edit")] = as_json(one.rule.edit.to_json()).encode()
    text = card.write(
        base,
        each,
        repo_id,
        title=title,
        description=description,
        weights=weights,
        exported=layouts,
        version=rewriter.__version__,
    )
    files["README.md"] = text.encode()
    later: dict[str, Callable[[Path], None]] = {}
    if weights:
        later[store.WEIGHTS] = partial(store.write_weights, base)
    for layout, file in layouts.items():
        later[file] = partial(_export, base, own, layout)
    size = sum(tensor.nbytes for tensor in base.state_dict().values())
    made = Draft(repo_id, title, {}, later, dict.fromkeys(later, size))
    return made.having({**files, **(_drawn(base, each, on_step) if pictures else {})})


def _check(generator: Generator, rules: Sequence[Rule], title: str, description: str) -> None:
    if not rules:
        raise InputError("there is no rule to publish: execute an edit first, or give the rules")
    if len(rules) > RULES:
        raise InputError(f"at most {RULES} rules go into one repository, not {len(rules)}")
    for rule in rules:
        generator.check(rule)
    repository.check_edits(rules)
    if len(title) > TITLE or not title.isprintable():
        raise InputError(f"the title is one line of at most {TITLE} characters")
    printable = all(line.isprintable() for line in description.replace("\r\n", "\n").split("\n"))
    if len(description) > DESCRIPTION or not printable:
        raise InputError(f"the description is plain text of at most {DESCRIPTION:,} characters")


def licensed(generator: Generator, licence: str) -> Generator:
    """The generator, with the licence that somebody stated where none is known."""
    known = generator.origin.licence
    if not licence or known and known.id == licence:
        return generator
    if known:
        raise InputError(f"{generator.name} is under {known.id}, which cannot be changed to {licence!r}: leave it")
    if licence not in licences.KNOWN:
        raise InputError(f"licence {licence!r} is none of {', '.join(licences.KNOWN)}")
    stated = generator.rewritten([])
    stated.origin = replace(generator.origin, stated=True, licence=Licence(licence, licences.KNOWN[licence]))
    stated.advice = dict(generator.advice)
    return stated


def _layouts(generator: Generator, export: Sequence[str]) -> dict[str, str]:
    """Layouts and the files that they go into."""
    for layout in export:
        layout_for(generator, layout)  # refuses one that the architecture does not have
    return {layout: EXPORTED.format(layout) for layout in export}


def _export(generator: Generator, rules: Sequence[Rule], layout: str, path: Path) -> None:
    store.export(generator.rewritten(rules), path, layout)


def _saved(rule: Rule) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rule.safetensors"
        rule.save(path)
        return path.read_bytes()


def comparisons(rules: Sequence[Named]) -> list[str]:
    """The pictures that a repository shows: of all rules together, then of each."""
    return ["comparison.png", *(one.path("picture") for one in rules)]


def _drawn(generator: Generator, rules: Sequence[Named], on_step: Callable[[int, int], object]) -> dict[str, bytes]:
    paths, made = comparisons(rules), {}
    for which, path in enumerate(paths):
        on_step(which, len(paths))
        made[path] = compare(generator, rules, which)
    on_step(len(paths), len(paths))
    return made


def compare(
    generator: Generator,
    rules: Sequence[Named],
    which: int,
    on_step: Callable[[int, int], object] = lambda done, of: None,
) -> bytes:
    """One of the `comparisons` as PNG: before above after, where the rules' contexts fire and where they do not.

    Of a single rule, those before it are in force on both sides; one that is off is shown as it would be. `on_step` is
    told how many pictures were looked at, and of how many at most; what it raises stops it.
    """
    slow = generator.device.type == "cpu" and generator.operations > SLOW
    most, limit = (4, 64) if slow else (12, 384)
    columns = most // 2
    hits, misses = (columns, 0) if which else (most, most // 3)
    every = [one.rule.to(generator.device) for one in rules]
    psi = next((rule.edit.truncation for rule in every if rule.edit), 1.0)
    before: list[Rule] = every[: which - 1] if which else []
    on = [rule for rule in every if rule.active] or [_as_shown(rule) for rule in every]
    new = [_as_shown(every[which - 1])] if which else on
    how: dict[str, Any] = {"earlier": before, "truncation": psi, "limit": limit, "on_step": on_step}
    seeds, others = firing(generator, new, hits=hits, misses=misses, **how)
    fire = len(seeds)
    seeds += others or [*range(0 if seeds else columns)]  # of a context that nothing answers to, any
    drawn = (generator.sample(seeds, truncation=psi, rules=own, batch=4) for own in (before, [*before, *new]))
    then, now = (F.adaptive_avg_pool2d(each, min(generator.resolution, SIDE)) for each in drawn)
    return _png(before_after(then, now, seeds, firing=fire, columns=columns))


def _as_shown(rule: Rule) -> Rule:
    """A rule as its picture shows it: one that is off, or at strength 0, as if it were neither."""
    return rule if rule.active else replace(rule, on=True, strength=rule.strength or 1.0)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
