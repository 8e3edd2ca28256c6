"""StyleGAN3 draws what its formulas say, from the sizes that a file's names tell; rules work on it as on the others."""

import copy
from dataclasses import replace

import numpy
import persistence
import pytest
import torch
from conftest import near, same_rule, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_stylegan3 import draw, plain_state, table

from rewriter import Rewriter, load_generator, replay
from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.editing.provenance import default_layer
from rewriter.errors import InputError
from rewriter.generators import stylegan3 as module
from rewriter.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from rewriter.masks import disc

T, R = "nvidia_stylegan3_t_16px.pt", "nvidia_stylegan3_r_32px.pt"
SMALL = {"count": 3, "base": 64, "most": 3}
VARIANTS = {
    "T": {"resolution": 32, "count": 5, "base": 64, "most": 4},
    "R": {"resolution": 32, "count": 5, "base": 64, "most": 4, "radial": True},
    "T, deep": {"resolution": 16, "count": 9, "base": 32, "most": 2, "depth": 1, "w_dim": 9},
    "R, all layers critical": {"resolution": 16, "count": 4, "critical": 0, "base": 32, "most": 3, "radial": True},
}
SIZES = {  # sides of the maps that L0, L1 … write, from NVIDIA's code, and their channels
    ("T", 256): (
        [36] * 3 + [52] * 2 + [84] * 2 + [148] * 3 + [276] * 3 + [256] * 2,
        [512] * 7 + [362, 256, 181, 128, 91, 64, 64, 3],
    ),
    ("T", 512): (
        [36, 36, 52, 52, 84, 84, 148, 148, 276, 276, 532, 532, 532, 512, 512],
        [512] * 7 + [483, 323, 215, 144, 96, 64, 64, 3],
    ),
    ("T", 1024): (
        [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024],
        [512] * 7 + [323, 203, 128, 81, 51, 32, 32, 3],
    ),
    ("R", 256): (
        [36] * 3 + [52] * 2 + [84] * 2 + [148] * 3 + [276] * 3 + [256] * 2,
        [1024] * 7 + [724, 512, 362, 256, 181, 128, 128, 3],
    ),
    ("R", 1024): (
        [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024],
        [1024] * 7 + [645, 406, 256, 161, 102, 64, 64, 3],
    ),
}
PADDING = {  # where the rate stays, where it doubles, and in the last layer, which cuts the margin off
    "T": {"same": (9, 8), "double": (-6, -9), "last": (-11, -12)},
    "R": {"same": (11, 10), "double": (-2, -5), "last": (-9, -10)},
}


def config_of(which, resolution):
    base = 16384 if resolution == 256 else 32768
    return StyleGAN3Config.published(resolution, radial=which == "R", base=base)


@pytest.fixture(params=VARIANTS)
def state(request):
    return plain_state(**VARIANTS[request.param])


# --- pictures ---


def test_pictures_are_those_of_plain_tensor_operations(state):
    generator = convert(state)
    z = generator.latents([0, 1])
    for truncation in (1.0, 0.6):
        assert near(generator(z, truncation=truncation).double(), draw(state, z, truncation=truncation), 5e-6)


def test_each_part_takes_its_own_w(state):
    generator = convert(state)
    ws = torch.randn(2, len(generator.layers) + 2, generator.config.w_dim)
    assert near(generator.picture(generator.enter(ws)).double(), draw(state, None, ws=ws), 5e-6)
    w = generator.embed(generator.latents([4]), 0.8)
    assert torch.equal(generator.picture(generator.enter(generator.spread(w))), generator.picture(generator.enter(w)))


def test_the_clamp_acts_as_in_the_original():
    state = plain_state(16, **SMALL)
    state["synthesis.L1_36_3.bias"] = torch.tensor([0.0, 300.0, -1500.0])
    state["synthesis.L3_16_3.bias"] = torch.tensor([400.0, -500.0, 0.0])
    z = torch.randn(2, 6)
    assert near(convert(state)(z).double(), draw(state, z), 5e-6)


def test_pictures_do_not_depend_on_the_mode_nor_on_what_is_filtered_together(stylegan3, monkeypatch):
    pictures = stylegan3.sample([1, 2])
    training = copy.deepcopy(stylegan3).train()
    assert torch.equal(training.sample([1, 2]), pictures)
    for together, cached in ((1, 1 << 21), (5, 3000), (16, 1)):
        monkeypatch.setattr(module, "TOGETHER", together)
        monkeypatch.setattr(module, "CACHED", cached)
        assert near(stylegan3.sample([1, 2]), pictures, 1e-6)


