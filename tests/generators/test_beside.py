"""Memories beside W: shut they change nothing, open they answer as defined, and every picture may have its own."""

from dataclasses import replace

import pytest
import torch
from conftest import near

from rewriter.editing.rule import MEMORIES
from rewriter.errors import InputError
from rewriter.generators.beside import form_of
from rewriter.generators.change import LowRank, identity
from rewriter.generators.gated import Gated, Recall
from rewriter.generators.template import Template
from rewriter.memory.recall import whitening
from rewriter.memory.second_moment import SecondMoment

SEEDS = [3, 11]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def middle(generator):
    """The last layer that upsamples, the hardest case; or the fourth where none does, but for the first."""
    upsampling = [name for name, info in generator.layers.items() if info.scale > 1 and info.key_resolution > 1]
    return upsampling[-1] if upsampling else list(generator.layers)[3]


def last(generator):
    return list(generator.layers)[-1]


def gated(generator, layer, *, low=-0.5, high=0.5, seed=0, rank=2):
    """A random change behind a gate, a third as large as W."""
    weight = generator.memory(layer).weight
    delta, directions = drawn(len(weight), rank, *weight.shape[2:], seed=seed), drawn(rank, weight.shape[1], seed=seed)
    directions = torch.linalg.qr(directions.T)[0].T.contiguous()
    return Gated(delta * (0.3 * weight.norm() / delta.norm()), directions, low, high)


def recalled(generator, layer, *, seed=5, at=(1, 1), size=2, low=0.9, high=0.99, alpha=None, copied=None):
    """The values of one place of a picture, recalled where the keys look like those of that place."""
    info, features = generator.layer(layer), generator.keys([seed], layer)
    size = min(size, info.key_resolution - max(at))
    moment = SecondMoment(info.in_channels)
    moment.update(generator.keys(range(16), layer).keys.transpose(0, 1).flatten(1).T)
    template = Template(torch.zeros(1), whitening(moment), low, high)
    patch = template.whitened(features.keys)[0, :, at[0] : at[0] + size, at[1] : at[1] + size].contiguous()
    (top, left), window = (x * info.scale for x in at), size * info.scale
    response = demodulated(generator, features)
    if copied is None:
        copied = response[0, :, top : top + window, left : left + window].contiguous()
    alpha = torch.ones(copied.shape[1:]) if alpha is None else alpha
    nothing = torch.zeros(0, *copied.shape)
    return Recall(
        replace(template, patch=patch), alpha, copied, nothing, nothing, (0.0, 0.0), info.scale, info.scale, (0, 0)
    )


def demodulated(generator, features, changes=()):
    return generator.memory(features.layer).respond(features.keys, features.style, changes)


def as_rule(generator, layer, beside, **about):
    """A change of W that is zero, with a memory beside it."""
    weight = generator.memory(layer).weight
    nothing = torch.zeros(len(weight), 1, *weight.shape[2:])
    return LowRank(layer, nothing, torch.eye(weight.shape[1])[:1].contiguous(), beside=beside, **about)


@pytest.fixture(params=["gated", "template"])
def make(request):
    """Make a memory of one of the two forms, that is open somewhere in most pictures."""
    if request.param == "gated":
        return gated
    return lambda generator, layer, seed=0: recalled(
        generator, layer, low=-0.5, high=0.5, copied=drawn(*recalled(generator, layer).copied.shape, seed=seed)
    )


def test_a_memory_that_is_shut_changes_nothing_to_the_bit(generator):
    for layer in (middle(generator), last(generator)):
        shut = gated(generator, layer, low=1e6, high=2e6), recalled(generator, layer, low=2.0, high=3.0)
        base = generator.sample(SEEDS)
        for beside in shut:
            assert not beside.matches(generator.keys(SEEDS, layer).keys).any()
            assert torch.equal(generator.sample(SEEDS, rules=[as_rule(generator, layer, beside)]), base)


def test_places_where_the_gate_is_shut_keep_their_values_to_the_bit(generator, make):
    layer = middle(generator)
    beside, features = make(generator, layer), generator.keys(range(4), layer)
    scale, reach = generator.layer(layer).scale, 2
    before, after = (
        demodulated(generator, features),
        demodulated(generator, features, [as_rule(generator, layer, beside)]),
    )
    near_open = torch.nn.functional.max_pool2d(
        (beside.matches(features.keys) > 0).float()[:, None], 2 * reach + 1, 1, reach
    )
    away = near_open.repeat_interleave(scale, 2).repeat_interleave(scale, 3) == 0
    assert torch.equal(before * away, after * away) and not torch.equal(before, after)


