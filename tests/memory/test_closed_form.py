"""The closed form and the neighbourhoods that it sees, against independent computations of the same things."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rewriter.errors import CancelledError, ComputationError, InputError
from rewriter.generators.layer import Features
from rewriter.memory import closed_form as module
from rewriter.memory.closed_form import closed_form
from rewriter.memory.directions import Directions
from rewriter.memory.goal import Bystanders, Goal
from rewriter.memory.neighbourhoods import Neighbourhood, NeighbourhoodMoment
from rewriter.memory.second_moment import random_places
from rewriter.memory.sites import Sites
from rewriter.memory.solve import solve

LAYERS = [
    *(("stylegan", layer) for layer in ("layer2", "layer4", "layer5")),
    *(("proggan", layer) for layer in ("layer1", "layer4")),
    *(("dcgan", layer) for layer in ("layer1", "layer2")),
]
LINEAR = [("proggan", "layer6"), ("dcgan", "layer2"), ("dcgan", "layer1")]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def everywhere(info, pictures):
    """All places of some pictures: which picture, and which place."""
    size = info.resolution**2
    return torch.arange(pictures).repeat_interleave(size), torch.arange(size).repeat(pictures)


def neighbourhood(generator, layer):
    return Neighbourhood.of(generator.memory(layer), (generator.layers[layer].key_resolution,) * 2)


def moment_of(generator, layer, seeds):
    """The moment of the neighbourhoods at all places of some pictures."""
    around, info = neighbourhood(generator, layer), generator.layers[layer]
    moment = around.moment(info.in_channels)
    moment.update(around.gather(generator.keys(seeds, layer).keys, *everywhere(info, len(seeds))))
    return moment


def problem(generator, layer, *, pictures=2, side=2, seed=1):
    """A goal of random values in a square of some pictures, with what else solving it needs."""
    info, memory = generator.layers[layer], generator.memory(layer)
    features = generator.keys(list(range(seed, seed + pictures)), layer)
    before, weight = generator.values(features), torch.zeros(pictures, info.resolution, info.resolution)
    weight[:, 1 : 1 + side, 1 : 1 + side] = 1
    wanted = before + torch.randn(before.shape, generator=seeded(seed)) * before.std() * weight[:, None]
    goal = Goal(features, wanted, before, weight, ())
    row = torch.randn(1, info.in_channels, generator=seeded(5))
    directions = Directions(row / row.norm(), 1.0)
    moment = moment_of(generator, layer, list(range(40, 52)))

    def solution(**options):
        options = {"rank": info.in_channels, "smoothness": 1.0, **options}
        return closed_form(memory, options.pop("goal", goal), directions, moment, **options)

    names = {"generator": generator, "layer": layer, "memory": memory, "info": info}
    return SimpleNamespace(**names, goal=goal, directions=directions, moment=moment, solve=solution)


def removed(case, change):
    """The share of the goal error that a change removes."""
    after = case.generator.values(case.goal.features, rules=[change])
    return 1 - case.goal.remaining(after) / case.goal.remaining(case.goal.before)


def design(case, features, picture, place):
    """Every key through every tap at some places, (P, in · taps), from the layer's own response."""
    places = place.view(len(features), -1)
    sites = Sites.gather(case.memory, None, features, places, weight=torch.ones(places.shape))
    return sites.basis.double()


# --- neighbourhoods ---


@pytest.mark.parametrize(("model", "layer"), LAYERS)
def test_neighbourhoods_are_the_layers_response_to_each_key_through_each_tap(request, model, layer):
    generator = request.getfixturevalue(model)
    info, features = generator.layers[layer], generator.keys([1, 2], layer)
    picture, place = everywhere(info, 2)
    around = neighbourhood(generator, layer)
    expected = design(SimpleNamespace(memory=generator.memory(layer)), features, picture, place)
    expected = expected.view(len(place), info.in_channels, -1)
    found, seen = torch.zeros_like(expected), 0
    for taps, rows in zip(around.groups, around.gather(features.keys, picture, place), strict=True):
        found[rows.which[:, None], :, taps] = rows.phi.double().transpose(1, 2)
        seen += len(rows.which)
    assert seen == len(place) and torch.allclose(found, expected, atol=1e-6 * float(expected.abs().max()))


