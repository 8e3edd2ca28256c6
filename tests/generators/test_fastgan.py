"""FastGAN draws what plain torch draws, in the names of three implementations; gates are carried to where they act."""

from dataclasses import replace

import pytest
import torch
from conftest import DATA, golden, near, same_rule, square
from plain_fastgan import WIDTHS, plain_fastgan
from torch.nn.utils import parametrizations

from rewriter import Rewriter, load_generator, replay
from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.checkpoints.layouts import layout_for, remarks
from rewriter.checkpoints.store import export, load, save
from rewriter.editing.stroke import Stroke
from rewriter.errors import InputError
from rewriter.generators.fastgan import FastGAN, FastGANConfig
from rewriter.generators.latents import fixed_noise

ORIGINAL, PROJECTED, ALL = "fastgan-pytorch", "projected-gan", (8, 16, 32, 64, 128, 256)
VARIANTS = {
    "huggan": {},
    "as many latents as features": {"z_dim": 16},
    "original": {"layout": ORIGINAL},
    "original, 256 px": {"layout": ORIGINAL, "resolution": 256, "small": True},
    "projected": {"layout": PROJECTED, "twice": ALL},
    "projected, lite": {"layout": PROJECTED, "twice": ()},
    "original, 8 px": {"layout": ORIGINAL, "resolution": 8},
}
READ = VARIANTS | {
    "newer spectral norm": {"norm": parametrizations.spectral_norm},
    "no spectral norm": {"norm": None},
}


def drawn(plain, z):
    """Pictures of latents (n, z) by plain torch."""
    with torch.no_grad():
        return plain(z)


@pytest.fixture(scope="module", params=VARIANTS)
def plain(request):
    return plain_fastgan(**VARIANTS[request.param])


@pytest.mark.parametrize("variant", READ)
def test_pictures_are_those_of_plain_torch(variant):
    plain = plain_fastgan(**READ[variant])
    generator = convert(plain.state_dict())
    z = generator.latents(range(4))
    pictures = drawn(plain, z)
    assert near(generator(z), pictures, 1e-6) and pictures.std() > 0.03
    assert generator.resolution == pictures.shape[-1]


def test_golden_file_of_plain_torch_draws_the_same():
    generator = load_generator(str(DATA / "huggan_fastgan_64px.bin"), device="cpu")
    expected = golden("huggan_fastgan_64px_expected.pt")
    assert near(generator(expected["z"]), expected["image"], 1e-5)


def test_latents_of_a_projected_gan_are_normalised_and_then_truncated():
    projected = convert(plain_fastgan(PROJECTED).state_dict())
    z = projected.latents([3, 4])
    assert near(projected(3 * z), projected(z)) and not near(projected(z, truncation=0.5), projected(z), 1e-2)
    other = convert(plain_fastgan().state_dict())
    assert torch.equal(other.sample([3, 4], truncation=0.5), other(0.5 * other.latents([3, 4])))
    assert not near(other(3 * z), other(z), 1e-2)


def test_pictures_pass_through_tanh_as_in_the_code_that_the_file_is_from():
    def made(side):
        channels = {s: 1 for s in WIDTHS if s <= side}
        return rewrite_as(FastGAN(FastGANConfig(channels, z_dim=1)), ORIGINAL)

    assert [convert(made(side)).config.tanh for side in (256, 1024)] == [False, True]
    plain = plain_fastgan()
    assert near(convert(plain.state_dict(), tanh=False)(torch.ones(1, 6)).tanh(), drawn(plain, torch.ones(1, 6)))


def test_training_mode_changes_neither_pictures_nor_statistics(fastgan):
    before = fastgan.sample([1, 2])
    assert torch.equal(convert(fastgan.state_dict()).train().sample([1, 2]), before)


def test_noise_is_fixed_by_its_name_and_added_before_the_norm(fastgan):
    noise = fastgan.map8.noise2
    assert torch.equal(noise.noise, fixed_noise("map8.noise2.noise", 8))
    values = torch.zeros(1, fastgan.layers["layer3"].out_channels, 8, 8)
    assert torch.equal(noise(values)[0, 0], noise.strength * noise.noise)


def test_memories_are_linear_and_have_both_halves_of_the_channels(fastgan):
    for name, info in fastgan.layers.items():
        keys = torch.randn(1, info.in_channels, info.key_resolution, info.key_resolution)
        assert near(fastgan.memory(name).recall(2 * keys, None), 2 * fastgan.memory(name).recall(keys, None))
        assert info.out_channels == 2 * WIDTHS[info.resolution]


def test_receptive_field_is_where_a_key_changes_the_picture(fastgan):
    for layer, info in list(fastgan.layers.items())[1:]:
        features, cell = fastgan.keys([5], layer), info.key_resolution // 2
        before = fastgan.picture(features)
        features.keys[:, :, cell, cell] += 10
        rows = (fastgan.picture(features) - before).abs().sum((0, 1, 3)).nonzero().flatten()
        size, reach = fastgan.resolution // info.key_resolution, fastgan.receptive_field(layer)
        first, last = max(0, cell * size - reach), min(63, (cell + 1) * size + reach - 1)
        assert (int(rows.min()), int(rows.max())) == (first, last)


