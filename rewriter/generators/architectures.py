"""Every architecture that can be rewritten. To add one, write a subclass of Generator in a file here, and list it."""

from __future__ import annotations

from rewriter.generators.base import Generator
from rewriter.generators.dcgan import DCGAN
from rewriter.generators.fastgan import FastGAN
from rewriter.generators.lightweight import LightweightGAN
from rewriter.generators.proggan import ProgressiveGAN
from rewriter.generators.stylegan2 import StyleGAN2
from rewriter.generators.stylegan3 import StyleGAN3

ARCHITECTURES: dict[str, type[Generator]] = {
    each.architecture: each for each in (StyleGAN2, StyleGAN3, ProgressiveGAN, DCGAN, FastGAN, LightweightGAN)
}
