"""Signs that a file was read wrongly: what its tensors cannot say shows in the weights' sizes and in the pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rewriter.generators.base import Generator
from rewriter.generators.mapping import MAPPING_RATE

SEEDS = range(4)  # the pictures to look at
FAR = 0.7  # powers of ten by which mapping weights may be larger or smaller than an untrained network's
BEYOND = 0.5  # share of the pixels beyond white or black: 0.4 % in the built-in generators
ALIKE = 0.02  # how pictures differ from each other, against contrast within each: 0.7 in the built-in generators
SMOOTH = 0.3  # correlation of neighbouring pixels: 0.95 in the built-in generators
ADVICE = ": compare with pictures of its authors; it may have been trained with layers that tensors do not show"
CLAMPED = "; a StyleGAN2-ADA needs --conv-clamp 256"
FIRST = "mapping.fc0.weight"


@torch.no_grad()
def doubts(generator: Generator, pictures: Tensor | None = None, *, mapping_rate: float | None = None) -> list[str]:
    """What speaks against a generator being drawn as it was trained, and the option that may mend it; often nothing.

    `pictures` (n, 3, H, W), of at least two seeds without truncation, are drawn if they are not given. `mapping_rate`:
    at which its file was read; None: the usual one.
    """
    found = [*_of_weights(generator, mapping_rate or MAPPING_RATE), *_of_latents(generator)]
    drawn = generator.sample(SEEDS) if pictures is None else pictures
    seen = _of_pictures(drawn)
    if seen and not found:
        seen[-1] += ADVICE + (CLAMPED if "conv_clamp" in generator.SETTINGS and not generator.settings() else "")
    return [*found, *seen]


def _of_weights(generator: Generator, rate: float) -> list[str]:
    """Mapping weights start with a standard deviation of one over their learning rate, and stay near it."""
    weight = generator.state_dict().get(FIRST)
    if weight is None or not weight.any():
        return []
    power = math.log10(float(weight.std())) + math.log10(MAPPING_RATE)
    if abs(power) < FAR:
        return []
    other = 10.0 ** round(math.log10(rate) - power)
    return [
        f"the mapping network's weights are {10**power:.2g} times as large as usual, as if it had been trained at a "
        f"learning rate of {other:g} instead of {rate:g}: convert the file with --mapping-rate {other:g}"
    ]


def _of_latents(generator: Generator) -> list[str]:
    """A Progressive GAN with labels reads them behind the latent, which has as many numbers as its first map."""
    first = next(iter(generator.layers.values()))
    more = first.in_channels - first.out_channels
    if generator.architecture != "proggan" or more <= 0:
        return []
    return [
        f"latents have {first.in_channels} numbers and the first map has {first.out_channels}, as if the last {more} "
        "were labels: if it is conditional, its pictures are wrong here"
    ]


def _of_pictures(pictures: Tensor) -> list[str]:
    """How pictures are unlike those of any trained generator."""
    if not bool(pictures.isfinite().all()):
        return ["some pixels are not numbers"]
    found = []
    beyond = float((pictures.abs() > 1).float().mean())
    if beyond > BEYOND:
        found.append(f"{beyond:.0%} of the pixels are brighter than white or darker than black")
    within = float(pictures.std((1, 2, 3)).mean())
    if within < 1e-3:
        found.append("the pictures show nothing")
    elif len(pictures) > 1 and float(pictures.std(0).mean()) < ALIKE * within:
        found.append("pictures of different seeds are all alike")
    if within >= 1e-3 and (smooth := _smoothness(pictures)) < SMOOTH:
        found.append(f"neighbouring pixels have hardly anything in common (correlation {smooth:.2f}), as in noise")
    return found


def _smoothness(pictures: Tensor) -> float:
    """The mean correlation of horizontal neighbours."""
    one, other = (
        part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (pictures[..., 1:], pictures[..., :-1])
    )
    return float(torch.nn.functional.cosine_similarity(one, other).mean())
