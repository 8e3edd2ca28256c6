"""Looking before executing: the copied thing, and the wanted values on the picture that was pasted on, as pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewriter import masks
from rewriter.editing.execute import Job, OnPictures
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError
from rewriter.masks import Box
from rewriter.memory.goal import Goal


@dataclass(frozen=True)
class Copied:
    """What was copied, (3, H, W) each: the picture, the thing cut out on white, and its values rendered alone."""

    picture: Tensor
    cut_out: Tensor
    alone: Tensor


@dataclass(frozen=True)
class Pasted:
    """The picture that is pasted on or erased, (3, H, W), before and with the wanted values; and where, in pixels."""

    before: Tensor
    after: Tensor
    box: Box


@torch.no_grad()
def copied(job: Job) -> Copied:
    """Pictures of the copied thing; InputError if nothing is copied yet."""
    region = job.edit.copy
    if region is None:
        raise InputError("nothing is copied yet: copy a thing from a picture")
    job.look_up([region])
    picture, alone = job.copied_pictures()
    alpha = masks.resize(region.mask, (picture.shape[1], picture.shape[2])).to(picture)
    return Copied(picture, torch.lerp(torch.ones_like(picture), picture, alpha), alone)


@torch.no_grad()
def pasted(job: Job, statistics: Statistics, *, on_statistics: OnPictures | None = None) -> Pasted:
    """The picture pasted on or erased, with the wanted values rendered; InputError says what is missing."""
    edit, generator = job.edit, job.generator
    if edit.kind == "zero":
        raise InputError("zeroing has no picture to preview: execute it")
    if lacking := edit.missing():
        raise InputError(f"nothing to preview yet: {'; '.join(lacking)}")
    job.look_up([edit.copy, job.target] if edit.kind == "replace" else None)
    goal = (job.pasted() if edit.kind == "replace" else _erased(job, statistics, on_statistics))[:1]
    before, after = (generator.picture(goal.features, v, rules=job.rules)[0] for v in (goal.before, goal.values))
    pixels = generator.resolution / job.info.resolution
    return Pasted(before, after, Box(*(round(edge * pixels) for edge in goal.boxes[0])))


def _erased(job: Job, statistics: Statistics, on_statistics: OnPictures | None) -> Goal:
    edit = job.edit
    moment = statistics.moment(edit.layer, rules=job.rules, recipe=edit.statistics, on_step=on_statistics)
    bystanders, usual = statistics.bystanders(edit.layer, rules=job.rules)
    return job.goal(usual, moment, bystanders.unmatched(job.directions(moment)))
