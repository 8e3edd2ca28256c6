"""StyleGAN3 (Karras et al. 2021), configurations T and R: Fourier features → modulated convolutions → picture.

State names are those of NVIDIA's PyTorch implementation; `layer5` is its L5_84_512, whatever the numbers in that name.
The memory is the convolution with its demodulation and bias, so it is linear: the non-linearity, which is applied at a
higher sampling rate between two filters, belongs to `step`. All maps reach ten cells beyond the picture; a convolution
of 3×3 writes a map that is a cell wider on each side, so its keys have a border of zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.errors import InputError
from rewriter.generators.base import CACHED, Generator
from rewriter.generators.layer import Features, LayerInfo, LinearMemory, random_weight
from rewriter.generators.mapping import GAIN, SLOPE, Dense, MappingNetwork
from rewriter.generators.shapes import Shapes, largest

MARGIN, CROPPED = 10, 2  # cells of a map beyond the picture, on each side; the last two convolutions write none
BAND = 2.0  # the highest frequency of the input, in periods a picture
TAPS = 6  # of a filter, for each factor that the sampling rate changes by
CLAMP, OUTPUT_SCALE = 256.0, 0.25
UNMOVED = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
RATES = tuple(2**i for i in range(3, 11))
GOOD = {"structure": 32, "objects": 64, "texture": 128}  # sampling rates of the first layers to try
FILTERS = 4500  # operations of a convolution that take as long as what follows it at one cell of one map
TOGETHER = 16  # channels that are filtered together on a CPU: five times as fast as all at once, see `filtered`


@dataclass(frozen=True)
class StyleGAN3Config:
    """Architecture: features that L0, L1 … write, and the sampling rates of these maps, in cells a picture.

    The last convolution writes the picture: it has 3 features, or 1, and the rate is the resolution.
    """

    channels: Sequence[int]
    rates: Sequence[int]
    kernel: int = 3  # 1 in configuration R
    radial: int = 0  # in how many of the first layers the map is reduced by a filter (taps, taps); else (taps,)
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2

    def __post_init__(self) -> None:
        rates, count = list(self.rates), len(self.channels)
        known = all(rate in RATES for rate in rates) and rates == sorted(rates) and len(set(rates[-CROPPED:])) == 1
        if not known or not CROPPED < count == len(rates) <= 64:
            raise InputError(
                f"its {count} convolutions have the sampling rates {rates[:20]}: a StyleGAN3 has three or more, whose "
                f"rates grow by powers of two from {RATES[0]} or more to the resolution, at most {RATES[-1]}"
            )
        if min(self.channels) < 1:
            raise InputError(f"its convolutions have {list(self.channels)[:20]} features, expected at least one each")
        if self.channels[-1] not in (1, 3) or self.kernel not in (1, 3):
            raise InputError(
                f"its pictures have {self.channels[-1]} channels and its kernels {self.kernel} taps, expected 3 or 1"
            )

    @classmethod
    def published(
        cls, resolution: int, *, radial: bool = False, base: int = 32768, most: int = 512, count: int = 14
    ) -> StyleGAN3Config:
        """The sizes that NVIDIA's code chooses for `count` convolutions before the last.

        `base` and `most` limit the channels of configuration T. `radial`: configuration R, with twice as many.
        """
        grown = [min(i / (count - CROPPED), 1.0) for i in range(count + 1)]
        cutoffs = [BAND * (resolution / 2 / BAND) ** share for share in grown]
        first, last = 2**2.1, resolution / 2 * 2**0.3
        stopbands = [first * (last / first) ** share for share in grown]
        rates = [2 ** math.ceil(math.log2(min(2 * stop, resolution))) for stop in stopbands]
        times = 2 if radial else 1
        channels = [round(min(times * base / 2 / cutoff, times * most)) for cutoff in cutoffs]
        return cls((*channels[:-1], 3), rates, 1 if radial else 3, count - CROPPED if radial else 0)

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels."""
        return self.rates[-1]

    @property
    def sizes(self) -> list[int]:
        """Sides of the maps that L0, L1 … write."""
        return [rate + 2 * MARGIN for rate in self.rates[:-CROPPED]] + [self.resolution] * CROPPED

    @property
    def names(self) -> list[str]:
        """The convolutions as NVIDIA names them."""
        parts = zip(self.sizes, self.channels, strict=True)
        return [f"L{i}_{size}_{channels}" for i, (size, channels) in enumerate(parts)]


