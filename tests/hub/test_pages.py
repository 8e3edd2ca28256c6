"""Pages for others to keep: the player of a published generator, and the gallery as a static Space."""

import base64
import hashlib
import html
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard
from loopback import Account, LoopbackHub
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rewriter import worlds
from rewriter.checkpoints.client import connect
from rewriter.editing.edit import Edit
from rewriter.editing.effect import Effect
from rewriter.errors import InputError
from rewriter.generators.origin import Licence
from rewriter.hub import gallery, look, pairs, player, publish
from rewriter.hub.draft import draft, outdated
from rewriter.pictures import PAIRS, before_after, enlarged, to_image, to_png

TOKEN, NAME = "hf_ada_may_write", "ada/spires"
SITE, KEY = "ada/gallery", ("space", "ada/gallery")
NASTY = "</title><script>alert(1)</script><img src=x onerror=alert(1)> \" ' & \u202e {x}"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, at each upload


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub({TOKEN: Account("ada"), "hf_bob": Account("bob")}) as hub:
        hub.adopt(monkeypatch, tmp_path, TOKEN)
        yield hub


@pytest.fixture(scope="session")
def rule(town, random_rule):
    effect = Effect(0.3, 0.75, 0.66, 0.38, 48, 1122, 2.4, 0.53, 0.7, 0.92, 0.6, "took")
    edit = Edit.load(worlds.examples("townscape")["dome-to-spire"]).with_(title="dome to spire")
    return random_rule(town, "layer8", edit=edit, effect=effect)


@pytest.fixture(scope="session")
def drafted(town, rule):
    return draft(town, [rule], NAME, title="Spires & more", description=f"One.\n\nTwo {NASTY[:-5]}", weights=False)


def comparison(count=3, side=32, firing=2, seed=0):
    """A comparison of smooth random pictures: the tensors, and the file."""
    noise = torch.rand(2, count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    before, after = (torch.nn.functional.interpolate(one, size=(side, side), mode="bicubic") for one in noise)
    return before, after, to_png(before_after(before, after, range(40, 40 + count), firing=firing, columns=2))


FACTS = player.Facts("Spires", "", "Towns", (("dome", "At layer8.", "The edit took."),))


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, data):
        super().__init__()
        self.found, self.text, self.code, self.inside = [], "", {}, ""
        self.feed(data.decode())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            self.code[self.inside] = data
        else:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def asks_for_nothing(page):
    """Whether a page loads nothing from anywhere, and its policy allows just the script and style that are in it."""
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    for kind, code in page.code.items():
        assert f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}" in policy, kind
    loads = [each.get("src") or "" for tag in ("img", "script", "iframe") for each in page.all(tag)]
    names = {name for _, attributes in page.found for name in attributes}
    return (
        policy.startswith("default-src 'none'; ")
        and "unsafe" not in policy
        and "http" not in policy
        and len(page.all("script")) <= 1
        and page.all("link") == []
        and all(src.startswith("data:image/webp;base64,") for src in loads if src)
        and not {name for name in names if name.startswith("on") or name in ("style", "srcset")}
        and "url(" not in page.code["style"]
        and "@import" not in page.code["style"]
    )


# --- pairs ---


@pytest.mark.parametrize("side", [16, 32, 256])
def test_pairs_come_out_of_a_comparison_as_they_were_drawn(side):
    before, after, data = comparison(side=side)
    found = pairs.pairs(data)
    assert [(one.seed, one.matches) for one in found] == [(40, True), (41, True), (42, False)]
    for i, one in enumerate(found):
        for image, tensor in ((one.before, before[i]), (one.after, after[i])):
            wanted = enlarged(to_image(tensor), pairs.SHOWN)
            assert np.array_equal(np.asarray(image), np.asarray(wanted))


def claiming(about, size=(300, 600)):
    """A picture that says this about its pairs."""
    text, buffer = PngInfo(), io.BytesIO()
    if about is not None:
        text.add_text(PAIRS, about if isinstance(about, str) else json.dumps(about))
    Image.new("RGB", size).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


