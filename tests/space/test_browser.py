"""The page in Chromium. Five journeys always run; the other tests have the marker `browser`."""

import hashlib
import time
from contextlib import suppress
from threading import Event

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import Visit, is_step, served
from huggingface_hub import HfApi
from loopback import Account, LoopbackHub
from PIL import Image
from playwright.sync_api import Error

from rewriter import Rule, worlds
from view import THUMBNAIL, picture_url

pytestmark = pytest.mark.filterwarnings("ignore")
TOKEN = "hf_ada_may_write_0123456789"
HERE = "given-only-to-the-browser-of-this-machine"
BAD = ("serious", "critical")
OPEN_ALL = """() => { document.body.dataset.more = 'yes';
    for (const each of document.querySelectorAll('.more details')) each.open = true; }"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The Hub of this process, on which it is logged in as ada."""
    with LoopbackHub({TOKEN: Account("ada")}) as hub, pytest.MonkeyPatch.context() as patch:
        hub.adopt(patch, tmp_path_factory.mktemp("hub"), TOKEN)
        patch.setattr("gradio.oauth.whoami", HfApi(endpoint=hub.url, token=TOKEN).whoami)
        yield hub


@pytest.fixture(scope="module")
def url(hub):
    with served(["townscape"], login=True, here=HERE) as address:
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
        with suppress(Error):  # closed already
            one.close()
        assert one.errors == []


def test_copy_paste_context_execute_undo(visit, tmp_path):
    v = visit()
    v.edit()
    assert v.page.is_disabled("[data-execute]")
    v.mark_edit()
    before = v.pictures()
    v.execute()
    v.wait_for_pictures(before, same=False)
    after = v.pictures()
    rule = Rule.load(v.download('.rules [title="Download"]', tmp_path))
    drawn = worlds.load().sample([int(seed) for seed in after], rules=[rule])
    for picture, shown in zip(drawn, after.values(), strict=True):
        expected = v.picture(picture_url(picture, THUMBNAIL)).int()
        change = (v.picture(shown).int() - expected).abs()  # JPEG makes more of a last bit that differs
        assert change.max() <= 8 and change.float().mean() < 0.02
    v.press('[data-step="undo"]')
    v.wait_for_pictures(before)
    v.press('[data-step="redo"]')
    v.wait_for_pictures(after)


@pytest.mark.browser
def test_paint_a_tree_undo_it_and_make_it_a_rule(visit):
    v = visit()
    v.inside()
    before = v.pictures()
    assert "where you want: tree" in v.says() and v.page.is_disabled("[data-execute]")
    v.draw("tree", 0.22, 0.62, 0.74)
    painted = v.pictures()
    assert [seed for seed in painted if painted[seed] != before[seed]] == ["0"]
    v.page.wait_for_selector('.why:not([hidden]):has-text("Tree: it appears") .plot[aria-label*="in the picture"]')
    v.press('[data-step="undo"]')
    v.wait_for_pictures(before)
    assert v.page.is_hidden(".why")
    v.press('[data-step="redo"]')
    v.wait_for_pictures(painted)
    assert v.page.text_content("[data-execute]") == "Make it a rule"
    v.execute()
    v.wait_for_rules(1)
    v.wait_for_pictures(painted, same=False)
    v.page.reload(wait_until="domcontentloaded")
    v.wait_until_loaded()
    assert v.page.is_visible("#rw-inside")


@pytest.mark.browser
def test_strokes_answer_at_once_one_after_the_other_and_a_door_in_the_sky_says_why_not(visit):
    v = visit()
    v.inside()
    for across in (0.2, 0.8, 0.5, 0.3, 0.7):
        v.draw("tree", across, 0.62, 0.74)
    v.draw("door", 0.55, 0.1, 0.2)
    v.page.wait_for_selector('.why[data-appears="no"]:not([hidden]):has-text("Door")')
    v.wait_until_says("tree and door")
    for _ in range(6):
        v.press('[data-tool="undo"]')
    v.page.wait_for_selector('.next:has-text("where you want: door")')


