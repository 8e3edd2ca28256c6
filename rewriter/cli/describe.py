"""Descriptions of rules, edits, sessions and generators, as data and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rewriter.checkpoints import SUFFIXES
from rewriter.checkpoints.catalogue import catalogue
from rewriter.editing import history
from rewriter.editing.edit import Edit
from rewriter.editing.effect import advice, effect_in_words
from rewriter.editing.rule import FORMATS, Rule, carried_rules
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.beside import form_of

Description = tuple[dict[str, Any], str]  # as data, and in words


def describe(file: str, load_edits: Callable[[str], Sequence[Edit]], load: Callable[[str], Generator]) -> Description:
    """Describe a file, or a generator by name; InputError if it is neither, or damaged."""
    path = Path(file)
    kind = kind_of(path) if path.suffix == ".safetensors" else ""
    if kind in FORMATS:
        return _rule(Rule.load(path))
    if kind == history.FORMAT:
        return _session(history.History.load(path))
    try:
        return _generator(load(file))
    except InputError:
        if path.suffix in SUFFIXES or path.is_dir() or file in catalogue():
            raise
    data, words = zip(*map(_edit, load_edits(file)), strict=True)
    if len(data) == 1:
        return data[0], words[0]
    return {"what": "edits", "edits": list(data)}, "\n".join([f"{len(data)} edits in succession:", *words])


def kind_of(path: Path) -> str:
    """The format that a safetensors file names, "" if it names none; InputError if it is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format", ""))
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path} ({error})") from error


def _session(past: history.History) -> Description:
    steps, rules = len(past.states), [_rule(rule) for rule in past.present.rules]
    edit, edit_words = _edit(past.present.edit)
    data = {"what": "session", "steps": steps, "rules": [each for each, _ in rules], "edit": edit}
    words = [f"session of {steps} steps with {len(rules)} rules", *(each for _, each in rules)]
    return data, "\n".join([*words, f"in progress: {edit_words}"])


def _rule(rule: Rule) -> Description:
    data: dict[str, Any] = {"what": "rule", "layer": rule.layer, "rank": rule.rank, "strength": rule.strength}
    data |= {"generator": rule.edit and rule.edit.generator, "fingerprint": rule.fingerprint}
    data |= _form(rule.edit) if rule.edit else {"form": form_of(rule.beside)}
    data |= {"effect": rule.effect and rule.effect.to_json()}
    words = [
        effect_in_words(rule.title, rule),
        f"  {_form_in_words(rule.edit) if rule.edit else data['form']}",
        f"  on {data['generator']}, fingerprint {rule.fingerprint[:12]}",
        f"  strength {rule.strength:g}{'' if rule.on else ', switched off'}",
    ]
    return data, "\n".join([*words, *(f"  {remark}" for remark in advice(rule))])


def _edit(edit: Edit) -> Description:
    missing = edit.missing()
    seeds: dict[str, Any] = {"copy": edit.copy and edit.copy.seed, "paste": edit.paste and edit.paste.seed}
    seeds |= {"context": [region.seed for region in edit.context]}
    fields = {name: value for name, value in edit.to_json().items() if name not in (*seeds, "keep")} | _form(edit)
    if edit.strokes:
        fields["strokes"] = [each.plain(lambda place: {"seed": place.seed}) for each in edit.strokes]
    if missing:
        state = f"still missing: {'; '.join(missing)}"
    else:
        state = "complete: run it with  rewriter apply" + ("" if edit.generator else " --generator NAME")
    words = [
        f"edit{f' “{edit.title}”' if edit.title else ''}: {edit.kind} at {edit.layer} of "
        f"{edit.generator or 'any generator'}",
        f"  copy from seed {seeds['copy']}, paste on {seeds['paste']}, context on {seeds['context']}",
        f"  rank {edit.rank}, {edit.method}, strength {edit.strength:g}, made on {edit.fingerprint[:12] or 'any'}",
        f"  {_form_in_words(edit)}",
        *[f"  {_strokes_in_words(edit)}"] * bool(edit.strokes),
        *[f"  it points at {' and '.join(edit.photos)}: run it with --photo FILE"] * bool(edit.photos),
        f"  {state}",
    ]
    return {"what": "edit", **fields, **seeds, "missing": missing}, "\n".join(words)


