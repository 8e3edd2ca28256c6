"""Does a face wear glasses? A judge that was fitted to 600 faces on which people looked, for switching units off.

The region around the eyes is turned upright by its landmarks; edges and brightness there go into a logistic model with
a ridge. Each face is judged by a model that did not see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.evaluation.face_score import labels
from rewriter.evaluation.faces import Faces

SIZE, REACH = (20, 44), (-0.62, 0.5, 1.25)  # of the region: pixels; up, down and sideways in distances of the eyes
FOLDS, RIDGE, STEPS = 5, 1000.0, 60
MIRRORED = [1, 0, 2, 4, 3]  # landmarks of a mirrored face


@dataclass(frozen=True)
class Wearing:
    """The judge for some faces, which must be frontal; those with glasses are known by labels made by eye."""

    faces: Faces

    @cached_property
    def worn(self) -> Tensor:
        """Which of the faces wear glasses, by eye, (n,) bool."""
        found = labels()
        wearers = {found["first"] + each for each in found["wearers"]["glasses"]}
        return torch.tensor([seed in wearers for seed in self.faces.seeds])

    @cached_property
    def folds(self) -> Tensor:
        """The fold of each face."""
        return torch.randperm(len(self.worn), generator=torch.Generator().manual_seed(0)) % FOLDS

    @cached_property
    def models(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each fold the mean, the weights and the constant that fit the others best."""
        both = torch.cat([*_both(self.faces.pictures, self.faces.landmarks.points)])
        worn, fold = self.worn.double().repeat(2), self.folds.repeat(2)
        return [_fit(both[fold != each], worn[fold != each]) for each in range(FOLDS)]

    def __call__(self, pictures: Tensor) -> Tensor:
        """The log odds that each face wears glasses, (n,), for pictures of these faces, perhaps after an edit."""
        odds = []
        for features in _both(pictures, self.faces.landmarks.points):
            each = torch.stack(
                [(features.double() - mean) @ weights + constant for mean, weights, constant in self.models]
            )
            odds.append(each.gather(0, self.folds[None])[0])
        return torch.stack(odds).mean(0)

    def accuracy(self) -> float:
        """The area under the ROC curve on the faces before any edit."""
        odds = self(self.faces.pictures)
        return float((odds[self.worn][:, None] > odds[~self.worn]).double().mean())


def _both(pictures: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Features of faces, and of the mirrored faces."""
    mirrored = torch.stack([1 - points[..., 0], points[..., 1]], 2)[:, MIRRORED]
    return _features(pictures, points), _features(pictures.flip(3), mirrored)


def _features(pictures: Tensor, points: Tensor) -> Tensor:
    """Smoothed edges and brightness of the region around the eyes, (n, f), for pictures (n, 3, H, W)."""
    left, right = points[:, 0], points[:, 1]
    middle, across = (left + right) / 2, right - left
    down = torch.stack([-across[:, 1], across[:, 0]], 1)
    y, x = torch.meshgrid(
        torch.linspace(REACH[0], REACH[1], SIZE[0]), torch.linspace(-REACH[2], REACH[2], SIZE[1]), indexing="ij"
    )
    place = middle[:, None, None] + x[..., None] * across[:, None, None] + y[..., None] * down[:, None, None]
    cut = F.grid_sample(pictures, place * 2 - 1, align_corners=False, padding_mode="border").mean(1, keepdim=True)
    grey = (cut - cut.mean((2, 3), keepdim=True)) / (cut.std((2, 3), keepdim=True) + 0.05)
    across_, down_ = grey.diff(dim=3)[:, :, :-1], grey.diff(dim=2)[..., :-1]
    maps = across_.abs(), down_.abs(), across_, down_, grey
    return torch.cat([F.avg_pool2d(each, 3, 2, 1).flatten(1) for each in maps], 1)


def _fit(features: Tensor, worn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logistic regression with a ridge, both classes weighing the same, by Newton's method in the dual."""
    mean, deviation = features.double().mean(0), features.double().std(0) + 1e-6
    standard = (features.double() - mean) / deviation
    alike, count = standard @ standard.T, len(worn)
    weight = torch.where(worn > 0, count / (2 * worn.sum()), count / (2 * (1 - worn).sum()))
    dual, constant, one = torch.zeros_like(worn), torch.zeros((), dtype=torch.float64), torch.ones_like(worn)
    for _ in range(STEPS):
        odds = alike @ dual + constant
        likely = torch.sigmoid(odds)
        slope = (likely * (1 - likely)).clamp_min(1e-6)
        target = odds + (worn - likely) / slope
        matrix = alike + RIDGE * torch.diag(1 / (weight * slope))
        solved, ones = torch.linalg.solve(matrix, torch.stack([target, one], 1)).T
        constant = solved.sum() / ones.sum()
        dual = solved - constant * ones
    return mean, standard.T @ dual / deviation, constant
