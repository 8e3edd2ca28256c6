"""Published layouts → generators: pictures as each format's own code draws them, and every tensor accounted for."""

import gc
import re
import subprocess
import sys
from pathlib import Path

import persistence
import pytest
import tensorflow_pickles
import torch
from conftest import DATA, golden, state_of
from hostile import memory

from rewriter import load_generator
from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.checkpoints.read import read_checkpoint
from rewriter.checkpoints.store import export, save
from rewriter.errors import InputError
from rewriter.evaluation.benchmark import random_config_f

GENFORCE, GENFORCE_PROGGAN = "genforce_stylegan2_16px.bin", "genforce_pggan_32px.bin"
UNUSED = ("output0", "output1", "output2")  # the lower resolutions of a Progressive GAN
PLAIN, CLAMPED = "nvidia_stylegan2_16px_plain.pt", "nvidia_stylegan2_16px_clamped.pt"
ROSINALITY, GANDISSECT = "rosinality_stylegan2_16px.pt", "gandissect_proggan_32px.pth"
STYLEGAN3_T, STYLEGAN3_R = "nvidia_stylegan3_t_16px.pt", "nvidia_stylegan3_r_32px.pt"
EXPECTED = {
    PLAIN: PLAIN,
    CLAMPED: CLAMPED,
    STYLEGAN3_T: STYLEGAN3_T,
    STYLEGAN3_R: STYLEGAN3_R,
    ROSINALITY: "rosinality_stylegan2_16px_expected.pt",
    GENFORCE: "genforce_stylegan2_16px_expected.pt",
    GANDISSECT: "gandissect_proggan_32px_expected.pt",
    GENFORCE_PROGGAN: "genforce_pggan_32px_expected.pt",
}
WRITTEN = {
    "stylegan2": ("nvidia", "rosinality", "genforce"),
    "stylegan3": ("nvidia",),
    "proggan": ("gandissect", "genforce"),
}