def _form(edit: Edit) -> dict[str, Any]:
    """The form of an edit and what belongs to it; of places only how many there are."""
    gate = {"gate": edit.gate and list(edit.gate), "budget": edit.budget}
    return {"form": edit.form, "found": len(edit.found), "unlike": len(edit.unlike), **gate}


def _form_in_words(edit: Edit) -> str:
    words = [f"form {edit.form}"]
    words += [f"{len(edit.found)} more places found"] * bool(edit.found)
    words += [f"{len(edit.unlike)} places left out"] * bool(edit.unlike)
    words += [f"gate from {edit.gate[0]:.2f} to {edit.gate[1]:.2f}"] if edit.gate else []
    words += [f"at most {edit.budget:g}/255 elsewhere"] if edit.budget is not None else []
    return ", ".join(words)


def _strokes_in_words(edit: Edit) -> str:
    """Which units are set, to how many ways of levels, and on how many pictures."""
    chosen = sorted({(each.layer, each.units) for each in edit.strokes})
    words = [f"{len(units) or 'units not chosen yet'}{' units' * bool(units)} of {layer}" for layer, units in chosen]
    levels = sorted({each.levels for each in edit.strokes})
    single = all(len(own) == 1 for own in levels)
    set_to = f"levels {' and '.join(f'{own[0]:g}' for own in levels)}" if single else f"{len(levels)} sets of levels"
    pictures = len({each.place.seed for each in edit.strokes if each.place})
    return f"{', '.join(words)}, {set_to}, {len(edit.strokes)} strokes on {pictures} pictures"


def _rewritten(rule: Rule) -> str:
    """A rule that a generator brings along: its title and place, and what it did."""
    off = "" if rule.on else ", switched off"
    title = f"rewritten: {rule.title}: {rule.layer}, rank {rule.rank}, strength {rule.strength:g}{off}"
    return "\n  ".join([title, *effect_in_words("", rule).split("\n")[1:]])


def _margin(layer: dict[str, Any]) -> str:
    """What maps hold besides the picture."""
    return f", of which {layer['margin']} on each side lie outside of the picture" if layer["margin"] else ""


def _generator(generator: Generator) -> Description:
    origin, rules = generator.origin, carried_rules(generator)
    layers = [
        {
            "layer": i.name,
            "in": i.in_channels,
            "out": i.out_channels,
            "keys": i.key_resolution,
            "values": i.resolution,
            "margin": i.margin,
        }
        for i in generator.layers.values()
    ]
    weights = sum(p.numel() for p in generator.parameters())
    data: dict[str, Any] = {"what": "generator", "name": generator.name, "architecture": type(generator).__name__}
    data |= {"resolution": generator.resolution, "weights": weights, "fingerprint": generator.fingerprint}
    data |= {"origin": origin.to_json(), "start": dict(generator.advice)}
    data |= {"rules": [_rule(rule)[0] for rule in rules], "layers": layers}
    lines = [
        f"fingerprint {generator.fingerprint}",
        origin.attribution,
        origin.licence and f"licence {origin.licence.id}, {origin.licence.link}",
        origin.rules and f"rules in its weights: {', '.join(rule.title or rule.layer for rule in origin.rules)}",
        *map(_rewritten, rules),
        generator.advice and f"begin at {', '.join(f'{layer} for {good}' for good, layer in generator.advice.items())}",
        *(
            f"{i['layer']:8} {i['in']:4} → {i['out']:4} channels, {i['keys']}² → {i['values']}²{_margin(i)}"
            for i in layers
        ),
    ]
    head = f"{generator.name}: {data['architecture']}, {generator.resolution} px, {data['weights']:,} weights"
    return data, "\n".join([head, *(f"  {line}" for line in lines if line)])
