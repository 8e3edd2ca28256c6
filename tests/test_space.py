"""The page without a browser: its handlers by themselves, its lane, and its endpoints through a real client."""

import base64
import json
import multiprocessing
import pickle
import shutil
import sys
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
import torch
import yaml
from conftest import square
from PIL import Image

from rewriter import Rewriter, Rule, load_edits, masks
from rewriter.checkpoints.catalogue import catalogue
from rewriter.editing.history import History, State
from rewriter.editing.statistics import Recipe
from rewriter.errors import CancelledError, InputError
from rewriter.evaluation.benchmark import random_config_f
from rewriter.masks import disc
from rewriter.worlds import townscape

SPACE = Path(__file__).parent.parent / "space"
sys.path.insert(0, str(SPACE))

from app import LAUNCH, Page  # noqa: E402 (the Space's files lie beside each other)
from handlers import Handlers  # noqa: E402
from lane import Lane  # noqa: E402
from painter import Painter  # noqa: E402
from studio import Studio, Visitor  # noqa: E402
from view import in_short, offers, plain, restored  # noqa: E402

SPIRE, DOME = disc(64, 0.27, 0.35, 0.1), disc(64, 0.33, 0.24, 0.09)
README = (SPACE.parent / "README.md").read_text(encoding="utf-8")
GOLDEN = Path(__file__).parent / "data" / "nvidia_stylegan2_16px_plain.pt"


@pytest.fixture(scope="module")
def studio():
    return Studio(("townscape", str(GOLDEN)), device="cpu")


@pytest.fixture(scope="module")
def do(studio):
    return Handlers(studio)


@pytest.fixture(scope="module")
def lane(do):
    return Lane(do)


@pytest.fixture(scope="module")
def ready(do):
    """Copied from picture 1, pasted on picture 0, which is the context too."""
    visitor = do.mark(Visitor(selected=1), "copy", SPIRE)["visitor"]
    for what in ("paste", "context"):
        visitor = do.mark(visitor, what, DOME, 0)["visitor"]
    return visitor


@pytest.fixture(scope="module")
def done(do, ready):
    return do.execute(ready)["visitor"]


def board(do, visitor):
    return do.view.show(visitor, "board")["board"]


def rules(do, visitor):
    return do.view.show(visitor, "rules")["rules"]["rules"]


def original(shown):
    """Whether a board shows nothing that is not as it was."""
    return not any("other" in tile for tile in shown["tiles"])


def images(shown):
    """Pictures by their number, whatever their order."""
    return {tile["key"]: tile["image"] for tile in shown["tiles"]}


def content(shown):
    """Name and bytes of a download."""
    download = shown["download"]
    return download["name"], base64.b64decode(download["url"].partition(",")[2])


# --- the steps ---


def test_what_is_next_is_said_step_by_step(do, ready, done):
    assert "copy a thing" in do.open(Visitor())["next"] and not do.open(Visitor())["ready"]
    copied = do.mark(Visitor(selected=1), "copy", SPIRE)
    assert "paste it" in copied["next"] and copied["mask"] is None
    assert do.view.show(ready, "next")["ready"] and "Ready" in do.view.show(ready, "next")["next"]
    assert "Done" in do.view.show(done, "next")["next"]


def test_trays_show_what_was_marked(do, ready):
    trays = do.view.show(ready, "trays")
    assert [len(trays[name]["tiles"]) for name in ("tray", "context", "keep")] == [4, 1, 0]
    assert all(tile["image"].startswith("data:image/png;base64,") for tile in trays["tray"]["tiles"])
    assert do.unmark(ready, "context", "0")["context"]["tiles"] == []
    kept = do.mark(ready, "keep", DOME, 3)
    assert len(kept["keep"]["tiles"]) == 1 and do.unmark(kept["visitor"], "keep", "0")["keep"]["tiles"] == []


def test_executing_changes_the_board_and_undo_restores_it_exactly(do, ready, done):
    before, after = board(do, ready), board(do, done)
    assert original(before) and not original(after)
    assert {tile["key"]: tile.get("other", tile["image"]) for tile in after["tiles"]} == images(before)
    undone = do.step(done, "undo")
    assert undone["board"] == before and undone["rules"]["rules"] == []
    assert do.step(undone["visitor"], "redo")["board"] == after


def test_the_pictures_come_before_the_figures(do, ready, done):
    told = []
    do.execute(ready, lambda done, of, words, shown=None: told.append((words, shown)) or True)
    words, shown = told[-1]
    assert words.startswith("Measuring") and shown["board"] == board(do, done)


def test_strength_zero_off_and_revert_are_the_original(do, done):
    for shown in (do.rule(done, "strength", 0, 0.0), do.rule(done, "switch", 0, False), do.step(done, "revert")):
        assert original(shown["board"])


