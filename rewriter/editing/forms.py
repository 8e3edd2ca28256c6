"""Memories beside W for an edit: a low-rank change behind a gate, or copied values behind a template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter import masks
from rewriter.editing.region import Place
from rewriter.errors import InputError, OnStep, report
from rewriter.generators.frame import Frame
from rewriter.generators.gated import Gated, Recall, cut
from rewriter.memory.goal import RIM, Goal
from rewriter.memory.recall import MARGIN, Marked, template_of, transplant, whitening

if TYPE_CHECKING:
    from rewriter.editing.job import Job

GATE = 0.25, 0.45  # of the context's mean response: where a gate on one direction starts to open, and is open
SMOOTHNESS = 40.0  # of a gated change: what λ protects is mostly behind the gate
POOL = range(1400, 5400)  # pictures to find more context on; effects are measured on others
OPERATIONS, FEWEST = 1e12, 256  # a large generator looks through fewer pictures: so much work on a CPU, but so many
VALUES = 1 << 25  # numbers in all the windows from which a recall learns; 256 MB
FITTED = 400  # of the best places, from which the recall learns what borders mean
SCORED = 0.3  # of the marks' own median score: a lower one is no match
FALSE_ALARM = 0.99  # quantile of scores elsewhere in the pictures, which is no match either
OPEN = 1.25  # a gate is open from so many times the score on at which it starts to open
NEAR_MISS = 0.02  # a place is no match unless its score exceeds a near miss's by so much
BORDER = 2  # value cells around what is replaced, which say what the light is like; 1 on the coarsest maps
NEAR, FOUND_AGAIN = 1.25, 0.75  # key cells; share of the marks that the others' template must find
LOOKED = 128  # pictures in which more context of an erasure is looked for
ROUNDS = 3, 8  # places that are added to the context of an erasure with few marks, in the first and second search
BATCH = 64
AT_ONCE = 2e10  # operations between two reports of progress: about a second on a CPU


class Candidate(NamedTuple):
    """A place that may be like the marked ones."""

    score: float  # cosine with the template
    seed: int
    corner: tuple[float, float]  # of the template, in key cells


def gated(job: Job, goal: Goal, *, on_step: OnStep | None = None) -> Gated:
    """A low-rank change behind a gate on its first direction, solved for that gate."""
    directions, (low, high) = job.directions, job.edit.gate or GATE
    gate = Gated(directions.matrix[:, :0], directions.matrix, low * directions.level, high * directions.level)
    closed = job.edit.method == "closed-form"  # with a λ of its own; every other method is for changes of W
    method, usual = ("closed-form", None) if closed else ("least-squares", SMOOTHNESS)
    smoothness = usual if job.edit.smoothness is None else job.edit.smoothness
    change = job.solve(goal, on_step=on_step, method=method, smoothness=smoothness, gate=gate.matches)
    return replace(gate, delta=change.delta, directions=change.directions)


@dataclass(frozen=True)
class Finder:
    """The marks of an edit as a template, and where else it matches; places are in pixels of the picture.

    It looks at the keys that lie within the picture, and numbers them from there.
    """

    job: Job

    @property
    def pixels(self) -> float:
        """The side of a key cell in pixels."""
        return self.job.generator.resolution / self.job.info.key_frame.across

    @property
    def together(self) -> int:
        """How many pictures are looked through at a time: fewer of a slow generator, so that it can be cancelled."""
        job = self.job
        if job.generator.device.type == "cuda":
            return BATCH
        return max(4, min(BATCH, int(AT_ONCE / max(1, job.generator.operations_before(job.info.name)))))

    def _seen(self, keys: Tensor) -> Tensor:
        return self.job.info.key_frame.shown(keys)

    @cached_property
    def marked(self) -> Marked:
        """The template; places that a person has taken for context count as marks."""
        job, side = self.job, self.job.info.key_frame.across
        job.look_up(job.context)
        boxes = [masks.bounds(region.mask, above=float(region.mask.max()) / 2) for region in self.job.context]
        cells = [
            [s * side / m for s, m in zip(b.size, r.mask.shape, strict=True)]
            for b, r in zip(boxes, self.job.context, strict=True)
        ]
        height, width = (min(side, max(1, round(median(axis))) + 2 * MARGIN) for axis in zip(*cells, strict=True))
        centres = [region.centre_on(Frame(side)) for region in self.job.context]
        keys = self._seen(torch.cat([job.features[region.seed].keys for region in self.job.context]))
        return template_of(keys, centres, (height, width), whitening(job.moment).to(keys))

    def is_selective(self) -> bool:
        """Whether the template of the other marks finds most marks in their pictures, within a cell."""
        marked, frame = self.marked, Frame(self.job.info.key_frame.across)
        if len(marked.patches) < 3:
            return False
        hits = 0
        for i, region in enumerate(self.job.context):
            others = marked.patches[[j for j in range(len(marked.patches)) if j != i]].mean(0)
            template = replace(marked.template, patch=others)
            found = template.best(template.scores(self._seen(self.job.features[region.seed].keys))).place[0].tolist()
            off = [a + m - c for a, m, c in zip(found, marked.middle, region.centre_on(frame), strict=True)]
            hits += max(map(abs, off)) <= NEAR
        return hits >= FOUND_AGAIN * len(self.job.context)

    def search(
        self, seeds: Sequence[int], *, again: bool = False, on_step: OnStep | None = None
    ) -> tuple[list[Candidate], float]:
        """The best place of each picture, best first; and the score that few places elsewhere in them exceed.

        Pictures that the edit points at are left out. `again`: the same pictures will be searched again, see
        `Job.searched`.
        """
        edit = self.job.edit
        own = {region.seed for region in edit.regions} | {place.seed for place in edit.found if place.by == "person"}
        template, found, elsewhere = self.marked.template, list[Candidate](), list[float]()
        for i in range(0, len(seeds), self.together):
            batch = list(seeds[i : i + self.together])
            look_up = partial(self._whitened, batch)
            whitened = self.job.searched(batch, look_up) if again else look_up()
            others = [j for j, seed in enumerate(batch) if seed not in own]
            scores = template.cosine(whitened)[others]
            best = template.best(scores)
            corners = [(float(row), float(column)) for row, column in best.place]
            found += map(Candidate, best.score.tolist(), [batch[j] for j in others], corners)
            elsewhere += _second(scores, best.place, template.size)
            report(on_step, i + len(batch), len(seeds))
        elsewhere.sort()
        level = elsewhere[int(FALSE_ALARM * (len(elsewhere) - 1))] if elsewhere else -1.0
        return sorted(found, key=lambda one: (-one.score, one.seed)), level

    def _whitened(self, seeds: Sequence[int]) -> Tensor:
        return self.marked.template.whitened(self._seen(self.job.keys(seeds).keys))

    def thresholds(self, elsewhere: float) -> tuple[float, float]:
        """From which score on the template matches a little, and fully."""
        low = max(SCORED * median(self.marked.left_out()), elsewhere)
        if self.job.edit.unlike:
            self.job.look_up(self.job.edit.unlike)
            misses = [float(self._score_at(place)) for place in self.job.edit.unlike]
            low = max(low, *(miss + NEAR_MISS for miss in misses))
        low = min(max(round(low, 4), 0.01), 0.95)
        return low, round(min(low * OPEN, 0.99), 4)

    def _score_at(self, place: Place) -> Tensor:
        """The best score within a cell of a place."""
        scores = self.marked.template.scores(self._seen(self.job.features[place.seed].keys))[0]
        row, column = (max(0, min(s - 1, round(x))) for x, s in zip(self.corner(place), scores.shape, strict=True))
        return scores[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max()

    def place(self, candidate: Candidate) -> Place:
        """A candidate as a place on its picture."""
        row, column = (
            round((at + middle) * self.pixels, 2)
            for at, middle in zip(candidate.corner, self.marked.middle, strict=True)
        )
        return Place(candidate.seed, row, column)

    def corner(self, place: Place) -> tuple[float, float]:
        """The template's corner for a place, in key cells of the picture."""
        row, column = self.marked.middle
        return place.row / self.pixels - row, place.column / self.pixels - column


