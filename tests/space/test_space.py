"""The page without a browser: its handlers, the work queue, downloads, and the endpoints through a real client."""

import asyncio
import base64
import io
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
import yaml
from conftest import DATA, square
from gradio_client import Client, handle_file
from PIL import Image

from app import Page, main
from downloads import Downloads
from handlers import Handlers
from received import from_record, read_painted, to_record
from rewriter import Edit, Rewriter, Rule, load_edits, masks, save_edits, worlds
from rewriter.cache import default_folder
from rewriter.checkpoints.catalogue import catalogue
from rewriter.editing.effect import suggestion, verdict_in_words
from rewriter.editing.history import History, State
from rewriter.editing.statistics import Recipe
from rewriter.editing.stroke import with_units
from rewriter.errors import CancelledError, InputError
from rewriter.evaluation.benchmark import random_config_f
from rewriter.generators.latents import format_seeds
from rewriter.generators.origin import Origin
from rewriter.serving.fair import LONG, Job
from state import Shared, Visitor
from view import escape_markdown, generator_choices
from wall import wall
from work_queue import WorkQueue

SPACE = Path(__file__).parents[2] / "space"
SMALL = str(DATA / "nvidia_stylegan2_16px_plain.pt")  # executes an edit in a tenth of a second
THING, PLACE = square(4, 4, 12, 12), square(2, 6, 8, 12)


def paint(seed, mask):
    """What the painter sends."""
    return f"{seed}:{masks.encode(mask)}"


def new(**fields):
    return Visitor(generator=SMALL, **fields)


@pytest.fixture(scope="module")
def do():
    return Handlers(Shared((SMALL, "townscape"), device="cpu"))


@pytest.fixture(scope="module")
def marked(do):
    """Copied from picture 1, pasted on picture 0, which is the context too: can be executed."""
    visitor = new(selected=1)
    for what, painted in (("copy", paint(1, THING)), ("paste", paint(0, PLACE)), ("context", paint(0, PLACE))):
        visitor = do.mark(visitor, what, painted)["visitor"]
    return visitor


@pytest.fixture(scope="module")
def executed(do, marked):
    return do.execute(marked)["visitor"]


@pytest.fixture(scope="module")
def example(do):
    return do.example(Visitor(), "no-light-on-ground")


def show(do, visitor, *names):
    return do.view.show(visitor, do.shared.session(visitor), *names)


def is_original(film):
    return not any("other" in tile for tile in film["tiles"])


def film(do, visitor):
    return show(do, visitor, "film")["film"]


def slots(do, visitor):
    return show(do, visitor, "slots")["slots"]


def rules(do, visitor):
    return show(do, visitor, "rules")["rules"]["rules"]


def saved(shown, folder):
    """The downloaded file, written into a folder."""
    path = folder / shown["download"]["name"]
    path.write_bytes(base64.b64decode(shown["download"]["url"].partition(",")[2]))
    return path


