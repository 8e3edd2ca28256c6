"""The machine chooses layer, form and numbers for an edit, by what they do on pictures that it was not made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rewriter.editing.edit import Edit
from rewriter.editing.execute import replay
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.errors import OnStep
from rewriter.generators.base import Generator


def execute(
    generator: Generator,
    edit: Edit,
    *,
    rules: Sequence[Rule] = (),
    statistics: Statistics | None = None,
    on_step: OnStep | None = None,
    on_statistics: OnStep | None = None,
    on_rule: Callable[[Rule], object] | None = None,
) -> Rule:
    """Make the rule that an edit asks for; where its form is "auto", the best of several. See `replay`."""
    steps = {"on_step": on_step, "on_statistics": on_statistics, "on_rule": on_rule}
    return replay(generator, edit, rules=rules, statistics=statistics, **steps)  # type: ignore[arg-type]
