"""Which units draw what, things to paint with, what refuses them: figures against brute force, and on the towns."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import square
from PIL import Image

from rewriter.checkpoints.catalogue import built_ins
from rewriter.editing.region import Region
from rewriter.errors import CancelledError, InputError
from rewriter.evaluation.units import doors
from rewriter.masks import as_mask
from rewriter.units import gallery, shipped
from rewriter.units.agreement import STEPS, Counts, measure, usual_levels
from rewriter.units.dissect import dissect, scene_labels
from rewriter.units.survival import PICTURE, survival
from rewriter.units.thing import choose, contrast, made_of, point, thing, with_few
from rewriter.worlds import segmenter
from rewriter.worlds.townscape import scenes
from rewriter.worlds.townscape.world import WORLD

TREE, LAYER = scenes.LABELS.index("tree"), "layer6"


def marks(label, count=2):
    """Pictures that show much of a thing, with its exact mask."""
    shown = WORLD.described(range(100)).where(label).float()
    best = shown.sum((1, 2)).argsort(descending=True)[:count].tolist()
    return [Region(seed, as_mask(shown[seed])) for seed in best]


@pytest.fixture(scope="module")
def trees(town):
    """Trees to paint with, as pointing at two of them gives."""
    found = made_of(town, point(town, marks("tree"), LAYER), 10, name="tree")
    return replace(found, marks=tuple(marks("tree")))


def test_iou_and_auc_are_those_of_counting_cell_by_cell():
    draw = torch.Generator().manual_seed(0)
    activations = torch.randn(3, 4, 16, 16, generator=draw)
    masks = (torch.rand(3, 2, 16, 16, generator=draw) > 0.8).float()
    activations[:, 1] += 3 * masks[:, 0]
    levels = torch.quantile(activations.transpose(0, 1).flatten(1), torch.tensor(STEPS), 1)
    counts = Counts(2, 4)
    for i in range(3):  # in batches
        counts.add(activations[[i]], activations[[i]], masks[[i]], levels)
    found = counts.agreement("layer", ("a", "b"), levels[STEPS.index(0.99)])
    for t in range(2):
        where = masks[:, t].bool()
        for unit in range(4):
            values = activations[:, unit]
            ious = [float((where & (values > x)).sum() / (where | (values > x)).sum()) for x in levels[:, unit]]
            assert found.best[t, unit] == pytest.approx(max(ious), abs=1e-5)
            assert found.iou[t, unit] == pytest.approx(ious[STEPS.index(0.99)], abs=1e-5)
            exact = (values[where][:, None] > values[~where][None]).float().mean()
            assert found.auc[t, unit] == pytest.approx(float(exact), abs=0.08)
            assert found.on[t, unit] == pytest.approx(float(values[where].mean()), abs=1e-4)
            assert found.off[t, unit] == pytest.approx(float(values[~where].mean()), abs=1e-4)
    assert found.order(0)[0] == 1 and found.auc[0, 1] > 0.9


def test_a_unit_is_on_in_one_of_a_hundred_cells_of_usual_pictures(town):
    levels = usual_levels(town, LAYER, 1.0, [])
    values = town.values(town.keys(range(6000, 6060), LAYER))
    on = (values > levels[STEPS.index(0.99)][:, None, None]).float().mean((0, 2, 3))
    assert 0.005 < float(on.median()) < 0.02


@pytest.mark.evaluation
def test_a_layer_has_units_for_trees_and_pointing_at_two_trees_finds_them(town, tmp_path):
    found = dissect(town, LAYER, ["tree"], scene_labels(WORLD, ["tree"]), seeds=range(50_000, 50_064), cache=tmp_path)
    assert found.best.max() > 0.5 and found.auc.max() > 0.95
    pointed = point(town, marks("tree"), LAYER)
    assert len({*found.order()[:10]} & {*pointed.order()[:10]}) >= 5


def test_a_dissection_is_measured_once_and_another_or_a_damaged_file_is_not_taken(town, tmp_path):
    ask = {"seeds": range(50_000, 50_008), "cache": tmp_path}
    first = dissect(town, LAYER, ["tree"], scene_labels(WORLD, ["tree"]), **ask)

    def never(seeds, pictures):
        raise AssertionError("it is known already")

    again = dissect(town, LAYER, ["tree"], never, **ask)
    assert all(torch.equal(a, b) for a, b in zip(first.tensors().values(), again.tensors().values(), strict=True))
    for other in ({"by": "clipseg"}, {"seeds": range(50_000, 50_009)}):
        with pytest.raises(AssertionError, match="known"):
            dissect(town, LAYER, ["tree"], never, **{**ask, **other})
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(AssertionError, match="known"):
        dissect(town, LAYER, ["tree"], never, **ask)


def test_a_measurement_can_be_cancelled_and_needs_pictures(town):
    labels = scene_labels(WORLD, ["tree"])
    with pytest.raises(CancelledError):
        measure(town, LAYER, ["tree"], labels, range(3), on_step=lambda done, of: False)
    with pytest.raises(InputError, match="no pictures"):
        measure(town, LAYER, ["tree"], labels, [])
    with pytest.raises(InputError, match="no 'unicorn'"):
        scene_labels(WORLD, ["unicorn"])


def test_painted_trees_are_trees_and_trees_painted_away_are_gone(town, trees):
    info, place = town.layer(LAYER), square(40, 44, 54, 58, side=64)
    seeds = [seed for seed in range(60) if not (WORLD.described([seed]).where("tree")[0] & (place > 0)).any()][:8]
    drawn = town.sample(seeds, rules=[trees.stroke().change(info, place)]).clamp(-1, 1)
    assert (segmenter.load().labels(drawn) == TREE)[:, place > 0].float().mean() > 0.7
    shown = marks("tree", 4)
    before = town.sample([mark.seed for mark in shown]).clamp(-1, 1)
    strokes = [[trees.stroke(mark, remove=True).change(info)] for mark in shown]
    after = town.sample([mark.seed for mark in shown], rules=strokes).clamp(-1, 1)
    was, still = (segmenter.load().labels(each) == TREE for each in (before, after))
    inside = torch.stack([mark.mask for mark in shown]) > 0
    assert (was & still & inside).sum() < 0.1 * (was & inside).sum()


@pytest.mark.evaluation
def test_the_machine_finds_layer_and_units_that_draw_what_was_pointed_at(town):
    found = choose(town, marks("tree"), name="tree", layers=["layer5", LAYER])
    assert found.thing.layer == LAYER and found.score > 0.5 and found.thing.name == "tree"
    assert 1 <= found.thing.few <= len(found.thing.units)
    for wrong in ([], [Region(seed, square(0, 0, 8, 8)) for seed in range(6)]):
        with pytest.raises(InputError, match="1 to 5 pictures"):
            choose(town, wrong, layers=[LAYER])


def test_what_always_stands_there_counts_for_nothing(town):
    """The units of the ground agree with a mark on it, but every town has ground there."""
    ground = square(56, 0, 64, 64, side=64)
    order = contrast(town, [Region(3, ground)], LAYER)
    values = town.values(town.keys([3, *range(7000, 7064)], LAYER)).relu()[:, :, 14:].mean((2, 3))
    surprise = (values[0] - values[1:].mean(0)) / (values[1:].std(0) + 0.1 * values[1:].std(0).mean())
    assert {*order[:8]} == {*surprise.argsort(descending=True)[:8].tolist()}


@pytest.mark.evaluation
def test_a_painted_tree_survives_to_the_picture_and_a_door_in_the_sky_does_not(town):
    known = {each.name: each for each in shipped.things(town)}
    place = Region(3, square(40, 46, 54, 60, side=64))
    tree = survival(town, known["tree"], known["tree"].stroke(place))
    names = list(town.layers)
    assert [each.layer for each in tree.left] == [*names[names.index(known["tree"].layer) :], PICTURE]
    assert tree.appears and "appears" in tree.in_words("tree")
    faint = survival(town, known["tree"], known["tree"].stroke(place, strength=0.1))
    assert faint.left[0].share < 0.3 * tree.left[0].share and not faint.appears
    high = Region(0, square(8, 30, 16, 36, side=64))
    door = survival(town, known["door"], known["door"].stroke(high))
    assert door.left[0].share > 0.8 and not door.appears and "but" in door.in_words("door")
    foot, _, sky = doors(town, 12)
    assert foot["read as it"] > 0.5 and sky["read as it"] < 0.1
    assert sky["left"]["layer8"] > 0.8 and sky["left"][PICTURE] < 0.5 * foot["left"][PICTURE]
    with pytest.raises(InputError, match="no marks"):
        survival(town, replace(known["tree"], marks=()), known["tree"].stroke(place))


def test_few_units_remove_a_thing_everywhere_and_all_remove_it_where_it_is_painted(town, trees):
    few = with_few(town, trees)
    assert few.few < len(few.units)
    assert few.stroke(remove=True).units == few.units[: few.few]
    assert few.stroke(marks("tree")[0], remove=True).units == few.units == few.stroke().units


@pytest.mark.parametrize("name", [*built_ins(), pytest.param("faces", marks=pytest.mark.network)])
def test_shipped_things_belong_to_their_generator(name):
    from rewriter import load_generator

    generator = load_generator(name)
    found = shipped.things(generator)
    assert found and len({each.name for each in found}) == len(found)
    for each in found:
        assert each.stroke().change(generator.layer(each.layer)).beside.fits(generator.layer(each.layer)) and each.marks


def test_a_thing_is_the_same_as_json_and_a_wrong_one_is_refused(trees, stylegan):
    data = json.loads(json.dumps(trees.to_json()))
    assert thing("thing", data).to_json() == data and shipped.things(stylegan) == ()
    for wrong in (
        {"units": [1, 1]},
        {"on": [0.0]},
        {"units": []},
        {"layer": 3},
        {"few": 0},
        {"marks": [3]},
        {"on": "x"},
    ):
        with pytest.raises(InputError):
            thing("thing", {**data, **wrong})


def test_the_pictures_of_a_unit_are_those_in_which_it_is_strongest(town):
    seeds = range(40)
    values = town.values(town.keys(seeds, LAYER))[:, [3, 9]].amax((2, 3))
    found = gallery.strongest(town, LAYER, [3, 9], pictures=3, seeds=seeds)
    assert found == values.topk(3, 0).indices.T.tolist()
    lit = gallery.lit(town, LAYER, [(3, found[0][0])])
    before = town.sample([found[0][0]]).clamp(-1, 1)
    on = (lit == before).all(1)
    assert 0 < on.float().mean() < 0.5 and (lit <= before)[~on[:, None].expand_as(lit)].float().mean() > 0.95


@pytest.mark.evaluation
def test_the_command_line_ranks_shows_and_switches(run, tmp_path):
    sheet, rule = tmp_path / "units.png", tmp_path / "rule.safetensors"
    status, said, _ = run("units", "things", "--json")
    assert status == 0 and "tree" in {each["name"] for each in json.loads(said)["things"]}
    Image.fromarray((square(40, 44, 54, 58, side=64) * 255).byte().numpy()).save(tmp_path / "mark.png")
    status, said, _ = run(
        "units", "rank", "--mark", f"3:{tmp_path}/mark.png", "--layer", LAYER, "--out", sheet, "--json"
    )
    assert status == 0 and len(json.loads(said)["units"]) == 10 and Image.open(sheet).width > 500
    status, said, _ = run("units", "off", "tree", "--out", sheet, "--save-rule", rule, "--json")
    assert status == 0 and json.loads(said)["changes"] > 0.5
    status, said, _ = run("inspect", rule)
    assert status == 0 and "unit" in said
    status, said, _ = run("units", "show", "--layer", LAYER, "--unit", "3,9", "--out", sheet)
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("paint",), "choose one of"),
        (("rank",), "rank what"),
        (("rank", "unicorn"), "no 'unicorn'"),
        (("off", "unicorn"), "no thing 'unicorn'"),
        (("show", "--unit", "3"), "needs --layer"),
        (("show", "--unit", "400", "--layer", LAYER), "units 0 to 127"),
        (("show", "--unit", "x", "--layer", LAYER), "units 'x'"),
        (("on", "--unit", "3", "--layer", LAYER), "needs --level"),
        (("rank", "--mark", "3"), "SEED:MASK.png"),
        (("rank", "--mark", "3:missing.png"), "cannot read the mask"),
    ],
)
def test_a_wrong_call_says_what_to_do(run, tmp_path, arguments, words):
    status, _, error = run("units", *arguments, "--out", tmp_path / "units.png")
    assert status == 2 and words in error