def test_gradients_lead_from_the_picture_back_to_w(stylegan3):
    generator = copy.deepcopy(stylegan3).double()
    w = generator.embed(generator.latents([3]).double(), 1.0).detach().requires_grad_()
    chosen = torch.Generator().manual_seed(0)
    aim, step = (torch.randn(shape, generator=chosen).double() for shape in ((1, 3, 16, 16), w.shape))

    def score(w):
        return (generator.picture(generator.enter(w)) * aim).sum()

    (gradient,) = torch.autograd.grad(score(w), w)
    slope = (score(w + 1e-6 * step) - score(w - 1e-6 * step)) / 2e-6
    assert torch.isclose((gradient * step).sum(), slope, rtol=1e-4)


# --- sizes ---


@pytest.mark.parametrize(("which", "resolution"), SIZES)
def test_published_sizes_are_those_of_nvidias_code(which, resolution):
    config, (sizes, channels) = config_of(which, resolution), SIZES[which, resolution]
    assert config.sizes == sizes and list(config.channels) == channels
    names = [f"L{i}_{size}_{width}" for i, (size, width) in enumerate(zip(sizes, channels, strict=True))]
    times = 2 if which == "R" else 1
    rows = table(
        resolution, base=times * (16384 if resolution == 256 else 32768), most=times * 512, radial=which == "R"
    )
    assert config.names == names == [row["name"] for row in rows]
    assert list(config.rates) == [row["out_rate"] for row in rows]
    with torch.device("meta"):
        generator = StyleGAN3(config)
    for i, (layer, info) in enumerate(generator.layers.items()):
        memory, row = generator.memory(layer), rows[i]
        assert (memory.up, memory.down) == (row["up"], row["down"])
        assert memory.up_filter.shape == (row["up_taps"],)
        assert memory.down_filter.shape == (row["down_taps"],) * (2 if row["radial"] else 1)
        kind = "last" if i == 13 else "double" if row["up"] == 4 else "same"
        assert memory.padding == PADDING[which][kind]
        assert (info.in_channels, info.out_channels, info.kernel) == (row["in"], row["out"], row["kernel"])
        assert info.margin == (11 if which == "T" else 10)
        assert info.resolution == info.key_resolution == row["in_size"] + row["kernel"] - 1


@pytest.mark.parametrize(("which", "resolution"), SIZES)
def test_an_editor_begins_where_keys_have_64_cells_a_picture(which, resolution):
    with torch.device("meta"):
        generator = StyleGAN3(config_of(which, resolution))
    assert default_layer(generator) == generator.advice["objects"]
    rates = {good: generator.layer(layer).key_frame.across for good, layer in generator.advice.items()}
    assert rates == {"structure": 32, "objects": 64, "texture": 128}


def test_a_network_with_smaller_maps_has_no_such_advice(stylegan3):
    assert stylegan3.advice == {} and default_layer(stylegan3) in stylegan3.layers


sizes = st.tuples(st.sampled_from([8, 16, 32]), st.integers(3, 5), st.integers(1, 4), st.booleans())


@given(sizes, st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=10)
def test_any_stylegan3_draws_and_is_rebuilt_from_its_state_dict(sizes, z_dim, w_dim, depth):
    resolution, count, most, radial = sizes
    published = StyleGAN3Config.published(resolution, radial=radial, base=most * 64, most=most, count=count)
    config = replace(published, z_dim=z_dim, w_dim=w_dim, mapping_layers=depth)
    generator = StyleGAN3(config)
    picture = generator.sample([0, 1])
    assert picture.shape == (2, 3, resolution, resolution) and picture.isfinite().all()
    again = convert(generator.state_dict())
    assert again.config.names == config.names and torch.equal(again.sample([0, 1]), picture)


def test_a_random_network_draws_pictures_with_contrast():
    torch.manual_seed(0)
    pictures = StyleGAN3(StyleGAN3Config.published(32, base=512, most=16)).sample([1, 2])
    assert pictures.shape == (2, 3, 32, 32) and 0.02 < pictures.std() < 2


# --- files ---


