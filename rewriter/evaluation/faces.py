"""Judges edits of the face generator by looking at the pictures alone, face by face, on seeds that no edit was made on.

Landmarks of the picture before say where the copied thing belongs on each face. Four numbers compare what is there
after with the thing as it was copied; a logistic model of them, fitted to pictures that were labelled by eye, says
whether a person would say that the face now has the thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from rewriter.editing.edit import Edit
from rewriter.errors import InputError
from rewriter.evaluation import FACES, FIRST_FACE
from rewriter.evaluation.face_edits import edit as edit_named
from rewriter.evaluation.face_edits import edits
from rewriter.evaluation.face_measures import Place, grown, measured, seam
from rewriter.evaluation.face_score import Score, fitted, labels
from rewriter.evaluation.landmarks import POINTS, Landmarks, landmarks, shifted, similarity, warped
from rewriter.generators.base import Generator
from rewriter.pictures import difference

__all__ = ["FaceJudge", "Faces", "Verdicts", "edits", "look"]

EYES, MOUTH, ALL = (0, 1), (3, 4), tuple(range(len(POINTS)))


class Thing(NamedTuple):
    """What the judge knows of an edit's thing: how its wearers are labelled, and the landmarks that it goes by."""

    worn: str
    goes_by: tuple[int, ...]


THINGS: Mapping[str, Thing] = {
    "glasses": Thing("glasses", EYES),
    "hat": Thing("headgear", EYES),
    "smile": Thing("grin", MOUTH),
    "blue-glasses": Thing("glasses", EYES),
    "face-mask": Thing("face mask", ALL),
    "moustache": Thing("facial hair", MOUTH),
    "open-mouth": Thing("open mouth", MOUTH),
    "red-cap": Thing("headgear", EYES),
}
# Landmarks of two copied faces that the detector misses, because a thing covers the mouth; placed by hand, in pixels
BY_HAND = {
    17: ((21.5, 29.5), (42, 29.5), (32, 42.5), (23.5, 52.5), (41, 52.5)),
    494: ((20.5, 30), (42.5, 30), (32, 44), (24.5, 52), (41, 52)),
}
MARGIN = 4  # px around the thing's place that are not "elsewhere"
TOOK, PARTLY = 0.5, 0.17  # scores from which a thing took, or took partly


@dataclass(frozen=True)
class Faces:
    """Faces of some seeds before any edit: pictures (n, 3, H, W) in [-1, 1], and their landmarks."""

    seeds: Sequence[int]
    pictures: Tensor
    landmarks: Landmarks

    def only(self, chosen: Sequence[int]) -> Faces:
        """Some of the faces, by index."""
        rows = list(chosen)
        return Faces([self.seeds[i] for i in rows], self.pictures[rows], Landmarks(self.landmarks.points[rows]))


@torch.no_grad()
def look(
    generator: Generator, seeds: Sequence[int] = range(FIRST_FACE, FIRST_FACE + FACES), *, batch: int = 64
) -> Faces:
    """Draw faces and find their landmarks: about 40 ms a face. All edits can be judged on the same ones."""
    seeds = list(seeds)
    parts = [generator.sample(seeds[i : i + batch], rules=[]).cpu() for i in range(0, len(seeds), batch)]
    pictures = torch.cat(parts).clamp(-1, 1)
    return Faces(seeds, pictures, landmarks(pictures))


@dataclass(frozen=True)
class Verdicts:
    """What the judge says of n faces; all tensors are (n,).

    Attributes:
        frontal: A frontal face was found before the edit.
        wears: It wears such a thing already (only frontal faces are labelled).
        score: How sure the judge is that the thing took, from 0 to 1; NaN where the thing does not apply.
        elsewhere: Mean change in 1/255 outside the thing's place and `MARGIN` px around it; of the whole picture where
            there is no frontal face.
        seam: Mean gain in edges on the ring around the thing's place, in 1/255 a pixel; NaN where there is no place.
        features: The numbers that the score is made of, (n, 4) as in `face_score.FEATURES`.
    """

    frontal: Tensor
    wears: Tensor
    score: Tensor
    elsewhere: Tensor
    seam: Tensor
    features: Tensor

    @property
    def applicable(self) -> Tensor:
        """Whether the thing applies: a frontal face that does not wear it yet."""
        return self.frontal & ~self.wears

    @property
    def took(self) -> Tensor:
        """Whether a person would say that the face now has the thing; false where it does not apply."""
        return self.score >= TOOK  # NaN compares as false

    @property
    def partly(self) -> Tensor:
        """Whether something of the thing is there, but not enough."""
        return (self.score >= PARTLY) & ~self.took

    def summary(self) -> dict[str, float]:
        """Counts, shares of the faces to which the thing applies, and means in 1/255."""
        applies, worn, profile = self.applicable, self.frontal & self.wears, ~self.frontal

        def mean(values: Tensor, where: Tensor) -> float:
            return float(values[where].double().mean()) if where.any() else float("nan")

        return {
            "faces": len(applies),
            "applicable": int(applies.sum()),
            "wear it already": int(worn.sum()),
            "no frontal face": int(profile.sum()),
            "took": mean(self.took, applies),
            "partly": mean(self.partly, applies),
            "score": mean(self.score, applies),
            "elsewhere": mean(self.elsewhere, applies),
            "elsewhere, wearers": mean(self.elsewhere, worn),
            "elsewhere, no frontal face": mean(self.elsewhere, profile),
            "seam": mean(self.seam, applies),
        }


