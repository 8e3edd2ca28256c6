"""What every built-in world keeps to, and what a new one takes."""

import copy

import pytest
import torch
from PIL import Image

from rewriter import load_edits, worlds
from rewriter.checkpoints.catalogue import built_ins, catalogue
from rewriter.errors import InputError
from rewriter.worlds import by_hand, gate, segmenter
from rewriter.worlds.townscape.world import WORLD as TOWNS

SIDE = 32
WORLDS = [worlds.named(name) for name in worlds.names()]
SHIPPED = [*built_ins(), "faces"]
each_world = pytest.mark.parametrize("world", WORLDS, ids=worlds.names())


@each_world
def test_factors_are_uniform_and_latents_of_is_their_inverse(world):
    z, u = world.read(range(5000))
    reached = (u[:, :, None] < (grid := torch.linspace(0.05, 0.95, 19))).float().mean(0)
    assert u.min() >= 0 and u.max() <= 1 and (reached - grid).abs().max() < 0.03
    assert [int(f) for f in world.factor] == list(range(u.shape[1]))
    assert torch.allclose(world.factors(world.latents_of(u[:300], z[:300])), u[:300], atol=1e-4)


@each_world
def test_scenes_are_in_range_and_drawn_independently_of_the_batch(world):
    picture, labels, names = world.described(range(64), SIDE)
    assert picture.shape == (64, 3, SIDE, SIDE) and labels.shape == (64, SIDE, SIDE) and names == world.labels
    assert picture.min() >= -1 and picture.max() <= 1
    assert set(labels.unique().tolist()) == set(range(len(names)))
    alone = world.described([9], SIDE)
    assert torch.allclose(picture[9:10], alone.picture, atol=1e-5) and torch.equal(labels[9:10], alone.labels)
    assert torch.equal(alone.where(*names[:2]), alone.where(names[0]) | alone.where(names[1]))
    assert world.described([9]).picture.shape[-1] == world.side


@each_world
def test_wrong_arguments_are_refused(world):
    u = world.read([0])[1]
    for latents in (torch.zeros(3, world.zdim - 1), torch.zeros(world.zdim)):
        with pytest.raises(InputError, match="latents"):
            world.factors(latents)
    for thing in (world.labels[0], "dragon"):
        with pytest.raises(InputError, match=thing):
            world.draw(u, SIDE, without=thing)
    with pytest.raises(InputError, match="factors"):
        world.draw(u[:, 1:], SIDE)
    with pytest.raises(InputError, match=f"{world.name} has no 'dragon': choose from {world.labels[0]}"):
        world.check(["dragon"])


@each_world
def test_what_a_generator_is_trained_with_fits(world):
    _, u = world.read(range(8))
    assert set(world.pixel_weights) == set(world.labels) and set(world.things) < set(world.labels)
    assert world.meaning(u).abs().max() <= 1 and max(world.switches) < u.shape[1]
    z = torch.randn(512, world.zdim)
    assert not torch.equal(world.frequent(z), z) and world.frequent(z).shape == z.shape


@each_world
def test_the_first_seeds_that_suit_are_found(world):
    found = world.seeds_with(lambda u: u[:, 0] < 0.2, 3)
    (_, u), first = world.read(range(found[-1] + 1)), found[-1] + 1
    assert found == [seed for seed in range(first) if u[seed, 0] < 0.2]


@pytest.mark.parametrize("name", built_ins())
def test_a_generator_draws_the_things_of_its_world(name):
    generator = worlds.load(name)
    world = worlds.of(generator)
    assert world.folder == worlds.weights(name).parent and generator.zdim == world.zdim
    shares = gate.things_drawn(world, generator, range(20_000, 20_012))
    shown = [share for thing, share in shares.items() if thing != gate.OVERALL and share.pixels]
    assert len(shown) >= 6 and min(share.share for share in shown) > 0.5
    assert shares[gate.OVERALL].share > 0.93 and shares[gate.OVERALL].error < 5


def test_a_generator_that_only_has_the_name_draws_no_world(stylegan, town):
    other = copy.copy(stylegan)
    other.name = "portraits"
    assert worlds.of(other) is None and worlds.of(stylegan) is None and worlds.of(town) is TOWNS
    assert segmenter.of(other) is segmenter.load("townscape")
    for name in ("faces", "none"):
        with pytest.raises(InputError, match=f"'{name}' is not built in: choose from townscape, townscape-128, portr"):
            worlds.load(name)
    with pytest.raises(InputError, match="no world 'atlantis': choose from portraits, townscape"):
        worlds.named("atlantis")


def test_loading_needs_no_catalogue_of_the_user(monkeypatch, tmp_path):
    (tmp_path / "mine.json").write_text("damaged")
    monkeypatch.setenv("REWRITER_CATALOGUE", str(tmp_path / "mine.json"))
    assert worlds.load("portraits").resolution == 128


def test_built_in_generators_are_small():
    assert max(worlds.weights(name).stat().st_size for name in built_ins()) < 12e6


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_edits_name_their_generator_and_have_cards(name):
    found, side = worlds.examples(name), catalogue()[name].resolution
    assert len(found) >= 3 and set(found) <= set(worlds.examples())
    for path in found.values():
        for edit in load_edits(path):
            assert edit.generator == name
            assert edit.form != "template" or (edit.gate and len(edit.found) >= 20)  # so that a replay is quick
        with Image.open(path.with_suffix(".png")) as picture:
            assert picture.size == (2 * side + 2, side)


def test_an_edit_that_several_generators_have_is_the_first_ones():
    assert set(worlds.examples("townscape")) == set(worlds.examples("townscape-128"))
    assert worlds.examples()["dome-to-spire"] == worlds.examples("townscape")["dome-to-spire"]
    assert worlds.examples("other") == {}


def test_a_hand_paints_a_little_more_than_the_thing_and_another_hand_differently():
    (seed,) = TOWNS.seeds_with(lambda u: u[:, 12] < 0.4, 1)
    dome = TOWNS.described([seed]).where("dome")[0]
    one, again, other = (by_hand.Hand(TOWNS, number).paint(seed, "dome") for number in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert (one[dome] > 0).float().mean() > 0.9 and dome.sum() < (one > 0).sum() < 4 * dome.sum()
    spire = by_hand.Hand(TOWNS, 0).paint(seed, "spire", top="spire")
    assert spire.any() and not torch.equal(spire, one)
    windows = [by_hand.Hand(TOWNS, 0).paint(seed, "window", filled=filled) for filled in (False, True)]
    assert windows[1].sum() > 1.2 * windows[0].sum()


def test_a_new_world_is_a_folder(monkeypatch, tmp_path):
    (tmp_path / "dots").mkdir()
    (tmp_path / "dots" / "world.py").write_text(
        "from dataclasses import replace\n"
        "from rewriter.worlds.townscape.world import WORLD as TOWNS\n"
        "WORLD = replace(TOWNS, name='dots')\n"
    )
    monkeypatch.setattr(worlds, "HERE", tmp_path)
    monkeypatch.setattr(worlds, "__path__", [*worlds.__path__, str(tmp_path)])
    assert worlds.names() == ("dots",) and worlds.named("dots").name == "dots"
    assert torch.equal(worlds.named("dots").described([3]).picture, TOWNS.described([3]).picture)
