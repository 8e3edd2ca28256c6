"""Spectral norm (Miyato et al. 2018): files that hold, instead of a weight W, a matrix M and two vectors.

W is M over σ = u · (M v), with u and v as the last step of the training left them. That is all that W is outside of
training, so it is computed once, on reading.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rewriter.errors import InputError

FORMS = (  # ends of the names of M, u and v; then of W
    ("weight_orig", "weight_u", "weight_v", "weight"),
    ("parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v", "weight"),
)


def folded(state: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """The state dict with W in place of M, u and v; InputError if their sizes do not belong together.

    Without `keep`, each M becomes W where it lies.
    """
    found = dict(state)
    for ends in FORMS:
        for name in [name for name in state if name.endswith(ends[0])]:
            *parts, whole = (name.removesuffix(ends[0]) + end for end in ends)
            if all(part in found for part in parts):
                matrix, u, v = (found.pop(part).float() for part in parts)
                sigma = _sigma(name, matrix, u, v)
                found[whole] = matrix / sigma if keep else matrix.div_(sigma)
    return found


def _sigma(name: str, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The norm that u and v stand for. A transposed convolution has its outputs on axis 1.

    Where the sizes leave open which axis u is of, it is the one for which u and v are more of a singular pair.
    """
    sigmas = []
    for axis in (0, 1) if matrix.ndim > 1 and u.ndim == v.ndim == 1 else ():
        if matrix.shape[axis] == len(u) and matrix.numel() == len(u) * len(v):
            sigmas.append(torch.dot(u, torch.mv(matrix.transpose(0, axis).flatten(1), v)))
    if not sigmas:
        shapes = ", ".join(f"{tuple(part.shape)}" for part in (matrix, u, v))
        raise InputError(f"{name[:80]} and the vectors of its spectral norm do not fit each other: {shapes}")
    return max(sigmas, key=float)


def normed(name: str, weight: Tensor, *, axis: int) -> dict[str, Tensor]:
    """W as M, u and v with σ = 1 to the bit: M is W; u and v pick its largest number, times its inverse.

    They are for drawing: training would begin by replacing them, and W with it. InputError if W is zero everywhere.
    """
    rows = weight.transpose(0, axis).flatten(1)
    row, column = divmod(int(rows.abs().argmax()), rows.shape[1])
    number = rows[row, column]
    if not number:
        raise InputError(f"{name} is zero everywhere, which spectral norm cannot hold: choose another layout")
    u, v = rows.new_zeros(rows.shape[0]), rows.new_zeros(rows.shape[1])
    v[column] = number.reciprocal()
    u[row] = (number * v[column]).reciprocal()  # makes up for the rounding
    return {f"{name}_orig": weight, f"{name}_u": u, f"{name}_v": v}