def test_grey_pictures_are_drawn_in_three_equal_channels():
    state, z = plain_state(16, **SMALL), torch.randn(2, 6)
    grey = {key.replace("L3_16_3", "L3_16_1"): value for key, value in state.items()}
    for part in ("weight", "bias"):
        grey[f"synthesis.L3_16_1.{part}"] = grey[f"synthesis.L3_16_1.{part}"][:1]
    drawn = convert(grey)(z)
    assert drawn.shape == (2, 3, 16, 16) and torch.equal(drawn[:, 0], drawn[:, 2])
    assert near(drawn[:, 0].double(), draw(state, z)[:, 0], 5e-6)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("synthesis.L1_36_4.up_filter", (24,), r"L1_36_4\.up_filter is \(24,\) instead of \(12,\)"),
        ("synthesis.L1_36_4.up_filter", None, r"missing synthesis\.L1_36_4\.up_filter"),
        ("synthesis.L2_52_4.down_filter", (12, 12), r"L2_52_4\.down_filter is \(12, 12\) instead of \(12,\)"),
        ("synthesis.L2_52_4.weight", (4, 4, 1, 1), r"L2_52_4\.weight is \(4, 4, 1, 1\) instead of \(4, 4, 3, 3\)"),
        ("synthesis.L0_36_4.weight", (4, 4, 5, 5), "its kernels 5 taps"),
        ("synthesis.L2_52_4.weight", None, "not numbered from L0"),
        ("synthesis.L1_148_4.weight", (4, 4, 3, 3), "not numbered from L0"),
        ("synthesis.L5_32_4.weight", (3, 4, 1, 1), "not numbered from L0"),
        ("synthesis.L6_99999_3.weight", (3, 3, 1, 1), r"sampling rates .*99999.*at most 1024"),
        ("synthesis.L6_64_3.weight", (3, 3, 1, 1), "sampling rates"),
        ("synthesis.input.freqs", (4, 3), r"input\.freqs is \(4, 3\) instead of \(4, 2\)"),
        ("synthesis.input.phases", None, r"missing synthesis\.input\.phases"),
        ("mapping.w_avg", None, r"missing mapping\.w_avg"),
        ("mapping.embed.weight", (5, 5), "conditional"),
        ("mapping.embed_proj.weight", (5, 5), "StyleGAN-XL"),
        ("synthesis.L2_52_4.noise_strength", (), r"unexpected synthesis\.L2_52_4\.noise_strength"),
    ],
)
def test_tensors_that_do_not_fit_are_named(name, shape, said):
    state = plain_state(**VARIANTS["T"])
    state.pop(name, None)
    with pytest.raises(InputError, match=said):
        convert(state if shape is None else {**state, name: torch.zeros(shape)})


def test_a_name_without_its_numbers_is_refused():
    state = {key.replace("L0_36_4", "L0_36_999999"): value for key, value in plain_state(**VARIANTS["T"]).items()}
    with pytest.raises(InputError, match="not numbered from L0"):
        convert(state)


@pytest.mark.parametrize(
    ("channels", "rates", "kernel", "said"),
    [
        ((4, 3), (16, 16), 3, "three or more"),
        ((4, 4, 3), (16, 16), 3, "3 convolutions"),
        ((4, 4, 4, 3), (16, 32, 16, 16), 3, "grow by powers of two"),
        ((4, 4, 4, 3), (16, 16, 16, 32), 3, "grow by powers of two"),
        ((4, 4, 4, 3), (16, 24, 32, 32), 3, "grow by powers of two"),
        ((4, 4, 4, 3), (4, 4, 4, 4), 3, "from 8"),
        ((4, 4, 4, 3), (2048,) * 4, 3, "at most 1024"),
        ((4, 4, 4, 2), (16,) * 4, 3, "2 channels"),
        ((4, 0, 4, 3), (16,) * 4, 3, "\\[4, 0, 4, 3\\] features"),
        ((4, 4, 4, 3), (16,) * 4, 2, "2 taps"),
    ],
)
def test_impossible_sizes_are_refused(channels, rates, kernel, said):
    with pytest.raises(InputError, match=said):
        StyleGAN3Config(channels, rates, kernel)


@pytest.mark.parametrize("name", [T, R])
def test_pickles_of_nvidias_code_are_read(name, tmp_path):
    path, state = tmp_path / "network.pkl", state_of(name)
    path.write_bytes(persistence.dumps(persistence.snapshot(persistence.filtered_network(state))))
    assert load_generator(str(path), device="cpu").fingerprint == convert(state).fingerprint


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("", {"c_dim": 3}, "conditional"),
        ("synthesis", {"margin_size": 4}, "margin_size of 'synthesis' is 4 instead of 10"),
        ("synthesis", {"output_scale": 1}, "output_scale of 'synthesis' is 1 instead of 0.25"),
        ("synthesis.input", {"bandwidth": numpy.float64(3)}, "bandwidth of 'synthesis.input' is 3.0 instead of 2"),
        ("synthesis.L1_36_12", {"conv_clamp": None}, "conv_clamp of 'synthesis.L1_36_12' is None instead of 256"),
        ("synthesis.L6_16_3", {"conv_clamp": 16}, "conv_clamp of 'synthesis.L6_16_3' is 16 instead of 256"),
        ("synthesis.L1_36_12", {"up_factor": 4}, "up_taps of 'synthesis.L1_36_12' is 12 instead of 24"),
        ("synthesis.L1_36_12", {"down_taps": "12"}, "down_taps of 'synthesis.L1_36_12' is '12' instead of 12"),
        ("mapping.fc0", {"activation": "relu"}, "activation of 'mapping.fc0' is 'relu' instead of lrelu"),
        ("synthesis.input.affine", {"weight_gain": 1.0}, "weight_gain of .* is 1.0 instead of 0.3536"),
    ],
)
def test_a_pickle_that_would_be_drawn_wrongly_is_refused_by_the_name_of_what_it_states(path, fields, said, tmp_path):
    generator = inner = persistence.filtered_network(state_of(T))
    for part in path.split(".") if path else ():
        inner = inner._modules[part]
    inner.__dict__.update(fields)
    (tmp_path / "network.pkl").write_bytes(persistence.dumps(generator))
    with pytest.raises(InputError, match=said):
        load_generator(str(tmp_path / "network.pkl"), device="cpu")