RIGHT = {"seeds": [1], "firing": 1, "side": 128, "size": 64, "corners": [[6, 6]]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"corners": [[6, 400]]}, "pair 1 lies outside"),
        ({"corners": [[-1, 6]]}, "corners 1 1 is -1"),
        ({"corners": [[6]]}, "expected left and top"),
        ({"corners": []}, "do not belong together"),
        ({"seeds": [], "corners": []}, "do not belong together"),
        ({"seeds": ["<b>"]}, "seeds 1 is '<b>'"),
        ({"seeds": [1] * 25, "corners": [[6, 6]] * 25}, "at most 24"),
        ({"size": 60}, "do not belong together"),
        ({"size": 0}, "size is 0"),
        ({"side": 10**9}, "side is"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_a_comparison_that_lies_about_its_pairs_is_refused(changes, said):
    assert len(pairs.pairs(claiming(RIGHT))) == 1
    with pytest.raises(InputError, match="publish the rules again") as refused:
        pairs.pairs(claiming({**RIGHT, **changes}))
    assert said in str(refused.value)


@pytest.mark.parametrize("about", [None, "", "[" * 100_000, "7", "null"])
def test_a_picture_without_a_list_of_pairs_is_refused(about):
    with pytest.raises(InputError, match="publish the rules again"):
        pairs.pairs(claiming(about))


def test_damaged_and_huge_pictures_are_refused(monkeypatch):
    data = comparison()[2]
    for bad in (b"", data[:100], data[: len(data) // 2], b"GIF89a" + data, claiming(RIGHT, size=(8193, 1))):
        with pytest.raises(InputError, match="publish the rules again"):
            pairs.pairs(bad)
    monkeypatch.setattr(pairs, "LIMIT", 1000)
    with pytest.raises(InputError, match="may have 1,000"):
        pairs.pairs(data)


# --- the player ---


def test_a_published_generator_brings_a_page_with_all_that_a_visitor_wants_to_know(drafted):
    page = Page(drafted.files["index.html"])
    assert asks_for_nothing(page) and len(drafted.files["index.html"]) <= player.MOST
    shown = pairs.pairs(drafted.files["comparison.png"])
    assert len(page.all("img")) == 2 + 2 * len(shown)
    for said in (
        "Spires & more",
        "The edit took: 92% of similar places on unseen pictures became what was asked for.",
        "At layer8: a change of the layer's weights, of rank 2.",
        'rewriter.load_generator("ada/spires")',
        "rewriter demo --generator ada/spires",
        "apache-2.0",
        *(str(one.seed) for one in shown),
    ):
        assert said in page.text
    assert any(link["href"].endswith("/ada/spires") for link in page.all("a"))
    assert "`index.html`" in drafted.card


def test_the_page_comes_with_the_pictures_however_they_are_added(town, rule, drafted):
    bare = draft(town, [rule], NAME, title="Spires & more", description=f"One.\n\nTwo {NASTY[:-5]}", pictures=False)
    assert "index.html" not in bare.files
    data = drafted.files["comparison.png"]
    other = bare.with_files({"pictures/1-dome-to-spire.png": b"x"}).with_files({"comparison.png": data})
    assert other.files["index.html"] == drafted.files["index.html"] and "index.html" in other.sizes
    assert outdated(["index.html", "mine.html", "sub/index.html"], bare) == ["index.html"]


def test_words_of_strangers_are_only_words():
    facts = player.Facts(NASTY, f"{NASTY}\n\n{NASTY}", NASTY, ((NASTY, NASTY, NASTY),), "ada/x", None, NASTY)
    facts = replace(facts, licence=Licence(NASTY, "javascript:alert(1)"))
    page = Page(player.page(facts, pairs.pairs(comparison()[2])))
    assert asks_for_nothing(page) and "alert(1)" in page.text and "\u202e" not in page.text
    assert {image["src"][:5] for image in page.all("img")} == {"data:"}
    assert [link["href"][:4] for link in page.all("a")] == ["http"]  # the Hub's, not the licence's


def test_a_page_of_noisy_pictures_stays_small():
    noise = torch.rand(24, 3, 256, 256) * 2 - 1
    data = to_png(before_after(noise, -noise, range(24), firing=24))
    assert 100_000 < len(player.page(FACTS, pairs.pairs(data))) <= player.MOST


def test_equal_facts_make_equal_bytes():
    data = comparison()[2]
    assert player.page(FACTS, pairs.pairs(data)) == player.page(FACTS, pairs.pairs(data))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_light_and_dark_have_enough_contrast():
    light, dark = look.ROOT.split("@media", 1)
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme))
        for ink in ("ink", "soft", "accent"):
            for paper in ("paper", "card"):
                one, other = sorted((luminance(colours[ink]), luminance(colours[paper])))
                assert (other + 0.05) / (one + 0.05) >= 4.5, (ink, paper)


def test_the_player_works_by_mouse_and_keyboard_from_the_file_system(browser, tmp_path):
    (tmp_path / "index.html").write_bytes(player.page(FACTS, pairs.pairs(comparison(count=5)[2])))
    context = browser.new_context(viewport={"width": 390, "height": 800}, reduced_motion="reduce")
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())
    at, big = "document.getElementById('stage').style.getPropertyValue('--at')", "document.getElementById('after').src"
    assert page.evaluate(at) == "50%"
    page.focus("#at")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == "51%" and page.get_attribute("#at", "aria-valuetext") == "49 % after"
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    assert float(page.evaluate(at).strip("%")) > 80
    before, under = page.evaluate(big), page.text_content("#under")
    page.focus(".strip input:checked")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(big) != before and page.text_content("#under") != under
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert len(asked) == 1 and errors == []
    context.close()


