"""Rules on generators: each picture its own, in any mixture; what is off is nothing; angles between rules."""

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewriter import Rule
from rewriter.errors import InputError
from rewriter.generators.change import LowRank


def near(a, b, tolerance=5e-5):
    """Equal within a share of the pictures' range: batches and rules add float32 numbers in another order."""
    return (a - b).abs().max() <= tolerance * (b.max() - b.min())


def some_layers(generator):
    """First, last and middle, with an upsampling one and its neighbour."""
    names = list(generator.layers)
    scaled = [name for name, info in generator.layers.items() if info.scale > 1]
    chosen = {names[0], names[-1], names[len(names) // 2], *scaled[-1:]}
    return [name for name in names if name in chosen]


# --- a rule of its own for each picture ---


@pytest.mark.parametrize("seed", range(3))
def test_each_picture_of_a_batch_is_the_one_drawn_alone(generator, change, seed):
    draw, layers = random.Random(seed), some_layers(generator)
    pool = [
        replace(
            change(generator, draw.choice(layers), rank=draw.choice([1, 2, 5]), seed=i, size=0.15),
            strength=draw.choice([1.0, 1.0, 0.5, -1.0, 2.0]),
        )
        for i in range(7)
    ]
    lists = [[], *(draw.sample(pool, draw.choice([0, 1, 2, 4])) for _ in range(5)), []]
    seeds = draw.sample(range(1000), len(lists))
    mixed = generator.sample(seeds, rules=lists)
    for i, own in enumerate(lists):
        assert near(mixed[[i]], generator.sample([seeds[i]], rules=own))
    assert near(generator.sample(seeds, rules=lists, batch=3), mixed)
    assert not near(mixed, generator.sample(seeds), 1e-2)


def test_each_picture_has_its_own_rule_at_every_layer(stylegan, change):
    """One layer after the other, with as many ranks as pictures; upsampling layers too."""
    for layer, info in stylegan.layers.items():
        lists = [[change(stylegan, layer, rank=rank, seed=rank)] for rank in (1, 3, 32)] + [[]]
        mixed = stylegan.sample(range(4), rules=lists)
        for i, own in enumerate(lists):
            assert near(mixed[[i]], stylegan.sample([i], rules=own)), (layer, info.scale)
        assert not near(mixed[:3], stylegan.sample(range(3)), 1e-2)


def test_rules_stay_with_their_pictures_in_any_order(stylegan, change):
    lists = [[change(stylegan, "layer5", seed=1)], [], [change(stylegan, "layer3", seed=2)], [], []]
    mixed = stylegan.sample(range(5), rules=lists)
    order = [3, 0, 4, 2, 1]
    assert near(stylegan.sample(order, rules=[lists[i] for i in order]), mixed[order])
    same_picture = stylegan.sample([7] * 5, rules=lists)
    assert near(same_picture[[1]], same_picture[[3]]) and not near(same_picture[[0]], same_picture[[1]], 1e-2)


def test_from_cached_keys_each_picture_has_its_own_rules_too(generator, change):
    layer = some_layers(generator)[-1]
    lists = [[change(generator, layer, seed=1)], [], [change(generator, layer, seed=2, rank=4)]]
    features = generator.keys(range(3), layer)
    assert near(generator.picture(features, rules=lists), generator.sample(range(3), rules=lists))
    values = generator.values(features, rules=lists)
    assert torch.equal(generator.picture(features, values, rules=lists), generator.picture(features, rules=lists))


def test_one_list_for_each_is_as_good_as_one_for_all(generator, change):
    rules = [change(generator, layer, size=0.1, seed=i) for i, layer in enumerate(some_layers(generator))]
    for_all = generator.sample(range(3), rules=rules)
    assert torch.equal(generator.sample(range(3), rules=[rules] * 3), for_all)
    assert near(generator.sample(range(4), rules=[rules, rules, rules, []])[:3], for_all)
    assert torch.equal(generator.sample(range(3), rules=[[], [], []]), generator.sample(range(3)))


def test_a_bad_rule_of_one_picture_is_refused(stylegan, change):
    good = change(stylegan, "layer4")
    for bad in (replace(good, delta=good.delta[:-1]), replace(good, layer="layer99")):
        with pytest.raises(InputError, match="another model|layer99"):
            stylegan.sample(range(3), rules=[[good], [], [good, bad]])
    with pytest.raises(InputError, match="lists of rules"):
        stylegan.keys([1, 2], "layer4", rules=[[good]])


# --- what is off, and how strong ---


def test_a_rule_that_is_off_or_at_strength_0_is_none_to_the_bit(generator, change):
    for layer in some_layers(generator):
        rule, other = change(generator, layer, seed=1), change(generator, layer, seed=2)
        off = [replace(rule, on=False), replace(rule, strength=0.0), replace(rule, strength=2.0, on=False)]
        base, with_other = generator.sample([3, 4]), generator.sample([3, 4], rules=[other])
        for nothing in off:
            assert torch.equal(generator.sample([3, 4], rules=[nothing]), base)
            assert torch.equal(generator.sample([3, 4], rules=[[nothing], [nothing]]), base)
            assert torch.equal(generator.sample([3, 4], rules=[nothing, other]), with_other)
            assert torch.equal(generator.sample([3, 4], rules=[other, nothing]), with_other)
            assert torch.equal(generator.rewritten([nothing]).sample([3, 4]), base)
        mixed = generator.sample([3, 4], rules=[[other, off[0]], [off[1]]])
        assert torch.equal(mixed, generator.sample([3, 4], rules=[[other], []]))


def test_strength_1_is_the_rule_and_others_scale_it(generator, change):
    layer = some_layers(generator)[1]
    rule = change(generator, layer)
    changed = generator.sample([3], rules=[rule])
    assert torch.equal(generator.sample([3], rules=[replace(rule, strength=1.0, on=True)]), changed)
    for strength in (-1.0, 0.3, 2.0):
        scaled = replace(rule, delta=rule.delta * strength)
        picture = generator.sample([3], rules=[replace(rule, strength=strength)])
        assert torch.equal(picture, generator.sample([3], rules=[scaled]))
        assert not near(picture, changed, 1e-3)


def test_twice_half_a_rule_is_the_rule(generator, change):
    for layer in some_layers(generator):
        rule = change(generator, layer, rank=3)
        half = replace(rule, strength=0.5)
        assert near(generator.sample([3, 4], rules=[half, half]), generator.sample([3, 4], rules=[rule]))
        assert near(generator.sample([3, 4], rules=[rule, replace(rule, strength=-1.0)]), generator.sample([3, 4]))


def test_rules_add_up_in_any_order(generator, change):
    """Within a layer and across layers, for one list or one for each."""
    layers = some_layers(generator)[:2]
    rules = [change(generator, layer, seed=i, rank=1 + i, size=0.1) for i, layer in enumerate(layers * 2)]
    expected = generator.sample([3, 4], rules=rules)
    for shuffled in (rules[::-1], rules[2:] + rules[:2]):
        assert near(generator.sample([3, 4], rules=shuffled), expected)
        assert near(generator.sample([3, 4], rules=[shuffled, rules]), expected)
    assert near(generator.rewritten(rules).sample([3, 4]), expected)
    assert not near(generator.sample([3, 4], rules=rules[:2]), expected, 1e-2)


# --- angles ---


def in_layer(directions, layer="layer4"):
    directions = torch.as_tensor(directions).float()
    return Rule(layer, torch.ones(4, len(directions), 3, 3), directions, fingerprint="a")


def orthonormal(rows, channels, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(channels, rows, generator=draw, dtype=torch.float64))[0].T


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_angles_are_symmetric_and_do_not_see_how_a_row_space_is_written(a_rank, b_rank, seed):
    a, b = orthonormal(a_rank, 16, seed), orthonormal(b_rank, 16, seed + 1000)
    angle = in_layer(a).angle(in_layer(b))
    assert 0 <= angle <= 90
    assert in_layer(b).angle(in_layer(a)) == pytest.approx(angle, abs=1e-6)
    turned, mixed = orthonormal(a_rank, a_rank, seed) @ a, torch.diag(torch.arange(1.0, a_rank + 1)).double() @ a
    for same in (turned, -a, 3 * a, mixed, a.flip(0)):
        assert in_layer(same).angle(in_layer(b)) == pytest.approx(angle, abs=1e-3)
        assert in_layer(same).angle(in_layer(a)) == pytest.approx(0, abs=0.01)
    largest = max(float((x @ y).abs() / x.norm() / y.norm()) for x in a for y in b)
    assert angle <= math.degrees(math.acos(largest)) + 0.01  # no pair of rows is closer than the spaces
    around = orthonormal(16, 16, seed + 2000)
    assert in_layer(a @ around).angle(in_layer(b @ around)) == pytest.approx(angle, abs=1e-3)


def test_angles_that_are_known():
    x, y, z = torch.eye(16)[:3]
    assert in_layer([x.tolist()]).angle(in_layer([x.tolist()])) == pytest.approx(0, abs=1e-4)
    assert in_layer([x.tolist()]).angle(in_layer([y.tolist()])) == pytest.approx(90)
    assert in_layer([x.tolist()]).angle(in_layer([(x + y).tolist()])) == pytest.approx(45, abs=1e-4)
    assert in_layer(torch.stack([x, z])).angle(in_layer([(x + math.sqrt(3) * y).tolist()])) == pytest.approx(
        60, abs=1e-4
    )
    assert in_layer(torch.stack([x, z])).angle(in_layer(torch.stack([y, z]))) == pytest.approx(
        0, abs=1e-4
    )  # they share z


def test_rules_at_different_layers_do_not_meet():
    one = in_layer(torch.eye(16)[:2])
    assert one.angle(replace(one, layer="layer6")) == 90
    assert one.angle(one.at(0.5)) == one.angle(replace(one, on=False)) == one.angle(one)


# --- files ---


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("strength", [-1.0, 0.0, 1 / 3, 1.0, 2.0])
def test_strength_and_whether_it_is_on_survive_a_file(stylegan, change, tmp_path, strength, on):
    one = change(stylegan, "layer4")
    rule = Rule("layer4", one.delta, one.directions, strength, on, fingerprint=stylegan.fingerprint)
    rule.save(tmp_path / "rule.safetensors")
    loaded = Rule.load(tmp_path / "rule.safetensors")
    assert (loaded.strength, loaded.on, loaded.active) == (strength, on, on and strength != 0)
    assert torch.equal(stylegan.sample([1], rules=[loaded]), stylegan.sample([1], rules=[rule]))


@pytest.mark.parametrize("strength", ["1", None, [1], True, 1j])
def test_a_strength_that_is_no_number_is_refused(strength):
    with pytest.raises(InputError, match="strength"):
        in_layer(torch.eye(16)[:1]).at(strength)


def test_a_rule_without_directions_is_refused(tmp_path):
    none = Rule("layer4", torch.zeros(4, 0, 3, 3), torch.zeros(0, 16))
    none.save(tmp_path / "rule.safetensors")
    with pytest.raises(InputError, match="belong together"):
        Rule.load(tmp_path / "rule.safetensors")


def test_a_change_reads_what_it_does(stylegan, change):
    """The weight that a change folds to is its rows weighted by Λ, strength included."""
    one = change(stylegan, "layer4", rank=2)
    weight = LowRank(one.layer, one.delta, one.directions, -0.5).weight()
    by_hand = sum(one.delta[:, i, None] * one.directions[i][None, :, None, None] for i in range(2)) * -0.5
    assert torch.allclose(weight, by_hand, atol=1e-6)
