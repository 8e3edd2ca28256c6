"""The method: second moments, directions, goals and solvers, against independent computations of the same things."""

import copy
import statistics
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rewriter.errors import CancelledError, ComputationError, InputError
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features
from rewriter.masks import Box
from rewriter.memory import DIRECTIONS, SOLVERS
from rewriter.memory.descent import _l1, descend
from rewriter.memory.directions import Directions, key_directions
from rewriter.memory.goal import DONORS, Bystanders, Goal, corresponding, erase, fill, paste
from rewriter.memory.least_squares import _normal_equations, least_squares
from rewriter.memory.second_moment import SecondMoment, random_places
from rewriter.memory.sites import Sites, at_places, goal_sites
from rewriter.memory.solve import ON_CROP, solve

ITERATIVE = [method for method in SOLVERS if method != "closed-form"]  # that one is in test_closed_form.py


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


def test_each_place_is_one_key_in_reading_order():
    maps = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    keys = place_keys(maps)
    assert keys.shape == (40, 3) and torch.equal(keys[20 + 2 * 5 + 4], maps[1, :, 2, 4])
    assert torch.equal(at_places(maps, torch.tensor([[7], [14]])), keys[[7, 34]])


def test_random_places_depend_only_on_the_seed():
    places = random_places([5, 6, 7], 100, 64)
    assert places.shape == (3, 100) and places.min() >= 0 and places.max() < 64
    assert torch.equal(random_places([7], 100, 64)[0], places[2]) and not torch.equal(places[0], places[1])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_streamed_moment_equals_batch_moment_and_parts_merge_in_any_order(sizes):
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
        assert moment.count == len(keys) and torch.allclose(moment.matrix, exact, rtol=1e-12)


def test_moment_refuses_keys_that_are_not_finite_or_of_other_shapes_and_is_unchanged():
    moment = moment_of(correlated(30))
    before = moment.matrix.clone()
    for bad in (float("nan"), float("inf")):
        keys = correlated(5)
        keys[3, 2] = bad
        with pytest.raises(ComputationError, match="not finite"):
            moment.update(keys)
    for keys in (torch.zeros(3, 7), torch.zeros(8), torch.zeros(1, 3, 8)):
        with pytest.raises(InputError, match="8"):
            moment.update(keys)
    with pytest.raises(InputError, match="7 channels"):
        moment.merge(SecondMoment(7))
    assert moment.count == 30 and torch.equal(moment.matrix, before)
    with pytest.raises(InputError, match="no keys yet"):
        _ = SecondMoment(8).matrix


def test_powers_of_the_moment_are_matrix_powers_and_whiten_keys():
    keys, eye = correlated(500), torch.eye(8, dtype=torch.float64)
    moment = moment_of(keys)
    half, inverse = moment.power(-0.5), moment.power(-1)
    assert torch.allclose(half @ half, inverse, rtol=1e-6, atol=1e-6 * inverse.abs().max())
    assert torch.allclose(inverse @ moment.matrix, eye, atol=1e-6)
    assert torch.allclose(moment.power(1), moment.matrix, atol=1e-9)
    white = keys.double() @ half
    assert torch.allclose(white.T @ white / 500, eye, atol=1e-6)
    keys[:, 3] = 0  # a direction that never occurs
    assert moment_of(keys).power(-1).isfinite().all()


# --- directions ---


@pytest.mark.parametrize(
    ("method", "rank"), [("mean", 1), *((method, rank) for method in ("zca", "svd", "units") for rank in (1, 3))]
)
def test_directions_are_orthonormal_and_agree_in_sign_with_the_mean_key(method, rank):
    context = correlated(6, seed=5)
    directions = key_directions(context, moment_of(correlated(500)), rank=rank, method=method)
    assert directions.matrix.shape == (rank, 8)
    assert torch.allclose(directions.matrix @ directions.matrix.T, torch.eye(rank), atol=1e-5)
    assert (directions.matrix @ context.mean(0) >= 0).all()
    assert directions.level == pytest.approx(float(directions.matrix[0] @ context.mean(0)), rel=1e-5)


@pytest.mark.parametrize("method", ["zca", "mean", "svd"])
def test_one_key_gives_the_inverse_moment_times_that_key(method):
    key, moment = correlated(1, seed=5), moment_of(correlated(500))
    directions = key_directions(key, moment, method=method)
    assert cosine(directions.matrix[0], moment.power(-1) @ key[0].double()) > 1 - 1e-6


