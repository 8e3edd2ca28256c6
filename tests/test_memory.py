"""The method: second moments, directions, goals, and solvers, against independent computations of the same things."""

import copy
import statistics
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rewriter.editing.statistics import Recipe, Statistics
from rewriter.errors import CancelledError, ComputationError, InputError
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features
from rewriter.masks import Box
from rewriter.memory import SOLVERS as METHODS
from rewriter.memory import Bystanders, solve
from rewriter.memory.descent import _l1, descend
from rewriter.memory.directions import METHODS as DIRECTION_METHODS
from rewriter.memory.directions import Directions, key_directions
from rewriter.memory.goal import DONORS, Goal, corresponding, erase, fill, paste
from rewriter.memory.keys import SecondMoment, random_places
from rewriter.memory.least_squares import _cost, _normal_equations, least_squares
from rewriter.memory.sites import Sites, at_places


def place_keys(features):
    """Feature maps (n, c, h, w) → one key per place, picture by picture, row by row."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(n, channels=8, seed=0):
    """Keys whose channels depend on each other, with a mean, as a layer's do."""
    mix = torch.linalg.qr(torch.randn(channels, channels, generator=seeded(99)))[0] * torch.logspace(0, -2, channels)
    return torch.randn(n, channels, generator=seeded(seed)) @ mix.T + 0.3


def moment_of(keys):
    moment = SecondMoment(keys.shape[1])
    moment.update(keys)
    return moment