# --- the gallery ---


def shown(name="spires", **changes):
    return gallery.Shown(name, replace(FACTS, **changes), pairs.pairs(comparison()[2]))


def test_a_gallery_is_a_page_of_cards_and_a_page_for_each():
    made = gallery.files(SITE, [shown(title=NASTY), shown(), shown("trees")])
    paths = ["generators/spires.html", "generators/spires-2.html", "generators/trees.html"]
    assert list(made) == ["README.md", "index.html", *sorted(paths)]
    page = Page(made["index.html"])
    assert asks_for_nothing(page) and page.all("script") == [] and len(page.all("img")) == 6
    assert [link["href"] for link in page.all("a")] == paths
    assert RepoCard(made["README.md"].decode()).data.to_dict()["sdk"] == "static"
    assert all(asks_for_nothing(Page(made[path])) for path in paths)
    for count in (0, 101):
        with pytest.raises(InputError, match=f"1 to 100 generators, not {count}"):
            gallery.files(SITE, [shown()] * count)


def test_what_a_card_tells_is_read_back_as_it_was_typed(drafted, rule):
    facts = gallery.facts_in(drafted.card, [rule])
    typed = " ".join(drafted.facts.description.split())
    assert " ".join(facts.description.split()) == typed.replace("\u202e", "")
    for name in ("title", "base", "rules", "repo_id", "attribution", "licence"):
        assert getattr(facts, name) == getattr(drafted.facts, name), name


def test_a_strange_card_is_no_obstacle(rule):
    for text in ("", "# \n", "---\n" * 1000, "*Before above after\n\n" * 50_000, "\n\n1" * 300_000, NASTY):
        facts = gallery.facts_in(text, [rule], NAME)
        assert facts.title == "dome to spire" and facts.repo_id == NAME and facts.licence is None


@pytest.fixture
def published(hub, drafted):
    """One public generator with pictures, a private one, one without pictures, and one of somebody else."""
    api = connect(TOKEN, endpoint=hub.url)
    for name, private, pictures in ((NAME, False, True), ("ada/secret", True, True), ("ada/bare", False, False)):
        made = replace(drafted, repo_id=name)
        kept = {path: data for path, data in made.files.items() if pictures or not path.endswith(".png")}
        publish.send(replace(made, files=kept), publish.target(name, api, private=private))
    bob = connect("hf_bob", endpoint=hub.url)
    publish.send(replace(drafted, repo_id="bob/spires"), publish.target("bob/spires", bob, private=False))
    return hub


