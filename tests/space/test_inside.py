"""The second tab, Inside: painting with units, pointing at things, looking at units and switching them."""

import json
import time

import pytest
import torch
from clicks import Tab, connected, served
from conftest import DATA, square
from gradio_client import Client
from gradio_client.exceptions import AppError

import view
from inside import Inside
from received import OWN, from_record, to_record
from rewriter import Rewriter, masks, worlds
from rewriter.editing.history import History
from rewriter.editing.link import decode
from rewriter.editing.region import Region
from rewriter.editing.stroke import MOST, Stroke
from rewriter.errors import CancelledError, InputError
from rewriter.units import shipped
from rewriter.worlds.townscape.world import WORLD
from state import Shared, Visitor

NAME = "townscape"
BESIDE = masks.as_mask(masks.disc(64, 0.7, 0.2, 0.12))  # where a tree may stand
SKY = masks.disc(64, 0.2, 0.6, 0.07)
pytestmark = pytest.mark.filterwarnings("ignore")


def paint(seed, mask):
    """What the painter sends."""
    return f"{seed}:{masks.encode(mask)}"


@pytest.fixture(scope="module")
def do():
    return Inside(Shared((NAME,), device="cpu"))


@pytest.fixture(scope="module")
def page():
    with served(NAME) as page:
        yield page


@pytest.fixture
def tab(page):
    with connected(page) as client:
        yield Tab(client)


@pytest.fixture(scope="module")
def painted(do):
    """A tree beside the first picture's tower."""
    return do.stroke(Visitor(NAME), "tree", paint(0, BESIDE))


@pytest.fixture(scope="module")
def ruled(do, painted):
    return do.execute(painted["visitor"])


@pytest.fixture(scope="module")
def pointed(do):
    """The roofs' edges of two pictures, as a thing of one's own."""
    places = [paint(seed, masks.disc(64, 0.33, 0.24, 0.1)) for seed in (0, 2)]
    return do.point(Visitor(NAME), "roof", places)


def again(visitor):
    """The visitor as another server gets them."""
    return from_record(to_record(visitor), ours=True)


def tiles(shown):
    return {tile["seed"]: tile["image"] for tile in shown["film"]["tiles"]}


def rules(do, visitor):
    return do.shared.session(visitor).rules


# --- painting ---


def test_a_stroke_changes_its_picture_only_and_strokes_are_undone_one_by_one(tab):
    first = tab.step("open", {})
    one = tab.step("stroke", "tree", paint(0, BESIDE), False, 1.0)
    two = tab.step("stroke", "window", paint(3, SKY))
    assert {seed for seed, url in tiles(one).items() if url != tiles(first)[seed]} == {0}
    assert {seed for seed, url in tiles(two).items() if url != tiles(one)[seed]} == {3}
    assert one["canvas"]["seed"] == 0 and two["canvas"]["seed"] == 3 and two["strokes"]["count"] == 2
    assert one["canvas"]["now"] != one["canvas"]["then"] == first["canvas"]["now"]
    assert tiles(tab.step("step", "undo")) == tiles(one) and tiles(tab.step("step", "undo")) == tiles(first)
    assert tiles(tab.step("step", "redo")) == tiles(one) and tab.step("open", {})["strokes"]["count"] == 1


def test_the_canvas_shows_what_the_library_paints(do, painted):
    town = worlds.load()
    session = Rewriter(town)
    session.paint(shipped.things(town)[0].stroke(Region(0, BESIDE)))
    shown = do.shared.session(painted["visitor"])
    assert torch.equal(shown.painted([0]), session.painted([0]))
    assert not torch.equal(session.painted([0]), session.sample([0]))


def test_strength_and_removing_reach_the_units(do):
    half = do.stroke(Visitor(NAME), "tree", paint(0, BESIDE), False, 0.5)["visitor"]
    gone = do.stroke(Visitor(NAME), "tree", paint(0, BESIDE), True)["visitor"]
    (one,), (other,) = (each.history.present.edit.strokes for each in (half, gone))
    tree = shipped.things(worlds.load())[0]
    assert (one.strength, one.levels, one.thing) == (0.5, tree.on, "tree")
    assert (other.levels, other.thing) == (tree.off, "no tree")


