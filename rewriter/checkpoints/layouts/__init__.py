"""Names of tensors in other people's files: a module of tables for each architecture, for reading and for writing."""

from __future__ import annotations

from rewriter.checkpoints import CONDITIONAL
from rewriter.checkpoints.layouts import dcgan, proggan, stylegan2, stylegan3
from rewriter.checkpoints.layouts.table import Layout
from rewriter.errors import InputError
from rewriter.generators.base import Generator

PUBLISHED = (*stylegan2.PUBLISHED, *stylegan3.PUBLISHED, *proggan.PUBLISHED, *dcgan.PUBLISHED)
NAMES = tuple(dict.fromkeys(row.name for row in PUBLISHED))
UNSUPPORTED = {
    r"mapping\.embed_proj\.": "it is a StyleGAN-XL, which draws one of a thousand classes that is asked for",
    r"mapping\.embed\.|mapping\.label_weight": CONDITIONAL,
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
