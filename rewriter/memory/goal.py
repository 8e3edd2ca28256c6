"""What a layer should answer and where: copy and paste, or erase → (K*, V*, weight); and where it should not change.

Goals cover the whole value map with a weight mask. A crop would have a border, where padding and other noise would
become part of the goal; only the original's solvers use one (`Goal.cropped`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewriter.errors import InputError
from rewriter.generators.layer import Features
from rewriter.masks import Box, bounds, grow, resize

if TYPE_CHECKING:
    from rewriter.memory.directions import Directions

DONORS = 4  # pictures whose values an erased place is filled with
NEGLIGIBLE = 0.01  # a goal that asks for less change than this share of the values asks for none
EDGE = 2  # cells around a mask that say what the filling should look like there
RIM = 0.1  # cells covered less than this by a mask do not count towards its box


@dataclass(frozen=True)
class Goal:
    """K* → V*: features of n pictures, the values wanted of them, and where those count."""

    features: Features  # the first picture is the one that was pasted on or erased
    values: Tensor  # V* (n, out, H, W)
    before: Tensor  # V (n, out, H, W), the present values
    weight: Tensor  # (n, H, W) in [0, 1]
    boxes: tuple[Box, ...]  # the cells of the value map that each picture's goal covers
    pasted: bool = False  # whether values were copied into the boxes, which then have the same size
    paired: bool = False  # whether the second half shows the pictures of the first in another condition: see `swap`

    def __getitem__(self, index: slice) -> Goal:
        parts = {name: getattr(self, name)[index] for name in ("features", "values", "before", "weight", "boxes")}
        return replace(self, **parts, paired=False)

    @property
    def conditions(self) -> tuple[Goal, ...]:
        """The goal's pictures in one condition, then in the other; if it is not paired, the whole goal."""
        half = len(self.values) // 2
        return (self[:half], self[half:]) if self.paired else (self,)

    @property
    def asks_for_change(self) -> bool:
        """Whether V* differs from V by more than 1 % of ‖V‖ over the weighted places."""
        present = float((self.before.square() * self.weight[:, None]).sum().sqrt())
        return self.remaining(self.before) > NEGLIGIBLE * present

    def cropped(self) -> Goal:
        """The goal as the original's solvers use it, in which all places count alike.

        What was pasted is cut out, and so are its keys: its box, extended to whole key cells, without a margin, so that
        the convolution sees zeros around it. Where something was erased, the whole map stays.
        """
        if not self.pasted:
            return replace(self, weight=torch.ones_like(self.weight))
        scale = self.values.shape[2] // self.features.keys.shape[2]
        cells = [box.coarser(scale) for box in self.boxes]
        places = [Box(*(edge * scale for edge in box)) for box in cells]
        features = replace(self.features, keys=_cut(self.features.keys, cells))
        values, before = (_cut(maps, places) for maps in (self.values, self.before))
        boxes = tuple(Box(0, 0, *box.size) for box in places)
        return Goal(features, values, before, torch.ones_like(before[:, 0]), boxes, pasted=True)

    def remaining(self, values: Tensor) -> float:
        """‖V* − V‖ over the weighted places, for values (n, out, H, W)."""
        return float(((self.values - values).square() * self.weight[:, None]).sum().sqrt())

    def mean_change(self) -> Tensor:
        """The weighted mean of V* − V over places, (out,)."""
        change = (self.values - self.before) * self.weight[:, None]
        return change.sum((0, 2, 3)) / self.weight.sum()


@dataclass(frozen=True)
class Bystanders:
    """Places of I other pictures whose values should stay as they are: the paper's L_smooth (Eq. 5)."""

    features: Features
    places: Tensor  # (I, n), indices into the flattened value map
    weight: Tensor  # (I, n), how much each place counts
    base: Tensor | None = None  # W ∗ k there, (I·n, out), if it is known already

    def unmatched(self, directions: Directions) -> Features:
        """The pictures in which nothing matches the context."""
        fires = directions.match(self.features.keys).flatten(1).any(1)
        return self.features[(~fires).nonzero().flatten().tolist()]

    def sparing(self, directions: Directions, *, scale: int) -> Bystanders:
        """The same places without those that a rule in these directions is meant to change.

        A place is left out if a key under its kernel matches the context. `scale`: value cells per key cell.
        """
        match = grow(directions.match(self.features.keys).float(), 1, 1, 1, 1)
        on_values = match.repeat_interleave(scale, 1).repeat_interleave(scale, 2).flatten(1)
        return replace(self, weight=self.weight * (1 - on_values.gather(1, self.places)))


def paste(
    features: Features, before: Tensor, centres: list[tuple[float, float]], source: Tensor, mask: Tensor, *, snap: int
) -> Goal:
    """Paste the copied values over those of n pictures, `before` (n, out, H, W), with the copy mask as alpha.

    `source` are the copied picture's values (out, H, W) and `mask` (H, W) says what to copy. The middle of the mask's
    box goes to the `centres`, (row, column) on each value map, or as near as the box lies inside, in steps of `snap`
    cells: 2 where the layer upsamples, so that both halves stay in phase.
    """
    box = bounds(mask, above=RIM)
    alpha, copied = mask[box.rows, box.columns], source[:, box.rows, box.columns]
    boxes = tuple(_placed(box, centre, before.shape[2:], snap) for centre in centres)
    values, weight = before.clone(), before.new_zeros(len(before), *before.shape[2:])
    for i, at in enumerate(boxes):
        values[i, :, at.rows, at.columns] = torch.lerp(before[i, :, at.rows, at.columns], copied, alpha)
        weight[i, at.rows, at.columns] = 1.0
    return Goal(features, values, before, weight, boxes, pasted=True)