def cosine(a, b):
    return float(torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


# --- keys and their second moment ---


def test_a_key_per_place_in_reading_order():
    maps = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    keys = place_keys(maps)
    assert keys.shape == (40, 3)
    assert torch.equal(keys[20 + 2 * 5 + 4], maps[1, :, 2, 4])
    assert torch.equal(at_places(maps, torch.tensor([[7], [14]])), keys[[7, 34]])


def test_random_places_depend_on_the_seed_alone():
    places = random_places([5, 6, 7], 100, 64)
    assert places.shape == (3, 100) and places.min() >= 0 and places.max() < 64
    assert torch.equal(random_places([7], 100, 64)[0], places[2])
    assert not torch.equal(places[0], places[1])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_streamed_equals_batch_and_merged_equals_together(sizes):
    keys = correlated(sum(sizes))
    exact = keys.double().T @ keys.double() / len(keys)
    streamed, merged, backwards = SecondMoment(8), SecondMoment(8), SecondMoment(8)
    parts = keys.split(sizes)
    for part in parts:
        streamed.update(part)
        merged.merge(moment_of(part))
    for part in reversed(parts):
        backwards.merge(moment_of(part))
    for moment in (streamed, merged, backwards):
        assert moment.count == len(keys)
        assert torch.allclose(moment.matrix, exact, rtol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_moment_takes_nothing_from_keys_that_are_not_finite(bad):
    moment = moment_of(correlated(30))
    before, keys = moment.matrix.clone(), correlated(5)
    keys[3, 2] = bad
    with pytest.raises(ComputationError, match="not finite"):
        moment.update(keys)
    assert moment.count == 30 and torch.equal(moment.matrix, before)


def test_a_moment_refuses_other_shapes_and_has_no_matrix_before_any_key():
    for keys in (torch.zeros(3, 7), torch.zeros(8), torch.zeros(1, 3, 8)):
        with pytest.raises(InputError, match="8"):
            SecondMoment(8).update(keys)
    with pytest.raises(InputError, match="no keys yet"):
        _ = SecondMoment(8).matrix


def test_powers_of_the_moment_are_powers():
    moment = moment_of(correlated(500))
    half, inverse = moment.power(-0.5), moment.power(-1)
    assert torch.allclose(half @ half, inverse, rtol=1e-6, atol=1e-6 * inverse.abs().max())
    assert torch.allclose(inverse @ moment.matrix, torch.eye(8, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(moment.power(1), moment.matrix, atol=1e-9)


def test_whitened_keys_are_white():
    keys = correlated(500)
    white = keys.double() @ moment_of(keys).power(-0.5)
    assert torch.allclose(white.T @ white / 500, torch.eye(8, dtype=torch.float64), atol=1e-6)


def test_powers_stay_finite_where_a_direction_is_never_seen():
    keys = correlated(50)
    keys[:, 3] = 0
    assert moment_of(keys).power(-1).isfinite().all()


# --- directions ---


@pytest.mark.parametrize(
    ("method", "rank"), [("mean", 1), *((method, rank) for method in ("zca", "svd", "units") for rank in (1, 3))]
)
def test_directions_are_orthonormal_and_agree_with_the_mean(method, rank):
    context = correlated(6, seed=5)
    directions = key_directions(context, moment_of(correlated(500)), rank=rank, method=method)
    assert directions.matrix.shape == (rank, 8)
    assert torch.allclose(directions.matrix @ directions.matrix.T, torch.eye(rank), atol=1e-5)
    assert (directions.matrix @ context.mean(0) >= 0).all()
    assert directions.level == pytest.approx(float(directions.matrix[0] @ context.mean(0)), rel=1e-5)


@pytest.mark.parametrize("method", ["zca", "mean", "svd"])
def test_one_key_gives_its_decorrelated_direction(method):
    key, moment = correlated(1, seed=5), moment_of(correlated(500))
    directions = key_directions(key, moment, method=method)
    assert cosine(directions.matrix[0], moment.power(-1) @ key[0].double()) > 1 - 1e-6


def test_zca_directions_span_the_decorrelated_keys():
    """At full rank the row space is that of C⁻¹k, whatever the keys."""
    context, moment = correlated(3, seed=5), moment_of(correlated(500))
    d = key_directions(context, moment, rank=3).matrix.double()
    wanted = context.double() @ moment.power(-1)
    assert torch.allclose(wanted @ d.T @ d, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max())


def test_keys_that_are_uncorrelated_with_the_context_do_not_answer():
    """A key with kᵀC⁻¹k* = 0 has no response to the direction of k*."""
    moment, context = moment_of(correlated(500)), correlated(1, seed=5)
    keys, inverse = correlated(20, seed=6).double(), moment.power(-1)
    towards, k = inverse @ context[0].double(), context[0].double()
    keys = keys - ((keys @ towards) / (k @ towards))[:, None] * k
    direction = key_directions(context, moment).matrix[0].double()
    assert (keys @ direction).abs().max() < 1e-5 * (k @ direction).abs()


def test_weights_say_how_much_a_key_counts():
    context, moment = correlated(6, seed=5), moment_of(correlated(500))
    plain = key_directions(context, moment)
    assert cosine(key_directions(context, moment, weights=torch.full((6,), 7.0)).matrix, plain.matrix) > 1 - 1e-6
    first = key_directions(context, moment, weights=torch.tensor([1.0] + [1e-6] * 5)).matrix
    assert cosine(first, key_directions(context[:1], moment).matrix) > 0.999 > cosine(first, plain.matrix)


def test_unit_directions_are_the_units_unusually_strong_in_the_context():
    context = torch.full((4, 8), 0.1)
    context[:, 6], context[:, 2] = 3.0, 2.0
    keys = torch.randn(500, 8, generator=seeded())
    keys[:, 0] *= 100  # loud everywhere, hence not unusual
    matrix = key_directions(context, moment_of(keys), rank=2, method="units").matrix
    assert torch.equal(matrix, torch.eye(8)[[6, 2]])


@pytest.mark.parametrize("method", DIRECTION_METHODS)
def test_a_rank_above_the_context_is_refused(method):
    key = torch.zeros(1, 8)
    key[0, 3] = 1
    for keys, rank in ((key, 2), (key.expand(5, 8), 2), (key, 0), (key, -1)):
        with pytest.raises(InputError, match=f"rank {rank} "):
            key_directions(keys, moment_of(correlated(500)), rank=rank, method=method)


def test_useless_contexts_are_refused():
    moment = moment_of(correlated(500))
    with pytest.raises(InputError, match="no context keys"):
        key_directions(torch.zeros(0, 8), moment)
    with pytest.raises(InputError, match="unknown direction method 'pca'"):
        key_directions(correlated(2), moment, method="pca")
    with pytest.raises(ComputationError, match="not finite"):
        key_directions(correlated(2) * float("nan"), moment)


@pytest.mark.parametrize(
    "method",
    ["zca", "mean", "svd", "units"],
)
def test_a_context_of_nothing_is_refused(method):
    with pytest.raises(InputError, match="rank 1"):
        key_directions(torch.zeros(3, 8), moment_of(correlated(500)), method=method)


def test_directions_converge_with_the_number_of_keys():
    """FACTS.md 2: C needs many keys for each dimension."""
    key = correlated(1, channels=24, seed=5)
    limit = key_directions(key, moment_of(correlated(50_000, channels=24, seed=1))).matrix

    def agreement(keys_per_dimension):
        n = 24 * keys_per_dimension
        return statistics.median(
            cosine(key_directions(key, moment_of(correlated(n, channels=24, seed=s))).matrix, limit)
            for s in range(100, 115)
        )

    few, some, many = agreement(2), agreement(10), agreement(50)
    assert few < some < many and few < 0.9 and many > 0.97


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer4"), ("stylegan", "layer5"), ("proggan", "layer4")])
def test_places_orthogonal_to_the_directions_do_not_move(request, change, model, layer):
    generator = request.getfixturevalue(model)
    memory, rule = generator.memory(layer), change(generator, layer)
    keys = generator.keys([0], layer).keys.clone()
    d, half = rule.directions, keys.shape[3] // 2
    orthogonal = keys - torch.einsum("ri,rj,njhw->nihw", d, d, keys)
    keys[..., :half] = orthogonal[..., :half]
    before = memory.response(keys, memory.weight)
    moved = (memory.response(keys, memory.weight + rule.weight()) - before).abs().amax((0, 1))
    scale = moved.shape[1] // keys.shape[3]
    assert moved[:, : (half - 1) * scale].max() < 1e-5 * before.abs().max()
    assert (moved[:, (half + 1) * scale :] > 1e-3 * before.abs().max()).all()


# --- goals ---


def features_of(values, **others):
    return Features("layer", values, **others)


def blank(height=8, width=8, channels=3, n=1):
    return torch.randn(n, channels, height, width, generator=seeded(1))


def rectangle(top, left, bottom, right, size=(8, 8)):
    mask = torch.zeros(size)
    mask[top:bottom, left:right] = 1
    return mask


def test_a_full_mask_copies_values_exactly():
    before, source = blank(n=2), blank()[0] + 5
    goal = paste(features_of(before), before, [(6, 5), (2, 3)], source, rectangle(1, 2, 4, 4), snap=1)
    assert [box.size for box in goal.boxes] == [(3, 2), (3, 2)]
    for i, box in enumerate(goal.boxes):
        inside = goal.weight[i] > 0
        assert torch.equal(goal.values[i, :, box.rows, box.columns], source[:, 1:4, 2:4])
        assert torch.equal(goal.values[i][:, ~inside], before[i][:, ~inside])
        assert inside.sum() == 6 and inside[box.rows, box.columns].all()
    assert goal.boxes[0].centre == (6.5, 5) or goal.boxes[0].centre == (5.5, 5)
    assert torch.equal(goal.before, before)


def test_the_mask_is_the_alpha_of_the_paste():
    before, source = blank(), blank()[0] + 5
    mask = rectangle(2, 2, 6, 6)
    mask[3, 3], mask[4, 4] = 0, 0.25
    goal = paste(features_of(before), before, [(4, 4)], source, mask, snap=1)
    assert goal.boxes == (Box(2, 2, 6, 6),)
    assert torch.equal(goal.values[0, :, 3, 3], before[0, :, 3, 3])
    assert torch.equal(goal.values[0, :, 2, 2], source[:, 2, 2])
    assert torch.allclose(goal.values[0, :, 4, 4], 0.75 * before[0, :, 4, 4] + 0.25 * source[:, 4, 4])


@given(
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(1, 8), st.integers(1, 8)),
    st.floats(-3, 11),
    st.floats(-3, 11),
    st.sampled_from([1, 2]),
)
def test_a_paste_stays_on_the_map_in_phase_and_near_its_centre(place, row, column, snap):
    top, left, height, width = place
    mask = rectangle(top, left, min(top + height, 8), min(left + width, 8))
    before = blank()
    goal = paste(features_of(before), before, [(row, column)], before[0], mask, snap=snap)
    box = goal.boxes[0]
    assert 0 <= box.top < box.bottom <= 8 and 0 <= box.left < box.right <= 8
    assert box.size == (min(top + height, 8) - top, min(left + width, 8) - left)
    assert (box.top - top) % snap == 0 and (box.left - left) % snap == 0
    for middle, wanted, size in zip(box.centre, (row, column), box.size, strict=True):
        reachable = min(max(wanted, size / 2), 8 - size / 2)
        assert abs(middle - reachable) <= snap
    again = paste(features_of(before), before, [box.centre], before[0], mask, snap=snap)
    assert again.boxes == goal.boxes


def test_remaining_and_mean_change_count_weighted_places_only():
    before, source = blank(), blank()[0] + 5
    goal = paste(features_of(before), before, [(4, 4)], source, rectangle(2, 2, 4, 5), snap=1)
    difference = goal.values - before
    assert goal.remaining(goal.values) == 0
    assert goal.remaining(before) == pytest.approx(float(difference.norm()), rel=1e-5)
    assert torch.allclose(goal.mean_change(), difference.sum((0, 2, 3)) / 6, atol=1e-5)
    assert goal.remaining(torch.where(goal.weight[:, None] > 0, before, before + 100)) == goal.remaining(before)


def test_parts_of_a_goal_are_goals():
    before, source = blank(n=2), blank()[0] + 5
    goal = paste(features_of(before), before, [(4, 4), (3, 3)], source, rectangle(2, 2, 4, 5), snap=1)
    second = goal[1:]
    assert torch.equal(second.values[0], goal.values[1]) and second.boxes == goal.boxes[1:]
    assert len(second.features) == 1


def test_erase_silences_only_the_outstanding_units_and_only_inside():
    before = blank(n=2, channels=5).abs()
    before[:, 1, 2:5, 2:5] += 50
    before[:, 4] += 90
    usual = torch.tensor([1.0, 1.0, 1.0, 1.0, 1e6])  # unit 4 is always loud
    masks = torch.stack([rectangle(2, 2, 5, 5), rectangle(3, 3, 5, 5) / 2])
    goal = erase(features_of(before), before, masks, usual, units=1)
    changed = (goal.values != before).nonzero()
    assert set(changed[:, 1].tolist()) == {1}
    assert torch.equal((goal.values != before).any(1), masks > 0)
    assert (goal.values[0, 1, 2:5, 2:5] == 0).all()
    assert torch.allclose(goal.values[1, 1, 3:5, 3:5], before[1, 1, 3:5, 3:5] / 2)
    assert torch.equal(goal.weight, masks) and goal.boxes == (Box(2, 2, 5, 5), Box(3, 3, 5, 5))


@pytest.mark.parametrize("units", [0, 6, -1])
def test_erase_refuses_units_that_the_layer_lacks(units):
    before = blank(channels=5)
    with pytest.raises(InputError, match=f"{units} units"):
        erase(features_of(before), before, rectangle(2, 2, 5, 5)[None], torch.ones(5), units=units)


def test_fill_takes_the_mean_of_the_pictures_most_alike_outside_the_mask():
    before, keys = blank(n=2), blank(n=2, channels=4)
    masks = torch.stack([rectangle(2, 2, 5, 5), rectangle(0, 0, 3, 8)])
    masks[1, 2] = 0.5
    alike = keys[:1] + 0.01 * torch.randn(DONORS, 4, 8, 8, generator=seeded(3))
    alike[:, :, 2:5, 2:5] += 100  # what is under the mask does not count
    donor_keys = torch.cat([torch.randn(6, 4, 8, 8, generator=seeded(4)), alike])
    donor_values = torch.randn(len(donor_keys), 3, 8, 8, generator=seeded(5))
    goal = fill(features_of(before), before, masks, keys, donor_keys, donor_values)
    mean = donor_values[6:].mean(0)
    assert torch.allclose(goal.values[0][:, masks[0] > 0], mean[:, masks[0] > 0])
    for i, mask in enumerate(masks):
        assert torch.equal(goal.values[i][:, mask == 0], before[i][:, mask == 0])
    assert torch.equal(goal.weight, masks) and torch.equal(goal.before, before)
    with pytest.raises(InputError, match="fires on every picture"):
        fill(features_of(before), before, masks, keys, donor_keys[:0], donor_values[:0])


@given(st.integers(-2, 2), st.integers(-2, 2))
def test_the_corresponding_place_is_found_after_a_shift(down, right):
    keys = blank(12, 12)[0]
    shifted = keys.roll((down, right), (1, 2)) + 0.1 * torch.randn(3, 12, 12, generator=seeded(2))
    box = Box(4, 5, 7, 8)
    found = corresponding(keys, box, torch.stack([shifted, keys]), [box.centre, box.centre])
    assert found == [(box.centre[0] + down, box.centre[1] + right), box.centre]


# --- sites ---

LAYERS = [("stylegan", "layer4"), ("stylegan", "layer5"), ("proggan", "layer1"), ("proggan", "layer4")]


def places_of(generator, layer, pictures, count=12):
    return random_places(list(range(50, 50 + pictures)), count, generator.layers[layer].resolution ** 2)


def gathered(generator, layer, directions, *, count=12, seeds=(1, 2, 3), **options):
    features = generator.keys(list(seeds), layer)
    places = places_of(generator, layer, len(seeds), count)
    weight = torch.rand(places.shape, generator=seeded(3)) + 0.1
    return Sites.gather(generator.memory(layer), directions, features, places, weight=weight, **options), places


@pytest.mark.parametrize(("model", "layer"), LAYERS)
@pytest.mark.parametrize("everything", [False, True])
def test_sites_predict_what_the_rewritten_layer_answers(request, change, model, layer, everything):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer, size=0.7)
    sites, places = gathered(generator, layer, None if everything else rule.directions)
    a = (rule.weight() if everything else rule.delta).flatten(1)
    memory = generator.memory(layer)
    folded = generator.rewritten([rule]).memory(layer)
    features = generator.keys([1, 2, 3], layer)
    response = folded.response(features.keys, folded.weight)
    if features.style is not None:
        response = response * folded.scale(features.style, folded.energy())[:, :, None, None]
    exact = at_places(response + folded.offset(), places)
    assert torch.allclose(sites.before_activation(a), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
    values = at_places(generator.values(features, rules=[rule]), places)
    predicted = memory.activate(sites.before_activation(a))
    assert torch.allclose(predicted, values, rtol=1e-3, atol=1e-4 * float(values.abs().max()))
    today = at_places(generator.values(features), places)
    assert torch.allclose(sites.wanted, today, rtol=1e-3, atol=1e-4 * float(today.abs().max()))


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer5"), ("proggan", "layer4")])
def test_joined_sites_answer_as_their_parts(request, change, model, layer):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer)
    parts = [gathered(generator, layer, rule.directions, count=n, seeds=s)[0] for n, s in ((5, (1, 2)), (9, (7,)))]
    joined, a = Sites.cat(parts), rule.delta.flatten(1)
    for ask in (lambda s: s.before_activation(a), lambda s: s.wanted, lambda s: s.weight):
        assert torch.equal(ask(joined), torch.cat([ask(part) for part in parts]))
    terms = joined.wanted
    split = terms.split([len(part.wanted) for part in parts])
    sums = torch.cat([part.per_picture(own) for part, own in zip(parts, split, strict=True)])
    assert torch.allclose(joined.per_picture(terms), sums, atol=1e-4)


# --- the solvers' derivatives, in float64 against autograd ---


def in_double(generator, layer, directions):
    """The layer and a small problem at it, in float64, with wanted values that no change can reach."""
    info = generator.layers[layer]
    wanted = torch.randn(2, info.out_channels, info.resolution, info.resolution, generator=seeded(4))
    sites, _ = gathered(generator, layer, directions, count=6, seeds=(1, 2), wanted=wanted)
    numbers = {name: value.double() for name, value in vars(sites).items() if value is not None and name != "picture"}
    return copy.deepcopy(generator.memory(layer)).double(), replace(sites, **numbers)


@pytest.mark.parametrize(("model", "layer"), LAYERS)
def test_the_normal_equations_are_those_of_the_cost(request, change, model, layer):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer)
    memory, sites = in_double(generator, layer, rule.directions)
    a = rule.delta.flatten(1).double().requires_grad_()
    (exact,) = torch.autograd.grad(_cost(memory, sites, a).sum() / 2, a)
    gradient, normal = _normal_equations(memory, sites, a.detach())
    assert torch.allclose(gradient, exact, rtol=1e-4, atol=1e-6 * float(exact.abs().max()))

    values = memory.activate(sites.before_activation(a))
    for channel in (0, 17):
        rows = [torch.autograd.grad(value, a, retain_graph=True)[0][channel] for value in values[:, channel]]
        jacobian = torch.stack(rows)
        gram = jacobian.T @ (sites.weight[:, None] * jacobian)
        assert torch.allclose(normal[channel], gram, rtol=1e-4, atol=1e-6 * float(gram.abs().max()))


@pytest.mark.parametrize(("model", "layer"), LAYERS)
@pytest.mark.parametrize("everything", [False, True])
def test_the_descent_gradient_is_that_of_the_loss(request, change, model, layer, everything):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer)
    memory, sites = in_double(generator, layer, None if everything else rule.directions)
    a = (rule.weight() if everything else rule.delta).flatten(1).double().requires_grad_()
    scale = sites.weight[:, None] / (sites.weight.sum() * len(a))
    error = memory.activate(sites.before_activation(a)) - sites.wanted
    by_hand = (scale * error.abs()).sum()
    (exact,) = torch.autograd.grad(by_hand, a)
    loss, gradient = _l1(memory, sites, scale, a.detach())
    assert float(loss) == pytest.approx(by_hand.item())
    assert torch.allclose(gradient, exact, rtol=1e-4, atol=1e-6 * float(exact.abs().max()))


