"""FastGAN, whose convolutions are under spectral norm in every layout.

huggan           _init._layers.0._conv.weight, _upsample_8._layers.1._conv.weight, _sle_64._layers.1._conv.weight …
fastgan-pytorch  init.init.0.weight, feat_8.1.weight, se_64.main.1.weight …           of the original
projected-gan    synthesis.init.init.0.weight, synthesis.feat_8.1.weight …
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from rewriter.checkpoints.layouts.table import Layout, Link, Published
from rewriter.generators.shapes import largest

SIDES = tuple(8 * 2**i for i in range(8))  # of the maps that blocks make: 8 … 1024
GATED = (64, 128, 256, 512)
STATISTICS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Names:
    """What a layout calls the parts of a FastGAN; {} stands for a side."""

    start: str
    block: str
    gate: str
    output: str
    small: str
    conv: str = ""  # behind the number of a module, where that holds a convolution
    noise: str = ".weight"
    normalize: bool = False
    tanh: int = 1  # the least side of a picture that passes through tanh


def fastgan(name: str, names: Names, resolution: int, *twice: int) -> Layout:
    """A FastGAN whose blocks are sequences of modules. `twice`: the sides of those that convolve twice."""
    places = list(_places(names, resolution, twice))
    links, unused = list(_outputs(names, resolution)), set[str]()
    for conv, noise, norm, ours, number in places:
        links.append(Link(f"{conv}.weight", f"{ours}.conv{number}.weight", swap=ours == "map4", spectral=True))
        links += [Link(f"{norm}.{part}", f"{ours}.norm{number}.{part}") for part in STATISTICS]
        links += [Link(noise, f"{ours}.noise{number}.strength")] if noise else []
        unused.add(f"{norm}.num_batches_tracked")
    for side in (side for side in GATED if side <= resolution):
        for at, number in ((1, 1), (3, 2)):
            gate = f"{names.gate.format(side)}.{at}{names.conv}.weight"
            links.append(Link(gate, f"gate{side}.conv{number}.weight", spectral=True))
    drawn = frozenset(f"{ours}.noise{number}.noise" for _, noise, _, ours, number in places if noise)
    settings = {"normalize": names.normalize, "tanh": resolution >= names.tanh}
    return Layout(name, tuple(links), unused=frozenset(unused), optional=drawn, settings=settings)


def _places(names: Names, resolution: int, twice: tuple[int, ...]) -> Iterator[tuple[str, str, str, str, int]]:
    """Their names of each convolution, its noise ("" without) and norm; our block, and which of its convolutions."""
    yield f"{names.start}.0{names.conv}", "", f"{names.start}.1", "map4", 1
    for side in (side for side in SIDES if side <= resolution):
        block, ours = names.block.format(side), f"map{side}"
        if side not in twice:
            yield f"{block}.1{names.conv}", "", f"{block}.2", ours, 1
            continue
        for number, at in ((1, 1), (2, 5)):
            yield f"{block}.{at}{names.conv}", f"{block}.{at + 1}{names.noise}", f"{block}.{at + 2}", ours, number


def _outputs(names: Names, resolution: int) -> Iterator[Link]:
    """The picture, and the one of 128 px beside it."""
    output = names.output.format(resolution)
    yield Link(f"{output}.weight", "output.weight", spectral=True)
    yield Link(f"{output}.bias", "output.bias")
    if resolution > 128:
        yield Link(f"{names.small}.weight", "small.weight", spectral=True)


def _sizes(block: str, names: Iterable[str]) -> tuple[int, ...]:
    """Side of the picture, and the sides of the blocks that convolve twice, whose sequences are longer."""
    pattern, names = re.escape(block).replace(r"\{\}", "{}"), list(names)
    later = pattern.format("{}") + r"\.[5-7]\."
    twice = [side for side in SIDES if any(re.match(later.format(side), name) for name in names)]
    return (largest(pattern.format(r"(\d+)") + r"\.", names, most=SIDES[-1]), *twice)


def _published(name: str, names: Names) -> Published:
    """A layout with these names."""
    marker = re.escape(names.start) + r"\."
    return Published(name, "fastgan", partial(fastgan, name, names), marker, partial(_sizes, names.block))


HUGGAN = Names(
    "_init._layers",
    "_upsample_{}._layers",
    "_sle_{}._layers",
    "_out_{}.0._conv",
    "_out_128.0._conv",
    "._conv",
    "._weight",
)
ORIGINAL = Names("init.init", "feat_{}", "se_{}.main", "to_big", "to_128", tanh=1024)
PROJECTED = Names(
    "synthesis.init.init",
    "synthesis.feat_{}",
    "synthesis.se_{}.main",
    "synthesis.to_big",
    "synthesis.to_128",
    normalize=True,
    tanh=2048,
)
PUBLISHED = (
    _published("huggan", HUGGAN),
    _published("fastgan-pytorch", ORIGINAL),
    _published("projected-gan", PROJECTED),
)