def _cut(maps: Tensor, boxes: Sequence[Box]) -> Tensor:
    """One box of the same size from each of the maps (n, c, H, W)."""
    return torch.stack([each[:, box.rows, box.columns] for each, box in zip(maps, boxes, strict=True)])


def _placed(box: Box, centre: tuple[float, float], size: Sequence[int], snap: int) -> Box:
    """The box moved to a centre, in steps of `snap`, inside a map of the given size."""
    corner = []
    for middle, side, first, total in zip(centre, box.size, (box.top, box.left), size, strict=True):
        phase = first % snap
        wanted = snap * round((middle - side / 2 - phase) / snap) + phase
        corner.append(min(max(wanted, phase), phase + (total - side - phase) // snap * snap))
    return Box(corner[0], corner[1], corner[0] + box.size[0], corner[1] + box.size[1])


def corresponding(
    keys: Tensor, box: Box, others: Tensor, guesses: list[tuple[float, float]], *, reach: int = 2
) -> list[tuple[float, float]]:
    """Where the goal's box belongs on other pictures: the placement at which their keys are most alike.

    A hand-drawn context gives the rough place; the keys give the exact one, within `reach` cells of the guess.

    `keys` are the pasted picture's whitened keys Zk (in, h, w), `box` is the goal's box on the key map, `others` are
    the other pictures' whitened keys (n, in, h, w), and `guesses` are the centres of the box there, (row, column).
    """
    template, steps = keys[:, box.rows, box.columns], range(-reach, reach + 1)
    found = []
    for other, (row, column) in zip(others, guesses, strict=True):
        tried = sorted({_placed(box, (row + dy, column + dx), other.shape[1:], 1) for dy in steps for dx in steps})
        distances = [float((other[:, at.rows, at.columns] - template).square().mean()) for at in tried]
        found.append(tried[distances.index(min(distances))].centre)
    return found


def fill(
    features: Features,
    before: Tensor,
    masks: Tensor,
    keys: Tensor,
    donor_keys: Tensor,
    donor_values: Tensor,
    *,
    around: bool = False,
) -> Goal:
    """Fill the masked places with what similar pictures without the thing have there.

    The donors are the pictures most like each picture outside the mask. The goal is the mean of their values, which a
    single rule for all pictures can aim at. `masks` (n, H, W) are on the value map, `keys` (n, in, h, w) are the
    pictures' whitened keys Zk; `donor_keys` and `donor_values` are those of m pictures that the context does not match.
    `around`: shift the filling so that just around each mask it has the mean of what is there.
    """
    if not len(donor_values):
        raise InputError("the context matches every picture tried, and none is left to fill from: mark a narrower one")
    values, size = before.clone(), (keys.shape[2], keys.shape[3])
    for i, mask in enumerate(masks):
        outside = 1 - resize(mask, size)
        distance = ((keys[i] - donor_keys).square() * outside).sum((1, 2, 3))
        nearest = distance.argsort()[:DONORS]
        filling = donor_values[nearest].mean(0)
        ring = (grow(mask[None], EDGE, EDGE, EDGE, EDGE)[0] > 0) & (mask == 0)
        if around and ring.any():
            filling = filling + (before[i] - filling)[:, ring].mean(1)[:, None, None]
        values[i] = torch.lerp(before[i], filling, mask)
    return Goal(features, values, before, masks.clone(), tuple(bounds(mask, above=RIM) for mask in masks))


def swap(first: Features, second: Features, before: tuple[Tensor, Tensor], masks: Tensor) -> Goal:
    """Of n pictures in two conditions each shall get the other's values inside its mask (n, H, W), and keep its own.

    `before` are the present values (n, out, H, W) in either condition.
    """
    one, other = before
    alpha, boxes = masks[:, None], tuple(bounds(mask, above=RIM) for mask in masks)
    values = torch.cat([torch.lerp(one, other, alpha), torch.lerp(other, one, alpha)])
    features, weight = Features.cat([first, second]), torch.cat([masks, masks])
    return Goal(features, values, torch.cat([one, other]), weight, boxes * 2, paired=True)


def erase(features: Features, before: Tensor, masks: Tensor, usual: Tensor, *, units: int = 30) -> Goal:
    """Silence as many `units` as stand out most in the masked places: the goal is zero for them.

    They are those with the largest Σ w v² / E[v²] over all the pictures, with the masks (n, H, W) on the value map as
    w; `usual` is E[v²] of each value unit over many places, (out,).
    """
    score = (before.square() * masks[:, None]).sum((0, 2, 3)) / usual.clamp_min(1e-12)
    if not 1 <= units <= len(score):
        raise InputError(f"{units} units to silence, but the layer has {len(score)}: choose fewer")
    strongest = score.argsort(descending=True)[:units]
    values = before.clone()
    values[:, strongest] *= 1 - masks[:, None]
    return Goal(features, values, before, masks.clone(), tuple(bounds(mask, above=RIM) for mask in masks))