def test_an_open_gate_adds_the_change_under_the_demodulation_of_w(generator):
    for layer in (middle(generator), last(generator)):
        beside, features = gated(generator, layer, low=-2e6, high=-1e6), generator.keys(SEEDS, layer)
        memory = generator.memory(layer)
        weight = torch.einsum("oryx,ri->oiyx", beside.delta, beside.directions)
        added = memory.response(features.keys, weight)
        if features.style is not None:
            added = added * memory.scale(features.style, memory.energy())[:, :, None, None]
        expected = demodulated(generator, features) + added
        assert near(demodulated(generator, features, [as_rule(generator, layer, beside)]), expected)


def test_a_gate_opens_linearly_between_its_thresholds():
    memory = Gated(torch.ones(1, 1, 1, 1), torch.tensor([[1.0, 0.0]]), 1.0, 3.0)
    keys = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0, 9.0])
    keys = torch.stack([keys, drawn(6)])[None, :, None]
    assert torch.allclose(memory.matches(keys)[0, 0], torch.tensor([0, 0, 0.25, 0.5, 1, 1]))


def test_strength_0_and_off_are_the_base_to_the_bit_and_strength_scales_the_change(generator, make):
    layer = last(generator)
    rule, features = as_rule(generator, layer, make(generator, layer)), generator.keys(SEEDS, layer)
    base = generator.sample(SEEDS)
    for nothing in (replace(rule, strength=0.0), replace(rule, on=False)):
        assert torch.equal(generator.sample(SEEDS, rules=[nothing]), base)
        assert near(generator.sample(SEEDS, rules=[[nothing], [rule]])[:1], base[:1])
    before, full = demodulated(generator, features), demodulated(generator, features, [rule])
    for strength in (-1.0, 0.5, 2.0):
        scaled = demodulated(generator, features, [replace(rule, strength=strength)])
        assert near(scaled, before + strength * (full - before))
    assert not torch.equal(full, before)


def test_each_picture_of_a_batch_with_rules_of_all_forms_equals_the_one_drawn_alone(generator, change):
    layer, later = middle(generator), last(generator)
    plain, gate = change(generator, layer, size=0.1), as_rule(generator, layer, gated(generator, layer))
    recall = as_rule(generator, layer, recalled(generator, layer, low=-0.5, high=0.5))
    after = as_rule(generator, later, gated(generator, later, seed=3), strength=0.5)
    lists = [[plain], [gate], [], [recall], [gate, plain, recall], [recall, after], [gate]]
    mixed = generator.sample(range(7), rules=lists)
    for i, own in enumerate(lists):
        assert near(mixed[[i]], generator.sample([i], rules=own)), i
    assert near(generator.sample([0, 1], rules=[lists[4]] * 2), generator.sample([0, 1], rules=lists[4]))


def test_memories_of_one_layer_answer_one_after_the_other_in_order(generator):
    layer = last(generator)
    features, memory = generator.keys(SEEDS, layer), generator.memory(layer)
    first = as_rule(generator, layer, gated(generator, layer))
    second = as_rule(generator, layer, recalled(generator, layer, low=-0.5, high=0.5), strength=0.5)
    sigma = None if features.style is None else memory.scale(features.style, memory.energy())
    response = demodulated(generator, features)
    for rule in (first, second):
        response = response + rule.strength * rule.beside.change(memory, features.keys, sigma, response)
    assert torch.equal(demodulated(generator, features, [first, second]), response)
    assert not torch.equal(demodulated(generator, features, [second, first]), response)


# --- copied values ---


