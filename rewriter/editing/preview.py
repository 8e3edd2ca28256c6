"""Pictures to look at before executing: the copied thing, and the pasted picture with the values that are wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewriter import masks
from rewriter.editing.job import Job
from rewriter.errors import InputError, OnStep
from rewriter.masks import Box


@dataclass(frozen=True)
class Copied:
    """Three pictures (3, H, W): the copied picture, the thing cut out on white, and its values rendered alone."""

    picture: Tensor
    cut_out: Tensor
    alone: Tensor  # with zeros at all other places (Fig. 2)


@dataclass(frozen=True)
class Pasted:
    """The pasted picture (3, H, W) before and with the wanted values, and the box in pixels that changes."""

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
    features, (values, mask) = job.features[region.seed], job.copied()
    alone = features
    if features.skip is not None:
        size = (features.skip.shape[2], features.skip.shape[3])
        alone = replace(features, skip=features.skip * masks.resize(mask, size))
    pairs = ((features, values), (alone, values * mask))
    picture, part = (job.generator.picture(f, v[None], rules=job.rules)[0] for f, v in pairs)
    alpha = masks.resize(region.mask, (picture.shape[1], picture.shape[2])).to(picture)
    return Copied(picture, torch.lerp(torch.ones_like(picture), picture, alpha), part)


@torch.no_grad()
def pasted(job: Job, *, on_statistics: OnStep | None = None) -> Pasted:
    """Render the goal on the picture that is pasted on or erased; InputError says what is missing."""
    edit, generator = job.edit, job.generator
    if edit.kind == "zero":
        raise InputError("zeroing has no picture to preview: execute it")
    if lacking := edit.missing():
        raise InputError(f"nothing to preview yet: {'; '.join(lacking)}")
    if edit.kind == "replace":
        job.look_up([edit.copy, job.target])
        goal = job.pasted()[:1]
    elif edit.kind == "paint":
        job.look_up()
        goal = job.goal()[:1]
    else:
        job.measure(on_statistics)
        job.look_up()
        goal = job.goal()[:1]
    before, after = (generator.picture(goal.features, v, rules=job.rules)[0] for v in (goal.before, goal.values))
    frame = job.info.frame
    edges = (round((edge - frame.margin) * generator.resolution / frame.across) for edge in goal.boxes[0])
    return Pasted(before, after, Box(*(max(0, min(generator.resolution, edge)) for edge in edges)))