# --- solve ---


class Problem:
    """A paste at one layer: a square of another picture's values into this one."""

    def __init__(self, generator, layer, *, rank=1, square=3):
        self.generator, self.info, self.memory = generator, generator.layers[layer], generator.memory(layer)
        moment = SecondMoment(self.info.in_channels)
        moment.update(place_keys(generator.keys(list(range(100, 140)), layer).keys))
        features, other = generator.keys([1], layer), generator.keys([2], layer)
        third = slice(self.info.key_resolution // 3, self.info.key_resolution // 3 + 3)
        self.directions = key_directions(place_keys(features.keys[:, :, third, third]), moment, rank=rank)
        side, first = self.info.resolution, self.info.resolution // 3
        mask = rectangle(first, first, first + square, first + square, (side, side))
        before, centre = generator.values(features), (first + square / 2, first + square / 2)
        self.goal = paste(features, before, [centre], generator.values(other)[0], mask, snap=self.info.scale)
        places = random_places([5, 6, 7], 40, side * side)
        self.bystanders = [Bystanders(generator.keys([5, 6, 7], layer), places, torch.ones(places.shape))]

    def solve(self, **options):
        return solve(self.memory, self.goal, self.directions, **options)

    def removed(self, change):
        after = self.generator.values(self.goal.features, rules=[change])
        return 1 - self.goal.remaining(after) / self.goal.remaining(self.goal.before)


@pytest.fixture(scope="module", params=["layer4", "layer5"])
def problem(request, stylegan):
    """On a demodulated layer, without and with upsampling."""
    return Problem(stylegan, request.param, rank=2)


@pytest.fixture(scope="module")
def linear(proggan):
    """On an exactly linear layer."""
    return Problem(proggan, "layer6", rank=1)


def design(keys, directions):
    """How each number of Λ moves each place of a linear 3×3 layer, (n · places, rank · taps): by unfolding."""
    response = torch.einsum("ri,nihw->nrhw", directions, keys)
    return F.unfold(response, 3, padding=1).transpose(1, 2).flatten(0, 1).double()


@pytest.mark.parametrize(
    ("rank", "square", "smoothness"),
    [
        (1, 5, 0),
        (1, 3, 1.0),
        (3, 3, 1.0),
        (2, 5, 10.0),
        (2, 5, 0),
        (1, 3, 0),
        (3, 3, 0),
    ],
)
def test_on_a_linear_layer_least_squares_is_exact(proggan, rank, square, smoothness):
    problem = Problem(proggan, "layer6", rank=rank, square=square)
    others, d, size = problem.bystanders[0], problem.directions.matrix, problem.info.resolution**2
    inside = problem.goal.weight.flatten() > 0
    lacking = place_keys(problem.goal.values - problem.goal.before).double()[inside] / square
    index = (others.places + size * torch.arange(3)[:, None]).flatten()
    still = design(others.features.keys, d)[index] * (smoothness / len(index)) ** 0.5
    system = torch.cat([design(problem.goal.features.keys, d)[inside] / square, still])
    wanted = torch.cat([lacking, torch.zeros(len(still), lacking.shape[1])])

    best = torch.linalg.lstsq(system, wanted, driver="gelsd").solution
    found = problem.solve(bystanders=problem.bystanders, smoothness=smoothness).delta.flatten(1).T.double()
    cost, least, start = ((system @ a - wanted).square().sum() for a in (found, best, 0 * best))
    assert cost < least + 1e-4 * start
    assert least < 0.9 * start


def test_a_change_that_fits_is_found_exactly(linear, proggan):
    """If the goal is what some rule in these directions does, that rule is recovered."""
    wide = Problem(proggan, "layer6", rank=2)
    delta = torch.randn(len(wide.memory.weight), 2, 3, 3, generator=seeded(8))
    delta *= 0.3 * wide.memory.weight.norm() / delta.norm()
    rule = LowRank("layer6", delta, wide.directions.matrix)
    before = wide.goal.before
    values = wide.generator.values(wide.goal.features, rules=[rule])
    goal = Goal(wide.goal.features, values, before, torch.ones_like(before[:, 0]), (Box(0, 0, 16, 16),))
    change = solve(wide.memory, goal, wide.directions, smoothness=0)
    assert torch.allclose(change.delta, delta, atol=1e-2 * float(delta.abs().max()))


def test_a_demodulated_rule_that_fits_is_found(problem):
    delta = torch.randn(len(problem.memory.weight), 2, 3, 3, generator=seeded(8))
    delta *= 0.3 * problem.memory.weight.norm() / delta.norm()
    rule = LowRank(problem.goal.features.layer, delta, problem.directions.matrix)
    before = problem.goal.before
    values = problem.generator.values(problem.goal.features, rules=[rule])
    side = problem.info.resolution
    goal = Goal(problem.goal.features, values, before, torch.ones_like(before[:, 0]), (Box(0, 0, side, side),))
    change = solve(problem.memory, goal, problem.directions, smoothness=0)
    after = problem.generator.values(problem.goal.features, rules=[change])
    assert goal.remaining(after) < 0.05 * goal.remaining(before)


def test_least_squares_lowers_the_goal_error_and_never_its_cost(problem):
    costs = []
    change = problem.solve(bystanders=problem.bystanders, on_step=lambda step, of, cost: costs.append(cost))
    assert len(costs) > 3
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in zip(costs, costs[1:], strict=False))
    assert problem.removed(change) > 0.1


