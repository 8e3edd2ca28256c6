"""Generators as chains of memories: halves compose, rules are views, seeds are pictures forever."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import near
from hypothesis import given
from hypothesis import strategies as st

from rewriter.checkpoints.convert import convert
from rewriter.errors import InputError
from rewriter.generators.change import LowRank
from rewriter.generators.filters import blur, upsample
from rewriter.generators.latents import latents
from rewriter.generators.layer import Features
from rewriter.generators.parts import Conv, TransposedConv
from rewriter.generators.proggan import PlainConv, ProgressiveGAN, ProgressiveGANConfig
from rewriter.generators.stylegan2 import StyledConv, StyleGAN2, StyleGAN2Config
from rewriter.generators.stylegan3 import FilteredConv

SEEDS = [3, 11]


@pytest.mark.parametrize("few", [1, 2])
@torch.no_grad()
def test_pictures_drawn_a_few_at_a_time_are_those_drawn_alone(generator, change, monkeypatch, few):
    first, *_, last = generator.layers
    one, two = change(generator, middle(generator)), change(generator, last, seed=1)
    lists, seeds = [[], [one], [two], [one, two], []], [3, 11, 4, 8, 9]
    alone = torch.cat([generator.sample([seed], rules=own) for seed, own in zip(seeds, lists, strict=True)])
    monkeypatch.setattr(type(generator), "_few", few)
    assert near(generator.sample(seeds, rules=lists), alone)
    features = generator.keys(seeds, last, rules=lists)
    values = generator.values(features, rules=lists)
    assert near(generator.picture(features, values, rules=lists), alone)
    assert near(generator.picture(generator.keys(seeds, first), rules=lists), alone)


def middle(generator):
    return list(generator.layers)[len(generator.layers) // 2]


@pytest.mark.parametrize("with_rules", [False, True])
def test_both_halves_compose_to_the_whole_at_every_layer(generator, change, with_rules):
    layers = list(generator.layers)
    rules = [change(generator, layer, seed=i) for i, layer in enumerate(layers) if i % 2] if with_rules else []
    whole = generator.sample(SEEDS, rules=rules)
    for features in generator.walk(SEEDS, rules=rules):
        assert torch.equal(generator.picture(features, rules=rules), whole)
        assert torch.equal(generator.picture(features, generator.values(features, rules=rules), rules=rules), whole)
        assert features.layer == layers.pop(0)
    assert not layers


def test_rendering_from_cached_keys_computes_no_earlier_layer(generator, change, monkeypatch):
    names, called = {id(generator.memory(layer)): layer for layer in generator.layers}, []

    def counted(kind):
        original = kind.response

        def response(memory, keys, weight):
            called.extend([names[id(memory)]] if id(memory) in names else [])  # outputs and gates are no layers
            return original(memory, keys, weight)

        return response

    for kind in (StyledConv, FilteredConv, PlainConv, TransposedConv, Conv):
        monkeypatch.setattr(kind, "response", counted(kind))
    order = list(generator.layers)
    for i, layer in enumerate(order):
        features = generator.keys([1], layer)
        assert called == order[:i]
        called.clear()
        generator.picture(features, rules=[change(generator, layer)])
        assert called == [layer, layer, *order[i + 1 :]]
        called.clear()


def test_layer_info_states_the_shapes_of_keys_values_and_weight(generator):
    for features, (name, info) in zip(generator.walk([0]), generator.layers.items(), strict=True):
        values = generator.values(features)
        assert features.layer == info.name == name
        assert features.keys.shape == (1, info.in_channels, info.key_resolution, info.key_resolution)
        assert values.shape == (1, info.out_channels, info.resolution, info.resolution)
        assert info.scale * info.key_resolution == info.resolution
        assert generator.memory(name).weight.shape == (info.out_channels, info.in_channels, info.kernel, info.kernel)


def test_stylegan_upsamples_at_odd_layers(stylegan):
    shapes = {name: (info.scale, info.resolution) for name, info in stylegan.layers.items()}
    assert shapes == {"layer2": (1, 4), "layer3": (2, 8), "layer4": (1, 8), "layer5": (2, 16), "layer6": (1, 16)}


def test_an_unknown_layer_is_refused_and_the_others_are_listed(generator):
    for ask in (generator.layer, generator.memory, generator.receptive_field, lambda name: generator.keys([0], name)):
        with pytest.raises(InputError, match=f"'layer99'.*{', '.join(generator.layers)}"):
            ask("layer99")


def reached(generator, layer, cell):
    """How many pixels beyond its own block a key cell of the picture changes it, and how many it could at most."""
    features, frame = generator.keys([7], layer), generator.layer(layer).key_frame
    keys, (row, column) = features.keys.clone(), (frame.margin + at for at in cell)
    keys[:, :, row, column] *= -3
    before, after = generator.picture(features), generator.picture(replace(features, keys=keys))
    moved = ((after - before).abs().amax((0, 1)) > 1e-6 * (before.max() - before.min())).nonzero()
    block = generator.resolution // frame.across
    start = torch.tensor(cell) * block
    beyond = torch.maximum(start - moved, moved - (start + block - 1)).max()
    return int(beyond), int(torch.maximum(start, generator.resolution - block - start).max())


@pytest.mark.parametrize("cell", [(0.0, 1.0), (0.3, 0.6)])
def test_a_key_reaches_no_further_than_its_receptive_field(generator, cell):
    for layer, info in generator.layers.items():
        row, column = (min(int(at * info.key_frame.across), info.key_frame.across - 1) for at in cell)
        assert 0 <= reached(generator, layer, (row, column))[0] <= generator.receptive_field(layer)


@pytest.mark.parametrize("model", ["proggan", "stylegan"])
def test_the_receptive_field_is_exact(request, model):
    generator = request.getfixturevalue(model)
    for layer in generator.layers:
        beyond, room = reached(generator, layer, (0, 0))
        assert beyond == min(generator.receptive_field(layer), room)


def test_features_can_be_split_and_joined_and_values_replaced(generator):
    features, other = (generator.keys(seeds, middle(generator)) for seeds in (SEEDS, SEEDS[::-1]))
    assert not near(generator.picture(features, generator.values(other)), generator.sample(SEEDS), 1e-2)
    joined = Features.cat([features[:1], features[[1]], features[2:]])
    assert len(joined) == 2 and torch.equal(generator.picture(joined), generator.picture(features))


def table(n, zdim):
    return torch.from_numpy(np.random.RandomState(1).standard_normal(n * zdim).reshape(n, zdim).astype(np.float32))


@pytest.mark.parametrize("zdim", [1, 7, 32])
def test_a_seed_is_a_row_of_the_original_table_however_many_are_drawn(zdim):
    rows = table(2100, zdim)
    seeds = [0, 5, 999, 1000, 1001, 2099, 5]
    assert torch.equal(latents(seeds, zdim), rows[seeds]) and torch.equal(latents(range(3), zdim), rows[:3])
    assert torch.equal(table(3, zdim), rows[:3])


def test_the_last_seed_is_a_row_and_changing_latents_changes_no_later_ones():
    assert torch.equal(latents([99_999], 1), table(100_000, 1)[-1:])
    latents([3], 4).zero_()
    assert torch.equal(latents([3], 4), table(4, 4)[3:])


@pytest.mark.parametrize("seed", [-1, 100_000, 1.0, 0.5, "3", None, math.nan])
def test_a_bad_seed_is_refused_by_name(stylegan, seed):
    with pytest.raises(InputError, match=f"{seed!r}.*99,999"):
        stylegan.sample([1, seed])


def test_a_picture_does_not_depend_on_its_batch(generator):
    together = generator.sample(range(5))
    assert near(torch.cat([generator.sample([seed]) for seed in range(5)]), together)
    assert near(generator.sample(range(5), batch=2), together)
    assert near(generator.sample([3, 3, 1]), together[[3, 3, 1]])
    assert generator.sample([]).shape == (0, 3, generator.resolution, generator.resolution)


def test_truncation_pulls_towards_the_mean_picture_and_a_proggan_has_none(stylegan, proggan):
    assert near(stylegan.sample([1], truncation=0), stylegan.sample([2], truncation=0))
    assert not near(stylegan.sample([1], truncation=0.5), stylegan.sample([1]), 1e-2)
    with pytest.raises(InputError, match=r"0\.7"):
        proggan.sample([1], truncation=0.7)


def test_a_change_of_zero_is_the_identity_at_every_layer(generator, change):
    base = generator.sample([3])
    for layer in generator.layers:
        assert torch.equal(generator.sample([3], rules=[change(generator, layer, size=0.0)]), base)


def test_a_rule_changes_nothing_before_its_layer(generator, change):
    layer = middle(generator)
    rules, features = [change(generator, layer)], generator.keys(SEEDS, layer)
    assert torch.equal(generator.keys(SEEDS, layer, rules=rules).keys, features.keys)
    assert not near(generator.values(features, rules=rules), generator.values(features), 1e-2)


def test_a_rule_applied_beside_the_weight_equals_one_folded_into_it(generator, change):
    for layer in generator.layers:
        rule = change(generator, layer)
        assert near(generator.sample([3], rules=[rule]), generator.rewritten([rule]).sample([3]))
    rules = [change(generator, layer, seed=i, size=0.1) for i, layer in enumerate([*generator.layers, "layer3"])]
    assert near(generator.sample(SEEDS, rules=rules), generator.rewritten(rules).sample(SEEDS))


def test_a_folded_generator_shares_every_weight_that_the_rule_leaves_alone(generator, change):
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    twin = generator.rewritten([change(generator, middle(generator))])
    own = generator.state_dict()
    (changed,) = [name for name, value in twin.state_dict().items() if value.data_ptr() != own[name].data_ptr()]
    assert twin.get_parameter(changed) is twin.memory(middle(generator)).weight
    assert all(torch.equal(value, before[name]) for name, value in own.items())
    assert twin.fingerprint != generator.fingerprint == generator.rewritten([]).fingerprint


def test_the_fingerprint_does_not_depend_on_use(generator, change):
    fresh = convert(generator.state_dict()).fingerprint
    generator.sample(SEEDS, rules=[change(generator, middle(generator))])
    assert generator.fingerprint == fresh


def test_a_generator_may_carry_rules_of_its_own(stylegan, change):
    carrier = stylegan.rewritten([])
    carrier.rules = (change(stylegan, "layer4"),)
    assert torch.equal(carrier.sample(SEEDS), stylegan.sample(SEEDS, rules=carrier.rules))
    assert torch.equal(carrier.sample(SEEDS, rules=[]), stylegan.sample(SEEDS))


def test_a_rule_for_other_shapes_or_layers_is_refused(generator, change):
    good = change(generator, middle(generator))
    for delta, directions in (
        (good.delta[:-1], good.directions),
        (good.delta[:, :1], good.directions),
        (good.delta, good.directions[:, :-1]),
        (good.delta[..., :1], good.directions),
        (good.delta[0], good.directions),
    ):
        with pytest.raises(InputError, match="another model"):
            generator.sample([0], rules=[LowRank(good.layer, delta, directions)])
    with pytest.raises(InputError, match="layer99"):
        generator.sample([0], rules=[replace(good, layer="layer99")])


@pytest.mark.parametrize("layer", ["layer4", "layer5"])
def test_demodulation_gives_each_channel_unit_norm(stylegan, change, layer):
    rule = change(stylegan, layer)
    memory, style = stylegan.memory(layer), stylegan.keys(SEEDS, layer).style
    modulated = (memory.weight + rule.weight())[None] * style[:, None, :, None, None]
    norm = modulated.flatten(2).norm(dim=2)
    assert torch.allclose(memory.scale(style, memory.energy([rule])) * norm, torch.ones_like(norm), atol=1e-4)


SIDES = {4: 2, 8: 2, 16: 2}


@pytest.mark.parametrize("clamp", [None, 0.7])
def test_the_slope_is_the_derivative_of_the_activation(clamp):
    memory = StyledConv(2, 2, StyleGAN2Config(SIDES, w_dim=4, conv_clamp=clamp), resolution=4, up=False)
    x = torch.linspace(-4, 4, 81).add(0.013).requires_grad_()
    (gradient,) = torch.autograd.grad(memory.activate(x).sum(), x)
    assert torch.allclose(memory.slope(x), gradient)


@pytest.mark.parametrize("up", [False, True])
def test_the_response_is_linear_in_the_weight(up):
    memory = StyledConv(3, 4, StyleGAN2Config(SIDES, w_dim=5), resolution=8, up=up)
    keys, a, b = torch.randn(2, 3, 4, 4), torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    together = memory.response(keys, 2 * a - b)
    assert torch.allclose(2 * memory.response(keys, a) - memory.response(keys, b), together, atol=1e-4)


def test_upsampling_keeps_the_mean_inside_the_map():
    x = torch.zeros(1, 2, 8, 8)
    x[:, :, 3:5, 3:5] = torch.rand(1, 2, 2, 2)
    assert upsample(x).shape == (1, 2, 16, 16)
    assert torch.allclose(upsample(x).sum((2, 3)), 4 * x.sum((2, 3)))
    flat = torch.ones(1, 1, 8, 8)
    assert torch.allclose(upsample(flat)[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    assert blur(flat, before=1, after=1).shape == (1, 1, 7, 7)


sides = st.integers(3, 5).flatmap(lambda n: st.lists(st.integers(1, 9), min_size=n, max_size=n))


@given(sides, st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.sampled_from([None, 0.5, 256.0]))
def test_any_stylegan2_draws_and_is_rebuilt_from_its_state_dict(channels, z_dim, w_dim, depth, clamp):
    config = StyleGAN2Config({4 * 2**i: n for i, n in enumerate(channels)}, z_dim, w_dim, depth, clamp)
    generator = StyleGAN2(config)
    picture = generator.sample([0, 1])
    assert picture.shape == (2, 3, config.resolution, config.resolution) and picture.isfinite().all()
    assert torch.equal(generator.picture(generator.keys([0, 1], "layer5")), picture)
    if clamp is not None:
        assert generator.values(generator.keys([0], "layer4")).abs().max() <= clamp
    again = convert(generator.state_dict(), conv_clamp=clamp)
    assert again.config == config and torch.equal(again.sample([0, 1]), picture)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.integers(1, 9), min_size=2 * n, max_size=2 * n)))
def test_any_proggan_draws_and_is_rebuilt_from_its_state_dict(channels):
    config = ProgressiveGANConfig(tuple(channels), 5)
    generator = ProgressiveGAN(config)
    picture = generator.sample([0, 1])
    assert picture.shape == (2, 3, config.resolution, config.resolution) and picture.isfinite().all()
    again = convert(generator.state_dict(), clamp=False)
    assert again.config == config and torch.equal(again.sample([0, 1]), picture)


@pytest.mark.parametrize(
    "channels", [{4: 8, 8: 8}, {8: 8, 16: 8}, {4: 8, 16: 8, 8: 8}, {4 * 2**i: 1 for i in range(10)}, {}]
)
def test_channel_tables_with_other_resolutions_are_refused(channels):
    with pytest.raises(InputError, match="resolutions 4, 8"):
        StyleGAN2Config(channels)