@pytest.mark.browser
def test_units_are_looked_at_and_switched_off_everywhere(visit):
    v = visit()
    v.inside()
    before = v.pictures()
    v.press("[data-units]")
    v.page.wait_for_selector(".rows li:nth-child(5) img:nth-child(4)", timeout=60_000)
    v.page.uncheck(".rows li:last-child input")
    v.wait_for_rules(1)
    one = v.pictures()
    v.press('[data-all="off"]')
    v.wait_for_pictures(one, same=False)
    v.wait_until_says("of layer6 are off on every picture")
    v.wait_for_rules(1)
    v.press('[data-all="as made"]')
    v.wait_for_rules(0)
    v.wait_for_pictures(before)


@pytest.mark.browser
def test_somebody_points_at_a_thing_and_paints_with_it_after_a_reload(visit):
    v = visit()
    v.inside()
    v.press("[data-point]")
    for seed in (0, 2):
        v.pick(seed)
        v.paint(0.24, 0.3, 0.36)
        v.press("[data-place]")
    assert v.page.locator(".pointing .crop").count() == 2
    v.press("[data-find-units]")
    assert "Give the thing a name" in v.trouble()
    v.page.fill("[data-name]", "roof")
    v.press("[data-find-units]")
    v.page.wait_for_selector('[data-thing="roof"][aria-checked="true"]', timeout=120_000)
    v.page.reload(wait_until="domcontentloaded")
    v.wait_until_loaded()
    v.draw("roof", 0.6, 0.2, 0.3)
    v.press('.things [aria-label="Remove roof from your things"]')
    v.page.wait_for_selector('[data-thing="roof"]', state="detached")


@pytest.mark.browser
def test_keyboard_alone_paints_in_the_second_tab(visit):
    v = visit()
    v.edit()
    keys = v.page.keyboard
    v.page.focus('[data-tab-of="rewrite"]')
    keys.press("ArrowRight")
    assert v.page.evaluate("document.activeElement.dataset.tabOf") == "inside" and v.page.is_visible(".things")
    v.page.focus('.thing[tabindex="0"]')
    keys.press("ArrowRight")
    assert v.page.get_attribute('[data-thing="door"]', "aria-checked") == "true"
    before = v.pictures()
    v.page.focus(".stage")
    for key in ("r", "d", "ArrowDown", "Space"):
        keys.press(key)
    v.wait_for_pictures(before, same=False)
    keys.press("Control+z")
    v.wait_for_pictures(before)


@pytest.mark.browser
def test_phone_paints_with_units_with_a_finger(visit):
    v = visit(width=390, height=844, touch=True)
    v.inside()
    v.draw("tree", 0.22, 0.62, 0.74)
    assert not v.scrolls_sideways() and v.page.is_visible(".thing >> nth=0")
    v.press('[data-tool="undo"]')
    v.page.wait_for_selector('.next:has-text("where you want: tree")')


@pytest.mark.browser
def test_wall_shows_a_rule_travelling_across_and_back_without_a_click(visit):
    v = visit()
    v.page.wait_for_selector(".wall.on", timeout=3000)
    assert v.page.locator(".wall .now").count() == 24 and "Domes become spires" in v.page.text_content(".story")
    v.page.wait_for_function("getComputedStyle(document.querySelector('.wall .now')).clipPath.startsWith('inset(0')")
    v.press("[data-wall]")
    v.page.wait_for_selector(".wall:not(.on)")
    calm = visit(reduced=True)
    calm.page.wait_for_timeout(1500)
    assert calm.page.locator(".wall.on").count() == 1  # at rest, with the rule


@pytest.mark.browser
def test_page_opens_on_portraits_where_a_card_makes_people_smile_and_a_stroke_is_a_hat(visit):
    with served(["portraits", "townscape"]) as address:
        v = visit(at=address)
        assert v.page.input_value("#rw-generator") == "portraits"
        v.page.wait_for_selector('.story:has-text("Frowns become smiles")')
        v.edit()
        v.press("[data-hint]")  # its picture is not in the filmstrip
        v.page.wait_for_selector('.hint:has-text("Now press Copy")')
        v.example("frown-to-smile")
        assert v.page.get_attribute(".verdict", "data-verdict") == "took"
        smiling = v.pictures()
        v.toggle()
        v.wait_for_pictures(smiling, same=False)
        change = (v.picture(smiling["9"]).int() - v.picture(v.pictures()["9"]).int()).abs().amax(0)
        assert change[68:100, 44:84].max() > 80 and change[:56].max() < 40  # the mouth, not the hair and the eyes
        v.press('[data-step="revert"]')
        v.inside()
        v.pick(4)
        v.draw("hat", 0.32, 0.2, 0.2, to=0.7)
        v.page.wait_for_selector('.why[data-appears="yes"]:not([hidden]):has-text("Hat: it appears")')


