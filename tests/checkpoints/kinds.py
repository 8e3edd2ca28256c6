"""Every kind of checkpoint file that people have, each written as its own code writes it, with what it should draw.

A kind is made from weights and pictures that independent code gave: golden files, or plain tensor operations.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy
import persistence
import tensorflow_pickles as tensorflow
import torch
from conftest import DATA, golden, state_of
from plain_dcgan import plain_dcgan, plain_discriminator
from plain_fastgan import plain_fastgan
from plain_lightweight import plain_lightweight
from plain_stylegan2 import pictures as plain_stylegan2
from plain_stylegan3 import draw as plain_stylegan3
from plain_stylegan3 import plain_state
from safetensors.torch import save as safetensors
from torch.nn.utils import parametrizations

PLAIN, CLAMPED = "nvidia_stylegan2_16px_plain.pt", "nvidia_stylegan2_16px_clamped.pt"
ROSINALITY, GENFORCE = "rosinality_stylegan2_16px.pt", "genforce_stylegan2_16px.bin"
GANDISSECT, GENFORCE_PGGAN = "gandissect_proggan_32px.pth", "genforce_pggan_32px.bin"


@dataclass(frozen=True)
class Kind:
    """A file, what it draws or why it is refused, and what a person has to say when it is loaded."""

    write: Callable[[], bytes]
    drawn: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None  # latents and pictures
    refused: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    layout: str = ""  # in which it can be written back; "": only in our own form


KINDS: dict[str, Kind] = {}


def saved(data, **options):
    out = io.BytesIO()
    torch.save(data, out, **options)
    return out.getvalue()


def parallel(state):
    """As DataParallel names tensors."""
    return {f"module.{name}": value for name, value in state.items()}


def add(name, data, drawn=None, **more):
    """A kind whose file is bytes, or what torch.save is given."""
    KINDS[name] = Kind(lambda: made if isinstance(made := data(), bytes) else saved(made), drawn, **more)


def refuse(name, data, reason):
    add(name, data, refused=reason)


# --- StyleGAN2 ---


@cache
def state(name=PLAIN):
    return state_of(name)


def of_golden(name):
    """The pictures that the format's own code drew."""

    def drawn():
        stem = name.rsplit(".", 1)[0]
        path = DATA / f"{stem}_expected.pt"
        expected = golden(path.name if path.exists() else name)
        return expected["z"], expected.get("image_psi_1.0", expected.get("image"))

    return drawn


def of_plain(make, **options):
    """What plain tensor operations draw of a state by NVIDIA's names."""

    def drawn():
        z = torch.randn(3, 64, generator=torch.manual_seed(5))
        return z, plain_stylegan2(make(), z, **options)

    return drawn


def halved():
    return {name: value.half().float() for name, value in state().items()}


def grey():
    """A network that draws in grey."""
    torgb = ".torgb.weight", ".torgb.bias"
    return {name: value[:1] if name.endswith(torgb) else value for name, value in state().items()}


def silent():
    """A network without noise."""
    return {name: value for name, value in state().items() if ".noise_" not in name}


def scaled(names, factor, prefix):
    return {name: value * factor if name.startswith(prefix) else value for name, value in names.items()}


def renoised():
    """Noise as we draw it for files that have none."""
    from rewriter.generators.latents import fixed_noise

    return {n: fixed_noise(n, len(v)) if n.endswith("noise_const") else v for n, v in state().items()}


def basicsr():
    """BasicSR's names and shapes of the same network."""
    theirs = {}
    for name, value in state(ROSINALITY).items():
        if name == "latent_avg" or name.endswith("kernel"):
            continue
        for ours, new in (
            (".conv.modulation", ".modulated_conv.modulation"),
            (".conv.weight", ".modulated_conv.weight"),
            (".noise.weight", ".weight"),
            ("noises.noise_", "noises.noise"),
            ("input.input", "constant_input.weight"),
        ):
            name = name.replace(ours, new)
        first = name.split(".")[0]
        renamed = {"convs": "style_convs", "conv1": "style_conv1", "style": "style_mlp"}.get(first, first)
        theirs[renamed + name[len(first) :]] = value
    return theirs