def close(picture, expected):
    return (picture - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


def converted(name):
    return convert(state_of(name), conv_clamp=golden(name).get("conv_clamp"))


def from_disk(name):
    """Read a golden file as `load_generator` does."""
    state, options = read_checkpoint(DATA / name)
    return convert(state, **options)


def faults(state):
    with pytest.raises(InputError) as caught:
        convert(state)
    return str(caught.value)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_layout_draws_what_its_own_code_draws(name):
    expected, generator = golden(EXPECTED[name]), from_disk(name)
    drawn = [key for key in expected if key.startswith("image")]
    assert drawn
    for key in drawn:
        psi = float(key.removeprefix("image_psi_")) if "psi" in key else 1.0
        assert close(generator(expected["z"], truncation=psi), expected[key])


def test_a_generator_is_built_without_the_modules_that_take_longer_to_import_than_it_takes_to_load(dcgan, tmp_path):
    save(dcgan, tmp_path / "dcgan")
    files = [PLAIN, STYLEGAN3_T, GANDISSECT, "huggan_fastgan_64px.bin"]
    code = f"""
import sys
from rewriter import load_generator
for name in {[*(str(DATA / name) for name in files), str(tmp_path / "dcgan")]}:
    load_generator(name, device="cpu")
print("sympy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_clamp_matters_and_is_not_stored_in_the_weights():
    expected = golden(CLAMPED)
    assert not close(convert(state_of(CLAMPED))(expected["z"]), expected["image_psi_1.0"])
    generators = [convert(state_of(CLAMPED), conv_clamp=clamp) for clamp in (2, 2.0, None)]
    assert generators[0].fingerprint == generators[1].fingerprint != generators[2].fingerprint


def test_pictures_of_a_proggan_are_clamped_unless_told_otherwise():
    z = golden("gandissect_proggan_32px_expected.pt")["z"]
    free, cut = (convert(state_of(GANDISSECT), clamp=clamp)(z) for clamp in (False, None))
    assert free.abs().max() > 1 and torch.equal(free.clamp(-1, 1), cut)


@pytest.mark.parametrize("name", [PLAIN, CLAMPED])
def test_latents_w_agree_with_nvidias_code(name):
    expected = golden(name)
    assert close(converted(name).latents_w(expected["z"]), expected["w"])


def test_a_model_has_one_fingerprint_in_every_layout():
    assert converted(PLAIN).fingerprint == converted(ROSINALITY).fingerprint != converted(CLAMPED).fingerprint
    for name in (PLAIN, GANDISSECT):
        assert convert(converted(name).state_dict()).fingerprint == converted(name).fingerprint


@pytest.mark.parametrize("name", [PLAIN, ROSINALITY, GANDISSECT])
def test_a_fingerprint_ignores_the_order_of_tensors_and_depends_on_every_weight(name):
    state = state_of(name)
    same = convert(dict(reversed(state.items()))).fingerprint
    assert same == convert(state).fingerprint
    for key in [key for key in state if not key.endswith(("kernel", "filter"))][::7]:
        nudged = state[key].clone()
        nudged.view(-1)[-1] += 1e-3
        assert convert({**state, key: nudged}).fingerprint != same


def test_half_precision_is_read_as_float32():
    generator = convert({key: value.half() for key, value in state_of(PLAIN).items()})
    assert {value.dtype for value in generator.state_dict().values()} == {torch.float32}


def test_the_mean_w_that_a_training_run_lacks_is_computed_from_many_latents():
    state = {key: value for key, value in state_of(ROSINALITY).items() if key != "latent_avg"}
    generator, again = convert(state), convert(state)
    with torch.no_grad():
        mean = generator.mapping(generator.latents(range(4096))).mean(0)
    assert (generator.mapping.w_avg - mean).abs().max() < 1e-5 * mean.abs().max()
    assert generator.fingerprint == again.fingerprint != from_disk(ROSINALITY).fingerprint


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("layout", ["nvidia", "rosinality", "genforce", "gandissect"])
def test_a_generator_written_in_any_layout_is_read_as_the_same(name, layout):
    generator = from_disk(name)
    try:
        state = rewrite_as(generator, layout)
    except InputError as refusal:
        assert layout not in WRITTEN[generator.architecture] or "filter" in str(refusal) and name == GENFORCE
        return
    again = convert(state, conv_clamp=golden(name).get("conv_clamp"), clamp=False)
    if layout == "genforce" and name != GENFORCE:  # which stores its styles less one, and so rounds them
        z = golden(EXPECTED[name])["z"]
        again.config = generator.config
        assert close(again(z), generator(z))
    else:
        assert again.fingerprint == generator.fingerprint


@pytest.mark.parametrize(
    ("name", "layout"),
    [(PLAIN, "nvidia"), (ROSINALITY, "rosinality"), (GENFORCE, "genforce"), (GANDISSECT, "gandissect")],
)
def test_a_layout_is_written_with_the_names_and_shapes_of_published_files(name, layout):
    wanted, written = state_of(name), rewrite_as(from_disk(name), layout)
    assert {key: tuple(value.shape) for key, value in written.items()} == {
        key: tuple(value.shape) for key, value in wanted.items()
    }
    assert all((written[key] - wanted[key]).abs().max() < 1e-6 for key in wanted)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("mapping.embed.weight", "conditional"),
        ("mapping.embed_proj.weight", "StyleGAN-XL"),
        ("synthesis.blocks.4x4.const", "StyleGAN1"),
        ("generator.progression.0.conv1.weight", "StyleGAN1"),
        ("synthesis.layer0.style.dense.weight", "StyleGAN1"),
        ("synthesis.b8.skip.weight", "residual"),
        ("synthesis.b8.convs1.0.weight", "StyleGAN-T"),
        ("synthesis/4x4/Const/StyleMod/weight", "StyleGAN1"),
        ("synthesis/ToRGB_lod0/weight", "configuration C or D"),
        ("synthesis/8x8/Skip/weight", "residual"),
        ("mapping/LabelConcat/weight", "conditional"),
        ("4x4/Dense/weight", "Progressive GAN of TensorFlow: take GAN Dissection's or GenForce's file"),
        ("scaleLayers.0.0.module.weight", "PyTorch GAN Zoo's Progressive GAN"),
        ("Model.MainLayers.0.Layers.0.Basis", "R3GAN"),
        ("layers.0.0.2.1.weight", "Lightweight GAN of version 0.21"),
        ("GE.blocks.0.conv1.weight", "lucidrains"),
        ("to_rgbs.0.iwt.ll", "SWAGAN"),
        ("backbone.synthesis.b4.const", "EG3D"),
        ("blocks.0.0.bn1.gain.weight", "BigGAN"),
        ("shared.weight", "BigGAN"),
        ("stylegan_decoder.style_mlp.1.weight", "GFPGAN"),
        ("encoder.styles.0.convs.0.weight", "encoder of photos"),
        ("model.diffusion_model.input_blocks.0.0.weight", "diffusion"),
        ("down_blocks.0.resnets.0.conv1.weight", "diffusion"),
        ("first_stage_model.decoder.conv_in.weight", "autoencoder"),
        ("encoder.down.0.block.0.conv1.weight", "autoencoder"),
        ("b16.fromrgb.weight", "discriminator"),
        ("convs.1.conv1.0.weight", "discriminator"),
        ("convs.0.0.weight", "discriminator"),
        ("final_linear.0.weight", "discriminator"),
        ("layer1.0.conv1.weight", "classifier"),
    ],
)
def test_an_unsupported_network_is_refused_with_the_reason(key, reason):
    text = faults({**state_of(PLAIN), key: torch.zeros(1)})
    assert "not supported, because" in text and reason in text and key in text


def in_file(path, data):
    """What a file of torch.save that holds this is converted to."""
    torch.save(data, path)
    state, options = read_checkpoint(path)
    return convert(state, **options).fingerprint


def test_weights_are_found_in_whatever_training_code_puts_them(tmp_path):
    state, other = state_of(PLAIN), {key: value * 2 for key, value in state_of(PLAIN).items()}
    parallel = {f"module.{key}": value for key, value in state.items()}
    one, path = convert(state).fingerprint, tmp_path / "file.pt"
    training = {"generator_smooth": state, "generator": other, "discriminator": {"x": torch.zeros(1)}}
    for data in (
        *(state, parallel, {"g_ema": parallel, "epoch": 3}, {"G_ema": state, "G": other}, {"G": state}),
        *({"g": state, "d": {}}, {"g": other, "g_ema": state}, {"params_ema": state, "params": other}),
        {"models": training, "running_metadata": {"iter": 3}},
    ):
        assert in_file(path, data) == one
    with pytest.raises(InputError, match="both with 'module.' in front of their names and without"):
        in_file(path, {**parallel, "mapping.w_avg": torch.zeros(64)})


def test_a_mean_w_may_have_more_axes_and_lie_beside_parallel_weights(tmp_path):
    state = state_of(ROSINALITY)
    average, one = state.pop("latent_avg"), from_disk(ROSINALITY).fingerprint
    for shape in ((64,), (1, 64), (1, 1, 64)):
        inside = {f"module.{key}": value for key, value in state.items()}
        assert in_file(tmp_path / "file.pt", {"g_ema": inside, "latent_avg": average.reshape(shape)}) == one
    with pytest.raises(InputError, match=r"latent_avg is \(2, 32\) instead of \(64,\)"):
        in_file(tmp_path / "file.pt", {"g_ema": state, "latent_avg": average.reshape(2, 32)})


def test_what_holds_no_state_dict_says_what_it_holds(tmp_path):
    found = {"a list without names": [torch.zeros(1)], "a dict of 'epoch', 'loss'": {"epoch": 3, "loss": []}}
    for said, data in found.items():
        with pytest.raises(InputError, match=said):
            in_file(tmp_path / "file.pt", data)


# GAN Dissection's older names, and BasicSR's, as their code has them.
OLDER_NAMES = {r"layer(\d+)\.": lambda match: f"features.{int(match[1]) - 1}.", r"output_32x32\.": "output."}
BASICSR = {
    r"style\.(\d)": r"style_mlp.\1",
    r"input\.input": "constant_input.weight",
    r"conv1\.conv\.": "style_conv1.modulated_conv.",
    r"conv1\.noise\.weight": "style_conv1.weight",
    r"conv1\.activate": "style_conv1.activate",
    r"convs\.(\d+)\.conv\.": r"style_convs.\1.modulated_conv.",
    r"convs\.(\d+)\.noise\.weight": r"style_convs.\1.weight",
    r"convs\.(\d+)\.activate": r"style_convs.\1.activate",
    r"(to_rgb1|to_rgbs\.\d+)\.conv\.": r"\1.modulated_conv.",
    r"noises\.noise_(\d+)": r"noises.noise\1",
}


def renamed(state, table):
    """A state dict under other names; the first pattern that matches the beginning of a name changes it."""
    out = {}
    for key, value in state.items():
        pattern = next((pattern for pattern in table if re.match(pattern, key)), None)
        out[re.sub(rf"\A{pattern}", table[pattern], key, count=1) if pattern else key] = value
    return out


def test_gan_dissections_older_names_are_read():
    older = renamed(state_of(GANDISSECT), OLDER_NAMES)
    assert {"features.0.conv.weight", "features.7.wscale.b", "output.conv.weight", "output.wscale.b"} <= older.keys()
    assert convert(older).fingerprint == from_disk(GANDISSECT).fingerprint
    del older["features.3.wscale.b"]
    assert "missing features.3.wscale.b" in faults(older)


def test_basicsrs_names_are_read_and_written(tmp_path):
    plain = {key: value for key, value in state_of(ROSINALITY).items() if not key.endswith("kernel")}
    theirs, generator = renamed(plain, BASICSR), from_disk(ROSINALITY)
    assert {"style_mlp.1.weight", "style_conv1.weight", "style_convs.0.modulated_conv.modulation.bias"} <= theirs.keys()
    assert convert(theirs).fingerprint == generator.fingerprint
    written = rewrite_as(generator, "basicsr")
    assert written.keys() == theirs.keys() and all(torch.equal(written[key], theirs[key]) for key in theirs)
    export(generator, tmp_path / "file.pth", "basicsr")
    state, options = read_checkpoint(tmp_path / "file.pth")
    assert convert(state, **options).fingerprint == generator.fingerprint
    assert torch.load(tmp_path / "file.pth", weights_only=True).keys() == {"latent_avg", "params_ema"}


# The sizes are read from these; without one, others are reported as well.
TELLING = {
    PLAIN: ["mapping.fc7.weight", "synthesis.b4.const", *(f"synthesis.b{side}.conv1.weight" for side in (4, 8, 16))],
    GANDISSECT: [f"layer{i}.conv.weight" for i in range(1, 9)],
}


@pytest.mark.parametrize("name", [PLAIN, GANDISSECT, ROSINALITY, GENFORCE, GENFORCE_PROGGAN])
def test_every_missing_tensor_is_named_as_in_the_file(name):
    state, unused = state_of(name), ("latent_avg", "lod", *(UNUSED if name == GENFORCE_PROGGAN else ()))
    needed = [key for key in state if not key.endswith(("kernel", "filter")) and not key.startswith(unused)]
    for key in [*TELLING.get(name, ()), *needed[::5]]:
        assert f"missing {key}" in faults({other: value for other, value in state.items() if other != key})


def test_all_faults_are_reported_together():
    state = state_of(PLAIN)
    del state["synthesis.b8.conv0.bias"]
    state["mapping.fc3.bias"] = torch.zeros(65)
    state["synthesis.b16.torgb.bias"][1] = float("nan")
    state["synthesis.b4.conv1.noise_const"][0, 0] = float("inf")
    state["synthesis.b16.surprise"] = torch.zeros(1)
    text = faults(state)
    assert "missing synthesis.b8.conv0.bias" in text and "unexpected synthesis.b16.surprise" in text
    assert "mapping.fc3.bias is (65,) instead of (64,)" in text and "synthesis.b16.torgb.bias holds NaN" in text
    assert "synthesis.b4.conv1.noise_const holds NaN or infinity" in text


def test_faults_of_other_layouts_are_named_too():
    state = state_of(GANDISSECT)
    for key in ("layer3.wscale.b", "output_32x32.conv.weight"):
        assert f"{key} is" in faults({**state, key: torch.zeros(1, 2)})
        assert f"{key} holds NaN" in faults({**state, key: state[key] * float("nan")})
    assert "unexpected extra" in faults({**state, "extra": torch.zeros(1)})
    assert "unexpected convs.0.strange" in faults({**state_of(ROSINALITY), "convs.0.strange": torch.zeros(1)})
    assert "not 7" in faults({key: value for key, value in state.items() if not key.startswith("layer8")})
    assert "mapping.fc0.weight" in faults({**state_of(PLAIN), "mapping.fc0.weight": torch.zeros(64)})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (PLAIN, "synthesis.b8.conv0.resample_filter"),
        (ROSINALITY, "convs.0.conv.blur.kernel"),
        (ROSINALITY, "to_rgbs.1.upsample.kernel"),
    ],
)
def test_another_blur_filter_is_refused(name, key):
    state = state_of(name)
    flat = torch.ones(4, 4)
    for kernel in (flat / flat.sum() * state[key].sum(), state[key] * 2, torch.ones(3, 3), state[key] * float("nan")):
        assert f"{key} is not the filter" in faults({**state, key: kernel})


@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(1)}, {"layers.0.weight": torch.zeros(1)}])
def test_an_unknown_layout_is_refused_with_its_names_and_the_known_ones(state):
    text = faults(state)
    assert "unknown checkpoint layout" in text and "rosinality" in text and all(key in text for key in state)


def test_absurd_widths_are_refused_before_memory_is_taken_for_them():
    state = {key: value for key, value in state_of(ROSINALITY).items() if key != "latent_avg"}
    state["style.1.weight"] = torch.zeros(64, 1 << 20)
    assert "style.1.weight" in faults(state) and "no generator has more than" in faults(state)
    state = {**state_of(GANDISSECT), "layer8.conv.weight": torch.zeros(1 << 20, 1, 3, 3)}
    assert "layer8.conv.weight" in faults(state)


def published(generator, file):
    """Write a generator of config F as others publish it, with the other networks of a training run."""
    if file.name == "nvidia.pkl":
        networks = [persistence.network(rewrite_as(generator, "nvidia")) for _ in range(3)]
        file.write_bytes(persistence.dumps(dict(zip(("G", "D", "G_ema"), networks, strict=True))))
    elif file.name == "tensorflow.pkl":
        state = generator.state_dict()
        networks = [tensorflow_pickles.network(state, resolution=generator.resolution) for _ in range(3)]
        file.write_bytes(tensorflow_pickles.dumps(tuple(networks)))
    elif file.suffix == ".pt":
        state = rewrite_as(generator, "rosinality")
        weights = {"latent_avg": state.pop("latent_avg"), "g_ema": state}
        torch.save(weights, file, _use_new_zipfile_serialization=file.name != "old.pt")
        assert abs(file.stat().st_size / 120_878_283 - 1) < 1e-3  # as published
    else:
        save(generator, file.parent)


@pytest.mark.hostile
@pytest.mark.parametrize("file", ["new.pt", "old.pt", "ours/model.safetensors", "nvidia.pkl", "tensorflow.pkl"])
def test_loading_a_file_of_real_size_takes_hardly_more_memory_than_its_weights(file, tmp_path):
    generator, file = random_config_f(256), tmp_path / file
    published(generator, file)
    weights = sum(value.nbytes for value in generator.state_dict().values())
    del generator
    load_generator(str(file), device="cpu")  # what is loaded once in a process does not count
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    assert load_generator(str(file), device="cpu").fingerprint
    assert memory("VmHWM") - before < 1.2 * weights
