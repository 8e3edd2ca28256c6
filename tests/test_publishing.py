"""Published generators, against a loopback Hub with the unmodified client: there, back again, and every trouble."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest
import torch
from huggingface_hub import ModelCard, constants, utils
from loopback import Account, Answer, LoopbackHub
from markdown_it import MarkdownIt
from PIL import Image

import rewriter
from rewriter.checkpoints import store
from rewriter.checkpoints.catalogue import catalogue
from rewriter.checkpoints.convert import convert
from rewriter.editing.edit import Edit
from rewriter.editing.rule import Effect, Rule
from rewriter.errors import InputError
from rewriter.generators.origin import FoldedRule, Licence, Origin
from rewriter.hub import card, licences, publish, repository
from rewriter.hub.draft import Draft, compare, comparisons, draft, licensed
from rewriter.hub.licences import Text
from rewriter.pictures import GAP, to_image
from rewriter.worlds import townscape

TOKEN, READER, BOB = "hf_ada_may_write", "hf_ada_may_read", "hf_bob"
NAME, KEY = "ada/spires", ("model", "ada/spires")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, at each upload
ACCOUNTS = {TOKEN: Account("ada", ("guild",)), READER: Account("ada", write=False), BOB: Account("bob")}
NASTY = "1) a]( b) <script>alert(1)</script> ![x](http://e.org/x.png) www.e.org\u202e | # `{{x}}` --- &amp; @ada **b**"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(ACCOUNTS) as hub:
        hub.adopt(monkeypatch, tmp_path, TOKEN)
        yield hub


@pytest.fixture(scope="session")
def rules(town, change):
    """Two rules of the built-in generator: a strong one, and a weak one that is switched off."""
    edit = Edit.load(townscape.examples()["dome-to-spire"])
    effect = Effect(0.3, 0.75, 0.66, 0.38, 48, 1122, 2.4, 0.53, 0.7)
    made = []
    for layer, title in (("layer8", "dome to spire"), ("layer5", "Trees & more")):
        low = change(town, layer)
        own = {"edit": edit.with_(title=title, layer=layer), "fingerprint": town.fingerprint, "effect": effect}
        made.append(Rule(layer, low.delta, low.directions, **own))
    return [made[0].at(0.8), Rule(**{**vars(made[1]), "on": False})]


@pytest.fixture(scope="session")
def drafted(town, rules):
    return draft(town, rules, NAME, description="Spires.\n\nEverywhere.")


def sent(hub, drafted, token=TOKEN, **options):
    return publish.send(drafted, publish.connect(token, endpoint=hub.url), **options)


def complete(repository, drafted):
    """Whether all of the draft is there, and nothing else in our folders."""
    files = {path: data for path, data in repository.files().items() if path not in (".gitattributes", store.WEIGHTS)}
    return files == dict(drafted.files) and (store.WEIGHTS in repository.files()) == bool(drafted.later)


# --- what goes there ---


def test_one_commit_of_card_licence_config_rules_edits_and_pictures(hub, drafted):
    done = sent(hub, drafted)
    made = hub.repositories[KEY]
    assert complete(made, drafted) and made.private and done.created and done.changed
    assert len(made.commits) == 2 and done.commit == made.at().oid and done.url == f"{hub.url}/{NAME}"
    assert set(drafted.files) == {
        *("README.md", "LICENSE", "config.json", "comparison.png"),
        *(f"rules/{slug}.safetensors" for slug in ("1-dome-to-spire", "2-trees-more")),
        *(f"edits/{slug}.json" for slug in ("1-dome-to-spire", "2-trees-more")),
        *(f"pictures/{slug}.png" for slug in ("1-dome-to-spire", "2-trees-more")),
    }
    assert all(drafted.files[path][:4] == b"\x89PNG" for path in drafted.files if path.endswith(".png"))
    assert drafted.sizes[store.WEIGHTS] == pytest.approx(len(made.files()[store.WEIGHTS]), rel=0.01)


def test_loaded_in_a_fresh_process_it_draws_the_same_to_the_bit(hub, town, rules, drafted, tmp_path):
    sent(hub, drafted, private=False)
    lines = re.search(r"```python\n(.*?)```", drafted.card, re.DOTALL)[1]
    code = f"{lines}\nimport torch\ntorch.save([pictures, [(r.on, r.strength) for r in generator.rules]], 'drawn.pt')"
    environment = {**os.environ, **hub.environment(), "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment, check=True)
    pictures, states = torch.load(tmp_path / "drawn.pt", weights_only=True)
    assert states == [(True, 0.8), (False, 1.0)]
    assert torch.equal(pictures, town.sample(range(8), rules=rules))
    assert not torch.equal(pictures, town.sample(range(8)))


def test_rules_alone_are_small_and_find_their_base(hub, town, rules):
    made = draft(town, rules[:1], NAME, weights=False)
    assert sum(made.sizes[path] for path in made.sizes if not path.endswith(".png")) < 60_000 and not made.later
    sent(hub, made)
    loaded = rewriter.load_generator(NAME, device="cpu")
    assert torch.equal(loaded.sample([3]), town.sample([3], rules=rules[:1])) and loaded.origin.id == "townscape"
    assert not any("model.safetensors" in request for request in hub.requests)


@pytest.mark.parametrize("kind", ["stylegan", "proggan"])
def test_both_kinds_come_back_folded_layouts_too(hub, request, kind, change, tmp_path):
    base = convert(dict(request.getfixturevalue(kind).state_dict()), name=kind)
    layers = list(base.layers)[1:4:2]
    rules = [Rule(layer, *vars_of(change(base, layer)), fingerprint=base.fingerprint) for layer in layers]
    layouts = ("rosinality", "nvidia") if kind == "stylegan" else ("gandissect", "genforce")
    made = draft(base, rules, NAME, export=layouts, licence="mit")
    sent(hub, made)
    loaded = rewriter.load_generator(NAME, device="cpu")
    wanted = base.sample(range(3), rules=rules)
    assert torch.equal(loaded.sample(range(3)), wanted)
    assert torch.equal(loaded.sample(range(3), rules=[]), base.sample(range(3)))
    for layout in layouts:
        file = tmp_path / f"{layout}.pt"
        file.write_bytes(hub.repositories[KEY].files()[f"exported/{layout}.pt"])
        folded = rewriter.load_generator(str(file), device="cpu").sample(range(3))
        seen = [pictures.clamp(-1, 1) for pictures in (folded, wanted)]  # some layouts cut at white, as screens do
        assert (seen[0] - seen[1]).abs().max() < 1e-5
    assert "licence: [mit]" in made.card and ModelCard(made.card).data.license == "mit"


def vars_of(low):
    return low.delta, low.directions


def test_a_base_of_the_catalogue_is_named_fetched_and_keeps_its_licence(shelf, change, monkeypatch):
    shelf.accounts[TOKEN] = Account("ada")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    base = rewriter.load_generator("small", device="cpu")
    low = change(base, "layer4")
    rule = Rule("layer4", *vars_of(low), fingerprint=base.fingerprint)
    made = draft(base, [rule], "ada/rewritten", weights=False)
    data = ModelCard(made.card).data.to_dict()
    assert data["base_model"] == "ada/small" and data["base_model_relation"] == "finetune"
    assert data["license"] == "cc-by-4.0" and card.TAG in data["tags"] and b"cc-by-4.0" in made.files["LICENSE"]
    assert base.origin.revision in made.card and base.fingerprint in made.card and "Ada" in made.card
    sent(shelf, made, private=False)
    wanted = base.sample([1, 2], rules=[rule])
    assert torch.equal(rewriter.load_generator("ada/rewritten", device="cpu").sample([1, 2]), wanted)
    monkeypatch.delenv("REWRITER_CATALOGUE")  # whose catalogue has no such entry, finds it where the config says
    other = rewriter.load_generator("ada/rewritten", device="cpu")
    assert torch.equal(other.sample([1, 2]), wanted) and other.origin.licence.id == "cc-by-4.0"


def test_a_clamp_given_by_hand_goes_along(shelf, change, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shelf.accounts[TOKEN] = Account("ada")
    base = rewriter.load_generator("small", device="cpu", conv_clamp=0.5)
    rule = Rule("layer4", *vars_of(change(base, "layer4")), fingerprint=base.fingerprint)
    sent(shelf, draft(base, [rule], "ada/clamped", weights=False))
    loaded = rewriter.load_generator("ada/clamped", device="cpu")
    assert torch.equal(loaded.sample([1]), base.sample([1], rules=[rule]))
    plain = rewriter.load_generator("small", device="cpu")
    assert plain.fingerprint != base.fingerprint and not torch.equal(plain.sample([1]), base.sample([1]))


def test_a_rules_picture_is_of_that_rule_on_top_of_those_before(town, rules):
    on = [rules[0], Rule(**{**vars(rules[1]), "on": True})]
    for second in (rules[1], on[1], on[1].at(0.0)):  # one that is not in force is shown as it would be
        each = card.named([rules[0], second])
        assert comparisons(each) == ["comparison.png", *(f"pictures/{one.slug}.png" for one in each)]
        assert shows(compare(town, each, 2), town, rules[:1], on)
    assert shows(compare(town, card.named(rules), 0), town, [], rules)
    off = [Rule(**{**vars(rule), "on": False}) for rule in rules]
    assert shows(compare(town, card.named(off), 0), town, [], [Rule(**{**vars(rule), "on": True}) for rule in off])


def shows(png, town, before, after):
    """Whether the two pictures at a sheet's top left are an unseen one before and after these rules, which differ."""
    side, zoom = town.resolution, max(1, 128 // town.resolution)
    boxes = [(GAP, GAP + i * side * zoom, GAP + side * zoom, GAP + (i + 1) * side * zoom) for i in range(2)]
    sheet = Image.open(io.BytesIO(png))
    seen = [pixels(sheet.crop(box).resize((side, side), Image.Resampling.NEAREST)) for box in boxes]
    drawn = (town.sample(range(10_000, 10_024), rules=own) for own in (before, after))
    for pair in zip(*drawn, strict=True):
        own = [pixels(to_image(picture)) for picture in pair]
        if all((a - b).abs().max() <= 1 for a, b in zip(seen, own, strict=True)):  # batches of other sizes round anew
            return bool((own[0] - own[1]).abs().max() > 20)
    return False


def pixels(image):
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int()


# --- the card ---


def test_the_card_says_what_was_changed_and_the_hub_takes_it(drafted):
    data = ModelCard(drafted.card).data.to_dict()
    assert data["license"] == "apache-2.0" and data["library_name"] == "rewriter" and "base_model" not in data
    assert data["pipeline_tag"] == "unconditional-image-generation" and card.TAG in data["tags"]
    text = drafted.card
    for said in (
        "# Dome to spire",
        "Spires&#46;\n\nEverywhere",
        "switched off",
        "strength 0.8, by least-squares",
        "75% of 1122",
        "0.66/255",
    ):
        assert said in text
    files = re.findall(r"`((?:rules|edits)/[^`]+?)(?:`|\s)", text) + re.findall(r"\]\(([\w/.-]+\.png)\)", text)
    assert {re.sub(r"^rewriter apply ", "", file) for file in files} >= {
        "comparison.png",
        "pictures/1-dome-to-spire.png",
    }
    assert all(file in drafted.files for file in files if "/" in file and " " not in file)


@pytest.mark.parametrize("where", ["title", "description", "rule"])
def test_words_of_strangers_are_words_and_nothing_else(town, rules, where):
    typed = NASTY.replace("\u202e", "") if where != "rule" else NASTY
    odd = replace(rules[0], edit=replace(rules[0].edit, title=typed))
    named = card.named([odd if where == "rule" else rules[0]])
    words = {"title": "t", "description": "d", **({where: typed} if where != "rule" else {})}
    text = card.write(town, named, NAME, **words, weights=True, exported={}, version="1")
    plain = card.write(
        town, card.named([rules[0]]), NAME, title="t", description="d", weights=True, exported={}, version="1"
    )
    assert ModelCard(text).data.to_dict() == ModelCard(plain).data.to_dict()
    assert structure(text) == structure(plain)
    shown = "".join(token.content for token in flat(text) if token.type == "text")
    assert "<script>alert(1)</script>" in shown and "http:\u2060//e.org" in shown and "\u202e" not in text


def flat(text):
    """Every piece of a card's Markdown, as GitHub's flavour reads it."""
    body = text.split("\n---\n", 1)[1]
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(body):
        yield token
        yield from token.children or ()


def structure(text):
    """What a card has beside words: kinds of its pieces, and where links and pictures lead; ours have any name."""
    ours = re.compile(r"pictures/1-[a-z0-9-]+\.png")
    return [
        (token.type, token.attrs.get("href"), ours.sub("ours", token.attrs.get("src", "")))
        for token in flat(text)
        if token.type not in ("text", "softbreak")
    ]


def test_names_of_files_come_from_titles_and_lead_nowhere(rules):
    titles = ["../../etc/passwd", "", "…", "A" * 300, "x\x00y", "CON", "rules/../../x"]
    named = card.named([replace(rules[0], edit=replace(rules[0].edit, title=title)) for title in titles])
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,80}", each.slug) for each in named)
    assert len({each.slug for each in named}) == len(titles)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"title": "x" * 81}, "80 characters"),
        ({"title": "a\nb"}, "one line"),
        ({"description": "x\x1b[31m"}, "plain text"),
        ({"description": "x" * 2001}, "2,000"),
        ({"export": ["pickle"]}, "rosinality"),
        ({"export": ["gandissect"]}, "rosinality"),
        ({"licence": "mit"}, "cannot be changed"),
    ],
)
def test_what_cannot_be_drafted_is_said_before_any_work(town, rules, given, said):
    with pytest.raises(InputError, match=re.escape(said)):
        draft(town, rules, NAME, **given)


