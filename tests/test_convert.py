"""Published layouts → generators: parity with each format's own reference, and every key accounted for."""

import pytest
import torch
from conftest import golden, state_of

from rewriter.checkpoints.convert import convert
from rewriter.errors import InputError

PLAIN, CLAMPED = "nvidia_stylegan2_16px_plain.pt", "nvidia_stylegan2_16px_clamped.pt"
ROSINALITY, GANDISSECT = "rosinality_stylegan2_16px.pt", "gandissect_proggan_32px.pth"
EXPECTED = {
    PLAIN: PLAIN,
    CLAMPED: CLAMPED,
    ROSINALITY: "rosinality_stylegan2_16px_expected.pt",
}


def close(picture, expected):
    return (picture - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


def converted(name):
    return convert(state_of(name), conv_clamp=golden(name).get("conv_clamp"))


# --- parity ---


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("psi", [1.0, 0.7])
def test_stylegan2_draws_what_its_reference_draws(name, psi):
    expected = golden(EXPECTED[name])
    assert close(converted(name)(expected["z"], truncation=psi), expected[f"image_psi_{psi}"])


def test_the_clamp_matters_and_cannot_be_seen_in_the_weights():
    expected = golden(CLAMPED)
    assert not close(convert(state_of(CLAMPED))(expected["z"]), expected["image_psi_1.0"])


def test_proggan_draws_what_its_reference_draws():
    expected = golden("gandissect_proggan_32px_expected.pt")
    assert close(convert(state_of(GANDISSECT))(expected["z"]), expected["image"])


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


# --- refusals ---


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


def test_nothing_may_be_missing_from_a_rosinality_file():
    state = state_of(ROSINALITY)
    for key in essential(ROSINALITY):
        assert faults({other: value for other, value in state.items() if other != key})


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