# --- gates ---


@pytest.fixture(scope="module")
def large():
    """256 px: three gates, from the maps of 4, 8 and 16."""
    return convert(plain_fastgan(resolution=256).state_dict())


def test_gates_are_there_from_the_map_that_makes_them_to_the_map_that_they_scale(large):
    by_side = {}
    for features in large.walk([1, 2]):
        by_side[large.layers[features.layer].resolution] = features.gates
    last = {info.resolution: name for name, info in large.layers.items()}
    for side, gates in by_side.items():
        assert set(gates) == {last[16 * source] for source in (4, 8, 16) if source < side <= 16 * source}
        assert all(gate.shape == (2, large.layers[name].out_channels // 2, 1, 1) for name, gate in gates.items())


def test_gates_scale_the_channels_of_their_map(large):
    features = large.keys([1], "layer7")
    last = next(name for name in features.gates if large.layers[name].resolution == 64)
    shut = replace(features, gates={**features.gates, last: torch.zeros_like(features.gates[last])})
    following = next(f for f in large.walk([1]) if large.layers[f.layer].resolution == 128)
    while shut.layer != following.layer:
        shut = large.step(shut, large.values(shut))
    assert float(following.keys.abs().max()) > 0 and float(shut.keys.abs().max()) == 0


def test_change_at_a_low_resolution_acts_through_the_gates_and_a_later_one_does_not(large, change):
    layers = {info.resolution: name for name, info in large.layers.items()}
    gated = layers[128]

    def gate(rules):
        return large.keys([3], gated, rules=rules).gates[gated]

    before = gate([])
    assert not near(gate([change(large, layers[8])]), before, 1e-3)
    assert torch.equal(gate([change(large, layers[16])]), before)


# --- units ---


def test_a_unit_that_shows_nothing_adds_nothing_whether_it_is_of_the_features_or_the_gate_of_one(fastgan):
    layer, info = "layer4", fastgan.layers["layer4"]
    half = info.out_channels // 2

    def picture(*units):
        levels = tuple(fastgan.level(layer, units, 0.0).tolist())
        return fastgan.sample([1, 2], rules=[Stroke(layer, units, levels).change(info)])

    feature, shut = picture(2), picture(half + 2)
    span = (feature - fastgan.sample([1, 2])).abs().max()
    assert span > 0.01 and (feature - shut).abs().max() < span / 20


# --- files ---


@pytest.mark.parametrize("layout", ["huggan", ORIGINAL, PROJECTED])
def test_every_name_gives_the_same_weights_with_and_without_a_prefix(layout):
    plain = plain_fastgan(layout)
    generator = convert(plain.state_dict())
    inside = {f"module.{key}": value for key, value in plain.state_dict().items()}
    assert convert(inside).fingerprint == generator.fingerprint
    first = plain.parts[0].get_submodule("_layers.0._conv" if layout == "huggan" else "init.0")
    assert torch.equal(generator.memory("layer1").weight.transpose(0, 1), first.weight)


def test_weights_are_written_back_and_plain_torch_draws_the_same(plain, tmp_path):
    generator = convert(plain.state_dict())
    export(generator, tmp_path / "theirs.pt", plain.layout)
    written = torch.load(tmp_path / "theirs.pt", weights_only=True)
    z = generator.latents(range(3))
    pictures = generator(z)
    assert convert(written).fingerprint == generator.fingerprint
    other = plain_fastgan(**{**plain.options, "seed": 1})
    other.load_state_dict(written)
    assert near(drawn(other, z), pictures, 1e-6)


def test_our_own_form_keeps_the_settings_and_the_noise(plain, tmp_path):
    generator = convert(plain.state_dict())
    save(generator, tmp_path)
    assert load(tmp_path).settings() == generator.settings()
    assert load(tmp_path).fingerprint == generator.fingerprint
    assert torch.equal(load(tmp_path).sample([1]), generator.sample([1]))


def test_settings_are_part_of_the_fingerprint():
    state = plain_fastgan().state_dict()
    prints = {convert(state, tanh=t, normalize=n).fingerprint for t in (True, False) for n in (True, False)}
    assert len(prints) == 4


def test_exports_come_with_remarks_where_their_code_differs():
    huggan, projected = (convert(plain_fastgan(layout).state_dict()) for layout in ("huggan", PROJECTED))
    said = " ".join(remarks(projected, "huggan"))
    assert all(
        words in said for words in ("do not train", "no bias", "does not normalise", "passes pictures through tanh")
    )
    assert remarks(huggan, "huggan")[0].endswith("do not train on from this file")
    assert not any("pictures differ" in each for each in remarks(huggan, "huggan"))
    with pytest.raises(InputError, match="choose huggan or fastgan-pytorch or projected-gan"):
        layout_for(huggan, "nvidia")


def test_training_file_gives_the_averaged_parameters(tmp_path):
    plain = plain_fastgan(ORIGINAL)
    latest, average = plain.state_dict(), [value * 0.9 for value in plain.parameters()]
    torch.save({"g": latest, "d": {"rf_big.0.weight": torch.ones(2)}, "g_ema": average}, tmp_path / "all_50000.pth")
    generator = load_generator(str(tmp_path / "all_50000.pth"), device="cpu")
    with torch.no_grad():
        for value, mean in zip(plain.parameters(), average, strict=True):
            value.copy_(mean)
    assert near(generator(torch.ones(1, 6)), drawn(plain, torch.ones(1, 6)), 1e-6)
    torch.save({"g": latest, "g_ema": average[1:]}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"averaged weights \(g_ema\) are not those of its generator"):
        load_generator(str(tmp_path / "odd.pth"), device="cpu")
    torch.save({"g": latest, "d": {}}, tmp_path / "50000.pth")
    assert load_generator(str(tmp_path / "50000.pth"), device="cpu").fingerprint == convert(latest).fingerprint


def test_projected_gan_of_128_px_is_read_although_its_file_has_a_block_for_256():
    small, large = (plain_fastgan(PROJECTED, twice=ALL, resolution=side) for side in (128, 256))
    beyond = {key: value for key, value in large.state_dict().items() if "_256." in key}
    generator = convert({**beyond, **small.state_dict()})
    assert len(beyond) > 20 and generator.fingerprint == convert(small.state_dict()).fingerprint
    assert convert(large.state_dict()).resolution == 256
    assert any("strict=False" in each for each in remarks(generator, PROJECTED))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("feat_8.1.weight_orig", (14, 8, 5, 5), r"spectral norm do not fit"),
        ("feat_8.3.weight", (11,), r"feat_8\.3\.weight is \(11,\) instead of \(14,\)"),
        ("feat_8.2.weight", (2,), r"feat_8\.2\.weight is \(2,\) instead of \(1,\)"),
        ("feat_8.5.weight_orig", None, r"missing feat_8\.5\.weight; .*unexpected feat_8\.5\.weight_u"),
        ("feat_16.2.running_mean", None, r"missing feat_16\.2\.running_mean"),
        ("se_64.main.1.weight_orig", None, r"missing se_64\.main\.1\.weight"),
        ("init.init.0.weight_orig", None, r"missing init\.init\.0\.weight"),
        ("to_big.weight_orig", None, r"missing to_big\.weight"),
        ("to_big.more", (3,), r"unexpected to_big\.more"),
        ("feat_100.1.weight", (2, 2, 3, 3), r"unexpected feat_100\.1\.weight"),
        ("feat_1024.1.weight", (2, 2, 3, 3), r"missing feat_128\.1\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(name, shape, said):
    state = plain_fastgan(ORIGINAL).state_dict()
    state.pop(name, None)
    with pytest.raises(InputError, match=said):
        convert(state if shape is None else {**state, name: torch.zeros(shape)})


def test_output_of_another_number_of_colours_is_refused():
    state = plain_fastgan(ORIGINAL, norm=None).state_dict()
    with pytest.raises(InputError, match="its output has 4 channels, a picture has 3"):
        convert({**state, "to_big.weight": torch.zeros(4, 4, 3, 3)})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("synthesis.embed.weight", "conditional"),
        ("synthesis.feat_8.conv1.weight_orig", "conditional"),
        ("down_from_big.0.weight_orig", "discriminator of a FastGAN"),
        ("_downsample_256._layers_1.0._conv.weight_orig", "discriminator of a FastGAN"),
    ],
)
def test_what_is_no_unconditional_generator_is_refused_with_the_reason(name, said):
    with pytest.raises(InputError, match=said):
        convert({"synthesis.init.init.0.weight_orig": torch.zeros(4, 4, 4, 4), name: torch.zeros(4, 4)})


# --- rules ---


def test_edit_is_executed_and_replayed_to_the_bit_and_plain_torch_draws_it(fastgan):
    session = Rewriter(fastgan, "layer2")
    session.copy(7, square(16, 20, 40, 36, 64))
    session.paste(1, square(16, 20, 40, 36, 64))
    for seed in (2, 3):
        session.add_context(seed, square(16, 20, 40, 36, 64))
    rule = session.execute(form="weight")
    assert rule.effect.goal_error_removed > 0.1
    assert same_rule(replay(fastgan, rule.edit), rule)
    assert near(fastgan.rewritten([rule]).sample([1, 2]), fastgan.sample([1, 2], rules=[rule]))
    plain = plain_fastgan()
    plain.load_state_dict(rewrite_as(fastgan.rewritten([rule]), "huggan"))
    assert near(drawn(plain, fastgan.latents([1, 2])), fastgan.sample([1, 2], rules=[rule]))


def test_random_generator_of_any_size_draws_pictures_with_contrast():
    wide = {4: 32, 8: 24, 16: 16, 32: 12, 64: 8, 128: 8, 256: 6}
    torch.manual_seed(0)
    for config in (FastGANConfig({4: 16, 8: 8}, z_dim=8), FastGANConfig(wide, (8, 32, 128), small=True)):
        pictures = FastGAN(config).sample([1])
        assert pictures.shape == (1, 3, config.resolution, config.resolution)
        assert 0.05 < pictures.std() < 0.95