def test_no_rules_rules_of_another_and_a_base_nobody_could_fetch(town, stylegan, rules, change):
    with pytest.raises(InputError, match="no rule"):
        draft(town, [], NAME)
    with pytest.raises(InputError, match="fingerprint"):
        draft(stylegan, rules, NAME)
    own = Rule("layer4", *vars_of(change(stylegan, "layer4")), fingerprint=stylegan.fingerprint)
    with pytest.raises(InputError, match="with its weights"):
        draft(stylegan, [own], NAME, weights=False)
    unknown = draft(stylegan, [own], NAME)
    assert ModelCard(unknown.card).data.license == "unknown" and b"not known" in unknown.files["LICENSE"]


# --- licences ---


NVIDIA = Licence("nvidia-source-code-license-nc", "https://nvlabs.github.io/stylegan2/license.html")


def test_a_non_commercial_licence_stays_one_and_its_text_goes_along(hub, town, rules, monkeypatch):
    text = b"Nvidia Source Code License-NC\n"
    hub.raw["LICENSE.txt"] = text
    sha = hashlib.sha256(text).hexdigest()
    monkeypatch.setitem(licences.TEXTS, NVIDIA.link, Text(f"{hub.url}/raw/LICENSE.txt", sha))
    base = town.rewritten([])
    base.origin = replace(town.origin, id="church", licence=NVIDIA, repository="a/b", attribution="Karras")
    for _ in range(2):  # the second time from what was kept
        made = draft(base, rules[:1], NAME)
        assert made.files["LICENSE"] == text
    assert hub.requests.count("GET /raw/LICENSE.txt") == 1
    data = ModelCard(made.card).data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", NVIDIA.id, "LICENSE")
    assert "non-commercial use only" in made.card and data["base_model"] == "a/b"