@pytest.mark.browser
def test_example_takes_and_original_is_a_slide_or_a_press_away(visit):
    v = visit()
    v.example("dome-to-tree")
    assert "took" in v.says() and "hardly" not in v.says() and "Done" not in v.page.text_content(".rw")
    v.page.wait_for_selector(".triple")
    after, large = v.pictures(), v.page.get_attribute(".stage .now", "src")
    assert v.page.get_attribute(".stage .then", "src") != large
    clip = "getComputedStyle(document.querySelector('.stage .then')).clipPath"
    assert v.page.evaluate(clip) == "inset(0px 0px 0px 100%)"
    v.page.evaluate("s => { s = document.querySelector('.split'); s.value = 40; s.dispatchEvent(new Event('input')); }")
    assert v.page.evaluate(clip) == "inset(0px 0px 0px 40%)"
    v.page.keyboard.down("o")
    assert v.page.evaluate(clip) == "none"
    v.page.keyboard.up("o")
    v.toggle()
    v.wait_for_pictures(after, same=False)
    assert v.page.evaluate(clip) == "none"
    v.toggle()
    v.wait_for_pictures(after)


@pytest.mark.browser
def test_cancel_or_close_a_tab_then_execute_again(visit, monkeypatch):
    v, other = visit(), visit()
    v.mark_edit()
    v.wait_until_chosen()
    before, running, ended = v.pictures(), Event(), Event()

    def endless(self, visitor, *arguments, notify):
        running.set()
        while notify(0, 1, "Working"):
            time.sleep(0.01)
        ended.set()
        return {}

    with monkeypatch.context() as patch:
        for what in ("execute", "example"):
            patch.setattr(f"handlers.Handlers.{what}", endless)
        v.press("[data-execute]")
        assert running.wait(10)
        v.press("[data-cancel]")
        assert ended.wait(2)
        v.page.wait_for_selector("[data-execute]:not([disabled])")
        running.clear(), ended.clear()
        other.press(".card")
        assert running.wait(10) and not ended.is_set()
        other.page.close(run_before_unload=False)
        assert ended.wait(2)
    v.execute()
    v.wait_for_pictures(before, same=False)


@pytest.mark.browser
def test_reload_keeps_the_work_and_two_tabs_do_not_share_it(visit):
    v = visit()
    v.example()
    after = v.pictures()
    v.page.reload(wait_until="domcontentloaded")
    v.wait_until_loaded()
    v.wait_for_rules(1)
    v.wait_for_pictures(after)
    other = visit(context=v.context)  # another tab of the same browser
    other.press("[data-restore]")
    other.wait_for_rules(1)
    other.press('[data-step="revert"]')
    other.wait_for_rules(0)
    v.page.reload(wait_until="domcontentloaded")
    v.wait_until_loaded()
    v.wait_for_rules(1)
    v.press('[data-step="undo"]')
    v.wait_for_rules(0)


@pytest.mark.browser
def test_log_in_publish_and_open_by_link(visit, hub, capfd):
    """Afterwards the token is not in the page, its storage, the server's answers, its log, or what was committed."""
    v, requests = visit(f"?here={HERE}"), []
    v.page.on("requestfinished", lambda request: requests.append(request))
    v.publish()
    v.page.wait_for_selector("#published :text('execute an edit first')")
    assert v.page.locator(".toast-body").count() == 0
    v.press("#login")
    v.page.wait_for_selector('#login:has-text("Logout (ada)")', timeout=20_000, state="attached")
    v.wait_until_loaded()
    v.example()
    v.page.wait_for_selector(
        '#publish-name :is(input, textarea)[placeholder="townscape-no-light-on-the-ground"]', state="attached"
    )
    v.publish(name="dark", private=False)
    assert "ada/dark" in v.published()
    other = visit("?model=ada/dark")
    other.wait_for_rules(1)
    other.wait_for_pictures({seed: url for seed, url in v.pictures().items() if int(seed) < 12})
    assert "ada/dark is open" in other.says()
    other.publish(name="mine")
    other.page.wait_for_selector("#published :text('Log in first')")  # this tab was not opened by this machine
    texts = [v.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.documentElement.outerHTML])")]
    for request in requests:
        with suppress(Error):  # the browser has forgotten some
            texts.append(request.response().text())
    commits = hub.repositories["model", "ada/dark"].commits.values()
    sent = b"".join(data for commit in commits for data in commit.files.values())
    assert len(texts) > 10 and TOKEN not in "".join([*texts, *capfd.readouterr()]) and TOKEN.encode() not in sent