def training(generator, **more):
    """A training run's file: the generator with its opponent and optimisers."""
    return {**more, **generator, "d": {"convs.0.0.weight": torch.zeros(2)}, "d_optim": {"state": {}}, "args": None}


def pickled(make=None, protocol=4, **fields):
    """A pickle of NVIDIA's PyTorch code."""
    return persistence.dumps(persistence.snapshot(persistence.network((make or state)(), **fields)), protocol)


def rated(rate):
    """A pickle whose mapping network was trained at another rate, as its layers say; its pictures are the same."""
    generator = persistence.network(scaled(state(), 0.01 / rate, "mapping.fc"))
    for layer in generator._modules["mapping"]._modules.values():
        width = layer._parameters["weight"].shape[1]
        layer.__dict__.update(persistence.dense(width, mapping=True, rate=rate))
    return persistence.dumps(persistence.snapshot(generator))


def changed(*path, **fields):
    """A pickle one of whose layers says something else."""
    generator = layer = persistence.network(state())
    for part in path:
        layer = layer._modules[part]
    layer.__dict__.update(fields)
    return persistence.dumps(persistence.snapshot(generator))


def with_array():
    snapshot = persistence.snapshot(persistence.network(state(), seen=numpy.arange(6.0)))
    return persistence.dumps({**snapshot, "resolutions": numpy.array([16, 32])})


def flows(make=None, protocol=3, **kwargs):
    """A pickle of NVIDIA's TensorFlow code."""
    return tensorflow.dumps(tensorflow.snapshot(tensorflow.network((make or state)(), **kwargs)), protocol)


def wscaled():
    """A file of GenForce's whose mapping network was trained at rate 1."""
    return {"generator_smooth": scaled(state(GENFORCE), 0.01, "mapping.dense")}


plain, clamped = of_golden(PLAIN), of_golden(CLAMPED)
rosinality, genforce = of_golden(ROSINALITY), of_golden(GENFORCE)


def nested():
    return dict(golden(ROSINALITY))


def flat(name, shape):
    return {**nested(), "latent_avg": state(name)["latent_avg"].reshape(shape)}


def quiet():
    """Rosinality's weights without noise."""
    kept = {name: value for name, value in nested()["g_ema"].items() if not name.startswith("noises")}
    return {**nested(), "g_ema": kept}


add("SG2 NVIDIA state, safetensors", lambda: safetensors(dict(state())), plain, layout="nvidia")
add("SG2 NVIDIA state, torch.save", state, plain, layout="nvidia")
add("SG2 NVIDIA state, older torch.save", lambda: saved(state(), _use_new_zipfile_serialization=False), plain)
add("SG2 NVIDIA state, half", lambda: {n: v.half() for n, v in state().items()}, of_plain(halved))
add("SG2 NVIDIA state, module.", lambda: parallel(state()), plain)
add("SG2 NVIDIA {'G_ema': state}", lambda: {"G_ema": state(), "G": None}, plain)
add("SG2 NVIDIA state of ADA", lambda: state(CLAMPED), clamped, given={"conv_clamp": golden(CLAMPED)["conv_clamp"]})
for each in (2, 3, 4, 5):
    add(f"SG2 NVIDIA pickle, protocol {each}", lambda each=each: pickled(protocol=each), plain, layout="tensorflow")
