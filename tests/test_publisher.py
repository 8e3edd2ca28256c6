"""The page's part that publishes: in a real browser, against a loopback Hub, by the unmodified client."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from browser import Visit
from loopback import Account, LoopbackHub
from playwright.sync_api import Error

import rewriter
from rewriter.checkpoints import store
from rewriter.errors import InputError
from rewriter.worlds import townscape

sys.path.insert(0, str(Path(__file__).parent.parent / "space"))

from app import LAUNCH, Page  # noqa: E402 (the Space's files lie beside each other)
from handlers import Handlers  # noqa: E402
from lane import Lane, public_rules  # noqa: E402
from publisher import Publisher  # noqa: E402
from studio import Studio, Visitor  # noqa: E402
from view import offers  # noqa: E402

TOKEN, MOCK = "hf_ada_may_write_0123456789", "mock-oauth-token-for-local-dev"
pytestmark = pytest.mark.filterwarnings("ignore")


def answers(port):
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5):
        return True


@contextmanager
def served(hub, folder, token=TOKEN, *arguments):
    """`rewriter demo` in a process of its own, that talks with this Hub; its address, and where it logs."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = folder / "tmp"
    temporary.mkdir()
    places = {"HF_HOME": folder / "home", "REWRITER_CACHE": folder / "cache", "TMPDIR": temporary}
    environment = {**os.environ, **hub.environment(token), **{name: str(at) for name, at in places.items()}}
    environment |= {"OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(temporary / "gradio")}
    command = [sys.executable, "-m", "rewriter", "demo", "--port", str(port), *arguments]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not answers(port):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def hub():
    with LoopbackHub({TOKEN: Account("ada"), MOCK: Account("eve", write=False)}) as hub:
        yield hub


@pytest.fixture(scope="module")
def made():
    """The page in this process."""
    return Page(Studio(["townscape"], device="cpu"))


@pytest.fixture(scope="module")
def page(made):
    """Its address."""
    yield made.demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **LAUNCH)[1]
    made.demo.close()


@pytest.fixture
def adopted(hub, monkeypatch, tmp_path):
    """The Hub that this process talks with, as ada."""
    hub.adopt(monkeypatch, tmp_path, TOKEN)
    return hub


@pytest.fixture(scope="module")
def rule(town, change):
    low = change(town, "layer8")
    return rewriter.Rule("layer8", low.delta, low.directions, fingerprint=town.fingerprint)


@pytest.fixture
def visit(browser, page, adopted):
    """Open a tab with a rule made; the machine is logged in as ada."""
    visits = []

    def opened():
        visits.append(Visit(browser, page))
        visits[-1].press('#cards [data-key="dome-to-spire"]')
        visits[-1].wait_for_rules(1)
        return visits[-1]

    yield opened
    for one in visits:
        one.close()
        assert one.errors == []


def unfold(visit):
    """Open the panel, if it is not open."""
    if not visit.page.is_visible("#publish"):
        visit.press("#publisher > button")
        visit.page.wait_for_selector("#publish", state="visible")


def publish(visit, **fields):
    """Fill in the panel, press Publish, and wait for what it says."""
    page = visit.page
    unfold(visit)
    for name, value in fields.items():
        box = page.locator(f"#publish-{name} :is(input, textarea)")
        box.set_checked(value) if isinstance(value, bool) else box.fill(value)
    visit.press("#publish")


def done(visit):
    visit.page.wait_for_selector("#published pre", timeout=60_000)  # the lines that load it
    return visit.page.text_content("#published")


def trouble(visit):
    visit.page.wait_for_selector(".toast-body", timeout=60_000)
    said = visit.page.text_content(".toast-body")
    visit.page.click(".toast-close")
    visit.page.wait_for_selector(".toast-body", state="detached")
    return said