def test_zca_directions_of_full_rank_span_the_decorrelated_keys():
    context, moment = correlated(3, seed=5), moment_of(correlated(500))
    d = key_directions(context, moment, rank=3).matrix.double()
    wanted = context.double() @ moment.power(-1)
    assert torch.allclose(wanted @ d.T @ d, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max())


def test_keys_uncorrelated_with_the_context_have_no_response():
    """A key with kᵀC⁻¹k* = 0 has no response to the direction of k*."""
    moment, context = moment_of(correlated(500)), correlated(1, seed=5)
    keys, inverse = correlated(20, seed=6).double(), moment.power(-1)
    towards, k = inverse @ context[0].double(), context[0].double()
    keys = keys - ((keys @ towards) / (k @ towards))[:, None] * k
    direction = key_directions(context, moment).matrix[0].double()
    assert (keys @ direction).abs().max() < 1e-5 * (k @ direction).abs()


def test_weights_determine_how_much_each_key_counts():
    context, moment = correlated(6, seed=5), moment_of(correlated(500))
    plain = key_directions(context, moment)
    assert cosine(key_directions(context, moment, weights=torch.full((6,), 7.0)).matrix, plain.matrix) > 1 - 1e-6
    first = key_directions(context, moment, weights=torch.tensor([1.0] + [1e-6] * 5)).matrix
    assert cosine(first, key_directions(context[:1], moment).matrix) > 0.999 > cosine(first, plain.matrix)


def test_unit_directions_are_the_units_unusually_strong_in_the_context():
    context = torch.full((4, 8), 0.1)
    context[:, 6], context[:, 2] = 3.0, 2.0
    keys = torch.randn(500, 8, generator=seeded())
    keys[:, 0] *= 100  # strong everywhere, hence not unusual
    matrix = key_directions(context, moment_of(keys), rank=2, method="units").matrix
    assert torch.equal(matrix, torch.eye(8)[[6, 2]])


@pytest.mark.parametrize("method", DIRECTIONS)
def test_a_rank_above_that_of_the_context_is_refused(method):
    key, moment = torch.zeros(1, 8), moment_of(correlated(500))
    key[0, 3] = 1
    for keys, rank in ((key, 2), (key.expand(5, 8), 2), (key, 0), (key, -1), (torch.zeros(3, 8), 1)):
        with pytest.raises(InputError, match=f"rank {rank} "):
            key_directions(keys, moment, rank=rank, method=method)


def test_contexts_without_usable_keys_and_unknown_methods_are_refused():
    moment = moment_of(correlated(500))
    with pytest.raises(InputError, match="no context keys"):
        key_directions(torch.zeros(0, 8), moment)
    with pytest.raises(InputError, match="unknown direction method 'pca'.*zca"):
        key_directions(correlated(2), moment, method="pca")
    with pytest.raises(ComputationError, match="not finite"):
        key_directions(correlated(2) * float("nan"), moment)


def test_directions_converge_with_the_number_of_keys():
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
def test_places_with_keys_orthogonal_to_the_directions_do_not_move(request, change, model, layer):
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


def features_of(values):
    return Features("layer", values)


def blank(height=8, width=8, channels=3, n=1):
    return torch.randn(n, channels, height, width, generator=seeded(1))


def rectangle(top, left, bottom, right, size=(8, 8)):
    mask = torch.zeros(size)
    mask[top:bottom, left:right] = 1
    return mask


def pasted(mask, centre, *, snap=1):
    """Values before, the copied ones, and the goal of pasting them."""
    before, source = blank(), blank()[0] + 5
    return before, source, paste(features_of(before), before, [centre], source, mask, snap=snap)


def test_a_full_mask_copies_values_exactly_onto_each_picture():
    before, source = blank(n=2), blank()[0] + 5
    goal = paste(features_of(before), before, [(6, 5), (2, 3)], source, rectangle(1, 2, 4, 4), snap=1)
    assert [box.size for box in goal.boxes] == [(3, 2), (3, 2)]
    for i, box in enumerate(goal.boxes):
        inside = goal.weight[i] > 0
        assert torch.equal(goal.values[i, :, box.rows, box.columns], source[:, 1:4, 2:4])
        assert torch.equal(goal.values[i][:, ~inside], before[i][:, ~inside])
        assert inside.sum() == 6 and inside[box.rows, box.columns].all()
    assert goal.boxes[0].centre in ((6.5, 5), (5.5, 5)) and torch.equal(goal.before, before)
    second = goal[1:]  # a part of a goal is a goal
    assert torch.equal(second.values[0], goal.values[1])
    assert second.boxes == goal.boxes[1:] and len(second.features) == 1


