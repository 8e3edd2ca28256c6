"""Finding a photo in a generator: resumable, cancellable, the same every time; and adapting the generator to it."""

import pytest
import torch
from conftest import near

from rewriter.errors import CancelledError, InputError
from rewriter.generators.layer import Features
from rewriter.photo import inversion, nearest
from rewriter.photo.adaptation import adapt, layers_to_adapt
from rewriter.photo.exactness import SAME, psnr
from rewriter.photo.inversion import BOUND_ONLY_Z, Inversion, distance
from rewriter.photo.nearest import Thumbnails
from rewriter.photo.opening import open_photo
from rewriter.pictures import to_image


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Thumbnails of fewer pictures: these generators are tiny."""
    monkeypatch.setattr(nearest, "SEEDS", 48)
    monkeypatch.setattr(nearest, "FEW", 32)


def own_picture(generator, seed=7):
    """A picture of a seed beyond the thumbnails, as a photo."""
    return generator.sample([100 + seed])[0].clamp(-1, 1)


@pytest.mark.parametrize("name", ["stylegan", "proggan", "dcgan"])
def test_an_own_picture_is_found_again_and_the_adaptation_comes_nearer(request, name):
    generator = request.getfixturevalue(name)
    photo, found = own_picture(generator), []
    made = open_photo(generator, to_image(photo), effort=0.25, on_found=found.append)
    start = generator.sample([int(Thumbnails.of(generator).distances(photo[None])[0].argmin())])[0]
    first, second, third = (psnr(each, made.original) for each in (start, found[0].drawn, made.drawn))
    assert second > first + 1.5 and third >= second and made.name == found[0].name
    own = generator.with_photos([made])
    assert near(own.sample([made.name])[0], made.original)
    if name == "dcgan":  # whose pictures lie within the range: nothing is left to adapt to
        assert second > 50 and made.own == ()
    else:
        assert {each.layer for each in made.own} == {*layers_to_adapt(generator)}


def test_a_cancelled_search_goes_on_where_it_was_and_ends_alike(stylegan):
    photo, pictures = own_picture(stylegan), []
    whole = Inversion(stylegan, photo, effort=0.1).run()
    search = Inversion(stylegan, photo, effort=0.1)
    with pytest.raises(InputError, match="nothing is found yet"):
        _ = search.latent
    of = search.steps[1]
    for stop in (3, of // 2, of - 1):
        with pytest.raises(CancelledError):
            search.run(on_step=lambda done, of, stop=stop: done < stop, on_picture=pictures.append)
        assert search.steps == (stop, of)
        assert isinstance(stylegan.enter(search.latent[None]), Features)
    assert torch.equal(search.run(), whole) and torch.equal(search.run(), whole)
    assert pictures and all(picture.shape == (3, 16, 16) for picture in pictures)


def test_the_dial_trades_faithfulness_for_latents_that_are_edited_well(stylegan):
    photo = own_picture(stylegan) * 0.6 + 0.3 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    apart, error = [], []
    for faithful in (0.0, 1.0):
        latent = Inversion(stylegan, photo.clamp(-1, 1), faithful=faithful, effort=0.25).run()
        apart.append(float((latent - latent.mean(0)).square().mean()))
        error.append(psnr(stylegan.picture(stylegan.enter(latent[None]))[0].detach(), photo))
    assert apart[0] < apart[1] and error[0] < error[1]


def test_without_w_latents_stay_the_nearer_to_zero_the_less_faithful_and_the_less_can_be_drawn(dcgan):
    photo = torch.ones(3, dcgan.resolution, dcgan.resolution)
    norms = [float(Inversion(dcgan, photo, faithful=faithful).run().norm()) for faithful in (0.0, 0.5, 1.0)]
    assert norms[0] < norms[1] < norms[2] < BOUND_ONLY_Z * dcgan.zdim**0.5
    own, latents = own_picture(dcgan), dcgan.latents([107])[0]
    for faithful in (0.0, 1.0):  # of which nothing is left as noise
        assert (Inversion(dcgan, own, faithful=faithful).run() - latents).abs().max() < 0.01


def test_a_slow_generator_without_w_is_searched_without_derivatives_of_each_latent(dcgan, monkeypatch):
    photo = own_picture(dcgan)
    exactly = psnr(dcgan(Inversion(dcgan, photo).run()[None])[0], photo)
    monkeypatch.setattr(inversion, "AFFORDABLE", 0)
    search = Inversion(dcgan, photo)
    assert all(stage.rate for stage in search.stages)
    assert SAME < psnr(dcgan(search.run()[None])[0], photo) < exactly


def test_a_search_ends_once_the_photo_is_drawn_exactly(town):
    search, done = Inversion(town, town.sample([3])[0].clamp(-1, 1)), []
    search.run(on_step=lambda step, of: done.append((step, of)))
    assert psnr(town.picture(town.enter(search.latent[None]))[0].detach(), search.photo) > SAME
    assert done[-1][0] == done[-1][1] < done[0][1] and {stage.space for stage in search.stages} != {"z", "w", "layers"}


def test_an_adaptation_is_made_of_rules_and_holds_other_pictures_the_more_the_less_faithful_it_is(stylegan, statistics):
    photo = own_picture(stylegan).flip(1)
    latent = stylegan.spread(stylegan.embed(stylegan.latents([3]), 1.0))[0]
    reached, moved = [], []
    for faithful in (0.0, 0.5, 1.0):
        rules = adapt(stylegan, photo, latent, faithful=faithful, layers=["layer4", "layer5"], statistics=statistics)
        assert [rule.layer for rule in rules] == ["layer4", "layer5"] and all(rule.edit is None for rule in rules)
        others = stylegan.sample(range(20, 36)), stylegan.sample(range(20, 36), rules=rules)
        moved.append(float((others[0] - others[1]).abs().mean()))
        reached.append(psnr(stylegan.picture(stylegan.enter(latent[None]), rules=rules)[0], photo))
    before = psnr(stylegan.picture(stylegan.enter(latent[None]))[0], photo)
    assert before < reached[0] < reached[2] and moved[0] < moved[1] < moved[2]


def test_thumbnails_are_drawn_once_and_again_if_their_file_is_damaged(stylegan, tmp_path, monkeypatch):
    drawn = []
    first = Thumbnails.of(stylegan, cache=tmp_path, on_step=lambda *step: drawn.append(step))
    assert drawn[-1] == (48, 48) and len(first.small) == 48
    monkeypatch.setattr(type(stylegan), "sample", lambda *_, **__: pytest.fail("drawn again"))
    assert torch.equal(Thumbnails.of(stylegan, cache=tmp_path).small, first.small)
    monkeypatch.undo()
    monkeypatch.setattr(nearest, "SEEDS", 48)
    (path,) = (tmp_path / "thumbnails").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert torch.equal(Thumbnails.of(stylegan, cache=tmp_path).small, first.small)


def test_the_nearest_thumbnail_of_an_own_picture_is_its_own(stylegan):
    thumbnails = Thumbnails.of(stylegan)
    distances = thumbnails.distances(stylegan.sample([5, 31]).clamp(-1, 1))
    assert distances.argmin(1).tolist() == [5, 31] and distances.min() < 0.01 < distances[0, 31]


def test_the_distance_is_zero_for_equal_pictures_and_counts_every_scale():
    a = torch.zeros(1, 3, 16, 16)
    coarse, fine = a.clone(), a.clone()
    coarse[..., :8, :8] = 1
    fine[..., ::2, 1::2] = fine[..., 1::2, ::2] = 1  # as much of it is one, but the means agree
    assert distance(a, a).item() == 0
    assert distance(a, coarse) > distance(a, fine - fine.mean()) > 0
    assert psnr(a, a) == float("inf") and abs(psnr(a, a + 0.2) - 20) < 1e-3


def test_bad_numbers_and_sizes_are_refused(stylegan):
    photo = own_picture(stylegan)
    for options in ({"faithful": -0.1}, {"faithful": 2}, {"effort": 0}, {"effort": 1e9}):
        with pytest.raises(InputError, match="faithful is"):
            Inversion(stylegan, photo, **options)
    with pytest.raises(InputError, match="cut it"):
        Inversion(stylegan, torch.zeros(3, 8, 8))
    with pytest.raises(InputError, match="faithful"):
        adapt(stylegan, photo, torch.zeros(1), faithful=3)


@pytest.mark.evaluation
def test_a_towns_own_picture_is_found_to_the_last_detail(town):
    made = open_photo(town, to_image(own_picture(town)))
    assert psnr(made.drawn, made.original) > 45
