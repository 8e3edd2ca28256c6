"""A photo in a session: pointed at like other pictures, named by its content, contained in nothing that is saved."""

import pytest
import torch
from conftest import near, square

from rewriter import Edit, Rewriter, load_edits
from rewriter.cache import Cache
from rewriter.editing import link
from rewriter.editing.region import Region
from rewriter.editing.stroke import Stroke
from rewriter.errors import InputError
from rewriter.hub.draft import draft
from rewriter.photo.opening import inverted


@pytest.fixture(scope="module")
def photo(stylegan, change):
    """A photo with a pattern that no picture has, found where seed 3 is."""
    draw = torch.Generator().manual_seed(0)
    latent = stylegan.spread(stylegan.embed(stylegan.latents([3]), 1.0))[0]
    pixels = torch.randint(256, (3, 16, 16), generator=draw, dtype=torch.uint8)
    return inverted(stylegan, pixels, latent, [change(stylegan, "layer5", size=0.1)])


@pytest.fixture
def opened(stylegan, statistics, photo):
    """A session with the photo, on which something was pasted, and whose context it is."""
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    name = session.open(photo)
    session.copy(7, square(4, 6, 12, 12))
    session.paste(name, square(6, 4, 12, 12))
    session.add_context(name, square(6, 4, 12, 12))
    session.add_context(2, square(6, 4, 12, 12))
    session.set(form="weight")
    return session


def test_a_photo_is_copied_from_pasted_on_marked_painted_on_and_rewritten(opened, stylegan, photo):
    name, before = photo.name, opened.sample([photo.name, 2])
    assert near(before[0], photo.original) and opened.edit.missing() == []
    rule = opened.execute()
    after = opened.sample([name, 2])
    assert rule.seeds() == {name, 7, 2} and not near(after[0], before[0], 1e-2) and not near(after[1], before[1], 1e-2)
    assert opened.preview().after.shape == (3, 16, 16) and opened.matches(name).heat.shape == (8, 8)
    opened.begin()
    opened.copy(name, square(4, 6, 12, 12))
    opened.paste(1, square(6, 4, 12, 12))
    opened.keep(name, square(0, 0, 6, 6))
    assert opened.execute(form="weight").effect.places >= 0
    opened.begin()
    opened.paint(Stroke("layer4", (1,), (4.0,), Region(name, square(6, 4, 12, 12))))
    assert not near(opened.painted([name])[0], opened.sample([name])[0], 1e-2)


def test_an_edit_names_the_photo_and_asks_for_it_where_it_is_not(opened, stylegan, statistics, photo, tmp_path):
    opened.edit.save(tmp_path / "edit.json")
    (edit,) = load_edits(tmp_path / "edit.json")
    assert edit.digest == opened.edit.digest and edit.paste.seed == photo.name and edit.photos == (photo.name,)
    fresh = Rewriter(stylegan, statistics=statistics)
    fresh.use(edit)
    with pytest.raises(InputError, match=f"{photo.name} is not here: open this photo first"):
        fresh.execute()
    fresh.open(photo)
    assert torch.equal(fresh.execute().delta, opened.execute().delta)


def test_what_is_saved_does_not_contain_the_photo(opened, stylegan, photo, tmp_path):
    rule = opened.execute()
    rule.save(tmp_path / "rule.safetensors")
    opened.edit.save(tmp_path / "edit.json")
    opened.save(tmp_path / "session.safetensors")
    pixels, drawn = photo.photo.numpy().tobytes(), photo.latent.numpy().tobytes()
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert photo.name.encode() in data
        assert pixels[:64] not in data and photo.original.numpy().tobytes()[:64] not in data and drawn[:64] not in data
    again = Rewriter.load(stylegan, tmp_path / "session.safetensors")
    assert near(again.sample([2]), opened.sample([2]))  # the rule needs no photo
    with pytest.raises(InputError, match="is not here"):
        again.sample([photo.name])
    again.open(photo)
    assert near(again.sample([photo.name]), opened.sample([photo.name]))


def test_a_link_does_not_hold_an_edit_on_a_photo(opened):
    with pytest.raises(InputError, match="points at a photo, which a link cannot hold: save the edit"):
        link.encode([opened.edit])


def test_rules_and_keys_of_photos_are_not_shared_between_sessions(stylegan, statistics, photo, opened):
    made, keys = Cache(1 << 20), Cache(1 << 20)
    session = Rewriter(stylegan, statistics=statistics, made=made, keys=keys)
    session.open(photo)
    session.use(opened.edit)
    session.execute()
    session.matches(photo.name)
    session.crops()
    assert session.prepared is not None and made.size == 0
    assert not any(photo.name in str(key) for key in keys._kept)
    session.matches(5)
    assert keys.size > 0
    other = inverted(stylegan, photo.photo, photo.latent + 0.2)  # the same photo, found elsewhere
    session.open(other)
    assert session.prepared is None


def test_a_card_says_that_a_photo_was_marked_and_nothing_published_contains_it(opened, stylegan, photo):
    made = draft(stylegan, [opened.execute()], "ada/rule")
    assert "Some of it was marked on a photo, which is not part of this repository" in made.card
    pixels = photo.photo.numpy().tobytes()
    for data in made.files.values():
        assert pixels[:64] not in data and photo.original.numpy().tobytes()[:64] not in data


def test_undo_leaves_the_photo_open(opened, photo):
    while opened.history.at:
        opened.undo()
    assert opened.edit.paste is None and near(opened.sample([photo.name])[0], photo.original)


@pytest.mark.parametrize("seed", ["photo-", "photo-0123456789ABCDEF", "photo-0123456789abcdef0", "../photo", "3", ""])
def test_other_names_are_refused(stylegan, seed):
    session = Rewriter(stylegan)
    with pytest.raises(InputError, match="seed"):
        session.copy(seed, square(4, 6, 12, 12))
    with pytest.raises(InputError, match="seed"):
        session.sample([seed])
    data = Edit("g", "layer4", copy=Region(1, square(4, 6, 12, 12))).to_json()
    with pytest.raises(InputError, match="seed"):
        Edit.from_json({**data, "copy": {**data["copy"], "seed": seed}})