def test_log_in_edit_look_publish_load_and_open_again(browser, hub, tmp_path):
    """And afterwards the token is nowhere: not in logs, files, the page, its storage, or what was committed."""
    heard = []
    with served(hub, tmp_path / "server", TOKEN, "--login") as url:
        v = Visit(browser, url)
        v.page.on("requestfinished", lambda request: heard.append(request))
        publish(v)
        assert "execute an edit first" in trouble(v)
        v.press("#login")
        v.page.wait_for_selector('#login:has-text("Logout (ada)")', timeout=20_000)
        v.ready()
        v.hat()
        v.execute()
        v.page.wait_for_selector('#publish-name :is(input, textarea)[placeholder="townscape-replace-at-layer8"]')
        v.page.fill("#publish-name :is(input, textarea)", "hats")
        v.page.fill("#publish-description textarea", "<b>Hats</b> for [towers](http://e.org)")
        v.press("#publish-preview")
        v.page.wait_for_selector("#publish-card h1", timeout=60_000)
        assert "model.safetensors" in v.page.text_content("#publish-files") and not hub.repositories
        assert "<b>Hats</b>" in v.page.text_content("#publish-card")
        assert v.page.locator('#publish-card a[href*="/e.org"]').count() == 0
        assert v.page.eval_on_selector_all("#publish-card img", "all => all.every(i => i.naturalWidth > 100)")
        publish(v, private=False)
        assert "ada/hats" in done(v)
        pictures = v.sources()
        state = v.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.documentElement.outerHTML])")
        said = bodies(heard)
        v.close()
        other = Visit(browser, f"{url}?model=ada/hats")
        other.wait_for_rules(1)
        other.wait_for_board(pictures)
        unfold(other)
        other.press("#list-published")
        other.page.wait_for_selector('#listed a[href="?model=ada/hats"]')
        other.press("#undo")
        other.wait_for_rules(0)
        other.close()
    made = hub.repositories["model", "ada/hats"]
    assert not made.private and len(made.commits) == 2 and "model.safetensors" in made.files()
    committed = [
        f"{path}{commit.message}".encode() + data
        for commit in made.commits.values()
        for path, data in commit.files.items()
    ]
    files = [path.read_bytes() for path in (tmp_path / "server").rglob("*") if path.is_file()]
    for token in (TOKEN, MOCK):
        assert token not in state and not any(token in text for text in said)
        assert not any(token.encode() in data for data in [*committed, *files])
    code = "import rewriter, torch; g = rewriter.load_generator('ada/hats'); torch.save(g.sample(range(4)), 'drawn.pt')"
    environment = {**os.environ, **hub.environment(), "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    rule = rewriter.Rule.load(_kept(made, tmp_path))
    here = townscape.load().sample(range(4), rules=[rule])
    assert torch.equal(torch.load(tmp_path / "drawn.pt", weights_only=True), here)


def bodies(requests):
    """What the server said; of pages that were left it is gone."""
    found = []
    for request in requests:
        with suppress(Error):
            found.append(request.response().text())
    assert len(found) > 10
    return found


def _kept(made, folder):
    path = folder / "rule.safetensors"
    path.write_bytes(next(data for name, data in made.files().items() if name.startswith("rules/")))
    return path


def test_every_trouble_is_said_and_the_work_is_still_there(visit, hub, tmp_path):
    v = visit()
    publish(v, name="../bob/x")
    assert "more than a name" in trouble(v)
    publish(v, name="a b<img src=x>")
    assert "cannot be a name" in trouble(v)
    hub.add("model", "ada/taken", {"model.bin": b"x"})
    publish(v, name="taken")
    assert "taken by another model" in trouble(v)
    troubles = ("/create", 403, "choose a new name"), ("/commit/", 413, "storage"), ("/", "cut", "again")
    for path, fault, said in troubles:
        hub.fault = lambda n, request, path=path, fault=fault: fault if path in request.path else None
        publish(v, name="mine")
        assert said in trouble(v)
        assert v.page.locator("#rules .rule").count() == 1
    hub.fault = lambda n, request: None
    v.download("#save-session", tmp_path)
    publish(v, name="mine", **{"rules-only": True})
    assert "only you see it" in done(v)
    made = hub.repositories["model", "ada/mine"]
    assert made.private and "model.safetensors" not in made.files() and len(made.commits) == 2


@pytest.mark.slow
def test_a_tab_that_is_closed_leaves_all_or_nothing(visit, hub):
    v = visit()
    publish(v, name="left")
    v.page.wait_for_timeout(300)
    v.page.close(run_before_unload=False)
    asked = -1
    while asked < len(hub.requests):  # until nothing goes on any more
        asked = len(hub.requests)
        time.sleep(3)
    if left := hub.repositories.get(("model", "ada/left")):
        assert len(left.commits) == 1 or "model.safetensors" in left.files()
    other = visit()
    publish(other, name="left")
    done(other)
    for commit in list(hub.repositories["model", "ada/left"].commits.values())[1:]:  # of one tab, or of each
        assert {"README.md", "LICENSE", "config.json", "model.safetensors", "comparison.png"} <= set(commit.files)


def test_a_link_that_takes_long_holds_nobody_up_and_says_what_it_opened(
    visit, browser, page, adopted, town, rule, monkeypatch
):
    rewriter.publish(town, [rule], "ada/hats", private=False, weights=False)
    there = threading.Event()
    monkeypatch.setattr("lane.public_rules", lambda link: there.wait(120) and public_rules(link))
    v = Visit(browser, f"{page}?model=ada/hats")
    v.page.wait_for_selector('#about :text("Looking for ada/hats")')
    visit()  # somebody else, who makes a rule meanwhile
    assert v.page.locator("#rules .rule").count() == 0
    there.set()
    v.wait_for_rules(1)
    assert "ada/hats is open" in v.page.text_content("#next")
    v.close()


# --- the panel and links without a browser ---


ADA = SimpleNamespace(username="ada"), SimpleNamespace(token=TOKEN)


def pressed(method, visitor, *given, who=ADA, origin="https://ada-page.hf.space"):
    """What a button of the panel leads to in the end."""
    headers = {"host": "ada-page.hf.space", "origin": origin}
    asked = gr.Request(request=SimpleNamespace(headers=headers, client=None))
    *_, shown = method(visitor, *given, asked, *who, lambda *news, **words: None)
    return shown


def test_what_was_previewed_is_not_drawn_again(made, adopted, rule, monkeypatch):
    visitor = Visitor(works={"townscape": rewriter.Rewriter(townscape.load(), rules=[rule]).history})
    *_, files, card, _ = pressed(made.publisher.previewed, visitor, "hats", "", True)
    assert "config.json" in files and card.count("data:image/png") == 2
    monkeypatch.setattr(made.lane, "follow", None)
    assert "ada/hats" in pressed(made.publisher.publish, visitor, "hats", "Hats.", True, True)[0]
    assert set(adopted.repositories["model", "ada/hats"].files()) >= {"comparison.png", "pictures/1-rule-at-layer8.png"}


def test_a_login_that_has_ended_is_said(made, adopted, rule):
    visitor = Visitor(works={"townscape": rewriter.Rewriter(townscape.load(), rules=[rule]).history})
    with pytest.raises(gr.Error, match="log out and in again"):
        pressed(made.publisher.publish, visitor, "x", "", True, True, who=(ADA[0], SimpleNamespace(token="hf_old")))
    assert adopted.repositories == {}


def test_another_site_with_the_visitors_cookies_publishes_nothing(made, adopted, rule, monkeypatch):
    visitor = Visitor(works={"townscape": rewriter.Rewriter(townscape.load(), rules=[rule]).history})
    for origin in ("https://evil.example", "null", "", None):
        with pytest.raises(gr.Error, match="another page than this one"):
            pressed(made.publisher.publish, visitor, "x", "", True, False, origin=origin)
    assert adopted.requests == []
    monkeypatch.setenv("SPACE_HOST", "ada-page.example")  # what a Space is called, whatever a proxy makes of it
    said, _ = pressed(made.publisher.publish, visitor, "x", "", True, False, origin="https://ada-page.example")
    assert "ada/x" in said and not adopted.repositories["model", "ada/x"].private


def followed(lane, visitor, link):
    """As the page does: bring what is asked for, then go on with it."""
    *news, brought = lane.bring(link)
    yield from news
    yield from lane.arrived(visitor, brought["brought"])


@pytest.mark.parametrize("weights", [True, False])
def test_one_on_offer_is_fetched_aside_and_brings_its_rules(town, rule, adopted, weights):
    rewriter.publish(town, [rule], "ada/hats", private=False, weights=weights)
    lane = Lane(Handlers(Studio(["townscape", "ada/hats"], device="cpu")))
    assert ("ada/hats ↓", "ada/hats") in offers(lane.studio)
    with pytest.raises(gr.Error, match="choose it again"):
        lane.call("choose", Visitor(), "ada/hats")
    adopted.fault = lambda n, request: "slow" if request.method == "GET" and "/resolve/" in request.path else None
    *news, shown = followed(lane, Visitor(), "ada/hats")
    assert shown["visitor"].generator == "ada/hats" and len(shown["rules"]["rules"]) == 1
    assert weights == any(words.startswith("Downloading ada/hats") and share > 0 for share, words in news[:-1])
    adopted.requests.clear()
    *_, again = followed(lane, shown["visitor"], "ada/hats")
    assert again["board"] == shown["board"] and adopted.requests == []


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("ada/none", "cannot open ada/none on the Hub: .*it is private"),
        ("ada/secret", "it is private"),
        ("ada/other", "no generator of ours"),
        ("ada/odd", "not on offer here.* rewriter demo --generator ada/odd"),
    ],
)
def test_a_link_that_cannot_be_followed_says_why(made, town, proggan, rule, adopted, change, link, said):
    rewriter.publish(town, [rule], "ada/secret", weights=False)
    adopted.add("model", "ada/other", {"README.md": b"# x"})
    low = change(proggan, "layer2")
    own = rewriter.Rule("layer2", low.delta, low.directions, fingerprint=proggan.fingerprint)
    rewriter.publish(proggan, [own], "ada/odd", private=False)
    with pytest.raises(gr.Error, match=said):
        list(followed(made.lane, Visitor(), link))