def test_whose_it_is_is_not_a_strangers_to_say(hub, town, rules, drafted):
    about = json.loads(drafted.files["config.json"])
    mit = {"id": "mit", "link": "https://opensource.org/license/mit"}
    odd = {**about["origin"], "licence": mit, "attribution": "Eve", "file": "a` <img src=//e.org/x.png>"}
    weights = townscape.WEIGHTS.read_bytes()
    hub.add("model", "eve/mine", {**hostile(drafted, origin=odd), store.WEIGHTS: weights})
    loaded = rewriter.load_generator("eve/mine", device="cpu")
    assert loaded.origin.licence.id == "apache-2.0" and "Eve" not in loaded.origin.attribution
    base = town.rewritten([])
    base.origin = replace(town.origin, file=odd["file"], repository="e/vil", licence=NVIDIA)
    text = card.write(base, card.named(rules), NAME, title="t", description="", weights=True, exported={}, version="1")
    assert "<img" not in text and "built into" not in text and "non-commercial use only" in text


def test_weights_under_another_bases_name_are_not_that_base(hub, town, stylegan, rules, change, monkeypatch, tmp_path):
    own = Rule("layer4", *vars_of(change(stylegan, "layer4")), fingerprint=stylegan.fingerprint)
    made = draft(stylegan, [own], "eve/mine")
    made.save(tmp_path)
    built_in = json.loads(draft(town, rules, NAME).files["config.json"])["base"]
    files = {**hostile(made, base=built_in), store.WEIGHTS: (tmp_path / store.WEIGHTS).read_bytes()}
    hub.add("model", "eve/mine", files)
    with pytest.raises(InputError, match="says that its base is townscape"):
        rewriter.load_generator("eve/mine", device="cpu")
    # of what cannot be compared the licence is kept, and its rules go nowhere alone
    church = catalogue()["church"]
    claimed = {name: getattr(church, name) for name in ("id", "repository", "file", "revision", "size", "sha256")}
    hub.add("model", "eve/church", {**files, **hostile(made, base={**claimed, "clamp": church.clamp})})
    loaded = rewriter.load_generator("eve/church", device="cpu")
    assert loaded.origin.licence == NVIDIA
    with pytest.raises(InputError, match="with its weights"):
        draft(loaded, None, NAME, weights=False)


