"""DCGAN.

pytorch     main.0.weight, main.1.running_mean …                       of PyTorch's tutorial
huggan      model.0.weight, model.1.running_mean …
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rewriter.checkpoints.layouts.table import Layout, Link, Published, pair
from rewriter.generators.shapes import largest


def dcgan(name: str, module: str, layers: int) -> Layout:
    """A DCGAN as one sequence of modules: convolution, batch norm and ReLU, over and over."""
    links, numbers = [], [f"{module}.{3 * i + 1}" for i in range(layers)]
    for i, ours in enumerate([*(f"layer{i}.deconv" for i in range(1, layers + 1)), "output"]):
        weight, bias = pair(f"{module}.{3 * i}", ours)
        links += [replace(weight, swap=True), bias]
    for i, theirs in enumerate(numbers, start=1):
        parts = ("weight", "bias", "running_mean", "running_var")
        links += [Link(f"{theirs}.{part}", f"layer{i}.norm.{part}") for part in parts]
    return Layout(name, tuple(links), unused=frozenset(f"{theirs}.num_batches_tracked" for theirs in numbers))


def _sequential(name: str, module: str) -> Published:
    """A DCGAN in a sequence of modules that has this name."""
    pattern = rf"{module}\.(\d+)\."
    return Published(name, "dcgan", partial(dcgan, name, module), pattern, lambda keys: (largest(pattern, keys) // 3,))


PUBLISHED = (_sequential("pytorch", "main"), _sequential("huggan", "model"))
