"""The work on one edit: the pictures that it points at, what singles the context out, and the goal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewriter import masks
from rewriter.editing.context import cells_of, context_keys
from rewriter.editing.edit import Edit
from rewriter.editing.likeness import shifted
from rewriter.editing.region import Place, Region
from rewriter.editing.statistics import Statistics, statistics_for
from rewriter.editing.stroke import Stroke
from rewriter.errors import InputError, OnStep
from rewriter.generators.base import Generator, exact
from rewriter.generators.change import LowRank
from rewriter.generators.latents import Seed, in_order
from rewriter.generators.layer import Features, LayerInfo, Memory
from rewriter.memory.directions import Directions, key_directions, separating
from rewriter.memory.goal import RIM, Bystanders, Goal, corresponding, erase, fill, paste, swap
from rewriter.memory.neighbourhoods import NeighbourhoodMoment
from rewriter.memory.second_moment import SecondMoment
from rewriter.memory.sites import Gate
from rewriter.memory.solve import solve

if TYPE_CHECKING:
    from rewriter.editing.rule import Rule

BATCH = 16
DONORS, SPARED = 6, 0.03  # pictures to fill from if the context matches all; at most this share of one matches
CLOSED = "closed-form"
EARLIER = 16  # marks of earlier rules that are protected
NO_CHANGE = {  # what to do about a goal that asks for no change, by the edit's kind
    "replace": "the copied thing is already there: paste it onto another picture or place, erase it instead, or, if it "
    "should appear on other pictures too, mark the context there and leave spread on",
    "erase": "the marked places already look as they would without the thing: mark it where it is",
    "swap": "the two conditions hardly differ where the context is: set other units, or levels further apart, or mark "
    "the context where their consequence shows",
    "paint": "what was painted is there already: paint where it is not, or with other units",
}


class Job:
    """The work on one edit: what is known of its layer, the features it needs, its directions and its goal.

    The edit may be incomplete: each method needs only the places that it names. Statistics are measured when they are
    first needed; `measure` does so with progress.
    """

    def __init__(self, generator: Generator, edit: Edit, rules: Sequence[Rule], statistics: Statistics | None = None):
        self.generator, self.edit, self.rules = generator, edit, tuple(rules)
        self.statistics = statistics_for(generator, statistics)
        self.info: LayerInfo = generator.layer(edit.layer)
        marked = edit.context or ((edit.paste,) if edit.paste else ())
        self.context = (*marked, *self._found_like(marked))
        self.features: dict[Seed, Features] = {}

    def _found_like(self, marked: Sequence[Region]) -> Iterator[Region]:
        """The places that a person took, or of an erasure all that were found, under the first mark, moved there.

        None of a swap, in whose other pictures no units are set.
        """
        found = () if self.edit.kind == "swap" else self.edit.found
        taken = [place for place in found if place.by == "person" or self.edit.kind == "erase"]
        seen = {region.seed for region in marked}
        for place in taken if marked else ():
            mask = _moved(marked[0].mask, place, self.generator.resolution)
            if place.seed not in seen and mask.any():
                yield Region(place.seed, mask)

    def with_(self, **changes: Any) -> Job:
        """The same work on a changed edit at the same layer: what was looked up and measured stays."""
        job = Job(self.generator, self.edit.with_(**changes), self.rules, self.statistics)
        job.features = self.features
        same = changes.keys().isdisjoint(("context", "truncation", "statistics", "strokes"))
        for name in ("memory", "moment", "_others", "swapped") if same else ():
            if name in self.__dict__:
                job.__dict__[name] = self.__dict__[name]
        return job

    @cached_property
    def memory(self) -> Memory:
        """The layer; changes of its weight by rules that are on are folded into it."""
        own = [rule for rule in self.generator.rules_at(self.rules, self.info.name) if rule.beside is None]
        return self.generator.rewritten(own).memory(self.info.name)

    def keys(self, seeds: Sequence[Seed]) -> Features:
        """The features that enter the layer, for other pictures."""
        return self.generator.keys(seeds, self.info.name, truncation=self.edit.truncation, rules=self.rules)

    def searched(self, seeds: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
        """The whitened keys of other pictures, which are made once and kept for the next search."""
        psi, recipe = self.edit.truncation, self.edit.statistics
        sampling = self.statistics.sampling(self.info.name, psi, rules=self.rules, recipe=recipe)
        return self.statistics.searched.get((sampling, *seeds), make)

    def responses(self, features: Features) -> Tensor:
        """The layer's demodulated responses (n, out, H, W) under the rules that are on."""
        with exact(self.generator.device):
            return self.memory.answer(features, self._beside())

    def _beside(self) -> list[LowRank]:
        """The rules at this layer that are on and have a memory beside W."""
        return [rule for rule in self.generator.rules_at(self.rules, self.info.name) if rule.beside is not None]

    def measure(self, on_step: OnStep | None = None) -> None:
        """Measure what the edit needs of the layer, unless it is known; `on_step` gets (pictures, of)."""
        edit = self.edit
        self.moment = self.statistics.moment(
            edit.layer, truncation=edit.truncation, rules=self.rules, recipe=edit.statistics, on_step=on_step
        )
        if edit.method == CLOSED:
            self._neighbourhoods(on_step=on_step)

    @cached_property
    def moment(self) -> SecondMoment:
        """The second moment of the layer's keys."""
        self.measure()
        return self.moment

    @cached_property
    def _others(self) -> tuple[Bystanders, Tensor]:
        return self.statistics.bystanders(self.edit.layer, truncation=self.edit.truncation, rules=self.rules)

    @property
    def bystanders(self) -> Bystanders:
        """Places of other pictures that should stay as they are."""
        return self._others[0]

    @cached_property
    def donors(self) -> Features:
        """Pictures among the bystanders in which the context matches nothing; if there are none, least."""
        unmatched = self.bystanders.unmatched(self.directions)
        if len(unmatched):
            return unmatched
        features = self.bystanders.features
        share = self.directions.match(features.keys).flatten(1).float().mean(1)
        least = share.argsort(stable=True)[:DONORS].tolist()
        return features[[i for i in least if share[i] < SPARED]]

    @property
    def references(self) -> Features:
        """The donors; where the context matches much of every picture, all the bystanders."""
        return self.donors if len(self.donors) else self.bystanders.features

    @property
    def target(self) -> Region:
        """The place that is pasted on or erased, or else the first context; InputError if there is none."""
        if not self.context:
            raise InputError("no place is marked yet: paste onto a picture, or mark a context")
        return self.edit.paste or self.context[0]

    @property
    def drawn(self) -> Region:
        """The context's mark on the picture that is pasted on, or else the pasted place."""
        return next((region for region in self.context if region.seed == self.target.seed), self.target)

    def look_up(self, regions: Iterable[Region | Place | None] | None = None) -> None:
        """Compute the features of every picture that the edit points at, or of the given places, in batches."""
        if regions is None:
            context = () if self.edit.kind == "swap" else (*self.edit.context, *self.context)
            regions = [self.edit.paste, *context, *self.edit.keep, self.edit.copy]
        seeds = in_order({region.seed for region in regions if region} - self.features.keys())
        for i in range(0, len(seeds), BATCH):
            batch = seeds[i : i + BATCH]
            found = self.keys(batch)
            self.features |= {seed: found[[j]] for j, seed in enumerate(batch)}

    def _on(self, region: Region, what: str) -> Tensor:
        """Where a region is on the map of values."""
        return cells_of(region, self.info.frame, what, self.generator, self.edit.layer)

    @cached_property
    def directions(self) -> Directions:
        """What singles out the context: from the keys of the cells inside its masks, weighted by how far inside.

        For a swap: what tells the two conditions apart there.
        """
        moment = self.moment.with_more(self._near_misses()) if self.edit.unlike else self.moment
        if self.edit.kind == "swap":
            return separating(self.swapped, moment)
        keys, weights = context_keys(self.generator, self.info, self.context, self.features)
        method, rank = self.edit.directions, 1 if self.edit.method == CLOSED else self.edit.rank
        return key_directions(keys, moment, weights=weights, rank=rank, method=method)

    def _near_misses(self) -> Tensor:
        """The keys (n, in) at the places that look like the context and are none."""
        self.look_up(self.edit.unlike)
        frame, keys = self.info.key_frame, list[Tensor]()
        for place in self.edit.unlike:
            cells = frame.cells(place.shares(self.generator.resolution))
            row, column = (max(0, min(frame.side - 1, int(at))) for at in cells)
            keys.append(self.features[place.seed].keys[0, :, row, column])
        return torch.stack(keys)

    def copied(self) -> tuple[Tensor, Tensor]:
        """Values (out, H, W) of the copied picture, and the copy mask at their resolution."""
        assert self.edit.copy is not None
        values = self.generator.values(self.features[self.edit.copy.seed], rules=self.rules)[0]
        return values, self._on(self.edit.copy, "copied place")

    def pasted(self) -> Goal:
        """The goal for the picture that was pasted on: the copied values, centred on the pasted place."""
        features = self.features[self.target.seed]
        source, mask = self.copied()
        self._on(self.target, "place to paste")
        before = self.generator.values(features, rules=self.rules)
        return paste(features, before, [self._pasted_at(mask)], source, mask, snap=self.info.scale)

    def _pasted_at(self, mask: Tensor) -> tuple[float, float]:
        """Where the middle of the copy mask's box goes on the pasted picture, (row, column) in value cells."""
        assert self.edit.copy is not None
        frame, middle = self.info.frame, masks.bounds(mask, above=RIM).centre
        (top, left), (row, column) = self.edit.copy.centre_on(frame), self.target.centre_on(frame)
        return middle[0] + row - top, middle[1] + column - left

    def pasted_off_mark(self) -> tuple[float, float]:
        """How far the pasted thing's middle lies from the middle of the context's mark there, in value cells."""
        (row, column), (top, left) = self._pasted_at(self.copied()[1]), self.drawn.centre_on(self.info.frame)
        return row - top, column - left

    def goal(self) -> Goal:
        """The goal: the values wanted of the pasted picture and, if the edit is spread, of each context."""
        if self.edit.kind == "swap":
            return self.swapped
        spread = [r for r in self.context if r.seed != self.target.seed] if self.edit.spread else []
        pictures = [self.target, *spread]
        features = Features.cat([self.features[region.seed] for region in pictures])
        before = self.generator.values(features, rules=self.rules)
        if self.edit.kind == "paint":
            return self._painted(pictures, features, before)
        whitening = self.moment.power(-0.5).to(before)
        if self.edit.kind == "erase":
            places = torch.stack([self._on(region, "place to erase") for region in pictures])
            if self.edit.units is not None:
                return erase(features, before, places, self._others[1], units=self.edit.units)
            donors = self.donors
            keys, donor_keys = (torch.einsum("ij,njhw->nihw", whitening, f.keys) for f in (features, donors))
            return fill(features, before, places, keys, donor_keys, self.generator.values(donors, rules=self.rules))
        first = self.pasted()
        if not spread:
            return first
        source, mask = self.copied()
        centres = [first.boxes[0].centre, *self._elsewhere(features, spread, first, whitening)]
        return paste(features, before, centres, source, mask, snap=self.info.scale)

    def _painted(self, pictures: Sequence[Region], features: Features, before: Tensor) -> Goal:
        """The goal: what the strokes make of the painted pictures, and would make of the other marked places."""
        changes = [[*self.rules, *self.edit.painted_on(region, self.info)] for region in pictures]
        values = self.generator.values(features, rules=changes)
        weight = torch.stack([self._on(region, "painted place") for region in pictures])
        weight = (2 * weight).clamp_max(1)  # as far as strokes act
        return Goal(features, values, before, weight, tuple(masks.bounds(cells, above=RIM) for cells in weight))

    @cached_property
    def swapped(self) -> Goal:
        """The pictures of a swap in both conditions: where the context is, each shall get the other's values."""
        masks = torch.stack([self._on(region, "context") for region in self.context])
        first, second = (self._with_units(self.edit.strokes[i::2]) for i in (0, 1))
        before = (self.generator.values(first, rules=self.rules), self.generator.values(second, rules=self.rules))
        return swap(first, second, before, masks)

    def _with_units(self, strokes: Sequence[Stroke]) -> Features:
        """What enters the layer on the pictures of some strokes, which set units of an earlier layer."""
        parts, psi = [], self.edit.truncation
        for i in range(0, len(strokes), BATCH):
            batch = [(each, each.place.seed) for each in strokes[i : i + BATCH] if each.place]
            changes = [[*self.rules, each.change(self.generator.layer(each.layer))] for each, _ in batch]
            seeds = [seed for _, seed in batch]
            parts.append(self.generator.keys(seeds, self.info.name, truncation=psi, rules=changes))
        return Features.cat(parts)

    def forgotten(self, change: LowRank) -> Goal:
        """The goal that a zeroed layer reaches: its values at the contexts after the change."""
        features = Features.cat([self.features[region.seed] for region in self.context])
        weight = torch.stack([self._on(region, "context") for region in self.context])
        before = self.generator.values(features, rules=self.rules)
        after = self.generator.values(features, rules=[*self.rules, change])
        boxes = tuple(masks.bounds(cells, above=RIM) for cells in weight)
        return Goal(features, after, before, weight, boxes)

    def _elsewhere(
        self, features: Features, spread: list[Region], first: Goal, whitening: Tensor
    ) -> list[tuple[float, float]]:
        """Where the goal's box belongs on the other contexts' pictures: near their masks, aligned by their keys."""
        scale, frame = self.info.scale, self.info.key_frame
        box = first.boxes[0].coarser(scale)
        centres = [region.centre_on(frame) for region in (self.drawn, *spread)]
        off = box.centre[0] - centres[0][0], box.centre[1] - centres[0][1]
        guesses = [(y + off[0], x + off[1]) for y, x in centres[1:]]
        keys = torch.einsum("ij,njhw->nihw", whitening, features.keys)
        return [(y * scale, x * scale) for y, x in corresponding(keys[0], box, keys[1:], guesses)]

    def solve(self, goal: Goal, *, on_step: OnStep | None = None, **changed: Any) -> LowRank:
        """The change that comes nearest to the goal and leaves other places, and protected ones, as they are.

        `changed`: options of `memory.solve.solve` that replace the edit's. InputError if the goal asks for no change.
        """
        edit = self.edit
        if not goal.asks_for_change:
            raise InputError(NO_CHANGE[edit.kind])
        options: dict[str, Any] = {"method": edit.method, "smoothness": edit.smoothness, "steps": edit.steps, **changed}
        bystanders, earlier = [*map(self._kept, edit.keep)], self._beside()
        options |= {"earlier": earlier}
        if options["method"] == CLOSED:
            around = self._neighbourhoods(gate=changed.get("gate"))
            options |= {"rank": edit.rank, "more": self._on_found(), "neighbourhoods": around}
        else:
            bystanders.insert(0, self.bystanders.sparing(self.directions, scale=self.info.scale))
        if edit.form != "weight":
            scale = self.info.scale
            bystanders += [self._kept(mark).sparing(self.directions, scale=scale) for mark in self._earlier()]
        return solve(self.memory, goal, self.directions, bystanders=bystanders, on_step=on_step, **options)

    def _neighbourhoods(self, *, gate: Gate | None = None, on_step: OnStep | None = None) -> NeighbourhoodMoment:
        """The second moment of neighbourhoods in random pictures; behind a gate it is measured anew."""
        edit, rules = self.edit, self.rules
        how: dict[str, Any] = {"recipe": edit.statistics, "gate": gate, "on_step": on_step}
        return self.statistics.neighbourhoods(edit.layer, truncation=edit.truncation, rules=rules, **how)

    def _on_found(self) -> Iterator[Goal]:
        """The goal at the places that a search found, some pictures at a time."""
        if self.edit.kind != "replace" or not self.edit.found:
            return
        (source, mask), off, side = self.copied(), self.pasted_off_mark(), self.generator.resolution
        marked = {region.seed for region in self.context} if self.edit.spread else set()
        found = [place for place in self.edit.found if place.seed not in marked]
        for i in range(0, len(found), BATCH):
            places = found[i : i + BATCH]
            features = self.keys([place.seed for place in places])
            cells = [self.info.frame.cells(place.shares(side)) for place in places]
            centres = [(row + off[0], column + off[1]) for row, column in cells]
            before = self.generator.values(features, rules=self.rules)
            yield paste(features, before, centres, source, mask, snap=self.info.scale)

    def _earlier(self) -> list[Region]:
        """Marks of earlier rules that are on, on pictures that this edit does not point at: they should stay."""
        own = {region.seed for region in self.edit.regions}
        edits = [rule.edit for rule in self.rules if rule.active and rule.edit]
        marks = {region.seed: region for edit in edits for region in (*edit.context, edit.paste) if region}
        kept = [region for seed, region in marks.items() if seed not in own][:EARLIER]
        self.look_up(kept)
        return kept

    def _kept(self, region: Region) -> Bystanders:
        """A protected place, as a set of places whose values should stay."""
        cells = self._on(region, "place to keep").flatten()
        places = cells.nonzero().T
        return Bystanders(self.features[region.seed], places, cells[places])


def _moved(mask: Tensor, place: Place, side: int) -> Tensor:
    """A mask moved, in whole cells, until its middle lies on a place of a picture of the given side."""
    (height, width), (row, column) = mask.shape, masks.centre(mask)
    return shifted(mask, round(place.row * height / side - row), round(place.column * width / side - column))