def test_phone_paints_and_executes_with_a_finger_on_a_short_page(visit):
    v = visit(width=390, height=800, touch=True)
    assert not v.scrolls_sideways() and v.height() <= 1200
    v.mark_edit()  # each button is tapped right after a stroke
    before = v.pictures()
    assert not v.scrolls_sideways() and v.height() <= 1200
    v.execute()
    v.wait_for_pictures(before, same=False)
    assert not v.scrolls_sideways() and v.height() <= 1200
    v.page.evaluate(OPEN_ALL)
    small = """() => [...document.querySelectorAll('.rw button, .more :is(input, select, summary)')]
        .filter(b => b.offsetParent && !b.matches('.plain, .drop, .rule *'))
        .filter(b => Math.min(b.offsetHeight, b.offsetWidth) < 44).map(b => b.outerHTML.slice(0, 80))"""
    assert v.page.evaluate(small) == []


AWAY = "cannot be reached. Your work is safe in this tab"


def cut(route):
    """The server goes away in the middle of its answer."""
    route.fulfill(
        status=200, content_type="application/x-ndjson", body='{"progress": {"share": 0.5, "words": "Half"}}\n'
    )


def never(route):
    """The server works and says nothing."""


@pytest.mark.browser
def test_fresh_page_asks_for_nothing_and_clicks_outlive_their_server(visit):
    v = visit()
    sent = v.steps()
    v.page.wait_for_timeout(300)
    assert sent == []
    v.pick(1)
    v.paint(0.35, 0.2, 0.33)
    v.answer(lambda route: route.abort(), cut, lambda route: route.fulfill(status=502, body="Bad gateway"))
    v.press('[data-mark="copy"]')
    v.page.wait_for_selector(f'.next:has-text("{AWAY}")')
    v.press('.tile[data-seed="2"]')  # waits for it, and the picture is there at once
    v.page.wait_for_selector('.stage[data-ready="2"]')
    v.page.wait_for_selector("[data-slot=copy].full")
    v.page.wait_for_function("document.querySelector('.bar progress').hidden")
    assert [step["name"] for step in sent] == ["pick", *["mark"] * 4, "pick"]
    assert sent[1] == sent[2] == sent[3] == sent[4] and sent[5]["record"] != sent[4]["record"]
    assert AWAY not in v.says() and v.page.text_content(".trouble") == ""


@pytest.mark.browser
def test_click_while_the_server_restarts_is_not_lost(visit):
    with served(["townscape"]) as address:
        v = visit(at=address)
        v.mark("copy", 1, 0.35, 0.2, 0.33)
        v.pick(0)
        v.paint(0.24, 0.3, 0.36)
    v.press('[data-mark="paste"]')
    v.page.wait_for_selector(f'.next:has-text("{AWAY}")')
    with served(["townscape"], port=int(address.rstrip("/").rpartition(":")[2])):
        v.page.wait_for_selector("[data-slot=copy].full + [data-slot=paste].full")
        v.mark("context", 7, 0.63, 0.28, 0.32)
        v.execute()
        v.close()


@pytest.mark.browser
def test_server_that_stays_away_is_given_up_and_the_paint_is_there_again(visit):
    v = visit()
    v.page.clock.install()
    v.pick(1)
    v.paint(0.35, 0.2, 0.33)
    paint = "document.querySelector('.paint').getContext('2d').getImageData(0, 0, 256, 256).data.some(v => v)"
    v.page.route(is_step, lambda route: route.abort())
    v.press('[data-mark="copy"]')
    v.page.wait_for_selector(f'.next:has-text("{AWAY}")')
    assert not v.page.evaluate(paint)
    for _ in range(12):
        v.page.clock.fast_forward(10_000)
        v.page.wait_for_timeout(50)
    assert "try again later" in v.trouble() and v.page.evaluate(paint)
    v.page.unroute(is_step)
    v.press('[data-mark="copy"]')
    v.page.wait_for_selector("[data-slot=copy].full")