class FaceJudge:
    """Judges one edit on faces that it was not made on, whatever the method: pictures before and after are enough.

    Args:
        generator: The face generator, as it was before the edit.
        edit: The edit, or its name in `face_edits.NAMES`.
        seeds: The faces to judge, of those that were labelled (10,000 to 10,599).
        faces: The same faces if they were looked at before, see `look`; saves the time.
    """

    def __init__(
        self,
        generator: Generator,
        edit: Edit | str,
        seeds: Sequence[int] = range(FIRST_FACE, FIRST_FACE + FACES),
        *,
        faces: Faces | None = None,
    ) -> None:
        self.edit = edit_named(generator, edit) if isinstance(edit, str) else edit
        self.name = self.edit.title
        if self.name not in THINGS:
            raise InputError(f"no judge for an edit titled {self.name!r}: expected one of {', '.join(THINGS)}")
        self.faces = faces or look(generator, seeds)
        self.score: Score = fitted()
        self._generator = generator
        self.wears = _wears(THINGS[self.name].worn, self.faces.seeds)

    @property
    def before(self) -> Tensor:
        """The pictures before the edit, (n, 3, H, W)."""
        return self.faces.pictures

    @property
    def applicable(self) -> Tensor:
        """On which faces the thing should appear, (n,) bool."""
        return self.faces.landmarks.frontal & ~self.wears

    @cached_property
    def places(self) -> tuple[Place, Place]:
        """The thing on each face as copied, only shifted; and turned and scaled with the face."""
        assert self.edit.copy is not None
        seed, side = self.edit.copy.seed, self.before.shape[-1]
        source = self._generator.sample([seed], rules=[]).cpu().clamp(-1, 1)
        own = torch.tensor(BY_HAND[seed]) / 64 if seed in BY_HAND else landmarks(source).points[0]
        layered = torch.cat([source[0], self.edit.copy.mask[None]])
        points = self.faces.landmarks.points.nan_to_num(0.5)
        points = torch.where(self.faces.landmarks.found[:, None, None], points, own)
        moves = shifted(own, points, THINGS[self.name].goes_by), similarity(own, points)
        found = [warped(layered, move, side) for move in moves]
        shift, turned = (Place(each[:, :3].clamp(-1, 1), each[:, 3].clamp(0, 1)) for each in found)
        return shift, turned

    def asked(self) -> Tensor:
        """The faces with the thing's own pixels pasted where the thing applies, (n, 3, H, W)."""
        return torch.where(self.applicable[:, None, None, None], self.places[0].pasted(self.before), self.before)

    @torch.no_grad()
    def verdict(self, after: Tensor, before: Tensor | None = None) -> Verdicts:
        """Compare pictures after the edit (n, 3, H, W) with those before (default: the generator's own)."""
        old, new = (self.before if before is None else before).cpu().clamp(-1, 1), after.detach().cpu().clamp(-1, 1)
        if old.shape != new.shape or len(old) != len(self.faces.seeds):
            raise InputError(f"{len(self.faces.seeds)} pictures are judged: got {tuple(old.shape)}, {tuple(new.shape)}")
        frontal, found = self.faces.landmarks.frontal, self.faces.landmarks.found
        (still, match), (turned, other) = (measured(place, old, new) for place in self.places)
        features = torch.where((other > match)[:, None], turned, still)
        score = self.score(self.name, features)
        near = torch.stack([grown(place.mask, MARGIN) for place in self.places]).any(0) & frontal[:, None, None]
        change = difference(old, new)
        elsewhere = (change * ~near).sum((1, 2)) / (~near).sum((1, 2))
        edges = seam(self.places[0].mask, old, new)
        hidden = ~(frontal & ~self.wears)
        return Verdicts(
            frontal, self.wears, score.masked_fill(hidden, torch.nan), elsewhere, edges.masked_fill(~found, torch.nan),
            features,
        )  # fmt: skip


def _wears(what: str, seeds: Sequence[int]) -> Tensor:
    """Which seeds' faces wear a thing already, by labels that were made by eye, (n,) bool."""
    found = labels()
    first, count = found["first"], found["count"]
    outside = [seed for seed in seeds if not first <= seed < first + count]
    if outside:
        raise InputError(f"faces are labelled for seeds {first} to {first + count - 1}: got {outside[0]}")
    worn = set(found["wearers"][what])
    return torch.tensor([seed - first in worn for seed in seeds])
