"""The page in Chromium. Six journeys always run; the other tests have the marker `browser`."""

import time
from contextlib import suppress

import pytest
from browser import Visit, as_tensor, served
from huggingface_hub import HfApi
from loopback import Account, LoopbackHub
from playwright.sync_api import Error

from rewriter import Rule
from rewriter.worlds import townscape
from view import picture_url

pytestmark = pytest.mark.filterwarnings("ignore")
TOKEN = "hf_ada_may_write_0123456789"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The Hub of this process, on which it is logged in as ada."""
    with LoopbackHub({TOKEN: Account("ada")}) as hub, pytest.MonkeyPatch.context() as patch:
        hub.adopt(patch, tmp_path_factory.mktemp("hub"), TOKEN)
        patch.setattr("gradio.oauth.whoami", HfApi(endpoint=hub.url, token=TOKEN).whoami)
        yield hub


@pytest.fixture(scope="module")
def url(hub):
    with served(["townscape"], login=True) as address:
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


def test_copy_paste_context_execute_undo(visit, tmp_path):
    v = visit()
    assert v.page.is_disabled("#execute")
    v.mark_edit()
    before = v.pictures()
    v.execute()
    v.wait_for_board(before, same=False)
    after = v.pictures()
    rule = Rule.load(v.download('#rules [title="Download"]', tmp_path))
    drawn = townscape.load().sample([int(seed) for seed in after], rules=[rule])
    for picture, shown in zip(drawn, after.values(), strict=True):
        assert (as_tensor(shown).int() - as_tensor(picture_url(picture)).int()).abs().max() <= 1
    v.press("#undo")
    v.wait_for_board(before)
    v.press("#redo")
    v.wait_for_board(after)


def test_example_before_and_after(visit):
    v = visit()
    before = v.pictures()
    v.example()
    v.wait_for_board(before, same=False)
    after = v.pictures()
    v.show("Original")
    v.wait_for_board(after, same=False)
    original = v.pictures()
    assert all(before[seed] == original[seed] for seed in before.keys() & original.keys())
    v.show("Rewritten")
    v.wait_for_board(after)


def test_cancel_or_close_a_tab_then_execute_again(visit, monkeypatch):
    v, other = visit(), visit()
    v.mark_edit()
    before = v.pictures()
    with monkeypatch.context() as patch:
        for what in ("execute", "example"):
            patch.setattr(f"handlers.Handlers.{what}", endless)
        v.press("#execute")
        v.page.wait_for_selector("#cancel:not([disabled])")
        assert v.page.is_disabled("#execute")
        v.press("#cancel")
        other.press("#cards [data-key]")
        other.page.wait_for_selector("#cancel:not([disabled])")
        other.page.close(run_before_unload=False)
    v.execute()
    v.wait_for_board(before, same=False)


def endless(self, visitor, *arguments, notify):
    while notify(0, 1, "Working"):
        time.sleep(0.01)
    return {}


def test_reload_keeps_the_work(visit):
    v = visit()
    v.example()
    after = v.pictures()
    warned = []
    v.page.on("dialog", lambda dialog: warned.append(dialog.type))
    v.page.reload(wait_until="domcontentloaded")  # the browser warns, because the rule was not saved
    v.wait_until_loaded()
    v.wait_for_rules(1)
    v.wait_for_board(after)
    assert warned == ["beforeunload"]
    v.press("#undo")
    v.wait_for_rules(0)


def test_log_in_publish_and_open_by_link(visit, hub, capfd):
    """Afterwards the token is not in the page, its storage, the server's answers, its log, or what was committed."""
    v, requests = visit(), []
    v.page.on("requestfinished", lambda request: requests.append(request))
    v.publish()
    assert "execute an edit first" in v.error()
    v.press("#login")
    v.page.wait_for_selector('#login:has-text("Logout (ada)")', timeout=20_000)
    v.wait_until_loaded()
    v.example()
    v.page.wait_for_selector('#publish-name :is(input, textarea)[placeholder="townscape-no-light-on-the-ground"]')
    v.publish(name="dark", private=False)
    assert "ada/dark" in v.published()
    other = visit("?model=ada/dark")
    other.wait_for_rules(1)
    other.wait_for_board({seed: url for seed, url in v.pictures().items() if int(seed) < 12})
    assert "ada/dark is open" in other.page.text_content("#next")
    texts = [v.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.documentElement.outerHTML])")]
    for request in requests:
        with suppress(Error):  # the browser has forgotten some
            texts.append(request.response().text())
    commits = hub.repositories["model", "ada/dark"].commits.values()
    sent = b"".join(data for commit in commits for data in commit.files.values())
    assert len(texts) > 10 and TOKEN not in "".join([*texts, *capfd.readouterr()]) and TOKEN.encode() not in sent


def test_phone_paints_and_executes_with_a_finger(visit):
    v = visit(width=400, height=800, touch=True)
    assert not v.scrolls_sideways()
    v.mark_edit()
    before = v.pictures()
    v.execute()
    v.wait_for_board(before, same=False)
    assert not v.scrolls_sideways()


@pytest.mark.browser
def test_keyboard_alone_paints_and_copies(visit):
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


