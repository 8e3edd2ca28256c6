"""From what is measured on a face to how likely a person says "it has the thing now", and how good that score is.

The score is a logistic model. It is fitted, whenever it is needed, to 480 pictures that were graded by eye: results of
several methods and settings, things pasted at right and wrong places, faint, blurred or clear, unchanged and noisy
pictures. `face_labels.json` holds the grades (0 no, 1 partly, 2 took) and the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewriter.files import read_json

LABELS = Path(__file__).with_name("face_labels.json")
WEIGHT_PENALTY, BIAS_PENALTY, STEPS = 0.05, 0.3, 30  # of the fit: ridge, and steps of Newton's method
FEATURES = ("strength", "colour", "match gained", "faintness")  # see `face_measures.measured`
FOLDS, REPEATS = 4, 5  # of cross-validation


@dataclass(frozen=True)
class Score:
    """A logistic model: weights (f,) of the measurements that all edits share, and a bias for each edit."""

    weights: Tensor
    biases: dict[str, float]

    def __call__(self, name: str, features: Tensor) -> Tensor:
        """How likely a person says that the thing of an edit took, (n,), from measurements (n, f)."""
        return torch.sigmoid(features @ self.weights + self.biases[name])


@dataclass(frozen=True)
class Graded:
    """Graded pictures: measurements (n, f), grades (n,), the number of each picture's edit (n,), the edits' names."""

    features: Tensor
    grades: Tensor
    edits: Tensor
    names: tuple[str, ...]

    @property
    def design(self) -> Tensor:
        """The columns of the model: measurements, a constant, and one for each edit."""
        constant = torch.ones(len(self.grades), 1, dtype=torch.float64)
        return torch.cat([self.features, constant, torch.eye(len(self.names), dtype=torch.float64)[self.edits]], 1)


def labels() -> dict[str, Any]:
    """What was labelled by eye: who wears what, and the graded pictures."""
    found: dict[str, Any] = read_json(LABELS)
    return found


def graded() -> Graded:
    """All graded pictures."""
    entries = labels()["graded"]
    features = [torch.tensor(entry["features"], dtype=torch.float64) / 1000 for entry in entries.values()]
    grades = [torch.tensor([int(grade) for grade in entry["grades"]]) for entry in entries.values()]
    edits = torch.repeat_interleave(torch.arange(len(grades)), torch.tensor([len(each) for each in grades]))
    return Graded(torch.cat(features), torch.cat(grades), edits, tuple(entries))


def fitted() -> Score:
    """The score that fits all graded pictures best."""
    data = graded()
    solution = _fit(data.design, data.grades == 2).float()
    count = len(FEATURES)
    biases = (solution[count] + solution[count + 1 :]).tolist()
    return Score(solution[:count], dict(zip(data.names, biases, strict=True)))


def agreement() -> dict[str, float]:
    """How well the score agrees with the grades on pictures that it was not fitted to (cross-validation).

    `took` against the rest: accuracy, the same without the pictures graded "partly", the area under the ROC curve,
    Cohen's kappa, and the shares that took by eye and by the score.
    """
    data = graded()
    took, scores = data.grades == 2, _held_out(data)
    said, clear = scores > 0, data.grades != 1
    same, chance = (said == took).double().mean(), (said.double().mean() - 0.5) * (took.double().mean() - 0.5) * 2 + 0.5
    higher = (scores[took][:, None] > scores[~took]).double().mean()
    return {
        "pictures": len(took),
        "accuracy": float(same),
        "accuracy without partly": float((said == took)[clear].double().mean()),
        "area under the curve": float(higher),
        "kappa": float((same - chance) / (1 - chance)),
        "took by eye": float(took.double().mean()),
        "took by the score": float(said.double().mean()),
    }


def _held_out(data: Graded) -> Tensor:
    """The mean log odds of each picture from fits to the other folds, (n,)."""
    design, took, total = data.design, data.grades == 2, torch.zeros(len(data.grades), dtype=torch.float64)
    for repeat in range(REPEATS):
        fold = torch.randperm(len(took), generator=torch.Generator().manual_seed(repeat)) % FOLDS
        for i in range(FOLDS):
            total[fold == i] += design[fold == i] @ _fit(design[fold != i], took[fold != i])
    return total / REPEATS


def _fit(design: Tensor, took: Tensor) -> Tensor:
    """Logistic regression with a ridge, by Newton's method: rows (n, k), outcomes (n,) → coefficients (k,)."""
    count = len(FEATURES)
    penalty = torch.full((design.shape[1],), BIAS_PENALTY, dtype=torch.float64)
    penalty[:count], penalty[count] = WEIGHT_PENALTY, 0.0
    found = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(STEPS):
        likely = torch.sigmoid(design @ found)
        curvature = design.T @ (design * (likely * (1 - likely))[:, None]) + penalty.diag()
        found = found - torch.linalg.solve(curvature, design.T @ (likely - took.double()) + penalty * found)
    return found