add("SG2 NVIDIA pickle of the generator alone", lambda: persistence.dumps(persistence.network(state())), plain)
add("SG2 NVIDIA pickle with arrays", with_array, plain)
ADA = golden(CLAMPED)["conv_clamp"]
add("SG2 NVIDIA pickle of ADA", lambda: pickled(lambda: state(CLAMPED), conv_clamp=ADA), clamped)
add("SG2 NVIDIA pickle, mapping at rate 1", lambda: rated(1.0), plain)
add(
    "SG2 NVIDIA state, mapping at rate 1", lambda: scaled(state(), 0.01, "mapping.fc"), plain, given={"mapping_rate": 1}
)
add("SG2 NVIDIA pickle in grey", lambda: pickled(grey), of_plain(grey))
add("SG2 NVIDIA state in grey", grey, of_plain(grey), layout="nvidia")
add("SG2 NVIDIA pickle without noise", lambda: pickled(silent), of_plain(silent))
add("SG2 NVIDIA state without noise", silent, of_plain(silent), layout="nvidia")
add("SG2 rosinality", nested, rosinality, layout="rosinality")
add("SG2 rosinality, older torch.save", lambda: saved(nested(), _use_new_zipfile_serialization=False), rosinality)
add("SG2 rosinality, module.", lambda: {**nested(), "g_ema": parallel(nested()["g_ema"])}, rosinality)
add("SG2 rosinality, training run", lambda: training(nested(), g=nested()["g_ema"]), rosinality)
add("SG2 rosinality {'g': state}", lambda: training({"g": nested()["g_ema"]}), rosinality)
add("SG2 rosinality, average (1, n)", lambda: flat(ROSINALITY, (1, -1)), rosinality)
add("SG2 rosinality, average (1, 1, n)", lambda: flat(ROSINALITY, (1, 1, -1)), rosinality)
add("SG2 rosinality without noise maps", quiet, of_plain(renoised))
add(
    "SG2 rosinality, mapping at rate 1",
    lambda: {**nested(), "g_ema": scaled(nested()["g_ema"], 0.01, "style.")},
    rosinality,
    given={"mapping_rate": 1},
)
add("SG2 BasicSR {'params_ema'}", lambda: {"params_ema": basicsr(), "params": {}}, rosinality, layout="basicsr")
add("SG2 GenForce", lambda: golden(GENFORCE), genforce, layout="genforce")
add(
    "SG2 GenForce, training run",
    lambda: {"models": {"generator_smooth": state(GENFORCE), "discriminator": {}}},
    genforce,
)
add("SG2 GenForce, mapping at rate 1", wscaled, genforce, given={"mapping_rate": 1})
add("SG2 TensorFlow (G, D, Gs), protocol 2", lambda: flows(protocol=2), plain)
add("SG2 TensorFlow (G, D, Gs), protocol 3", flows, plain, layout="tensorflow")
add("SG2 TensorFlow (G, D, Gs), protocol 4", lambda: flows(protocol=4), plain)
add("SG2 TensorFlow, generator alone", lambda: tensorflow.dumps(tensorflow.network(state())), plain)
add("SG2 TensorFlow of ADA", lambda: flows(lambda: state(CLAMPED), conv_clamp=ADA), clamped)
add(
    "SG2 TensorFlow, mapping at rate 1",
    lambda: flows(lambda: scaled(state(), 0.01, "mapping.fc"), mapping_lrmul=1.0),
    plain,
)
add("SG2 TensorFlow in grey", lambda: flows(grey, num_channels=1), of_plain(grey))
refuse("SG2 NVIDIA, conditional", lambda: pickled(c_dim=10), "conditional")
refuse("SG2 NVIDIA state, conditional", lambda: {**state(), "mapping.embed.weight": torch.zeros(1)}, "conditional")
refuse("SG2 NVIDIA, residual", lambda: changed("synthesis", "b8", architecture="resnet"), "architecture.*resnet")
refuse("SG2 NVIDIA, ReLU mapping", lambda: changed("mapping", "fc3", activation="relu"), "activation.*relu")
refuse("SG2 NVIDIA, other gain", lambda: changed("mapping", "fc3", weight_gain=1.0), "weight_gain of 'mapping.fc3'")
refuse(
    "SG2 other resampling",
    lambda: {**state(), "synthesis.b8.conv0.resample_filter": torch.ones(4, 4) / 16},
    "not the filter 1-3-3-1",
)
refuse("SG2 TensorFlow, conditional", lambda: flows(label_size=10), "conditional")
refuse("SG2 TensorFlow, residual", lambda: flows(architecture="resnet"), "architecture is 'resnet'")
refuse("SG2 TensorFlow, other resampling", lambda: flows(resample_kernel=[1, 2, 1]), "resample_kernel is not 1-3-3-1")