def picture_at(url):
    """The picture that a data URL holds."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


# --- the edit and its rules ---


def test_wall_is_drawn_once_and_again_if_it_is_damaged(do):
    shared = Shared(("townscape",), device="cpu")
    first = wall(shared)
    assert [story["words"].split()[0] for story in first["stories"]] == ["Domes", "Lit"]
    assert all(
        story[k].startswith("data:image/webp;base64,") for story in first["stories"] for k in ("before", "after")
    )
    kept = sorted((default_folder() / "walls").glob("*.json"))
    kept[0].write_text('{"before": "data:image/webp;base64,); x: url(", "after": ""}')
    assert wall(shared) == first
    assert wall(Shared((SMALL,), device="cpu"))["stories"] == []


@pytest.mark.browser
def test_portraits_tell_of_smiles_first_and_of_hats_at_the_next_start(monkeypatch, tmp_path):
    monkeypatch.setattr("wall.NEW", 1)
    monkeypatch.setattr("wall.default_folder", lambda: tmp_path)
    shared = Shared(("portraits", "townscape"), device="cpu")
    assert [len(wall(shared)["stories"]) for _ in range(2)] == [1, 2]
    for story, opening in zip(wall(shared)["stories"], ("Frowns become smiles", "Hats for all"), strict=False):
        assert story["words"].startswith(opening)
        before, after = (np.asarray(picture_at(story[sheet]), dtype=float) for sheet in ("before", "after"))
        tiles = np.abs(after - before).reshape(3, 160, 8, 160, 3).max((1, 3, 4))
        assert (tiles > 60).sum() >= 20  # of 24 people are seen to change


def test_newcomer_to_portraits_is_shown_a_person_and_a_smile_to_copy():
    shared = Shared(("portraits", "townscape"), device="cpu")
    shown = Handlers(shared).first(shared.newcomer())
    smile = load_edits(worlds.examples("portraits")["frown-to-smile"])[0]
    assert shown["canvas"]["seed"] in shared.newcomer().seeds and shown["canvas"]["seed"] > 0
    assert [hint["seed"] for hint in shown["hints"]["hints"]] == [smile.copy.seed, smile.paste.seed]
    assert [thing["name"] for thing in shown["inside"]["things"]] == ["hat", "smile", "hair", "stamp"]
    cards = [*shared.cards()]
    assert cards[:3] == ["frown-to-smile", "hats-for-all", "add-glasses"] and cards.index("dome-to-spire") == 7


def test_page_says_what_to_do_next(do, marked, executed):
    opened, copied = do.open(new()), do.mark(new(), "copy", paint(1, THING))
    assert "copy a thing" in opened["bar"]["next"] and not opened["bar"]["can_execute"]
    assert "paste it" in copied["bar"]["next"] and (opened["slots"]["step"], copied["slots"]["step"]) == (
        "copy",
        "paste",
    )
    ready = show(do, marked, "bar", "slots")
    assert "Ready" in ready["bar"]["next"] and ready["bar"]["can_execute"] and marked.can_execute
    assert ready["slots"]["step"] == "context" and slots(do, executed)["step"] == "done" and not new().can_execute


def test_slots_hold_crops_and_outlines_of_what_is_marked(do, marked):
    held = slots(do, marked)
    assert held["copy"]["seed"] == 1 and held["paste"]["seed"] == 0 and [it["seed"] for it in held["context"]] == [0]
    assert [(it["kind"], it["seed"]) for it in held["marks"]] == [("copy", 1), ("paste", 0), ("context", 0)]
    assert torch.equal(masks.decode(held["marks"][0]["mask"]), THING)
    assert all(held[name]["image"].startswith("rewriter/pictures/") for name in ("copy", "paste"))
    assert (
        "context" not in do.unmark(marked, "context", 0)["slots"]
        or do.unmark(marked, "context", 0)["slots"]["context"] == []
    )
    kept = do.mark(marked, "keep", paint(3, THING))
    assert len(kept["slots"]["keep"]) == 1 and "keep" not in do.unmark(kept["visitor"], "keep", 0)["slots"]


def test_verdict_comes_with_its_proof_and_one_thing_to_try(do, executed):
    bar, (rule,) = show(do, executed, "bar")["bar"], executed.history.present.rules
    assert bar["verdict"] == rule.effect.verdict != "" and len(bar["crops"]) == 3 and len(bar["crops"][0]) == 3
    assert verdict_in_words(rule.effect)[1:] in bar["next"] and bool(bar["mend"]) == (suggestion(rule) is not None)
    assert any("solved in" in line for line in bar["details"]) and "Done" not in str(bar)
    changed = do.mark(executed, "context", paint(3, PLACE))
    assert "execute it again" in changed["bar"]["next"] and "verdict" not in changed["bar"]


def test_executing_changes_the_pictures_and_undo_restores_it_exactly(do, marked, executed):
    before, after, undone = film(do, marked), film(do, executed), do.step(executed, "undo")
    assert is_original(before) and not is_original(after)
    originals = [tile.get("other", tile["image"]) for tile in after["tiles"]]
    assert originals == [tile["image"] for tile in before["tiles"]]
    assert undone["film"] == before and undone["rules"]["rules"] == []
    assert do.step(undone["visitor"], "redo")["film"] == after


def test_pictures_are_shown_before_the_effect_is_measured(do, marked, executed):
    heard, marked = [], do.mark(marked, "context", paint(7, PLACE))["visitor"]
    do.execute(marked, lambda done, of, message, shown=None: heard.append((message, shown)) or True)
    message, shown = heard[-1]
    assert message.startswith("Looking") and not is_original(shown["film"])


def test_strength_zero_switched_off_removed_and_tried_give_the_original(do, executed):
    for step, *arguments in ("rule", "strength", 0, 0.0), ("rule", "switch", 0, False), ("step", "revert"):
        assert is_original(getattr(do, step)(executed, *arguments)["film"])
    tried = do.rule(executed, "try", 0, 0.0)
    assert is_original(tried["film"]) and "visitor" not in tried
    assert do.rule(executed, "strength", 0, 0.5)["rules"]["rules"][0]["strength"] == 0.5


def test_edits_of_a_file_are_executed_in_order_and_undone_in_one_step(do, executed, tmp_path):
    edit = executed.history.present.edit.with_(form="weight")
    save_edits([edit.with_(title="one"), edit.with_(title="two")], tmp_path / "two.json")
    loaded = do.load_file(new(), str(tmp_path / "two.json"))
    assert [rule["title"] for rule in loaded["rules"]["rules"]] == ["one", "two"]
    assert "match much the same places" in str(loaded["rules"]["remarks"])
    assert rules(do, do.step(loaded["visitor"], "undo")["visitor"]) == []
    moved = do.rule(loaded["visitor"], "move", 0, 1)
    assert [rule["title"] for rule in moved["rules"]["rules"]] == ["two", "one"]
    assert [rule["title"] for rule in do.rule(loaded["visitor"], "remove", 0)["rules"]["rules"]] == ["two"]


def test_example_fills_the_slots_and_executes(do, example):
    assert len(example["rules"]["rules"]) == 1 and len(example["slots"]["context"]) >= 8
    assert "then" in example["canvas"] and not is_original(example["film"])
    assert do.step(example["visitor"], "begin")["settings"]["layer"]["value"] == "layer8"  # not the example's
    assert rules(do, do.step(example["visitor"], "undo")["visitor"]) == []
    with pytest.raises(InputError, match="no-light-on-ground"):
        do.example(Visitor(), "nothing")


def test_second_copy_begins_another_rule_and_is_undone_in_one_step(do, executed):
    again = do.mark(executed, "copy", paint(3, PLACE))
    edit = again["visitor"].history.present.edit
    assert edit.paste is None and edit.context == () and len(again["rules"]["rules"]) == 1
    undone = do.step(again["visitor"], "undo")["visitor"].history.present
    assert (undone.edit, undone.made) == (executed.history.present.edit, executed.history.present.made)


def test_erasing_and_zeroing_need_no_copy(do):
    erased, context = (do.mark(new(), what, paint(0, PLACE))["visitor"] for what in ("erase", "context"))
    zeroed = do.step(context, "zero")["visitor"]
    assert erased.can_execute and zeroed.can_execute and rules(do, do.execute(zeroed)["visitor"])


def test_visitors_never_see_each_others_rules(do, executed):
    other = do.mark(new(), "copy", paint(3, PLACE))["visitor"]
    assert rules(do, executed) and rules(do, other) == [] and is_original(film(do, other))


def test_one_click_makes_one_session(do, marked, executed, monkeypatch, tmp_path):
    made, session = [], do.shared.session
    monkeypatch.setattr(do.shared, "session", lambda visitor: made.append(visitor) or session(visitor))
    file, painted = saved(do.save(executed, "session"), tmp_path), paint(1, THING)
    changing = ("open", executed), ("choose", marked, "townscape"), ("look", executed, True)
    editing = ("mark", executed, "copy", painted), ("set", executed, "rank", 2), ("find", executed, painted)
    for name, *arguments in (*changing, *editing, ("execute", marked), ("load_file", new(), str(file))):
        made.clear()
        getattr(do, name)(*arguments)
        assert len(made) == 1


# --- masks and settings ---


def test_mask_comes_with_the_seed_of_its_picture(do):
    mask, seed = read_painted(paint(5, THING))
    assert seed == 5 and torch.equal(mask, THING) and read_painted(masks.encode(THING))[1] is None
    assert do.mark(new(selected=9), "copy", paint(5, THING))["visitor"].history.present.edit.copy.seed == 5
    assert do.mark(new(selected=9), "copy", masks.encode(THING))["visitor"].history.present.edit.copy.seed == 9


@pytest.mark.parametrize(
    "bad",
    [
        *(None, "", "5:", 7, {"a": 1}, "5:x", "5" * 50, "https://example.org/mask.png"),
        *("123456789:" + masks.encode(THING), "0:data:image/jpeg;base64,AAAA", "0:data:image/png;base64,AAAA"),
        *("0:data:image/png;base64," + "A" * (5 << 20), paint(0, torch.zeros(8, 8)), paint(0, torch.ones(3000, 3))),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_mask_is_refused(do, bad):
    with pytest.raises(InputError, match="mask|painted|seeds"):
        do.mark(new(), "copy", bad)


def test_settings_belong_to_the_edit_and_iterative_methods_are_limited(do, marked):
    visitor = marked
    for name, value in {"smoothness": 3.0, "method": "direct", "title": "hat", "layer": "layer3"}.items():
        visitor = do.set(visitor, name, value)["visitor"]
    shown, faster = show(do, visitor, "settings"), do.set(visitor, "method", "least-squares")["visitor"]
    assert (shown["settings"]["smoothness"], shown["settings"]["title"], shown["settings"]["layer"]["value"]) == (
        3.0,
        "hat",
        "layer3",
    )
    assert (visitor.history.present.edit.steps, faster.history.present.edit.steps) == (500, None)
    assert do.set(visitor, "truncation", 0.5)["film"] != film(do, visitor)
    for name in ("generator", "statistics", "units"):
        with pytest.raises(InputError, match="choose one of"):
            do.set(visitor, name, 1)


def test_form_and_budget_are_settings_and_a_setting_by_hand_leaves_the_automatic_form(do, marked):
    shown = show(do, marked, "settings")["settings"]
    assert (shown["form"], shown["budget"]) == ("auto", 0)
    by_hand = do.set(marked, "rank", 2)
    assert (by_hand["settings"]["form"], by_hand["settings"]["rank"]) == ("weight", 2)
    gated = do.set(do.set(by_hand["visitor"], "form", "gated")["visitor"], "budget", 20.0)["visitor"]
    assert gated.history.present.edit.budget == 20.0
    assert do.set(gated, "budget", 0)["visitor"].history.present.edit.budget is None
    (rule,) = do.execute(gated)["rules"]["rules"]
    assert rule["verdict"].endswith("Gated by the context at layer4")
    assert rule["verdict"].startswith(("Took", "Partly", "Did not"))
    for name, value in (("form", "other"), ("budget", -1)):
        with pytest.raises(InputError, match=name):
            do.set(marked, name, value)


def test_every_layer_is_tried_and_one_is_chosen(do, marked):
    found = do.suggest(marked)["suggested"]["layers"]
    assert len(found) > 3 and all(each["words"].endswith("%") for each in found)
    best = found[0]["layer"]
    assert do.set(marked, "layer", best)["settings"]["layer"]["value"] == best
    with pytest.raises(CancelledError):
        do.suggest(marked, lambda *progress: False)


# --- choosing pictures and generators ---


def test_pictures_are_chosen_by_numbers_and_ranges(do):
    shown = do.browse(new(), "0-3, 40,97, 2 ")
    assert shown["visitor"].seeds == (0, 1, 2, 3, 40, 97) and shown["film"]["seeds"] == "0-3, 40, 97"
    assert do.more(shown["visitor"])["visitor"].seeds == tuple(range(98, 110))
    assert do.more(new(seeds=(99_995,)))["visitor"].seeds[0] == 0
    assert format_seeds(()) == "" and do.pick(new(), 7)["canvas"]["seed"] == 7


@pytest.mark.parametrize("text", ["", "x", "5-2", "0-100", "100000", "-1", "1e9", "9" * 50])
def test_bad_picture_numbers_are_refused(do, text):
    with pytest.raises(InputError, match="seeds"):
        do.browse(new(), text)


def test_matches_are_marked_in_the_pictures(do, marked):
    shown = do.look(marked, True)
    assert all(tile["match"] != tile["image"] for tile in shown["film"]["tiles"]) and "match" in shown["canvas"]
    assert "bright edge" in shown["film"]["note"] and not do.look(shown["visitor"], False)["visitor"].matches
    early = do.look(new(), True)
    assert "mark a place" in early["film"]["note"] and "match" not in early["canvas"]
    assert "match" in do.mark(early["visitor"], "context", paint(0, PLACE))["film"]["tiles"][0]
    tiny = do.mark(early["visitor"], "context", paint(0, masks.disc(256, 0.1, 0.1, 0.005)))
    assert "No matches" in tiny["film"]["note"]


def test_similar_pictures_are_found_by_context_or_by_painting(do, marked):
    by_context, by_painting = do.find(marked), do.find(replace(marked, selected=0), paint(0, PLACE))
    assert len(by_context["visitor"].seeds) == 12 and by_context["visitor"].seeds == by_painting["visitor"].seeds
    assert by_painting["visitor"].works == marked.works  # painting for a search adds no context
    with pytest.raises(InputError, match="paint on a picture"):
        do.find(new())


def test_each_generator_has_work_of_its_own(do, executed):
    shown = do.choose(executed, "townscape")
    assert "64 × 64" in shown["about"]["licence"] and shown["rules"]["rules"] == []
    assert len(do.choose(shown["visitor"], SMALL)["rules"]["rules"]) == 1
    with pytest.raises(InputError, match="choose one of"):
        do.choose(executed, "/etc/passwd")


def test_board_shows_fewer_pictures_of_a_slow_generator(do):
    slow = random_config_f(64)
    slow.layers = {**slow.layers, "more": replace(slow.layers["layer10"], in_channels=10**5)}
    assert do.shared.page_size(slow) == 4 and do.shared.page_size(do.shared.model(SMALL)) == 12


# --- files, reloads and links ---


def test_saved_work_loads_to_the_same_pictures(do, executed, tmp_path):
    edit, session, rule = (saved(do.save(executed, what), tmp_path) for what in ("edit", "session", "rule"))
    for file in (edit, session, rule):
        loaded = do.load_file(new(), str(file))["visitor"]
        assert film(do, replace(loaded, seeds=executed.seeds, selected=1)) == film(do, executed)
    assert edit.name == "rule-at-layer4.json" and load_edits(edit)[0].copy.seed == 1
    assert rule.name == "rule-at-layer4.rule.safetensors" and Rule.load(rule).layer == "layer4"
    unfinished = do.mark(new(), "copy", paint(1, THING))["visitor"]
    assert "paste it" in do.load_file(new(), str(saved(do.save(unfinished, "edit"), tmp_path)))["bar"]["next"]


def test_pictures_are_saved_as_sheet_and_animation(do, executed, tmp_path):
    for what, kind, frames in (("sheet", "PNG", 1), ("animation", "WEBP", 20)):
        with Image.open(saved(do.save(executed, what), tmp_path)) as image:
            assert image.format == kind and getattr(image, "n_frames", 1) >= frames


def test_file_names_are_harmless(do, marked):
    titled = do.execute(do.set(marked, "title", "../../etc/<b>passwd</b> …")["visitor"])["visitor"]
    assert do.save(titled, "rule")["download"]["name"] == "etc-b-passwd-b.rule.safetensors"


def test_recording_of_the_original_implementation_loads(do, tmp_path):
    whole = masks.encode(torch.ones(16, 16))
    (tmp_path / "all.json").write_text(json.dumps({"object": [1, whole], "paste": [0, whole], "key": [[0, whole]]}))
    shown = do.load_file(new(selected=3), str(tmp_path / "all.json"))
    assert shown["rules"]["rules"][0]["title"] == "all" and shown["settings"]["layer"]["value"] == "layer4"


def reloaded(visitor, *, ours=True):
    """The visitor after a reload."""
    return from_record(to_record(visitor), ours=ours)


def test_recorded_unit_interventions_load_and_say_that_their_units_are_missing(do, tmp_path):
    session = do.shared.session(new())
    mask = masks.encode(masks.disc(64, 0.4, 0.4, 0.2))
    path = tmp_path / "windows.json"
    path.write_text(json.dumps({str(n): {"value": "-5.0", "intervention": mask, "revert": mask} for n in (3, 5)}))
    loaded = do.load_file(new(), str(path))
    assert "choose its units: rewriter apply with --units" in loaded["bar"]["next"]
    assert not loaded["bar"]["can_execute"] and len(loaded["slots"]["context"]) == 2
    edit = Edit.load(path)
    edit = edit.with_(layer="layer5", strokes=with_units(session.generator, edit.strokes, (0, 1, 2)))
    edit.save(path)
    run = do.load_file(new(), str(path))
    assert "of the way to how the other condition looks" in run["bar"]["verdict"] + run["bar"]["next"]
    assert len(rules(do, run["visitor"])) == 1 and len(run["bar"]["crops"]) == 3


def test_work_survives_a_reload(do, executed):
    shown = do.open(reloaded(executed))
    assert shown["film"] == film(do, executed) and shown["rules"] == show(do, executed, "rules")["rules"]
    assert do.step(shown["visitor"], "undo")["rules"]["rules"] == []  # with the steps to undo
    assert reloaded(replace(executed, works={})) == new(selected=executed.selected)
    elsewhere = reloaded(do.choose(executed, "townscape")["visitor"])
    assert set(elsewhere.works) == {SMALL} and elsewhere.generator == "townscape"
    gone = do.open(replace(elsewhere, generator="gone"))
    assert gone["visitor"].generator == SMALL and "choose it again" in gone["trouble"]["message"]
    assert pickle.loads(pickle.dumps(executed)) == executed and len(to_record(executed)) < 20_000


def test_work_that_is_too_large_for_the_browser_is_kept_as_its_edits(do, executed, monkeypatch):
    assert "kept" not in show(do, executed, "kept")
    monkeypatch.setattr("view.KEPT_BYTES", 100)
    kept = from_record(show(do, executed, "kept")["kept"], ours=False)
    assert kept.works == {} and 0 < len(kept.again) < 8000
    opened = do.open(kept)
    again = do.work(opened["visitor"], SMALL, opened["pending"]["wanted"])
    assert again["rules"] == show(do, executed, "rules")["rules"]


def test_work_beyond_what_a_page_keeps_loses_its_oldest_steps(do, executed, monkeypatch):
    most = len(executed.works[SMALL]) + 2000
    monkeypatch.setattr("state.WORK_BYTES", most)
    visitor = executed
    for strength in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9) * 12:
        visitor = do.rule(visitor, "strength", 0, strength)["visitor"]
        assert len(visitor.works[SMALL]) <= most
    assert rules(do, visitor)[0]["strength"] == 0.9 and 2 <= len(visitor.history.states) < 100
    monkeypatch.setattr("state.WORK_BYTES", 100)
    with pytest.raises(InputError, match="remove some"):
        do.rule(executed, "strength", 0, 0.5)


KEPT = {"generator": "townscape", "seeds": "0-3", "selected": "0", "link": "", "works": {}}
DAMAGED = (7, [], {}, None, {**KEPT, "works": []}, {**KEPT, "seeds": "-3"}, {**KEPT, "seeds": ["0"]})


@pytest.mark.parametrize("kept", [*DAMAGED, *({**KEPT, "works": {"townscape": it}} for it in ("ÄÖ", 7, "AAA"))])
def test_damaged_record_is_refused(kept):
    for text in (json.dumps(kept), json.dumps(kept)[:-3], "[" * 10_000):
        with pytest.raises(InputError, match="cannot be restored"):
            from_record(text, ours=True)


def test_work_that_cannot_be_read_is_dropped_with_a_message(do, executed):
    for work in (b"", b"x" * 100, executed.works[SMALL][:-5]):
        shown = do.open(replace(executed, works={SMALL: work}))
        assert shown["visitor"].works == {} and "cannot be restored" in shown["trouble"]["message"]


def test_records_of_strangers_hold_less(executed):
    many = {**KEPT, "works": {f"{n}": "" for n in range(33)}}
    large = {**KEPT, "works": {"townscape": "AAAA" * (1 << 20)}}
    for kept in (many, large):
        with pytest.raises(InputError, match="cannot be restored"):
            from_record(json.dumps(kept), ours=False)
    assert from_record(json.dumps(large), ours=True).works["townscape"] == bytes(3 << 20)
    assert reloaded(executed, ours=False) == executed


@pytest.mark.parametrize("name", [3, None, ["townscape"], "<img src=x>"])
def test_unknown_generator_in_a_record_is_ignored(do, name):
    shown = do.open(from_record(json.dumps({**KEPT, "generator": name}), ours=False))
    assert shown["visitor"].generator == SMALL


def test_more_rules_than_a_page_draws_with_are_refused(do, executed):
    state = executed.history.present
    many = History((State(state.edit, state.rules * 17),))
    with pytest.raises(InputError, match="at most 16 rules"):
        new().with_history(many)
    opened = do.open(replace(executed, works={SMALL: many.to_bytes()}))
    assert opened["visitor"].works == {} and "at most 16 rules" in opened["trouble"]["message"]


def test_edit_that_would_block_the_queue_is_refused(do, marked, tmp_path):
    edit = marked.history.present.edit
    for slow in (edit.with_(statistics=Recipe(50_000, 16, 0)), edit.with_(method="direct", steps=50_000)):
        slow.save(tmp_path / "slow.json")
        History((State(slow),)).save(tmp_path / "slow.safetensors")
        for name in ("slow.json", "slow.safetensors"):
            with pytest.raises(InputError, match="rewriter apply"):
                do.load_file(new(), str(tmp_path / name))


def test_loaded_session_is_undone_to_the_work_before(do, executed, tmp_path):
    file = saved(do.save(executed, "session"), tmp_path)
    own = do.rule(executed, "strength", 0, 0.5)["visitor"]
    loaded = do.load_file(own, str(file))["visitor"]
    assert rules(do, loaded)[0]["strength"] == 1 and do.step(loaded, "undo")["rules"]["rules"] == rules(do, own)


def test_link_opens_an_example_once(do, example):
    asked = {"link": {"edit": "no-light-on-ground"}}
    assert do.open(Visitor(), asked)["pending"]["wanted"] == "no-light-on-ground"
    opened = reloaded(replace(example["visitor"], link="no-light-on-ground"))
    assert do.open(opened, asked)["pending"]["wanted"] == ""  # the page was reloaded
    assert do.open(opened, {"link": {"edit": "add-tree"}})["pending"]["wanted"] == "add-tree"


def test_link_opens_a_picture(do):
    shown = do.open(Visitor(), {"link": {"seed": "40"}})
    assert shown["visitor"].selected == 40 and shown["visitor"].seeds == tuple(range(36, 48))


@pytest.mark.parametrize(
    ("link", "said"),
    [
        *((({"edit": text}), "no-light-on-ground") for text in ("../x", "nonsense", "<b>x</b>")),
        *(({"seed": text}, "There is no picture") for text in ("abc", "-1", "9" * 40, "0-3")),
        ({"edit": "dome-to-spier"}, "did you mean dome-to-spire"),
        ({"model": "<b>x</b>"}, "?model=USER/NAME"),
        ({"work": "#edit=nonsense"}, "cannot be opened"),
    ],
)
def test_link_to_nothing_says_so_and_what_there_is(do, link, said):
    shown = do.open(Visitor(), {"hash": link["work"]} if "work" in link else {"link": link})
    assert shown["visitor"] == Visitor() and shown["pending"]["wanted"] == "" and said in shown["trouble"]["message"]


def test_link_holds_the_whole_edit(do, executed):
    text = do.link(executed)["link"]["text"]
    opened = do.work(Visitor(), SMALL, f"#edit={text}")
    assert (
        film(do, opened["visitor"])["tiles"][0]
        == film(do, replace(executed, seeds=opened["visitor"].seeds))["tiles"][0]
    )
    assert len(text) < 8000 and opened["rules"]["rules"] == show(do, executed, "rules")["rules"]["rules"]


def test_work_that_is_too_long_for_a_link_is_a_file(do, marked, monkeypatch):
    monkeypatch.setattr("handlers.links.MOST", 10)
    shown = do.link(marked)
    assert "text" not in shown["link"] and shown["download"]["name"].endswith(".json")


@pytest.mark.browser
def test_cards_in_a_row_leave_one_rule_and_on_top_is_a_choice(do):
    visitor = Visitor()
    for name in ("no-light-on-ground", "dome-to-spire", "no-light-on-ground"):
        visitor = do.example(visitor, name)["visitor"]
    last = do.example(visitor, "dome-to-spire")
    assert [rule["title"] for rule in last["rules"]["rules"]] == ["dome to spire"]
    assert rules(do, do.step(last["visitor"], "undo")["visitor"]) == rules(do, visitor)
    added = do.example(last["visitor"], "no-light-on-ground", on_top=True)
    assert len(added["rules"]["rules"]) == 2


def test_removing_all_rules_starts_again_without_the_old_marks(do, example):
    removed = do.step(example["visitor"], "revert")
    erased = do.mark(removed["visitor"], "erase", paint(8, square(12, 4, 14, 60, 64)))["visitor"]
    assert removed["rules"]["rules"] == [] and erased.history.present.edit.context == ()
    assert len(do.step(removed["visitor"], "undo")["rules"]["rules"]) == 1


def test_the_machine_chooses_in_the_background_and_executing_takes_what_it_chose(do, monkeypatch):
    visitor = new(selected=1)
    for what, painted in (("copy", paint(1, THING)), ("paste", paint(0, PLACE)), ("context", paint(5, PLACE))):
        shown = do.mark(visitor, what, painted)
        visitor = shown["visitor"]
    heard = []
    prepared = do.prepare(visitor, lambda done, of, message, shown=None: heard.append(shown) or True)
    assert shown["slots"]["key"] == prepared["chosen"]["key"] and "The machine chose" in prepared["chosen"]["words"]
    assert "visitor" not in prepared and slots(do, visitor)["chosen"] == prepared["chosen"]["words"]
    monkeypatch.setattr("rewriter.editing.session.execute", lambda *_, **__: pytest.fail("solved again"))
    assert len(do.execute(visitor)["rules"]["rules"]) == 1
    (found,) = [shown["found"] for shown in heard if shown and shown.get("found")]
    assert found["key"] == slots(do, visitor)["found_key"] and 0 < len(found["places"]) <= 6
    place = found["places"][0]["place"]
    taken = do.accept(visitor, place)
    assert taken["slots"]["context"][-1]["seed"] == place[0] and taken["visitor"].history.present.edit.found
    assert not do.reject(taken["visitor"], place)["visitor"].history.present.edit.found
    for bad in (None, [], [0, 1, 2, "x"], ["0", 1, 2, "person"]):
        with pytest.raises(InputError):
            do.accept(visitor, bad)


def test_unusable_file_is_refused(do, marked, tmp_path):
    edit = marked.history.present.edit
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 64)
    (tmp_path / "foreign.json").write_text(json.dumps({**edit.to_json(), "fingerprint": "0" * 64}))
    Rewriter(do.shared.model("townscape")).save(tmp_path / "foreign.safetensors")
    for name in ("damaged.json", "damaged.safetensors", "foreign.json", "foreign.safetensors", "none.json"):
        with pytest.raises(InputError, match="made on" if "foreign" in name else name):
            do.load_file(new(), str(tmp_path / name))


def test_impossible_step_is_refused(do, marked, executed):
    strengths = [("rule", executed, "strength", *values) for values in ((0, 5.0), (0, "x"), (3, 1.0), ("x", 1.0))]
    places = [("unmark", marked, "context", 7), ("unmark", marked, "context", "x")]
    names = [("mark", marked, "explode", paint(0, THING)), ("step", executed, "explode"), ("set", executed, None, 1)]
    names += [("rule", executed, "explode", 0), ("save", executed, "explode"), ("save", executed, "rule", 7)]
    early = [("step", new(), "undo"), ("execute", new()), ("save", executed, "rule", None)]
    for handler, *arguments in strengths + places + names + early:
        with pytest.raises(InputError):
            getattr(do, handler)(*arguments)


def test_text_from_strangers_is_escaped():
    text = "[a](b) <i> *c* ![d](e)"
    assert escape_markdown(text) == "".join(f"&#{ord(c)};" if c in "[]()<>*!" else c for c in text)


# --- the work queue ---


class Steps:
    """Handlers whose work goes on until it is cancelled."""

    shared = None

    def __init__(self):
        self.running, self.most, self.threads, self.ended = 0, 0, set(), threading.Event()

    def work(self, visitor, notify):
        while notify(0, 1, "Working"):
            self.ended.wait(0.001)
        self.ended.set()
        return {}

    def quick(self, visitor):
        self.running += 1
        self.threads.add(threading.get_ident())
        self.most = max(self.most, self.running)
        self.ended.wait(0.005)
        self.running -= 1
        return {}

    def fail(self, visitor):
        raise RuntimeError("CUDA out of memory at 0x7f")


def test_a_click_does_not_wait_for_long_work():
    steps = Steps()
    queue = WorkQueue(steps)
    running = queue.follow("work", Visitor())
    assert next(running)[1] == "Working" and queue.call("quick", Visitor()) == {}
    running.close()


def test_clicks_are_answered_one_at_a_time_in_one_thread():
    steps = Steps()
    queue = WorkQueue(steps)
    callers = [threading.Thread(target=queue.call, args=("quick", Visitor())) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(steps.threads) == steps.most == 1


def test_progress_comes_before_the_result_and_errors_are_messages(do, marked):
    *progress, shown = WorkQueue(do).follow("execute", marked)
    assert len(shown["rules"]["rules"]) == 1
    assert any(isinstance(one, tuple) and one[1] == "Trying forms and layers" for one in progress)
    with pytest.raises(gr.Error, match="copy a thing") as caught:
        list(WorkQueue(do).follow("execute", new()))
    assert caught.value.print_exception is False


def test_closing_the_iterator_cancels_the_work_and_frees_the_queue():
    steps = Steps()
    queue = WorkQueue(steps)
    first, second = queue.follow("work", Visitor()), queue.follow("work", Visitor())
    assert next(first)[1] == "Working" and next(second)[1] == "Working"
    second.close()
    first.close()
    assert steps.ended.wait(10) and queue.call("quick", Visitor()) == {}


def test_unexpected_error_is_logged_and_shown_without_details(caplog):
    with pytest.raises(gr.Error, match="something went wrong") as caught:
        WorkQueue(Steps()).call("fail", Visitor())
    assert "CUDA" not in str(caught.value) and "CUDA out of memory" in caplog.text


def test_error_messages_escape_html_and_hide_folders(do, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"version": 1, "generator": "", "layer": "a", "<img src=x>": 1}))
    with pytest.raises(gr.Error, match="&lt;img src=x&gt;") as caught:
        list(WorkQueue(do).follow("load_file", Visitor(), str(tmp_path / "bad.json")))
    assert str(tmp_path) not in str(caught.value)


def test_work_over_the_time_limit_is_cancelled_with_a_message(do, marked, monkeypatch):
    monkeypatch.setattr("work_queue.LONG_SECONDS", 0)
    with pytest.raises(gr.Error, match="took too long"):
        list(WorkQueue(do).follow("execute", marked))


def _in_a_fork(do, results, data):
    torch.set_num_threads(1)
    name, arguments = pickle.loads(data)
    results.put(pickle.dumps(getattr(do, name)(*arguments)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking a process that has threads, as ZeroGPU does
def test_forked_worker_gives_the_same_result(do, marked, executed):
    """As on ZeroGPU: arguments and results are pickled."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    for name, arguments in (("execute", (marked,)), ("rule", (executed, "strength", 0, 0.5))):
        worker = fork.Process(target=_in_a_fork, args=(do, results, pickle.dumps((name, arguments))))
        worker.start()
        shown = pickle.loads(results.get())
        worker.join()
        expected = getattr(do, name)(*arguments)
        assert shown["film"] == expected["film"]
        assert len(shown["visitor"].history.states) == len(expected["visitor"].history.states)


