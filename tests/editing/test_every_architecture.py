"""All architectures: edits in each form, units, photos, searches, files; masks lie where they were drawn."""

from dataclasses import replace

import pytest
import torch
from conftest import near, same_rule, weight_session
from hostile import saved

from rewriter import Rewriter, Rule, load_generator, replay
from rewriter.checkpoints import store
from rewriter.editing.region import Region
from rewriter.editing.stroke import Stroke
from rewriter.generators.architectures import ARCHITECTURES
from rewriter.masks import disc
from rewriter.photo import nearest
from rewriter.photo.exactness import psnr
from rewriter.photo.opening import open_photo
from rewriter.pictures import to_image
from rewriter.units.agreement import measure
from rewriter.units.thing import marked

NAMES = ("stylegan", "stylegan3", "stylegan3_r", "proggan", "dcgan", "fastgan", "lightweight")


@pytest.fixture(params=NAMES)
def any_generator(request):
    return request.getfixturevalue(request.param)


def of_all(*default):
    """All generators, of which only these do not belong to the marked tests."""
    params = [name if name in default else pytest.param(name, marks=pytest.mark.hostile) for name in NAMES]
    return pytest.mark.parametrize("any_generator", params, indirect=True)


def middle_layer(generator):
    """One that neither draws the whole scene nor single pixels."""
    sides = {name: info.frame.across for name, info in generator.layers.items()}
    return next(name for name, side in sides.items() if side >= 8)


@pytest.fixture
def marked_session(any_generator):
    """A session with a copy, a paste and a context, for a change of W."""
    side = any_generator.resolution
    session = weight_session(any_generator, middle_layer(any_generator))
    session.copy(7, disc(side, 0.4, 0.6, 0.2))
    session.paste(1, disc(side, 0.6, 0.4, 0.2))
    session.add_context(2, disc(side, 0.5, 0.5, 0.2))
    return session


def test_there_is_one_of_each():
    assert len(ARCHITECTURES) == len(NAMES) - 1  # StyleGAN3 has two configurations


def edited(marked_session, form, tmp_path):
    """Make a rule, and check that it comes near its goal, is replayed, saved and folded."""
    generator = marked_session.generator
    rule = marked_session.execute(form=form, smoothness=None if form == "template" else 0.01)
    assert rule.effect.goal_error_removed > 0 or form == "template"  # random pictures hold nothing that is like a mark
    assert same_rule(replay(generator, rule.edit), rule)
    rule.save(tmp_path / "rule.safetensors")
    changed = generator.sample([1, 2], rules=[rule])
    assert torch.equal(generator.sample([1, 2], rules=[Rule.load(tmp_path / "rule.safetensors")]), changed)
    assert not near(changed, generator.sample([1, 2]), 1e-3)
    if form == "weight":
        assert near(generator.rewritten([rule]).sample([1, 2]), changed)
    store.save(generator.rewritten([rule]), tmp_path / "rewritten")
    assert load_generator(str(tmp_path / "rewritten"), device="cpu").fingerprint != generator.fingerprint


def test_a_change_of_w_moves_its_goal_is_replayed_saved_and_folded(marked_session, tmp_path):
    edited(marked_session, "weight", tmp_path)


@of_all("fastgan")
@pytest.mark.parametrize("form", ["gated", "template"])
def test_other_forms_are_replayed_saved_and_folded(marked_session, form, tmp_path):
    edited(marked_session, form, tmp_path)


@pytest.mark.parametrize("method", ["closed-form", "least-squares"])
def test_both_solvers_come_near_to_a_paste_on_the_same_picture(any_generator, method):
    side, layer = any_generator.resolution, middle_layer(any_generator)
    session = weight_session(any_generator, layer)
    session.copy(7, disc(side, 0.4, 0.6, 0.2))
    session.paste(1, disc(side, 0.6, 0.4, 0.2))
    rule = session.execute(form="weight", method=method, smoothness=0.01)
    assert rule.effect.goal_error_removed > 0.05


def test_what_is_pasted_shows_where_it_was_pasted(marked_session):
    generator, shown = marked_session.generator, marked_session.preview()
    change = (shown.after - shown.before).abs().sum(0)
    mass, at = change.sum(), (torch.arange(generator.resolution) + 0.5) / generator.resolution
    row, column = float((change.sum(1) * at).sum() / mass), float((change.sum(0) * at).sum() / mass)
    assert abs(row - 0.6) < 0.12 and abs(column - 0.4) < 0.12
    top, left, bottom, right = (edge / generator.resolution for edge in shown.box)
    assert abs((top + bottom) / 2 - 0.6) < 0.13 and abs((left + right) / 2 - 0.4) < 0.13


def test_units_change_the_picture_where_they_are_painted_and_everywhere_when_switched(any_generator):
    side, layer = any_generator.resolution, middle_layer(any_generator)
    info, units = any_generator.layer(layer), (0, 1)
    values = any_generator.values(any_generator.keys([3], layer))
    levels = tuple(float(values[0, unit].abs().max()) * 3 + 1 for unit in units)
    place = Region(3, disc(side, 0.7, 0.3, 0.15))
    stroke = Stroke(layer, units, levels, place)
    change = (any_generator.sample([3], rules=[stroke.change(info)]) - any_generator.sample([3])).abs().sum((0, 1))
    at = (torch.arange(side) + 0.5) / side
    row, column = (float((change.sum(axis) * at).sum() / change.sum()) for axis in (1, 0))
    assert abs(row - 0.7) < 0.15 and abs(column - 0.3) < 0.15
    switched = replace(stroke, place=None).change(info)
    everywhere = any_generator.sample([3, 4], rules=[switched])
    if any_generator.architecture != "stylegan2":  # whose noise goes on in a unit that is held
        assert near(any_generator.rewritten([switched]).sample([3, 4]), everywhere, 1e-4)
    agreement = measure(any_generator, layer, ("it",), marked([place])[1], [3])
    assert agreement.iou.shape == (1, info.out_channels)


def test_a_search_finds_the_marked_picture_at_the_mark(marked_session):
    generator = marked_session.generator
    found = marked_session.search(3, seeds=range(40))
    assert len(found) == 3 and all(0 <= edge <= generator.resolution for one in found for edge in one.at)
    heat = marked_session.matches(2).heat
    across = generator.layer(marked_session.edit.layer).key_frame.across
    assert heat.shape == (across, across)


@of_all("stylegan3", "fastgan")
def test_a_photo_is_opened_and_a_rule_acts_on_it(any_generator, marked_session, monkeypatch):
    monkeypatch.setattr(nearest, "SEEDS", 48)
    monkeypatch.setattr(nearest, "FEW", 32)
    photo = any_generator.sample([107])[0].clamp(-1, 1)
    made = open_photo(any_generator, to_image(photo), effort=0.1, faithful=0.0)
    own = any_generator.with_photos([made])
    assert psnr(own.sample([made.name])[0], made.original) > psnr(
        any_generator.sample([3])[0].clamp(-1, 1), made.original
    )
    rule = marked_session.execute(form="weight", smoothness=0.01)
    assert not near(own.sample([made.name], rules=[rule]), own.sample([made.name]), 1e-3)


def test_a_plain_file_of_it_is_read_back(any_generator, tmp_path):
    (tmp_path / "state.pt").write_bytes(saved(dict(any_generator.state_dict())))
    settings = any_generator.settings()
    again = load_generator(str(tmp_path / "state.pt"), device="cpu")
    if again.settings() == settings:
        assert again.fingerprint == any_generator.fingerprint
    session = Rewriter(again)
    assert session.edit.layer in again.layers
