"""Rewrite the rules of a pretrained image generator: copy, paste, context, execute.

Read the modules in this order and you have read the method: masks, generators (what can be rewritten), memory (the
method), stats (its measuring as a job), rule, edit, effect, execute, search, suggest, session; then how generators come
in (checkpoints, townscape, hub) and pictures go out.
"""

from rewriter.editing.edit import Edit, Region, load_edits, save_edits
from rewriter.editing.execute import replay
from rewriter.editing.rule import Effect, Rule
from rewriter.editing.session import Rewriter
from rewriter.errors import RewriterError
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.hub.publish import publish
from rewriter.hub.resolve import load_generator
from rewriter.memory.directions import key_directions
from rewriter.memory.keys import SecondMoment
from rewriter.memory.solve import solve

__version__ = "0.1.0"
__all__ = [
    "Edit",
    "Effect",
    "Generator",
    "LowRank",
    "Region",
    "Rewriter",
    "RewriterError",
    "Rule",
    "SecondMoment",
    "key_directions",
    "load_edits",
    "load_generator",
    "publish",
    "replay",
    "save_edits",
    "solve",
]