@pytest.mark.browser
def test_strokes_are_undone_cleared_and_erased(visit):
    v = visit()
    pixels = "document.querySelector('#painter canvas').getContext('2d').getImageData(0, 0, 256, 256).data"
    for tool in ("undo", "clear", "eraser"):
        v.paint(0.5, 0.3, 0.6)
        assert v.page.evaluate(f"{pixels}.some(v => v)")
        v.press(f'#painter [data-tool="{tool}"]')
        if tool == "eraser":
            v.page.fill("#painter input", "40")
            v.paint(0.5, 0.2, 0.7)
        assert not v.page.evaluate(f"{pixels}.some(v => v)")
    v.press("#copy")
    assert "nothing is painted yet" in v.error()


@pytest.mark.browser
def test_strength_is_shown_while_the_slider_moves_and_zero_is_the_original(visit):
    v = visit()
    v.example()
    after = v.pictures()
    slider = v.page.locator("#rules input[type=range]")
    slider.evaluate("s => { s.value = 0; s.dispatchEvent(new Event('input')); }")  # not released yet
    v.show("Original")
    original = v.pictures()
    v.show("Rewritten")
    v.wait_for_board(original)
    slider.evaluate("s => s.dispatchEvent(new Event('change'))")
    v.page.wait_for_function("document.querySelector('#rules output').textContent === '0.00'")
    v.wait_for_board(original)
    v.press("#undo")
    v.wait_for_board(after)
    v.page.locator("#rules input[type=checkbox]").uncheck()
    v.wait_for_board(original)


@pytest.mark.browser
def test_saved_edit_loads_in_another_tab(visit, tmp_path):
    v, other = visit(), visit()
    v.example()
    file = [v.download("#save-edit", tmp_path) for _ in range(2)][-1]  # as often as one likes
    with other.page.expect_file_chooser() as chooser:
        other.press("#load")
    chooser.value.set_files(file)
    other.wait_for_rules(1)
    other.wait_for_board(v.pictures())


@pytest.mark.browser
def test_similar_pictures_chosen_pictures_and_matches(visit):
    v = visit()
    v.show("Matches")
    v.page.wait_for_selector("text=No matches to show")
    v.paint(0.24, 0.3, 0.36)
    v.press("#find")
    seeds = v.page.locator("#seeds :is(input, textarea)")
    v.page.wait_for_function("e => e.value !== '0-11'", arg=seeds.element_handle(), timeout=60_000)
    seeds.fill("0-5, 7")
    seeds.press("Enter")
    v.page.wait_for_selector("#board [data-tiles='7']")
    plain = v.pictures()
    v.mark("context", 7, 0.63, 0.28, 0.32)
    v.wait_for_board(plain, same=False)
    v.show("Rewritten")
    v.wait_for_board(plain)


def choose(visit, title):
    """Another generator, from the menu."""
    visit.press("#generator input")
    visit.page.locator(f'[role="option"]:has-text("{title}")').click()


def wait_for_towns(visit):
    visit.page.wait_for_function("document.querySelector('#generator input').value.startsWith('Towns')")


@pytest.mark.browser
def test_download_fails_is_cancelled_and_succeeds_while_others_work(visit, shelf):
    with served(["townscape", "small"]) as address:
        v, other = visit("?edit=no-light-on-ground", at=address), visit(at=address)
        v.wait_for_rules(1)
        before, shelf.fault = v.pictures(), lambda n, request: 404
        choose(v, "Small things")
        assert "cannot download small" in v.error()
        wait_for_towns(v)
        shelf.fault, shelf.pause = lambda n, request: "slow", 5
        choose(v, "Small things")
        v.page.wait_for_selector('#about :text("Downloading Small things")')
        other.example()
        v.page.wait_for_selector('#about :text("Downloading Small things")')
        v.press("#stop")
        wait_for_towns(v)
        assert v.pictures() == before and "no light" in v.page.text_content("#rules")
        v.page.wait_for_selector("#stop", state="hidden")
        shelf.pause = 0
        choose(v, "Small things")
        v.page.wait_for_selector('#about :text("16 × 16 px · cc-by-4.0")')
        v.wait_for_rules(0)
        choose(v, "Towns")
        v.wait_for_rules(1)
        v.wait_for_board(before)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_page_fits_has_contrast_and_names_its_controls(visit, width, dark):
    v = visit("?__theme=dark" if dark else "?__theme=light", width=width, dark=dark)
    assert not v.scrolls_sideways()
    contrast = """() => [...document.querySelectorAll('#next, .rule p, .tools button, .board span')].map(e => {
        const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => (v / 255) ** 2.2);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        let box = e; while (/, 0\\)|transparent/.test(getComputedStyle(box).backgroundColor)) box = box.parentElement;
        const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(box).backgroundColor)];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 30)]; })"""
    assert [text for ratio, text in v.page.evaluate(contrast) if ratio < 4.5] == []
    unnamed = """() => [...document.querySelectorAll('button, input, select, textarea')].filter(e =>
        e.offsetParent && !e.textContent.trim() && !e.ariaLabel && !e.title && !e.labels?.length && !e.placeholder
        && !e.querySelector('img[alt]:not([alt=""])')).map(e => e.outerHTML.slice(0, 120))"""
    assert v.page.evaluate(unnamed) == []