def test_the_mask_is_the_alpha_of_the_paste():
    mask = rectangle(2, 2, 6, 6)
    mask[3, 3], mask[4, 4] = 0, 0.25
    before, source, goal = pasted(mask, (4, 4))
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
    goal = pasted(mask, (row, column), snap=snap)[2]
    box = goal.boxes[0]
    assert 0 <= box.top < box.bottom <= 8 and 0 <= box.left < box.right <= 8
    assert box.size == (min(top + height, 8) - top, min(left + width, 8) - left)
    assert (box.top - top) % snap == 0 and (box.left - left) % snap == 0
    for middle, wanted, size in zip(box.centre, (row, column), box.size, strict=True):
        reachable = min(max(wanted, size / 2), 8 - size / 2)
        assert abs(middle - reachable) <= snap
    assert pasted(mask, box.centre, snap=snap)[2].boxes == goal.boxes


def test_goal_error_and_mean_change_count_only_weighted_places():
    before, _, goal = pasted(rectangle(2, 2, 4, 5), (4, 4))
    difference = goal.values - before
    assert goal.remaining(goal.values) == 0
    assert goal.remaining(before) == pytest.approx(float(difference.norm()), rel=1e-5)
    assert torch.allclose(goal.mean_change(), difference.sum((0, 2, 3)) / 6, atol=1e-5)
    assert goal.remaining(torch.where(goal.weight[:, None] > 0, before, before + 100)) == goal.remaining(before)


def test_erasing_silences_only_the_outstanding_units_and_only_inside_the_mask():
    before = blank(n=2, channels=5).abs()
    before[:, 1, 2:5, 2:5] += 50
    before[:, 4] += 90
    usual = torch.tensor([1.0, 1.0, 1.0, 1.0, 1e6])  # unit 4 is always strong
    masks = torch.stack([rectangle(2, 2, 5, 5), rectangle(3, 3, 5, 5) / 2])
    goal = erase(features_of(before), before, masks, usual, units=1)
    changed = goal.values != before
    assert changed[:, 1].any() and not changed[:, [0, 2, 3, 4]].any()
    assert torch.equal(changed.any(1), masks > 0)
    assert (goal.values[0, 1, 2:5, 2:5] == 0).all()
    assert torch.allclose(goal.values[1, 1, 3:5, 3:5], before[1, 1, 3:5, 3:5] / 2)
    assert torch.equal(goal.weight, masks) and goal.boxes == (Box(2, 2, 5, 5), Box(3, 3, 5, 5))
    for units in (0, 6, -1):
        with pytest.raises(InputError, match=f"{units} units"):
            erase(features_of(before), before, masks, usual, units=units)


def test_filling_takes_the_mean_of_the_pictures_most_alike_outside_the_mask():
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
    with pytest.raises(InputError, match="every picture tried"):
        fill(features_of(before), before, masks, keys, donor_keys[:0], donor_values[:0])


@given(st.integers(-2, 2), st.integers(-2, 2))
def test_the_corresponding_place_is_found_after_a_shift(down, right):
    keys = blank(12, 12)[0]
    shifted = keys.roll((down, right), (1, 2)) + 0.1 * torch.randn(3, 12, 12, generator=seeded(2))
    box = Box(4, 5, 7, 8)
    found = corresponding(keys, box, torch.stack([shifted, keys]), [box.centre, box.centre])
    assert found == [(box.centre[0] + down, box.centre[1] + right), box.centre]


# --- sites: what the layer answers, as a function of Λ ---

LAYERS = [("stylegan", "layer4"), ("stylegan", "layer5"), ("proggan", "layer1"), ("proggan", "layer4")]


