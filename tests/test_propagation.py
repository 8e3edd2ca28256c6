"""The pixel baselines: what was pasted arrives where it belongs, or nowhere."""

import pytest
import torch
from conftest import square
from hypothesis import given
from hypothesis import strategies as st

from rewriter.errors import InputError
from rewriter.evaluation.propagation import (
    BLENDS,
    Edited,
    best_buddies,
    laplace,
    moving_least_squares,
    paste,
    propagate,
)
from rewriter.generators.latents import latents
from rewriter.masks import disc
from rewriter.worlds.townscape import scenes

SIDE, CELLS = 64, 32
EVERYWHERE = torch.ones(CELLS, CELLS)
DOMES = [0, 2, 3, 7, 10, 12, 14, 15, 30, 31, 37, 40, 42, 43, 47, 50]  # towers left and right, day and dusk, watermarks


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def view(rows=0, columns=0, *, side=SIDE):
    """What is seen of one wide scene, picture and features, moved so many cells down and to the right."""
    scale = side // CELLS
    picture, features = noise(3, 2 * side, 2 * side).tanh(), noise(32, 2 * CELLS, 2 * CELLS, seed=1)
    y, x = CELLS // 2 - rows, CELLS // 2 - columns
    seen = picture[:, scale * y : scale * y + side, scale * x : scale * x + side]
    return seen, features[:, y : y + CELLS, x : x + CELLS]


def red(picture, mask):
    """A picture with red over it where the mask is."""
    return torch.lerp(picture, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand_as(picture), mask)


def spot(side, row, column, radius):
    """A round mask without a soft rim, where a thing pasted twice is the same as once."""
    return (disc(side, row, column, radius) > 0.5).float()


def middle(weight):
    """Centre of mass (row, column) of (H, W), in pixels."""
    places = torch.arange(weight.shape[0]) + 0.5
    return torch.stack([(weight.sum(1) * places).sum(), (weight.sum(0) * places).sum()]) / weight.sum()


def labelled(seeds, thing):
    """Where towns show a thing, (n, H, W)."""
    labels = scenes.draw(scenes.factors(latents(seeds, scenes.LATENT_DIM))).labels
    return (labels == scenes.LABELS.index(thing)).float()


# --- best buddies


def test_a_picture_is_its_own_best_buddy():
    _, features = view()
    inside = square(4, 9, 20, 17, CELLS)
    there, here, cosine = best_buddies(features, features, inside=inside)
    assert torch.equal(there, here) and torch.equal(there, inside.nonzero() + 0.5)
    assert cosine.min() > 1 - 1e-5


def test_buddies_follow_what_moved():
    (_, a), (_, b) = view(), view(3, -2)
    there, here, _ = best_buddies(a, b, inside=square(8, 8, 24, 24, CELLS))
    assert len(there) == 16 * 16 and ((here - there) == torch.tensor([3.0, -2.0])).all()


def test_buddies_are_mutual(town):
    a, b = town.values(town.keys([0, 2], "layer8"))
    there, here, cosine = best_buddies(a, b, inside=EVERYWHERE)
    here_back, there_back, _ = best_buddies(b, a, inside=EVERYWHERE)
    forth, back = (sorted(torch.cat(pair, 1).tolist()) for pair in ((there, here), (there_back, here_back)))
    assert forth == back and 50 < len(forth) < CELLS**2
    assert len(here.unique(dim=0)) == len(here) and cosine.min() >= 0.5


def test_the_time_of_day_does_not_hide_a_buddy():
    _, features = view()
    there, here, _ = best_buddies(features, features * 0.3 + noise(32, 1, 1, seed=5), inside=EVERYWHERE)
    assert len(there) == CELLS**2 and torch.equal(there, here)


def test_nothing_inside_nothing_found():
    _, features = view()
    assert [len(each) for each in best_buddies(features, features, inside=0 * EVERYWHERE)] == [0, 0, 0]


# --- moving least squares


numbers = st.floats(-3, 3)


@given(st.lists(numbers, min_size=6, max_size=6), st.integers(0, 1000), st.sampled_from([0.0, 1.0]))
def test_any_affine_map_is_reproduced(entries, seed, blur):
    def affine(places):
        return places @ torch.tensor(entries[:4]).view(2, 2) + torch.tensor(entries[4:])

    points, at = noise(12, 2, seed=seed) * 10, noise(30, 2, seed=seed + 1) * 20
    at = torch.cat([at, points])
    moved = moving_least_squares(points, affine(points), at, blur=blur)
    torch.testing.assert_close(moved, affine(at), atol=1e-3, rtol=1e-5)


def test_points_go_where_they_should():
    points, onto = noise(9, 2) * 10, noise(9, 2, seed=1) * 10
    torch.testing.assert_close(moving_least_squares(points, onto, points), onto, atol=1e-4, rtol=1e-4)


def test_near_points_count_most():
    left, right = noise(8, 2), noise(8, 2, seed=1) + torch.tensor([0.0, 100.0])
    onto = torch.cat([left + 1, right - 1])
    moved = moving_least_squares(torch.cat([left, right]), onto, torch.tensor([[0.0, 0.0], [0.0, 100.0]]))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 1.0], [-1.0, 99.0]]), atol=0.1, rtol=0)


