"""What memories beside W are made from: templates of marked places, copied values, and a Λ solved for its gate."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rewriter.generators.change import LowRank
from rewriter.generators.gated import Gated
from rewriter.memory.directions import key_directions
from rewriter.memory.goal import Bystanders, Goal, paste
from rewriter.memory.recall import PER_CODE, WHITENED, template_of, transplant, whitening
from rewriter.memory.second_moment import SecondMoment, random_places
from rewriter.memory.sites import FixedDemodulation, Sites, at_places
from rewriter.memory.solve import solve


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def moment_of(keys):
    moment = SecondMoment(keys.shape[1])
    moment.update(keys)
    return moment


# --- keys ---


def test_whitened_keys_are_uncorrelated_and_of_equal_spread():
    keys = drawn(4000, 8) @ drawn(8, 8, seed=1)
    z = whitening(moment_of(keys))
    covariance = (keys @ z.T).T @ (keys @ z.T) / len(keys)
    assert z.shape == (8, 8) and (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-2
    assert (covariance.diagonal()[:4] > 0.9).all() and (covariance.diagonal() <= 1).all()
    few = whitening(moment_of(keys), most=3)
    assert torch.equal(few, z[:3]) and len(whitening(moment_of(drawn(200, 80)))) == WHITENED


def test_directions_avoid_near_misses():
    keys, context, miss = drawn(2000, 12), drawn(5, 12, seed=1) * 0.1, drawn(12, seed=2)
    context = context + drawn(12, seed=3) + miss  # what both have in common tells nothing
    moment, misses = moment_of(keys), miss.expand(3, -1) + 0.01 * drawn(3, 12, seed=4)
    plain, avoiding = (key_directions(context, m, rank=1) for m in (moment, moment.with_more(misses, share=100)))
    cosine = [float(F.cosine_similarity(d.matrix[0], miss, 0)) for d in (plain, avoiding)]
    assert cosine[0] > 0.3 and abs(cosine[1]) < 0.05
    assert moment.count == 2000 and torch.equal(moment.matrix, moment_of(keys).matrix)
    half = moment.with_more(misses, share=1.0)
    assert torch.allclose(half.matrix, moment.matrix + misses.double().T @ misses.double() / 3)


# --- templates ---


def with_patch(corners, patch, *, side=12, noise=0.02):
    """Maps of faint noise that hold the patch at their corner."""
    keys = noise * drawn(len(corners), len(patch), side, side, seed=9)
    for one, (row, column) in zip(keys, corners, strict=True):
        one[:, row : row + patch.shape[1], column : column + patch.shape[2]] += patch
    return keys


def test_a_template_finds_its_marks_although_they_were_drawn_a_cell_beside_them():
    corners, patch = [(2, 3), (5, 5), (7, 1), (4, 8)], drawn(6, 3, 3)
    off = [(0, 0), (1, 0), (0, -1), (0, 0)]
    centres = [(row + 1.5 + y, column + 1.5 + x) for (row, column), (y, x) in zip(corners, off, strict=True)]
    keys = with_patch(corners, patch)
    marked = template_of(keys, centres, (3, 3), torch.eye(6))
    assert F.cosine_similarity(marked.template.patch.flatten(), patch.flatten(), 0) > 0.99
    found = marked.template.best(marked.template.scores(keys)).place
    assert (found - torch.tensor(corners)).abs().max() < 0.2
    assert marked.middle == pytest.approx((1.75, 1.25)) and min(marked.left_out()) > 0.98


def test_the_middle_of_a_mark_beyond_the_border_is_where_it_was_drawn():
    keys = with_patch([(0, 0)], drawn(6, 3, 3))
    marked = template_of(keys, [(0.5, 11.5)], (3, 3), torch.eye(6))
    assert torch.equal(marked.patches[0], keys[0, :, :3, 9:]) and marked.middle == (0.5, 2.5)
    assert marked.left_out() == [1.0]  # there are no others


# --- copied values ---

ALPHA = F.pad(torch.ones(4, 4), (2, 2, 2, 2))


def windows(n, *, light=1.0, noise=0.01, channels=3):
    """Windows that differ by a constant light, each channel by its own share, and by a little noise."""
    lit = light * drawn(n, 1, 1, 1, seed=5) * torch.tensor([1.0, -0.5, 0.2])[:, None, None]
    ground = drawn(channels, 8, 8, seed=6)
    return ground + lit + noise * drawn(n, channels, 8, 8, seed=7), ground


def answer(made, window):
    """What a window becomes."""
    copied, encode, decode = made
    return copied + torch.einsum("q,qohw->ohw", torch.einsum("ohw,qohw->q", window, encode), decode)


def test_where_windows_differ_by_their_light_the_correction_follows_it():
    seen, ground = windows(300)
    made = transplant(seen, ground, ALPHA)
    for light in (-2.0, -0.5, 0.0, 1.0, 2.0):
        lit = ground + light * torch.tensor([1.0, -0.5, 0.2])[:, None, None]
        assert (answer(made, lit) - lit).abs().max() < 0.1
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in made)


def test_the_copied_window_itself_becomes_the_copied_values():
    seen, _ = windows(100)
    source = seen[0] + F.pad(0.05 * drawn(3, 4, 4, seed=8), (2, 2, 2, 2))
    assert torch.allclose(answer(transplant(seen, source, ALPHA), source), source, atol=1e-5)


def test_only_the_border_decides_and_the_things_own_values_stay_as_they_are():
    seen, ground = windows(200)
    source = ground.clone()
    source[:, 3:5, 3:5] += 5.0  # the thing, unlike what its border could tell
    made = transplant(seen, source, ALPHA)
    copied, encode, decode = made
    assert (encode * (ALPHA >= 0.05)).abs().max() == 0
    assert (decode[:, :, 3:5, 3:5] == 0).all() and torch.equal(copied[:, 3:5, 3:5], source[:, 3:5, 3:5])
    lit = ground + 2 * torch.tensor([1.0, -0.5, 0.2])[:, None, None]
    assert torch.equal(answer(made, lit)[:, 3:5, 3:5], source[:, 3:5, 3:5])
    assert (answer(made, lit) - lit)[:, 0].abs().max() < 0.2  # far from it the light is followed


def test_where_the_border_explains_nothing_the_copied_values_are_hardly_corrected():
    noise = drawn(400, 3, 8, 8)
    source = noise.mean(0)
    corrected = answer(transplant(noise, source, ALPHA), drawn(3, 8, 8, seed=3))
    assert ((corrected - source) * ALPHA).square().mean() < 0.1


@pytest.mark.parametrize("n", range(1, PER_CODE))
def test_too_few_windows_give_a_plain_copy(n):
    seen, _ = windows(n)
    copied, encode, decode = transplant(seen, seen[0] + 1, ALPHA)
    assert torch.equal(copied, seen[0] + 1) and encode.shape == decode.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("n", [8, 9, 40])
def test_windows_that_are_all_alike_give_finite_numbers(n):
    ground = drawn(3, 8, 8)
    for source in (ground, ground + 1):
        made = transplant(ground.expand(n, -1, -1, -1), source, ALPHA)
        assert all(part.isfinite().all() for part in made)
        assert torch.allclose(answer(made, source), source, atol=1e-4)


# --- a change solved for its gate ---


class Problem:
    """A paste of another picture's values at one layer, and a gate that is open in the middle of the pictures."""

    def __init__(self, generator, layer, *, rank=2):
        self.generator, self.info, self.memory = generator, generator.layer(layer), generator.memory(layer)
        features, other = generator.keys([1], layer), generator.keys([2], layer)
        keys, side = generator.keys(range(16), layer).keys, self.info.resolution
        third = self.info.key_resolution // 3
        context = features.keys[:, :, third : third + 3, third : third + 3].flatten(2)[0].T
        self.directions = key_directions(context, moment_of(keys.transpose(0, 1).flatten(1).T), rank=rank)
        mask = torch.zeros(side, side)
        mask[side // 3 : side // 3 + 4, side // 3 : side // 3 + 4] = 1
        before, middle = generator.values(features), (side // 3 + 2.0, side // 3 + 2.0)
        self.goal = paste(features, before, [middle], generator.values(other)[0], mask, snap=self.info.scale)
        places = random_places([5, 6], 40, side * side)
        self.bystanders = [Bystanders(generator.keys([5, 6], layer), places, torch.ones(places.shape))]

    def gate(self, low=0.25, high=0.45):
        level, d = self.directions.level, self.directions.matrix
        return Gated(d[:, :0], d, low * level, high * level)

    def solve(self, gate=None, **options):
        options = {"bystanders": self.bystanders, "smoothness": 1.0, **options}
        return solve(self.memory, self.goal, self.directions, gate=gate, **options)

    def with_gate(self, delta, gate):
        rule = LowRank(self.info.name, delta * 0, self.directions.matrix, beside=replace(gate, delta=delta))
        return self.generator.values(self.goal.features, rules=[rule])


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer4"), ("stylegan", "layer5"), ("proggan", "layer6")])
def test_sites_predict_what_a_gated_memory_answers(request, model, layer):
    problem = Problem(request.getfixturevalue(model), layer)
    gate, features = problem.gate(), problem.goal.features
    places = torch.arange(problem.info.resolution**2)[None]
    delta = drawn(problem.info.out_channels, 2, 3, 3) * float(problem.memory.weight.std())
    sites = Sites.gather(
        problem.memory, problem.directions.matrix, features, places, weight=torch.ones(places.shape), gate=gate.matches
    )
    predicted = problem.memory.activate(sites.before_activation(delta.flatten(1)))
    found = at_places(problem.with_gate(delta, gate), places)
    assert torch.allclose(predicted, found, rtol=1e-3, atol=1e-4 * float(found.abs().max()))
    assert model == "proggan" or isinstance(sites.demodulation, FixedDemodulation)


def test_fixed_demodulation_does_not_depend_on_the_change():
    sigma = torch.rand(3, 5) + 0.1
    fixed = FixedDemodulation.cat([FixedDemodulation(sigma[:2]), FixedDemodulation(sigma[2:])])
    assert torch.equal(fixed.sigma(drawn(5, 4)), sigma) and torch.equal(
        fixed.channels(slice(1, 3)).fixed, sigma[:, 1:3]
    )
    assert fixed.pull_back(drawn(5, 4), drawn(3, 5)).abs().max() == 0


def test_with_a_gate_that_is_open_everywhere_a_linear_layer_gets_the_same_change(proggan):
    problem = Problem(proggan, "layer6")
    opened = problem.solve(lambda keys: torch.ones_like(keys[:, 0]))
    assert torch.allclose(opened.delta, problem.solve().delta, rtol=1e-4, atol=1e-6)


def test_the_gated_solution_is_exact_on_a_linear_layer(proggan):
    problem = Problem(proggan, "layer6")
    gate, size = problem.gate(), problem.info.resolution**2

    def design(keys):
        seen = torch.einsum("ri,nihw->nrhw", problem.directions.matrix, keys) * gate.matches(keys)[:, None]
        return F.unfold(seen, 3, padding=1).transpose(1, 2).flatten(0, 1).double()

    inside, others = problem.goal.weight.flatten() > 0, problem.bystanders[0]
    lacking = (problem.goal.values - problem.goal.before)[0].flatten(1).T.double()[inside]
    index = (others.places + size * torch.arange(2)[:, None]).flatten()
    still = design(others.features.keys)[index] / len(index) ** 0.5
    system = torch.cat([design(problem.goal.features.keys)[inside] / inside.sum().double().sqrt(), still])
    wanted = torch.cat([lacking / inside.sum().double().sqrt(), lacking.new_zeros(len(still), lacking.shape[1])])
    best = torch.linalg.lstsq(system, wanted, driver="gelsd").solution
    found = problem.solve(gate.matches).delta.flatten(1).T.double()
    cost, least, start = ((system @ a - wanted).square().sum() for a in (found, best, 0 * best))
    assert cost < least + 1e-4 * start and least < 0.95 * start


def test_a_gated_change_that_reaches_the_goal_is_found_again(stylegan):
    problem = Problem(stylegan, "layer4")
    gate, memory = problem.gate(-2e6, -1e6), problem.memory
    delta = drawn(problem.info.out_channels, 2, 3, 3) * 0.3 * float(memory.weight.std())
    values, before = problem.with_gate(delta, gate), problem.goal.before
    goal = Goal(problem.goal.features, values, before, torch.ones_like(before[:, 0]), problem.goal.boxes)
    found = solve(memory, goal, problem.directions, smoothness=0.0, gate=gate.matches).delta
    assert goal.remaining(problem.with_gate(found, gate)) < 0.05 * goal.remaining(before)


def test_a_gated_change_comes_nearer_to_its_goal(stylegan):
    problem = Problem(stylegan, "layer4")
    gate = problem.gate()
    delta = problem.solve(gate.matches).delta
    assert problem.goal.remaining(problem.with_gate(delta, gate)) < 0.95 * problem.goal.remaining(problem.goal.before)
