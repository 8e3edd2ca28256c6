"""Photos in generators: what they are disturbed by, and judges that tell a rule that worked from one that did not."""

import json
from functools import partial

import pytest
import torch
from PIL import Image

from rewriter.evaluation import FIRST_SEED, photos
from rewriter.evaluation.photos import disturbed, never_seen, painted
from rewriter.photo.opening import open_photo
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD


def values(image):
    return torch.tensor([*image.tobytes()]).float()


def test_towns_never_seen_are_no_towns_of_seeds_and_the_same_every_time():
    z, u = never_seen(20, factors.has_dome)
    assert len(z) == 20 and bool(factors.has_dome(u).all()) and torch.equal(z, never_seen(20, factors.has_dome)[0])
    assert torch.cdist(z, WORLD.read(range(2000))[0]).min() > 1
    assert torch.equal(WORLD.factors(z), u)
    assert [image.size for image in painted(u[:2], 64)] == [(64, 64)] * 2


def test_each_disturbance_changes_a_photo_in_its_own_way_and_the_same_every_time():
    (town,) = painted(never_seen(1)[1], 64)
    for kind in photos.DISTURBANCES:
        once, again = disturbed(town, kind, 3), disturbed(town, kind, 3)
        assert once.tobytes() == again.tobytes() != town.tobytes() and once.size == town.size
    noise = values(disturbed(town, "noise", 3)) - values(town)
    assert 3 < noise.std() < 6  # 0.02 of 255, less where it is cut
    point = Image.new("RGB", (16, 16))
    point.putpixel((8, 8), (255, 255, 255))
    places = {disturbed(point, "shift", number).tobytes().find(b"\xff") // 3 for number in range(250)}
    assert {divmod(place, 16) for place in places} == {(row, column) for row in range(6, 11) for column in range(6, 11)}


def test_the_judge_of_domes_counts_spires_and_not_towns_as_they_were():
    _, u = never_seen(6, factors.has_dome)
    before, after = scenes.draw(u).picture, scenes.draw(factors.change(u, top="spire")).picture
    assert photos._changed(u, before, before)["changed"] == 0
    assert photos._changed(u, before, after)["changed"] == 1 and photos._changed(u, before, after)["elsewhere"] < 0.1


def test_the_judge_of_light_measures_the_ground_apart_from_the_windows():
    _, u = never_seen(6, lambda u: ~factors.is_lit(u))
    dark, lit = (scenes.draw(factors.change(u, lit=on)) for on in (False, True))
    whole, none = (photos._light_added(u, dark.picture, each.picture) for each in (lit, dark))
    assert whole["ground"] == pytest.approx(1) and whole["windows"] == pytest.approx(1) and none["ground"] == 0
    only = torch.where(lit.where("window")[:, None], lit.picture, dark.picture)
    row = photos._light_added(u, dark.picture, only)
    assert row["windows"] == pytest.approx(1) and abs(row["ground"]) < 0.05


def test_images_belong_to_photo_alone_and_unknown_parts_are_refused(run, tmp_path):
    status, _, error = run("evaluate", "units", "me.png", "--out", tmp_path)
    assert status == 2 and "only photo does" in error
    status, _, error = run("evaluate", "photo", "--only", "faces", "--out", tmp_path)
    assert status == 2 and "photo has no part 'faces': towns, disturbances" in error


@pytest.mark.evaluation
def test_a_painted_town_is_found_and_a_rule_on_it_does_what_it_does_on_a_seed(town, monkeypatch):
    monkeypatch.setattr(photos, "open_photo", partial(open_photo, effort=0.5))
    monkeypatch.setattr(photos, "FAITHFUL", (0.5,))
    (row,) = photos.towns(town, 1)
    assert row["adapted, dB"] > 33 and row["others, 1/255"] < 1
    seeds, photographs = photos.domes(town, 2)
    assert abs(seeds["changed"] - photographs["changed"]) < 0.15 and seeds["changed"] > 0.7
    _, edited = photos.own(town, 2)
    assert edited["what"] == "townscape: dome-to-spire" and FIRST_SEED == 20_000


@pytest.mark.evaluation
def test_photos_from_files_are_drawn_with_rules_on_a_sheet(town, tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "open_photo", partial(open_photo, effort=0.05))
    (town_image,) = painted(never_seen(1)[1], 64)
    town_image.save(tmp_path / "a.png")
    rows, sheet = photos.real(town, [tmp_path / "a.png"])
    assert rows[0]["what"] == "a.png" and sheet.height > 5 * 128 and json.dumps(rows)