@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize("stretch", [None, 2.0])
def test_a_single_point_says_how_to_move(copies, stretch):
    points, at = torch.tensor([[3.0, 4.0]]).expand(copies, 2), noise(20, 2) * 10
    moved = moving_least_squares(points, points + torch.tensor([5.0, -2.0]), at, stretch=stretch)
    torch.testing.assert_close(moved, at + torch.tensor([5.0, -2.0]))


@pytest.mark.parametrize("along", [(0.0, 1.0), (1.0, 0.0), (0.6, 0.8)])
def test_points_on_a_line_stretch_along_it_alone(along):
    along = torch.tensor(along)
    across, steps = along.flip(0) * torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0, 2.0, 5.0])
    at = 3 * along + 7 * across
    moved = moving_least_squares(steps[:, None] * along, 1.5 * steps[:, None] * along, at[None])[0]
    torch.testing.assert_close(moved, 4.5 * along + 7 * across, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [((5.0, 5.0), (2.0, 2.0)), ((0.1, 0.1), (0.5, 0.5)), ((1.5, 9.0), (1.5, 2.0)), ((1.2, 0.7), (1.2, 0.7))],
)
def test_nothing_is_stretched_beyond_measure(wanted, held):
    points, at = noise(20, 2), noise(10, 2, seed=1)
    moved = moving_least_squares(points, points * torch.tensor(wanted), at, blur=1e6, stretch=2.0)  # blur: one map
    torch.testing.assert_close(moved - moved[0], (at - at[0]) * torch.tensor(held), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "entries", [(1.0, 0.0, 0.0, -1.0), (0.0,) * 4, (0.0, 1.0, 1.0, 0.0), (9.0,) * 4, (0.3, -8.0, 5.0, 1.0)]
)
def test_what_is_held_neither_flips_nor_collapses(entries):
    points, corner = noise(20, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    moved = moving_least_squares(points, points @ torch.tensor(entries).view(2, 2), corner, blur=1e6, stretch=2.0)
    linear = moved[1:] - moved[0]
    sizes = torch.linalg.svdvals(linear)
    assert linear.det() > 0 and 0.5 - 1e-4 <= sizes.min() <= sizes.max() <= 2 + 1e-4


# --- blending


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (9, 100), (1, 3)])
def test_a_mask_of_ones_or_zeros_gives_either_picture(size):
    below, above = noise(3, *size), noise(3, *size, seed=1)
    assert (laplace(below, above, torch.ones(size)) - above).abs().max() < 1e-5
    assert (laplace(below, above, torch.zeros(size)) - below).abs().max() < 1e-5


def test_blending_is_smoother_at_the_seam_than_copying():
    below, above, mask = torch.full((3, 64, 64), -0.5), torch.full((3, 64, 64), 0.5), square(0, 0, 64, 32, 64)
    blended = laplace(below, above, mask)
    assert blended.diff(dim=2).abs().max() < 0.2 < torch.lerp(below, above, mask).diff(dim=2).abs().max()
    assert blended[..., 0].min() > 0.4 and blended[..., -1].max() < -0.4
    assert (blended.diff(dim=2) < 1e-6).all()  # no ripples


def test_blending_keeps_what_is_fine_where_it_is():
    flat, fine = torch.zeros(3, 64, 64), (torch.arange(64) % 2 * 2.0 - 1).expand(3, 64, 64)
    blended = laplace(flat, fine, square(16, 16, 48, 48, 64))
    assert (blended - fine)[:, 20:44, 20:44].abs().max() < 0.01 and blended[:, :, :12].abs().max() < 0.01


# --- pasting and propagating


def test_pasting_puts_the_middle_on_the_middle():
    copied, target = view()[0], view(5, 5)[0]
    edited = paste(copied, square(10, 10, 20, 16, 64), target, square(40, 30, 44, 50, 64), torch.zeros(1, 4, 4))
    assert torch.equal(edited.mask, square(37, 37, 47, 43, 64))
    assert torch.equal(edited.picture[:, 37:47, 37:43], copied[:, 10:20, 10:16])
    assert torch.equal(edited.picture * (1 - edited.mask), target * (1 - edited.mask))


@pytest.mark.parametrize("side", [32, 64, 256])
def test_in_the_same_picture_the_edit_stays_where_it_is(side):
    (picture, features), mask = view(side=side), spot(side, 0.4, 0.6, 0.15)
    edited = Edited(red(picture, mask), mask, features)
    torch.testing.assert_close(propagate(edited, picture[None], features[None])[0], edited.picture, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(4, 0), (-3, 6), (9, -9), (-12, 0)])
def test_in_a_moved_picture_the_edit_moves_along(rows, columns):
    (picture, features), mask = view(), spot(SIDE, 0.4, 0.55, 0.12)
    (other, moved), there = view(rows, columns), spot(SIDE, 0.4 + rows / CELLS, 0.55 + columns / CELLS, 0.12)
    edited = Edited(red(picture, mask), mask, features)
    got = {blend: propagate(edited, other[None], moved[None], blend=blend)[0] for blend in BLENDS}
    torch.testing.assert_close(got["copy"], red(other, there), atol=1e-3, rtol=0)
    inside = there == 1
    assert (got["laplace"] - other).abs()[:, inside].mean() > 5 * (got["laplace"] - other).abs()[:, there == 0].mean()