@pytest.mark.browser
def test_click_that_is_told_to_wait_waits_as_long_and_says_so(visit):
    v = visit()
    sent, times = v.steps(), []
    v.page.on("request", lambda request: times.append(time.monotonic()) if is_step(request.url) else None)
    v.edit()
    busy = {"message": "You are third: about 1 s …", "wait": 0.8}
    v.answer(*[lambda route, status=status: route.fulfill(status=status, json=busy) for status in (429, 503)])
    v.press('[data-do="more"]')
    v.page.wait_for_selector('.next:has-text("You are third")')
    assert v.page.is_visible("[data-cancel]")
    v.page.wait_for_selector('.tile[data-seed="12"]')
    assert len(sent) == 3 and all(later - earlier > 0.7 for earlier, later in zip(times, times[1:], strict=False))
    v.answer(lambda route: route.fulfill(status=400, json={"message": "there is no such step"}))
    v.press('[data-do="more"]')
    assert "no such step" in v.trouble() and len(sent) == 4  # asking again would not help


@pytest.mark.browser
def test_large_record_is_named_by_its_digest_and_sent_when_the_server_lacks_it(visit):
    v = visit()
    large = "x" * 40_000
    v.answer(lambda route: route.fulfill(json={"end": True, "record": large}))
    v.edit()
    v.press('[data-do="more"]')
    v.page.wait_for_function("window.rewriter.record().length === 40_000")
    sent = v.steps()
    v.answer(
        lambda route: route.fulfill(status=409, json={"message": "send the record"}),
        lambda route: route.fulfill(json={"end": True}),
    )
    v.press('[data-do="more"]')
    v.page.wait_for_timeout(500)
    assert [(step.get("record"), step.get("known")) for step in sent] == [
        (None, hashlib.sha256(large.encode()).hexdigest()),
        (large, None),
    ]


@pytest.mark.browser
def test_picture_that_does_not_arrive_is_asked_for_once_more_as_data(visit):
    v = visit()
    sent, own = v.steps(), "**/rewriter/pictures/**"
    v.edit()
    v.page.route(own, lambda route: route.abort())
    v.press('[data-do="more"]')
    data = """n => [...document.querySelectorAll('.tile img')]
        .filter(i => i.src.startsWith('data:') && i.naturalWidth).length === n"""
    v.page.wait_for_function(data, arg=12)
    v.page.wait_for_timeout(500)
    assert [(step["name"], step["inline"]) for step in sent] == [("more", False), ("refresh", True)]
    v.press('[data-do="more"]')
    v.page.wait_for_selector('.tile[data-seed="24"]')
    v.page.wait_for_function(data, arg=12)
    assert len(sent) == 3


@pytest.mark.browser
def test_cancel_ends_the_request_at_once_and_the_pictures_are_those_of_the_rules(visit):
    v = visit()
    v.mark_edit()
    v.wait_until_chosen()
    sent = v.steps()
    v.answer(never)
    v.press("[data-execute]")
    v.page.wait_for_selector("[data-cancel]", state="visible")
    v.press('.tile[data-seed="3"]')
    v.page.wait_for_selector('.next:has-text("Then your next click")')
    with v.page.expect_event("requestfailed", lambda request: "execute" in request.post_data, timeout=2000):
        v.press("[data-cancel]")
    v.page.wait_for_selector("[data-execute]:not([disabled])")
    v.page.wait_for_selector('.stage[data-ready="3"]')
    assert [step["name"] for step in sent][:2] == ["execute", "pick"]
    v.execute()


@pytest.mark.browser
def test_settings_leave_alone_what_somebody_types_and_are_kept(visit):
    v = visit()
    v.edit()
    v.open_panel("advanced")
    v.page.focus("#title")
    v.page.keyboard.type("Domes be")
    choose = "(field, value) => { field.value = value; field.dispatchEvent(new Event('change')); }"
    sent = v.steps()
    v.page.locator("#layer").evaluate(choose, "layer6")
    v.page.wait_for_function("window.rewriter.record()")
    assert v.page.input_value("#title") == "Domes be" and v.page.input_value("#layer") == "layer6"
    v.page.keyboard.type("come spires")
    v.page.focus("#budget")
    assert [step["args"] for step in sent] == [["layer", "layer6"], ["title", "Domes become spires"]]
    v.page.fill("#budget", "2.5")
    v.page.press("#budget", "Enter")
    v.page.locator("#rank").evaluate("r => { r.value = 3; r.dispatchEvent(new Event('input')); }")
    assert v.page.text_content("output[for=rank]") == "3"
    v.page.locator("#rank").evaluate(choose, "3")
    v.press('[data-step="undo"]')
    v.page.wait_for_function("document.querySelector('#rank').value === '1'")
    v.page.reload(wait_until="domcontentloaded")
    v.wait_until_loaded()
    v.page.wait_for_function("document.querySelector('#title').value === 'Domes become spires'")
    assert v.page.input_value("#budget") == "2.5" and v.page.input_value("#layer") == "layer6"


