"""The page: its handlers without a server, its endpoints through a real client, its main way in a real browser."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from rewriter import masks
from rewriter.errors import InputError
from rewriter.masks import disc

SPACE = Path(__file__).parent.parent / "space"
sys.path.insert(0, str(SPACE))

from app import CSS, Page  # noqa: E402 (the Space's files lie beside each other)
from handlers import Handlers  # noqa: E402
from studio import Studio, Visitor  # noqa: E402

SPIRE, DOME = disc(64, 0.27, 0.35, 0.1), disc(64, 0.33, 0.24, 0.09)


@pytest.fixture(scope="module")
def studio():
    return Studio("cpu")


@pytest.fixture(scope="module")
def do(studio):
    return Handlers(studio)


def at_last(news):
    """The visitor at the end of some work."""
    *_, visitor = news
    return visitor


@pytest.fixture(scope="module")
def ready(do):
    """Copied from picture 1, pasted on picture 0, which is the context too."""
    visitor = do.mark(do.pick(Visitor(), "1"), "copy", SPIRE)
    visitor = do.pick(visitor, "0")
    for what in ("paste", "context"):
        visitor = do.mark(visitor, what, DOME)
    return visitor


@pytest.fixture(scope="module")
def done(do, ready):
    return at_last(do.execute(ready))


def test_what_is_missing_shrinks_step_by_step(do, ready):
    assert len(do.missing(Visitor())) == 3
    assert do.missing(do.mark(Visitor(selected=1), "copy", SPIRE))[0].startswith("paste")
    assert do.missing(ready) == []


def test_trays_show_what_was_marked(do, ready):
    trays = do.trays(ready)
    assert [len(tray["tiles"]) for tray in trays.values()] == [2, 2, 1, 0]
    assert all(tile["image"].startswith("data:image/png;base64,") for tile in trays["context"]["tiles"])
    assert do.trays(do.unmark(ready, "context", "0"))["context"]["tiles"] == []


def test_executing_changes_the_board_and_undo_restores_it_exactly(do, ready, done):
    before, after = do.board(ready), do.board(done)
    assert before["tiles"][0]["image"] == before["tiles"][0]["other"] == after["tiles"][0]["other"]
    assert after["tiles"][0]["image"] != before["tiles"][0]["image"]
    assert do.board(do.step(done, "undo")) == before
    assert len(do.rules(done)) == 1 and do.rules(ready) == []


def test_strength_zero_off_and_revert_are_the_original(do, done):
    for visitor in (do.rule(done, "strength", 0, 0.0), do.rule(done, "switch", 0, False), do.step(done, "revert")):
        assert all(tile["image"] == tile["other"] for tile in do.board(visitor)["tiles"])


def test_a_page_from_the_first_ruled_layer_on_is_the_page(studio, done):
    session = studio.session(done)
    whole = session.sample(done.seeds)
    assert (studio.pictures(session, done.seeds) - whole).abs().max() < 1e-4


def test_a_shipped_edit_fills_the_trays_and_executes(do):
    visitor = at_last(do.example(Visitor(), "no-light-on-ground"))
    assert len(do.rules(visitor)) == 1 and len(do.trays(visitor)["context"]["tiles"]) == 8
    with pytest.raises(InputError, match="no-light-on-ground"):
        list(do.example(Visitor(), "nothing"))


def test_two_visitors_never_see_each_others_rules(do, done):
    other = do.mark(Visitor(selected=3), "copy", DOME)
    assert do.rules(other) == [] and do.board(Visitor()) != do.board(done)
    assert all(tile["image"] == tile["other"] for tile in do.board(other)["tiles"])


def test_work_that_is_dropped_stops_and_changes_nothing(do, ready):
    news = do.execute(ready)
    next(news)
    news.close()
    assert do.rules(ready) == []


@pytest.mark.parametrize("text", ["", "x", "5-2", "0-100", "100000", "-1", "1e9", "9" * 50])
def test_pictures_that_are_none_are_refused_in_words(do, text):
    with pytest.raises(InputError, match="seeds"):
        do.browse(Visitor(), text)


def test_pictures_as_people_write_them(do):
    assert do.browse(Visitor(), "0-3, 40,97, 2 ").seeds == (0, 1, 2, 3, 40, 97)


def test_what_cannot_be_done_is_refused_in_words(do, ready, done):
    for refused in (
        lambda: do.mark(ready, "copy", None),
        lambda: do.unmark(ready, "context", "7"),
        lambda: do.step(Visitor(), "undo"),
        lambda: do.rule(done, "strength", 0, 5.0),
        lambda: do.rule(done, "strength", 3, 1.0),
        lambda: do.rule(done, "explode", 0),
        lambda: list(do.execute(Visitor())),
    ):
        with pytest.raises(InputError):
            refused()


def test_the_requirements_are_those_of_the_package_less_gradio():
    """The Space's card pins Gradio; all else must agree with the package."""
    package = tomllib.loads((SPACE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {line for line in package["project"]["dependencies"] if not line.startswith("gradio")}
    assert set((SPACE / "requirements.txt").read_text(encoding="utf-8").split()) == wanted
    card = (SPACE / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "sdk: gradio" in card and "app_file: app.py" in card


# --- the server ---


@pytest.fixture(scope="module")
def url(studio):
    page = Page(studio)
    _, address, _ = page.demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", css=CSS)
    yield address
    page.demo.close()


@pytest.mark.filterwarnings("ignore")
def test_a_script_does_the_whole_edit(url):
    from gradio_client import Client

    client = Client(url, verbose=False)
    names = set(client.view_api(return_format="dict")["named_endpoints"])
    assert {"/copy", "/paste", "/context", "/execute", "/undo", "/dome_to_spire"} <= names
    for name, mask in (("/copy", SPIRE), ("/paste", DOME), ("/context", DOME)):
        said = client.predict(masks.encode(mask), api_name=name)
    assert "Ready" in str(said)
    assert '"strength": 1.0' in client.predict(api_name="/execute")[-1]
    with pytest.raises(Exception, match="PNG"):
        client.predict("data:image/png;base64,AAAA", api_name="/copy")


# --- the browser ---

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
--disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found and not os.environ.get("CI"):
        pytest.skip("no browser: install Debian's chromium, or Chrome, to run the browser tests")
    assert found, "CI has no browser: install Debian's chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS.split())
        yield chromium
        chromium.close()


def paint(page, row, top, bottom):
    box = page.locator("#painter canvas").bounding_box()
    across = box["x"] + row * box["width"]
    page.mouse.move(across, box["y"] + top * box["height"])
    page.mouse.down()
    page.mouse.move(across, box["y"] + bottom * box["height"], steps=4)
    page.mouse.up()


def pick(page, seed):
    old = page.get_attribute("#painter img", "src")
    page.click(f'#board [data-key="{seed}"]')
    page.wait_for_function("old => document.querySelector('#painter img').src !== old", arg=old)


@pytest.mark.filterwarnings("ignore")
def test_copy_paste_context_execute_in_the_browser(url, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    failed = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector('#board [data-key="11"]')
    page.wait_for_selector("[data-ready]")
    assert page.is_disabled("#execute")
    steps = (("1", 0.35, 0.2, 0.33, "copy"), ("0", 0.24, 0.3, 0.36, "paste"), ("7", 0.63, 0.28, 0.32, "context"))
    for seed, across, top, bottom, what in steps:
        pick(page, seed)
        paint(page, across, top, bottom)
        page.click(f"#{what}")
        page.wait_for_selector(
            f"#tray-{'pasted' if what == 'paste' else {'copy': 'copied'}.get(what, what)} [data-key]"
        )

    def picture():
        return page.get_attribute('#board [data-key="7"] img', "src")

    before = picture()
    page.wait_for_selector("#execute:not([disabled])")
    page.click("#execute")
    page.wait_for_function("b => document.querySelector('#board [data-key=\"7\"] img').src !== b", arg=before)
    after = picture()
    page.click("#original input")
    page.wait_for_function("b => document.querySelector('#board [data-key=\"7\"] img').src === b", arg=before)
    page.click("#original input")
    assert picture() == after
    page.click("#undo")
    page.wait_for_function("b => document.querySelector('#board [data-key=\"7\"] img').src === b", arg=before)
    assert failed == []
    page.close()
