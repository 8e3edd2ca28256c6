"""Published layouts → generators: parity with each format's own reference, and every key accounted for."""

import pytest
import torch
from conftest import DATA, golden, state_of

from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.checkpoints.read import read_checkpoint
from rewriter.checkpoints.store import save
from rewriter.errors import InputError
from rewriter.evaluation.benchmark import random_config_f
from rewriter.evaluation.coldstart import cold_start

GENFORCE, GENFORCE_PROGGAN = "genforce_stylegan2_16px.bin", "genforce_pggan_32px.bin"
UNUSED = ("output0", "output1", "output2")  # the lower resolutions of a Progressive GAN
PLAIN, CLAMPED = "nvidia_stylegan2_16px_plain.pt", "nvidia_stylegan2_16px_clamped.pt"
ROSINALITY, GANDISSECT = "rosinality_stylegan2_16px.pt", "gandissect_proggan_32px.pth"
EXPECTED = {
    PLAIN: PLAIN,
    CLAMPED: CLAMPED,
    ROSINALITY: "rosinality_stylegan2_16px_expected.pt",
    GENFORCE: "genforce_stylegan2_16px_expected.pt",
    GANDISSECT: "gandissect_proggan_32px_expected.pt",
    GENFORCE_PROGGAN: "genforce_pggan_32px_expected.pt",
}


def close(picture, expected):
    return (picture - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


def converted(name):
    return convert(state_of(name), conv_clamp=golden(name).get("conv_clamp"))


# --- parity ---


def from_disk(name):
    """As `load_generator` reads it."""
    state, options = read_checkpoint(DATA / name)
    return convert(state, **options)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_layout_draws_from_its_file_what_its_reference_draws(name):
    expected, generator = golden(EXPECTED[name]), from_disk(name)
    drawn = [key for key in expected if key.startswith("image")]
    assert drawn
    for key in drawn:
        psi = float(key.removeprefix("image_psi_")) if "psi" in key else 1.0
        assert close(generator(expected["z"], truncation=psi), expected[key])


def test_the_clamp_matters_and_cannot_be_seen_in_the_weights():
    expected = golden(CLAMPED)
    assert not close(convert(state_of(CLAMPED))(expected["z"]), expected["image_psi_1.0"])


def test_a_proggan_is_clamped_unless_told_otherwise():
    z = golden("gandissect_proggan_32px_expected.pt")["z"]
    free, cut = (convert(state_of(GANDISSECT), clamp=clamp)(z) for clamp in (False, True))
    assert free.abs().max() > 1 and torch.equal(free.clamp(-1, 1), cut)


@pytest.mark.parametrize("name", [PLAIN, CLAMPED])
def test_latents_w_agree_with_the_reference(name):
    expected = golden(name)
    assert close(converted(name).latents_w(expected["z"]), expected["w"])


def test_the_same_model_has_one_fingerprint_whatever_its_layout():
    assert converted(PLAIN).fingerprint == converted(ROSINALITY).fingerprint
    assert converted(PLAIN).fingerprint != converted(CLAMPED).fingerprint


@pytest.mark.parametrize("name", [PLAIN, ROSINALITY, GANDISSECT])
def test_fingerprints_ignore_the_order_of_keys_and_see_every_weight(name):
    state = state_of(name)
    same = convert(dict(reversed(state.items()))).fingerprint
    assert same == convert(state).fingerprint
    for key in [key for key in state if not key.endswith(("kernel", "filter"))][::7]:
        nudged = state[key].clone()
        nudged.view(-1)[-1] += 1e-3
        assert convert({**state, key: nudged}).fingerprint != same


@pytest.mark.parametrize("name", [PLAIN, GANDISSECT])
def test_canonical_names_convert_to_themselves(name):
    generator = converted(name)
    assert convert(generator.state_dict()).fingerprint == generator.fingerprint


def test_half_precision_is_read_as_float32():
    generator = convert({key: value.half() for key, value in state_of(PLAIN).items()})
    assert {value.dtype for value in generator.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("layout", ["nvidia", "rosinality", "genforce", "gandissect"])
def test_written_in_any_layout_and_read_again_it_is_the_same(name, layout):
    generator = from_disk(name)
    try:
        state = rewrite_as(generator, layout)
    except InputError as refusal:
        proggan = name in (GANDISSECT, GENFORCE_PROGGAN)
        assert proggan == (layout in ("nvidia", "rosinality")) or "filter" in str(refusal) and name == GENFORCE
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
def test_a_layout_is_written_with_the_names_and_shapes_that_its_files_have(name, layout):
    wanted, written = state_of(name), rewrite_as(from_disk(name), layout)
    assert {key: tuple(value.shape) for key, value in written.items()} == {
        key: tuple(value.shape) for key, value in wanted.items()
    }
    assert all((written[key] - wanted[key]).abs().max() < 1e-6 for key in wanted)


def test_the_missing_average_of_a_training_run_is_the_mean_of_many_latents():
    state = {key: value for key, value in state_of(ROSINALITY).items() if key != "latent_avg"}
    generator, again = convert(state), convert(state)
    with torch.no_grad():
        mean = generator.mapping(generator.latents(range(4096))).mean(0)
    assert (generator.mapping.w_avg - mean).abs().max() < 1e-5 * mean.abs().max()
    assert generator.fingerprint == again.fingerprint != from_disk(ROSINALITY).fingerprint


def test_a_filter_of_the_skip_connections_cannot_be_said_in_every_layout():
    with pytest.raises(InputError, match="genforce"):
        rewrite_as(from_disk(GENFORCE), "rosinality")


# --- refusals ---


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("mapping.embed.weight", "conditional"),
        ("synthesis.input.freqs", "StyleGAN3"),
        ("synthesis.L0_36_512.weight", "StyleGAN3"),
        ("synthesis.blocks.4x4.const", "StyleGAN1"),
        ("generator.progression.0.conv1.weight", "StyleGAN1"),
        ("synthesis.layer0.style.dense.weight", "StyleGAN1"),
        ("synthesis.b8.skip.weight", "residual"),
    ],
)
def test_what_is_not_supported_says_why(key, reason):
    text = faults({**state_of(PLAIN), key: torch.zeros(1)})
    assert "not supported, because" in text and reason in text and key in text