@pytest.mark.browser
def test_page_works_behind_a_path(visit):
    with served(["townscape"], launch={"root_path": "/towns"}) as address:
        v = visit(
            "towns/", at=address, through=lambda route: route.continue_(url=route.request.url.replace("/towns", "", 1))
        )
        v.example()
        assert all(url.startswith(f"{address}towns/rewriter/pictures/") for url in v.pictures().values())
        v.close()


@pytest.mark.browser
def test_file_that_is_too_large_is_refused_before_it_is_sent(visit, tmp_path):
    v = visit()
    sent, file = v.steps(), tmp_path / "large.json"
    file.write_bytes(bytes((32 << 20) + 1))
    v.edit()
    v.page.set_input_files("#load-file", file)
    assert "large.json has 33 MB: the page loads files of up to 32 MB" in v.trouble() and sent == []


@pytest.mark.browser
def test_secret_of_this_machine_leaves_the_address_and_stays_in_the_tab(visit):
    v = visit("?here=abc123&seed=3#x")
    assert v.page.url.partition("/?")[2] == "seed=3#x" and visit("?here=abc123").page.url.endswith("/")
    assert v.page.evaluate("window.rewriter.here()") == "abc123"
    v.page.reload(wait_until="domcontentloaded")
    v.wait_until_loaded()
    assert v.page.evaluate("window.rewriter.here()") == "abc123"


@pytest.mark.browser
def test_looking_around_in_a_new_tab_does_not_replace_the_work_to_continue(visit):
    v = visit()
    v.example()
    other = visit(context=v.context)
    other.pick(5)
    other.press('[data-do="more"]')
    other.page.wait_for_selector('.tile[data-seed="12"]')
    third = visit(context=v.context)
    third.press("[data-restore]")
    third.wait_for_rules(1)
    third.page.reload(wait_until="domcontentloaded")
    third.wait_until_loaded()
    third.wait_for_rules(1)


@pytest.mark.browser
def test_watermark_is_erased_from_a_fresh_page_with_two_clicks(visit):
    v = visit("?seed=6")
    v.pick(6)
    v.paint(0.2, 0.45, 0.45, to=0.68)
    v.press('[data-mark="erase"]')
    v.page.wait_for_selector("[data-execute]:not([disabled])")
    v.execute()
    assert "took" in v.says() and "did not" not in v.says()


@pytest.mark.browser
def test_edit_is_shared_by_a_link_that_holds_all_of_it(visit):
    v = visit()
    v.mark_edit()
    v.execute()
    address = v.link()
    assert "#edit=" in address and len(address) < 8000
    other = visit(address.partition("/#")[2] and "#" + address.partition("#")[2])
    other.wait_for_rules(1)
    other.wait_for_pictures({seed: url for seed, url in v.pictures().items() if seed in other.pictures()})


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["gif", "animation"])
def test_animation_in_one_click(visit, tmp_path, kind):
    v = visit()
    v.example()
    v.press("[data-share]")
    with Image.open(v.download(f'[data-save="{kind}"]', tmp_path)) as image:
        assert image.n_frames > 8 and image.format == {"gif": "GIF", "animation": "WEBP"}[kind]


@pytest.mark.browser
def test_card_clicked_during_a_run_replaces_it(visit):
    v = visit()
    for name in ("dome-to-spire", "add-tree", "no-light-on-ground", "dome-to-tree", "dome-to-spire"):
        v.press(f'.card[data-key="{name}"]')
        v.press('[data-go="home"]')
    v.press('.card[data-key="no-light-on-ground"]')
    v.page.wait_for_selector('.rules b:has-text("no light")', timeout=120_000)
    v.page.wait_for_selector(".rw[data-busy=no]")
    v.wait_for_rules(1)