def test_a_licence_that_is_stated_is_said_to_be(stylegan, change):
    own = Rule("layer4", *vars_of(change(stylegan, "layer4")), fingerprint=stylegan.fingerprint)
    text = card.write(
        licensed(stylegan, NVIDIA.id),
        card.named([own]),
        NAME,
        title="t",
        description="",
        weights=True,
        exported={},
        version="1",
    )
    assert "non-commercial use only" in text and "as its publisher states it" in text


def test_a_base_with_rules_in_its_weights_is_nowhere_else(town, rules):
    folded = town.rewritten([])
    there = {"repository": "a/b", "revision": "0" * 40, "sha256": "0" * 64}
    folded.origin = replace(town.origin, **there, rules=(FoldedRule("x", "layer2", 1, 1.0),))
    with pytest.raises(InputError, match="with its weights"):
        draft(folded, rules, NAME, weights=False)
    assert json.loads(draft(folded, rules, NAME).files["config.json"])["base"] is None


@pytest.mark.parametrize(("text", "said"), [(b"another text", "not the licence's text"), (None, "404")])
def test_a_licence_that_is_not_what_it_was(hub, monkeypatch, text, said, tmp_path):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    hub.raw |= {"LICENSE.txt": text} if text else {}
    monkeypatch.setitem(licences.TEXTS, NVIDIA.link, Text(f"{hub.url}/raw/LICENSE.txt", "0" * 64))
    with pytest.raises(InputError, match=said):
        licences.text_of(Origin(licence=NVIDIA))
    assert list(tmp_path.rglob("*.txt")) == []


def test_the_built_in_generators_licence_is_the_projects():
    assert b"Apache License" in licences.own()


# --- again, elsewhere, with others ---


def test_again_is_another_commit_without_what_is_gone(hub, town, rules, drafted):
    sent(hub, drafted)
    made = hub.repositories[KEY]
    anew = draft(town, rules, NAME, description="Spires.\n\nEverywhere.")
    assert anew.files == drafted.files and not sent(hub, anew).changed and len(made.commits) == 2
    made.commit({**made.files(), "notes.md": b"mine"}, "by hand")
    less = draft(town, rules[1:], NAME, weights=False)
    done = sent(hub, less)
    assert done.changed and not done.created and len(made.commits) == 4
    assert made.files()["notes.md"] == b"mine" and store.WEIGHTS not in made.files()
    assert {path for path in made.files() if "/" in path} == {path for path in less.files if "/" in path}