def find(job: Job, *, on_step: OnStep | None = None) -> Job:
    """The same job with more context: the best places of thousands of pictures, and thresholds for the template."""
    finder = Finder(job)
    if job.edit.gate and any(place.by == "machine" for place in job.edit.found):
        return job
    found, elsewhere = finder.search(_pool(job), on_step=on_step)
    gate = job.edit.gate or finder.thresholds(elsewhere)
    taken = [place for place in job.edit.found if place.by == "person"]
    best = [finder.place(one) for one in found[:FITTED] if one.score > gate[0]]
    return job.with_(found=(*taken, *best), gate=gate)


def find_erased(job: Job) -> Job:
    """The same erasure with more context, because one mark does not tell the thing from what is behind it.

    The first places that are found, in other surroundings, make the second search surer.
    """
    taken = [place for place in job.edit.found if place.by == "person"]
    for number in ROUNDS:
        finder = Finder(job)
        found, elsewhere = finder.search(POOL[:LOOKED], again=True)
        best = [finder.place(one) for one in found[:number] if one.score > elsewhere]
        job = job.with_(found=(*taken, *best))
    return job


def _pool(job: Job) -> range:
    """The pictures to find context on."""
    if job.generator.device.type == "cuda":
        return POOL
    affordable = int(OPERATIONS / max(1, job.generator.operations_before(job.info.name)))
    return POOL[: max(FEWEST, affordable)]


