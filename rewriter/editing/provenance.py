"""Does an edit belong here? Its generator, its layer, its statistics, and the rules that it was made after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewriter.editing.edit import Edit
from rewriter.errors import InputError
from rewriter.generators.base import Generator

if TYPE_CHECKING:
    from rewriter.editing.rule import Rule


def check_complete(generator: Generator, edit: Edit) -> None:
    """Raise InputError, before any work, for an incomplete edit, another generator or a layer that it lacks."""
    if lacking := edit.missing():
        raise InputError(f"the edit is incomplete: {'; '.join(lacking)}")
    check_generator(generator, edit)


def check_generator(generator: Generator, edit: Edit) -> None:
    """Raise InputError for an edit of another generator, or of a layer that this one lacks."""
    if edit.fingerprint and edit.fingerprint != generator.fingerprint:
        raise InputError(
            f"the edit was made on {edit.generator} with fingerprint {edit.fingerprint[:12]}, this is "
            f"{generator.name} with {generator.fingerprint[:12]}: load the generator that it was made on"
        )
    generator.layer(edit.layer)
    for stroke in edit.strokes:
        generator.layer(stroke.layer).check_units(stroke.units)


def check_rules(generator: Generator, edit: Edit, rules: Sequence[Rule]) -> None:
    """Raise InputError for rules of another generator, or others than those that the edit was made after."""
    for rule in rules:
        generator.check(rule)
    if edit.after and edit.after != requests(rules):
        on = ", ".join(rule.title for rule in rules if rule.active) or "none"
        raise InputError(
            f"the edit was made after {len(edit.after)} earlier rules. The rules that are on now ({on}) are others, or "
            "have other strengths: apply the same edits before it"
        )


def made_on_others(rules: Sequence[Rule]) -> Rule | None:
    """The first rule that was made after rules that are not among these; None if there is none."""
    given = {rule.request for rule in rules}
    for rule in rules:
        earlier = {request.partition("@")[0] for request in (rule.edit.after if rule.edit else ())}
        if earlier - given:
            return rule
    return None


def default_layer(generator: Generator) -> str:
    """The layer to start with: the one known to be good for objects, else layer8, or the middle one."""
    names = list(generator.layers)
    return generator.advice.get("objects") or ("layer8" if "layer8" in names else names[len(names) // 2])


def with_default_layer(generator: Generator, edit: Edit) -> Edit:
    """A recording, which names no layer, with the generator's default layer where it lacks the usual one."""
    recorded = not edit.generator and edit.layer not in generator.layers
    return edit.with_(layer=default_layer(generator)) if recorded else edit


def requests(rules: Sequence[Rule]) -> tuple[str, ...]:
    """What the active rules were asked for, in order, with strengths other than 1: what an `Edit.after` records."""
    return tuple(
        f"{rule.request}{'' if rule.strength == 1 else f'@{rule.strength:g}'}" for rule in rules if rule.active
    )
