"""A draft: the files of a published generator's repository, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch.nn.functional as F

from rewriter.checkpoints import store
from rewriter.checkpoints.client import check_name
from rewriter.checkpoints.config import CONFIG, WEIGHTS
from rewriter.checkpoints.layouts import NAMES, layout_for, suffixes_of
from rewriter.editing.effect import firing
from rewriter.editing.provenance import made_on_others
from rewriter.editing.rule import RULES, Rule, carried_rules
from rewriter.editing.twin import approximation
from rewriter.errors import InputError, OnStep, report
from rewriter.files import as_json, write_bytes
from rewriter.generators.base import Generator
from rewriter.generators.origin import Licence
from rewriter.hub import card, licences, player, repository
from rewriter.hub.card import Named
from rewriter.hub.pairs import COMPARISON, pairs
from rewriter.pictures import before_after, to_png

FOLDERS = ("rules", "edits", "pictures", "exported")  # of a repository: outdated files in them are deleted
EXPORTED = "exported/{}"  # by layout
TITLE, DESCRIPTION = 80, 2000  # characters
SIDE = 256  # pixels of a picture on a card
SLOW = 10e9  # operations of a picture; above, without a GPU, fewer are drawn


@dataclass(frozen=True)
class Draft:
    """The files of a repository, before anything is sent; each is keyed by its path."""

    repo_id: str
    title: str
    files: Mapping[str, bytes]
    later: Mapping[str, Callable[[Path], None]] = field(default_factory=dict, repr=False)  # write large files if needed
    sizes: Mapping[str, int] = field(default_factory=dict)  # in bytes; an estimate for those in `later`
    facts: player.Facts | None = None  # what its page tells, once the pictures are there

    @property
    def card(self) -> str:
        """README.md."""
        return self.files["README.md"].decode()

    def with_files(self, more: Mapping[str, bytes]) -> Draft:
        """The same draft with more files; with the comparison comes the page that shows it large."""
        if self.facts and COMPARISON in more:
            more = {**more, player.PAGE: player.page(self.facts, pairs(more[COMPARISON]))}
        sizes = {**self.sizes, **{path: len(data) for path, data in more.items()}}
        files = dict(sorted({**self.files, **more}.items()))
        return replace(self, files=files, sizes=dict(sorted(sizes.items())))

    def save(self, folder: str | Path) -> None:
        """Write the files into a folder, which `load_generator` accepts; those of an earlier draft are deleted."""
        folder = Path(folder)
        for path in outdated(_saved_before(folder), self):
            (folder / path).unlink(missing_ok=True)
        for path, data in self.files.items():
            write_bytes(data, folder / path)
        for path, write in self.later.items():
            write(folder / path)


def outdated(paths: Iterable[str], made: Draft) -> list[str]:
    """Of the files in a repository, those of an earlier version: in our folders, or the weights or page if left out."""
    gone = [path for path in paths if path not in made.files and path not in made.later]
    return [path for path in gone if PurePosixPath(path).parts[0] in FOLDERS or path in (WEIGHTS, player.PAGE)]


def _saved_before(folder: Path) -> list[str]:
    """The files of a draft that was saved in a folder, as its config names them."""
    try:
        about = repository.read(folder)
    except InputError:
        return []
    slugs = [PurePosixPath(file).stem for file in about.rules] if about else []
    exported = [EXPORTED.format(layout + suffixes_of(layout)[0]) for layout in NAMES]
    return [WEIGHTS, player.PAGE, *exported, *(place.format(slug) for slug in slugs for place in card.PLACES.values())]


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
    on_step: OnStep | None = None,
) -> Draft:
    """Make everything that `publish` would send; nothing but a licence's text is downloaded.

    The arguments are those of `publish`. Drawing the `comparisons` takes longest: without `pictures`, add them later
    with `with_files`. `on_step` is called with (pictures drawn, of). InputError for no rules, rules of another
    generator, a name or words that cannot be used, a layout that the architecture does not have, a base that others
    could not load, or a licence against the known one.
    """
    check_name(repo_id)
    own = list(carried_rules(generator) if rules is None else rules)
    _check(generator, own, title, description)
    base, each = licensed(generator, licence), card.named(own)
    title = title.strip() or ", ".join(one.title for one in each)[:TITLE]
    title = title[:1].upper() + title[1:]
    for layout in export:
        layout_for(base, layout)  # refuses one that the architecture does not have
    exported = {layout: EXPORTED.format(layout + suffixes_of(layout)[0]) for layout in export}
    files: dict[str, bytes] = {
        CONFIG: repository.config(base, [one.path("rule") for one in each], weights=weights),
        "LICENSE": licences.text_of(base.origin),
        **{one.path("rule"): _to_bytes(one.rule) for one in each},
        **{one.path("edit"): as_json(one.rule.edit.to_json()).encode() for one in each if one.rule.edit},
    }
    words = {"title": title, "description": description, "folded": approximation(base, own) if exported else ""}
    text = card.write(base, each, repo_id, weights=weights, exported=exported, **words)
    later: dict[str, Callable[[Path], None]] = {WEIGHTS: partial(store.write_weights, base)} if weights else {}
    later |= {file: partial(_export, base, own, layout) for layout, file in exported.items()}
    size = sum(tensor.nbytes for tensor in base.state_dict().values())
    made = Draft(
        repo_id, title, {}, later, dict.fromkeys(later, size), facts_of(base, own, repo_id, title, description)
    )
    shown = _drawn(base, each, on_step) if pictures else {}
    return made.with_files({**files, "README.md": text.encode(), **shown})


def facts_of(generator: Generator, rules: Sequence[Rule], repo_id: str, title: str, description: str) -> player.Facts:
    """What the page of a published generator tells."""
    origin = generator.origin
    base, by = origin.title or generator.name, origin.attribution or ""
    return player.Facts(title, description, base, player.told(rules), repo_id, origin.licence, by)


def base_of(rules: Sequence[Rule]) -> str:
    """The name of the generator that rules were made on; InputError if they do not say, or some are missing."""
    repository.check_edits(rules)
    if (lost := made_on_others(rules)) is not None:
        raise InputError(
            f"the rule {lost.title!r} was made on top of rules that are not given: give them too, before it; or name "
            "the generator that carries them, or one to publish on without them, with --generator"
        )
    named = next((rule.edit.generator for rule in rules if rule.edit and rule.edit.generator), "")
    if not named:
        raise InputError("the rules do not say which generator they were made on: name it with --generator")
    return named


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
    """The generator with the licence that its publisher states; InputError if another one is known."""
    known = generator.origin.licence
    if not licence or known and known.id == licence:
        return generator
    if known:
        raise InputError(f"{generator.name} is under {known.id}, which cannot be changed to {licence!r}: leave it out")
    if licence not in licences.KNOWN:
        raise InputError(f"licence {licence!r} is none of {', '.join(licences.KNOWN)}")
    stated = generator.rewritten([])
    stated.origin = replace(generator.origin, stated=True, licence=Licence(licence, licences.KNOWN[licence]))
    stated.advice = dict(generator.advice)
    return stated


def _export(generator: Generator, rules: Sequence[Rule], layout: str, path: Path) -> None:
    store.export(generator.rewritten(rules), path, layout)


def _to_bytes(rule: Rule) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rule.safetensors"
        rule.save(path)
        return path.read_bytes()


# --- pictures ---


def comparisons(rules: Sequence[Named]) -> list[str]:
    """The paths of a repository's pictures: of all rules together, then of each."""
    return [COMPARISON, *(one.path("picture") for one in rules)]


