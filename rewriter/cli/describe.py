"""Descriptions of rules, edits, sessions and generators, as data and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rewriter.checkpoints.catalogue import catalogue
from rewriter.editing import history
from rewriter.editing.edit import Edit
from rewriter.editing.effect import advice, effect_in_words
from rewriter.editing.rule import FORMAT, Rule, carried_rules
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.hub.resolve import SUFFIXES, load_generator


def describe(
    file: str, load_edits: Callable[[str], Sequence[Edit]], load: Callable[[str], Generator] = load_generator
) -> tuple[dict[str, Any], str]:
    """Describe a file, or a generator by name, as data and in words.

    Raises:
        InputError: it is not a rule, an edit, a session or a generator, or it is damaged.
    """
    path = Path(file)
    kind = kind_of(path) if path.suffix == ".safetensors" else ""
    if kind == FORMAT:
        return _rule(Rule.load(path))
    if kind == history.FORMAT:
        return _session(history.History.load(path))
    try:
        return _generator(load(file))
    except InputError:
        if path.suffix in SUFFIXES or path.is_dir() or file in catalogue():
            raise
    described = [_edit(edit) for edit in load_edits(file)]
    data, words = described[-1]
    if len(described) > 1:
        data = {"what": "edits", "edits": [each for each, _ in described]}
        words = "\n".join([f"{len(described)} edits in succession:", *(each for _, each in described)])
    return data, words


def table(rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """Layers with their figures, best first, then the layers at which the edit is not possible, with the reason."""
    lines = [f"{'layer':8} {'score':>7} {'likeness':>9} {'elsewhere':>10}"]
    for row in rows:
        spill = f"{'all marked':>10}" if row["spill"] is None else f"{row['spill']:6.2f}/255"
        lines.append(f"{row['layer']:8} {row['score']:7.2f} {row['likeness']:9.0%} {spill}")
    return "\n".join([*lines, *(f"{layer:8} cannot: {why}" for layer, why in failed.items())])


def kind_of(path: Path) -> str:
    """The format that a safetensors file names, "" if it names none; InputError if it is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format", ""))
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path} ({error})") from error


def _session(past: history.History) -> tuple[dict[str, Any], str]:
    described = [_rule(rule) for rule in past.present.rules]
    edit, edit_words = _edit(past.present.edit)
    data = {"what": "session", "steps": len(past.states), "rules": [each for each, _ in described], "edit": edit}
    words = [f"session of {len(past.states)} steps with {len(described)} rules", *(each for _, each in described)]
    return data, "\n".join([*words, f"in progress: {edit_words}"])


def _rule(rule: Rule) -> tuple[dict[str, Any], str]:
    effect = rule.effect and rule.effect.to_json()
    data = {
        "what": "rule",
        "layer": rule.layer,
        "rank": rule.rank,
        "strength": rule.strength,
        "generator": rule.edit and rule.edit.generator,
        "fingerprint": rule.fingerprint,
        "effect": effect,
    }
    words = [effect_in_words(rule.title, rule), f"  on {data['generator']}, fingerprint {rule.fingerprint[:12]}"]
    words += [f"  strength {rule.strength:g}{'' if rule.on else ', switched off'}", *(f"  {r}" for r in advice(rule))]
    return data, "\n".join(words)


def _edit(edit: Edit) -> tuple[dict[str, Any], str]:
    missing = edit.missing()
    data = {
        "what": "edit",
        **{k: v for k, v in edit.to_json().items() if k not in ("copy", "paste", "context", "keep")},
        "copy": edit.copy and edit.copy.seed,
        "paste": edit.paste and edit.paste.seed,
        "context": [region.seed for region in edit.context],
        "missing": missing,
    }
    where = f"{edit.layer} of {edit.generator or 'any generator'}"
    words = [
        f"edit{f' “{edit.title}”' if edit.title else ''}: {edit.kind} at {where}",
        f"  copy from seed {data['copy']}, paste on {data['paste']}, context on {data['context']}",
        f"  rank {edit.rank}, {edit.method}, strength {edit.strength:g}, made on {edit.fingerprint[:12] or 'any'}",
        f"  still missing: {'; '.join(missing)}"
        if missing
        else "  complete: run it with  rewriter apply" + ("" if edit.generator else " --generator NAME"),
    ]
    return data, "\n".join(words)


def _in_short(rule: Rule) -> list[str]:
    """A rule's title and place, and what it did."""
    off = "" if rule.on else ", switched off"
    return [f"{rule.title}: {rule.layer}, rank {rule.rank}, strength {rule.strength:g}{off}", *_measured(rule)]


def _measured(rule: Rule) -> list[str]:
    return effect_in_words("", rule).split("\n")[1:]


def _generator(generator: Generator) -> tuple[dict[str, Any], str]:
    origin, weights = generator.origin, sum(p.numel() for p in generator.parameters())
    layers = [
        {"layer": i.name, "in": i.in_channels, "out": i.out_channels, "keys": i.key_resolution, "values": i.resolution}
        for i in generator.layers.values()
    ]
    data = {
        "what": "generator",
        "name": generator.name,
        "architecture": type(generator).__name__,
        "resolution": generator.resolution,
        "weights": weights,
        "fingerprint": generator.fingerprint,
        "origin": origin.to_json(),
        "start": dict(generator.advice),
        "rules": [_rule(rule)[0] for rule in carried_rules(generator)],
        "layers": layers,
    }
    lines = [f"{generator.name}: {data['architecture']}, {generator.resolution} px, {weights:,} weights"]
    lines += [f"  fingerprint {generator.fingerprint}"]
    if origin.attribution:
        lines.append(f"  {origin.attribution}")
    if origin.licence:
        lines.append(f"  licence {origin.licence.id}, {origin.licence.link}")
    if origin.rules:
        lines.append(f"  rules in its weights: {', '.join(rule.title or rule.layer for rule in origin.rules)}")
    for rule in carried_rules(generator):
        lines += [f"  rewritten: {line}" if not i else f"  {line}" for i, line in enumerate(_in_short(rule))]
    if generator.advice:
        lines.append(f"  begin at {', '.join(f'{layer} for {good}' for good, layer in generator.advice.items())}")
    lines += [f"  {i['layer']:8} {i['in']:4} → {i['out']:4} channels, {i['keys']}² → {i['values']}²" for i in layers]
    return data, "\n".join(lines)