def test_the_slider_compares_with_the_picture_under_the_same_rules_without_the_paint(do):
    switched = do.switch(Visitor(NAME), "cloud", "off")
    both = do.stroke(switched["visitor"], "tree", paint(0, BESIDE))
    assert both["canvas"]["then"] == switched["canvas"]["now"] != switched["canvas"]["then"]


@pytest.mark.hostile
def test_a_stroke_is_quick_however_many_there_were(do):
    visitor, took = Visitor(NAME), []
    for i in range(MOST):
        mask = masks.disc(256, 0.5 + 0.004 * i, 0.3, 0.06)
        visitor, start = again(visitor), time.perf_counter()
        visitor = do.stroke(visitor, "tree", paint(i % 3, mask))["visitor"]
        took.append(time.perf_counter() - start)
    assert len(to_record(visitor)) < 600_000 and len(again(visitor).history.states) == MOST + 1
    assert sorted(took[-9:])[4] < 6 * sorted(took[3:12])[4]
    with pytest.raises(InputError, match="at most 100 strokes: make it a rule, or undo some"):
        do.stroke(visitor, "tree", paint(0, BESIDE))
    assert do.step(visitor, "undo")["strokes"]["count"] == MOST - 1


def test_strokes_survive_a_session_file_to_the_bit(do, painted):
    history = do.stroke(painted["visitor"], "door", paint(1, SKY))["visitor"].history
    back = History.from_bytes(history.to_bytes())
    assert [state.edit.digest for state in back.states] == [state.edit.digest for state in history.states]
    assert back.present.edit.strokes[0].place.digest == history.present.edit.strokes[0].place.digest
    assert json.dumps(back.present.edit.to_json()) == json.dumps(history.present.edit.to_json())


@pytest.mark.parametrize("change", [{"strength": 7.0}, {"layer": 4}, {"place": {"seed": 0, "mask": 9}}, {"units": []}])
def test_session_with_damaged_strokes_is_refused(painted, change):
    data = painted["visitor"].history.to_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:end])
    session = json.loads(head["__metadata__"]["session"])
    session["strokes"][0] |= change
    head["__metadata__"]["session"] = json.dumps(session)
    packed = json.dumps(head).encode()
    with pytest.raises(InputError):
        History.from_bytes(len(packed).to_bytes(8, "little") + packed + data[end:])


# --- why not ---


def test_a_tree_appears_and_a_door_in_the_sky_is_gone(do, painted):
    tree = do.why(painted["visitor"])["why"]
    door = do.stroke(Visitor(NAME), "door", paint(0, SKY))
    sky = do.why(door["visitor"])["why"]
    assert tree["appears"] and tree["words"].startswith("Tree: it appears") and len(tree["bars"]) > 3
    assert not sky["appears"] and "but" in sky["words"] and "-" not in sky["words"].split("(", 1)[1]
    assert sky["bars"][0]["share"] > 0.5 > sky["bars"][-1]["share"] and sky["bars"][-1]["layer"] == "picture"
    assert tree["key"] == painted["strokes"]["key"] != sky["key"] == door["strokes"]["key"]


@pytest.mark.evaluation
def test_what_is_removed_was_there_or_not_and_nothing_is_said_of_a_rule(do, ruled):
    there = WORLD.described([0]).where("tree")[0].float()
    for mask, words in ((there, "painted away"), (masks.disc(64, 0.1, 0.8, 0.05), "none of it here")):
        found = do.why(do.stroke(Visitor(NAME), "tree", paint(0, mask), True)["visitor"])["why"]
        assert words in found["words"] and found["bars"] == [] and found["appears"] == (words == "painted away")
    assert do.why(Visitor(NAME)) == {} and do.why(ruled["visitor"]) == {}


# --- make it a rule ---


def test_what_was_painted_becomes_a_rule_with_verdict_and_proof(do, painted, ruled):
    before, after = painted["bar"], ruled["bar"]
    assert before["kind"] == "paint" and before["can_execute"] and "Make it a rule" in before["next"]
    assert painted["slots"]["paste"]["seed"] == 0 and painted["slots"]["paste"]["image"] != painted["canvas"]["then"]
    assert after["verdict"] in ("took", "partly") and len(after["crops"]) == 3 and after["kind"] == "paint"
    assert ruled["slots"]["step"] == "done" and ruled["strokes"]["count"] == 0
    changed = [tile for tile in ruled["film"]["tiles"] if tile.get("changed")]
    assert len(changed) > 1  # not only the picture that was painted on
    undone = do.step(ruled["visitor"], "undo")
    assert tiles(undone) == tiles(painted) and undone["strokes"]["count"] == 1