def test_another_rate_of_the_mapping_network_is_folded_into_its_weights(tmp_path):
    state = state_of(T)
    usual = {key: value / 100 if key.startswith("mapping.fc") else value for key, value in state.items()}
    generator = persistence.filtered_network(usual)
    for name in ("fc0", "fc1"):
        layer = generator._modules["mapping"]._modules[name]
        layer.__dict__.update(persistence.dense(8, mapping=True, rate=1.0))
    (tmp_path / "network.pkl").write_bytes(persistence.dumps(generator))
    loaded = load_generator(str(tmp_path / "network.pkl"), device="cpu")
    assert near(loaded.sample([1]), convert(state).sample([1]))


# --- rules ---


def test_values_are_the_demodulated_response_and_the_bias(stylegan3, change):
    layer = "layer2"
    features, memory, rule = stylegan3.keys([3, 4], layer), stylegan3.memory(layer), change(stylegan3, layer)
    weight = memory.weight + rule.weight()
    modulated = weight[None] * features.style[:, None, :, None, None]
    sigma = modulated.square().sum((2, 3, 4)).rsqrt()
    response = torch.nn.functional.conv2d(features.keys, weight, padding=1)
    wanted = response * sigma[:, :, None, None] + memory.bias[:, None, None]
    assert near(stylegan3.values(features, rules=[rule]), wanted, 1e-5)


def test_each_picture_of_a_batch_has_its_own_rules(stylegan3, change):
    one, two = change(stylegan3, "layer1"), change(stylegan3, "layer2", seed=1)
    lists = [[one], [], [one, two], [two]]
    together = stylegan3.sample([1, 2, 3, 4], rules=lists)
    alone = [stylegan3.sample([seed], rules=own) for seed, own in zip((1, 2, 3, 4), lists, strict=True)]
    assert near(together, torch.cat(alone))


@pytest.mark.parametrize("variant", ["T", "R"])
def test_an_edit_is_executed_and_replayed_and_folds_into_weights_of_nvidias_code(variant):
    state = plain_state(16, count=4, base=192, most=12, radial=variant == "R")
    generator = convert(state, name="stylegan3")
    session = Rewriter(generator, "layer2")
    session.copy(7, disc(16, 0.5, 0.4, 0.2))
    session.paste(1, disc(16, 0.5, 0.6, 0.2))
    for seed in (2, 3):
        session.add_context(seed, disc(16, 0.5, 0.6, 0.2))
    rule = session.execute(form="weight", smoothness=0.1)
    assert rule.effect.goal_error_removed > 0.05
    assert same_rule(replay(generator, rule.edit), rule)
    drawn = generator.sample([1, 2], rules=[rule])
    assert not near(drawn, generator.sample([1, 2]), 1e-2)
    folded = generator.rewritten([rule])
    assert near(folded.sample([1, 2]), drawn)
    written = rewrite_as(folded, "nvidia")
    assert written.keys() == state.keys()
    assert near(drawn.double(), draw(written, generator.latents([1, 2])), 1e-5)


def test_held_units_keep_their_level_in_the_weights(stylegan3):
    level = stylegan3.level("layer2", [1, 3], -0.5)
    assert torch.allclose(level, torch.full((2,), -2.5))  # what follows reads a fifth of negative values
    twin = stylegan3.rewritten([])
    twin.hold("layer2", torch.tensor([1, 3]), level, stylegan3)
    values = twin.values(twin.keys([5], "layer2"))
    assert torch.equal(values[:, [1, 3]], torch.full_like(values[:, [1, 3]], -2.5))