def test_a_small_thing_arrives_too():
    (picture, features), mask = view(), square(30, 30, 32, 32, SIDE)
    edited, (other, moved) = Edited(red(picture, mask), mask, features), view(5, 5)
    got = propagate(edited, other[None], moved[None])[0]
    torch.testing.assert_close(got, red(other, square(40, 40, 42, 42, SIDE)), atol=1e-3, rtol=0)


def test_a_thing_may_move_apart_from_what_is_around_it():
    (picture, features), mask = view(), square(20, 20, 28, 28, SIDE)
    moved = torch.lerp(features, noise(32, CELLS, CELLS, seed=9), square(10, 10, 14, 14, CELLS))
    moved[:, 19:23, 20:24] = features[:, 10:14, 10:14]
    got = propagate(Edited(red(picture, mask), mask, features), picture[None], moved[None])[0]
    assert (middle((got - picture).abs().sum(0)) - torch.tensor([42.0, 44.0])).abs().max() < 1


def test_where_nothing_corresponds_the_picture_stays():
    (picture, features), mask = view(), square(20, 20, 40, 40, SIDE)
    other, unlike = noise(3, SIDE, SIDE, seed=7).tanh(), noise(32, CELLS, CELLS, seed=8)
    assert not len(best_buddies(features, unlike, inside=EVERYWHERE)[0])
    hole = square(10, 10, 20, 20, CELLS)  # all is the same but the place itself
    pictures, found = torch.stack([other, picture]), torch.stack([unlike, torch.lerp(features, unlike, hole)])
    for blend in BLENDS:
        kept = propagate(Edited(red(picture, mask), mask, features), pictures, found, blend=blend)
        assert torch.equal(kept, pictures)


def test_what_leaves_the_picture_is_cut_off():
    (picture, features), mask = view(), spot(SIDE, 0.2, 0.5, 0.12)
    (other, moved), edited = view(-6, 0), Edited(red(picture, mask), mask, features)
    got = propagate(edited, other[None], moved[None])[0]
    assert got.isfinite().all() and (got != other).any()
    torch.testing.assert_close(got[:, 16:], other[:, 16:], atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def domes(town):
    """The spire of one town in place of another's dome, and towns with domes: pictures and features."""
    pictures = town.sample([1, 6, *DOMES]).clamp(-1, 1)
    features = town.values(town.keys([6, *DOMES], "layer8"))
    spire, dome = labelled([1], "spire")[0], labelled([6], "dome")[0]
    return paste(pictures[0], spire, pictures[1], dome, features[0]), pictures[2:], features[1:]


@pytest.mark.parametrize("blend", BLENDS)
def test_spires_arrive_on_domes(domes, blend):
    edited, pictures, features = domes
    got = propagate(edited, pictures, features, blend=blend)
    change = (got - pictures).abs().sum(1)
    away = [float((middle(c) - middle(d)).norm()) for c, d in zip(change, labelled(DOMES, "dome"), strict=True)]
    assert sum(pixels < 5 for pixels in away) >= 0.8 * len(DOMES)  # of 64, where a dome is 10 wide
    assert change.flatten(1).max(1).values.min() > 0.3


def test_it_is_the_same_every_time_and_each_picture_on_its_own(domes):
    edited, pictures, features = domes
    kept = pictures.clone()
    whole = propagate(edited, pictures, features, blend="laplace")
    alone = [propagate(edited, pictures[i : i + 1], features[i : i + 1], blend="laplace") for i in range(3)]
    assert torch.equal(whole[:3], torch.cat(alone)) and torch.equal(pictures, kept)
    assert propagate(edited, pictures[:0], features[:0]).shape == (0, 3, SIDE, SIDE)


def test_what_does_not_fit_is_refused():
    (picture, features), mask = view(), square(20, 20, 40, 40, SIDE)
    edited = Edited(picture, mask, features)
    with pytest.raises(InputError, match="no blend 'poisson'"):
        propagate(edited, picture[None], features[None], blend="poisson")
    for pictures, found in ((picture[None], features[None, :3]), (picture[None, :, :32], features[None])):
        with pytest.raises(InputError, match="one size and one layer"):
            propagate(edited, pictures, found)
    with pytest.raises(InputError, match="one size and one layer"):
        propagate(Edited(picture[:, :32], mask, features), picture[None], features[None])
    with pytest.raises(InputError, match="same layer"):
        best_buddies(features, features[:3], inside=EVERYWHERE)
    with pytest.raises(InputError, match="one or more"):
        moving_least_squares(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(1, 2))
    with pytest.raises(InputError, match="resize them"):
        paste(picture, mask, picture, mask[:32], features)
    with pytest.raises(InputError, match="no cell of the mask"):
        paste(picture, mask * 0, picture, mask, features)
