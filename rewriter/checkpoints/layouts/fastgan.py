"""FastGAN, whose convolutions are under spectral norm in every layout.

huggan           _init._layers.0._conv.weight, _upsample_8._layers.1._conv.weight, _sle_64._layers.1._conv.weight …
fastgan-pytorch  init.init.0.weight, feat_8.1.weight, se_64.main.1.weight …           of the original
projected-gan    synthesis.init.init.0.weight, synthesis.feat_8.1.weight …
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from rewriter.checkpoints.layouts.table import Layout, Link, Published, State
from rewriter.generators.base import Generator
from rewriter.generators.shapes import largest

SIDES = tuple(8 * 2**i for i in range(8))  # of the maps that blocks make: 8 … 1024
GATED = (64, 128, 256, 512)
DOES = {  # settings: what code does where they are on, and off
    "normalize": ("normalises latents", "does not normalise latents"),
    "tanh": ("passes pictures through tanh", "does not pass pictures through tanh"),
}
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
    undrawn: int = 0  # the side of a picture whose files have the block of 256 too, which is not drawn


def fastgan(name: str, names: Names, resolution: int, *twice: int) -> Layout:
    """A FastGAN whose blocks are sequences of modules. `twice`: the sides of those that convolve twice."""
    links, unused = _outputs(names, resolution), set[str]()
    drawn = frozenset(f"map{side}.noise{i}.noise" for side in twice if side <= resolution for i in (1, 2))
    for side in (4, *SIDES):
        block = [*_block(names, side, side in twice), *_gate(names, side)]
        numbers = {f"{link.theirs.removesuffix('.bias')}.num_batches_tracked" for link in block if ".norm" in link.ours}
        if side <= resolution:
            links, unused = [*links, *block], unused | numbers
        elif (side, resolution) == (256, names.undrawn):
            unused |= {link.theirs for link in block} | numbers
    settings = {"normalize": names.normalize, "tanh": resolution >= names.tanh}
    return Layout(name, tuple(links), unused=frozenset(unused), optional=drawn, settings=settings)


def _block(names: Names, side: int, twice: bool) -> Iterator[Link]:
    """The block that makes the map of this side."""
    block, ours = names.block.format(side) if side > 4 else names.start, f"map{side}"
    first = int(side > 4)  # a block begins with the doubling of the side, the start does not
    for number, conv, norm in [(1, 1, 3), (2, 5, 7)] if twice else [(1, first, first + 1)]:
        weight = f"{block}.{conv}{names.conv}.weight"
        yield Link(weight, f"{ours}.conv{number}.weight", swap=side == 4, spectral=True)
        for part in STATISTICS:
            yield Link(f"{block}.{norm}.{part}", f"{ours}.norm{number}.{part}")
        if twice:
            yield Link(f"{block}.{conv + 1}{names.noise}", f"{ours}.noise{number}.strength")


def _gate(names: Names, side: int) -> Iterator[Link]:
    """The gate of the map of this side."""
    for number, place in ((1, 1), (2, 3)) if side in GATED else ():
        weight = f"{names.gate.format(side)}.{place}{names.conv}.weight"
        yield Link(weight, f"gate{side}.conv{number}.weight", spectral=True)


def _outputs(names: Names, resolution: int) -> list[Link]:
    """The picture, and the one of 128 px beside it."""
    output = names.output.format(resolution)
    links = [Link(f"{output}.weight", "output.weight", spectral=True), Link(f"{output}.bias", "output.bias")]
    small = [Link(f"{names.small}.weight", "small.weight", spectral=True)] if resolution > 128 else []
    return links + small


def _sizes(names: Names, state: State) -> tuple[int, ...]:
    """Side of the picture, and the sides of the blocks that convolve twice, whose sequences are longer."""
    pattern = re.escape(names.block).replace(r"\{\}", "{}") + r"\."
    twice = [side for side in SIDES if any(re.match(pattern.format(side) + "[5-7]" + r"\.", key) for key in state)]
    resolution = largest(pattern.format(r"(\d+)"), state, most=SIDES[-1])
    return (names.undrawn if resolution == 256 and _stops_early(names, state) else resolution, *twice)


def _stops_early(names: Names, state: State) -> bool:
    """Whether the output reads the map of 128 places a side, although there is a block for 256."""
    blocks = [f"{names.block.format(side)}.1{names.conv}" for side in (128, 256)]
    before, last, output = (state.get(f"{name}.weight") for name in (*blocks, names.output))
    if before is None or last is None or output is None or not before.ndim == last.ndim == output.ndim == 4:
        return False
    return bool(names.undrawn) and len(last) != 2 * output.shape[1] == len(before)


def remarks(generator: Generator, layout: Layout) -> list[str]:
    """What a file in this layout cannot hold of the generator."""
    names, projected = generator.state_dict().keys(), layout.name == "projected-gan"
    differ = {key: on for key, on in layout.settings.items() if generator.settings()[key] != on}
    said = [f"the code {DOES[key][not on]}, unlike this generator: pictures differ" for key, on in differ.items()]
    if "output.bias" in names and not projected:
        said.append("the code has no bias in its output, unlike this generator: pictures differ")
    said.append("spectral norms are set to one, which is right for drawing: do not train on from this file")
    if any(name.endswith(".strength") for name in names):
        said.append("the code draws its noise anew for every picture, which is fixed here")
    if ("small.weight" in names) is projected or "map256.conv1.weight" not in names:
        said.append("not all tensors are those that the code has: load it with strict=False")
    return said


def _published(name: str, names: Names) -> Published:
    """A layout with these names."""
    marker = re.escape(names.start) + r"\."
    return Published(name, "fastgan", partial(fastgan, name, names), marker, partial(_sizes, names))


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
    undrawn=128,
)
PUBLISHED = (
    _published("huggan", HUGGAN),
    _published("fastgan-pytorch", ORIGINAL),
    _published("projected-gan", PROJECTED),
)