def test_the_copied_picture_gets_its_own_values_back_at_the_copied_place(generator):
    for layer in (middle(generator), last(generator)):
        info = generator.layer(layer)
        if info.key_resolution < 4:
            continue
        beside, features = recalled(generator, layer, at=(1, 2), size=3), generator.keys([5], layer)
        window = slice(info.scale, 4 * info.scale), slice(2 * info.scale, 5 * info.scale)
        assert (beside.matches(features.keys)[0, 1:4, 2:5] > 0.9).any()
        other = replace(beside, copied=torch.zeros_like(beside.copied))
        before = demodulated(generator, features)
        wiped = demodulated(generator, features, [as_rule(generator, layer, other)])
        assert wiped[0, :, window[0], window[1]].abs().max() < 1e-4 * before.abs().max()
        after = demodulated(generator, features, [as_rule(generator, layer, beside)])
        assert near(after[0, :, window[0], window[1]], before[0, :, window[0], window[1]])


class Plain:
    """A small linear layer without noise, so that its answers move with its keys."""

    def __init__(self, *, scale=1, side=12, size=3, at=(4, 5)):
        self.scale, self.side = scale, side
        self.patch = drawn(6, size, size, seed=1)
        self.copied = drawn(4, size * scale, size * scale, seed=2)
        template = Template(self.patch, torch.eye(6), 0.8, 0.9)
        nothing = torch.zeros(0, *self.copied.shape)
        alpha = torch.ones(self.copied.shape[1:])
        self.recall = Recall(template, alpha, self.copied, nothing, nothing, (0.0, 0.0), scale, scale, (0, 0))

    def keys(self, *corners):
        """Maps of faint noise, each with the patch at its corner."""
        keys = 0.01 * drawn(len(corners), 6, self.side, self.side, seed=3)
        for one, (row, column) in zip(keys, corners, strict=True):
            one[:, row : row + self.patch.shape[1], column : column + self.patch.shape[2]] = self.patch
        return keys

    def response(self, n=1):
        return drawn(n, 4, self.side * self.scale, self.side * self.scale, seed=4)

    def answer(self, keys, response=None, **changed):
        response = self.response(len(keys)) if response is None else response
        return response + replace(self.recall, **changed).change(None, keys, None, response)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_shifted_map_gives_a_shifted_change(scale):
    layer = Plain(scale=scale)
    corners = [(0, 0), (4, 5), (9, 9), (0, 7)]
    after, before = layer.answer(layer.keys(*corners)), layer.response(4)
    for i, (row, column) in enumerate(corners):
        rows, columns = (slice(at * scale, (at + 3) * scale) for at in (row, column))
        assert torch.allclose(after[i, :, rows, columns], layer.copied, atol=1e-5)
        before[i, :, rows, columns] = after[i, :, rows, columns]
    assert torch.equal(after, before)  # nothing else changed


def test_what_lies_beyond_the_border_is_lost_and_nothing_else():
    layer = Plain()
    keys, whole = layer.keys((0, 0)), layer.response()
    after = layer.answer(keys, shift=(-2.0, -1.0))
    assert torch.allclose(after[0, :, :1, :2], layer.copied[:, 2:, 1:], atol=1e-5)
    whole[:, :, :1, :2] = after[:, :, :1, :2]
    assert torch.equal(after, whole)
    assert torch.equal(layer.answer(keys, shift=(-30.0, 0.0)), layer.response())


