"""Published layouts → canonical generators: architecture from names and shapes, every key accounted for.

nvidia      mapping.fc0.weight, synthesis.b8.conv0.affine.bias …   (StyleGAN2, also with conv_clamp)
rosinality  style.1.weight, convs.0.conv.weight …                  (StyleGAN2)
gandissect  layer1.conv.weight, layer1.wscale.b …                  (Progressive GAN)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.filters import TAPS
from rewriter.generators.proggan import ProgressiveGAN, ProgressiveGANConfig
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config

State = Mapping[str, Tensor]


def convert(state: State, *, conv_clamp: float | None = None, clamp: bool = True, name: str = "model") -> Generator:
    """State dict of a known layout → a generator, on the CPU, in float32.

    Args:
        state: the tensors by their published names.
        conv_clamp: StyleGAN2's clamp of features and pictures; it cannot be seen in a state dict.
        clamp: whether a Progressive GAN's pictures are cut to [-1, 1], as the paper's are.
        name: what to call the generator.

    Raises:
        InputError: an unknown layout; or missing, unexpected, misshapen or non-finite tensors, each named.
    """
    if any(key.startswith("synthesis.b4.") for key in state):
        return _stylegan2(dict(state), conv_clamp, name)
    if any(key.startswith("to_rgb1.") for key in state):
        return _stylegan2(_from_rosinality(state), conv_clamp, name)
    if any(re.match(r"layer\d+\.(conv|wscale)\.", key) for key in state):
        return _proggan(dict(state), clamp, name)
    shown = ", ".join(list(state)[:4]) or "nothing"
    raise InputError(f"unknown checkpoint layout (it begins with {shown}); known: nvidia, rosinality, gandissect")


def _stylegan2(state: dict[str, Tensor], conv_clamp: float | None, name: str) -> Generator:
    for key in [key for key in state if key.endswith("resample_filter")]:
        _check_filter(key, state.pop(key), gain=1.0)
    sides = [4 * 2**i for i in range(_largest(r"synthesis\.b(\d+)\.", state).bit_length() - 2)]
    depth = _largest(r"mapping\.fc(\d+)\.", state) + 1
    channels = {side: _size(state, f"synthesis.b{side}.conv1.weight", 0, rank=4) for side in sides}
    z_dim, w_dim = (_size(state, "mapping.fc0.weight", axis, rank=2) for axis in (1, 0))
    config = StyleGAN2Config(channels, z_dim, w_dim, depth, conv_clamp)
    return _fill(lambda: StyleGAN2(config, name=name), state)


def _proggan(state: dict[str, Tensor], clamp: bool, name: str) -> Generator:
    count = _largest(r"layer(\d+)\.", state)
    if count % 2 or not 2 <= count <= 18:
        raise InputError(f"a Progressive GAN has an even number of layers up to 18, not {count}: is the file whole?")
    channels = tuple(_size(state, f"layer{i}.conv.weight", 0, rank=4) for i in range(1, count + 1))
    config = ProgressiveGANConfig(channels, _size(state, "layer1.conv.weight", 1, rank=4), clamp)
    return _fill(lambda: ProgressiveGAN(config, name=name), state)


def _largest(pattern: str, state: State) -> int:
    """The largest number below 2048 that stands at a place of the key names; 0 if there is none."""
    numbers = [int(match[1]) for key in state if (match := re.match(pattern, key)) and len(match[1]) < 5]
    return max([number for number in numbers if number < 2048], default=0)


def _size(state: State, key: str, axis: int, *, rank: int) -> int:
    """One side of a weight that tells the architecture."""
    if key not in state:
        raise InputError(f"the checkpoint does not fit its architecture: missing {key}")
    if state[key].ndim != rank:
        raise InputError(f"the checkpoint does not fit its architecture: {key} is {tuple(state[key].shape)}")
    return state[key].shape[axis]


def _fill(build: Callable[[], Generator], state: State) -> Generator:
    """Build without allocating weights, then take the tensors as they are; strict, each difference by name."""
    with torch.device("meta"):
        generator = build()
    wanted = {key: tuple(value.shape) for key, value in generator.state_dict().items()}
    faults = [f"missing {key}" for key in wanted if key not in state]
    faults += [f"unexpected {key}" for key in state if key not in wanted]
    for key in wanted.keys() & state.keys():
        if tuple(state[key].shape) != wanted[key]:
            faults.append(f"{key} is {tuple(state[key].shape)} instead of {wanted[key]}")
        elif not bool(state[key].isfinite().all()):
            faults.append(f"{key} holds NaN or infinity")
    if faults:
        raise InputError(f"the checkpoint does not fit its architecture: {'; '.join(sorted(faults))}")
    generator.load_state_dict({key: state[key].float().contiguous() for key in wanted}, assign=True)
    return generator.requires_grad_(False).eval()


def _check_filter(key: str, kernel: Tensor, *, gain: float) -> None:
    row = torch.tensor(TAPS) / sum(TAPS)
    if kernel.shape != (4, 4) or not torch.allclose(kernel.float(), torch.outer(row, row) * gain, atol=1e-5):
        raise InputError(f"{key} is not the filter 1-3-3-1: such a model cannot be drawn faithfully here")


def _from_rosinality(state: State) -> dict[str, Tensor]:
    """Rosinality names → NVIDIA names; unknown names pass through, to be reported as unexpected."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith((".blur.kernel", ".upsample.kernel")):
            _check_filter(key, value, gain=4.0)
        else:
            out[_rosinality_name(key)] = value
    for key, value in out.items():
        if key.endswith(("torgb.bias", "noise_const", "noise_strength")):
            out[key] = value.squeeze()
        elif key.endswith(("conv0.weight", "conv1.weight", "torgb.weight", "const")) and value.shape[:1] == (1,):
            out[key] = value[0]
    return out


def _rosinality_name(key: str) -> str:
    """One rosinality name in NVIDIA's terms."""
    if key == "input.input":
        return "synthesis.b4.const"
    if key == "latent_avg":
        return "mapping.w_avg"
    if match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"noises\.noise_(\d+)", key):
        number = int(match[1])
        return f"synthesis.b{4 * 2 ** ((number + 1) // 2)}.conv{(number + 1) % 2}.noise_const"
    if not (match := re.fullmatch(r"(conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\.(.+)", key)):
        return key
    module, rest = match[1], match[2]
    number = int(module.split(".")[1]) if "." in module else -1
    if module.startswith("to_rgb"):
        target = f"synthesis.b{8 * 2**number if number >= 0 else 4}.torgb"
    else:
        target = f"synthesis.b{8 * 2 ** (number // 2) if number >= 0 else 4}.conv{number % 2 if number >= 0 else 1}"
    parts = {
        "conv.weight": "weight",
        "conv.modulation.weight": "affine.weight",
        "conv.modulation.bias": "affine.bias",
        "noise.weight": "noise_strength",
        "activate.bias": "bias",
        "bias": "bias",
    }
    return f"{target}.{parts[rest]}" if rest in parts else key
