"""The world of portraits: its factors, its scenes, and the generator that draws them."""

import pytest
import torch
import torch.nn.functional as F

from rewriter.errors import InputError
from rewriter.worlds.portraits import factors, scenes
from rewriter.worlds.portraits.factors import WORN
from rewriter.worlds.portraits.world import WORLD

SIDE = 64
# what may differ where a thing is put on or off: it, and what moves with it
MOVES = {
    "glasses": ("glasses",),
    "earrings": ("earring",),
    "beard": ("beard",),
    "stamp": ("stamp",),
    "hat": ("hat", "shadow", "hair", "shade"),
}


def people(n=32):
    return WORLD.read(range(n))[1]


def plain(n=32):
    """People without anything that others could shine through."""
    return factors.change(people(n), glasses=False, hat=False, stamp=False, earrings=False, beard=False)


def elsewhere(a, b, place):
    """The share of two scenes' difference that lies outside a place (n, s, s): not more than soft edges of edges."""
    difference = (a.picture - b.picture).abs().sum(1)
    return (difference * ~place).sum() / difference.sum()


def near(place, by=1):
    """A place (n, s, s) and the pixels beside it, where edges are soft."""
    return F.max_pool2d(place[:, None].float(), 2 * by + 1, 1, by)[:, 0] > 0


@pytest.mark.parametrize("thing", WORN)
def test_change_sets_only_the_switch(thing):
    u, wears = people(), factors.wears(thing)
    on, off = (factors.change(u, **{thing: there}) for there in (True, False))
    assert wears(on).all() and not wears(off).any() and torch.equal(factors.change(u), u)
    assert {int(i) for i in (on != off).any(0).nonzero()} == {WORN[thing][0]}


def test_moods_and_brows_are_what_they_are_called():
    u = people()
    assert (
        factors.smiles(factors.change(u, mouth="smile")).all() and factors.smiles(factors.change(u, mouth="open")).all()
    )
    assert factors.frowns(factors.change(u, mouth="frown")).all()
    thin, bushy = (scenes.draw(factors.change(u, brows=kind), SIDE).where("brow").sum() for kind in ("thin", "bushy"))
    assert bushy > 1.5 * thin


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="smirk"):
        factors.change(people(1), mouth="smirk")
    with pytest.raises(InputError, match="monocle"):
        factors.wears("monocle")


def test_a_scene_is_the_same_at_every_resolution():
    small, large = (scenes.draw(people(8), side) for side in (SIDE, 4 * SIDE))
    assert (F.avg_pool2d(large.picture, 4) - small.picture).abs().mean() < 0.01
    assert (large.labels[:, 2::4, 2::4] == small.labels).float().mean() > 0.96


@pytest.mark.parametrize("thing", MOVES)
def test_putting_a_thing_on_changes_nothing_elsewhere(thing):
    on, off = (scenes.draw(factors.change(plain(), **{thing: there}), SIDE) for there in (True, False))
    place = on.where(*MOVES[thing]) | off.where(*MOVES[thing])
    assert on.where(MOVES[thing][0]).any(2).any(1).float().mean() > 0.9
    assert not off.where(MOVES[thing][0]).any()
    assert elsewhere(on, off, near(place, 3)) < 0.002  # lenses are clear, and have no label


def test_a_smile_changes_only_the_mouth():
    frown, smile = (scenes.draw(factors.change(plain(), mouth=mouth), SIDE) for mouth in ("frown", "open"))
    there = frown.where("frown", "teeth") | smile.where("smile", "teeth")
    assert elsewhere(frown, smile, near(there, 2)) < 0.002
    assert smile.where("teeth").any() and not frown.where("teeth").any()


@pytest.mark.parametrize("thing", scenes.LABELS[1:])
def test_thing_that_is_left_out_has_no_label_and_uncovers_what_is_behind(thing):
    whole, without = scenes.draw(people(), SIDE), scenes.draw(people(), SIDE, without=thing)
    there = whole.where(thing)
    assert there.any() and not without.where(thing).any()
    differs = (whole.picture - without.picture).abs().sum(1) > 0.05
    assert differs[there].float().mean() > 0.6
    assert (without.labels == whole.labels)[~there].all()


def test_hats_throw_a_shadow_on_the_brow():
    u = factors.change(people(), hat=True)
    scene, lit = scenes.draw(u, SIDE), scenes.draw(u, SIDE, without="shadow")
    shadow = scene.where("shadow")
    assert shadow.any(2).any(1).float().mean() > 0.9
    assert (scene.picture.mean(1) <= lit.picture.mean(1) + 1e-6).all()
    assert not scenes.draw(factors.change(u, hat=False), SIDE).where("shadow").any()


def test_one_picture_in_eight_is_stamped_in_its_lower_right_corner():
    assert factors.wears("stamp")(people(4000)).float().mean() == pytest.approx(1 / 8, abs=0.02)
    stamp = scenes.draw(factors.change(people(), stamp=True), SIDE).where("stamp").any(0)
    assert stamp.any() and stamp.nonzero().min() > 0.7 * SIDE


def test_stamps_are_more_frequent_in_training():
    torch.manual_seed(0)
    often = WORLD.factors(WORLD.frequent(torch.randn(512, WORLD.zdim)))
    assert factors.wears("stamp")(often).float().mean() > 0.18
