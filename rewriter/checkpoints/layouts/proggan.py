"""Progressive GAN.

gandissect  layer1.conv.weight, layer1.wscale.b …                      ours
            features.0.conv.weight, output.conv.weight …               its older names, which are only read
genforce    layer0.weight, output3.bias …
"""

from __future__ import annotations

from dataclasses import replace

from rewriter.checkpoints.layouts.table import Layout, Link, Published
from rewriter.generators.shapes import largest

LOD = "its training had not reached the full resolution, and it draws smaller pictures: take a later checkpoint of it"


def gandissect(layers: int) -> Layout:
    """GAN Dissection's Progressive GAN: our names."""
    return Layout("gandissect", (), settings={"clamp": True})


def older_gandissect(layers: int) -> Layout:
    """GAN Dissection's older names: counted from 0, and an output without its resolution."""
    blocks = {f"features.{i}": f"layer{i + 1}" for i in range(layers)}
    blocks["output"] = "output_{0}x{0}".format(2 ** (layers // 2 + 1))
    parts = ("conv.weight", "wscale.b")
    links = [Link(f"{theirs}.{part}", f"{ours}.{part}") for theirs, ours in blocks.items() for part in parts]
    return replace(gandissect(layers), links=tuple(links))


def genforce_proggan(layers: int) -> Layout:
    """GenForce's Progressive GAN, counted from 0; the outputs of lower resolutions are not used."""
    last, side = layers // 2 - 1, 2 ** (layers // 2 + 1)
    blocks = {f"layer{i}": f"layer{i + 1}" for i in range(layers)} | {f"output{last}": f"output_{side}x{side}"}
    parts = {"weight": "conv.weight", "bias": "wscale.b"}
    links = [Link(f"{a}.{theirs}", f"{b}.{ours}") for a, b in blocks.items() for theirs, ours in parts.items()]
    lower = {f"output{i}.{part}" for i in range(last) for part in ("weight", "bias")}
    return Layout("genforce", tuple(links), unused=frozenset({"lod", *lower}), zero={"lod": LOD})


PUBLISHED = (
    Published(
        "gandissect",
        "proggan",
        older_gandissect,
        r"features\.\d+\.conv\.weight",
        lambda keys: (largest(r"features\.(\d+)\.conv\.", keys) + 1,),
    ),
    Published("gandissect", "proggan", gandissect),  # the last of a name is the one that is written
    Published(
        "genforce",
        "proggan",
        genforce_proggan,
        r"layer\d+\.(weight|bias)\Z",
        lambda keys: (largest(r"layer(\d+)\.", keys) + 1,),
    ),
)