def gathered(generator, layer, directions, *, count=12, seeds=(1, 2, 3), **options):
    """Sites at random places of some pictures, and those places."""
    features = generator.keys(list(seeds), layer)
    places = random_places(list(range(50, 50 + len(seeds))), count, generator.layers[layer].resolution ** 2)
    weight = torch.rand(places.shape, generator=seeded(3)) + 0.1
    return Sites.gather(generator.memory(layer), directions, features, places, weight=weight, **options), places


def close(a, b, rtol=1e-3, atol=1e-4):
    return torch.allclose(a, b, rtol=rtol, atol=atol * float(b.abs().max()))


@pytest.mark.parametrize(("model", "layer"), LAYERS)
@pytest.mark.parametrize("all_channels", [False, True])
def test_sites_predict_the_answer_of_the_rewritten_layer(request, change, model, layer, all_channels):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer, size=0.7)
    sites, places = gathered(generator, layer, None if all_channels else rule.directions)
    a = (rule.weight() if all_channels else rule.delta).flatten(1)
    memory, folded = generator.memory(layer), generator.rewritten([rule]).memory(layer)
    features = generator.keys([1, 2, 3], layer)
    response = folded.response(features.keys, folded.weight)
    if features.style is not None:
        response = response * folded.scale(features.style, folded.energy())[:, :, None, None]
    assert close(sites.before_activation(a), at_places(response + folded.offset(), places))
    values = at_places(generator.values(features, rules=[rule]), places)
    assert close(memory.activate(sites.before_activation(a)), values)
    assert close(sites.wanted, at_places(generator.values(features), places))


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer5"), ("proggan", "layer4")])
def test_joined_sites_answer_like_their_parts(request, change, model, layer):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer)
    parts = [gathered(generator, layer, rule.directions, count=n, seeds=s)[0] for n, s in ((5, (1, 2)), (9, (7,)))]
    joined, a = Sites.cat(parts), rule.delta.flatten(1)
    for ask in (lambda s: s.before_activation(a), lambda s: s.wanted, lambda s: s.weight):
        assert torch.equal(ask(joined), torch.cat([ask(part) for part in parts]))
    split = joined.wanted.split([len(part.wanted) for part in parts])
    sums = torch.cat([part.per_picture(own) for part, own in zip(parts, split, strict=True)])
    assert torch.allclose(joined.per_picture(joined.wanted), sums, atol=1e-4)


# --- the solvers' derivatives, in float64 against autograd ---


def doubled(record):
    """A dataclass of tensors with its real numbers in float64."""
    real = {name: v.double() for name, v in vars(record).items() if torch.is_tensor(v) and v.is_floating_point()}
    return replace(record, **real)


def in_double(generator, layer, directions):
    """The layer and a small problem at it, in float64, with wanted values that no change can reach."""
    info = generator.layers[layer]
    wanted = torch.randn(2, info.out_channels, info.resolution, info.resolution, generator=seeded(4))
    sites, _ = gathered(generator, layer, directions, count=6, seeds=(1, 2), wanted=wanted)
    demodulation = sites.demodulation and doubled(sites.demodulation)
    return copy.deepcopy(generator.memory(layer)).double(), replace(doubled(sites), demodulation=demodulation)


def squared_error(memory, sites, a):
    """What least squares minimises: the weighted squared error of each channel, (O,)."""
    return sites.weight @ (memory.activate(sites.before_activation(a)) - sites.wanted).square()


@pytest.mark.parametrize(("model", "layer"), LAYERS)
def test_normal_equations_are_the_derivatives_of_the_squared_error(request, change, model, layer):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer)
    memory, sites = in_double(generator, layer, rule.directions)
    a = rule.delta.flatten(1).double().requires_grad_()
    (exact,) = torch.autograd.grad(squared_error(memory, sites, a).sum() / 2, a)
    gradient, normal = _normal_equations(memory, sites, a.detach())
    assert close(gradient, exact, 1e-4, 1e-6)

    values = memory.activate(sites.before_activation(a))
    for channel in (0, 17):
        rows = [torch.autograd.grad(value, a, retain_graph=True)[0][channel] for value in values[:, channel]]
        jacobian = torch.stack(rows)
        assert close(normal[channel], jacobian.T @ (sites.weight[:, None] * jacobian), 1e-4, 1e-6)


