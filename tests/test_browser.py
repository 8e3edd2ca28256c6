"""The page in a real browser: what visitors do there, by mouse, by finger and by keyboard."""

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from browser import Visit, picture

from rewriter import Rule
from rewriter.editing.effect import _grown, _margin, matching
from rewriter.editing.execute import Job
from rewriter.worlds import townscape

sys.path.insert(0, str(Path(__file__).parent.parent / "space"))

from app import LAUNCH, Page  # noqa: E402 (the Space's files lie beside each other)
from studio import Studio  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def served(names):
    """The page on these generators; its address."""
    page = Page(Studio(names, device="cpu"))
    launched = page.demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **LAUNCH)
    yield launched[1]
    page.demo.close()


@pytest.fixture(scope="module")
def url():
    with served(["townscape"]) as address:
        yield address


@pytest.fixture
def visit(browser, url):
    """Open a tab; at the end none of them may have had an error in its scripts."""
    visits = []

    def opened(query="", at=url, **options):
        visits.append(Visit(browser, at + query, **options))
        return visits[-1]

    yield opened
    for one in visits:
        one.close()
        assert one.errors == []


def scrolls_sideways(page):
    return page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth")


@pytest.mark.parametrize("touch", [False, True], ids=["mouse", "finger on a phone"])
def test_copy_paste_context_execute(visit, tmp_path, touch):
    v = visit(width=400, height=800, touch=True) if touch else visit()
    assert not scrolls_sideways(v.page) and v.page.is_disabled("#execute")
    v.hat()
    before = v.sources()
    v.execute()
    v.wait_for_board(before, same=False)
    after = v.sources()
    rule, town = Rule.load(v.download('#rules [title="Download"]', tmp_path)), townscape.load()
    seeds = [int(key) for key in before]
    match = matching(rule, town.keys(seeds, rule.layer))
    job = Job(town, rule.edit, [])
    job.look_up()
    away = ~_grown(match, _margin(town, rule.layer, job.pasted()), (64, 64))
    changed = [(picture(after[key]).float() - picture(before[key]).float()).abs().mean(0) for key in before]
    there, elsewhere = ([c[rest == apart] for c, rest in zip(changed, away, strict=True)] for apart in (False, True))
    assert torch.cat(elsewhere).mean() < 3
    assert torch.cat(there).max() > 60 and torch.cat(there).mean() > 3 * torch.cat(elsewhere).mean()
    v.look("Original")
    v.wait_for_board(before)
    v.look("Rewritten")
    v.wait_for_board(after)
    v.press("#undo")
    v.wait_for_board(before)
    v.press("#redo")
    v.wait_for_board(after)
    assert not scrolls_sideways(v.page)


def test_the_keyboard_alone_paints_and_copies(visit):
    v = visit()
    v.page.focus('#board [data-key="1"]')
    v.page.keyboard.press("Enter")
    v.page.wait_for_selector('#board [data-key="1"][aria-pressed="true"]')
    assert v.page.evaluate("document.activeElement.dataset.key") == "1"
    v.page.focus("#painter .stage")
    for key in ("ArrowUp",) * 8 + ("ArrowLeft",) * 6 + ("Space",):
        v.page.keyboard.press(key)
    v.page.focus("#copy")
    v.page.keyboard.press("Enter")
    v.page.wait_for_selector("#tray [data-key]")


def test_strokes_are_undone_rubbed_out_and_cleared(visit):
    v = visit()
    painted = (
        "document.querySelector('#painter canvas').getContext('2d').getImageData(0, 0, 256, 256).data.some(v => v)"
    )
    for tidy in ("undo", "clear"):
        v.paint(0.5, 0.3, 0.6)
        assert v.page.evaluate(painted)
        v.press(f'#painter [data-tool="{tidy}"]')
        assert not v.page.evaluate(painted)
    v.paint(0.5, 0.3, 0.6)
    v.press('#painter [data-tool="rub"]')
    v.page.fill("#painter input", "40")
    v.paint(0.5, 0.2, 0.7)
    assert not v.page.evaluate(painted)
    v.press("#copy")  # nothing is painted
    v.page.wait_for_selector("text=nothing is painted yet")


def test_strength_is_live_and_zero_is_the_original(visit):
    v = visit()
    before = v.sources()
    v.press('#cards [data-key="no-light-on-ground"]')
    v.wait_for_rules(1)
    v.wait_for_board(before, same=False)
    after = v.sources()
    slider = v.page.locator("#rules input[type=range]")
    slider.evaluate("s => { s.value = 0; s.dispatchEvent(new Event('input')); }")  # a drag, not let go of yet
    v.look("Original")
    original = v.sources()
    v.look("Rewritten")
    v.wait_for_board(original)
    slider.evaluate("s => s.dispatchEvent(new Event('change'))")
    v.page.wait_for_function("document.querySelector('#rules output').textContent === '0.00'")
    v.wait_for_board(original)
    v.press("#undo")
    v.wait_for_board(after)
    v.page.locator("#rules input[type=checkbox]").uncheck()
    v.wait_for_board(original)


def test_saved_reloaded_and_loaded_the_pictures_are_the_same(visit, tmp_path):
    v = visit()
    v.hat()
    v.execute()
    after = v.sources()
    warned = []
    v.page.on("dialog", lambda dialog: warned.append(dialog.type))
    v.page.reload(wait_until="domcontentloaded")  # with work that was not saved: the browser asks, and has kept it
    v.ready()
    v.wait_for_rules(1)
    v.wait_for_board(after)
    assert warned == ["beforeunload"]
    saved = [v.download("#save-edit", tmp_path) for _ in range(2)][-1]  # as often as one likes
    v.page.evaluate("localStorage.clear()")
    v.page.reload(wait_until="domcontentloaded")
    v.ready()
    assert warned == ["beforeunload"] and v.page.locator("#rules .rule").count() == 0
    with v.page.expect_file_chooser() as chooser:
        v.press("#load")
    chooser.value.set_files(saved)
    v.wait_for_rules(1)
    v.wait_for_board(after)
    assert json.loads(saved.read_text())["copy"]["seed"] == 1