def test_a_strength_that_is_tried_is_shown_and_not_noted(do, done):
    tried = do.rule(done, "try", 0, 0.0)
    assert original(tried["board"]) and "visitor" not in tried
    assert do.rule(done, "strength", 0, 0.5)["rules"]["rules"][0]["strength"] == 0.5


def test_a_page_from_the_first_ruled_layer_on_is_the_page(studio, done):
    session = studio.session(done)
    assert (studio.pictures(session, done.seeds) - session.sample(done.seeds)).abs().max() < 1e-4


def test_rules_are_reordered_and_removed(do, done):
    again = do.example(do.step(done, "begin")["visitor"], "no-light-on-ground")["visitor"]
    titles = [rule["title"] for rule in rules(do, again)]
    moved = do.rule(again, "move", 0, 1)
    assert [rule["title"] for rule in moved["rules"]["rules"]] == titles[::-1]
    assert [rule["title"] for rule in do.rule(again, "remove", 0)["rules"]["rules"]] == titles[1:]


@pytest.mark.parametrize(("name", "made"), [("no-light-on-ground", 1), ("grand-tour", 3)])
def test_a_shipped_edit_fills_the_trays_and_executes(do, name, made):
    shown = do.example(Visitor(), name)
    assert len(shown["rules"]["rules"]) == made and len(shown["context"]["tiles"]) >= 8
    assert shown["visitor"].selected == shown["visitor"].seeds[0] and not original(shown["board"])
    with pytest.raises(InputError, match=name):
        do.example(Visitor(), "nothing")


def test_an_edit_that_did_not_take_says_so_with_the_next_thing_to_try(do):
    (rule,) = do.example(Visitor(), "door-in-the-sky")["rules"]["rules"]
    assert any("did not take" in words and "try" in words for words in rule["remarks"])


def test_two_rules_that_overlap_are_remarked_upon(do):
    once = do.example(Visitor(), "dome-to-spire")["visitor"]
    assert "directions" in str(do.example(once, "dome-to-tree")["rules"]["remarks"])


def test_what_is_painted_knows_its_picture(do):
    painted = Painter().preprocess(f"5:{masks.encode(DOME)}")
    assert painted.seed == 5 and painted.mask.shape == (64, 64)
    copied = do.mark(Visitor(selected=9), "copy", *painted)["visitor"]
    assert copied.work.present.edit.copy.seed == 5
    for nonsense in ("5:", "5:x", "123456789:" + masks.encode(DOME), "5" * 50):
        with pytest.raises(gr.Error):
            Painter().preprocess(nonsense)


def test_another_copy_is_another_rule_and_undo_takes_one_step(do, done):
    again = do.mark(done, "copy", DOME, 3)
    edit = again["visitor"].work.present.edit
    assert edit.paste is None and edit.context == () and len(again["rules"]["rules"]) == 1
    assert do.step(again["visitor"], "undo")["visitor"].work.present is done.work.present
    shown = do.example(Visitor(), "grand-tour")["visitor"]
    assert rules(do, do.step(shown, "undo")["visitor"]) == []
    begun = do.step(do.example(Visitor(), "add-tree")["visitor"], "begin")
    assert begun["layer"]["value"] == "layer8"  # not the example's


def test_erasing_and_zeroing_need_no_copy(do):
    erased = do.mark(Visitor(), "erase", DOME, 0)
    assert erased["ready"] and "narrower context" in erased["tray"]["note"]
    zeroed = do.step(do.mark(Visitor(), "context", DOME, 0)["visitor"], "zero")
    assert zeroed["ready"] and do.execute(zeroed["visitor"])["rules"]["rules"][0]["title"] == "rule at layer8"


def test_two_visitors_never_see_each_others_rules(do, done):
    other = do.mark(Visitor(), "copy", DOME, 3)["visitor"]
    assert rules(do, other) == [] and original(board(do, other))


# --- looking around ---


def test_pictures_as_people_write_them(do):
    shown = do.browse(Visitor(), "0-3, 40,97, 2 ")
    assert shown["visitor"].seeds == (0, 1, 2, 3, 40, 97) and shown["seeds"] == "0-3, 40, 97"
    assert do.more(shown["visitor"])["visitor"].seeds == tuple(range(98, 110))
    assert do.more(replace(Visitor(), seeds=(99_995,)))["visitor"].seeds[0] == 0
    assert in_short(()) == ""


@pytest.mark.parametrize("text", ["", "x", "5-2", "0-100", "100000", "-1", "1e9", "9" * 50])
def test_pictures_that_are_none_are_refused_in_words(do, text):
    with pytest.raises(InputError, match="seeds"):
        do.browse(Visitor(), text)