def test_a_revision_stays_what_it_was(hub, town, rules, drafted):
    first = sent(hub, drafted)
    second = sent(hub, draft(town, [rules[0].at(2.0)], NAME))
    assert rewriter.load_generator(NAME, revision=first.commit, device="cpu").rules[0].strength == 0.8
    asked = len(hub.requests)
    assert len(rewriter.load_generator(NAME, revision=first.commit, device="cpu").rules) == 2
    assert len(hub.requests) == asked  # a commit that is here is asked for nowhere
    newest = rewriter.load_generator(NAME, device="cpu")
    assert newest.rules[0].strength == 2.0 and newest.origin.published == f"{NAME}@{second.commit}"
    with pytest.raises(InputError, match="check the name"):
        rewriter.load_generator(NAME, revision="nowhere", device="cpu")


def test_offline_it_is_what_was_fetched_last(hub, monkeypatch, drafted):
    sent(hub, drafted)
    rewriter.load_generator(NAME, device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    utils.close_session()
    assert len(rewriter.load_generator(NAME, device="cpu").rules) == 2
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        rewriter.load_generator("ada/never", device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    utils.close_session()


def test_to_somebody_elses_it_is_a_proposal(hub, drafted):
    sent(hub, drafted, private=False)
    made = hub.repositories[KEY]
    before = made.at().oid
    other = Draft(NAME, "other", {**drafted.files, "README.md": b"# mine\n"}, drafted.later, drafted.sizes)
    with pytest.raises(InputError, match="propose"):
        sent(hub, other, BOB)
    same = sent(hub, drafted, BOB, create_pr=True)
    assert not same.proposed and not same.changed and len(made.commits) == 2
    done = sent(hub, other, BOB, create_pr=True)
    assert done.proposed and done.url.endswith("/discussions/1") and made.at().oid == before
    assert made.files("refs/pr/1")["README.md"] == b"# mine\n"
    with pytest.raises(InputError, match="without create_pr"):
        sent(hub, Draft("ada/none", "x", {}), create_pr=True)


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ({"model.bin": b"x"}, {}, "taken by another model"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, {}, "taken by another model"),
        ({"config.json": b"{}", "rules/1-x.safetensors": b""}, {"private": True}, "is public"),
    ],
)
def test_a_name_that_is_taken_is_not_written_over(hub, drafted, files, options, said):
    there = hub.add(*KEY, files)
    with pytest.raises(InputError, match=said):
        sent(hub, drafted, **options)
    assert len(there.commits) == 1


@pytest.mark.parametrize("name", ["spires", "../x", "ada/../bob", "ada/x/y", "ada/sp ires", "ada/<b>", "https://x/y"])
def test_a_name_that_is_none(hub, town, rules, name):
    with pytest.raises(InputError, match="USER/NAME"):
        rewriter.publish(town, rules, name)
    with pytest.raises(InputError):
        rewriter.load_generator(name)
    assert hub.requests == []


# --- every trouble ---


