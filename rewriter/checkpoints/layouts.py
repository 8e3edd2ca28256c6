"""Names of tensors in other people's files: one table for each layout, for reading and for writing.

nvidia      mapping.fc0.weight, synthesis.b8.conv0.affine.bias …       StyleGAN2; ours
rosinality  style.1.weight, convs.0.conv.modulation.bias …             StyleGAN2
genforce    mapping.dense0.weight, synthesis.layer1.style.bias …       StyleGAN2
            layer0.weight, output3.bias …                              Progressive GAN
gandissect  layer1.conv.weight, layer1.wscale.b …                      Progressive GAN; ours
pytorch     main.0.weight, main.1.running_mean …                       DCGAN, of PyTorch's tutorial
huggan      model.0.weight, model.1.running_mean …                     DCGAN
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rewriter.checkpoints import CONDITIONAL
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.filters import TAPS
from rewriter.generators.proggan import ProgressiveGAN
from rewriter.generators.shapes import largest
from rewriter.generators.stylegan2 import SKIP, StyleGAN2

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Link:
    """One tensor under two names."""

    theirs: str
    ours: str
    before: int = 0  # how many more axes of length one theirs has in front
    after: int = 0  # and behind
    swap: bool = False  # theirs has the inputs in front of the outputs
    flip: bool = False  # theirs has both axes of the kernel reversed
    shift: float = 0.0  # ours is theirs plus this

    def read(self, value: Tensor) -> Tensor:
        """Theirs → ours; a tensor of an unexpected shape is left as it is, to be reported later."""
        core = value.shape[self.before : value.ndim - self.after]
        if value.ndim >= self.before + self.after and value.numel() == core.numel():
            value = value.reshape(core)
        return self._turned(value) + self.shift if self.shift else self._turned(value)

    def write(self, value: Tensor) -> Tensor:
        """Ours → theirs."""
        value = self._turned(value - self.shift if self.shift else value)
        return value.reshape((1,) * self.before + tuple(value.shape) + (1,) * self.after).contiguous()

    def _turned(self, value: Tensor) -> Tensor:
        value = value.transpose(0, 1) if self.swap and value.ndim >= 2 else value
        return value.flip(-1, -2) if self.flip and value.ndim >= 2 else value


@dataclass(frozen=True)
class Layout:
    """All that a file of one layout holds."""

    name: str
    links: tuple[Link, ...]  # its tensors; none if the names are ours
    filters: Mapping[str, tuple[float, int]] = field(default_factory=dict)  # name → gain, axes of length one in front
    unused: frozenset[str] = frozenset()  # names that may be there and have no effect
    skip: str = ""  # the filter that may be another than 1-3-3-1; it becomes part of the weights
    optional: frozenset[str] = frozenset()  # our names of tensors that the architecture can derive from others
    settings: Mapping[str, Any] = field(default_factory=dict)  # as the code that the files come from has them

    def read(self, state: State) -> dict[str, Tensor]:
        """Their tensors under our names; unknown ones keep theirs. InputError for a filter that we do not have."""
        found = {link.ours: link.read(state[link.theirs]) for link in self.links if link.theirs in state}
        for key in self.filters.keys() & state.keys():
            plane = state[key].squeeze()
            if plane.shape != (4, 4) or not torch.allclose(plane.float(), _filter(self.filters[key][0]), atol=1e-5):
                if key != self.skip or plane.shape != (4, 4):
                    raise InputError(f"{key} is not the filter 1-3-3-1: this model would be drawn wrongly here")
                found[SKIP] = plane
        known = {link.theirs for link in self.links} | self.filters.keys() | self.unused
        return found | {key: value for key, value in state.items() if key not in known}

    def write(self, state: State) -> dict[str, Tensor]:
        """Our tensors under their names, with the filters that their code expects; InputError if it has no such one."""
        if SKIP in state and not self.skip:
            raise InputError(f"{self.name} cannot store the filter of the skip connections: choose genforce")
        out = {link.theirs: link.write(state[link.ours]) for link in self.links if link.ours in state} or dict(state)
        for key, (gain, axes) in self.filters.items():
            plane = state[SKIP] if key == self.skip and SKIP in state else _filter(gain)
            out[key] = plane[(None,) * axes].contiguous()
        return out

    @property
    def names(self) -> dict[str, str]:
        """Our name → theirs."""
        return {link.ours: link.theirs for link in self.links}


def nvidia(levels: int, depth: int) -> Layout:
    """NVIDIA's PyTorch implementations: our names, and filters."""
    sides = [4 * 2**i for i in range(levels)]
    filters = [f"synthesis.b{side}{part}.resample_filter" for side in sides for part in ("", ".conv0", ".conv1")]
    return Layout("nvidia", (), {key: (1.0, 0) for key in filters if "b4.conv0" not in key})