@pytest.mark.parametrize(("model", "layer"), LAYERS)
@pytest.mark.parametrize("all_channels", [False, True])
def test_descent_gradient_is_the_derivative_of_the_loss(request, change, model, layer, all_channels):
    generator = request.getfixturevalue(model)
    rule = change(generator, layer)
    memory, sites = in_double(generator, layer, None if all_channels else rule.directions)
    a = (rule.weight() if all_channels else rule.delta).flatten(1).double().requires_grad_()
    scale = sites.weight[:, None] / (sites.weight.sum() * len(a))
    expected = (scale * (memory.activate(sites.before_activation(a)) - sites.wanted).abs()).sum()
    (exact,) = torch.autograd.grad(expected, a)
    loss, gradient = _l1(memory, sites, scale, a.detach())
    assert float(loss) == pytest.approx(expected.item())
    assert close(gradient, exact, 1e-4, 1e-6)


# --- solve ---


class Problem:
    """A paste at one layer: a square of another picture's values into this one."""

    def __init__(self, generator, layer, *, rank=1, square=3, first=None):
        self.generator, self.info, self.memory = generator, generator.layers[layer], generator.memory(layer)
        moment = moment_of(place_keys(generator.keys(list(range(100, 140)), layer).keys))
        features, other = generator.keys([1], layer), generator.keys([2], layer)
        third = slice(self.info.key_resolution // 3, self.info.key_resolution // 3 + 3)
        self.directions = key_directions(place_keys(features.keys[:, :, third, third]), moment, rank=rank)
        side, first = self.info.resolution, self.info.resolution // 3 if first is None else first
        mask = rectangle(first, first, first + square, first + square, (side, side))
        before, centre = generator.values(features), (first + square / 2, first + square / 2)
        self.goal = paste(features, before, [centre], generator.values(other)[0], mask, snap=self.info.scale)
        places = random_places([5, 6, 7], 40, side * side)
        self.bystanders = [Bystanders(generator.keys([5, 6, 7], layer), places, torch.ones(places.shape))]

    def solve(self, **options):
        return solve(self.memory, self.goal, self.directions, **options)

    def removed(self, change):
        """Share of the goal error that a change removes."""
        after = self.generator.values(self.goal.features, rules=[change])
        return 1 - self.goal.remaining(after) / self.goal.remaining(self.goal.before)


@pytest.fixture(scope="module", params=["layer4", "layer5"])
def problem(request, stylegan):
    """On a demodulated layer, without and with upsampling."""
    return Problem(stylegan, request.param, rank=2)


@pytest.fixture(scope="module")
def linear(proggan):
    """On an exactly linear layer."""
    return Problem(proggan, "layer6")


def design(keys, directions):
    """How each number of Λ moves each place of a linear 3×3 layer, (n · places, rank · taps): by unfolding."""
    response = torch.einsum("ri,nihw->nrhw", directions, keys)
    return F.unfold(response, 3, padding=1).transpose(1, 2).flatten(0, 1).double()


@pytest.mark.parametrize(
    ("rank", "square", "smoothness"),
    [(1, 5, 0), (1, 3, 1.0), (3, 3, 1.0), (2, 5, 10.0), (2, 5, 0), (1, 3, 0), (3, 3, 0)],
)
def test_least_squares_is_exact_on_a_linear_layer(proggan, rank, square, smoothness):
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
    assert cost < least + 1e-4 * start and least < 0.9 * start


@pytest.mark.parametrize(("model", "layer"), [("proggan", "layer6"), ("stylegan", "layer4"), ("stylegan", "layer5")])
def test_a_rule_that_reaches_the_goal_is_recovered(request, model, layer):
    problem = Problem(request.getfixturevalue(model), layer, rank=2)
    delta = torch.randn(len(problem.memory.weight), 2, 3, 3, generator=seeded(8))
    delta *= 0.3 * problem.memory.weight.norm() / delta.norm()
    rule, before, side = LowRank(layer, delta, problem.directions.matrix), problem.goal.before, problem.info.resolution
    values = problem.generator.values(problem.goal.features, rules=[rule])
    goal = Goal(problem.goal.features, values, before, torch.ones_like(before[:, 0]), (Box(0, 0, side, side),))
    change = solve(problem.memory, goal, problem.directions, smoothness=0)
    after = problem.generator.values(problem.goal.features, rules=[change])
    assert goal.remaining(after) < 0.05 * goal.remaining(before)
    assert model == "stylegan" or torch.allclose(change.delta, delta, atol=1e-2 * float(delta.abs().max()))


def test_no_step_of_least_squares_raises_its_cost(problem):
    costs = []
    change = problem.solve(bystanders=problem.bystanders, on_loss=costs.append)
    assert len(costs) > 3
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in zip(costs, costs[1:], strict=False))
    assert problem.removed(change) > 0.1