@pytest.mark.browser
def test_marks_stay_outlined_and_paint_shows_on_white(visit):
    v = visit()
    v.mark("copy", 1, 0.35, 0.2, 0.33)
    drawn = "s => [...document.querySelector(s).getContext('2d').getImageData(0, 0, 90, 90).data].some(x => x)"
    whole = drawn.replace("0, 0, 90, 90", "0, 0, 640, 640")
    v.page.wait_for_function(whole, arg=".stage .marks")
    v.page.wait_for_function(drawn, arg='.tile[data-seed="1"] canvas')
    v.pick(0)
    v.page.wait_for_function(f"s => !({whole})(s)", arg=".stage .marks")
    v.paint(0.3, 0.3, 0.5)
    colour = "[...document.querySelector('.paint').getContext('2d').getImageData(77, 100, 1, 1).data]"
    red, green, blue, alpha = v.page.evaluate(colour)
    assert alpha == 255 and green < 100  # far from white, and outlined


@pytest.mark.browser
def test_found_place_is_accepted_at_a_touch(visit):
    v = visit()
    v.mark("copy", 1, 0.35, 0.2, 0.33)
    v.mark("paste", 0, 0.24, 0.3, 0.36)
    v.page.wait_for_selector(".too .crop", timeout=60_000)
    v.wait_until_chosen()
    places = v.page.locator(".too .crop").count()
    searches = lambda route: None if "prepare" in route.request.post_data else route.continue_()  # noqa: E731
    v.page.route(is_step, searches)  # until the machine has looked again, it does not ask again for the same place
    v.press(".too .crop")
    v.page.wait_for_selector("[data-slot=context] .crop")
    assert v.page.locator(".too .crop").count() == places - 1
    v.press(".too .drop")
    v.press("[data-slot=context] .drop")
    v.page.wait_for_selector("[data-slot=context] .crop", state="detached")


@pytest.mark.browser
def test_error_stands_by_the_canvas_until_it_is_mended(visit):
    v = visit()
    v.edit()
    v.press('[data-mark="copy"]')
    assert "Nothing is painted yet" in v.trouble() and v.page.locator(".toast-body").count() == 0
    v.mark("copy", 1, 0.35, 0.2, 0.33)
    v.page.wait_for_selector(".trouble:empty", state="attached")
    v = visit("?edit=nonsense")
    assert "no-light-on-ground" in v.trouble()
    v = visit("?seed=abc")
    assert "There is no picture" in v.trouble()


@pytest.mark.browser
def test_keyboard_alone_makes_an_edit_in_few_steps(visit):
    v = visit()
    v.edit()
    keys = v.page.keyboard
    v.page.focus(".skip")
    stops = 0
    while v.page.evaluate("!document.activeElement.matches('[data-execute], .stage')") and stops < 30:
        keys.press("Tab")
        stops += 1
    assert stops < 20
    v.page.focus('.tile[tabindex="0"]')
    keys.press("ArrowRight")
    v.page.wait_for_selector('.stage[data-ready="1"]')
    v.page.focus(".stage")
    for key in ("ArrowUp",) * 12 + ("ArrowLeft",) * 7 + ("Space",):
        keys.press(key)
    keys.press("c")
    v.page.wait_for_selector("[data-slot=copy].full")
    size = v.page.input_value(".size input")
    keys.press("]")
    assert v.page.input_value(".size input") != size
    keys.press("Control+z")
    v.page.wait_for_selector("[data-slot=copy]:not(.full)")


@pytest.mark.browser
def test_strokes_are_undone_cleared_and_erased(visit):
    v = visit()
    pixels = "document.querySelector('.paint').getContext('2d').getImageData(0, 0, 256, 256).data"
    for tool in ("undo", "clear", "eraser"):
        v.paint(0.5, 0.3, 0.6)
        assert v.page.evaluate(f"{pixels}.some(v => v)")
        v.press(f'[data-tool="{tool}"]')
        if tool == "eraser":
            v.page.fill(".size input", "40")
            v.paint(0.5, 0.2, 0.7)
        assert not v.page.evaluate(f"{pixels}.some(v => v)")