def test_matches_are_shown_where_the_context_fires(do, ready):
    shown = do.look(ready, "Matches")
    assert all(tile["match"] != tile["image"] for tile in shown["board"]["tiles"])
    assert not do.look(shown["visitor"], "Original")["visitor"].matches
    early = do.look(Visitor(), "Matches")
    assert "mark a place" in early["board"]["note"]
    marked = do.mark(early["visitor"], "context", DOME, 0)
    assert marked["board"]["note"] == "" and "match" in marked["board"]["tiles"][0]
    tiny = do.mark(early["visitor"], "context", disc(256, 0.1, 0.1, 0.005), 0)
    assert "No matches" in tiny["board"]["note"] and do.more(tiny["visitor"])["board"]["note"]


def test_places_like_the_context_or_like_what_is_painted_are_found(do, ready):
    by_context, by_paint = do.find(ready), do.find(replace(ready, selected=0), DOME)
    assert len(by_context["visitor"].seeds) == 12 and by_context["visitor"].seeds == by_paint["visitor"].seeds
    assert by_paint["visitor"].work is ready.work  # looking for it makes nothing a context
    with pytest.raises(InputError, match="paint on a picture"):
        do.find(Visitor())


def test_settings_are_the_edits_own_and_slow_methods_have_a_limit(do, studio, ready):
    visitor = ready
    for name, value in {"rank": 1, "smoothness": 3.0, "method": "direct", "title": "hat", "layer": "layer7"}.items():
        visitor = do.set(visitor, name, value)["visitor"]
    shown = do.view.show(visitor, "settings")
    assert (shown["smoothness"], shown["title"], shown["layer"]["value"]) == (3.0, "hat", "layer7")
    edit = studio.session(do.execute(visitor)["visitor"]).edit
    assert (edit.method, edit.steps) == ("direct", 500)
    assert do.set(visitor, "method", "least-squares")["visitor"].work.present.edit.steps is None
    softer = do.set(visitor, "truncation", 0.5)
    assert softer["board"] != board(do, visitor)
    for name in ("generator", "statistics", "units"):  # the last two could keep the lane busy for hours
        with pytest.raises(InputError, match="choose one of"):
            do.set(visitor, name, 1)


def test_layers_are_suggested_by_their_pictures(do, ready):
    found = do.suggest(ready)["suggested"]["tiles"]
    assert len(found) > 3 and all(tile["caption"].startswith(tile["key"]) for tile in found)
    assert do.set(ready, "layer", found[0]["key"])["layer"]["value"] == found[0]["key"]
    with pytest.raises(CancelledError):
        do.suggest(ready, lambda *news: False)


def test_another_generator_has_work_of_its_own(do, studio, done):
    shown = do.choose(done, str(GOLDEN))
    assert "16 × 16" in shown["about"] and shown["rules"]["rules"] == []
    assert len(do.choose(shown["visitor"], "townscape")["rules"]["rules"]) == 1
    assert do.example(shown["visitor"], "dome-to-spire")["visitor"].generator == "townscape"
    with pytest.raises(InputError, match="choose one of"):
        do.choose(done, "/etc/passwd")


def test_generators_that_were_not_used_for_long_make_room(do):
    small = Studio(("townscape", str(GOLDEN)), device="cpu")
    small.models.limit = 1
    first = small.model("townscape")
    assert small.model("townscape") is not first and small.models.size == 0
    small.models.limit = sum(tensor.nbytes for tensor in first.state_dict().values())
    kept = small.model("townscape")
    assert small.model("townscape") is kept and small.models.size == small.models.limit


# --- files, reloads and links ---


def test_what_was_saved_loads_to_the_same_pictures(do, done, tmp_path):
    for what in ("edit", "session", "rule"):
        name, data = content(do.save(done, what))
        (tmp_path / name).write_bytes(data)
        assert images(do.load(Visitor(), str(tmp_path / name))["board"]) == images(board(do, done))
    assert load_edits(tmp_path / "rule-at-layer8.json")[0].copy.seed == 1
    assert Rule.load(tmp_path / "rule-at-layer8.rule.safetensors").layer == "layer8"


def test_an_edit_in_progress_is_saved_and_taken_up_as_it_is(do, tmp_path):
    half = do.mark(Visitor(), "copy", SPIRE, 1)["visitor"]
    name, data = content(do.save(half, "edit"))
    (tmp_path / name).write_bytes(data)
    assert "paste it" in do.load(Visitor(), str(tmp_path / name))["next"]


def test_sheets_and_animations_are_pictures(do, done, tmp_path):
    for what, kind, frames in (("sheet", "PNG", 1), ("animation", "WEBP", 16)):
        name, data = content(do.save(done, what))
        (tmp_path / name).write_bytes(data)
        with Image.open(tmp_path / name) as image:
            assert image.format == kind and getattr(image, "n_frames", 1) == frames


