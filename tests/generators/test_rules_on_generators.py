"""Rules on generators: each picture has its own, in any mixture; what is off changes nothing; several add up."""

import random
from dataclasses import replace

import pytest
import torch
from conftest import near

from rewriter.errors import InputError
from rewriter.generators.change import LowRank


def some_layers(generator):
    """The second, the last, and the last that upsamples."""
    names = list(generator.layers)
    upsampling = [name for name, info in generator.layers.items() if info.scale > 1]
    return [name for name in names if name in {names[1], names[-1], *upsampling[-1:]}]


@pytest.mark.parametrize("seed", range(2))
def test_each_picture_of_a_batch_equals_the_one_drawn_alone(generator, change, seed):
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


def test_each_picture_has_its_own_rule_of_any_rank_at_every_layer(stylegan, change):
    for layer, info in stylegan.layers.items():
        lists = [[change(stylegan, layer, rank=rank, seed=rank)] for rank in (1, 3, 32)] + [[]]
        mixed = stylegan.sample(range(4), rules=lists)
        for i, own in enumerate(lists):
            assert near(mixed[[i]], stylegan.sample([i], rules=own)), (layer, info.scale)
        assert not near(mixed[:3], stylegan.sample(range(3)), 1e-2)


def test_each_picture_has_its_own_rules_from_cached_keys_too(generator, change):
    layer = some_layers(generator)[-1]
    lists = [[change(generator, layer, seed=1)], [], [change(generator, layer, seed=2, rank=4)]]
    features = generator.keys(range(3), layer)
    assert near(generator.picture(features, rules=lists), generator.sample(range(3), rules=lists))
    values = generator.values(features, rules=lists)
    assert torch.equal(generator.picture(features, values, rules=lists), generator.picture(features, rules=lists))


def test_one_list_for_each_picture_equals_one_list_for_all(generator, change):
    rules = [change(generator, layer, size=0.1, seed=i) for i, layer in enumerate(some_layers(generator))]
    for_all = generator.sample(range(3), rules=rules)
    assert torch.equal(generator.sample(range(3), rules=[rules] * 3), for_all)
    assert near(generator.sample(range(4), rules=[rules, rules, rules, []])[:3], for_all)
    assert torch.equal(generator.sample(range(3), rules=[[], [], []]), generator.sample(range(3)))


def test_a_bad_rule_of_one_picture_and_a_wrong_number_of_lists_are_refused(stylegan, change):
    good = change(stylegan, "layer4")
    for bad in (replace(good, delta=good.delta[:-1]), replace(good, layer="layer99")):
        with pytest.raises(InputError, match="another model|layer99"):
            stylegan.sample(range(3), rules=[[good], [], [good, bad]])
    with pytest.raises(InputError, match="1 lists of rules for 2 pictures"):
        stylegan.keys([1, 2], "layer4", rules=[[good]])


def test_a_rule_that_is_off_or_of_strength_0_changes_nothing_to_the_bit(generator, change):
    layer = some_layers(generator)[1]
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


def test_strength_1_is_the_rule_and_other_strengths_scale_it_to_the_bit(generator, change):
    rule = change(generator, some_layers(generator)[1])
    changed = generator.sample([3], rules=[rule])
    assert torch.equal(generator.sample([3], rules=[replace(rule, strength=1.0, on=True)]), changed)
    for strength in (-1.0, 0.3, 2.0):
        scaled = replace(rule, delta=rule.delta * strength)
        picture = generator.sample([3], rules=[replace(rule, strength=strength)])
        assert torch.equal(picture, generator.sample([3], rules=[scaled]))
        assert not near(picture, changed, 1e-3)


def test_two_halves_of_a_rule_make_the_rule_and_its_negative_cancels_it(generator, change):
    for layer in some_layers(generator)[:2]:
        rule = change(generator, layer, rank=3)
        half = replace(rule, strength=0.5)
        assert near(generator.sample([3, 4], rules=[half, half]), generator.sample([3, 4], rules=[rule]))
        assert near(generator.sample([3, 4], rules=[rule, replace(rule, strength=-1.0)]), generator.sample([3, 4]))


def test_rules_add_up_in_any_order_within_a_layer_and_across_layers(generator, change):
    layers = some_layers(generator)[:2]
    rules = [change(generator, layer, seed=i, rank=1 + i, size=0.1) for i, layer in enumerate(layers * 2)]
    expected = generator.sample([3, 4], rules=rules)
    joined = [
        LowRank(a.layer, torch.cat([a.delta, b.delta], 1), torch.cat([a.directions, b.directions]))
        for a, b in zip(rules[:2], rules[2:], strict=True)
    ]
    for same in (rules[::-1], rules[2:] + rules[:2], joined):
        assert near(generator.sample([3, 4], rules=same), expected)
        assert near(generator.sample([3, 4], rules=[same, rules]), expected)
    assert near(generator.rewritten(rules).sample([3, 4]), expected)
    assert not near(generator.sample([3, 4], rules=rules[:2]), expected, 1e-2)


def test_the_weight_of_a_rule_is_its_rows_times_delta_and_has_its_rank(generator, change):
    for rank in (1, 3):
        one = replace(change(generator, some_layers(generator)[0], rank=rank), strength=-0.5)
        by_hand = sum(one.delta[:, i, None] * one.directions[i][None, :, None, None] for i in range(rank)) * -0.5
        assert torch.allclose(one.weight(), by_hand, atol=1e-6)
        assert one.rank == rank == torch.linalg.matrix_rank(one.weight().transpose(0, 1).flatten(1))