def test_painting_after_a_rule_begins_another_one_in_one_step(do, ruled):
    more = do.stroke(ruled["visitor"], "tree", paint(1, BESIDE))
    assert len(more["rules"]["rules"]) == 1 and more["strokes"]["count"] == 1
    assert do.step(more["visitor"], "undo")["strokes"]["count"] == 0


def test_strokes_of_two_layers_are_painted_but_make_no_rule(do, painted):
    both = do.stroke(painted["visitor"], "door", paint(0, SKY))
    assert not both["bar"]["can_execute"] and "tree and door" in both["bar"]["next"]
    with pytest.raises(InputError, match="undo some strokes"):
        do.execute(both["visitor"])


def test_another_place_makes_the_edit_another_one(do, ruled):
    marked = do.mark(ruled["visitor"], "context", paint(7, BESIDE))
    assert "execute it again" in marked["bar"]["next"]


def test_a_link_holds_what_was_painted(do, painted):
    link = do.link(painted["visitor"])["link"]["text"]
    (edit,) = decode(link)
    assert edit.digest == painted["visitor"].history.present.edit.digest
    opened = do.work(Visitor(NAME), NAME, f"#edit={link}")
    assert opened["rules"]["rules"] == [] and opened["strokes"]["count"] == 1  # nobody made it a rule yet
    assert opened["visitor"].selected in opened["visitor"].seeds
    ruled = do.execute(opened["visitor"])["visitor"]
    again = do.work(Visitor(NAME), NAME, f"#edit={do.link(ruled)['link']['text']}")
    assert len(again["rules"]["rules"]) == 1 and again["strokes"]["count"] == 0


def test_marks_on_the_other_tab_put_the_painting_aside_and_undo_brings_it_back(do, painted):
    copied = do.mark(painted["visitor"], "copy", paint(3, BESIDE))
    assert copied["strokes"]["count"] == 0 and copied["canvas"]["now"] != painted["canvas"]["now"]
    assert tiles(do.step(copied["visitor"], "undo")) == tiles(painted)


def test_a_layer_without_places_can_be_painted_with_but_makes_no_rule(dcgan):
    session = Rewriter(dcgan)
    session.paint(Stroke("layer1", (0,), (1.0,), Region(7, square(4, 4, 12, 12))))
    assert "whole pictures" in view.why_no_rule(session, {"layer1"})
    session.paint(Stroke("layer2", (0,), (1.0,), Region(7, square(4, 4, 12, 12)), thing="hat"))
    assert "a rule of its own" in view.why_no_rule(session, {"layer1", "layer2"})


# --- units and their switches ---


@pytest.mark.evaluation
def test_units_come_with_figures_and_pictures_that_are_made_once(do, monkeypatch):
    shown = do.units(Visitor(NAME), "tree")["units"]
    rows = shown["rows"]
    assert shown["layer"] == "layer6" and [row["unit"] for row in rows] == shown["all"][: len(rows)]
    assert rows[0]["iou"] > 0.2 and all(row["auc"] > 0.9 for row in rows)
    urls = [url for row in rows for url in row["pictures"]]
    assert len({*urls}) == len(urls) == 4 * len(rows)
    monkeypatch.setattr("inside.gallery.strongest", None)
    assert do.units(Visitor(NAME), "tree")["units"] == shown