def test_names_of_files_are_harmless(do, ready):
    titled = do.execute(do.set(ready, "title", "../../etc/<b>passwd</b> …")["visitor"])["visitor"]
    name, _ = content(do.save(titled, "rule"))
    assert name == "etc-b-passwd-b.rule.safetensors"


def test_a_recording_of_the_original_loads(do, tmp_path):
    places = {"object": [1, masks.encode(SPIRE)], "paste": [0, masks.encode(DOME)], "key": [[0, masks.encode(DOME)]]}
    (tmp_path / "hat.json").write_text(json.dumps(places))
    assert do.load(Visitor(), str(tmp_path / "hat.json"))["rules"]["rules"][0]["title"] == "hat"
    golden = Visitor(generator=str(GOLDEN), selected=3)
    whole = masks.encode(torch.ones(16, 16))
    (tmp_path / "all.json").write_text(json.dumps({"object": [1, whole], "paste": [0, whole], "key": []}))
    shown = do.load(golden, str(tmp_path / "all.json"))
    assert shown["layer"]["value"] == "layer4" and shown["visitor"].generator == str(GOLDEN)


def test_work_survives_a_reload(do, studio, done):
    kept = json.loads(json.dumps(do.view.show(done, "kept")["kept"]))
    shown = do.open(Visitor(), kept)
    assert shown["board"] == board(do, done) and shown["rules"] == do.view.show(done, "rules")["rules"]
    assert do.step(shown["visitor"], "undo")["rules"]["rules"] == []  # the way back too
    assert restored(studio, {**kept, "works": {}}) == Visitor(selected=done.selected)
    elsewhere = do.choose(done, str(GOLDEN))["visitor"]
    both = json.loads(json.dumps(do.view.show(elsewhere, "kept")["kept"]))
    assert set(restored(studio, both).works) == {"townscape"} and restored(studio, both).generator == str(GOLDEN)
    assert restored(studio, {**both, "generator": "gone"}).generator == "townscape"


KEPT = {"generator": "townscape", "seeds": "0-3", "selected": "0", "link": "", "works": {}}


@pytest.mark.parametrize(
    "kept",
    [
        7,
        [],
        {},
        {**KEPT, "works": {"townscape": "AAAA"}},
        {**KEPT, "works": {"townscape": "ÄÖ"}},
        {**KEPT, "works": {"townscape": 7}},
        {**KEPT, "works": []},
        {**KEPT, "seeds": "-3"},
        {**KEPT, "seeds": ["0"]},
    ],
)
def test_a_browser_that_kept_nonsense_begins_anew_and_is_told(do, kept):
    shown = do.open(Visitor(), kept)
    assert shown["visitor"] == Visitor() and "cannot be taken up" in shown["next"] and "kept" not in shown


def test_what_would_keep_everybody_waiting_is_refused(do, ready, tmp_path):
    edit = ready.work.present.edit
    for slow in (edit.with_(statistics=Recipe(50_000, 16, 0)), edit.with_(method="direct", steps=50_000)):
        slow.save(tmp_path / "slow.json")
        with pytest.raises(InputError, match="rewriter apply"):
            do.load(Visitor(), str(tmp_path / "slow.json"))
        History((State(slow),)).save(tmp_path / "slow.safetensors")
        with pytest.raises(InputError, match="rewriter apply"):
            do.load(Visitor(), str(tmp_path / "slow.safetensors"))


def test_a_session_comes_on_top_and_undo_leads_back(do, done, tmp_path):
    name, data = content(do.save(done, "session"))
    (tmp_path / name).write_bytes(data)
    own = do.example(Visitor(), "no-light-on-ground")["visitor"]
    loaded = do.load(own, str(tmp_path / name))
    assert rules(do, loaded["visitor"])[0]["title"] != "no light on the ground"
    assert do.step(loaded["visitor"], "undo")["rules"]["rules"] == rules(do, own)


def test_links_open_an_edit_on_top_or_a_picture_and_pass_over_the_rest(do, done):
    kept = do.view.show(done, "kept")["kept"]
    shown = do.open(Visitor(), kept, {"edit": "add-tree"})
    assert shown["pending"] == "add-tree" and len(shown["rules"]["rules"]) == 1 and "kept" not in shown
    followed = do.linked(shown["visitor"], "add-tree")
    assert len(followed["rules"]["rules"]) == 2 and do.linked(Visitor(), "") == {}
    assert do.open(Visitor(), followed["kept"], {"edit": "add-tree"})["pending"] == ""  # it was followed already
    shown = do.open(Visitor(), None, {"seed": "40"})
    assert shown["visitor"].selected == 40 and shown["visitor"].seeds == tuple(range(36, 48))
    for link in ({"edit": "../x"}, {"seed": "-1"}, {"seed": "9" * 40}, {"seed": "0-3"}, {"what": "?"}):
        shown = do.open(Visitor(), None, link)
        assert shown["visitor"] == Visitor() and shown["pending"] == ""