def recall(job: Job) -> Recall:
    """The copied values, recalled where the marks' template matches; the job's edit has found contexts and a gate."""
    edit, info = job.edit, job.info
    assert edit.copy is not None and edit.gate is not None
    finder, border = Finder(job), BORDER if info.resolution > 8 else 1
    source, mask = job.responses(job.features[edit.copy.seed]), job.copied()[1]
    box, scale = masks.bounds(mask, above=RIM), info.scale
    alpha = F.pad(mask[box.rows, box.columns], (border,) * 4)
    shift = [
        middle * scale + off - size / 2 - border
        for middle, off, size in zip(finder.marked.middle, job.pasted_off_mark(), box.size, strict=True)
    ]
    corner = box.top - border, box.left - border
    low, high = edit.gate
    size = alpha.shape[0], alpha.shape[1]
    nothing = source.new_zeros(0, source.shape[1], *size)
    copied = cut(source, torch.zeros(1, dtype=torch.long), torch.tensor([corner]), size)[0]
    template = replace(finder.marked.template, low=low, high=high)
    phase = corner[0] % scale, corner[1] % scale
    made = Recall(template, alpha, copied, nothing, nothing, (shift[0], shift[1]), scale, scale, phase)
    windows = [*_windows(finder, made, size)]
    if not windows:
        raise InputError("the context is like nothing in other pictures: mark more places, or choose another layer")
    copied, encode, decode = transplant(torch.cat(windows), copied, alpha)
    return replace(made, copied=copied, encode=encode, decode=decode)


def _windows(finder: Finder, made: Recall, size: tuple[int, int]) -> Iterator[Tensor]:
    """The windows of responses at the found places, a batch at a time."""
    channels = finder.job.info.out_channels
    found = finder.job.edit.found[: max(FEWEST // 4, VALUES // (channels * size[0] * size[1]))]
    for i in range(0, len(found), BATCH):
        batch = found[i : i + BATCH]
        response = finder.job.responses(finder.job.keys([place.seed for place in batch]))
        corners = made.corners(torch.tensor([finder.corner(place) for place in batch]) + finder.job.info.margin)
        yield cut(response, torch.arange(len(batch)), corners, size)


def _second(scores: Tensor, best: Tensor, size: tuple[int, int]) -> list[float]:
    """The best score of each picture that is not within a template's reach of its best place."""
    rows, columns = (torch.arange(side, device=scores.device) for side in scores.shape[1:])
    far_row = (rows - best[:, 0, None].round()).abs() > size[0] // 2
    far_column = (columns - best[:, 1, None].round()).abs() > size[1] // 2
    far = far_row[:, :, None] | far_column[:, None, :]
    seen = torch.where(far, scores, -1.0).flatten(1).amax(1)
    return [score for score in seen.tolist() if score > -1]