def test_a_link_to_one_on_offer_is_done_once(town, rule, adopted):
    rewriter.publish(town, [rule], "ada/hats", private=False)
    lane = Lane(Handlers(Studio(["townscape", "ada/hats"], device="cpu")))
    *_, shown = followed(lane, Visitor(), "ada/hats")
    back = lane.call("choose", shown["visitor"], "townscape")["visitor"]
    assert lane.call("open", back, None, {"model": "ada/hats"})["pending"] == ""
    assert lane.call("open", Visitor(), None, {"model": "ada/hats"})["pending"] == "ada/hats"
    *_, brought = lane.bring("ada/hats", linked=False)
    *_, shown = lane.arrived(back, brought["brought"])
    assert shown["visitor"].generator == "ada/hats" and shown["visitor"].link == "ada/hats"


def test_what_was_made_of_a_file_of_ones_own_opens_nowhere_else(proggan, change, adopted, tmp_path):
    store.save(proggan, tmp_path / "own")
    page = Page(Studio(["townscape", str(tmp_path / "own")], device="cpu"))
    low = change(proggan, "layer2")
    own = rewriter.Rule("layer2", low.delta, low.directions, fingerprint=proggan.fingerprint)
    work = rewriter.Rewriter(proggan, rules=[own]).history
    visitor = Visitor(str(tmp_path / "own"), works={str(tmp_path / "own"): work})
    said, _ = pressed(page.publisher.publish, visitor, "own", "", False, False)
    assert "everybody can open it" in said and "?model=" not in said
    adopted.repositories["model", "ada/own"].commit(
        {**adopted.repositories["model", "ada/own"].files(), "exported/nvidia.pt": b"x"}, "by hand"
    )
    said, _ = pressed(page.publisher.publish, visitor, "own", "Anew.", False, False)
    assert "removed: exported/nvidia.pt" in said
    page.demo.close()


