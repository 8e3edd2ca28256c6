"""The plain twin: weights with the rules folded in, for programs that know W only, and how differently they draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rewriter.editing.effect import firing
from rewriter.editing.rule import Rule
from rewriter.generators.base import Generator
from rewriter.generators.beside import form_of
from rewriter.generators.latents import UNSEEN
from rewriter.pictures import difference as changed

PICTURES = 16  # to compare, on which the rules apply
SAME = 0.005  # a mean difference in 1/255 that is none
LIMIT = 256  # unseen pictures among which these are looked for


@torch.no_grad()
def difference(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int], *, truncation: float = 1.0) -> float:
    """Mean change from pictures with the rules to those of weights with the rules folded in, in 1/255."""
    twin = generator.rewritten(rules)
    drawn = (model.sample(seeds, truncation=truncation, rules=own) for model, own in ((generator, rules), (twin, ())))
    return float(changed(*drawn).mean())


def approximation(generator: Generator, rules: Sequence[Rule]) -> str:
    """A sentence on how far weights with the rules folded in draw differently; "" where they draw the same.

    It is measured on unseen pictures on which a rule applies that has a memory beside W.
    """
    on = [rule.to(generator.device) for rule in rules if rule.active]
    forms = sorted({form_of(rule.beside) for rule in on if rule.beside is not None})
    if not forms:
        return ""
    if forms == ["units"] and difference(generator, on, range(UNSEEN, UNSEEN + PICTURES)) < SAME:
        return ""
    psi = next((rule.edit.truncation for rule in on if rule.edit), 1.0)
    hits, _ = firing(generator, on, hits=PICTURES, misses=0, truncation=psi, limit=LIMIT)
    seeds = hits or range(UNSEEN, UNSEEN + PICTURES)
    where = "on which a rule applies " if hits else ""
    return (
        f"plain weights cannot hold the form {' or '.join(forms)}: the nearest change of W is folded in instead, and "
        f"{len(seeds)} unseen pictures {where}differ by {difference(generator, on, seeds, truncation=psi):.2f}/255 on "
        "average from those with the rules themselves"
    )
