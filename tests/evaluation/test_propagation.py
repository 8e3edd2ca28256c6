"""The pixel baselines: a pasted thing arrives at the corresponding place of other pictures, or nowhere."""

import pytest
import torch
from conftest import square
from hypothesis import given
from hypothesis import strategies as st

from rewriter.errors import InputError
from rewriter.evaluation.propagation import Edited, best_buddies, laplace, moving_least_squares, paste, propagate
from rewriter.masks import disc
from rewriter.worlds.townscape.world import WORLD

SIDE, CELLS = 64, 32
EVERYWHERE = torch.ones(CELLS, CELLS)
DOMES = [0, 2, 3, 7, 10, 12, 14, 15, 30, 31]  # towers left and right, day and dusk, watermarks
BLENDS = ("copy", "laplace")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def view(rows=0, columns=0, *, side=SIDE):
    """Picture and features of one wide scene, moved by some cells down and to the right."""
    scale = side // CELLS
    picture, features = noise(3, 2 * side, 2 * side).tanh(), noise(32, 2 * CELLS, 2 * CELLS, seed=1)
    y, x = CELLS // 2 - rows, CELLS // 2 - columns
    seen = picture[:, scale * y : scale * y + side, scale * x : scale * x + side]
    return seen, features[:, y : y + CELLS, x : x + CELLS]


def red(picture, mask):
    """A picture with red over it where the mask is."""
    return torch.lerp(picture, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand_as(picture), mask)


def spot(side, row, column, radius):
    """A round mask without a soft edge."""
    return (disc(side, row, column, radius) > 0.5).float()


def middle(weight):
    """Centre of mass (row, column) of (H, W), in pixels."""
    places = torch.arange(weight.shape[0]) + 0.5
    return torch.stack([(weight.sum(1) * places).sum(), (weight.sum(0) * places).sum()]) / weight.sum()


def test_picture_is_its_own_best_buddy():
    _, features = view()
    inside = square(4, 9, 20, 17, CELLS)
    there, here, cosine = best_buddies(features, features, inside=inside)
    assert torch.equal(there, here) and torch.equal(there, inside.nonzero() + 0.5) and cosine.min() > 1 - 1e-5
    assert [len(each) for each in best_buddies(features, features, inside=0 * inside)] == [0, 0, 0]


def test_buddies_follow_movement_whatever_the_scale_of_channels():
    (_, a), (_, b) = view(), view(3, -2)
    there, here, _ = best_buddies(a, b * 0.3 + noise(32, 1, 1, seed=5), inside=square(8, 8, 24, 24, CELLS))
    assert len(there) == 16 * 16 and ((here - there) == torch.tensor([3.0, -2.0])).all()


def test_buddies_are_mutual(town):
    a, b = town.values(town.keys([0, 2], "layer8"))
    there, here, cosine = best_buddies(a, b, inside=EVERYWHERE)
    here_back, there_back, _ = best_buddies(b, a, inside=EVERYWHERE)
    forth, back = (sorted(torch.cat(pair, 1).tolist()) for pair in ((there, here), (there_back, here_back)))
    assert forth == back and 50 < len(forth) < CELLS**2
    assert len(here.unique(dim=0)) == len(here) and cosine.min() >= 0.5


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.integers(0, 1000), st.sampled_from([0.0, 1.0]))
def test_affine_maps_are_reproduced(entries, seed, blur):
    def affine(places):
        return places @ torch.tensor(entries[:4]).view(2, 2) + torch.tensor(entries[4:])

    points = noise(12, 2, seed=seed) * 10
    at = torch.cat([noise(30, 2, seed=seed + 1) * 20, points])
    moved = moving_least_squares(points, affine(points), at, blur=blur)
    torch.testing.assert_close(moved, affine(at), atol=1e-3, rtol=1e-5)