def test_files_that_are_none_are_refused_in_words(do, tmp_path, done):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.safetensors").write_bytes(b"\0" * 64)
    (tmp_path / "c.json").write_text(json.dumps({**studio_edit(done), "fingerprint": "0" * 64}))
    for name in ("a.json", "b.safetensors", "c.json", "none.json"):
        with pytest.raises(InputError, match=name.split(".")[0] if name != "c.json" else "was made on"):
            do.load(Visitor(), str(tmp_path / name))
    foreign = Rewriter(Handlers(Studio((str(GOLDEN),))).studio.model(str(GOLDEN)))
    foreign.save(tmp_path / "d.safetensors")
    with pytest.raises(InputError, match="was made on"):
        do.load(Visitor(), str(tmp_path / "d.safetensors"))


def studio_edit(visitor):
    return visitor.work.present.edit.to_json()


def test_what_cannot_be_done_is_refused_in_words(do, ready, done):
    for refused in (
        lambda: do.mark(ready, "copy", None),
        lambda: do.mark(ready, "explode", DOME),
        lambda: do.mark(ready, "copy", DOME, 10**9),
        lambda: do.unmark(ready, "context", "7"),
        lambda: do.unmark(ready, "context", "x"),
        lambda: do.step(Visitor(), "undo"),
        lambda: do.step(done, "explode"),
        lambda: do.rule(done, "strength", 0, 5.0),
        lambda: do.rule(done, "strength", 0, "x"),
        lambda: do.rule(done, "strength", 3, 1.0),
        lambda: do.rule(done, "strength", "x", 1.0),
        lambda: do.rule(done, "explode", 0),
        lambda: do.save(done, "explode"),
        lambda: do.save(done, "rule", 7),
        lambda: do.save(done, "rule", None),
        lambda: do.set(done, None, 1),
        lambda: do.execute(Visitor()),
    ):
        with pytest.raises(InputError):
            refused()


def test_a_thousand_contexts_are_refused_and_the_session_goes_on(do):
    visitor, refused = Visitor(), ""
    for seed in range(1000):
        try:
            visitor = do.mark(visitor, "context", DOME, seed % 7)["visitor"]
        except InputError as error:
            refused = str(error)
            break
    assert "at most 100" in refused
    assert len(do.unmark(visitor, "context", "0")["context"]["tiles"]) == 99


# --- the lane ---


def test_work_is_done_one_at_a_time_and_in_one_thread(do):
    class Slow:
        studio = None
        threads, at_work, most = set(), 0, 0

        def work(self, visitor):
            self.threads.add(threading.get_ident())
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            time.sleep(0.01)
            self.at_work -= 1
            return {}

    slow = Slow()
    lane = Lane(slow)
    callers = [threading.Thread(target=lane.call, args=("work", Visitor())) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(slow.threads) == slow.most == 1


def test_news_come_before_the_result_and_errors_are_words(lane, ready):
    *news, shown = lane.follow("execute", ready)
    assert len(shown["rules"]["rules"]) == 1
    assert any(isinstance(one, tuple) and one[1] == "Solving" for one in news)
    with pytest.raises(gr.Error, match="copy a thing") as caught:
        list(lane.follow("execute", Visitor()))
    assert caught.value.print_exception is False


class Steps:
    """Handlers whose work goes on until it is told to stop."""

    studio = None

    def __init__(self):
        self.done, self.ended = 0, threading.Event()

    def work(self, visitor, tell):
        while tell(self.done, 10**6, "Working"):
            self.done += 1
            time.sleep(0.001)
        self.ended.set()
        return {}

    def fail(self, visitor):
        raise RuntimeError("CUDA out of memory at 0x7f")


def test_work_that_is_dropped_stops_and_leaves_the_lane_free():
    steps = Steps()
    news = Lane(steps).follow("work", Visitor())
    assert next(news)[1] == "Working"
    news.close()
    assert steps.ended.wait(10)


def test_whoever_waits_for_a_turn_can_leave(do):
    steps = Steps()
    lane = Lane(steps)
    first, second = lane.follow("work", Visitor()), lane.follow("work", Visitor())
    next(first)
    assert next(second) == (0.0, "Working")  # says something although it has not begun
    second.close()
    first.close()


def test_what_nobody_foresaw_is_told_without_its_details(caplog):
    with pytest.raises(gr.Error, match="something went wrong") as caught:
        Lane(Steps()).call("fail", Visitor())
    assert "CUDA" not in str(caught.value) and "CUDA out of memory" in caplog.text


def test_what_strangers_wrote_is_no_html(lane, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"version": 1, "generator": "", "layer": "a", "<img src=x>": 1}))
    with pytest.raises(gr.Error, match="&lt;img src=x&gt;") as caught:
        list(lane.follow("load", Visitor(), str(tmp_path / "bad.json")))
    assert str(tmp_path) not in str(caught.value)