def test_on_zero_gpu_built_in_worlds_cost_no_seconds_and_others_ask_for_what_they_need(do, marked, monkeypatch):
    """With a stand-in for the `spaces` package, which calls the function in this process."""
    asked = []

    def gpu(task, duration):
        def run(*arguments):
            asked.append((arguments[0], duration(*arguments)))
            return task(*arguments)

        return run

    monkeypatch.setattr("work_queue.GPU", gpu)
    monkeypatch.setattr("work_queue.ZERO_GPU", True)
    shared = Shared((SMALL, "townscape"), device="cpu")
    queue = WorkQueue(Handlers(shared))
    queue.call("browse", Visitor("townscape"), "0-3")
    assert asked == [] and not shared.background and shared.model("townscape").device.type == "cpu"
    *progress, shown = queue.follow("execute", marked)
    assert asked == [("execute", 10)] and len(shown["rules"]["rules"]) == 1 and any(progress)
    for _ in range(30):
        queue.pool.estimates.learn(Job("suggest", (), print, LONG, about=SMALL), 20.0)
    queue.call("pick", marked, 3)
    with closing(queue.follow("suggest", marked)) as following:
        next(following)
    assert asked[1] == ("pick", 10) and 35 < asked[2][1] <= 40
    with pytest.raises(gr.Error, match="copy a thing"):
        queue.call("execute", new())