def test_the_gallery_of_an_account_shows_what_everybody_can_open_in_one_commit(published, run):
    status, out, err = run("deploy", "--static", SITE, "--json")
    made = published.repositories[KEY]
    assert status == 0 and made.sdk == "static" and not made.private and len(made.commits) == 2
    assert set(made.files()) == {".gitattributes", "README.md", "index.html", "generators/ada-spires.html"}
    assert "left out" in err and "ada/bare" in err and "secret" not in err + out
    assert json.loads(out)["files"] == 3
    page = Page(made.files()["generators/ada-spires.html"])
    assert "Spires & more" in page.text and "ada/spires" in page.text
    assert run("deploy", "--static", SITE)[1].startswith(f"{SITE} is up to date already")
    assert len(made.commits) == 2


@pytest.mark.evaluation
def test_repositories_folders_and_rule_files_can_be_named_and_a_dry_run_sends_nothing(
    published, drafted, rule, run, tmp_path
):
    drafted.save(tmp_path / "folder")
    rule.save(tmp_path / "towers.safetensors")
    asked = ("bob/spires", tmp_path / "folder", tmp_path / "towers.safetensors")
    status, out, _ = run("deploy", "--static", SITE, *asked, "--dry-run", "--json")
    sizes = json.loads(out)["files"]
    pages = ("bob-spires", "ada-spires", "towers")
    assert status == 0 and set(sizes) == {"README.md", "index.html", *(f"generators/{page}.html" for page in pages)}
    assert KEY not in published.repositories and not any("POST" in one and "space" in one for one in published.requests)


def test_the_page_that_the_hub_puts_into_a_new_space_is_replaced(hub, run, drafted, tmp_path, monkeypatch):
    drafted.save(tmp_path / "folder")
    add = hub.add
    template = {"index.html": b"welcome", "style.css": b"body {}"}
    monkeypatch.setattr(hub, "add", lambda *names, **options: add(*names, template, **options))
    assert run("deploy", "--static", SITE, tmp_path / "folder")[0] == 0
    assert b"<!doctype" in hub.repositories[KEY].files()["index.html"]


def test_an_update_deletes_our_outdated_pages_and_keeps_other_files(hub, run, drafted, tmp_path):
    drafted.save(tmp_path / "folder")
    old = {
        "index.html": b"old",
        "generators/gone.html": b"old",
        "about.html": b"mine",
        "README.md": b"---\nsdk: static",
    }
    there = hub.add(*KEY, old, sdk="static")
    status, out, _ = run("deploy", "--static", SITE, tmp_path / "folder")
    assert status == 0 and "removed generators/gone.html" in out and there.files()["about.html"] == b"mine"
    assert "generators/gone.html" not in there.files() and b"<!doctype" in there.files()["index.html"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sdk": "gradio"}, "another kind (gradio)"),
        ({"sdk": "static", "files": {"index.html": b"mine"}}, "another site (index.html)"),
    ],
)
def test_somebody_elses_space_is_not_touched(hub, run, drafted, tmp_path, options, said):
    drafted.save(tmp_path / "folder")
    there = hub.add(*KEY, **options)
    status, _, err = run("deploy", "--static", SITE, tmp_path / "folder")
    assert status == 2 and said in err and len(there.commits) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--static", "--hardware", "zero-a10g"), "--hardware is for the page"),
        (("ada/spires",), "add --static"),
        (("--static",), "publish one first"),
        (("--static", "ada/nothing"), "cannot open ada/nothing"),
        (("--static", "nonsense"), "USER/NAME"),
    ],
)
def test_a_gallery_that_cannot_be_made_says_what_to_do(hub, run, arguments, said):
    status, out, err = run("deploy", SITE, *arguments)
    assert status == 2 and out == "" and said in err and hub.repositories == {}


def test_pictures_of_strangers_are_drawn_anew(hub, drafted):
    """What hides behind the end of a picture, or in its text, does not reach the gallery."""
    files = {**drafted.files, "comparison.png": drafted.files["comparison.png"] + b"<script>smuggled</script>"}
    hub.add("model", "bob/odd", {**files, "README.md": b"# " + html.escape(NASTY).encode()})
    made = gallery.files(SITE, [gallery.published("bob/odd")])
    assert not any(b"smuggled" in data for data in made.values()) and asks_for_nothing(Page(made["index.html"]))
    hub.repositories["model", "bob/odd"].commit({**files, "comparison.png": b"no picture"}, "damage")
    with pytest.raises(InputError, match="comparison.png is damaged"):
        gallery.published("bob/odd")
