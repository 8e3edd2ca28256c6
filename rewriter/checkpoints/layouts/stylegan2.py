"""StyleGAN2.

nvidia      mapping.fc0.weight, synthesis.b8.conv0.affine.bias …       ours
tensorflow  mapping/Dense0/weight, synthesis/8x8/Conv0_up/mod_bias … of NVIDIA's TensorFlow implementations
rosinality  style.1.weight, convs.0.conv.modulation.bias …
basicsr     style_mlp.1.weight, style_convs.0.modulated_conv.modulation.bias …
genforce    mapping.dense0.weight, synthesis.layer1.style.bias …
"""

from __future__ import annotations

from dataclasses import replace

from rewriter.checkpoints.layouts.table import Layout, Link, Published, pair
from rewriter.generators.shapes import largest

BASICSR = (  # parts of rosinality's names and of BasicSR's
    *((".conv.", ".modulated_conv."), (".noise.weight", ".weight"), ("noises.noise_", "noises.noise")),
    *(("convs.", "style_convs."), ("conv1.", "style_conv1."), ("style.", "style_mlp.")),
    ("input.input", "constant_input.weight"),
)


def nvidia(levels: int, depth: int) -> Layout:
    """NVIDIA's PyTorch implementations: our names, and filters."""
    sides = [4 * 2**i for i in range(levels)]
    filters = [f"synthesis.b{side}{part}.resample_filter" for side in sides for part in ("", ".conv0", ".conv1")]
    return Layout("nvidia", (), {key: (1.0, 0) for key in filters if "b4.conv0" not in key})