@pytest.mark.parametrize("phase", [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("off", [-0.9, 0.0, 0.4, 1.3])
def test_windows_of_an_upsampling_layer_stay_in_phase(phase, off):
    layer = Plain(scale=2)
    recall = replace(layer.recall, phase=phase, shift=(off, -off))
    corners = recall.corners(torch.tensor([[1.0, 2.0], [1.4, 2.6], [0.2, 0.3]]))
    assert ((corners - torch.tensor(phase)) % 2 == 0).all()
    exact = torch.tensor([[1.0, 2.0], [1.4, 2.6], [0.2, 0.3]]) * 2 + torch.tensor([off, -off])
    assert ((corners - exact).abs() <= 1 + 1e-5).all()


def test_overlapping_windows_do_not_add_up():
    layer = Plain()
    keys = layer.keys((4, 4))
    keys[:, :, :, 6:9] = 0
    keys[:, :, 4:7, 6:9] = layer.patch  # a second, one column on the first
    low = replace(layer.recall.template, low=0.3, high=0.4)
    flat = replace(layer.recall, template=low, copied=torch.ones_like(layer.copied))
    after = torch.zeros(1, 4, 12, 12) + flat.change(None, keys, None, torch.zeros(1, 4, 12, 12))
    assert 0.99 < float(after.max()) < 1.001 and flat.touched(keys).max() == 1


def test_the_mask_is_how_far_values_are_replaced():
    layer, alpha = Plain(), torch.rand(3, 3, generator=torch.Generator().manual_seed(7))
    after, before = layer.answer(layer.keys((4, 5)), alpha=alpha), layer.response()
    expected = torch.lerp(before[0, :, 4:7, 5:8], layer.copied, alpha)
    assert torch.allclose(after[0, :, 4:7, 5:8], expected, atol=1e-5)
    assert torch.allclose(layer.recall.touched(layer.keys((4, 5)))[0, 4:7, 5:8], torch.ones(3, 3))


def test_the_border_decides_how_copied_values_are_corrected():
    layer = Plain(size=4)
    encode, decode = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    encode[0, 1, 0, 0] = 1.0  # what one cell of the border holds
    decode[0, 2, 1:3, 1:3] = 0.5  # is added by half to one channel inside
    alpha = torch.zeros(4, 4)
    alpha[1:3, 1:3] = 1
    before, after = layer.response(), layer.answer(layer.keys((4, 5)), alpha=alpha, encode=encode, decode=decode)
    expected = layer.copied[:, 1:3, 1:3].clone()
    expected[2] += 0.5 * before[0, 1, 4, 5]
    assert torch.allclose(after[0, :, 5:7, 6:8], expected, atol=1e-5)


# --- template ---


def test_a_templates_score_is_the_cosine_of_whitened_keys():
    keys, z = drawn(2, 6, 9, 8), drawn(5, 6, seed=2)
    whitened = torch.einsum("mi,nihw->nmhw", z, keys)
    template = Template(whitened[1, :, 3:6, 2:6].contiguous(), z)
    scores = template.scores(keys)
    assert scores.shape == (2, 7, 5) and scores.abs().max() <= 1 + 1e-5
    assert scores[1, 3, 2] == pytest.approx(1, abs=1e-5) and scores.argmax() == scores[0].numel() + 3 * 5 + 2
    other = whitened[0, :, 1:4, 0:4]
    assert float(scores[0, 1, 0]) == pytest.approx(
        float(torch.cosine_similarity(other.flatten(), template.patch.flatten(), 0)), abs=1e-5
    )
    assert torch.allclose(template.scores(7 * keys), scores, atol=1e-5)


def test_peaks_are_places_above_the_threshold_that_have_no_better_one_within_half_a_template():
    scores = torch.zeros(2, 9, 9)
    scores[0, 2, 2], scores[0, 4, 4], scores[0, 2, 7], scores[1, 8, 8] = 0.9, 0.8, 0.7, 0.3
    template = Template(torch.ones(1, 4, 4), torch.ones(1, 1), 0.25, 0.5)
    peaks = template.peaks(scores)
    assert peaks.picture.tolist() == [0, 0, 1] and peaks.score.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert torch.allclose(peaks.place, torch.tensor([[2.0, 2], [2, 7], [8, 8]]), atol=0.01)
    assert replace(template, low=0.75).peaks(scores).score.tolist() == pytest.approx([0.9])
    assert torch.allclose(template.opened(peaks.score), torch.tensor([1.0, 1.0, 0.2]))
    best = template.best(scores - 1)
    assert best.picture.tolist() == [0, 1] and best.score.tolist() == pytest.approx([-0.1, -0.7])


def test_a_peak_between_two_equal_cells_lies_in_the_middle():
    scores = torch.zeros(1, 7, 7)
    scores[0, 3, 2] = scores[0, 3, 3] = 0.8
    template = Template(torch.ones(1, 1, 1), torch.ones(1, 1), 0.5, 0.6)
    assert torch.allclose(template.peaks(scores).place, torch.tensor([[3.0, 2.5]]).expand(2, 2))
    assert torch.allclose(template.best(scores).place, torch.tensor([[3.0, 2.5]]))


def test_a_template_as_large_as_the_map_has_one_place():
    keys = drawn(2, 6, 5, 5)
    template = Template(keys[0], torch.eye(6), 0.5, 0.9)
    assert template.peaks(template.scores(keys)).picture.tolist() == [0]


# --- identity ---


def test_a_memory_is_put_together_again_from_its_tensors_to_the_bit(generator, make):
    layer = middle(generator)
    beside = make(generator, layer)
    again = type(beside).from_tensors(beside.tensors())
    assert MEMORIES[form_of(beside)] is type(beside) and form_of(None) == "weight"
    for name, tensor in beside.tensors().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, again.tensors()[name])
    pictures = [generator.sample(SEEDS, rules=[as_rule(generator, layer, one)]) for one in (beside, again)]
    assert torch.equal(*pictures) and not torch.equal(pictures[0], generator.sample(SEEDS))


def test_numbers_of_a_memory_are_those_that_a_file_holds():
    memory = Gated(torch.ones(1, 1, 1, 1), torch.ones(1, 1), 0.1, 1 / 3)
    assert (memory.low, memory.high) == (float(torch.tensor(0.1)), float(torch.tensor(1 / 3)))
    layer = Plain()
    assert replace(layer.recall, shift=(0.1, 0.2)).shift == tuple(torch.tensor([0.1, 0.2]).tolist())


def test_a_memory_of_another_layer_is_refused(stylegan):
    gate, recall = gated(stylegan, "layer4"), recalled(stylegan, "layer4")
    small = gated(stylegan, "layer2"), recalled(stylegan, "layer5")
    large = torch.zeros(len(recall.template.patch), 9, 8)
    window = torch.zeros(32, 17, 17)
    nothing = torch.zeros(0, 32, 17, 17)
    wrong = [
        replace(gate, delta=gate.delta[:-1]),
        replace(gate, delta=gate.delta[..., :1]),
        replace(gate, delta=gate.delta[:, :1]),
        replace(gate, directions=gate.directions[:, :-1]),
        replace(gate, low=0.5),
        small[1],  # of an upsampling layer
        replace(recall, copied=recall.copied[:-1]),
        replace(recall, alpha=recall.alpha[:-1]),
        replace(recall, alpha=torch.zeros(0, 2)),
        replace(recall, encode=recall.encode[:, :-1]),
        replace(recall, decode=torch.zeros(1, *recall.copied.shape)),
        replace(recall, template=replace(recall.template, whitening=recall.template.whitening[:, 1:])),
        replace(recall, template=replace(recall.template, low=0.995)),
        replace(recall, template=replace(recall.template, patch=large)),  # larger than the map
        replace(recall, alpha=window[0], copied=window, encode=nothing, decode=nothing),
        replace(recall, scale=2),
        replace(recall, snap=0),
        replace(recall, phase=(0, 1)),
        replace(recall, phase=(-1, 0)),
        replace(recall, phase=(0, 10**38)),
    ]
    for beside in wrong:
        with pytest.raises(InputError, match="made for another model"):
            stylegan.sample([0], rules=[as_rule(stylegan, "layer4", beside)])
    for beside in (gate, recall):
        stylegan.check(as_rule(stylegan, "layer4", beside))


def test_changes_that_hold_the_same_bytes_in_another_shape_are_told_apart():
    """Pictures that many people share are kept under this identity."""
    one = LowRank("layer8", torch.arange(8.0).reshape(2, 4, 1, 1), torch.arange(8.0).reshape(4, 2))
    other = LowRank("layer8", torch.arange(8.0).reshape(4, 2, 1, 1), torch.arange(8.0).reshape(2, 4))
    assert identity([one]) != identity([other]) and len(identity([one])) == 40
    assert identity([one]) == identity([LowRank("layer8", one.delta.clone(), one.directions.clone())])
    assert identity([]) == "" and identity([one, one]) != identity([one])


def test_memories_of_more_directions_than_a_layer_has_channels_do_not_fit(town):
    """Files of strangers would take gigabytes when a picture is drawn."""
    info = town.layer("layer8")
    many = info.in_channels + 1
    delta = torch.zeros(info.out_channels, many, info.kernel, info.kernel)
    assert not Gated(delta, torch.zeros(many, info.in_channels), 0.0, 1.0).fits(info)
    assert Gated(delta[:, 1:], torch.zeros(many - 1, info.in_channels), 0.0, 1.0).fits(info)
    with pytest.raises(InputError, match="made for another model"):
        town.check(LowRank("layer8", delta, torch.zeros(many, info.in_channels)))