def test_two_visitors_at_once_never_see_each_others_rules(visit):
    one, other = visit(), visit()
    one.press('#cards [data-key="dome-to-spire"]')
    other.press('#cards [data-key="no-light-on-ground"]')
    for v, title in ((one, "dome to spire"), (other, "no light on the ground")):
        v.wait_for_rules(1)
        assert title in v.page.text_content("#rules")
    fresh = visit()
    assert fresh.page.locator("#rules .rule").count() == 0


def test_a_tab_that_is_closed_and_work_that_is_cancelled_stop(visit):
    v, other = visit(), visit()
    v.hat()
    v.press("#advanced button")
    v.press("#suggest")
    v.page.wait_for_selector("#next .progress-text, #next .wrap:not(.hide)")
    v.press("#cancel")
    started = time.monotonic()
    v.execute()  # the edit is as it was
    v.press("#suggest")
    v.page.wait_for_selector("#next .progress-text, #next .wrap:not(.hide)")
    v.page.close(run_before_unload=False)
    other.press('#cards [data-key="no-light-on-ground"]')
    other.wait_for_rules(1)
    assert time.monotonic() - started < 60


def test_a_generator_is_chosen_its_download_cancelled_and_chosen_again(visit, shelf):
    with served(["townscape", "small"]) as address:
        v = visit(at=address)
        v.hat()
        v.execute()
        before = v.sources()
        other = visit(at=address)
        other.hat()
        shelf.pause = 5
        v.choose("Small things")
        v.page.wait_for_selector('#about :text("Downloading Small things")')
        other.execute()  # nobody waits for another's download
        v.page.wait_for_selector('#about :text("Downloading Small things")')
        v.press("#stop")
        v.page.wait_for_function("document.querySelector('#generator input').value.startsWith('Towns')")
        assert v.sources() == before and v.page.locator("#rules .rule").count() == 1
        v.page.wait_for_selector("#stop", state="hidden")
        shelf.pause = 0
        v.choose("Small things")
        v.page.wait_for_function("document.querySelector('#about').textContent.includes('16 × 16 px · cc-by-4.0')")
        v.wait_for_rules(0)
        v.choose("Towns")
        v.wait_for_rules(1)
        v.wait_for_board(before)


def test_a_download_that_fails_leaves_the_visitor_where_they_were(visit, shelf):
    with served(["townscape", "small"]) as address:
        v = visit(at=address)
        before = v.sources()
        shelf.fault = lambda n, request: 404
        v.choose("Small things")
        v.page.wait_for_selector(':text("cannot download small")')
        v.page.wait_for_function("document.querySelector('#generator input').value.startsWith('Towns')")
        assert v.sources() == before


def test_a_double_click_makes_one_rule(visit):
    v = visit()
    v.hat()
    v.page.dblclick("#execute")
    v.wait_for_rules(1)
    v.page.wait_for_timeout(1500)
    assert v.page.locator("#rules .rule").count() == 1


def test_links_open_an_edit_and_a_picture(visit):
    v = visit("?edit=no-light-on-ground&seed=40&nonsense=%00")
    v.wait_for_rules(1)
    other = visit("?seed=40")
    other.page.wait_for_selector('#board [data-key="40"][aria-pressed="true"]')
    polite = visit("?seed=-1&edit=nothing")
    assert polite.page.locator("#board [data-key]").count() == 12


def test_finding_matching_and_a_layer_of_ones_own(visit):
    v = visit()
    v.look("Matches")
    v.page.wait_for_selector("text=No matches to show")
    v.pick(0)
    v.paint(0.24, 0.3, 0.36)
    v.press("#find")
    seeds = v.page.locator("#seeds input, #seeds textarea")
    v.page.wait_for_function("e => e.value !== '0-11'", arg=seeds.element_handle(), timeout=60_000)
    seeds.fill("0-5, 7")
    seeds.press("Enter")
    v.page.wait_for_function("document.querySelectorAll('#board [data-key]').length === 7")
    plain = v.sources()
    v.mark("context", 7, 0.63, 0.28, 0.32)
    v.wait_for_board(plain, same=False)
    v.look("Rewritten")
    v.wait_for_board(plain)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_fits_and_can_be_read(visit, width, dark):
    v = visit("?__theme=dark" if dark else "?__theme=light", width=width, dark=dark)
    assert not scrolls_sideways(v.page)
    contrast = """() => [...document.querySelectorAll('#next, .rule p, .tools button, .board span')].map(e => {
        const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => (v / 255) ** 2.2);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        let box = e; while (/, 0\\)|transparent/.test(getComputedStyle(box).backgroundColor)) box = box.parentElement;
        const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(box).backgroundColor)];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 30)]; })"""
    assert [words for ratio, words in v.page.evaluate(contrast) if ratio < 4.5] == []
    unnamed = """() => [...document.querySelectorAll('button, input, select, textarea')].filter(e =>
        e.offsetParent && !e.textContent.trim() && !e.ariaLabel && !e.title && !e.labels?.length && !e.placeholder
        && !e.querySelector('img[alt]:not([alt=""])')).map(e => e.outerHTML.slice(0, 120))"""
    assert v.page.evaluate(unnamed) == []