@pytest.mark.evaluation
def test_units_switched_off_are_one_rule_which_more_switches_change(do):
    tree = shipped.things(worlds.load())[0]
    first, second = tree.units[:2]
    off = do.switch(Visitor(NAME), "tree", "off", [first, second])
    (rule,) = rules(do, off["visitor"])
    assert rule.edit.form == "units" and "2 units of layer6 are off" in off["bar"]["next"]
    assert not off["bar"]["can_execute"] and "/255" in off["rules"]["rules"][0]["verdict"]
    on = do.switch(off["visitor"], "tree", "on", [first])
    (rule,) = rules(do, on["visitor"])
    levels = dict(zip(rule.edit.strokes[0].units, rule.edit.strokes[0].levels, strict=True))
    assert levels == {second: tree.off[1], first: tree.on[0]} and tiles(on) != tiles(off)
    more = do.stroke(on["visitor"], "tree", paint(0, BESIDE))["visitor"]  # another edit begins, and the rule stays
    everything = do.switch(more, "tree", "off", list(tree.units))
    (rule,) = rules(do, everything["visitor"])
    assert {*rule.edit.strokes[0].units} == {*tree.units}
    assert everything["strokes"]["switched"]["layer6"][f"{second}"] == tree.off[1]
    none = do.switch(everything["visitor"], "tree", "as made")
    assert none["rules"]["rules"] == [] and none["strokes"]["switched"] == {}
    assert tiles(do.step(none["visitor"], "undo")) == tiles(everything)
    assert tiles(do.step(everything["visitor"], "undo"))[3] == tiles(on)[3]


@pytest.mark.evaluation
def test_a_thing_is_switched_off_by_as_few_units_as_suffice_and_on_by_all(do):
    for thing in shipped.things(worlds.load())[:2]:
        (off,), (on,) = (rules(do, do.switch(Visitor(NAME), thing.name, level)["visitor"]) for level in ("off", "on"))
        assert off.edit.strokes[0].units == thing.units[: thing.few]
        assert on.edit.strokes[0].units == thing.units


@pytest.mark.evaluation
def test_switched_units_lie_beside_other_rules_and_reload_and_link(do, ruled):
    both = do.switch(ruled["visitor"], "light", "off")
    assert [rule["title"] for rule in both["rules"]["rules"]][1].startswith("no light: ")
    assert len(rules(do, again(both["visitor"]))) == 2
    opened = do.work(Visitor(NAME), NAME, f"#edit={do.link(both['visitor'])['link']['text']}")
    assert len(opened["rules"]["rules"]) == 2 and opened["bar"]["kind"] == "switch"
    settings = do.open(both["visitor"])["settings"]
    assert settings["form"] == "units" and settings["forms"][-1][1] == "units"


def test_switching_nothing_and_marking_after_a_switch(do):
    with pytest.raises(InputError, match="none of these units is switched"):
        do.switch(Visitor(NAME), "tree", "as made")
    off = do.switch(Visitor(NAME), "tree", "off")["visitor"]
    marked = do.mark(off, "context", paint(0, BESIDE))["visitor"].history.present
    assert marked.edit.kind == "replace" and len(marked.rules) == 1


# --- things of one's own ---


@pytest.mark.evaluation
def test_what_somebody_points_at_is_theirs_and_any_server_knows_it(do, pointed):
    assert [one["name"] for one in pointed["inside"]["things"]][-1] == "roof" and pointed["inside"]["room"] == OWN - 1
    visitor = again(pointed["visitor"])
    other = Inside(Shared((NAME,), device="cpu"))
    assert other.stroke(visitor, "roof", paint(3, SKY))["strokes"]["count"] == 1
    assert other.units(visitor, "roof")["units"]["rows"][0]["auc"] > 0.5
    with pytest.raises(InputError, match="no thing 'roof'"):
        other.stroke(Visitor(NAME), "roof", paint(3, SKY))
    left = other.forget(visitor, "roof")
    assert "roof" not in json.dumps(left["inside"]) and left["visitor"].things == ()
    with pytest.raises(InputError, match="only those can be removed"):
        other.forget(visitor, "tree")


@pytest.mark.evaluation
def test_pointing_can_be_cancelled_and_says_what_is_missing(do, pointed):
    place = paint(0, SKY)
    with pytest.raises(CancelledError):
        do.point(Visitor(NAME), "sky", [place], lambda *progress: False)
    for name, places, words in (
        ("tree", [place], "another name"),
        ("", [place], "a name first"),
        (7, [place], "one line"),
        ("x" * 41, [place], "one line"),
        ("sky", [], "one to 5 pictures"),
        ("sky", [paint(seed, SKY) for seed in range(6)], "one to 5 pictures"),
        ("sky", [place] * 40, "at most 10"),
        ("sky", "all", "a list"),
        ("sky", ["0:x"], "PNG"),
    ):
        with pytest.raises(InputError, match=words):
            do.point(Visitor(NAME), name, places)
    full = Visitor(NAME, things=pointed["visitor"].things * OWN)
    with pytest.raises(InputError, match="you have 8 things of your own"):
        do.point(full, "sky", [place])


