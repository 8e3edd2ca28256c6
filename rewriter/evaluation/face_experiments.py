"""The experiments on the face generator: each edit by today's method, by the paper's and by the default, judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rewriter.cache import Cache
from rewriter.evaluation.face_edits import NAMES, edit
from rewriter.evaluation.faces import FaceJudge, Faces, look
from rewriter.evaluation.methods import Methods, chosen, projected, solved
from rewriter.evaluation.metrics import Draw, Judge, Metric, Rows, ratios
from rewriter.evaluation.run import Experiment
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.pictures import stacked

METRICS = (
    Metric("took", better="more"),
    Metric("partly"),
    Metric("elsewhere", "1/255", "less"),
    Metric("on wearers", "1/255", "less"),
    Metric("on profiles", "1/255", "less"),
    Metric("seam", "1/255", "less"),
    Metric("faces", "per 1,000"),
    Metric("wearers", "per 1,000"),
    Metric("profiles", "per 1,000"),
)
SHOWN = ("took", "partly", "elsewhere", "on wearers", "on profiles", "seam")
FACES_KEPT = 256 << 20  # bytes of pictures whose landmarks are known
ON_SHEET, COLUMNS = 30, 10


METHODS: Methods = {
    "default": chosen,
    "least-squares, rank 1": partial(solved, method="least-squares", rank=1),
    "least-squares, rank 4": partial(solved, method="least-squares", rank=4),
    "projected": projected,
}


@dataclass(frozen=True)
class FaceRows:
    """Judges batches of faces for one edit; `looked` is shared by all edits, so that landmarks are found once."""

    generator: Generator
    name: str
    looked: Cache = field(default_factory=lambda: Cache(FACES_KEPT))

    def judge(self, seeds: Sequence[int]) -> FaceJudge:
        """The judge of some seeds."""
        faces: Faces = self.looked.get(tuple(seeds), lambda: look(self.generator, seeds))
        return FaceJudge(self.generator, self.name, faces=faces)

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Rows of `METRICS`."""
        z = latents(list(seeds), self.generator.zdim)
        found = self.judge(seeds).verdict(after(z), before(z))
        applies, worn, every = found.applicable, found.frontal & found.wears, torch.ones_like(found.frontal)
        seam = found.seam.nan_to_num(0.0)

        def over(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
            return values * where, where

        return ratios(
            {
                "took": over(found.took, applies),
                "partly": over(found.partly, applies),
                "elsewhere": over(found.elsewhere, applies),
                "on wearers": over(found.elsewhere, worn),
                "on profiles": over(found.elsewhere, ~found.frontal),
                "seam": over(seam, applies),
                "faces": (applies, every),
                "wearers": (worn, every),
                "profiles": (~found.frontal, every),
            }
        )

    def sheet(self, seeds: Sequence[int], before: Draw, after: Draw) -> Image.Image:
        """The first faces to which the thing applies, before above after, with what the judge says of each."""
        z = latents(list(seeds), self.generator.zdim)
        old, new = before(z).cpu(), after(z).cpu()
        found = self.judge(seeds).verdict(new, old)
        chosen = found.applicable.nonzero()[:ON_SHEET, 0].tolist()
        words = {i: "took" if found.took[i] else "partly" if found.partly[i] else "no" for i in chosen}
        return stacked([old[chosen], new[chosen]], [f"{seeds[i]} {words[i]}" for i in chosen], columns=COLUMNS)


def experiments(generator: Generator) -> list[Experiment]:
    """An experiment for each edit of faces."""
    looked = Cache(FACES_KEPT)
    made = []
    for name in NAMES:
        rows, title = FaceRows(generator, name, looked), f"faces get {name.replace('-', ' ')}"
        edits = partial(_edit, name)
        judge = Judge(METRICS, rows)
        made.append(
            Experiment(
                f"faces-{name}", judge, METHODS, edits, SHOWN, ("took", "elsewhere"), title=title, sheet=rows.sheet
            )
        )
    return made


def _edit(name: str, generator: Generator) -> list[Any]:
    return [edit(generator, name)]
