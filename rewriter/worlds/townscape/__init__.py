"""The built-in world: procedurally drawn towns, and a small StyleGAN2 that was trained to draw them.

`scenes` says exactly what a latent means: which pixels are the dome, and how the same town looks with a spire. `load`
returns a generator of about a million weights that draws these scenes from the same latents, so that the effect and the
damage of a rule can be measured, offline and in milliseconds. `segmenter` and `marks` recognise things in pictures.
`train_segmenter` and `make_examples` made the shipped files, `worlds.train` the weights; `world` is what it trained on.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from rewriter.checkpoints.convert import convert
from rewriter.generators.stylegan2 import StyleGAN2
from rewriter.worlds.townscape.shipped import examples

__all__ = ["examples", "load"]
HERE = Path(__file__).parent
WEIGHTS = {"townscape": HERE / "townscape_64px.safetensors", "townscape-128": HERE / "townscape_128px.safetensors"}


def load(name: str = "townscape") -> StyleGAN2:
    """Load a packaged generator, on the CPU: latents (n, 32) → towns (n, 3, H, H), of 64 px, or of 128 px.

    `name`: townscape or townscape-128; both draw the same scenes from the same latents.
    """
    generator = convert(load_file(WEIGHTS[name]), name=name)
    assert isinstance(generator, StyleGAN2)  # the package ships no other
    return generator