@pytest.mark.parametrize(
    ("path", "fault", "said"),
    [
        ("/create", 402, "paid plan"),
        ("/create", 403, "of your own account"),
        ("/validate-yaml", Answer(400, b'{"errors": [{"message": "license is odd"}]}'), "license is odd"),
        ("/lfs/", 403, "may not write"),
        ("/commit/", 413, "rules only"),
        ("/commit/", 409, "try again"),
        ("/commit/", Answer(403, b'{"error": "not with hf_ada_may_write"}'), "not with ***"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(hub, drafted, path, fault, said):
    hub.fault = lambda n, request: fault if path in request.path else None
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        sent(hub, drafted)
    assert TOKEN not in str(raised.value)
    assert KEY not in hub.repositories or len(hub.repositories[KEY].commits) == 1


@pytest.mark.parametrize(("times", "ended"), [(2, "published"), (3, "412")])
def test_a_race_is_tried_again_on_top_and_then_reported(hub, drafted, times, ended):
    there, raced = hub.add(*KEY, {**drafted.files, "rules/1-old.safetensors": b"", "notes.md": b""}), []

    def race(n, request):
        if "/commit/" in request.path and len(raced) < times:
            theirs = {"notes.md": b"%d" % len(raced), "config.json": b"{ }", "LICENSE": b"theirs"}
            raced.append(there.commit({**there.files(), **theirs}, "theirs"))

    hub.fault = race
    if ended == "412":
        with pytest.raises(InputError, match="412"):
            sent(hub, drafted)
        assert there.at() == raced[-1]
    else:
        assert sent(hub, drafted).changed and there.files()["notes.md"] == b"1"
        assert len(there.commits) == 4 and complete_but_notes(there, drafted)


def complete_but_notes(there, drafted):
    return {**drafted.files, "notes.md": b"1"}.items() <= there.files().items() and store.WEIGHTS in there.files()


@pytest.mark.parametrize("fault", ["cut", "lost", *(pytest.param(f, marks=pytest.mark.slow) for f in (500, "always"))])
def test_trouble_at_any_request_leaves_all_or_nothing_and_is_made_good_by_trying_again(hub, drafted, fault):
    for first in count(1):
        hub.repositories.clear(), hub.uploads.clear(), hub.requests.clear()
        hub.fault = lambda n, request, first=first: (
            "cut" if fault == "always" and n >= first else fault if n == first else None
        )
        try:
            done = sent(hub, drafted)
        except InputError as error:
            done = None
            assert TOKEN not in str(error) and "again" in str(error)
        there = hub.repositories.get(KEY)
        if len(hub.requests) < first:
            break
        assert there is None or len(there.commits) == 1 or (len(there.commits) == 2 and complete(there, drafted))
        assert done is None or complete(there, drafted)
        hub.fault = lambda n, request: None
        sent(hub, drafted)
        assert complete(hub.repositories[KEY], drafted) and len(hub.repositories[KEY].commits) == 2
    assert first == 10  # the nine requests of a first time, each of them in trouble once


@pytest.mark.parametrize("fault", ["cut", pytest.param("lost", marks=pytest.mark.slow)])
def test_trouble_at_any_request_of_another_time_leaves_the_old_or_the_new(hub, town, rules, drafted, fault):
    newer = draft(town, [rules[0].at(2.0)], NAME)
    for first in count(1):
        hub.repositories.clear(), hub.uploads.clear()
        hub.fault = lambda n, request: None
        sent(hub, drafted)
        hub.requests.clear()
        hub.fault = lambda n, request, first=first: fault if n == first else None
        with suppress(InputError):
            sent(hub, newer)
        there = hub.repositories[KEY]
        assert complete(there, drafted) != complete(there, newer)
        if len(hub.requests) < first:
            break
        hub.fault = lambda n, request: None
        sent(hub, newer)
        assert complete(there, newer) and len(there.commits) == 3
    assert first > 5


def test_the_token_of_the_environment_is_in_no_message_either(hub, drafted):
    said = Answer(403, b"{}", {"X-Error-Message": f"not with {TOKEN}"})
    hub.fault = lambda n, request: said
    for ask in (repository.listed, lambda: rewriter.load_generator("ada/x", device="cpu")):
        with pytest.raises(InputError, match=r"not with \*\*\*"):
            ask()


def test_what_arrived_unheard_is_not_called_empty(hub, drafted):
    hub.fault = lambda n, request: "lost" if "/commit/" in request.path else None
    with pytest.raises(InputError) as raised:
        sent(hub, drafted)
    assert complete(hub.repositories[KEY], drafted) and "is empty" not in str(raised.value)


def test_a_full_account_is_one_whatever_the_status(hub, drafted):
    full = Answer(403, b'{"error": "Private repository storage limit reached"}')
    hub.fault = lambda n, request: full if "/lfs/" in request.path else None
    with pytest.raises(InputError, match="403 .*limit reached.*rules only.*ada/spires was made, and is empty"):
        sent(hub, drafted)


def test_nothing_is_drawn_for_a_name_that_is_taken(hub, town, rules, monkeypatch):
    hub.add("model", NAME, {"model.bin": b"x"})
    monkeypatch.setattr(publish, "draft", None)
    with pytest.raises(InputError, match="taken by another model"):
        rewriter.publish(town, rules, NAME)


def test_a_login_that_has_ended_is_said_at_once_in_the_callers_words(hub, drafted):
    with pytest.raises(InputError, match=r"401 .*log out and in"):
        sent(hub, drafted, "hf_expired", advice={401: "log out and in again"})
    assert len(hub.requests) == 1 and hub.repositories == {}


# --- repositories of strangers ---


def hostile(drafted, **config):
    about = json.loads(drafted.files["config.json"])
    return {**drafted.files, "config.json": json.dumps({**about, **config}).encode()}


BASE = {"id": "x", "repository": "e/vil", "file": "x.pt", "revision": "0" * 40, "size": None, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rules": ["../../../x.safetensors"]}, "expected a file in rules/"),
        ({"rules": ["/etc/passwd"]}, "expected a file in rules/"),
        ({"rules": [{"file": "x"}]}, "expected a file in rules/"),
        ({"rules": []}, "rules is empty"),
        ({"rules": ["rules/1-dome-to-spire.safetensors"] * 65}, "at most 64"),
        ({"rules": ["rules/9-none.safetensors"]}, "was deleted"),
        ({"format": "other"}, "rewriter convert"),
        ({"version": 3}, "update this package"),
        ({"fingerprint": "0" * 64}, "fetch both again"),
        ({"fingerprint": None}, "fingerprint is None"),
        ({"base": {**BASE, "clamp": None, "repository": None}}, "no repository"),
        ({"base": {**BASE, "clamp": None, "file": "../../x"}}, "below its repository"),
        ({"base": {**BASE, "clamp": None, "revision": "main"}}, "40 hexadecimal"),
        ({"base": {**BASE, "clamp": None, "sha256": None}}, "lacks revision or sha256"),
        ({"base": "townscape"}, "expected an object"),
        ({"base": None, "weights": False}, "neither weights nor base"),
        ({"weights": 1}, "true or false"),
    ],
)
def test_a_config_of_a_stranger_is_refused_by_name(hub, town, drafted, config, said):
    weights = {store.WEIGHTS: townscape.WEIGHTS.read_bytes()}
    hub.add("model", "eve/odd", {**hostile(drafted, **config), **weights})
    with pytest.raises(InputError, match=said):
        rewriter.load_generator("eve/odd", device="cpu")


def test_files_too_large_rules_of_another_base_and_what_is_no_generator(hub, drafted, town):
    hub.add("model", "eve/large", {"config.json": b" " * (store.CONFIG_LIMIT + 1)})
    with pytest.raises(InputError, match="at most 1 MB"):
        rewriter.load_generator("eve/large", device="cpu")
    rule = drafted.files["rules/1-dome-to-spire.safetensors"].replace(town.fingerprint.encode(), b"0" * 64)
    hub.add("model", "eve/rule", {**hostile(drafted, weights=False), "rules/1-dome-to-spire.safetensors": rule})
    with pytest.raises(InputError, match="another generator"):
        rewriter.load_generator("eve/rule", device="cpu")
    hub.add("model", "eve/llm", {"config.json": b'{"model_type": "gpt2"}', store.WEIGHTS: bytes(3 << 20)})
    with pytest.raises(InputError, match="not the config of a generator"):
        rewriter.load_generator("eve/llm", device="cpu")
    assert not any("eve/llm" in asked and store.WEIGHTS in asked for asked in hub.requests)
    hub.add("model", "eve/other", {"README.md": b"# x"})
    with pytest.raises(InputError, match="no generator of ours"):
        rewriter.load_generator("eve/other", device="cpu")
    hub.add("model", "eve/secret", dict(drafted.files), private=True)
    with pytest.raises(InputError, match="check the name"):
        rewriter.load_generator("eve/secret", device="cpu")


# --- the command ---


@pytest.fixture
def rule_file(rules, tmp_path):
    rules[0].save(tmp_path / "spire.safetensors")
    return tmp_path / "spire.safetensors"


def test_published_listed_drawn_inspected_and_published_further(hub, run, rule_file, rules, tmp_path, town):
    status, out, err = run("publish", NAME, rule_file, "--public", "--json", "--rules-only")
    assert status == 0 and json.loads(out)["url"] == f"{hub.url}/{NAME}" and "sending" in err
    assert not hub.repositories[KEY].private
    assert f"{NAME}" in run("generators", "--published")[1]
    assert json.loads(run("generators", "--published", "--json")[1])["published"][0]["repo_id"] == NAME
    assert run("sample", "--generator", NAME, "--seeds", "0-1", "--out", tmp_path / "drawn.png")[0] == 0
    assert "dome to spire" in run("inspect", NAME)[1]
    rules[1].save(tmp_path / "more.safetensors")
    status, out, _ = run("publish", "ada/more", tmp_path / "more.safetensors", "--generator", NAME)
    assert status == 0 and hub.repositories["model", "ada/more"].private
    loaded = rewriter.load_generator("ada/more", device="cpu")
    assert loaded.origin.id == "townscape"
    assert [rule.strength for rule in loaded.rules] == [0.8, 1.0]
    folder = tmp_path / "folded"
    assert run("convert", NAME, folder)[0] == 0
    folded = rewriter.load_generator(str(folder), device="cpu")
    assert (folded.sample([1]) - town.sample([1], rules=rules[:1])).abs().max() < 1e-4


def test_a_session_goes_too_and_a_folder_can_be_looked_at_first(hub, run, rules, town, tmp_path):
    session = rewriter.Rewriter(town, rules=rules)
    session.save(tmp_path / "work.safetensors")
    status, out, _ = run("publish", NAME, tmp_path / "work.safetensors", "--out", tmp_path / "look", "--title", "Mine")
    assert status == 0 and hub.requests == [] and (tmp_path / "look" / "README.md").read_text().count("# Mine") == 1
    there = rewriter.load_generator(str(tmp_path / "look"), device="cpu")
    assert torch.equal(there.sample([2]), town.sample([2], rules=rules))


def test_on_top_of_a_published_one_its_rules_stay_and_count_once(hub, run, rule_file, drafted, rules, town, tmp_path):
    sent(hub, drafted)
    carrying = rewriter.load_generator(NAME, device="cpu")
    session = rewriter.Rewriter(carrying)
    assert [rule.strength for rule in session.rules] == [0.8, 1.0]
    session.remove(1)
    session.save(tmp_path / "work.safetensors")
    assert run("publish", "ada/less", tmp_path / "work.safetensors", "--generator", NAME)[0] == 0
    less = rewriter.load_generator("ada/less", device="cpu")
    assert len(less.rules) == 1 and torch.equal(less.sample([4]), town.sample([4], rules=rules[:1]))
    for command in (
        ("sample", "--generator", NAME, "--rule", rule_file, "--out", tmp_path / "x.png"),
        ("convert", NAME, tmp_path / "x", "--rule", rule_file),
        ("publish", "ada/more", rule_file, "--generator", NAME),
    ):
        status, _, err = run(*command)
        assert status == 2 and "'dome to spire' is given twice, or the generator brings it along" in err
    for command in ("sample", "--out", tmp_path / "x.png"), ("stats", "--layer", "layer8"):
        status, _, err = run(*command, "--rule", rule_file, "--rule", rule_file)
        assert status == 2 and "given twice" in err


@pytest.mark.slow
def test_an_edit_is_applied_on_top_of_the_rules_of_a_published_one(hub, run, drafted, tmp_path):
    sent(hub, drafted)
    made = tmp_path / "light.safetensors"
    status, *_ = run(
        "apply", "no-light-on-ground", "--generator", NAME, "--out", tmp_path / "l.png", "--save-rule", made
    )
    assert status == 0
    assert run("publish", "ada/more", made, "--generator", NAME)[0] == 0
    more = rewriter.load_generator("ada/more", device="cpu")
    assert [rule.layer for rule in more.rules][:2] == ["layer8", "layer5"] and len(more.rules) == 3


def test_rules_alone_of_what_has_rules_in_its_weights_are_refused(hub, run, town, rules, change, tmp_path):
    sent(hub, draft(town, rules[:1], NAME))
    assert run("convert", NAME, tmp_path / "folded")[0] == 0
    folded = rewriter.load_generator(str(tmp_path / "folded"), device="cpu")
    Rule("layer4", *vars_of(change(folded, "layer4")), fingerprint=folded.fingerprint).save(tmp_path / "r.safetensors")
    arguments = "publish", "ada/folded", tmp_path / "r.safetensors", "--generator", tmp_path / "folded"
    status, _, err = run(*arguments, "--rules-only")
    assert status == 2 and "publish it with its weights" in err
    assert run(*arguments)[0] == 0
    loaded = rewriter.load_generator("ada/folded", device="cpu")
    assert loaded.fingerprint == folded.fingerprint and "dome to spire" in loaded.origin.rules[0].title


def test_masks_that_take_long_to_look_at_are_refused(town, rules, monkeypatch):
    monkeypatch.setattr(repository, "CELLS", rules[0].edit.cells + 1)
    draft(town, rules[:1], NAME, pictures=False)
    with pytest.raises(InputError, match="masks of all rules together"):
        draft(town, rules, NAME, pictures=False)


def test_a_rule_made_after_others_does_not_go_without_them(hub, run, drafted, tmp_path):
    sent(hub, drafted)
    session = rewriter.Rewriter(rewriter.load_generator(NAME, device="cpu"))
    later = Edit.load(townscape.examples()["add-tree"]).with_(after=session.edit.after)
    assert later.after
    replace(session.rules[0], edit=later, delta=-session.rules[0].delta).save(tmp_path / "r.safetensors")
    status, _, err = run("publish", "ada/more", tmp_path / "r.safetensors")
    assert status == 2 and "made on top of rules that are not given" in err
    assert run("publish", "ada/more", tmp_path / "r.safetensors", "--generator", NAME)[0] == 0


def test_a_folder_that_held_more_holds_what_is_drafted(run, rules, town, tmp_path):
    draft(town, rules, NAME, pictures=False).save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    less = draft(town, rules[:1], NAME, weights=False, pictures=False)
    less.save(tmp_path)
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {*less.files, "notes.txt"}


@pytest.mark.parametrize("config", ['{"rules": {"semi": 2}}', "no JSON"])
def test_a_folder_of_something_else_keeps_what_it_had(rules, town, tmp_path, config):
    theirs = {"rules/no-any.js": b"x", "pictures/holiday.jpg": b"y", store.WEIGHTS: b"z"}
    for path, data in {**theirs, "config.json": config.encode()}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    draft(town, rules[:1], NAME, weights=False, pictures=False).save(tmp_path)
    assert all((tmp_path / path).read_bytes() == data for path, data in theirs.items())


def test_what_became_of_it_is_said(hub, run, rule_file):
    status, out, _ = run("publish", NAME, rule_file, "--public", "--export", "rosinality")
    assert status == 0 and "published, everybody can open it" in out
    status, out, _ = run("publish", NAME, rule_file, "--rules-only")
    assert status == 0 and "updated" in out and "removed: exported/rosinality.pt, model.safetensors" in out
    assert "is up to date already" in run("publish", NAME, rule_file, "--rules-only")[1]


def test_bad_arguments_are_one_line(hub, run, rule_file, tmp_path, monkeypatch, rules):
    rules[0].save(tmp_path / "damaged.safetensors")
    damaged = (tmp_path / "damaged.safetensors").read_bytes()
    (tmp_path / "damaged.safetensors").write_bytes(damaged.replace(b'\\"after\\": [', b'\\"afte_\\": ['))
    for arguments, said in (
        (["nobody", rule_file], "USER/NAME"),
        ([NAME, tmp_path / "none.safetensors"], "cannot read"),
        (["bob/x", rule_file], "403"),
        ([NAME, rule_file, "--licence", "mit"], "cannot be changed"),
        ([NAME, rule_file, rule_file], "given twice"),
        ([NAME, tmp_path / "damaged.safetensors"], "afte_"),
    ):
        status, out, err = run("publish", *arguments)
        assert status == 2 and said in err.splitlines()[-1] and out == ""
    monkeypatch.setenv("HF_TOKEN", "")
    assert "hf auth login" in run("publish", NAME, rule_file)[2]