@pytest.mark.browser
def test_strength_is_shown_while_the_slider_moves_and_zero_is_the_original(visit):
    v = visit()
    v.example()
    after = v.pictures()
    slider = v.page.locator(".rules input[type=range]")
    slider.evaluate("s => { s.value = 0; s.dispatchEvent(new Event('input')); }")  # not released yet
    v.toggle()
    original = v.pictures()
    v.toggle()
    v.wait_for_pictures(original)
    slider.evaluate("s => s.dispatchEvent(new Event('change'))")
    v.page.wait_for_function("document.querySelector('.rules output').textContent === '0.00'")
    v.wait_for_pictures(original)
    v.press('[data-step="undo"]')
    v.wait_for_pictures(after)
    v.page.locator(".rules input[type=checkbox]").uncheck()
    v.wait_for_pictures(original)


@pytest.mark.browser
def test_saved_edit_loads_in_another_tab(visit, tmp_path):
    v, other = visit(), visit()
    v.example()
    v.open_panel("files")
    file = [v.download("#save-edit", tmp_path) for _ in range(2)][-1]  # as often as one likes
    other.edit()
    other.open_panel("files")
    with other.page.expect_file_chooser() as chooser:
        other.press("#load")
    chooser.value.set_files(file)
    other.wait_for_rules(1)
    other.wait_for_pictures(v.pictures())


@pytest.mark.browser
def test_similar_pictures_chosen_pictures_and_matches(visit):
    v = visit()
    v.edit()
    v.toggle("match")
    v.page.wait_for_selector("text=No matches to show")
    v.paint(0.24, 0.3, 0.36)
    v.press("[data-search]")
    seeds = v.page.locator(".seeds input")
    v.page.wait_for_function("e => e.value !== '0-11'", arg=seeds.element_handle(), timeout=60_000)
    seeds.fill("0-5, 7")
    seeds.press("Enter")
    v.page.wait_for_function("document.querySelectorAll('.tile').length === 7")
    plain = v.pictures()
    v.mark("context", 7, 0.63, 0.28, 0.32)
    v.wait_for_pictures(plain, same=False)
    v.toggle("match")
    v.wait_for_pictures(plain)


def choose(visit, name):
    """Another generator, from the menu."""
    visit.page.select_option("#rw-generator", name)


def wait_for_towns(visit):
    visit.page.wait_for_function("document.querySelector('#rw-generator').value === 'townscape'")


@pytest.mark.browser
def test_download_fails_is_cancelled_and_succeeds_while_others_work(visit, shelf):
    with served(["townscape", "small"]) as address:
        v, other = visit("?edit=no-light-on-ground", at=address), visit(at=address)
        v.wait_for_rules(1)
        v.page.wait_for_selector(".rw[data-busy=no]")
        before, shelf.fault = v.pictures(), lambda n, request: 404
        choose(v, "small")
        assert "Cannot download small" in v.trouble()
        wait_for_towns(v)
        shelf.fault, shelf.pause = lambda n, request: "slow", 5
        choose(v, "small")
        v.page.wait_for_selector('.next:has-text("Downloading Small things")')
        other.example()
        v.page.wait_for_selector('.next:has-text("Downloading Small things")')
        v.press("[data-cancel]")
        v.page.wait_for_selector("[data-cancel]", state="hidden")
        wait_for_towns(v)
        assert v.pictures() == before and "no light" in v.page.text_content(".rules")
        shelf.pause = 0
        choose(v, "small")
        v.page.wait_for_selector('.licence:has-text("16 × 16 px · cc-by-4.0")')
        v.wait_for_rules(0)
        choose(v, "townscape")
        v.wait_for_rules(1)
        v.wait_for_pictures(before)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 1400, 1920])
def test_page_fits_and_axe_finds_nothing_serious(visit, width, dark):
    v = visit("?__theme=dark" if dark else "?__theme=light", width=width, dark=dark)
    for mode in ("home", "edit", "inside"):
        if mode == "edit":
            v.example("dome-to-spire")
            v.page.evaluate(OPEN_ALL)
        if mode == "inside":
            v.inside()
            v.draw("tree", 0.22, 0.62, 0.74)
            v.press("[data-units]")
            v.press("[data-point]")
            v.page.wait_for_selector(".rows li", timeout=60_000)
        assert not v.scrolls_sideways()
        box = v.page.locator(f".rw .{'edit' if mode == 'inside' else mode}").bounding_box()
        assert box["width"] > 0.85 * width and abs(2 * box["x"] + box["width"] - width) < 24  # centred, nothing wasted
        found = Axe().run(v.page).response["violations"]
        serious = [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found if one["impact"] in BAD]
        assert serious == []
    assert "`" not in v.page.inner_text(".rw") and ".." not in v.page.inner_text(".rw")