def _drawn(generator: Generator, rules: Sequence[Named], on_step: OnStep | None) -> dict[str, bytes]:
    paths, made = comparisons(rules), {}
    for which, path in enumerate(paths):
        report(on_step, which, len(paths))
        made[path] = compare(generator, rules, which)
    report(on_step, len(paths), len(paths))
    return made


def compare(generator: Generator, rules: Sequence[Named], which: int, on_step: OnStep | None = None) -> bytes:
    """One of the `comparisons` as PNG: before above after, where the rules' contexts match and where they do not.

    `which` is an index into `comparisons`. For a single rule, those before it act on both sides; one that is off is
    shown as it would act. `on_step` is called with (pictures searched, of at most).
    """
    slow = generator.device.type == "cpu" and generator.operations > SLOW
    most, limit = (4, 64) if slow else (12, 384)
    columns = most // 2
    hits, misses = (columns, 0) if which else (most, most // 3)
    every = [one.rule.to(generator.device) for one in rules]
    psi = next((rule.edit.truncation for rule in every if rule.edit), 1.0)
    before: list[Rule] = every[: which - 1] if which else []
    on = [rule for rule in every if rule.active] or [_switched_on(rule) for rule in every]
    new = [_switched_on(every[which - 1])] if which else on
    how: dict[str, Any] = {"earlier": before, "truncation": psi, "limit": limit, "on_step": on_step}
    seeds, others = firing(generator, new, hits=hits, misses=misses, **how)
    matching = len(seeds)
    seeds += others or [*range(0 if seeds else columns)]  # where nothing matches the context, any pictures
    drawn = (generator.sample(seeds, truncation=psi, rules=own, batch=4) for own in (before, [*before, *new]))
    then, now = (F.adaptive_avg_pool2d(each, min(generator.resolution, SIDE)) for each in drawn)
    return to_png(before_after(then, now, seeds, firing=matching, columns=columns))


def _switched_on(rule: Rule) -> Rule:
    """A rule that is off, or at strength 0, as if it were neither."""
    return rule if rule.active else replace(rule, on=True, strength=rule.strength or 1.0)