def rosinality(levels: int, depth: int) -> Layout:
    """stylegan2-pytorch by rosinality."""
    links = [Link("latent_avg", "mapping.w_avg"), Link("input.input", "synthesis.b4.const", before=1)]
    links += [link for i in range(depth) for link in _pair(f"style.{i + 1}", f"mapping.fc{i}")]
    for number, ours in enumerate(_convolutions(levels)):
        theirs = f"convs.{number - 1}" if number else "conv1"
        links += [
            Link(f"{theirs}.conv.weight", f"{ours}.weight", before=1),
            *_pair(f"{theirs}.conv.modulation", f"{ours}.affine"),
            Link(f"{theirs}.noise.weight", f"{ours}.noise_strength", before=1),
            Link(f"{theirs}.activate.bias", f"{ours}.bias"),
            Link(f"noises.noise_{number}", f"{ours}.noise_const", before=2),
        ]
    for level in range(levels):
        theirs, ours = f"to_rgbs.{level - 1}" if level else "to_rgb1", f"synthesis.b{4 * 2**level}.torgb"
        links += [
            Link(f"{theirs}.conv.weight", f"{ours}.weight", before=1),
            *_pair(f"{theirs}.conv.modulation", f"{ours}.affine"),
            Link(f"{theirs}.bias", f"{ours}.bias", before=1, after=2),
        ]
    filters = [f"convs.{2 * i}.conv.blur.kernel" for i in range(levels - 1)]
    filters += [f"to_rgbs.{i}.upsample.kernel" for i in range(levels - 1)]
    return Layout("rosinality", tuple(links), dict.fromkeys(filters, (4.0, 0)), optional=frozenset({"mapping.w_avg"}))


def genforce(levels: int, depth: int) -> Layout:
    """GenForce's StyleGAN2: kernels that upsample are reversed, styles are stored without their 1."""
    const = Link("synthesis.early_layer.const", "synthesis.b4.const", before=1)
    links = [Link("truncation.w_avg", "mapping.w_avg"), const]
    links += [link for i in range(depth) for link in _pair(f"mapping.dense{i}", f"mapping.fc{i}")]
    for number, ours in enumerate(_convolutions(levels)):
        theirs = f"synthesis.layer{number}"
        links += [
            Link(f"{theirs}.weight", f"{ours}.weight", flip=ours.endswith("conv0")),
            Link(f"{theirs}.bias", f"{ours}.bias"),
            Link(f"{theirs}.noise_strength", f"{ours}.noise_strength"),
            Link(f"{theirs}.noise", f"{ours}.noise_const", before=2),
            *_pair(f"{theirs}.style", f"{ours}.affine", shift=1.0),
        ]
    for level in range(levels):
        theirs, ours = f"synthesis.output{level}", f"synthesis.b{4 * 2**level}.torgb"
        links += [*_pair(theirs, ours), *_pair(f"{theirs}.style", f"{ours}.affine", shift=1.0)]
    skip = "synthesis.upsample.kernel"
    filters = [f"synthesis.layer{2 * i + 1}.filter.kernel" for i in range(levels - 1)]
    return Layout("genforce", tuple(links), dict.fromkeys([*filters, skip], (4.0, 2)), skip=skip)


def gandissect(layers: int) -> Layout:
    """GAN Dissection's Progressive GAN: our names."""
    return Layout("gandissect", (), settings={"clamp": True})


def genforce_proggan(layers: int) -> Layout:
    """GenForce's Progressive GAN, counted from 0; the outputs of lower resolutions are not used."""
    last, side = layers // 2 - 1, 2 ** (layers // 2 + 1)
    blocks = {f"layer{i}": f"layer{i + 1}" for i in range(layers)} | {f"output{last}": f"output_{side}x{side}"}
    parts = {"weight": "conv.weight", "bias": "wscale.b"}
    links = [Link(f"{a}.{theirs}", f"{b}.{ours}") for a, b in blocks.items() for theirs, ours in parts.items()]
    lower = {f"output{i}.{part}" for i in range(last) for part in ("weight", "bias")}
    return Layout("genforce", tuple(links), unused=frozenset({"lod", *lower}))


def dcgan(name: str, module: str, layers: int) -> Layout:
    """A DCGAN as one sequence of modules: convolution, batch norm and ReLU, over and over."""
    links, numbers = [], [f"{module}.{3 * i + 1}" for i in range(layers)]
    for i, ours in enumerate([*(f"layer{i}.deconv" for i in range(1, layers + 1)), "output"]):
        weight, bias = _pair(f"{module}.{3 * i}", ours)
        links += [replace(weight, swap=True), bias]
    for i, theirs in enumerate(numbers, start=1):
        parts = ("weight", "bias", "running_mean", "running_var")
        links += [Link(f"{theirs}.{part}", f"layer{i}.norm.{part}") for part in parts]
    return Layout(name, tuple(links), unused=frozenset(f"{theirs}.num_batches_tracked" for theirs in numbers))