def test_a_link_to_what_can_be_no_generator_is_said_in_words(made):
    shown = made.lane.call("open", Visitor(), None, {"model": "<b>x</b>"})
    assert shown["pending"] == "" and "?model=USER/NAME" in shown["next"] and "<b>" not in shown["next"]
    assert made.lane.call("open", Visitor(), None, {"model": "townscape"})["pending"] == "townscape"
    assert made.lane.call("open", Visitor(), None, {"model": "ada/hats"})["pending"] == "ada/hats"


def test_where_nobody_is_logged_in_it_says_what_to_do_instead(visit, hub, monkeypatch):
    v = visit()
    monkeypatch.setenv("HF_TOKEN", "")
    publish(v, name="x")
    said = trouble(v)
    assert "hf auth login" in said and "rewriter publish" in said and not v.page.locator("#login").count()
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("headers", "client", "here"),
    [
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}, "127.0.0.1", True),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, "::1", True),
        ({"host": "localhost:7860", "origin": "http://evil.example"}, "127.0.0.1", False),
        ({"host": "localhost:7860", "origin": "http://localhost:9000"}, "127.0.0.1", False),
        ({"host": "localhost:7860"}, "127.0.0.1", False),
        ({"host": "localhost", "origin": "http://localhost", "x-forwarded-for": "192.0.2.7"}, "127.0.0.1", False),
        ({"host": "tunnel.gradio.live", "origin": "http://tunnel.gradio.live"}, "127.0.0.1", False),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}, "192.0.2.7", False),
        ({}, "", False),
    ],
)
def test_this_machines_token_serves_whoever_sits_at_it_and_nobody_else(monkeypatch, headers, client, here):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    asked = gr.Request(request=SimpleNamespace(headers=headers, client=SimpleNamespace(host=client)))
    publisher = object.__new__(Publisher)
    publisher.login = False
    if here:
        assert publisher._token(asked, None) == TOKEN
    else:
        with pytest.raises(InputError, match="Nobody can log in"):
            publisher._token(asked, None)
    monkeypatch.setattr("publisher.SHARED", True)  # on a Space, only the visitor's own
    with pytest.raises(InputError):
        publisher._token(asked, None)
    same = bool(headers) and headers.get("origin", "").endswith(f"//{headers['host']}")
    if same:
        assert publisher._token(asked, SimpleNamespace(token="hf_theirs")) == "hf_theirs"
    else:
        with pytest.raises(InputError, match="another page"):
            publisher._token(asked, SimpleNamespace(token="hf_theirs"))