@pytest.mark.hostile
def test_a_damaged_thing_is_dropped_with_a_word_and_the_rest_stays(do, painted, pointed):
    whole = json.loads(pointed["visitor"].things[0])
    huge = masks.encode(torch.ones(2000, 2000))
    for change in (
        {"layer": "layer99"},
        {"units": [900]},
        {"on": []},
        {"name": 3},
        {"marks": [{"seed": 0, "mask": huge}]},
    ):
        kept = json.dumps({**whole, "thing": {**whole["thing"], **change}})
        visitor = Visitor(NAME, works=painted["visitor"].works, things=("{", kept, pointed["visitor"].things[0]))
        start = time.perf_counter()
        shown = do.open(visitor)
        assert time.perf_counter() - start < 5 and "point at it again" in shown["trouble"]["message"]
        assert len(shown["visitor"].things) == 1 and shown["strokes"]["count"] == 1
        assert do.stroke(visitor, "roof", paint(0, SKY))["strokes"]["count"] == 2


@pytest.mark.parametrize("things", [["x"] * 9, ["x" * 60_000], "x", {"a": 1}, [7]], ids=str)
def test_a_record_with_too_many_or_too_large_things_is_refused(things):
    record = json.loads(to_record(Visitor(NAME)))
    with pytest.raises(InputError, match="things"):
        from_record(json.dumps({**record, "things": things}), ours=True)


# --- what is refused ---


@pytest.mark.hostile
def test_bad_steps_are_refused_and_nothing_is_lost(tab):
    tab.step("stroke", "tree", paint(0, BESIDE))
    record = tab.record
    for name, *args in (
        ("stroke", "car", paint(0, BESIDE)),
        ("stroke", {"a": 1}, paint(0, BESIDE)),
        ("stroke", "tree", None),
        ("stroke", "tree", "0:nonsense"),
        ("stroke", "tree", paint(0, torch.ones(3000, 2))),
        ("stroke", "tree", paint(0, BESIDE), "yes"),
        ("stroke", "tree", paint(0, BESIDE), False, 7),
        ("stroke", "tree", paint(0, BESIDE), False, None),
        ("stroke",),
        ("switch", "tree", "sideways"),
        ("switch", "tree", "off", [60_000]),
        ("switch", "tree", "off", [[]]),
        ("switch", "tree", "off", list(range(1000))),
        ("units", "car"),
        ("forget", ["x"]),
    ):
        shown = tab.step(name, *args)
        assert shown["trouble"]["message"] and tab.record == record
    assert tab.step("why")["why"]["appears"] and tab.step("open", {})["strokes"]["count"] == 1


def test_a_generator_without_things_says_so():
    name = str(DATA / "nvidia_stylegan2_16px_plain.pt")
    do = Inside(Shared((name,), device="cpu"))
    with pytest.raises(InputError, match="no things to paint with on this generator yet"):
        do.stroke(Visitor(name), "tree", paint(0, square(2, 2, 9, 9)))
    assert do.open(Visitor(name))["inside"]["things"] == []


@pytest.mark.evaluation
def test_a_script_paints_makes_a_rule_and_switches_units(page):
    client = Client(page.demo.local_url, verbose=False)
    things = client.predict(api_name="/things")
    assert things[0]["name"] == "tree" and things[0]["layer"] == "layer6" and len(things[0]["units"]) > 4
    before = client.predict("0", False, api_name="/pictures")
    painted = client.predict("tree", 0, masks.encode(BESIDE), False, 1.0, api_name="/stroke")
    assert "Make it a rule" in painted["next"] and painted["rules"] == []
    assert client.predict("0", False, api_name="/pictures") != before
    assert len(client.predict(api_name="/execute")["rules"]) == 1
    assert len(client.predict("light", "off", None, api_name="/switch_units")["rules"]) == 2
    with pytest.raises(AppError, match="mask is a PNG"):
        client.predict("sky", "everywhere", api_name="/point")