# --- StyleGAN3 ---


def third(**options):
    return plain_state(16, count=4, base=192, most=12, **options)


def of_third(**options):
    def drawn():
        z = torch.randn(2, 6, generator=torch.manual_seed(5))
        return z, plain_stylegan3(third(**options), z).float()

    return drawn


def filtered(**options):
    return persistence.dumps(persistence.snapshot(persistence.filtered_network(third(**options))))


def conditional_third():
    return persistence.dumps(persistence.snapshot(persistence.filtered_network(third(), c_dim=3)))


add("SG3 T, NVIDIA pickle", filtered, of_third())
add("SG3 R, NVIDIA pickle", lambda: filtered(radial=True), of_third(radial=True))
add("SG3 T, state", third, of_third(), layout="nvidia")
add("SG3 R, state", lambda: third(radial=True), of_third(radial=True), layout="nvidia")
add("SG3 T, {'G_ema': state}, module.", lambda: {"G_ema": parallel(third())}, of_third())
add("SG3 T, safetensors", lambda: safetensors(third()), of_third())
refuse("SG3 T, conditional", conditional_third, "conditional")

# --- Progressive GAN ---

gandissect, pggan = of_golden(GANDISSECT), of_golden(GENFORCE_PGGAN)


def features():
    """GAN Dissection's names of before 2019."""
    theirs = {}
    for name, value in state(GANDISSECT).items():
        layer, rest = name.split(".", 1)
        theirs[f"features.{int(layer[5:]) - 1}.{rest}" if layer.startswith("layer") else f"output.{rest}"] = value
    return theirs


add("PG GAN Dissection", lambda: golden(GANDISSECT), gandissect, layout="gandissect")
add("PG GAN Dissection, features.N", features, gandissect)
add("PG GAN Dissection, module.", lambda: parallel(state(GANDISSECT)), gandissect)
add("PG GenForce", lambda: state(GENFORCE_PGGAN), pggan, layout="genforce")
add("PG GenForce {'generator_smooth'}", lambda: {"generator_smooth": state(GENFORCE_PGGAN)}, pggan)
refuse("PG GenForce in training", lambda: {**state(GENFORCE_PGGAN), "lod": torch.tensor(1.0)}, "full resolution")

# --- DCGAN ---


def of_module(make, z_dim):
    """What a module of plain torch draws."""

    def drawn():
        z = torch.randn(3, z_dim, generator=torch.manual_seed(5))
        with torch.no_grad():
            return z, make()(z[:, :, None, None]).expand(-1, 3, -1, -1)

    return drawn


def dcgan(**options):
    return plain_dcgan(**options).state_dict()


def of_dcgan(**options):
    return of_module(lambda: plain_dcgan(**options).main, 6)


add("DC of PyTorch's tutorial", dcgan, of_dcgan(), layout="pytorch")
add("DC, older torch.save", lambda: saved(dcgan(), _use_new_zipfile_serialization=False), of_dcgan())
add("DC of HugGAN", lambda: {n.replace("main", "model", 1): v for n, v in dcgan().items()}, of_dcgan(), layout="huggan")
add("DC, module.", lambda: parallel(dcgan()), of_dcgan())
add("DC, training run", lambda: {"netG_state_dict": dcgan(), "epoch": 3, "losses": [0.5]}, of_dcgan())
add("DC with biases", lambda: dcgan(bias=True), of_dcgan(bias=True), layout="pytorch")
add("DC in grey", lambda: dcgan(colours=1), of_dcgan(colours=1), layout="pytorch")
refuse("DC discriminator", lambda: plain_discriminator().state_dict(), "discriminator")

