"""Lightweight GAN.

lightweight-gan  initial_conv.0.weight, layers.0.0.2.weight, out_conv.bias …   of HugGAN's port, and before version 0.21
"""

from __future__ import annotations

from rewriter.checkpoints.layouts.table import Layout, Link, Published, State, pair
from rewriter.generators.shapes import largest

STATISTICS = ("weight", "bias", "running_mean", "running_var")
ATTENTION = {  # parts of an attention: theirs and ours
    **{"norm.g": "gain", "norm.b": "shift", "fn.to_q.weight": "query.weight", "fn.to_kv.net.0.weight": "around.weight"},
    **{"fn.to_kv.net.1.weight": "pairs.weight", "fn.to_out.weight": "out.weight", "fn.to_out.bias": "out.bias"},
}


def lightweight(resolution: int) -> Layout:
    """The generator of a Lightweight GAN, with the parts that only some have."""
    links, norms = [*pair("initial_conv.0", "stage4.conv"), *pair("out_conv", "output")], ["initial_conv.1"]
    links[0] = Link(links[0].theirs, links[0].ours, swap=True)
    links += [Link(f"initial_conv.1.{part}", f"stage4.norm.{part}") for part in STATISTICS]
    for i, side in enumerate(8 * 2**i for i in range(8) if 8 * 2**i <= resolution):
        layer, ours = f"layers.{i}", f"stage{side}"
        links += [*pair(f"{layer}.0.2", f"{ours}.conv"), Link(f"{layer}.0.1.f", f"{ours}.blur")]
        links += [Link(f"{layer}.0.3.{part}", f"{ours}.norm.{part}") for part in STATISTICS]
        links += [Link(f"{layer}.2.{theirs}", f"stage{side // 2}.attention.{our}") for theirs, our in ATTENTION.items()]
        if 128 <= 8 * side <= resolution:
            links += _gate(f"{layer}.1", f"gate{8 * side}")
        norms.append(f"{layer}.0.3")
    return Layout("lightweight-gan", tuple(links), unused=frozenset(f"{norm}.num_batches_tracked" for norm in norms))


def _gate(theirs: str, ours: str) -> list[Link]:
    parts = {"to_k": "look", "net.0": "conv1", "net.2": "conv2"}
    links = [link for part, our in parts.items() for link in pair(f"{theirs}.{part}", f"{ours}.{our}")]
    return [*links, Link(f"{theirs}.dct_weights", f"{ours}.pattern")]


def _sizes(state: State) -> tuple[int]:
    """Side of the picture."""
    return (int(8 * 2 ** largest(r"layers\.(\d+)\.", state, most=7)),)


PUBLISHED = (Published("lightweight-gan", "lightweight", lightweight, r"initial_conv\.0\.", _sizes),)