def test_the_solution_of_least_squares_is_stationary(problem):
    d, memory = problem.directions.matrix, problem.memory
    spread = [
        Sites.gather(memory, d, b.features, b.places, weight=b.weight / b.weight.sum()) for b in problem.bystanders
    ]
    sites = Sites.cat([goal_sites(memory, problem.goal, d), *spread])

    def gradient(a):
        return torch.autograd.functional.jacobian(lambda a: squared_error(memory, sites, a).sum(), a)

    a = least_squares(memory, sites, steps=200, after=lambda *_: None)
    assert gradient(a).norm() < 0.05 * gradient(torch.zeros_like(a)).norm()
    found = problem.solve(bystanders=problem.bystanders, smoothness=1.0).delta.flatten(1)
    assert squared_error(memory, sites, found).sum() < 1.02 * squared_error(memory, sites, a).sum()


@pytest.mark.parametrize("method", [method for method in ITERATIVE if method != "unconstrained"])
def test_a_change_has_the_rank_and_the_row_space_of_the_directions(problem, method):
    weight = problem.solve(method=method, steps=12).weight()
    assert torch.linalg.matrix_rank(weight.transpose(0, 1).flatten(1)) == 2
    d = problem.directions.matrix
    onto = torch.einsum("oiyx,ri,rj->ojyx", weight, d, d)
    assert torch.allclose(onto, weight, atol=1e-5 * float(weight.abs().max()))


def test_more_smoothness_gives_a_smaller_rule_and_less_harm_to_bystanders(problem):
    others = problem.bystanders[0].features
    before, sizes, harm = problem.generator.values(others), [], []
    for smoothness in (0, 1, 100, 1e4, 1e6):
        change = problem.solve(bystanders=problem.bystanders, smoothness=smoothness)
        sizes.append(float(change.delta.norm()))
        harm.append(float((problem.generator.values(others, rules=[change]) - before).norm()))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 1e-2 * sizes[0]
    assert harm == sorted(harm, reverse=True)


def test_a_bystander_of_weight_zero_does_not_count(problem):
    muted = [replace(b, weight=torch.zeros_like(b.weight)) for b in problem.bystanders]
    free = problem.solve(smoothness=0)
    assert torch.allclose(problem.solve(bystanders=muted, smoothness=5.0).delta, free.delta, rtol=1e-3, atol=1e-4)


def test_known_responses_of_bystanders_change_nothing(problem):
    def base(b):
        return at_places(problem.memory.response(b.features.keys, problem.memory.weight), b.places)

    known = [replace(b, base=base(b)) for b in problem.bystanders]
    assert torch.equal(problem.solve(bystanders=known).delta, problem.solve(bystanders=problem.bystanders).delta)


def test_unmatched_pictures_are_those_without_a_matching_place():
    keys = torch.zeros(3, 2, 4, 4)
    keys[0, 0, 1, 2], keys[1, 0, 0, 0], keys[2, 1, 3, 3] = 0.5, 0.49, 9.0
    others = Bystanders(features_of(keys), torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1))
    directions = Directions(torch.tensor([[1.0, 0.0]]), 1.0)
    assert directions.match(keys).nonzero().tolist() == [[0, 1, 2]]
    assert torch.equal(others.unmatched(directions).keys, keys[1:])


def test_places_that_match_the_context_are_not_protected():
    keys = torch.zeros(1, 2, 6, 6)
    keys[0, 0, 1, 2], keys[0, 0, 4, 4] = 1.0, 0.4
    directions = Directions(torch.tensor([[1.0, 0.0]]), 1.0)
    others = Bystanders(features_of(keys), torch.arange(144)[None], torch.ones(1, 144))
    kept = others.sparing(directions, scale=2).weight.view(12, 12)
    assert torch.equal(kept == 0, rectangle(0, 2, 6, 8, (12, 12)) > 0)