# --- FastGAN ---


def fast(layout="huggan", **options):
    return plain_fastgan(layout, **options).state_dict()


def of_fast(layout="huggan", **options):
    def drawn():
        z = torch.randn(3, 6, generator=torch.manual_seed(5))
        with torch.no_grad():
            return z, plain_fastgan(layout, **options)(z)

    return drawn


ORIGINAL, PROJECTED = "fastgan-pytorch", "projected-gan"
EVERY, NEW = (8, 16, 32, 64), parametrizations.spectral_norm
add("FG of HugGAN", fast, of_fast(), layout="huggan")
add("FG of HugGAN, new spectral norm", lambda: fast(norm=NEW), of_fast(norm=NEW))
add("FG of HugGAN, module.", lambda: parallel(fast()), of_fast())
add("FG original {'g': state}", lambda: {"g": parallel(fast(ORIGINAL)), "d": {}}, of_fast(ORIGINAL), layout=ORIGINAL)
add("FG Projected GAN", lambda: fast(PROJECTED, twice=EVERY), of_fast(PROJECTED, twice=EVERY), layout=PROJECTED)
add("FG Projected GAN, lite", lambda: fast(PROJECTED, twice=()), of_fast(PROJECTED, twice=()), layout=PROJECTED)
refuse(
    "FG Projected GAN, conditional",
    lambda: {**fast(PROJECTED), "synthesis.embed.weight": torch.zeros(10, 4)},
    "conditional",
)

# --- Lightweight GAN ---


def light(prefix="GE.", **options):
    return {f"{prefix}{name}": value for name, value in plain_lightweight(**options).state_dict().items()}


def of_light(**options):
    def drawn():
        z = torch.randn(3, 6, generator=torch.manual_seed(5))
        with torch.no_grad():
            return z, 2 * plain_lightweight(**options)(z).expand(-1, 3, -1, -1) - 1

    return drawn


ATTENDED = {"attended": (8, 16)}
LIGHT = "lightweight-gan"
add("LG of HugGAN {'GAN'}", lambda: {"GAN": {**light(), **light("G.", seed=1)}}, of_light(), layout=LIGHT)
add("LG of HugGAN with attention", lambda: {"GAN": light(**ATTENDED)}, of_light(**ATTENDED), layout=LIGHT)
add("LG in grey", lambda: {"GAN": light(colours=1)}, of_light(colours=1), layout=LIGHT)

# --- others, which are no generators of ours ---

for title, tensor, reason in (
    ("StyleGAN1", "synthesis.blocks.4x4.const", "StyleGAN1"),
    ("StyleGAN-XL", "mapping.embed_proj.weight", "StyleGAN-XL"),
    ("R3GAN", "Model.MainLayers.0.Layers.0.Basis", "R3GAN"),
    ("BigGAN", "shared.weight", "BigGAN"),
    ("EG3D", "backbone.mapping.fc0.weight", "EG3D"),
    ("diffusion", "model.diffusion_model.input_blocks.0.0.weight", "diffusion"),
    ("VQGAN", "first_stage_model.encoder.conv_in.weight", "autoencoder"),
    ("encoder of photos", "encoder.input_layer.0.weight", "encoder"),
):
    refuse(title, lambda tensor=tensor: {tensor: torch.zeros(2)}, reason)
refuse("StyleGAN1, TensorFlow", lambda: tensorflow_one("G_style"), "StyleGAN1")
refuse("Progressive GAN, TensorFlow", lambda: tensorflow_one("G_paper"), "Progressive GAN of TensorFlow")
refuse(
    "Git LFS pointer", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"
)
refuse("web page", lambda: b"<!DOCTYPE html><html></html>", "web page")


def tensorflow_one(build):
    return tensorflow.dumps(tensorflow.Network(build, {}, {"x": numpy.zeros(2)}))