def test_the_result_is_stationary(problem):
    features = problem.goal.features
    places = problem.goal.weight.flatten(1)[0].nonzero().T
    weight = torch.full(places.shape, 1 / places.numel())
    d, wanted = problem.directions.matrix, problem.goal.values
    sites = Sites.gather(problem.memory, d, features, places, weight=weight, wanted=wanted)
    spread = [
        Sites.gather(problem.memory, d, b.features, b.places, weight=b.weight / b.weight.sum())
        for b in problem.bystanders
    ]
    sites = Sites.cat([sites, *spread])
    a = least_squares(problem.memory, sites, steps=200, on_step=lambda *_: None)
    start = _normal_equations(problem.memory, sites, torch.zeros_like(a))[0].norm()
    assert _normal_equations(problem.memory, sites, a)[0].norm() < 0.05 * start
    found = problem.solve(bystanders=problem.bystanders, smoothness=1.0).delta.flatten(1)
    assert _cost(problem.memory, sites, found).sum() < 1.02 * _cost(problem.memory, sites, a).sum()


@pytest.mark.parametrize("method", METHODS[:3])
def test_a_change_has_no_more_than_its_rank(problem, method):
    weight = problem.solve(method=method, steps=12).weight()
    assert torch.linalg.matrix_rank(weight.transpose(0, 1).flatten(1)) == 2
    d = problem.directions.matrix
    onto = torch.einsum("oiyx,ri,rj->ojyx", weight, d, d)
    assert torch.allclose(onto, weight, atol=1e-5 * float(weight.abs().max()))


