"""Progressive GAN.

gandissect  layer1.conv.weight, layer1.wscale.b …                      ours
genforce    layer0.weight, output3.bias …
"""

from __future__ import annotations

from rewriter.checkpoints.layouts.table import Layout, Link, Published
from rewriter.generators.shapes import largest

LOD = "its training had not reached the full resolution, and it draws smaller pictures: take a later checkpoint of it"


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
    return Layout("genforce", tuple(links), unused=frozenset({"lod", *lower}), zero={"lod": LOD})


PUBLISHED = (
    Published("gandissect", "proggan", gandissect),
    Published(
        "genforce",
        "proggan",
        genforce_proggan,
        r"layer\d+\.(weight|bias)\Z",
        lambda keys: (largest(r"layer(\d+)\.", keys) + 1,),
    ),
)
