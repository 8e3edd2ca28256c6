"""The panel that publishes, and links to what was published: against a loopback Hub, by the unmodified client."""

import re
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from loopback import Account, LoopbackHub

import rewriter
from app import Page
from handlers import Handlers
from publish_panel import own_token
from received import to_record
from rewriter.checkpoints import store
from rewriter.checkpoints.client import connect
from rewriter.errors import InputError
from rewriter.hub.draft import draft
from rewriter.hub.publish import send, target
from rewriter.pictures import before_after, to_png
from state import Shared, Visitor
from view import generator_choices
from work_queue import WorkQueue

TOKEN = "hf_ada_may_write_0123456789"
ADA = SimpleNamespace(username="ada"), SimpleNamespace(token=TOKEN)
PICTURE = to_png(before_after(torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16), [7], firing=1))
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub that this process talks to, as ada."""
    with LoopbackHub({TOKEN: Account("ada")}) as hub:
        hub.adopt(monkeypatch, tmp_path, TOKEN)
        yield hub


@pytest.fixture(scope="module")
def page():
    page = Page(Shared(["townscape"], device="cpu"))
    yield page
    page.close()


@pytest.fixture
def drawn(monkeypatch, page):
    """Pictures of cards are not really drawn, but listed here; drawing them is tested elsewhere."""
    drawn = []
    monkeypatch.setattr("handlers.compare", lambda generator, rules, which, on_step: drawn.append(which) or PICTURE)
    monkeypatch.setattr(page.panel, "drawn", type(page.panel.drawn)(1 << 20))
    return drawn


@pytest.fixture(scope="module")
def rule(town, change):
    return random_rule(town, change, "layer8")


@pytest.fixture(scope="module")
def visitor(town, rule):
    """A visitor with a rule."""
    return Visitor("townscape").with_history(rewriter.Rewriter(town, rules=[rule]).history)


def random_rule(generator, change, layer):
    low = change(generator, layer)
    return rewriter.Rule(layer, low.delta, low.directions, fingerprint=generator.fingerprint)


def put(generator, rule, name, *, private=False, weights=False):
    """Publish without drawing pictures."""
    made = draft(generator, [rule], name, weights=weights, pictures=False)
    send(made, target(name, connect(TOKEN), private=private))


def updates(press, visitor, name="hats", *, rules_only=True, private=True, who=ADA, here="", **headers):
    """What a button of the panel shows, one update after the other."""
    headers = {"host": "ada-page.hf.space", "origin": "https://ada-page.hf.space", **headers}
    sent = {"record": to_record(visitor), "here": here}
    request = gr.Request(request=SimpleNamespace(headers=headers, client=None))
    return press((sent, name, "", rules_only, private), request, *who, lambda *progress, **message: None)


def publish(page, *form, **options):
    """What the panel says in the end."""
    *_, (status, _) = updates(page.panel.on_publish, *form, **options)
    return status


def test_preview_publish_and_list(page, hub, town, rule, visitor, drawn):
    *_, (_, files, card, status) = updates(page.panel.on_preview, visitor)
    assert "config.json" in files and card.count("data:image/png") == 2 and "Nothing is sent" in status
    assert hub.repositories == {} and drawn == [0, 1]
    assert "ada/hats" in publish(page, visitor) and drawn == [0, 1]
    assert set(hub.repositories["model", "ada/hats"].files()) >= {
        "comparison.png",
        "index.html",
        "pictures/1-rule-at-layer8.png",
    }
    put(town, rule, "ada/public")
    assert "(?model=ada/public)" in page.panel.on_list() and "ada/hats" not in page.panel.on_list()


@pytest.mark.parametrize(
    ("name", "path", "fault", "message"),
    [
        ("../bob/x", "", None, "contains an account"),
        ("a b<img src=x>", "", None, "cannot be a name"),
        ("taken", "", None, "taken by another model"),
        ("mine", "/create", 403, "choose a new name"),
        ("mine", "/commit/", 413, "may store"),
        ("mine", "/", "cut", "again"),
    ],
)
def test_failure_is_shown_with_what_to_do_next(page, hub, visitor, drawn, name, path, fault, message):
    hub.add("model", "ada/taken", {"model.bin": b"x"})
    hub.fault = lambda n, request: fault if fault and path in request.path else None
    *_, (said, _) = updates(page.panel.on_publish, visitor, name)
    assert said.startswith("**Not published**") and re.search(message, said) and "<img" not in said
    hub.fault = lambda n, request: None
    said = publish(page, visitor, "mine")
    made = hub.repositories["model", "ada/mine"]
    assert "only you can see it" in said and made.private and "model.safetensors" not in made.files()


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
def test_leaving_while_publishing_sends_all_or_nothing(page, hub, visitor, drawn, steps):
    publishing = updates(page.panel.on_publish, visitor, "left", rules_only=False)
    for _ in zip(range(steps), publishing, strict=False):
        pass
    publishing.close()
    found = hub.repositories.get(("model", "ada/left"))
    whole = {"README.md", "LICENSE", "config.json", "model.safetensors", "comparison.png", "index.html"}
    assert whole <= set(found.files()) if found else steps < 1000


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"who": (ADA[0], SimpleNamespace(token="hf_old"))}, "log out and in again"),
        ({"who": (None, None)}, "no login.*rewriter publish.*hf auth login"),
        *(({"origin": other}, "another page") for other in ("https://evil.example", "null", "", None)),
    ],
)
def test_only_the_visitor_can_publish_in_their_account(page, hub, visitor, request_, message):
    assert re.search(message, publish(page, visitor, **request_)) and hub.repositories == {}


@pytest.mark.browser
@pytest.mark.parametrize("sent", ["", "guess", None, 7, ["x"], "the secre", "the secret "])
@pytest.mark.parametrize("origin", ["http://127.0.0.1:7860", "http://evil.example"])
def test_only_the_browser_that_this_machine_opened_publishes_with_its_token(page, hub, visitor, drawn, sent, origin):
    """Whatever a request claims about where it comes from, only the secret counts."""
    headers = {"host": "127.0.0.1:7860", "origin": origin, "who": (None, None)}
    assert "no login" in publish(page, visitor, here=sent, **headers) and hub.repositories == {}
    secret = Page(Shared(["townscape"], device="cpu"), here="the secret")
    try:
        assert "no login" in publish(secret, visitor, here=sent, **headers) and hub.repositories == {}
    finally:
        secret.close()


def test_the_browser_that_this_machine_opened_publishes_with_its_token(hub, visitor, monkeypatch):
    monkeypatch.setattr("handlers.compare", lambda generator, rules, which, on_step: PICTURE)
    page = Page(Shared(["townscape"], device="cpu"), here="the secret")
    try:
        assert "ada/hats" in publish(page, visitor, here="the secret", who=(None, None))
    finally:
        page.close()
    with pytest.raises(InputError, match="hf auth login"):
        monkeypatch.setattr("publish_panel.get_token", lambda: None)
        own_token(None, None, login=False, here=True)


@pytest.mark.parametrize("origin", ["https://ada-page.example", "https://evil.example", "null", ""])
def test_on_a_space_only_the_login_of_the_same_page_counts(monkeypatch, origin):
    monkeypatch.setattr("publish_panel.ON_SPACE", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SPACE_HOST", "ada-page.example")
    request = gr.Request(request=SimpleNamespace(headers={"host": "proxy", "origin": origin}, client=None))
    with pytest.raises(InputError, match="Log in first"):
        own_token(request, None, login=True)
    if origin == "https://ada-page.example":
        assert own_token(request, SimpleNamespace(token="hf_theirs"), login=True) == "hf_theirs"
    else:
        with pytest.raises(InputError, match="another page"):
            own_token(request, SimpleNamespace(token="hf_theirs"), login=True)


def test_generator_from_an_own_file_gets_no_link_and_removed_files_are_listed(proggan, change, hub, drawn, tmp_path):
    store.save(proggan, tmp_path / "own")
    page = Page(Shared(["townscape", str(tmp_path / "own")], device="cpu"))
    own = rewriter.Rewriter(proggan, rules=[random_rule(proggan, change, "layer2")]).history
    visitor = Visitor(str(tmp_path / "own")).with_history(own)
    said = publish(page, visitor, "own", rules_only=False, private=False)
    assert "everybody can open it" in said and "?model=" not in said
    files = hub.repositories["model", "ada/own"].files()
    hub.repositories["model", "ada/own"].commit({**files, "exported/nvidia.pt": b"x"}, "by hand")
    assert "removed: exported/nvidia.pt" in publish(page, visitor, "own", rules_only=False, private=False)
    page.close()


def followed(queue, visitor, link):
    """What the page does: download what the link asks for, then continue with it."""
    *progress, last = queue.fetch_wanted(link)
    yield from progress
    name, *arguments = last["fetched"]
    yield from queue.follow(name, visitor, *arguments)


@pytest.mark.parametrize("weights", [True, False])
def test_published_generator_in_the_menu_is_downloaded_once_and_brings_its_rules(town, rule, hub, weights):
    put(town, rule, "ada/hats", weights=weights)
    queue = WorkQueue(Handlers(Shared(["townscape", "ada/hats"], device="cpu")))
    assert ("ada/hats ↓", "ada/hats") in generator_choices(queue.shared)
    with pytest.raises(gr.Error, match="choose it again"):
        queue.call("choose", Visitor(), "ada/hats")
    hub.fault = lambda n, request: "slow" if request.method == "GET" and "/resolve/" in request.path else None
    *progress, shown = followed(queue, Visitor(), "ada/hats")
    assert shown["visitor"].generator == "ada/hats" and len(shown["rules"]["rules"]) == 1
    assert any(message.startswith("Downloading ada/hats") for _, message in progress[:-1])
    hub.requests.clear()
    *_, again = followed(queue, shown["visitor"], "ada/hats")
    assert again["film"] == shown["film"] and hub.requests == []
    back = queue.call("choose", shown["visitor"], "townscape")["visitor"]
    for who, pending in ((Visitor(), "ada/hats"), (back, "")):  # a link is opened once
        assert queue.call("open", who, {"link": {"model": "ada/hats"}})["pending"]["wanted"] == pending


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("ada/none", "cannot open ada/none on the Hub: .*it is private"),
        ("ada/secret", "it is private"),
        ("ada/other", "no generator of ours"),
        ("ada/odd", "not offered here.* rewriter demo --generator ada/odd"),
    ],
)
def test_link_that_cannot_be_opened_says_why(page, town, proggan, rule, hub, change, link, message):
    put(town, rule, "ada/secret", private=True)
    hub.add("model", "ada/other", {"README.md": b"# x"})
    put(proggan, random_rule(proggan, change, "layer2"), "ada/odd", weights=True)
    with pytest.raises(gr.Error, match=message):
        list(followed(page.queue, Visitor(), link))