def test_smoothness_holds_the_rule_back(problem):
    sizes = [
        float(problem.solve(bystanders=problem.bystanders, smoothness=s).delta.norm()) for s in (0, 1, 100, 1e4, 1e6)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-2 * sizes[0]


def test_smoothness_protects_bystanders(problem):
    def harm(smoothness):
        change = problem.solve(bystanders=problem.bystanders, smoothness=smoothness)
        others = problem.bystanders[0].features
        before, after = (problem.generator.values(others, rules=rules) for rules in ([], [change]))
        return float((after - before).norm())

    assert harm(100) < harm(1) < harm(0)


def test_a_bystander_without_weight_does_not_count(problem):
    muted = [Bystanders(b.features, b.places, torch.zeros_like(b.weight)) for b in problem.bystanders]
    free = problem.solve(smoothness=0)
    assert torch.allclose(problem.solve(bystanders=muted, smoothness=5.0).delta, free.delta, rtol=1e-3, atol=1e-4)


def test_a_known_base_changes_nothing(problem):
    known = [
        Bystanders(
            b.features,
            b.places,
            b.weight,
            at_places(problem.memory.response(b.features.keys, problem.memory.weight), b.places),
        )
        for b in problem.bystanders
    ]
    assert torch.equal(problem.solve(bystanders=known).delta, problem.solve(bystanders=problem.bystanders).delta)


def test_unmatched_pictures_are_those_without_a_matching_place():
    keys = torch.zeros(3, 2, 4, 4)
    keys[0, 0, 1, 2], keys[1, 0, 0, 0], keys[2, 1, 3, 3] = 0.5, 0.49, 9.0
    others = Bystanders(features_of(keys), torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1))
    directions = Directions(torch.tensor([[1.0, 0.0]]), 1.0)
    assert directions.match(keys).nonzero().tolist() == [[0, 1, 2]]
    assert torch.equal(others.unmatched(directions).keys, keys[1:])