class FourierInput(nn.Module):
    """Latents w (n, w_dim) → the first map (n, channels, size, size): waves, turned and moved as w says."""

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, channels: int, w_dim: int, *, rate: int):
        super().__init__()
        self.weight = nn.Parameter(random_weight(channels, channels))
        self.affine = Dense(w_dim, 4)  # cosine, sine, right, down
        self.register_buffer("transform", torch.tensor(UNMOVED))  # of points of the picture
        self.register_buffer("freqs", random_weight(channels, 2))
        self.register_buffer("phases", random_weight(channels))
        self.rate, self.size = rate, rate + 2 * MARGIN

    def forward(self, w: Tensor) -> Tensor:
        """Waves of the transformed frequencies, mixed by the weight."""
        turn, shift = self.affine(w).split(2, 1)
        length = turn.norm(dim=1, keepdim=True)
        (cosine, sine), shift = (turn / length).unbind(1), shift / length
        rotation = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        moved = torch.cat([rotation, -rotation @ shift[:, :, None]], 2) @ self.transform  # the upper two rows
        phases = self.phases + (self.freqs @ moved[:, :, 2:])[:, :, 0]
        freqs = self.freqs @ moved[:, :, :2]
        amplitudes = (1 - (freqs.norm(dim=2) - BAND) / (self.rate / 2 - BAND)).clamp(0, 1)
        at = (torch.arange(self.size, device=w.device) - (self.size - 1) / 2) / self.rate
        across, down = freqs[:, :, :, None, None].unbind(2)
        waves = torch.sin(2 * math.pi * (across * at + down * at[:, None] + phases[:, :, None, None]))
        weight = self.weight / math.sqrt(len(self.weight))
        return F.conv2d(waves * amplitudes[:, :, None, None], weight[:, :, None, None])