def test_taps_are_in_one_group_exactly_if_a_value_sees_both(stylegan, dcgan, proggan):
    def groups(generator, layer):
        return sorted(tuple(group.tolist()) for group in neighbourhood(generator, layer).groups)

    assert groups(stylegan, "layer4") == groups(stylegan, "layer5") == [tuple(range(9))]  # the blur joins all phases
    corners = [tuple(4 * (y + dy) + x + dx for dy in (0, 2) for dx in (0, 2)) for y in (0, 1) for x in (0, 1)]
    assert groups(dcgan, "layer2") == sorted(corners)
    assert groups(dcgan, "layer1") == groups(proggan, "layer1") == [(tap,) for tap in range(16)]


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer5"), ("dcgan", "layer2")])
def test_streamed_and_merged_moments_equal_that_of_all_pictures(request, model, layer):
    generator = request.getfixturevalue(model)
    whole, halves = moment_of(generator, layer, [1, 2, 3, 4]), moment_of(generator, layer, [3, 4])
    halves.merge(moment_of(generator, layer, [1, 2]))
    assert halves.count == whole.count == 4 * generator.layers[layer].resolution ** 2
    for number, taps in enumerate(whole.taps):
        exact = whole.matrix(number)
        assert torch.allclose(halves.matrix(number), exact, rtol=1e-5, atol=1e-6 * float(exact.max()))
        eye = torch.eye(len(exact), dtype=torch.float64)
        assert torch.allclose(whole.inverse(number).double() @ exact, eye, atol=1e-2)
        everything = torch.eye(whole.channels, dtype=torch.float64)
        assert torch.allclose(whole.through(number, everything), exact, rtol=1e-9, atol=1e-12)
        by_key = exact.view(whole.channels, taps, whole.channels, taps).diagonal(dim1=1, dim2=3).sum(2)
        assert torch.allclose(whole.of_keys(number), by_key, rtol=1e-9)


def test_a_moment_refuses_what_is_not_finite_and_what_belongs_to_another_layer(dcgan):
    around, info = neighbourhood(dcgan, "layer2"), dcgan.layers["layer2"]
    moment, keys = moment_of(dcgan, "layer2", [1]), dcgan.keys([1], "layer2").keys
    before = [total.clone() for total in moment.totals]
    with pytest.raises(ComputationError, match="not finite"):
        moment.update(around.gather(keys * float("nan"), *everywhere(info, 1)))
    assert all(map(torch.equal, moment.totals, before))
    with pytest.raises(InputError, match="different layers"):
        moment.merge(NeighbourhoodMoment(info.in_channels, [9]))
    with pytest.raises(InputError, match="no neighbourhoods yet"):
        around.moment(3).matrix(0)


# --- the closed form ---


@pytest.mark.parametrize(("model", "layer"), LINEAR)
@pytest.mark.parametrize("pictures", [2, 24])  # few places are solved for in another way than many
def test_the_solution_minimises_the_papers_objective(request, model, layer, pictures):
    case = problem(request.getfixturevalue(model), layer, pictures=pictures)
    found = case.solve(smoothness=0.3)
    picture, place = case.goal.weight.flatten(1).nonzero().T
    share = (case.goal.weight.flatten(1)[picture, place] / case.goal.weight.sum()).sqrt().double()
    lacking = (case.goal.values - case.goal.before).flatten(2)[picture, :, place].double()
    on_goal = design(case, case.goal.features, picture, place)
    others = case.generator.keys(list(range(40, 52)), layer)
    random = design(case, others, *everywhere(case.info, 12)) * (0.3 / (12 * case.info.resolution**2)) ** 0.5
    ridge = torch.zeros(case.memory.weight.shape[1:]).flatten(1).double()
    for number, taps in enumerate(neighbourhood(case.generator, layer).groups):
        ridge[:, taps] = (0.3 * case.moment.ridge(number)) ** 0.5
    system = torch.cat([on_goal * share[:, None], random, torch.diag(ridge.flatten())])
    wanted = torch.zeros(len(system), lacking.shape[1], dtype=torch.float64)
    wanted[: len(place)] = lacking * share[:, None]
    best = torch.linalg.lstsq(system, wanted, driver="gelsd").solution
    solution = found.change.weight().flatten(1).T.double()
    cost, least, start = ((system @ a - wanted).square().sum() for a in (solution, best, 0 * best))
    assert least <= cost * (1 + 1e-9) and cost < least + 1e-4 * start and least < 0.95 * start
    assert found.loss < 1e-3


@pytest.mark.parametrize(("model", "layer"), LINEAR)
def test_without_smoothness_few_places_are_met_exactly(request, model, layer):
    case = problem(request.getfixturevalue(model), layer)
    assert removed(case, case.solve(smoothness=0.0).change) > 0.99


@pytest.mark.parametrize(("model", "layer"), [*LINEAR, ("stylegan", "layer4"), ("stylegan", "layer5")])
def test_a_higher_rank_misses_less_and_the_full_rank_nothing(request, model, layer):
    case = problem(request.getfixturevalue(model), layer)
    ranks = (1, 2, 4, 8, case.info.in_channels, 512)
    found = [case.solve(rank=rank) for rank in ranks]
    losses = [each.loss for each in found]
    assert all(later <= earlier + 1e-6 for earlier, later in zip(losses, losses[1:], strict=False))
    assert 0 <= losses[-1] < 1e-3 and losses[0] > 0.05
    for rank, each in zip(ranks, found, strict=True):
        d = each.change.directions
        assert each.change.rank == min(rank, case.info.in_channels)
        assert torch.allclose(d @ d.T, torch.eye(len(d)), atol=1e-4)
        assert torch.allclose(d[:1], case.directions.matrix, atol=1e-4)


