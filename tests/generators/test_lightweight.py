"""Lightweight GAN draws what plain torch draws, with the parts that only some files have, and is read and written."""

import pytest
import torch
from conftest import near, same_rule, square
from plain_lightweight import SOURCES, plain_lightweight

from rewriter import Rewriter, load_generator, replay
from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.checkpoints.layouts import remarks
from rewriter.checkpoints.store import load, save
from rewriter.errors import InputError
from rewriter.generators.lightweight import LightweightGAN, LightweightGANConfig

VARIANTS = {
    "plain": {},
    "8 px": {"resolution": 8, "z_dim": 5},
    "blurred": {"blurred": True},
    "attention": {"attended": (8, 16)},
    "grey": {"colours": 1},
    "one gate": {"resolution": 128},
    "two gates, frequencies, blurred, attention": {
        **{"resolution": 256, "frequencies": True},
        **{"blurred": True, "attended": (32,)},
    },
}


def drawn(plain, z):
    """Pictures of latents (n, z) by plain torch, from 0 … 1 to -1 … 1."""
    with torch.no_grad():
        return 2 * plain(z).expand(-1, 3, -1, -1) - 1


@pytest.fixture(scope="module", params=VARIANTS)
def plain(request):
    return plain_lightweight(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def small(untouched):
    return untouched(convert(plain_lightweight().state_dict(), name="lightweight"))


def test_pictures_are_those_of_plain_torch(plain):
    generator = convert(plain.state_dict())
    z = generator.latents(range(3))
    pictures = drawn(plain, z)
    assert near(generator(z), pictures, 1e-5) and pictures.std() > 0.05
    assert generator.resolution == pictures.shape[-1]


def test_a_gate_of_a_map_that_is_gated_itself_sees_the_map_before():
    """Only pictures of 1024 px have one: the map of 128 makes a gate, and is multiplied by one."""
    plain = plain_lightweight(resolution=1024)
    generator = convert(plain.state_dict())
    assert near(generator(torch.ones(1, 6)), drawn(plain, torch.ones(1, 6)), 1e-5)
    for features in generator.walk([1]):
        side = generator.layers[features.layer].resolution
        expected = {target for source, target in SOURCES.items() if source < side <= target}
        assert {generator.layers[name].resolution for name in features.gates} == expected


def test_memories_are_linear_but_for_their_bias(small):
    for name, info in small.layers.items():
        memory, keys = small.memory(name), torch.randn(1, info.in_channels, *[info.key_resolution] * 2)
        values = memory.recall(keys, None)
        assert values.shape[1:] == (info.out_channels, *[info.resolution] * 2)
        assert near(memory.recall(2 * keys, None) - memory.offset(), 2 * (values - memory.offset()))


@pytest.mark.parametrize("blurred", [False, True])
def test_receptive_field_is_where_a_key_changes_the_picture(blurred):
    generator = convert(plain_lightweight(resolution=64, blurred=blurred).state_dict())
    for layer, info in list(generator.layers.items())[2:]:
        features, cell = generator.keys([5], layer), info.key_resolution // 2
        before = generator.picture(features)
        features.keys[:, :, cell, cell] += 10
        rows = (generator.picture(features) - before).abs().sum((0, 1, 3)).nonzero().flatten()
        size, reach = generator.resolution // info.key_resolution, generator.receptive_field(layer)
        first, last = max(0, cell * size - reach), min(63, (cell + 1) * size + reach - 1)
        assert (int(rows.min()), int(rows.max())) == (first, last)


def test_file_of_a_training_gives_the_averaged_generator(tmp_path):
    plain, latest = plain_lightweight(), plain_lightweight(seed=1)
    named = {f"GE.{key}": value for key, value in plain.state_dict().items()}
    named |= {f"G.{key}": value for key, value in latest.state_dict().items()}
    torch.save({"GAN": {**named, "D.logits.0.weight": torch.ones(2, 2)}, "version": "0.20.8"}, tmp_path / "model.pt")
    generator = load_generator(str(tmp_path / "model.pt"), device="cpu")
    assert generator.fingerprint == convert(plain.state_dict()).fingerprint != convert(latest.state_dict()).fingerprint


def test_weights_are_written_back_to_the_bit_and_kept_in_our_own_form(plain, tmp_path):
    generator = convert(plain.state_dict())
    written, original = rewrite_as(generator, "lightweight-gan"), plain.state_dict()
    assert written.keys() == {name for name in original if "num_batches_tracked" not in name}
    assert all(torch.equal(value, original[name]) for name, value in written.items())
    plain.load_state_dict(written)
    save(generator, tmp_path)
    assert load(tmp_path).fingerprint == generator.fingerprint
    assert "GE" in remarks(generator, "lightweight-gan")[0]


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("layers.1.0.2.bias", None, r"missing layers\.1\.0\.2\.bias"),
        ("layers.4.1.net.0.weight", (4, 8, 1, 1), r"layers\.4\.1\.net\.0\.weight|unexpected"),
        ("layers.0.0.3.weight", (11,), r"layers\.0\.0\.3\.weight is \(11,\) instead of \(20,\)"),
        ("layers.0.0.4.weight", (20,), r"version 0\.21 or later"),
        ("layers.0.0.0.net.0.weight", (20, 5, 1, 1), r"version 0\.21 or later"),
        ("layers.2.0.2.1.weight", (20, 5, 4, 4), r"version 0\.21 or later"),
        ("out_conv.weight", (4, 8, 3, 3), "4 channels, a picture has 1 or 3: transparency"),
        ("layers.1.2.fn.to_q.weight", (512, 10, 1, 1), r"missing layers\.1\.2\.fn\.to_kv"),
        ("layers.11.0.2.weight", (2, 2, 3, 3), r"unexpected layers\.11\.0\.2\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(name, shape, said):
    state = plain_lightweight().state_dict()
    state.pop(name, None)
    with pytest.raises(InputError, match=said):
        convert(state if shape is None else {**state, name: torch.zeros(shape)})


def test_edit_is_executed_and_replayed_to_the_bit_and_plain_torch_draws_it(small):
    session = Rewriter(small, "layer2")
    session.copy(7, square(8, 10, 20, 18, 32))
    session.paste(1, square(8, 10, 20, 18, 32))
    for seed in (2, 3):
        session.add_context(seed, square(8, 10, 20, 18, 32))
    rule = session.execute(form="weight")
    assert rule.effect.goal_error_removed > 0.1
    assert same_rule(replay(small, rule.edit), rule)
    plain = plain_lightweight()
    plain.load_state_dict(rewrite_as(small.rewritten([rule]), "lightweight-gan"))
    assert near(drawn(plain, small.latents([1, 2])), small.sample([1, 2], rules=[rule]))


def test_random_generator_of_any_size_draws_pictures_with_contrast():
    torch.manual_seed(0)
    wide = {4: 24, 8: 24, 16: 16, 32: 12, 64: 8, 128: 8}
    for config in (LightweightGANConfig({4: 16, 8: 8}, z_dim=8), LightweightGANConfig(wide, attended=(16,))):
        pictures = LightweightGAN(config).sample([1, 2])
        assert pictures.shape == (2, 3, config.resolution, config.resolution)
        assert pictures.std() > 0.05