def tensorflow(levels: int, depth: int) -> Layout:
    """NVIDIA's TensorFlow implementations: transposed weights, reversed where they upsample, styles without their 1."""
    const = Link("synthesis/4x4/Const/const", "synthesis.b4.const", before=1)
    links = [Link("dlatent_avg", "mapping.w_avg"), const]
    for i in range(depth):
        links += [Link(f"mapping/Dense{i}/weight", f"mapping.fc{i}.weight", swap=True)]
        links += [Link(f"mapping/Dense{i}/bias", f"mapping.fc{i}.bias")]
    for number, ours in enumerate(_convolutions(levels)):
        side = 4 * 2 ** ((number + 1) // 2)
        theirs, up = f"synthesis/{side}x{side}/{'Conv1' if number else 'Conv'}", ours.endswith("conv0")
        theirs = theirs.replace("Conv1", "Conv0_up") if up else theirs
        links += _modulated(theirs, ours, flip=up)
        links += [Link(f"{theirs}/noise_strength", f"{ours}.noise_strength")]
        links += [Link(f"synthesis/noise{number}", f"{ours}.noise_const", before=2)]
    for side in (4 * 2**level for level in range(levels)):
        links += _modulated(f"synthesis/{side}x{side}/ToRGB", f"synthesis.b{side}.torgb")
    return Layout("tensorflow", tuple(links), unused=frozenset({"lod"}))


def _modulated(theirs: str, ours: str, *, flip: bool = False) -> list[Link]:
    """A modulated convolution of TensorFlow."""
    return [
        Link(f"{theirs}/weight", f"{ours}.weight", last=True, flip=flip),
        Link(f"{theirs}/bias", f"{ours}.bias"),
        Link(f"{theirs}/mod_weight", f"{ours}.affine.weight", swap=True),
        Link(f"{theirs}/mod_bias", f"{ours}.affine.bias", shift=1.0),
    ]


def rosinality(levels: int, depth: int) -> Layout:
    """stylegan2-pytorch by rosinality."""
    links = [Link("latent_avg", "mapping.w_avg", flat=True), Link("input.input", "synthesis.b4.const", before=1)]
    links += [link for i in range(depth) for link in pair(f"style.{i + 1}", f"mapping.fc{i}")]
    for number, ours in enumerate(_convolutions(levels)):
        theirs = f"convs.{number - 1}" if number else "conv1"
        links += [
            Link(f"{theirs}.conv.weight", f"{ours}.weight", before=1),
            *pair(f"{theirs}.conv.modulation", f"{ours}.affine"),
            Link(f"{theirs}.noise.weight", f"{ours}.noise_strength", before=1),
            Link(f"{theirs}.activate.bias", f"{ours}.bias"),
            Link(f"noises.noise_{number}", f"{ours}.noise_const", before=2),
        ]
    for level in range(levels):
        theirs, ours = f"to_rgbs.{level - 1}" if level else "to_rgb1", f"synthesis.b{4 * 2**level}.torgb"
        links += [
            Link(f"{theirs}.conv.weight", f"{ours}.weight", before=1),
            *pair(f"{theirs}.conv.modulation", f"{ours}.affine"),
            Link(f"{theirs}.bias", f"{ours}.bias", before=1, after=2),
        ]
    filters = [f"convs.{2 * i}.conv.blur.kernel" for i in range(levels - 1)]
    filters += [f"to_rgbs.{i}.upsample.kernel" for i in range(levels - 1)]
    return Layout(
        "rosinality", tuple(links), dict.fromkeys(filters, (4.0, 0)), optional=_drawn(levels) | {"mapping.w_avg"}
    )


def basicsr(levels: int, depth: int) -> Layout:
    """BasicSR: rosinality's implementation under other names, without filters."""
    table = rosinality(levels, depth)
    links = []
    for link in table.links:
        theirs = link.theirs
        for old, new in BASICSR:
            theirs = theirs.replace(old, new)
        links.append(replace(link, theirs=theirs))
    return Layout("basicsr", tuple(links), optional=table.optional)


def genforce(levels: int, depth: int) -> Layout:
    """GenForce's StyleGAN2: kernels that upsample are reversed, styles are stored without their 1."""
    const = Link("synthesis.early_layer.const", "synthesis.b4.const", before=1)
    links = [Link("truncation.w_avg", "mapping.w_avg"), const]
    links += [link for i in range(depth) for link in pair(f"mapping.dense{i}", f"mapping.fc{i}")]
    for number, ours in enumerate(_convolutions(levels)):
        theirs = f"synthesis.layer{number}"
        links += [
            Link(f"{theirs}.weight", f"{ours}.weight", flip=ours.endswith("conv0")),
            Link(f"{theirs}.bias", f"{ours}.bias"),
            Link(f"{theirs}.noise_strength", f"{ours}.noise_strength"),
            Link(f"{theirs}.noise", f"{ours}.noise_const", before=2),
            *pair(f"{theirs}.style", f"{ours}.affine", shift=1.0),
        ]
    for level in range(levels):
        theirs, ours = f"synthesis.output{level}", f"synthesis.b{4 * 2**level}.torgb"
        links += [*pair(theirs, ours), *pair(f"{theirs}.style", f"{ours}.affine", shift=1.0)]
    skip = "synthesis.upsample.kernel"
    filters = [f"synthesis.layer{2 * i + 1}.filter.kernel" for i in range(levels - 1)]
    return Layout("genforce", tuple(links), dict.fromkeys([*filters, skip], (4.0, 2)), skip=skip)


def _convolutions(levels: int) -> list[str]:
    """The convolutions by our names, in order."""
    later = [f"synthesis.b{8 * 2**i}.{conv}" for i in range(levels - 1) for conv in ("conv0", "conv1")]
    return ["synthesis.b4.conv1", *later]


def _drawn(levels: int) -> frozenset[str]:
    """The noise, which some training code draws anew for every picture and does not save."""
    return frozenset(f"{conv}.noise_const" for conv in _convolutions(levels))


PUBLISHED = (
    Published("nvidia", "stylegan2", nvidia),
    Published(
        "tensorflow",
        "stylegan2",
        tensorflow,
        r"synthesis/4x4/Const/const",
        lambda keys: (
            largest(r"synthesis/(\d+)x\d+/Conv1/", keys, most=1024).bit_length() - 2,
            largest(r"mapping/Dense(\d+)/", keys) + 1,
        ),
    ),
    Published(
        "basicsr",
        "stylegan2",
        basicsr,
        r"style_mlp\.",
        lambda keys: (largest(r"style_convs\.(\d+)\.", keys) // 2 + 2, largest(r"style_mlp\.(\d+)\.", keys)),
    ),
    Published(
        "rosinality",
        "stylegan2",
        rosinality,
        r"to_rgb1\.conv\.",
        lambda keys: (largest(r"convs\.(\d+)\.", keys) // 2 + 2, largest(r"style\.(\d+)\.", keys)),
    ),
    Published(
        "genforce",
        "stylegan2",
        genforce,
        r"synthesis\.layer0\.",
        lambda keys: (
            (largest(r"synthesis\.layer(\d+)\.", keys) + 1) // 2 + 1,
            largest(r"mapping\.dense(\d+)\.", keys) + 1,
        ),
    ),
)