@pytest.mark.parametrize("method", ITERATIVE)
def test_every_method_lowers_the_goal_error_and_leaves_the_layer_alone(linear, problem, method):
    for case in (linear, problem):
        before, losses = case.memory.weight.clone(), []
        change = case.solve(method=method, steps=None if method == "least-squares" else 80, on_loss=losses.append)
        assert losses[-1] < losses[0] if method in ON_CROP else case.removed(change) > 0.02  # on what it solves for
        assert torch.equal(case.memory.weight, before)


def test_projected_change_lies_in_the_row_space_after_any_number_of_steps(problem):
    d, sites = problem.directions.matrix, goal_sites(problem.memory, problem.goal, None)
    for steps in (10, 13):
        a = descend(problem.memory, sites, directions=d, steps=steps, after=lambda *_: None)
        change = a.view(len(a), d.shape[1], -1)
        assert torch.allclose(torch.einsum("oit,ri,rj->ojt", change, d, d), change, atol=1e-6)
        assert change.norm() > 0


def pasted_in_double(problem):
    """A problem's goal, and its layer, with noise, and directions, in float64, because Adam amplifies rounding."""
    memory, goal = copy.deepcopy(problem.memory).double(), problem.goal
    if hasattr(memory, "noise_strength"):
        memory.noise_strength.fill_(0.7)
    style = None if goal.features.style is None else goal.features.style.double()
    features = replace(goal.features, keys=goal.features.keys.double(), style=style)
    maps = {name: getattr(goal, name).double() for name in ("values", "before", "weight")}
    d = torch.linalg.qr(problem.directions.matrix.double().T)[0].T
    return replace(goal, features=features, **maps), (memory, d)


def run_as_the_original(memory, crop, directions, *, steps, first=1):
    """The loop of the original's code, by automatic differentiation: loss after loss."""
    start, keys, style = memory.weight, crop.features.keys, crop.features.style
    weight, size, losses = start.clone().requires_grad_(), crop.values.shape[2:], []
    offset = memory.offset()
    if style is not None:  # noise is drawn for the crop's size from the seed of the whole map's
        noise = memory.noise_const.flatten()[: size.numel()].view(size) * memory.noise_strength
        offset = noise + memory.bias[:, None, None]
    adam = torch.optim.Adam([weight], lr=0.05)
    for step in range(1, steps + 1):
        response = memory.response(keys, weight)
        if style is not None:
            response = response * memory.scale(style, weight.square().sum((2, 3)))[:, :, None, None]
        loss = F.l1_loss(memory.activate(response + offset), crop.values)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 10 == first % 10 or step == steps:
            onto = torch.einsum("oiyx,ri,rj->ojyx", (weight - start).detach(), directions, directions)
            weight.data = start + onto
    return weight.detach() - start, losses


@pytest.mark.parametrize("layer", ["layer4", "layer5", "linear"])
def test_the_papers_solver_takes_the_steps_of_the_originals_code(stylegan, linear, layer):
    """Crop, padding, noise, loss and the steps after which it projects."""
    problem = linear if layer == "linear" else Problem(stylegan, layer, square=4)
    (goal, (memory, d)), losses = pasted_in_double(problem), []

    wanted, expected = run_as_the_original(memory, goal.cropped(), d, steps=24)
    found = solve(memory, goal, Directions(d, 1.0), method="projected", steps=24, on_loss=losses.append).weight()
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)
    free = [step for step in range(24) if step % 10 and step != 23]  # after the others it is the loss after projecting
    assert [losses[step] for step in free] == pytest.approx([expected[step] for step in free], rel=1e-6)


