"""Writes a StyleGAN2 as NVIDIA's TensorFlow code saves it: the form that NVIDIA's PyTorch code converts on loading.

The loaders of stylegan2-ada-pytorch and stylegan3 (`legacy.py`), and programs that use them, take a pickle of the three
networks (G, D, Gs) and make their own objects of it. This one is data: it names NumPy's arrays, by the names that all
versions of NumPy read, and the class Network; the source code in it is empty, so TensorFlow's code cannot build it. Its
D is a stand-in of one feature, because we have none: the file is for drawing, not for more training.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from rewriter.checkpoints.layouts.table import State
from rewriter.errors import InputError
from rewriter.files import replacing

OUTER, PARTS = "G_main", {"synthesis": "G_synthesis_stylegan2", "mapping": "G_mapping"}  # names of functions
ODD = {"fmap_base": 2, "fmap_max": 1}  # of the stand-in: widths of 1


@dataclass(frozen=True)
class _Network:
    """One network, as it is pickled."""

    build: str
    arguments: Mapping[str, Any]
    variables: State
    components: Mapping[str, _Network] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """What its `__setstate__` is given."""
        return {
            "version": 4,
            "name": self.build,
            "static_kwargs": dict(self.arguments),
            "components": dict(self.components),
            "build_module_src": "",
            "build_func_name": self.build,
            "variables": list(self.variables.items()),
        }


def write_networks(variables: State, settings: Mapping[str, Any], path: str | Path) -> None:
    """Write a generator's variables, by TensorFlow's names, with its settings.

    InputError if its numbers of features do not follow the rule that NVIDIA's code derives them from, or for a path
    that cannot be written to.
    """
    arguments = arguments_of(variables, settings)
    inside = {
        part: {name.removeprefix(f"{part}/"): value for name, value in variables.items() if name.startswith(f"{part}/")}
        for part in PARTS
    }
    components = {part: _Network(build, arguments, inside[part]) for part, build in PARTS.items()}
    outer = {name: value for name, value in variables.items() if "/" not in name}
    generator = _Network(OUTER, arguments, outer, components)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x80\x03")
        _write(file, generator)
        file.write(b"q\0")  # G, again as Gs
        _write(file, _stand_in(arguments["num_channels"]))
        file.write(b"h\0\x87.")


def arguments_of(variables: State, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments from which NVIDIA's code builds a generator of these sizes; InputError if there are none."""
    colours = {int(name.split("/")[1].split("x")[0]): value for name, value in variables.items() if "ToRGB/w" in name}
    widths = {side: weight.shape[2] for side, weight in colours.items()}
    base, most = _widths_of(widths)
    return {
        "latent_size": variables["mapping/Dense0/weight"].shape[0],
        "dlatent_size": variables["dlatent_avg"].shape[0],
        "label_size": 0,
        "resolution": max(widths),
        "num_channels": colours[4].shape[3],
        "fmap_base": base,
        "fmap_max": most,
        "mapping_layers": sum(name.startswith("mapping/") and name.endswith("/weight") for name in variables),
        "conv_clamp": settings.get("conv_clamp"),
        "use_noise": "synthesis/noise0" in variables,
    }


def _widths_of(widths: Mapping[int, int]) -> tuple[int, int]:
    """`base` and `most` so that each side has min(2 · base // side, most) features; InputError if there are none."""
    most = max(widths.values())
    base = (max(side * width for side, width in widths.items()) + 1) // 2
    if any(min(2 * base // side, most) != width for side, width in widths.items()):
        said = ", ".join(f"{width} at {side}" for side, width in widths.items())
        raise InputError(
            f"NVIDIA's code cannot have these numbers of channels: {said}; choose nvidia, rosinality or genforce"
        )
    return base, most


def _stand_in(channels: int) -> _Network:
    """A discriminator of pictures of 4×4 px with one feature, of zeros."""
    shapes = {"4x4/Conv": (3, 3, 2, 1), "4x4/Dense0": (16, 1), "Output": (1, 1)}
    variables = {f"{name}/weight": torch.zeros(shape) for name, shape in shapes.items()}
    variables |= {f"{name}/bias": torch.zeros(1) for name in shapes}
    return _Network("D_stylegan2", {"resolution": 4, "num_channels": channels, "label_size": 0, **ODD}, variables)


def _write(file: BinaryIO, value: Any) -> None:
    """Write the opcodes of one value."""
    if isinstance(value, _Network):
        file.write(b"cdnnlib.tflib.network\nNetwork\n)\x81")
        _write(file, value.state())
        file.write(b"b")
    elif isinstance(value, Tensor):
        _write_array(file, value)
    elif isinstance(value, dict):
        _write_all(file, b"}(", [each for pair in value.items() for each in pair], b"u")
    elif isinstance(value, list):
        _write_all(file, b"](", value, b"e")
    elif isinstance(value, tuple):
        _write_all(file, b"(", value, b"t")
    elif isinstance(value, str):
        file.write(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
    elif isinstance(value, float):
        file.write(b"G" + struct.pack(">d", value))
    elif value is None or isinstance(value, bool):
        file.write({None: b"N", True: b"\x88", False: b"\x89"}[value])
    else:
        file.write(b"J" + struct.pack("<i", value))


def _write_all(file: BinaryIO, before: bytes, values: Any, after: bytes) -> None:
    file.write(before)
    for value in values:
        _write(file, value)
    file.write(after)


def _write_array(file: BinaryIO, value: Tensor) -> None:
    """An array in float32, in C's order, as NumPy pickles it."""
    numbers = value.detach().float().contiguous()
    file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R(K\1")
    _write(file, tuple(numbers.shape))
    file.write(b"cnumpy\ndtype\nX\2\0\0\0f4\x89\x88\x87R(K\3X\1\0\0\0<NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb\x89")
    file.write(b"B" + struct.pack("<I", numbers.nbytes))
    file.write(numbers.numpy().data)
    file.write(b"tb")
