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
import torch.nn.functional as F
from torch import Tensor

from rewriter.editing.edit import Edit
from rewriter.errors import InputError
from rewriter.evaluation import FACES, FIRST_FACE
from rewriter.evaluation.face_edits import edit as edit_named
from rewriter.evaluation.face_edits import edits
from rewriter.evaluation.face_score import Score, fitted, labels
from rewriter.evaluation.landmarks import POINTS, Landmarks, landmarks, shifted, similarity, warped
from rewriter.generators.base import Generator
from rewriter.masks import bounds
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
MARGIN, RING = 4, 4  # px around the thing's place that are not "elsewhere"; width of the ring around it with seams
REACH = 3  # px that the thing may lie off its place
ENOUGH = -0.3  # logarithm of the amplitude of detail, relative to the thing's, from which nothing is faint
COARSE = 1.5  # px of blur that parts colours from fine detail
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


@dataclass(frozen=True)
class Place:
    """Where a copied thing belongs on n faces: the thing (n, 3, H, W) in [-1, 1], and its soft mask (n, H, W)."""

    thing: Tensor
    mask: Tensor

    def pasted(self, pictures: Tensor) -> Tensor:
        """The thing's own pixels on pictures (n, 3, H, W): what an ideal edit would come near to."""
        return torch.lerp(pictures, self.thing, self.mask[:, None])


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
        seam = _seam(self.places[0].mask, old, new)
        hidden = ~(frontal & ~self.wears)
        return Verdicts(
            frontal, self.wears, score.masked_fill(hidden, torch.nan), elsewhere, seam.masked_fill(~found, torch.nan),
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


def grown(masks: Tensor, margin: int) -> Tensor:
    """Soft masks (n, H, W) → bool, grown by a margin in px."""
    return F.max_pool2d(masks[:, None], 2 * margin + 1, 1, margin)[:, 0] > 0.1


def gradients(pictures: Tensor) -> Tensor:
    """Central differences of the brightness along x and y, in shares of its range a pixel, (n, 2, H, W)."""
    grey = F.pad(brightness(pictures), (1, 1, 1, 1), mode="replicate")
    across, down = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2], grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
    return torch.cat([across, down], 1) / 2


def brightness(pictures: Tensor) -> Tensor:
    """The brightness of pictures in [-1, 1], as a range of length 1: (n, 1, H, W)."""
    return (pictures * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True) / 2


def blurred(maps: Tensor, sigma: float = COARSE) -> Tensor:
    """Maps (n, c, H, W) under a Gaussian of `sigma` px; the rim is continued."""
    reach, channels = round(3 * sigma), maps.shape[1]
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    across = F.conv2d(F.pad(maps, (reach, reach, 0, 0), mode="replicate"), kernel, groups=channels)
    return F.conv2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.mT, groups=channels)


def measured(place: Place, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of `face_score.FEATURES`, (n, 4), at the best of all shifts by `REACH`, and the match there, (n,).

    *Strength* is how strongly the thing's fine detail is there (1: as copied), *colour* how much nearer the colours
    came (see `_likeness`), *match gained* the gain in the correlation of fine detail, and *faintness* how much less
    detail of any kind there is than the thing has, as a logarithm: high where it is blurred.
    """
    box, mask = bounds(place.mask.amax(0), above=0.05), place.mask[:, None]
    mask = mask[..., box.rows, box.columns]
    thing = [each[..., box.rows, box.columns] for each in _fine_and_coarse(place.thing)]
    rows, columns = (slice(part.start, part.stop + 2 * REACH) for part in (box.rows, box.columns))
    padded = (F.pad(torch.cat(_fine_and_coarse(each), 1), (REACH,) * 4, mode="replicate") for each in (before, after))
    old, new = (each[..., rows, columns] for each in padded)
    matches = [_matches(each[:, :1], thing[0], mask).flatten(1) for each in (old, new)]
    match, best = matches[1].max(1)
    gained = match - matches[0].gather(1, best[:, None])[:, 0]
    old, new = (_window(each, best, mask.shape[2:]) for each in (old, new))
    strength = (new[:, :1] * thing[0] * mask).sum((1, 2, 3)) / (thing[0].square() * mask).sum((1, 2, 3))
    colour = _likeness(new[:, 1:], old[:, 1:], thing[1], mask)
    there, wanted = ((each.square() * mask).sum((1, 2, 3)) for each in (new[:, :1], thing[0]))
    faintness = (ENOUGH - ((there + 1e-6) / (wanted + 1e-6)).log() / 2).clamp(0, 2)
    return torch.stack([strength.clamp(-0.5, 1.5), colour, gained, faintness], 1), match


def _fine_and_coarse(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The fine detail of the brightness, (n, 1, H, W), and the colours without it, (n, 3, H, W)."""
    grey = brightness(pictures)
    return grey - blurred(grey), blurred(pictures)


def _matches(maps: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Correlation of a pattern (n, 1, h, w) under masks with every window of a larger map (n, 1, H, W)."""
    product = _each_with_its_own(maps, wanted * mask)
    power = _each_with_its_own(maps.square(), mask)
    norm = (wanted.square() * mask).sum((1, 2, 3))
    return product / (power * norm[:, None, None]).sqrt().clamp_min(1e-6)


def _each_with_its_own(maps: Tensor, kernels: Tensor) -> Tensor:
    """Maps (n, c, H, W) correlated each with its own kernel (n, c, h, w): (n, H - h + 1, W - w + 1)."""
    height, width = kernels.shape[2:]
    down, across = maps.shape[2] - height + 1, maps.shape[3] - width + 1
    shifts = [maps[:, :, y : y + height, x : x + width] for y in range(down) for x in range(across)]
    return torch.stack([(shift * kernels).sum((1, 2, 3)) for shift in shifts], 1).unflatten(1, (down, across))


def _window(maps: Tensor, best: Tensor, size: Sequence[int]) -> Tensor:
    """The window of maps (n, c, H, W) at the best of the places, which are numbered row by row: (n, c, h, w)."""
    (height, width), across = size, 2 * REACH + 1
    tops, lefts = (best // across).tolist(), (best % across).tolist()
    return torch.stack([m[:, y : y + height, x : x + width] for m, y, x in zip(maps, tops, lefts, strict=True)])


def _likeness(after: Tensor, before: Tensor, thing: Tensor, mask: Tensor) -> Tensor:
    """How much nearer to the thing's colours the picture came: 0 as before, 1 the thing itself, at least -1; (n,)."""
    was, now = (((each - thing).square() * mask).sum((1, 2, 3)) for each in (before, after))
    return (1 - now / was.clamp_min(1e-4)).clamp(-1, 1)


def _seam(mask: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Mean gain in the strength of edges on the ring around masks, in 1/255 a pixel, (n,)."""
    ring = grown(mask, RING) & ~(mask > 0.1)
    old, new = (gradients(each).square().sum(1).sqrt() * 255 for each in (before, after))
    return ((new - old) * ring).sum((1, 2)) / ring.sum((1, 2)).clamp_min(1)