@pytest.mark.parametrize("layer", ["layer4", "layer5"])
def test_a_crop_of_a_pasted_goal_has_whole_key_cells_and_counts_them_alike(stylegan, layer):
    """The original's crop: the box of what was pasted, without a margin, extended to whole key cells."""
    problem = Problem(stylegan, layer)
    goal, scale, (box,) = problem.goal, problem.info.scale, problem.goal.boxes
    keys = Box(box.top // scale, box.left // scale, -(-box.bottom // scale), -(-box.right // scale))
    crop = goal.cropped()
    assert torch.equal(crop.features.keys, goal.features.keys[:, :, keys.rows, keys.columns])
    assert torch.equal(crop.features.style, goal.features.style)
    rows, columns = (slice(each.start * scale, each.stop * scale) for each in (keys.rows, keys.columns))
    for name in ("values", "before"):
        assert torch.equal(getattr(crop, name), getattr(goal, name)[:, :, rows, columns])
    assert bool((crop.weight == 1).all()) and crop.weight.shape[1:] == crop.values.shape[2:]


@pytest.mark.parametrize(("method", "first"), [("projected", 1), ("projected-whole", 10)])
@pytest.mark.parametrize("layer", ["layer4", "layer5"])
def test_where_the_goal_is_the_whole_map_the_crop_is_the_whole_map(stylegan, layer, method, first):
    problem = Problem(stylegan, layer, square=stylegan.layers[layer].resolution, first=0)
    goal, (memory, d) = pasted_in_double(problem)
    crop = goal.cropped()
    for name in ("values", "before", "weight"):
        assert torch.equal(getattr(crop, name), getattr(goal, name))
    assert torch.equal(crop.features.keys, goal.features.keys)
    wanted, _ = run_as_the_original(memory, goal, d, steps=24, first=first)
    found = solve(memory, goal, Directions(d, 1.0), method=method, steps=24).weight()
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_an_erased_goal_is_not_cropped_and_counts_everywhere(linear):
    goal = replace(linear.goal, pasted=False)
    whole = goal.cropped()
    assert torch.equal(whole.features.keys, goal.features.keys) and torch.equal(whole.values, goal.values)
    assert bool((whole.weight == 1).all())


@pytest.mark.parametrize("method", ["projected", "direct", "unconstrained"])
def test_the_originals_methods_do_not_see_what_is_outside_the_crop(linear, method):
    blind, box = copy.copy(linear), linear.goal.boxes[0]
    keys = torch.zeros_like(linear.goal.features.keys)
    keys[:, :, box.rows, box.columns] = linear.goal.features.keys[:, :, box.rows, box.columns]
    blind.goal = replace(linear.goal, features=replace(linear.goal.features, keys=keys))
    assert torch.equal(*(each.solve(method=method, steps=12).delta for each in (linear, blind)))
    whole = [each.solve(method="projected-whole", steps=12).delta for each in (linear, blind)]
    assert not torch.allclose(*whole)


def test_a_goal_asks_for_change_if_it_differs_by_more_than_a_hundredth(linear):
    goal = linear.goal
    assert goal.asks_for_change
    for share, asks in ((0, False), (0.009, False), (0.011, True)):
        assert replace(goal, values=goal.before * (1 + share)).asks_for_change == asks
    outside = torch.where(goal.weight[:, None] > 0, goal.before, goal.before + 9)
    assert not replace(goal, values=outside).asks_for_change


def test_unconstrained_change_goes_furthest_and_lists_the_contexts_directions_first(problem):
    losses = {"unconstrained": [], "projected": []}
    free, _ = (problem.solve(method=m, steps=80, on_loss=kept.append) for m, kept in losses.items())
    assert losses["unconstrained"][-1] < losses["projected"][-1]
    d = problem.directions.matrix
    assert torch.equal(free.directions[: len(d)], d)
    assert torch.allclose(free.directions @ free.directions.T, torch.eye(len(free.directions)), atol=1e-5)


@pytest.mark.parametrize("method", ITERATIVE)
def test_the_caller_can_cancel_any_method(problem, method):
    seen = []
    with pytest.raises(CancelledError, match="step 2 "):
        problem.solve(method=method, on_step=lambda step, of: seen.append((step, of)) or step < 2)
    assert [step for step, _ in seen] == [1, 2] and seen[0][1] >= 30


@pytest.mark.parametrize("what", ["weight", "keys", "goal", "directions"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(linear, what, bad):
    memory, goal, d = copy.deepcopy(linear.memory), linear.goal, linear.directions.matrix.clone()
    keys, values = goal.features.keys.clone(), goal.values.clone()
    {"weight": memory.weight, "keys": keys, "goal": values, "directions": d}[what].view(-1)[3] = bad
    goal = replace(goal, features=Features("layer6", keys), values=values)
    with pytest.raises(ComputationError, match=f"the {what} holds NaN or infinity"):
        solve(memory, goal, Directions(d, 1.0))


def test_unknown_methods_and_impossible_smoothness_are_refused(linear):
    with pytest.raises(InputError, match="unknown method 'magic'.*least-squares"):
        linear.solve(method="magic")
    for smoothness in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"not {smoothness}"):
            linear.solve(smoothness=smoothness)