class Modulated(nn.Module):
    """The parts of a modulated convolution: weight, bias, what makes styles of w, and the mean square of its input."""

    weight: nn.Parameter
    magnitude_ema: Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, *, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(random_weight(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.register_buffer("magnitude_ema", torch.ones([]))

    def modulate(self, x: Tensor, style: Tensor) -> Tensor:
        """Features (n, in, h, w), scaled to a mean square of one and by the styles (n, in)."""
        return x * (style * self.magnitude_ema.rsqrt())[:, :, None, None]


class FilteredConv(Modulated, LinearMemory):
    """A modulated convolution: values = demodulated response + bias; then what `filtered` makes of them."""

    up_filter: Tensor
    down_filter: Tensor

    def __init__(self, inputs: int, outputs: int, config: StyleGAN3Config, number: int):
        super().__init__(inputs, outputs, config.w_dim, kernel=config.kernel)
        rates = config.rates[max(number - 1, 0)], config.rates[number]
        high = 2 * max(rates)  # the rate of the non-linearity
        self.up, self.down = high // rates[0], high // rates[1]
        read = rates[0] + 2 * MARGIN + config.kernel - 1
        lacking = TAPS * (self.up + self.down) - 1 + (config.sizes[number] - 1) * self.down - read * self.up
        before = (lacking + self.up) // 2
        self.padding = before, lacking - before  # rows of zeros, at the rate of the non-linearity; negative: fewer rows
        self.register_buffer("up_filter", low_pass(TAPS * self.up))
        self.register_buffer("down_filter", low_pass(TAPS * self.down, separable=number >= config.radial))

    def response(self, keys: Tensor, weight: Tensor) -> Tensor:
        """(n, c, h, w) → (n, o, h, w)."""
        return F.conv2d(keys, weight, padding=weight.shape[-1] // 2)

    def offset(self) -> Tensor:
        """The bias."""
        return self.bias[:, None, None]

    def filtered(self, values: Tensor) -> Tensor:
        """Values (n, out, h, w) → features (n, out, h', w'): leaky ReLU and clamp between two filters.

        A CPU does a few channels and rows at a time, so that their maps stay in its cache.
        """
        together = TOGETHER if values.device.type == "cpu" else values.shape[1]
        return torch.cat([self._filtered(part) for part in values.split(together, 1)], 1)

    def _filtered(self, values: Tensor) -> Tensor:
        high, taps = oversample(values, self.up_filter, self.up, axis=2, padding=self.padding), len(self.down_filter)
        size = (high.shape[2] - taps) // self.down + 1  # both maps are square
        rows = max(1, CACHED // (high[:, :, : self.down, 0].numel() * high.shape[2])) if values.is_cpu else size
        strips = [high[:, :, i * self.down : (i + rows - 1) * self.down + taps] for i in range(0, size, rows)]
        return torch.cat([self._bent(strip) for strip in strips], 2)

    def _bent(self, x: Tensor) -> Tensor:
        x = oversample(x, self.up_filter, self.up, axis=3, padding=self.padding)
        return decimate(F.leaky_relu(x, SLOPE).mul_(GAIN).clamp_(-CLAMP, CLAMP), self.down_filter, self.down)


class ToRGB(Modulated):
    """Features (n, in, h, w) and latents w → the picture (n, colours, h, w); not demodulated."""

    def __init__(self, inputs: int, outputs: int, w_dim: int):
        super().__init__(inputs, outputs, w_dim, kernel=1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Modulate, project to the colours, add the bias, clamp."""
        style = self.affine(w) / math.sqrt(x.shape[1])
        y = F.conv2d(self.modulate(x, style), self.weight, self.bias)
        return y.clamp(-CLAMP, CLAMP) * OUTPUT_SCALE


class StyleGAN3(Generator):
    """A StyleGAN3 generator, configuration T or R, of any size."""

    architecture = "stylegan3"
    kind = "StyleGAN3"
    unseen = "features clamped at 256, maps that reach ten cells beyond the picture, and a first cutoff of 2"
    pattern = r"synthesis\.L\d+_\d+_\d+\."
    leak = SLOPE

    def __init__(self, config: StyleGAN3Config, *, name: str = "stylegan3"):
        super().__init__()
        self.config, self.name = config, name
        self.kind = f"StyleGAN3 {'T' if config.kernel > 1 else 'R'}"
        self.zdim, self.resolution = config.z_dim, config.resolution
        self.mapping = MappingNetwork(config.z_dim, config.w_dim, config.mapping_layers)
        self.synthesis = nn.Module()
        self.synthesis.add_module("input", FourierInput(config.channels[0], config.w_dim, rate=config.rates[0]))
        self.layers: dict[str, LayerInfo] = {}
        inputs, rate, margin = config.channels[0], config.rates[0], MARGIN + config.kernel // 2
        for i, outputs in enumerate(config.channels[:-1]):
            self.synthesis.add_module(config.names[i], FilteredConv(inputs, outputs, config, i))
            side = rate + 2 * margin
            self.layers[f"layer{i}"] = LayerInfo(f"layer{i}", inputs, outputs, config.kernel, side, side, margin)
            inputs, rate = outputs, config.rates[i]
        self.synthesis.add_module(config.names[-1], ToRGB(inputs, config.channels[-1], config.w_dim))
        self.advice = _advice(self.layers)
        self.requires_grad_(False)

    @classmethod
    def from_shapes(cls, shapes: Shapes, **settings: Any) -> StyleGAN3:
        """Channels and rates from the names, the rest from shapes."""
        found = (re.match(r"synthesis\.L(\d{1,2})_(\d{1,5})_(\d{1,5})\.weight\Z", name) for name in shapes.state)
        rows = sorted(tuple(map(int, match.groups())) for match in found if match)
        if [number for number, *_ in rows] != list(range(len(rows))) or not rows:
            raise InputError("its convolutions are not numbered from L0 on: is the file whole?")
        _, sizes, channels = zip(*rows, strict=True)
        rates = [size - 2 * MARGIN for size in sizes[:-CROPPED]] + list(sizes[-CROPPED:])
        names = [f"synthesis.L{number}_{size}_{width}" for number, size, width in rows]
        z_dim, w_dim = (shapes.size("mapping.fc0.weight", axis, rank=2) for axis in (1, 0))
        depth = largest(r"mapping\.fc(\d+)\.", shapes.state) + 1
        filters = [shapes.state.get(f"{name}.down_filter") for name in names[:-1]]
        radial = sum(each is not None and each.ndim == 2 for each in filters)
        kernel = shapes.size(f"{names[0]}.weight", 2, rank=4)
        return cls(StyleGAN3Config(channels, rates, kernel, radial, z_dim, w_dim, depth))

    def memory(self, layer: str) -> FilteredConv:
        """The convolution of that name."""
        module = self.synthesis.get_submodule(self.config.names[_number(self.layer(layer).name)])
        assert isinstance(module, FilteredConv)
        return module

    def hold(self, layer: str, units: Tensor, levels: Tensor, base: Generator) -> None:
        """Rows of W become zero, which demodulation leaves zero, and the bias gives the level."""
        memory = self.memory(layer)
        weight, bias = memory.weight.clone(), memory.bias.clone()
        weight[units], bias[units] = 0.0, levels
        memory.weight, memory.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))

    def operations_of(self, info: LayerInfo) -> int:
        """Those of the convolution, and as many more as take the time of the filters on a CPU."""
        return super().operations_of(info) + FILTERS * info.out_channels * info.key_resolution**2

    def receptive_field(self, layer: str) -> int:
        """How far a key of this layer reaches in the picture, at most: kernels, and half of each filter."""
        total, config = 0.0, self.config
        for i in range(_number(self.layer(layer).name), len(self.layers)):
            read, written = config.rates[max(i - 1, 0)], config.rates[i]
            total += (config.kernel // 2 + TAPS / 2) / read + TAPS / 2 / written
        return math.ceil(total * self.resolution)

    def embed(self, z: Tensor, truncation: float) -> Tensor:
        """The mapping network: z (n, z_dim) → truncated w (n, w_dim)."""
        w: Tensor = self.mapping(z)
        average: Tensor = self.mapping.get_buffer("w_avg")
        return w if truncation == 1 else average + truncation * (w - average)

    def spread(self, latents: Tensor) -> Tensor:
        """W (n, w_dim) → (n, layers + 2, w_dim): for the input, each layer, and the last convolution."""
        return latents[:, None].repeat(1, len(self.layers) + 2, 1)

    def enter(self, latents: Tensor) -> Features:
        """The waves that w (n, w_dim) or (n, layers + 2, w_dim) chooses, modulated."""
        return self._enter(0, self.synthesis.get_submodule("input")(_part(latents, 0)), latents)

    def _enter(self, number: int, x: Tensor, w: Tensor) -> Features:
        layer = f"layer{number}"
        memory = self.memory(layer)
        style = memory.affine(_part(w, number + 1))
        keys = F.pad(memory.modulate(x, style), (self.config.kernel // 2,) * 4)
        return Features(layer, keys, style, w)

    def step(self, features: Features, values: Tensor) -> Features | Tensor:
        """The filtered leaky ReLU; then the next layer's style modulates it, or the last convolution draws it."""
        x, w, number = self.memory(features.layer).filtered(values), features.w, _number(features.layer) + 1
        assert w is not None
        if number < len(self.layers):
            return self._enter(number, x, w)
        picture: Tensor = self.synthesis.get_submodule(self.config.names[-1])(x, _part(w, number + 1))
        return picture.expand(-1, 3, -1, -1)


def _number(layer: str) -> int:
    return int(layer.removeprefix("layer"))


def _part(w: Tensor, number: int) -> Tensor:
    """The latents (n, w_dim) of the input (0), of layer0 (1), and so on."""
    return w if w.ndim == 2 else w[:, number]


def _advice(layers: Mapping[str, LayerInfo]) -> dict[str, str]:
    """The first layers to try, by the sampling rates of their keys; those that the generator has."""
    firsts = {info.key_resolution - 2 * info.margin: name for name, info in reversed(list(layers.items()))}
    return {good: firsts[rate] for good, rate in GOOD.items() if rate in firsts}


# --- filters ---


def low_pass(taps: int, *, separable: bool = True) -> Tensor:
    """A filter (taps,) or (taps, taps) with the sum 1, for random weights; those of a file are as they were designed.

    It is made of numbers of Python, because arithmetic on the meta device would import half of torch.
    """
    bell = [(1 - math.cos(2 * math.pi * (i + 0.5) / taps)) / taps for i in range(taps)]
    return torch.tensor(bell if separable else [[a * b for b in bell] for a in bell])


def oversample(x: Tensor, kernel: Tensor, factor: int, *, axis: int, padding: tuple[int, int]) -> Tensor:
    """(n, c, h, w) → larger maps: `factor` - 1 zeros after each row, `padding`, a filter (taps,); the gain is factor.

    `padding` is less than the taps: what it adds at most is what a transposed convolution adds.
    """
    length = x.shape[axis] * factor + sum(padding) - len(kernel) + 1
    before = len(kernel) - 1 - padding[0]  # rows of the transposed convolution that are not kept, at the start
    after = (x.shape[axis] - 1) * factor + len(kernel) - before - length
    spared = min(before, after)
    taps = _along(axis, kernel * factor).expand(x.shape[1], 1, -1, -1)
    stride, cut = _pair(axis, factor, 1), _pair(axis, spared, 0)
    full = F.conv_transpose2d(x, taps, stride=stride, padding=cut, groups=x.shape[1])
    return full.narrow(axis, before - spared, length)


def decimate(x: Tensor, kernel: Tensor, factor: int) -> Tensor:
    """(n, c, h, w) → one cell in `factor` on both axes, after a filter (taps,) on both, or one (taps, taps)."""
    if kernel.ndim == 2:
        return F.conv2d(x, kernel.flip(0, 1).expand(x.shape[1], 1, -1, -1), stride=factor, groups=x.shape[1])
    for axis in (2, 3):
        taps = _along(axis, kernel.flip(0)).expand(x.shape[1], 1, -1, -1)
        x = F.conv2d(x, taps, stride=_pair(axis, factor, 1), groups=x.shape[1])
    return x


def _along(axis: int, kernel: Tensor) -> Tensor:
    """A filter (taps,) as (taps, 1) or (1, taps)."""
    return kernel[:, None] if axis == 2 else kernel[None]


def _pair(axis: int, along: int, across: int) -> tuple[int, int]:
    return (along, across) if axis == 2 else (across, along)