# --- the server and its endpoints ---


@pytest.mark.browser
def test_port_that_is_taken_and_missing_files_are_errors_with_a_next_step(url):
    with pytest.raises(InputError, match="choose another port"):
        main(server_name="127.0.0.1", server_port=int(url.rstrip("/").rpartition(":")[2]))
    with pytest.raises(InputError, match="none.pt"):
        main(["none.pt"])


def test_requirements_are_those_of_the_package_without_gradio():
    """The Space's card pins Gradio, and ZeroGPU has torch 2.8 to 2.11; all else must agree with the package."""
    package = tomllib.loads((SPACE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {line for line in package["project"]["dependencies"] if not line.startswith("gradio")}
    given = set((SPACE / "requirements.txt").read_text(encoding="utf-8").split())
    assert {line.replace("<2.12", "<2.14") for line in given} == wanted and "torch>=2.8,<2.12" in given


def test_files_preloaded_by_the_space_are_in_the_catalogue():
    card = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    known = {(e.repository, e.file, e.revision): e for e in catalogue().values()}
    for line in card["preload_from_hub"]:
        repository, files, revision = line.split(" ")
        assert repository in card["models"]
        assert all(known[repository, file, revision].sha256 for file in files.split(","))


@pytest.fixture(scope="module")
def page(do):
    """The page with its MCP server."""
    page = Page(do.shared)
    page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", mcp_server=True)
    yield page
    page.close()


@pytest.fixture
def url(page):
    return page.demo.local_url


@pytest.fixture
def client(url):
    """A script that works on the small generator."""
    client = Client(url, verbose=False)
    client.predict(SMALL, api_name="/generator")
    return client


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_script_does_a_whole_edit_and_loads_another(client, marked, tmp_path):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    steps = {"copy", "paste", "context", "keep", "erase", "forget_context", "undo", "redo", "new_rule"}
    steps |= {"remove_all_rules", "execute", "change_rule", "things", "point", "stroke", "switch_units"}
    others = {"generator", "pictures", "matches", "preview", "setting", "example", "find", "layers", "save", "load"}
    assert set(endpoints) == {f"/{name}" for name in steps | others}
    sample = endpoints["/copy"]["parameters"][1]["example_input"]
    assert masks.decode(sample).shape == (16, 16)
    assert [p["parameter_name"] for p in endpoints["/copy"]["parameters"]] == ["seed", "mask"]
    for bad in ("data:image/png;base64,AAAA", masks.encode(torch.zeros(8, 8)), "", None, 7, {"a": 1}):
        with pytest.raises(Exception, match="mask|painted"):
            client.predict(0, bad, api_name="/copy")
    assert "paste it" in client.predict(1, masks.encode(THING), api_name="/copy")["next"]
    for name in ("/paste", "/context"):
        said = client.predict(0, masks.encode(PLACE), api_name=name)
    assert "Ready" in said["next"]
    assert set(client.predict(api_name="/preview")) == {"before", "wanted"}
    (rule,) = client.predict(api_name="/execute")["rules"]
    assert rule["strength"] == 1.0 and set(client.predict("0-3", api_name="/matches")) == {"0", "1", "2", "3"}
    now, before = (client.predict("0-3", original, api_name="/pictures") for original in (False, True))
    assert list(now) == ["0", "1", "2", "3"] and now["0"] != before["0"]
    client.predict(0, "strength", 0.0, api_name="/change_rule")
    assert client.predict("0-3", False, api_name="/pictures") == before
    file = client.predict("edit", 0, api_name="/save")
    assert file["name"] == "rule-at-layer4.json" and file["url"].startswith("data:application/json;base64,")
    assert client.predict(api_name="/undo")["rules"][0]["strength"] == 1.0
    assert len(client.predict(api_name="/find")) == 12 and client.predict("title", "dark", api_name="/setting")["rules"]
    marked.history.present.edit.with_(title="hat").save(tmp_path / "hat.json")
    assert client.predict(handle_file(tmp_path / "hat.json"), api_name="/load")["rules"][1]["title"] == "hat"


@pytest.mark.filterwarnings("ignore")
def test_script_of_the_readme_runs(url):
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    (code,) = [part for part in text.split("```")[1::2] if "gradio_client" in part]
    names = {}
    exec(code.removeprefix("python").replace("http://127.0.0.1:7860", url), names)
    assert len(names["pictures"]) == 12 and names["pictures"]["0"].startswith("data:image/png")


@pytest.mark.filterwarnings("ignore")
def test_agent_does_a_whole_edit_over_mcp(url):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def edit():
        async with streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                tools = {tool.name: tool.description for tool in (await session.list_tools()).tools}
                await session.call_tool("generator", {"name": SMALL})
                await session.call_tool("copy", {"seed": 1, "mask": masks.encode(THING)})
                await session.call_tool("paste", {"seed": 0, "mask": masks.encode(PLACE)})
                return tools, (await session.call_tool("execute", {})).content[0].text

    tools, said = asyncio.run(edit())
    assert {"copy", "paste", "context", "execute", "undo", "change_rule", "save"} <= set(tools) and all(tools.values())
    assert '"strength": 1.0' in said or "'strength': 1.0" in said


@pytest.mark.filterwarnings("ignore")
def test_executing_twice_at_once_makes_one_rule(client):
    client.predict(1, masks.encode(THING), api_name="/copy")
    client.predict(0, masks.encode(PLACE), api_name="/paste")
    jobs = [client.submit(api_name="/execute") for _ in range(2)]
    assert [len(job.result()["rules"]) for job in jobs] == [1, 1]


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_work_of_a_script_ends_when_it_is_cancelled_or_has_gone(page, url, client, monkeypatch):
    running = threading.Event()

    def ends(event):
        """Whether it is cleared within two seconds."""
        end = time.monotonic() + 2
        while event.is_set() and time.monotonic() < end:
            time.sleep(0.02)
        return not event.is_set()

    def suggest(visitor, notify=None):
        running.set()
        while notify(0, 1, "Trying"):
            time.sleep(0.01)
        running.clear()
        return {}

    monkeypatch.setattr(page.queue._work._handlers, "suggest", suggest)
    job = client.submit(api_name="/layers")
    assert running.wait(10)
    job.cancel()
    assert ends(running)
    code = f"from gradio_client import Client; Client({url!r}, verbose=False).predict(api_name='/layers')"
    for listened in (0.0, 1.0):  # at once, perhaps before it listens to the answer, and later
        script = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        assert running.wait(30)
        time.sleep(listened)
        script.kill()
        assert ends(running)
    for listens in (False, True):  # by plain requests
        event = httpx.post(f"{url}gradio_api/call/layers", json={"data": []}).json()["event_id"]
        assert running.wait(10)
        if listens:
            with httpx.stream("GET", f"{url}gradio_api/call/layers/{event}"):
                time.sleep(2.5)
                assert running.is_set()
        assert ends(running)


# --- downloads ---


class Gate:
    """A source that downloads one of four megabytes whenever the test allows it."""

    name, origin = "small", Origin(title="Small things")

    def __init__(self):
        self.allowed, self.fetched, self.ended = threading.Semaphore(0), 0, threading.Event()

    def fetch(self, on_step):
        self.fetched += 1
        try:
            for megabytes in range(5):
                if on_step(megabytes * 10**6, 4 * 10**6) is False:
                    raise CancelledError("cancelled")
                assert self.allowed.acquire(timeout=20)
        finally:
            self.ended.set()
        return self


def test_download_reports_each_part_and_returns_its_source():
    gate, heard = Gate(), []
    progress = Downloads().follow(gate)
    with pytest.raises(StopIteration) as ended:
        while True:
            share, message = next(progress)
            if (share, message) not in heard and message.endswith("of 4 MB"):
                heard.append((share, message))
                gate.allowed.release()
    assert ended.value.value is gate
    assert heard == [(part / 4, f"Downloading Small things: {part} of 4 MB") for part in range(5)]


def test_download_is_shared_and_cancelled_when_the_last_visitor_leaves():
    gate, downloads = Gate(), Downloads()
    first, second = downloads.follow(gate), downloads.follow(gate)
    next(first), next(second)
    first.close()
    gate.allowed.release()
    assert any(share > 0 for share, _ in second) and gate.fetched == 1 and not gate.ended.is_set()
    second.close()
    gate.allowed.release()
    assert gate.ended.wait(20)


def choose(queue, visitor, name):
    """What the page does: download, then draw."""
    yield from queue.fetch(name)
    yield from queue.follow("choose", visitor, name)


def offering(*names):
    return WorkQueue(Handlers(Shared((SMALL, *names), device="cpu")))


def test_chosen_generator_is_downloaded_once_and_drawn_with_its_licence(shelf, marked):
    queue = offering("small")
    assert dict(map(reversed, generator_choices(queue.shared)))["small"] == "Small things, 16 px ↓ 5 MB"
    *progress, shown = choose(queue, marked, "small")
    assert progress[0][1].startswith("Downloading Small things")
    assert shown["visitor"].generator == "small" and len(shown["film"]["tiles"]) == 12
    assert shown["about"]["generators"][1] == ("Small things, 16 px", "small")
    assert "cc-by-4.0 · Ada <ada@example.org>" in shown["about"]["licence"]
    layers = dict(map(reversed, shown["settings"]["layer"]["choices"]))
    assert shown["settings"]["layer"]["value"] == "layer4" and "start here" in layers["layer4"]
    assert History.from_bytes(shown["visitor"].works[SMALL]).present.edit.copy.seed == 1
    shelf.requests.clear()
    *_, again = choose(queue, replace(shown["visitor"], generator=SMALL), "small")
    assert again["film"] == shown["film"] and shelf.requests == []


def test_cancelled_download_can_be_started_again_and_others_work_meanwhile(shelf, marked):
    queue = offering("small")
    shelf.pause = 0.05
    progress = choose(queue, new(), "small")
    while next(progress)[0] < 0.2:
        pass
    *_, executed = queue.follow("execute", marked)
    progress.close()
    assert len(executed["rules"]["rules"]) == 1
    shelf.pause = 0
    *_, shown = choose(queue, new(), "small")
    assert shown["visitor"].generator == "small"


@pytest.mark.parametrize("fault", [404, 503, "cut"])
def test_failed_download_says_why_and_the_page_goes_on(shelf, marked, fault, monkeypatch):
    monkeypatch.setattr("rewriter.checkpoints.download.PAUSE", 0)
    queue, shelf.fault = offering("small"), lambda n, request: fault
    with pytest.raises(gr.Error, match="cannot download small"):
        list(choose(queue, marked, "small"))
    assert queue.call("refresh", marked)["about"]["value"] == SMALL
    shelf.fault = lambda n, request: None
    *_, shown = choose(queue, marked, "small")
    assert shown["visitor"].generator == "small"


def test_work_on_a_deleted_generator_is_kept_until_it_is_downloaded_again(shelf, marked, tmp_path):
    *_, shown = choose(offering("small"), marked, "small")
    here = offering("small")
    visitor = here.call("mark", shown["visitor"], "copy", paint(3, THING))["visitor"]
    visitor = here.call("set", visitor, "rank", 2)["visitor"]
    shutil.rmtree(tmp_path / "hub")
    there = offering("small", "townscape")
    opened = there.call("open", reloaded(visitor))
    assert opened["visitor"].generator == SMALL and "choose it again" in opened["trouble"]["message"]
    assert set(opened["visitor"].works) == {SMALL, "small"}
    *_, shown = choose(there, opened["visitor"], "small")
    assert shown["visitor"].history.present.edit.copy.seed == 3


def test_work_on_another_generator_of_the_same_name_is_dropped_with_a_message(do, marked):
    visitor = replace(marked, works={**marked.works, "townscape": marked.works[SMALL]})
    shown = do.choose(visitor, "townscape")
    assert (
        shown["visitor"].history is None
        and "is lost" in shown["trouble"]["message"]
        and SMALL in shown["visitor"].works
    )