def test_sparing_drops_the_places_that_match_the_context():
    keys = torch.zeros(1, 2, 6, 6)
    keys[0, 0, 1, 2] = 1.0
    keys[0, 0, 4, 4] = 0.4
    directions = Directions(torch.tensor([[1.0, 0.0]]), 1.0)
    everywhere = torch.arange(144)[None]
    others = Bystanders(features_of(keys), everywhere, torch.ones(1, 144))
    kept = others.sparing(directions, scale=2).weight.view(12, 12)
    assert torch.equal(kept == 0, rectangle(0, 2, 6, 8, (12, 12)) > 0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_goal_error(linear, problem, method):
    for case in (linear, problem):
        change = case.solve(method=method, steps=None if method == "least-squares" else 80)
        assert case.removed(change) > 0.02


def test_the_projected_weight_lies_in_the_row_space_after_any_number_of_steps(problem):
    d = problem.directions.matrix
    places = problem.goal.weight.flatten(1)[0].nonzero().T
    sites = Sites.gather(
        problem.memory,
        None,
        problem.goal.features,
        places,
        weight=torch.ones(places.shape),
        wanted=problem.goal.values,
    )
    for steps in (10, 13):
        a = descend(problem.memory, sites, directions=d, steps=steps, on_step=lambda *_: None)
        change = a.view(len(a), d.shape[1], -1)
        assert torch.allclose(torch.einsum("oit,ri,rj->ojt", change, d, d), change, atol=1e-6)
        assert change.norm() > 0


def test_unconstrained_keeps_the_contexts_directions_first(problem):
    change = problem.solve(method="unconstrained", steps=3)
    d = problem.directions.matrix
    assert torch.equal(change.directions[: len(d)], d)
    assert torch.allclose(change.directions @ change.directions.T, torch.eye(len(change.directions)), atol=1e-5)


def test_unconstrained_goes_furthest(problem):
    free, bound = (problem.removed(problem.solve(method=m, steps=80)) for m in ("unconstrained", "projected"))
    assert free > bound


@pytest.mark.parametrize("method", METHODS)
def test_the_caller_can_cancel(problem, method):
    seen = []
    with pytest.raises(CancelledError, match="step 2 "):
        problem.solve(method=method, on_step=lambda step, of, loss: seen.append((step, of)) or step < 2)
    assert [step for step, _ in seen] == [1, 2] and seen[0][1] >= 30


def test_solving_leaves_the_layer_alone(problem):
    before = problem.memory.weight.clone()
    for method in METHODS:
        problem.solve(method=method, steps=5)
    assert torch.equal(problem.memory.weight, before)


@pytest.mark.parametrize("what", ["weight", "keys", "goal", "directions"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(linear, what, bad):
    memory, goal, d = copy.deepcopy(linear.memory), linear.goal, linear.directions.matrix.clone()
    keys, values = goal.features.keys.clone(), goal.values.clone()
    {"weight": memory.weight, "keys": keys, "goal": values, "directions": d}[what].view(-1)[3] = bad
    goal = Goal(Features("layer6", keys), values, goal.before, goal.weight, goal.boxes)
    with pytest.raises(ComputationError, match=f"the {what} holds NaN or infinity"):
        solve(memory, goal, Directions(d, 1.0))


@pytest.mark.parametrize("smoothness", [-1, float("nan"), float("inf")])
def test_a_smoothness_that_makes_no_sense_is_refused(linear, smoothness):
    with pytest.raises(InputError, match=f"not {smoothness}"):
        linear.solve(smoothness=smoothness)


def test_an_unknown_method_is_refused(linear):
    with pytest.raises(InputError, match="unknown method 'magic'.*least-squares"):
        linear.solve(method="magic")


# --- statistics of a layer ---


def test_statistics_are_measured_once_and_read_back_to_the_bit(stylegan, tmp_path):
    recipe, measured = Recipe(pictures=20, places=5), []
    first = Statistics(stylegan, cache=tmp_path)
    moment = first.moment("layer4", recipe=recipe, on_step=lambda *at: measured.append(at))
    assert measured == [(16, 20), (20, 20)]
    again = Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=recipe, on_step=lambda *_: pytest.fail())
    assert again.count == moment.count == 100 and torch.equal(again.total, moment.total)


def test_statistics_are_those_of_the_keys(stylegan, tmp_path):
    recipe = Recipe(pictures=3, places=7, first_seed=40)
    keys = stylegan.keys([40, 41, 42], "layer5").keys
    exact = moment_of(at_places(keys, random_places([40, 41, 42], 7, 64)))
    assert torch.allclose(Statistics(stylegan, cache=tmp_path).moment("layer5", recipe=recipe).total, exact.total)


def test_statistics_are_not_confused(stylegan, proggan, change, tmp_path):
    """Other truncation, layer, recipe, earlier rule or generator: another moment."""
    recipe = Recipe(pictures=4)

    def moment(generator, layer="layer4", truncation=1.0, recipe=recipe, rules=()):
        return Statistics(generator, truncation=truncation, cache=tmp_path).moment(layer, recipe=recipe, rules=rules)

    rule = change(stylegan, "layer3")
    moments = [
        moment(stylegan),
        moment(stylegan, truncation=0.5),
        moment(stylegan, layer="layer5"),
        moment(stylegan, recipe=Recipe(pictures=4, places=15)),
        moment(stylegan, recipe=Recipe(pictures=4, first_seed=1)),
        moment(stylegan, rules=[rule]),
        moment(stylegan, rules=[change(stylegan, "layer3", seed=1)]),
        moment(proggan),
    ]
    assert len({tuple(m.total.flatten().tolist()) for m in moments}) == len(moments)
    later = moment(stylegan, rules=[change(stylegan, "layer4"), change(stylegan, "layer5")])
    assert torch.equal(later.total, moments[0].total)


def test_a_damaged_cache_is_measured_again(stylegan, tmp_path):
    recipe = Recipe(pictures=4)
    exact = Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=recipe)
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    for damage in (b"", whole[:100], whole[:-8], whole[:-8] + b"\xff" * 8):
        path.write_bytes(damage)
        again = Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=recipe)
        assert torch.equal(again.total, exact.total) and again.count == exact.count


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(stylegan, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert Statistics(stylegan, cache=blocked).moment("layer4", recipe=Recipe(pictures=2)).count == 32
    assert blocked.read_text() == "in the way"


def test_bystanders_are_places_of_today_under_the_rules(stylegan, change):
    rule = change(stylegan, "layer4")
    statistics = Statistics(stylegan)
    for rules in ([], [rule]):
        others, usual = statistics.bystanders("layer4", rules=rules)
        memory = stylegan.rewritten(rules).memory("layer4")
        exact = at_places(memory.response(others.features.keys, memory.weight), others.places)
        assert torch.allclose(others.base, exact, atol=1e-4)
        assert usual.shape == (32,) and (usual > 0).all()


@pytest.mark.parametrize("numbers", [(0,), (50_001,), (3, 0), (3, 5000), (3, 3, -1), (3, 3, 50_001)])
def test_a_recipe_out_of_range_is_refused(numbers):
    with pytest.raises(InputError, match="out of range"):
        Recipe(*numbers)
