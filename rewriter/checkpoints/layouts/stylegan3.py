"""StyleGAN3.

nvidia      mapping.fc0.weight, synthesis.input.freqs, synthesis.L0_36_512.affine.bias …       ours
"""

from __future__ import annotations

from rewriter.checkpoints.layouts.table import Layout, Published


def nvidia() -> Layout:
    """NVIDIA's PyTorch implementation: our names."""
    return Layout("nvidia", ())


PUBLISHED = (Published("nvidia", "stylegan3", nvidia),)
