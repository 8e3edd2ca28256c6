"""Places like the marked ones on other pictures, to see whether units agree with a thing there too."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rewriter import masks
from rewriter.editing.likeness import shifted
from rewriter.editing.region import Region
from rewriter.editing.rule import Rule
from rewriter.editing.session import Rewriter
from rewriter.errors import OnStep
from rewriter.generators.base import Generator

LOOKED_THROUGH, FOUND = range(8000, 8256), 8  # pictures in which more places are looked for, and how many are taken


@torch.no_grad()
def found_like(
    generator: Generator,
    marks: Sequence[Region],
    layer: str,
    *,
    count: int = FOUND,
    truncation: float = 1.0,
    rules: Sequence[Rule] = (),
    on_step: OnStep | None = None,
) -> list[Region]:
    """Places like the marks on other pictures, best first: the first mark, moved there. Found as an edit's context is.

    So it is seen whether units that agree with the marks agree with the thing elsewhere too. `on_step` gets (pictures
    looked through, of).
    """
    session = Rewriter(generator, layer, truncation=truncation, rules=list(rules))
    for mark in marks:
        session.add_context(mark.seed, mark.mask)
    side = generator.resolution
    mask = masks.resize(marks[0].mask, (side, side))
    row, column = masks.centre(mask)
    found = session.find(count, seeds=LOOKED_THROUGH, on_step=on_step)
    moved = [(place, shifted(mask, round(place.row - row), round(place.column - column))) for place, _ in found]
    return [Region(place.seed, masks.as_mask(cells)) for place, cells in moved if cells.any()]