def test_points_are_interpolated():
    points, onto = noise(9, 2) * 10, noise(9, 2, seed=1) * 10
    torch.testing.assert_close(moving_least_squares(points, onto, points), onto, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stretch", [None, 2.0])
def test_undetermined_directions_are_not_stretched(stretch):
    points, at = torch.tensor([[3.0, 4.0]]).expand(5, 2), noise(20, 2) * 10  # one place gives a translation
    moved = moving_least_squares(points, points + torch.tensor([5.0, -2.0]), at, stretch=stretch)
    torch.testing.assert_close(moved, at + torch.tensor([5.0, -2.0]))
    along, across, steps = torch.tensor([0.6, 0.8]), torch.tensor([0.8, -0.6]), torch.tensor([0.0, 1.0, 2.0, 5.0])
    at, points = 3 * along + 7 * across, steps[:, None] * along
    moved = moving_least_squares(points, 1.5 * points, at[None], stretch=stretch)[0]
    torch.testing.assert_close(moved, 4.5 * along + 7 * across, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "limited"),
    [((5.0, 0.0, 0.0, 5.0), (2.0, 0.0, 0.0, 2.0)), ((1.5, 0.0, 0.0, 9.0), (1.5, 0.0, 0.0, 2.0))]
    + [((1.2, 0.0, 0.0, 0.7), (1.2, 0.0, 0.0, 0.7))]
    + [(unusual, None) for unusual in ((1.0, 0.0, 0.0, -1.0), (0.0,) * 4, (0.3, -8.0, 5.0, 1.0))],
)
def test_maps_are_limited_and_neither_flip_nor_collapse(wanted, limited):
    points, corner = noise(20, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    onto = points @ torch.tensor(wanted).view(2, 2)
    moved = moving_least_squares(points, onto, corner, blur=1e6, stretch=2.0)  # blur: one map
    linear = moved[1:] - moved[0]
    sizes = torch.linalg.svdvals(linear)
    assert linear.det() > 0 and 0.5 - 1e-4 <= sizes.min() <= sizes.max() <= 2 + 1e-4
    if limited:
        torch.testing.assert_close(linear, torch.tensor(limited).view(2, 2), atol=1e-4, rtol=1e-4)


def test_blending_is_smooth_at_the_seam_and_keeps_detail():
    below, above = torch.full((1, 3, 64, 64), -0.5), torch.full((1, 3, 64, 64), 0.5)
    blended = laplace(below, above, square(0, 0, 64, 32, 64)[None, None])
    assert blended.diff(dim=3).abs().max() < 0.2 and (blended.diff(dim=3) < 1e-6).all()  # no ripples
    assert blended[..., 0].min() > 0.4 and blended[..., -1].max() < -0.4
    narrow, other = noise(2, 1, 3, 37, 50).unbind()
    for mask, expected in ((0.0, narrow), (1.0, other)):
        assert (laplace(narrow, other, torch.full((1, 1, 37, 50), mask)) - expected).abs().max() < 1e-5
    fine = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    blended = laplace(torch.zeros(1, 3, 64, 64), fine, square(16, 16, 48, 48, 64)[None, None])
    assert (blended - fine)[..., 20:44, 20:44].abs().max() < 0.01 and blended[..., :12, :].abs().max() < 0.01


def test_pasting_puts_centre_on_centre():
    copied, target = view()[0], view(5, 5)[0]
    edited = paste(copied, square(10, 10, 20, 16, 64), target, square(40, 30, 44, 50, 64), torch.zeros(1, 4, 4))
    assert torch.equal(edited.mask, square(37, 37, 47, 43, 64))
    assert torch.equal(edited.picture[:, 37:47, 37:43], copied[:, 10:20, 10:16])
    assert torch.equal(edited.picture * (1 - edited.mask), target * (1 - edited.mask))
    with pytest.raises(InputError, match="no cell of the mask"):
        paste(copied, edited.mask * 0, target, edited.mask, torch.zeros(1, 4, 4))


@pytest.mark.parametrize(
    ("rows", "columns", "radius", "side"),
    [(4, 0, 0.12, 64), (-3, 6, 0.12, 64), (-12, 0, 0.12, 64), (5, 5, 0.02, 64), (0, 0, 0.15, 32), (0, 0, 0.15, 256)],
)
def test_edit_moves_with_the_picture(rows, columns, radius, side):
    (picture, features), mask = view(side=side), spot(side, 0.4, 0.55, radius)
    other, moved = view(rows, columns, side=side)
    edited, there = Edited(red(picture, mask), mask, features), spot(side, 0.4 + rows / 32, 0.55 + columns / 32, radius)
    got = {blend: propagate(edited, other[None], moved[None], blend=blend)[0] for blend in BLENDS}
    torch.testing.assert_close(got["copy"], red(other, there), atol=1e-3, rtol=0)
    change = (got["laplace"] - other).abs()
    assert change[:, there == 1].mean() > 5 * change[:, there == 0].mean()


def test_thing_may_move_independently_of_its_surroundings():
    (picture, features), mask = view(), square(20, 20, 28, 28, SIDE)
    moved = torch.lerp(features, noise(32, CELLS, CELLS, seed=9), square(10, 10, 14, 14, CELLS))
    moved[:, 19:23, 20:24] = features[:, 10:14, 10:14]
    got = propagate(Edited(red(picture, mask), mask, features), picture[None], moved[None])[0]
    assert (middle((got - picture).abs().sum(0)) - torch.tensor([42.0, 44.0])).abs().max() < 1


@pytest.mark.parametrize("blend", BLENDS)
def test_picture_without_correspondence_is_unchanged(blend):
    (picture, features), mask = view(), square(20, 20, 40, 40, SIDE)
    other, unlike = noise(3, SIDE, SIDE, seed=7).tanh(), noise(32, CELLS, CELLS, seed=8)
    hole = square(10, 10, 20, 20, CELLS)  # everything corresponds except the place itself
    pictures, found = torch.stack([other, picture]), torch.stack([unlike, torch.lerp(features, unlike, hole)])
    assert torch.equal(propagate(Edited(red(picture, mask), mask, features), pictures, found, blend=blend), pictures)


def test_what_leaves_the_picture_is_cut_off():
    (picture, features), mask = view(), spot(SIDE, 0.2, 0.5, 0.12)
    (other, moved), edited = view(-6, 0), Edited(red(picture, mask), mask, features)
    got = propagate(edited, other[None], moved[None])[0]
    assert got.isfinite().all() and (got != other).any()
    torch.testing.assert_close(got[:, 16:], other[:, 16:], atol=1e-3, rtol=0)


@pytest.mark.parametrize("blend", BLENDS)
def test_spires_arrive_on_domes_independently_of_the_batch(town, blend):
    pictures = town.sample([1, 6, *DOMES]).clamp(-1, 1)
    features = town.values(town.keys([6, *DOMES], "layer8"))
    spire, dome = (WORLD.described([seed]).where(thing)[0].float() for seed, thing in ((1, "spire"), (6, "dome")))
    edited, pictures = paste(pictures[0], spire, pictures[1], dome, features[0]), pictures[2:]
    got = propagate(edited, pictures, features[1:], blend=blend)
    change, domes = (got - pictures).abs().sum(1), WORLD.described(DOMES).where("dome").float()
    away = [float((middle(c) - middle(d)).norm()) for c, d in zip(change, domes, strict=True)]
    assert sum(pixels < 5 for pixels in away) >= 0.8 * len(DOMES)  # of 64, where a dome is 10 wide
    assert change.flatten(1).max(1).values.min() > 0.3
    assert torch.equal(propagate(edited, pictures[2:3], features[3:4], blend=blend), got[2:3])
    assert propagate(edited, pictures[:0], features[:0]).shape == (0, 3, SIDE, SIDE)