def faults(state):
    with pytest.raises(InputError) as caught:
        convert(state)
    return str(caught.value)


def essential(name):
    return [key for key in state_of(name) if not key.endswith(("kernel", "filter"))]


# The architecture is read from these; without one, others are reported instead, or the reading itself fails.
TELLING = {
    PLAIN: ["mapping.fc7.weight", "synthesis.b4.const", *(f"synthesis.b{side}.conv1.weight" for side in (4, 8, 16))],
    GANDISSECT: [f"layer{i}.conv.weight" for i in range(1, 9)],
}
TOLD = [(name, key) for name, keys in TELLING.items() for key in keys]


@pytest.mark.parametrize("name", TELLING)
def test_each_missing_key_is_named(name):
    state = state_of(name)
    for key in set(essential(name)) - set(TELLING[name]):
        text = faults({other: value for other, value in state.items() if other != key})
        assert key in text and "missing" in text


@pytest.mark.parametrize(("name", "key"), TOLD)
def test_each_missing_key_that_tells_the_architecture_is_named(name, key):
    state = state_of(name)
    del state[key]
    assert f"missing {key}" in faults(state)


@pytest.mark.parametrize("name", [ROSINALITY, GENFORCE, GENFORCE_PROGGAN])
def test_nothing_may_be_missing_and_all_is_named_as_in_the_file(name):
    state = state_of(name)
    for key in set(essential(name)) - {"latent_avg", "lod"}:
        if not key.startswith(UNUSED):
            assert f"missing {key}" in faults({other: value for other, value in state.items() if other != key})


