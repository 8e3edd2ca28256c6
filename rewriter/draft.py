"""What a published generator's repository is to hold, before anything is sent."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

import rewriter
from rewriter import card, licences, published
from rewriter.card import Named
from rewriter.checkpoints import store
from rewriter.checkpoints.layouts import PROGGAN, STYLEGAN2
from rewriter.edit import Edit
from rewriter.effect import firing
from rewriter.errors import InputError
from rewriter.files import replacing
from rewriter.generators.base import Generator
from rewriter.history import RULES
from rewriter.pictures import before_after
from rewriter.remote import check_name
from rewriter.rule import Rule

TITLE, DESCRIPTION = 80, 2000  # characters
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

    def save(self, folder: str | Path) -> None:
        """Write all of it into a folder, which `load_generator` takes."""
        folder = Path(folder)
        for path, data in self.files.items():
            with replacing(folder / path) as temporary:
                temporary.write_bytes(data)
        for path, write in self.later.items():
            write(folder / path)


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
        on_step: called with (pictures done, of).

    Raises:
        InputError: no rules, rules of another generator, a name or words that cannot be used, a layout that does not
            exist, a base that is nowhere to be fetched from, or a licence that contradicts the one that is known.
    """
    check_name(repo_id)
    own = [rule for rule in generator.rules if isinstance(rule, Rule)] if rules is None else list(rules)
    _check(generator, own, title, description)
    base = _licensed(generator, licence)
    each = card.named(own)
    title = title.strip() or ", ".join(one.title for one in each)[:TITLE]
    layouts = _layouts(generator, export)
    listed = [f"rules/{one.slug}.safetensors" for one in each]
    config = published.config(base, listed, weights=weights)
    files: dict[str, bytes] = {store.CONFIG: config, "LICENSE": licences.text_of(base.origin)}
    files |= _pictures(base, each, on_step)
    for one in each:
        files[f"rules/{one.slug}.safetensors"] = _saved(one.rule)
        if one.rule.edit:
            edit = Edit.from_json(one.rule.edit).to_json()
            files[f"edits/{one.slug}.json"] = (json.dumps(edit, indent=1, ensure_ascii=False) + "\n").encode()
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
    sizes = {path: len(data) for path, data in files.items()} | dict.fromkeys(later, size)
    return Draft(repo_id, title, dict(sorted(files.items())), later, dict(sorted(sizes.items())))


def _check(generator: Generator, rules: Sequence[Rule], title: str, description: str) -> None:
    if not rules:
        raise InputError("there is no rule to publish: execute an edit first, or give the rules")
    if len(rules) > RULES:
        raise InputError(f"at most {RULES} rules go into one repository, not {len(rules)}")
    for rule in rules:
        rule.check(generator)
        if rule.edit:
            Edit.from_json(rule.edit)
    if len(title) > TITLE or not title.isprintable():
        raise InputError(f"the title is one line of at most {TITLE} characters")
    printable = all(line.isprintable() for line in description.replace("\r\n", "\n").split("\n"))
    if len(description) > DESCRIPTION or not printable:
        raise InputError(f"the description is plain text of at most {DESCRIPTION:,} characters")


def _licensed(generator: Generator, licence: str) -> Generator:
    """The generator, with the licence that somebody stated where none is known."""
    known = generator.origin.get("licence")
    if not licence or known and known["id"] == licence:
        return generator
    if known:
        raise InputError(f"{generator.name} is under {known['id']}, which cannot be changed to {licence!r}: leave it")
    if licence not in licences.ON_HUB:
        raise InputError(f"licence {licence!r} is none of {', '.join(licences.ON_HUB)}")
    stated = generator.rewritten([])
    stated.origin = {**generator.origin, "licence": {"id": licence, "link": licences.ON_HUB[licence]}}
    stated.advice = dict(generator.advice)
    return stated


def _layouts(generator: Generator, export: Sequence[str]) -> dict[str, str]:
    """Layouts and the files that they go into."""
    there = STYLEGAN2 if store.architecture(generator) == "stylegan2" else PROGGAN
    if unknown := [layout for layout in export if layout not in there]:
        raise InputError(f"{generator.name} cannot be written as {unknown[0]!r}: choose {' or '.join(there)}")
    return {layout: f"exported/{layout}.pt" for layout in export}


def _export(generator: Generator, rules: Sequence[Rule], layout: str, path: Path) -> None:
    store.export(generator.rewritten(rules), path, layout)


def _saved(rule: Rule) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rule.safetensors"
        rule.save(path)
        return path.read_bytes()


def _pictures(generator: Generator, rules: Sequence[Named], on_step: Callable[[int, int], object]) -> dict[str, bytes]:
    """Before and after: of all rules together, and of each with those before it on both sides."""
    slow = generator.device.type == "cpu" and generator.operations > SLOW
    hits, limit = (4, 64) if slow else (12, 384)
    steps, made = len(rules) + 1, {}
    every = [one.rule.to(generator.device) for one in rules]
    psi = next((float(rule.edit["truncation"]) for rule in every if "truncation" in rule.edit), 1.0)
    jobs: list[tuple[str, list[Rule], list[Rule]]] = [("comparison.png", [], every)]
    jobs += [(f"pictures/{one.slug}.png", every[:i], every[: i + 1]) for i, one in enumerate(rules) if every[i].active]
    for done, (path, before, after) in enumerate(jobs):
        on_step(done, steps)
        new = after[len(before) :]
        wanted = (hits, hits // 3) if not done else (hits // 2, 0)
        seeds, others = firing(generator, new, hits=wanted[0], misses=wanted[1], truncation=psi, limit=limit)
        fire = len(seeds)
        seeds += others or [*range(0 if seeds else hits // 2)]  # of a context that nothing answers to, any
        then, now = (generator.sample(seeds, truncation=psi, rules=own) for own in (before, after))
        made[path] = _png(before_after(then, now, seeds, firing=fire, columns=hits // 2))
    on_step(steps, steps)
    return made


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