def test_work_that_takes_too_long_is_stopped_in_words(do, ready, monkeypatch):
    monkeypatch.setattr("lane.SECONDS", 0)
    with pytest.raises(gr.Error, match="took longer than"):
        list(Lane(do).follow("execute", ready))


def _in_a_fork(do, queue, data):
    torch.set_num_threads(1)
    name, arguments = pickle.loads(data)
    queue.put(pickle.dumps(getattr(do, name)(*arguments)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking where threads are; a ZeroGPU worker does so too
def test_a_forked_worker_with_pickled_arguments_does_the_same(do, ready, done):
    """As on ZeroGPU: everything goes in by argument, and comes out as values of the CPU."""
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    for name, arguments in (("execute", (ready,)), ("rule", (done, "strength", 0, 0.5))):
        worker = fork.Process(target=_in_a_fork, args=(do, queue, pickle.dumps((name, arguments))))
        worker.start()
        shown = pickle.loads(queue.get())
        worker.join()
        expected = getattr(do, name)(*arguments)
        assert shown["board"] == expected["board"]
        assert len(shown["visitor"].work.states) == len(expected["visitor"].work.states)


# --- the server ---


def test_the_requirements_are_those_of_the_package_less_gradio():
    """The Space's card pins Gradio, and ZeroGPU has torch 2.8 to 2.11; all else must agree with the package."""
    package = tomllib.loads((SPACE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {line for line in package["project"]["dependencies"] if not line.startswith("gradio")}
    given = set((SPACE / "requirements.txt").read_text(encoding="utf-8").split())
    assert {line.replace("<2.12", "<2.14") for line in given} == wanted and "torch>=2.8,<2.12" in given


def test_the_library_does_not_need_gradio():
    import subprocess

    asked = "import sys, rewriter; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def test_every_shipped_edit_has_a_card():
    for path in townscape.examples().values():
        with Image.open(path.with_suffix(".png")) as image:
            assert image.size == (130, 64)


@pytest.fixture(scope="module")
def url(studio):
    page = Page(studio)
    _, address, _ = page.demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **LAUNCH)
    yield address
    page.demo.close()


@pytest.fixture
def client(url):
    from gradio_client import Client

    return Client(url, verbose=False)


@pytest.mark.filterwarnings("ignore")
def test_a_script_does_the_whole_edit(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert {"/copy", "/paste", "/context", "/execute", "/undo", "/rule", "/save", "/load", "/find"} <= set(endpoints)
    assert [p["parameter_name"] for p in endpoints["/copy"]["parameters"]] == ["seed", "mask"]
    assert "paste it" in client.predict(1, masks.encode(SPIRE), api_name="/copy")["next"]
    for name in ("/paste", "/context"):
        said = client.predict(0, masks.encode(DOME), api_name=name)
    assert "Ready" in said["next"]
    (rule,) = client.predict(api_name="/execute")["rules"]
    assert rule["strength"] == 1.0 and any("matching places" in words for words in rule["words"])
    now, before = (client.predict("0-3", as_it_was, api_name="/pictures") for as_it_was in (False, True))
    assert list(now) == ["0", "1", "2", "3"] and now["0"] != before["0"]
    client.predict(0, "strength", 0.0, api_name="/rule")
    assert client.predict("0-3", False, api_name="/pictures") == before
    saved = client.predict("edit", 0, api_name="/save")
    assert saved["name"] == "rule-at-layer8.json" and saved["url"].startswith("data:application/json;base64,")
    assert client.predict(api_name="/undo")["rules"][0]["strength"] == 1.0


@pytest.mark.filterwarnings("ignore")
def test_the_readmes_script_runs(url):
    (code,) = [part for part in README.split("```")[1::2] if "gradio_client" in part]
    said = {}
    exec(code.removeprefix("python").replace("http://127.0.0.1:7860", url), said)
    assert len(said["pictures"]) == 12 and said["pictures"]["0"].startswith("data:image/png")


@pytest.mark.filterwarnings("ignore")
def test_an_agent_does_the_whole_edit_over_mcp(studio):
    import asyncio

    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    page = Page(studio)
    launched = page.demo.queue().launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", mcp_server=True, **LAUNCH
    )

    async def edit():
        async with streamablehttp_client(f"{launched[1]}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                tools = {tool.name: tool.description for tool in (await session.list_tools()).tools}
                await session.call_tool("copy", {"seed": 1, "mask": masks.encode(SPIRE)})
                await session.call_tool("paste", {"seed": 0, "mask": masks.encode(DOME)})
                return tools, (await session.call_tool("execute", {})).content[0].text

    tools, said = asyncio.run(edit())
    page.demo.close()
    assert {"copy", "paste", "context", "execute", "undo", "rule", "save"} <= set(tools) and all(tools.values())
    assert '"strength": 1.0' in said or "'strength': 1.0" in said


@pytest.mark.filterwarnings("ignore")
def test_a_script_loads_a_file_and_finds_and_chooses(client, tmp_path):
    from gradio_client import handle_file

    said = client.predict(handle_file(townscape.examples()["no-light-on-ground"]), api_name="/load")
    assert said["rules"][0]["title"] == "no light on the ground"
    assert len(client.predict(api_name="/find")) == 12
    assert client.predict("title", "dark", api_name="/setting")["rules"]
    assert client.predict(str(GOLDEN), api_name="/generator")["rules"] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "bad",
    [
        "data:image/png;base64,AAAA",
        "data:image/jpeg;base64,AAAA",
        "https://example.org/mask.png",
        "data:image/png;base64," + "A" * (5 << 20),
        masks.encode(torch.zeros(8, 8)),
        masks.encode(torch.ones(3000, 3)),
        "",
        7,
        {"a": 1},
    ],
    ids=["damaged", "jpeg", "url", "long", "empty", "oversized", "nothing", "number", "object"],
)
def test_bad_masks_are_refused_in_words_and_the_session_goes_on(client, bad):
    with pytest.raises(Exception, match="mask|painted"):
        client.predict(0, bad, api_name="/copy")
    assert "paste it" in client.predict(1, masks.encode(SPIRE), api_name="/copy")["next"]


@pytest.mark.filterwarnings("ignore")
def test_two_executes_at_once_lead_to_one_rule(client):
    client.predict(1, masks.encode(SPIRE), api_name="/copy")
    client.predict(0, masks.encode(DOME), api_name="/paste")
    jobs = [client.submit(api_name="/execute") for _ in range(2)]
    assert [len(job.result()["rules"]) for job in jobs] == [1, 1]


# --- generators that are still on the Hub ---


def choose(lane, visitor, name):
    """As the page does: fetch, then draw."""
    yield from lane.fetch(name)
    yield from lane.follow("choose", visitor, name)


def waiting(hub, news):
    """The first news of a download, which goes slowly from here on."""
    hub.pause = 0.1
    return next(iter(news))


def test_a_generator_is_downloaded_when_it_is_chosen_and_drawn_with_its_licence(shelf, ready):
    lane = Lane(Handlers(Studio(("townscape", "small"), device="cpu")))
    assert dict(map(reversed, offers(lane.studio)))["small"] == "Small things, 16 px ↓ 5 MB"
    shelf.pause = 0.02
    *news, shown = choose(lane, ready, "small")
    shares, words = zip(*[one for one in news if one[1].startswith("Downloading")], strict=True)
    assert list(shares) == sorted(shares) and 0 <= shares[0] < shares[-1] <= 1 and len(set(shares)) > 2
    assert words[-1].startswith("Downloading Small things: ") and words[-1].endswith(" MB")
    assert shown["visitor"].generator == "small" and len(shown["board"]["tiles"]) == 12
    assert shown["generator"]["choices"][1] == ("Small things, 16 px", "small")
    assert "[cc-by-4.0](https://example.org/licence) · Ada &#60;ada@example.org&#62;" in shown["about"]
    assert (
        shown["layer"]["value"] == "layer4" and "start here" in dict(map(reversed, shown["layer"]["choices"]))["layer4"]
    )
    assert [edit.copy.seed for edit in [shown["visitor"].works["townscape"].present.edit]] == [1]
    shelf.requests.clear()
    *_, again = choose(lane, replace(shown["visitor"], generator="townscape"), "small")
    assert again["board"] == shown["board"] and shelf.requests == []


def test_a_download_that_is_cancelled_stops_and_is_gone_on_with(shelf):
    lane = Lane(Handlers(Studio(("townscape", "small"), device="cpu")))
    news = choose(lane, Visitor(), "small")
    waiting(shelf, news)
    while next(news)[0] < 0.2:
        pass
    news.close()
    time.sleep(1)
    asked = len(shelf.requests)
    assert lane.studio.absent("small")
    shelf.pause = 0
    *_, shown = choose(lane, Visitor(), "small")
    assert shown["visitor"].generator == "small" and len(shelf.requests) > asked


def test_two_visitors_wait_for_one_download_and_one_may_leave(shelf):
    lane = Lane(Handlers(Studio(("townscape", "small"), device="cpu")))
    first, second = choose(lane, Visitor(), "small"), choose(lane, Visitor(), "small")
    waiting(shelf, first)
    waiting(shelf, second)
    first.close()
    *_, shown = second
    assert shown["visitor"].generator == "small"
    assert sum(request.startswith("GET") and "resolve" in request for request in shelf.requests) == 1


@pytest.mark.parametrize("fault", [404, 503, "cut"])
def test_a_failed_download_says_why_and_the_page_goes_on(shelf, ready, fault, monkeypatch):
    monkeypatch.setattr("rewriter.checkpoints.download.PAUSE", 0)
    lane = Lane(Handlers(Studio(("townscape", "small"), device="cpu")))
    shelf.fault = lambda n, request: fault
    with pytest.raises(gr.Error, match="cannot download small"):
        list(choose(lane, ready, "small"))
    assert lane.call("refresh", ready)["generator"]["value"] == "townscape"
    shelf.fault = lambda n, request: None
    *_, shown = choose(lane, ready, "small")
    assert shown["visitor"].generator == "small"


def test_work_on_a_generator_that_is_not_here_any_more_is_kept_until_it_is(shelf, ready, tmp_path):
    here = Handlers(Studio(("townscape", "small"), device="cpu"))
    *_, shown = choose(Lane(here), ready, "small")
    visitor = here.mark(shown["visitor"], "copy", square(4, 4, 12, 12), 3)["visitor"]
    kept = here.view.show(visitor, "kept")["kept"]
    shutil.rmtree(tmp_path / "hub")
    there = Handlers(Studio(("townscape", "small"), device="cpu"))
    opened = there.open(Visitor(), kept)
    assert opened["visitor"].generator == "townscape" and "choose it again" in opened["next"]
    assert set(opened["visitor"].works) == {"townscape", "small"} and there.view.show(opened["visitor"], "kept")
    *_, shown = choose(Lane(there), opened["visitor"], "small")
    assert shown["visitor"].work.present.edit.copy.seed == 3


def test_work_that_belongs_to_another_generator_of_that_name_is_dropped_when_it_is_chosen(shelf, ready):
    do = Handlers(Studio(("townscape", "small"), device="cpu"))
    visitor = replace(ready, works={**ready.works, "small": ready.works["townscape"]})
    *_, shown = choose(Lane(do), visitor, "small")
    assert shown["visitor"].work is None and "is gone" in shown["next"] and "townscape" in shown["visitor"].works


def test_nonsense_in_the_browser_is_passed_over(do):
    for left in (3, None, ["townscape"], "<img src=x>"):
        shown = do.open(Visitor(), {**KEPT, "generator": left})
        assert shown["visitor"].generator == "townscape" and "<img" not in shown["next"]


def test_somebodys_words_are_no_markdown():
    assert plain("[a](b) <i> *c* ![d](e)") == "".join(
        f"&#{ord(c)};" if c in "[]()<>*!" else c for c in "[a](b) <i> *c* ![d](e)"
    )


def test_a_generator_whose_pictures_take_seconds_is_looked_at_by_fours(do):
    slow = random_config_f(64)
    slow.layers = {**slow.layers, "more": replace(slow.layers["layer10"], in_channels=10**5)}
    assert do.studio.page(slow) == 4 and do.studio.page(do.studio.model("townscape")) == 12


def test_the_work_of_others_goes_on_during_a_download(shelf, ready):
    lane = Lane(Handlers(Studio(("townscape", "small"), device="cpu")))
    news = lane.fetch("small")
    waiting(shelf, news)
    shelf.pause = 0.5
    *_, shown = lane.follow("execute", ready)
    assert len(shown["rules"]["rules"]) == 1 and lane.studio.absent("small")
    shelf.pause = 0
    list(news)  # to the end, if it is not there already
    *_, shown = lane.follow("choose", shown["visitor"], "small")
    assert len(shown["visitor"].works["townscape"].present.rules) == 1


def test_what_the_space_fetches_before_it_starts_is_in_the_catalogue():
    card = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    known = {(e.repository, e.file, e.revision): e for e in catalogue().values()}
    for line in card["preload_from_hub"]:
        repository, files, revision = line.split(" ")
        assert repository in card["models"]
        assert all(known[repository, file, revision].sha256 for file in files.split(","))


def test_the_page_offers_the_catalogue():
    names = {entry.id for entry in catalogue().values() if entry.repository}
    assert names < {value for _, value in offers(Studio(dict.fromkeys(["townscape", *names])))}