def test_every_fault_is_named_at_once():
    state = state_of(PLAIN)
    del state["synthesis.b8.conv0.bias"]
    state["mapping.fc3.bias"] = torch.zeros(65)
    state["synthesis.b16.torgb.bias"][1] = float("nan")
    state["synthesis.b4.conv1.noise_const"][0, 0] = float("inf")
    state["synthesis.b16.surprise"] = torch.zeros(1)
    text = faults(state)
    assert "missing synthesis.b8.conv0.bias" in text
    assert "unexpected synthesis.b16.surprise" in text
    assert "mapping.fc3.bias is (65,) instead of (64,)" in text
    assert "synthesis.b16.torgb.bias holds NaN" in text
    assert "synthesis.b4.conv1.noise_const holds NaN or infinity" in text


@pytest.mark.parametrize("key", ["layer3.wscale.b", "output_32x32.conv.weight"])
def test_faults_of_a_proggan_are_named(key):
    state = state_of(GANDISSECT)
    assert f"{key} is" in faults({**state, key: torch.zeros(1, 2)})
    assert f"{key} holds NaN" in faults({**state, key: state[key] * float("nan")})
    assert "unexpected extra" in faults({**state, "extra": torch.zeros(1)})


def test_unknown_rosinality_names_are_reported():
    assert "unexpected convs.0.strange" in faults({**state_of(ROSINALITY), "convs.0.strange": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (PLAIN, "synthesis.b8.conv0.resample_filter"),
        (ROSINALITY, "convs.0.conv.blur.kernel"),
        (ROSINALITY, "to_rgbs.1.upsample.kernel"),
    ],
)
def test_another_blur_kernel_is_refused(name, key):
    state = state_of(name)
    flat = torch.ones(4, 4)
    for kernel in (flat / flat.sum() * state[key].sum(), state[key] * 2, torch.ones(3, 3), state[key] * float("nan")):
        assert f"{key} is not the filter" in faults({**state, key: kernel})


@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(1)}, {"layers.0.weight": torch.zeros(1)}])
def test_an_unknown_layout_is_refused(state):
    text = faults(state)
    assert "unknown checkpoint layout" in text and "rosinality" in text
    assert all(key in text for key in state)


def test_an_odd_number_of_proggan_layers_is_refused():
    state = {key: value for key, value in state_of(GANDISSECT).items() if not key.startswith("layer8")}
    assert "not 7" in faults(state)


def test_a_conditional_or_cut_mapping_is_refused():
    assert "mapping.fc0.weight" in faults({**state_of(PLAIN), "mapping.fc0.weight": torch.zeros(64)})


def test_what_is_far_too_wide_is_refused_before_anything_is_made_for_it():
    state = {key: value for key, value in state_of(ROSINALITY).items() if key != "latent_avg"}
    state["style.1.weight"] = torch.zeros(64, 1 << 20)
    assert "style.1.weight" in faults(state) and "no generator has more than" in faults(state)
    state = {**state_of(GANDISSECT), "layer8.conv.weight": torch.zeros(1 << 20, 1, 3, 3)}
    assert "layer8.conv.weight" in faults(state)


# --- at real size ---


@pytest.fixture(scope="module")
def church(tmp_path_factory):
    """Files of the size and layout of a published StyleGAN2 of 256 px, with random weights."""
    folder, generator = tmp_path_factory.mktemp("church"), random_config_f(256)
    state = rewrite_as(generator, "rosinality")
    published = {"latent_avg": state.pop("latent_avg"), "g_ema": state}
    torch.save(published, folder / "new.pt")
    torch.save(published, folder / "old.pt", _use_new_zipfile_serialization=False)
    save(generator, folder / "ours")
    return folder


def test_a_file_of_the_published_layout_has_the_published_size(church):
    assert abs((church / "new.pt").stat().st_size / 120_878_283 - 1) < 1e-3


@pytest.mark.parametrize("file", ["new.pt", "old.pt", "ours/model.safetensors"])
def test_loading_takes_hardly_more_memory_than_the_weights(church, file):
    memory = cold_start(church / file)["memory"]
    if memory is None:
        pytest.skip("this system does not tell how much memory a process has held")
    assert 0.9 < memory < 1.3
