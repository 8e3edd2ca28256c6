"""Rewrite the rules of a pretrained image generator: copy, paste, context, execute.

Read the folders in this order and you have read the method: generators (what can be rewritten), memory (one layer as an
associative memory), editing (the work of a person). checkpoints, worlds and hub say where generators come from and
where rewritten ones go; evaluation measures; cli prints.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `as` says that a name is public
    from rewriter.editing.edit import Edit as Edit
    from rewriter.editing.edit import load_edits as load_edits
    from rewriter.editing.edit import save_edits as save_edits
    from rewriter.editing.effect import Effect as Effect
    from rewriter.editing.execute import replay as replay
    from rewriter.editing.region import Region as Region
    from rewriter.editing.rule import Rule as Rule
    from rewriter.editing.session import Rewriter as Rewriter
    from rewriter.editing.statistics import Statistics as Statistics
    from rewriter.errors import RewriterError as RewriterError
    from rewriter.generators.base import Generator as Generator
    from rewriter.generators.change import LowRank as LowRank
    from rewriter.hub.publish import publish as publish
    from rewriter.hub.resolve import load_generator as load_generator
    from rewriter.memory.directions import key_directions as key_directions
    from rewriter.memory.second_moment import SecondMoment as SecondMoment
    from rewriter.memory.solve import solve as solve

__version__ = "0.2.0.dev0"
_HOMES = {  # public name → module; imported when first used, so that `rewriter --help` need not wait for torch
    "Edit": "editing.edit",
    "Effect": "editing.effect",
    "Generator": "generators.base",
    "LowRank": "generators.change",
    "Region": "editing.region",
    "Rewriter": "editing.session",
    "RewriterError": "errors",
    "Rule": "editing.rule",
    "SecondMoment": "memory.second_moment",
    "Statistics": "editing.statistics",
    "key_directions": "memory.directions",
    "load_edits": "editing.edit",
    "load_generator": "hub.resolve",
    "publish": "hub.publish",
    "replay": "editing.execute",
    "save_edits": "editing.edit",
    "solve": "memory.solve",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rewriter' has no attribute {name!r}")
    found = getattr(import_module(f"rewriter.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
