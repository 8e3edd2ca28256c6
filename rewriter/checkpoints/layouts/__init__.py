"""Names of tensors in other people's files: a module of tables for each architecture, for reading and for writing."""

from __future__ import annotations

import torch

from rewriter.checkpoints import CONDITIONAL
from rewriter.checkpoints.layouts import dcgan, fastgan, foreign, lightweight, proggan, stylegan2, stylegan3
from rewriter.checkpoints.layouts.table import Layout
from rewriter.errors import InputError
from rewriter.generators.base import Generator

PUBLISHED = (
    *(*stylegan2.PUBLISHED, *stylegan3.PUBLISHED, *proggan.PUBLISHED),
    *(*dcgan.PUBLISHED, *fastgan.PUBLISHED, *lightweight.PUBLISHED),
)
NAMES = tuple(dict.fromkeys(row.name for row in PUBLISHED))
ROUNDED = (
    "styles are stored less one, which rounds them: the file draws the same, but read back it has another fingerprint, "
    "by which edits and rules know this generator"
)
UNSUPPORTED = {
    r"mapping\.embed_proj\.": "it is a StyleGAN-XL, which draws one of a thousand classes that is asked for",
    r"mapping\.embed\.|mapping\.label_weight": CONDITIONAL,
    **foreign.GENERATORS,
    **foreign.NO_GENERATORS,
}


def layout_for(generator: Generator, name: str) -> Layout:
    """The table of a layout for a generator's sizes; InputError if its architecture has no such layout."""
    rows = {row.name: row for row in PUBLISHED if row.architecture == generator.architecture}
    if name not in rows:
        choices = " or ".join(rows) or "the form of this package, without a layout"
        raise InputError(f"{generator.name} cannot be written as {name!r}: choose {choices}")
    return rows[name].table(*generator.sizes(generator.state_dict()))


def written_as(generator: Generator) -> list[str]:
    """The layouts of its architecture; some cannot hold every generator, see `store.layouts_of`."""
    return list(dict.fromkeys(row.name for row in PUBLISHED if row.architecture == generator.architecture))


def suffixes_of(layout: str) -> tuple[str, ...]:
    """How the names of files in a layout may end, the usual one first."""
    return (".pkl",) if layout == "tensorflow" else (".pt", ".pth", ".bin")


def remarks(generator: Generator, layout: str) -> list[str]:
    """What a file in this layout cannot hold of the generator."""
    table = layout_for(generator, layout)
    rounded = [ROUNDED] if _rounds(generator, table) else []
    if layout == "tensorflow":
        return [
            *rounded,
            "its discriminator is a stand-in: NVIDIA's PyTorch code draws with it, and cannot train it further",
        ]
    if generator.architecture == "fastgan":
        return fastgan.remarks(generator, table)
    if generator.architecture == "lightweight":
        return ["it is one of the networks that the code trains together: load it into the averaged generator (GE)"]
    return [*rounded, *_of_clamp(generator, layout)]


def _rounds(generator: Generator, table: Layout) -> bool:
    """Whether numbers that a layout stores less one are rounded by that."""
    state, shifted = generator.state_dict(), [link for link in table.links if link.shift]
    return any(not torch.equal(link.read(link.write(value := state[link.ours].cpu())), value) for link in shifted)


def _of_clamp(generator: Generator, layout: str) -> list[str]:
    if (clamp := generator.settings().get("conv_clamp")) is None:
        return []
    if layout == "nvidia":
        return [f"the clamp of the features is not stored: load it with conv_clamp={clamp:g} (--conv-clamp)"]
    return [f"{layout}'s code has no clamp: pictures differ where features exceed this generator's, {clamp:g}"]
