"""Does an edit belong here? Its generator, its layer, its statistics, and the rules that it was made after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rewriter import masks
from rewriter.editing.edit import Edit
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.change import digest

LABELS = ("strength", "generator", "title")  # of an edit: they make no other rule; the fingerprint says which generator


def requests(rules: Sequence[Rule]) -> tuple[str, ...]:
    """What was asked for, by the rules that are on, and their strengths where these are not 1.

    It is the same on every machine, which the solved numbers are not.
    """
    strengths = {rule: "" if rule.strength == 1 else f"@{rule.strength:g}" for rule in rules}
    return tuple(f"{_request(rule)}{strengths[rule]}" for rule in rules if rule.active)


def bereft(rules: Sequence[Rule]) -> Rule | None:
    """The first of the rules that was made after others than these; None if there is none."""
    asked = {_request(rule) for rule in rules}
    return next((r for r in rules if {each.partition("@")[0] for each in r.edit.get("after", ())} - asked), None)


def _request(rule: Rule) -> str:
    if not rule.edit:
        return digest([rule])
    asked = {name: _places(value) for name, value in rule.edit.items() if name not in LABELS}
    return hashlib.sha256(json.dumps([rule.fingerprint, asked], sort_keys=True).encode()).hexdigest()[:16]


def _places(value: Any) -> Any:
    """A field of an edit's JSON with each place's mask as its digest; fields without places as they are."""
    if isinstance(value, list):
        return [_places(entry) for entry in value]
    if isinstance(value, Mapping) and isinstance(value.get("mask"), str):
        return {**value, "mask": masks.identity(value["mask"])}
    return value


def check(generator: Generator, edit: Edit) -> None:
    """Raise InputError, before any work, for an incomplete edit, another generator or a layer that it lacks."""
    if lacking := edit.missing():
        raise InputError(f"the edit is incomplete: {'; '.join(lacking)}")
    check_origin(generator, edit)


def check_origin(generator: Generator, edit: Edit) -> None:
    """Raise InputError for an edit of another generator, or of a layer that this one lacks."""
    if edit.fingerprint and edit.fingerprint != generator.fingerprint:
        raise InputError(
            f"the edit was made on {edit.generator} with fingerprint {edit.fingerprint[:12]}, this is "
            f"{generator.name} with {generator.fingerprint[:12]}: load the generator that it was made on"
        )
    generator.layer(edit.layer)


def default_layer(generator: Generator) -> str:
    """The layer to start with: the one known to be good for objects, else layer8, or the middle one."""
    names = list(generator.layers)
    return generator.advice.get("objects") or ("layer8" if "layer8" in names else names[len(names) // 2])


def at_home(generator: Generator, edit: Edit) -> Edit:
    """A recording does not know its layer: it gets the generator's where the usual one does not exist."""
    recorded = not edit.generator and edit.layer not in generator.layers
    return edit.with_(layer=default_layer(generator)) if recorded else edit


def check_statistics(generator: Generator, statistics: Statistics | None) -> None:
    """Raise InputError for statistics of another generator."""
    if statistics is not None and statistics.generator.fingerprint != generator.fingerprint:
        raise InputError(f"the statistics are of {statistics.generator.name}, not of {generator.name}")


def check_rules(generator: Generator, edit: Edit, rules: Sequence[Rule]) -> None:
    """Raise InputError for rules of another generator, or others than those that the edit was made after."""
    for rule in rules:
        generator.check(rule)
    if edit.after and edit.after != requests(rules):
        on = [rule.edit.get("title") or rule.layer for rule in rules if rule.active]
        raise InputError(
            f"the edit was made after {len(edit.after)} earlier rules; what is on now ({', '.join(on) or 'nothing'}) "
            "is not those, or not at their strengths: apply the same edits before it"
        )
