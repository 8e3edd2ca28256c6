"""A photo is a picture like those of seeds: drawn, walked through layer by layer, rewritten, in any batch."""

from dataclasses import replace

import pytest
import torch
from conftest import near, square

from rewriter import Rewriter
from rewriter.errors import InputError
from rewriter.generators.layer import Features
from rewriter.memory.sites import at_places, goal_sites
from rewriter.photo.opening import inverted


def a_photo(generator, change, *, seed=3, size=0.2, own=True):
    """A photo as an inversion might find it: latents of each layer near a seed's, changes of two layers, some noise."""
    draw = torch.Generator().manual_seed(seed)
    latent = generator.spread(generator.embed(generator.latents([seed]), 1.0))[0]
    latent = latent + 0.05 * torch.randn(latent.shape, generator=draw)
    changes = [change(generator, layer, size=size, seed=seed) for layer in [*generator.layers][1:3]] if own else []
    photo = inverted(generator, torch.zeros(3, generator.resolution, generator.resolution).byte(), latent, changes)
    noisy = (photo.drawn.clamp(-1, 1) + 0.1 * torch.randn(photo.drawn.shape, generator=draw)).clamp(-1, 1)
    return inverted(generator, ((noisy + 1) * 127.5).round().byte(), latent, changes)


@pytest.fixture
def opened(generator, change):
    """A generator with a photo, and the photo."""
    photo = a_photo(generator, change)
    return generator.with_photos([photo]), photo


def test_a_photo_is_drawn_to_the_pixel_in_any_batch_and_the_generator_does_not_change(opened, generator):
    own, photo = opened
    assert near(own.sample([photo.name])[0], photo.original)
    mixed = own.sample([2, photo.name, 5, photo.name])
    assert near(mixed[[0, 2]], generator.sample([2, 5])) and near(mixed[1], photo.original)
    assert near(mixed[3], photo.original) and own.fingerprint == generator.fingerprint
    assert photo.name not in generator.photos
    with pytest.raises(InputError, match=f"{photo.name} is not here: open"):
        generator.sample([photo.name])


def test_from_every_layer_on_a_photo_is_drawn_like_from_the_first(opened):
    own, photo = opened
    for layer in own.layers:
        features = own.keys([photo.name, 4], layer)
        whole = own.picture(own.begin([photo.name, 4]))
        assert near(own.picture(features), whole), layer
        assert near(own.picture(features, own.values(features)), whole), layer
        assert near(own.picture(features[[1, 0]]), whole.flip(0)) and near(own.picture(features[:1]), whole[:1])
        joined = Features.cat([own.keys([4], layer), features])
        assert near(own.picture(joined), torch.cat([whole[1:], whole]))


def test_rules_add_up_with_a_photos_own_changes(opened, change):
    own, photo = opened
    for layer in [*own.layers][:3]:
        rule = change(own, layer, seed=9)
        drawn = own.picture(own.begin([photo.name]), rules=[rule])
        plain = own.picture(own.enter(photo.latent[None]), rules=[*photo.own, rule])
        assert near(drawn, plain) and not near(drawn[0], photo.drawn, 1e-2)
        features = own.keys([photo.name], layer)
        memory = own.memory(layer)
        assert near(memory.activate(memory.answer(features) + memory.offset()), own.values(features, rules=[]))


def test_truncation_acts_on_seeds_and_leaves_photos_alone(stylegan, change):
    photo = a_photo(stylegan, change)
    own = stylegan.with_photos([photo])
    mixed = own.sample([photo.name, 1], truncation=0.5)
    assert near(mixed[0], photo.original) and near(mixed[1:], stylegan.sample([1], truncation=0.5))


def test_the_same_latents_for_each_layer_draw_the_picture_of_the_common_ones(stylegan):
    w = stylegan.embed(stylegan.latents([0, 1]), 0.7)
    assert near(stylegan.picture(stylegan.enter(stylegan.spread(w))), stylegan.sample([0, 1], truncation=0.7))


def test_the_residue_is_shown_where_nothing_changed_and_not_where_an_edit_did(town, change):
    photo = a_photo(town, change, own=False)
    edited = photo.drawn.clone()
    edited[:, 20:30, 20:30] += 0.5
    shown, residue = photo.finish(edited), photo.original - photo.drawn
    assert torch.equal(shown[:, 20:30, 20:30], edited[:, 20:30, 20:30])
    assert near(shown[:, 40:], photo.original[:, 40:])
    assert torch.equal(photo.finish(photo.drawn), photo.drawn + residue)
    assert 0 < photo.kept(edited)[17].min() < 1  # and in between it fades


def test_one_photo_found_twice_has_one_name_and_two_identities(stylegan, change):
    one, plain = a_photo(stylegan, change), a_photo(stylegan, change)
    other = inverted(stylegan, one.photo, one.latent + 0.1, one.own)
    assert one.name == other.name and one.identity != other.identity and one.identity == plain.identity
    without = replace(one, own=())
    assert without.identity != one.identity


def test_a_photo_of_another_generator_or_size_is_refused(stylegan, town, random_rule, change):
    with pytest.raises(InputError, match="open it anew"):
        town.with_photos([a_photo(stylegan, change, own=False)])
    foreign = replace(a_photo(stylegan, change), own=(replace(random_rule(stylegan, "layer4"), fingerprint="f" * 64),))
    with pytest.raises(InputError, match="fingerprint"):
        stylegan.with_photos([foreign])


def test_a_rewritten_generator_still_has_its_photos(stylegan, change):
    photo = a_photo(stylegan, change)
    rule = change(stylegan, "layer4", seed=5)
    twin = stylegan.with_photos([photo]).rewritten([rule])
    assert twin.photos[photo.name] is photo
    expected = stylegan.with_photos([photo]).picture(stylegan.with_photos([photo]).begin([photo.name]), rules=[rule])
    assert near(twin.picture(twin.begin([photo.name])), expected)


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_solving_knows_a_photos_own_changes_of_the_edited_layer(stylegan, change, layer):
    photo = a_photo(stylegan, change)
    assert {each.layer for each in photo.own} == {"layer3", "layer4"}
    job = pasted(stylegan, photo, layer)._job()
    job.measure()
    job.look_up()
    goal = job.goal()
    sites = goal_sites(job.memory, goal, job.directions.matrix)
    nothing = sites.base.new_zeros(sites.base.shape[1], sites.basis.shape[1])
    values = job.memory.activate(sites.before_activation(nothing))
    assert near(values, at_places(goal.before, goal.weight.flatten(1).nonzero()[:, 1][None]))


@pytest.mark.parametrize("form", ["weight", "gated"])
def test_an_edit_on_a_photo_reaches_its_goal(stylegan, change, form):
    rule = pasted(stylegan, a_photo(stylegan, change), "layer3").execute(form=form)
    assert rule.effect.goal_error_removed > 0.5


def pasted(generator, photo, layer):
    """A session in which something was pasted on a photo."""
    session = Rewriter(generator, layer)
    name = session.open(photo)
    session.copy(7, square(4, 6, 12, 12))
    session.paste(name, square(6, 4, 12, 12))
    session.set(form="weight")
    return session