@pytest.mark.parametrize(("model", "layer"), LINEAR)
def test_more_smoothness_changes_random_pictures_less(request, model, layer):
    case = problem(request.getfixturevalue(model), layer)
    others = case.generator.keys(list(range(40, 52)), layer)
    before, harm, kept = case.generator.values(others), [], []
    for smoothness in (0.01, 0.1, 1.0, 10.0, 1000.0):
        change = case.solve(smoothness=smoothness).change
        harm.append(float((case.generator.values(others, rules=[change]) - before).norm()))
        kept.append(removed(case, change))
    assert harm == sorted(harm, reverse=True) and kept == sorted(kept, reverse=True)
    assert harm[-1] < 0.05 * harm[0]


def test_protected_places_change_less(proggan):
    case = problem(proggan, "layer6")
    features, places = proggan.keys([7, 8], "layer6"), random_places([1, 2], 20, case.info.resolution**2)

    def harm(kept):
        after = proggan.values(features, rules=[case.solve(kept=kept).change])
        moved = (after - proggan.values(features)).flatten(2)
        return float(moved.gather(2, places[:, None].expand(-1, moved.shape[1], -1)).norm())

    assert harm([Bystanders(features, places, torch.ones(2, 20))]) < 0.6 * harm([])


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer4"), ("stylegan", "layer5")])
@pytest.mark.parametrize("rank", [1, 4, 512])
def test_demodulation_does_not_take_the_goal_away(request, monkeypatch, model, layer, rank):
    case = problem(request.getfixturevalue(model), layer)
    found = removed(case, case.solve(rank=rank, smoothness=0.1).change)
    monkeypatch.setattr(module, "_rescaled", lambda memory, sites, a: a)
    assert found > 0 and found >= removed(case, case.solve(rank=rank, smoothness=0.1).change) - 1e-6


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer5"), ("dcgan", "layer2")])
def test_pictures_may_come_in_batches(request, monkeypatch, model, layer):
    monkeypatch.setattr(module, "_rescaled", lambda memory, sites, a: a)  # it looks at the first batch only
    case = problem(request.getfixturevalue(model), layer, pictures=20)
    whole = case.solve().change.weight()
    batches = (case.goal[i : i + 6] for i in range(8, 20, 6))
    parts = case.solve(goal=case.goal[:8], more=batches).change.weight()
    assert torch.allclose(parts, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def test_a_gate_that_is_open_everywhere_changes_nothing_and_one_that_is_shut_gives_no_change(proggan, stylegan):
    case = problem(proggan, "layer6")
    ones = case.solve(gate=lambda keys: torch.ones_like(keys[:, 0]))
    assert torch.allclose(ones.change.weight(), case.solve().change.weight(), atol=1e-6)
    shut = case.solve(gate=lambda keys: torch.zeros_like(keys[:, 0])).change.weight()
    assert float(shut.abs().max()) == 0


@pytest.mark.parametrize("model", ["stylegan", "proggan", "dcgan"])
def test_activations_are_inverted(request, model):
    memory = request.getfixturevalue(model).memory("layer2")
    x = torch.linspace(-3, 3, 51)
    assert torch.allclose(memory.inverse(memory.activate(x)), x, atol=1e-5)


def test_values_at_a_clamp_are_left_as_they_are(stylegan):
    case = problem(stylegan, "layer4")
    case.goal.values[:], case.goal.before[:] = 7.0, 7.0  # both at the clamp, whatever is beyond
    assert float(case.solve(goal=replace(case.goal)).change.delta.abs().max()) == 0


def test_it_can_be_cancelled_and_says_what_it_needs(stylegan):
    case = problem(stylegan, "layer4")
    with pytest.raises(CancelledError):
        case.solve(on_step=lambda step, of: False)
    with pytest.raises(InputError, match="neighbourhoods"):
        solve(case.memory, case.goal, case.directions, method="closed-form")
    losses = []
    options = {"method": "closed-form", "neighbourhoods": case.moment, "rank": 3, "smoothness": 1.0}
    change = solve(case.memory, case.goal, case.directions, on_loss=losses.append, **options)
    assert change.rank == 3 and losses == [case.solve(rank=3).loss]
    broken = replace(case.goal, features=Features("layer4", case.goal.features.keys * float("nan")))
    with pytest.raises(ComputationError, match="keys holds NaN"):
        solve(case.memory, broken, case.directions, **options)
