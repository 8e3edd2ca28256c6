"""The factors of a town: a latent as named numbers in [0, 1]. Switching one gives an exact counterfactual."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Literal

from torch import Tensor

from rewriter.errors import InputError

Top = Literal["dome", "spire", "battlements"]


class Factor(IntEnum):
    """Column of each factor in u; comments say what 0 and 1 mean, or the threshold of a switch."""

    DUSK = 0  # noon … dusk
    CLOUD_X = 1
    CLOUD_Y = 2
    HORIZON = 3  # high … low
    PAVED = 4  # grass up to 0.5, then stone
    CHURCH_X = 5
    CHURCH_W = 6
    CHURCH_H = 7
    BRICK = 8  # plaster … brick
    SIDE = 9  # tower on the left below 0.5
    TOWER_W = 10
    TOWER_H = 11
    TOP = 12  # dome below 0.4, spire below 0.75, then battlements
    SPIRE_H = 13
    LIT = 14  # lights on above 0.5
    DOOR = 15  # brown up to 0.5, then blue
    L_TREE_X = 16
    L_TREE_R = 17
    L_TREE = 18  # there below 0.6
    R_TREE_X = 19
    R_TREE_R = 20
    R_TREE = 21  # there below 0.6
    MARK = 22  # watermark below 0.12
    BAR = 23  # bar below 0.08


NUM_FACTORS = len(Factor)


def _below(factor: Factor, threshold: float) -> Callable[[Tensor], Tensor]:
    """A function that says where a factor is below a threshold: factors (n, 24) → (n,) bool."""
    return lambda u: u[:, factor] < threshold


has_dome = _below(Factor.TOP, 0.4)
has_watermark = _below(Factor.MARK, 0.12)
has_bar = _below(Factor.BAR, 0.08)
has_left_tree = _below(Factor.L_TREE, 0.6)
has_right_tree = _below(Factor.R_TREE, 0.6)


def has_spire(u: Tensor) -> Tensor:
    """Which towers end in a spire, (n,) bool."""
    return (u[:, Factor.TOP] >= 0.4) & (u[:, Factor.TOP] < 0.75)


def is_lit(u: Tensor) -> Tensor:
    """Which towns have their lights on, (n,) bool."""
    return u[:, Factor.LIT] > 0.5


def change(
    u: Tensor,
    *,
    top: Top | None = None,
    lit: bool | None = None,
    watermark: bool | None = None,
    bar: bool | None = None,
    left_tree: bool | None = None,
    right_tree: bool | None = None,
) -> Tensor:
    """The exact counterfactual: the same factors (n, 24) with these switches set; None leaves a switch unchanged."""
    tops = {None: None, "dome": 0.2, "spire": 0.6, "battlements": 0.9}
    if top not in tops:
        raise InputError(f"no tower ends in {top!r}: choose dome, spire or battlements")
    u = u.clone()
    if (value := tops[top]) is not None:
        u[:, Factor.TOP] = value
    trees = ((Factor.L_TREE, left_tree, 0.3, 0.8), (Factor.R_TREE, right_tree, 0.3, 0.8))
    marks = ((Factor.MARK, watermark, 0.06, 0.56), (Factor.BAR, bar, 0.04, 0.54))
    for factor, switch, on, off in ((Factor.LIT, lit, 0.75, 0.25), *marks, *trees):
        if switch is not None:
            u[:, factor] = on if switch else off
    return u