@dataclass(frozen=True)
class Published:
    """A layout that people publish an architecture in, for networks of any size."""

    name: str
    architecture: str
    marker: str  # matches a name in these files, and in no others
    sizes: Callable[[Iterable[str]], tuple[int, ...]]  # reads the arguments of `table` from the names in a file
    table: Callable[..., Layout]


def _sequential(name: str, module: str) -> Published:
    """A DCGAN in a sequence of modules that has this name."""
    pattern = rf"{module}\.(\d+)\."
    return Published(name, "dcgan", pattern, lambda keys: (largest(pattern, keys) // 3,), partial(dcgan, name, module))


PUBLISHED = (
    Published("nvidia", "stylegan2", StyleGAN2.pattern, StyleGAN2.sizes, nvidia),
    Published(
        "rosinality",
        "stylegan2",
        r"to_rgb1\.",
        lambda keys: (largest(r"convs\.(\d+)\.", keys) // 2 + 2, largest(r"style\.(\d+)\.", keys)),
        rosinality,
    ),
    Published(
        "genforce",
        "stylegan2",
        r"synthesis\.layer0\.",
        lambda keys: (
            (largest(r"synthesis\.layer(\d+)\.", keys) + 1) // 2 + 1,
            largest(r"mapping\.dense(\d+)\.", keys) + 1,
        ),
        genforce,
    ),
    Published("gandissect", "proggan", ProgressiveGAN.pattern, ProgressiveGAN.sizes, gandissect),
    Published(
        "genforce",
        "proggan",
        r"layer\d+\.(weight|bias)\Z",
        lambda keys: (largest(r"layer(\d+)\.", keys) + 1,),
        genforce_proggan,
    ),
    _sequential("pytorch", "main"),
    _sequential("huggan", "model"),
)
NAMES = tuple(dict.fromkeys(row.name for row in PUBLISHED))
UNSUPPORTED = {
    r"mapping\.embed\.|mapping\.label_weight": CONDITIONAL,
    r"synthesis\.(input\.|L\d+_)": "it is a StyleGAN3: its layers filter in Fourier space, and the method works on "
    "convolutions of StyleGAN2 and Progressive GAN",
    r"(g_)?synthesis\.(blocks\.|layer\d+\.(style\.dense|apply_noise|epilogue))|(generator\.)?progression\.\d+\.": "it "
    "is a StyleGAN1: its styles normalise features after the convolution, which is not supported",
    r"synthesis\.b\d+\.skip\.": "its synthesis network is residual, not one with skip connections",
    r"(main|model)\.(2|5|8|11|14|17|20)\.": "it has convolutions where a DCGAN's discriminator has them: give the "
    "generator's weights (netG)",
}


def layout_for(generator: Generator, name: str) -> Layout:
    """The table of a layout for a generator's sizes; InputError if its architecture has no such layout."""
    rows = {row.name: row for row in PUBLISHED if row.architecture == generator.architecture}
    if name not in rows:
        choices = " or ".join(rows) or "the form of this package, without a layout"
        raise InputError(f"{generator.name} cannot be written as {name!r}: choose {choices}")
    return rows[name].table(*generator.sizes(generator.state_dict()))


def remarks(generator: Generator, layout: str) -> list[str]:
    """What a file in this layout cannot hold of the generator."""
    if (clamp := generator.settings().get("conv_clamp")) is None:
        return []
    if layout == "nvidia":
        return [f"the clamp of the features is not stored: load it with conv_clamp={clamp:g} (--conv-clamp)"]
    return [f"{layout}'s code has no clamp: pictures differ where features exceed this generator's, {clamp:g}"]


def _convolutions(levels: int) -> list[str]:
    """The convolutions by our names, in order."""
    later = [f"synthesis.b{8 * 2**i}.{conv}" for i in range(levels - 1) for conv in ("conv0", "conv1")]
    return ["synthesis.b4.conv1", *later]


def _pair(theirs: str, ours: str, *, shift: float = 0.0) -> list[Link]:
    """A weight and its bias."""
    return [Link(f"{theirs}.weight", f"{ours}.weight"), Link(f"{theirs}.bias", f"{ours}.bias", shift=shift)]


def _filter(gain: float) -> Tensor:
    """The filter 1-3-3-1 on both axes, (4, 4), with the sum `gain`."""
    row = torch.tensor(TAPS) / sum(TAPS)
    return torch.outer(row, row) * gain
