"""Generators are published on a loopback Hub by the unmodified client, load again, and survive every kind of fault."""

import hashlib
import io
import json
import re
from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest
import torch
from huggingface_hub import ModelCard, constants, utils
from loopback import LARGE, Account, Answer, LoopbackHub
from markdown_it import MarkdownIt
from PIL import Image

import rewriter
from rewriter import Edit, Rewriter, load_generator, worlds
from rewriter.checkpoints import store
from rewriter.checkpoints.catalogue import catalogue
from rewriter.checkpoints.client import connect
from rewriter.checkpoints.config import CONFIG_LIMIT
from rewriter.checkpoints.convert import convert
from rewriter.editing.effect import Effect
from rewriter.errors import CancelledError, InputError
from rewriter.generators.origin import FoldedRule, Licence, Origin
from rewriter.hub import browse, card, licences, publish, repository
from rewriter.hub.draft import Draft, compare, comparisons, draft, licensed
from rewriter.hub.licences import Text
from rewriter.pictures import GAP, to_image

TOKEN, READER, BOB = "hf_ada_may_write", "hf_ada_may_read", "hf_bob"
NAME, KEY = "ada/spires", ("model", "ada/spires")
HOSTILE = pytest.mark.hostile
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, at each upload
ACCOUNTS = {TOKEN: Account("ada", ("guild",)), READER: Account("ada", write=False), BOB: Account("bob")}
NASTY = "1) a]( b) <script>alert(1)</script> ![x](http://e.org/x.png) www.e.org\u202e | # `{{x}}` --- &amp; @ada **b**"
NVIDIA = Licence("nvidia-source-code-license-nc", "https://nvlabs.github.io/stylegan2/license.html")
SLUGS = ("1-dome-to-spire", "2-trees-more")
FOLDERS = (("rules", "safetensors"), ("edits", "json"), ("pictures", "png"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(ACCOUNTS) as hub:
        hub.adopt(monkeypatch, tmp_path, TOKEN)
        yield hub


@pytest.fixture(scope="session")
def rules(town, random_rule):
    """Two rules of the built-in generator, whose contexts match in half of the pictures; the second is switched off."""
    edit = Edit.load(worlds.examples("townscape")["dome-to-spire"])
    effect = Effect(0.3, 0.75, 0.66, 0.38, 48, 1122, 2.4, 0.53, 0.7)
    made = []
    for layer, title in (("layer8", "dome to spire"), ("layer5", "Trees & more")):
        rule = random_rule(town, layer, edit=edit.with_(title=title, layer=layer), effect=effect)
        keys = town.keys(range(10_000, 10_016), layer).keys
        strongest = torch.einsum("i,nihw->nhw", rule.directions[0], keys).flatten(1).amax(1)
        made.append(replace(rule, level=2 * float(strongest.median())))
    return [made[0].at(0.8), replace(made[1], on=False)]


@pytest.fixture(scope="session")
def drafted(town, rules):
    return draft(town, rules, NAME, description="Spires.\n\nEverywhere.")


@pytest.fixture(scope="session")
def small(town, rules):
    """The rules alone, without pictures."""
    return draft(town, rules, NAME, weights=False, pictures=False)


@pytest.fixture
def own(stylegan, random_rule):
    """A rule of a generator that no catalogue knows."""
    return random_rule(stylegan, "layer4")


def target(hub, repo_id=NAME, token=TOKEN, **options):
    return publish.target(repo_id, connect(token, endpoint=hub.url), **options)


def send(hub, made, token=TOKEN, create_pr=False, **options):
    return publish.send(made, target(hub, made.repo_id, token, **options), create_pr=create_pr)


def load(name, **options):
    return load_generator(name, device="cpu", **options)


def complete(repository, made):
    """Whether all of the draft is there, and nothing else in our folders."""
    files = {path: data for path, data in repository.files().items() if path not in (".gitattributes", store.WEIGHTS)}
    return files == dict(made.files) and (store.WEIGHTS in repository.files()) == bool(made.later)


def write_card(generator, rules, title="t", description="d"):
    named = card.named(rules)
    return card.write(generator, named, NAME, title=title, description=description, weights=True, exported={})


# --- there and back ---


def test_a_generator_is_published_in_one_commit_and_loads_to_the_bit_by_the_lines_on_its_card(
    hub, town, rules, drafted, monkeypatch
):
    done = send(hub, drafted, private=False)
    made = hub.repositories[KEY]
    assert complete(made, drafted) and done.created and done.changed and not done.private
    assert len(made.commits) == 2 and done.commit == made.at().oid and done.url == f"{hub.url}/{NAME}"
    folders = {f"{folder}/{slug}.{end}" for slug in SLUGS for folder, end in FOLDERS}
    assert set(drafted.files) == {"README.md", "LICENSE", "config.json", "comparison.png", "index.html", *folders}
    assert all(drafted.files[path][:4] == b"\x89PNG" for path in drafted.files if path.endswith(".png"))
    assert drafted.sizes[store.WEIGHTS] == pytest.approx(len(made.files()[store.WEIGHTS]), rel=0.01)
    monkeypatch.setenv("HF_TOKEN", "")  # as somebody who is not logged in
    said = {}
    exec(re.search(r"```python\n(.*?)```", drafted.card, re.DOTALL)[1], said)
    assert [(rule.on, rule.strength) for rule in said["generator"].rules] == [(True, 0.8), (False, 1.0)]
    assert torch.equal(said["pictures"].cpu(), town.sample(range(8), rules=rules))
    assert not torch.equal(said["pictures"].cpu(), town.sample(range(8)))


def test_rules_alone_are_small_and_load_with_their_base(hub, town, rules):
    made = draft(town, rules[:1], NAME, weights=False, pictures=False)
    assert sum(made.sizes.values()) < 60_000 and not made.later
    assert send(hub, made).private
    loaded = load(NAME)
    assert torch.equal(loaded.sample([3]), town.sample([3], rules=rules[:1])) and loaded.origin.id == "townscape"
    assert not any("model.safetensors" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("kind", "layouts"),
    [
        ("stylegan", ("rosinality", "nvidia", "basicsr", "tensorflow")),
        ("proggan", ("gandissect", "genforce")),
        ("dcgan", ("pytorch", "huggan")),
    ],
)
def test_other_peoples_tools_get_folded_weights_of_each_architecture(
    hub, request, kind, layouts, random_rule, tmp_path
):
    base = convert(dict(request.getfixturevalue(kind).state_dict()), name=kind)
    rules = [random_rule(base, layer) for layer in list(base.layers)[1:4:2]]
    made = draft(base, rules, NAME, export=layouts, licence="mit", pictures=False)
    send(hub, made)
    wanted = base.sample(range(3), rules=rules)
    assert torch.equal(load(NAME).sample(range(3)), wanted)
    for layout in layouts:
        file = tmp_path / f"{layout}{'.pkl' if layout == 'tensorflow' else '.pt'}"
        file.write_bytes(hub.repositories[KEY].files()[f"exported/{file.name}"])
        seen = [pictures.clamp(-1, 1) for pictures in (load(str(file)).sample(range(3)), wanted)]
        assert (seen[0] - seen[1]).abs().max() < 1e-5
    assert "licence: [mit]" in made.card and ModelCard(made.card).data.license == "mit"


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_a_base_of_the_catalogue_is_downloaded_and_keeps_licence_and_clamp(shelf, clamp, random_rule, monkeypatch):
    shelf.accounts[TOKEN] = Account("ada")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    base = load("small", conv_clamp=clamp)
    rule = random_rule(base, "layer4")
    made = draft(base, [rule], "ada/rewritten", weights=False, pictures=False)
    data = ModelCard(made.card).data.to_dict()
    assert data["base_model"] == "ada/small" and data["base_model_relation"] == "finetune"
    assert data["license"] == "cc-by-4.0" and repository.TAG in data["tags"] and b"cc-by-4.0" in made.files["LICENSE"]
    assert base.origin.revision in made.card and base.fingerprint in made.card and "Ada" in made.card
    send(shelf, made, private=False)
    wanted = base.sample([1, 2], rules=[rule])
    assert torch.equal(load("ada/rewritten").sample([1, 2]), wanted)
    monkeypatch.delenv("REWRITER_CATALOGUE")  # without the entry, the config says where the base is
    other = load("ada/rewritten")
    assert torch.equal(other.sample([1, 2]), wanted) and other.origin.licence.id == "cc-by-4.0"


def test_what_everybody_can_open_is_read_without_a_token_and_without_names_of_files(hub, small, rules, monkeypatch):
    send(hub, small, private=False)
    hub.fault = lambda n, request: 401 if request.headers.get("authorization") else None
    base, found = browse.public_rules(NAME)
    assert base == "townscape" and torch.equal(found[0].delta, rules[0].delta)
    hub.repositories[KEY].commit({**hub.repositories[KEY].files(), f"rules/{SLUGS[0]}.safetensors": b"x"}, "damage")
    with pytest.raises(InputError) as refused:
        browse.public_rules(NAME)
    assert str(refused.value).startswith(f"{NAME}/rules/{SLUGS[0]}.safetensors") and "/tmp" not in str(refused.value)
    monkeypatch.setattr(browse, "RULE_LIMIT", 1000)
    with pytest.raises(InputError, match="should have at most 0 MB"):
        browse.public_rules(NAME)


# --- pictures ---


def test_a_picture_shows_one_rule_on_top_of_those_before_it(town, rules):
    on = [rules[0], replace(rules[1], on=True)]
    each = card.named(rules)
    assert comparisons(each) == ["comparison.png", *(f"pictures/{slug}.png" for slug in SLUGS)]
    assert shows(compare(town, each, 0), town, [], rules)
    assert shows(compare(town, each, 2), town, rules[:1], on)  # one that is off is shown as it would act


def test_cancelling_stops_the_drawing(town, rules):
    with pytest.raises(CancelledError):
        draft(town, rules, NAME, on_step=lambda done, of: False)


def shows(png, town, before, after):
    """Whether the two pictures at a sheet's top left are an unseen one before and after these rules, which differ."""
    side, zoom = town.resolution, max(1, 128 // town.resolution)
    boxes = [(GAP, GAP + i * side * zoom, GAP + side * zoom, GAP + (i + 1) * side * zoom) for i in range(2)]
    sheet = Image.open(io.BytesIO(png))
    seen = [pixels(sheet.crop(box).resize((side, side), Image.Resampling.NEAREST)) for box in boxes]
    drawn = (town.sample(range(10_000, 10_008), rules=own) for own in (before, after))
    for pair in zip(*drawn, strict=True):
        own = [pixels(to_image(picture)) for picture in pair]
        if all((a - b).abs().max() <= 1 for a, b in zip(seen, own, strict=True)):  # other batches round differently
            return bool((own[0] - own[1]).abs().max() > 20)
    return False


def pixels(image):
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int()


# --- the card ---


def test_the_card_says_what_was_changed_in_fields_that_the_hub_knows(drafted):
    data, text = ModelCard(drafted.card).data.to_dict(), drafted.card
    assert data["license"] == "apache-2.0" and data["library_name"] == "rewriter" and "base_model" not in data
    assert data["pipeline_tag"] == "unconditional-image-generation" and repository.TAG in data["tags"]
    for said in ("# Dome to spire", "Spires&#46;\n\nEverywhere", "switched off", "strength 0.8, by least-squares"):
        assert said in text
    assert "75% of 1122" in text and "0.66/255" in text
    files = {*re.findall(r"`((?:rules|edits)/[\w.-]+)`", text), *re.findall(r"\]\(([\w/.-]+\.png)\)", text)}
    assert {"comparison.png", f"pictures/{SLUGS[0]}.png"} <= files <= set(drafted.files)


@pytest.mark.parametrize("where", ["title", "description", "rule"])
def test_words_of_strangers_are_shown_as_words_and_nothing_else(town, rules, where):
    typed = NASTY if where == "rule" else NASTY.replace("\u202e", "")
    odd = replace(rules[0], edit=replace(rules[0].edit, title=typed))
    text = write_card(town, [odd if where == "rule" else rules[0]], **({where: typed} if where != "rule" else {}))
    plain = write_card(town, rules[:1])
    assert ModelCard(text).data.to_dict() == ModelCard(plain).data.to_dict() and structure(text) == structure(plain)
    shown = "".join(token.content for token in flat(text) if token.type == "text")
    assert "<script>alert(1)</script>" in shown and "http:\u2060//e.org" in shown and "\u202e" not in text


def flat(text):
    """Every piece of a card's Markdown, as GitHub's flavour reads it."""
    body = text.split("\n---\n", 1)[1]
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(body):
        yield token
        yield from token.children or ()


def structure(text):
    """Everything but words: kinds of pieces, and where links and pictures lead; our own pictures have any name."""
    ours = re.compile(r"pictures/1-[a-z0-9-]+\.png")
    return [
        (token.type, token.attrs.get("href"), ours.sub("ours", token.attrs.get("src", "")))
        for token in flat(text)
        if token.type not in ("text", "softbreak")
    ]


def test_file_names_come_from_titles_and_stay_in_their_folder(rules):
    titles = ["../../etc/passwd", "", "…", "A" * 300, "x\x00y", "CON", "rules/../../x"]
    named = card.named([replace(rules[0], edit=replace(rules[0].edit, title=title)) for title in titles])
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,80}", each.slug) for each in named)
    assert len({each.slug for each in named}) == len(titles)


def test_what_cannot_be_drafted_is_refused_before_any_work(town, stylegan, rules, own, monkeypatch):
    for given, said in (
        ({"title": "x" * 81}, "80 characters"),
        ({"title": "a\nb"}, "one line"),
        ({"description": "x\x1b[31m"}, "plain text"),
        ({"description": "x" * 2001}, "2,000"),
        ({"export": ["pickle"]}, "rosinality"),
        ({"export": ["gandissect"]}, "rosinality"),
        ({"licence": "mit"}, "cannot be changed"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            draft(town, rules, NAME, **given)
    with pytest.raises(InputError, match="no rule"):
        draft(town, [], NAME)
    with pytest.raises(InputError, match="fingerprint"):
        draft(stylegan, rules, NAME)
    with pytest.raises(InputError, match="with its weights"):
        draft(stylegan, [own], NAME, weights=False)
    monkeypatch.setattr(repository, "CELLS", rules[0].edit.cells + 1)
    with pytest.raises(InputError, match="masks of all rules together"):
        draft(town, rules, NAME)


# --- licences ---


def test_a_non_commercial_licence_stays_one_and_its_text_is_downloaded_once(hub, town, rules, monkeypatch):
    hub.raw["LICENSE.txt"] = text = b"Nvidia Source Code License-NC\n"
    known = Text(f"{hub.url}/raw/LICENSE.txt", hashlib.sha256(text).hexdigest())
    monkeypatch.setitem(licences.TEXTS, NVIDIA.link, known)
    base = town.rewritten([])
    base.origin = replace(town.origin, id="church", licence=NVIDIA, repository="a/b", attribution="Karras")
    for _ in range(2):
        made = draft(base, rules[:1], NAME, pictures=False)
        assert made.files["LICENSE"] == text
    assert hub.requests.count("GET /raw/LICENSE.txt") == 1
    data = ModelCard(made.card).data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", NVIDIA.id, "LICENSE")
    assert "non-commercial use only" in made.card and data["base_model"] == "a/b"


@pytest.mark.parametrize(("text", "said"), [(b"another text", "not the licence's text"), (None, "404")])
def test_a_licence_text_that_has_changed_is_refused_and_not_kept(hub, monkeypatch, text, said, tmp_path):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    hub.raw |= {"LICENSE.txt": text} if text else {}
    monkeypatch.setitem(licences.TEXTS, NVIDIA.link, Text(f"{hub.url}/raw/LICENSE.txt", "0" * 64))
    with pytest.raises(InputError, match=said):
        licences.text_of(Origin(licence=NVIDIA))
    assert list(tmp_path.rglob("*.txt")) == []


def test_unknown_and_stated_licences_are_called_that_and_ours_is_apache(stylegan, own):
    unknown = draft(stylegan, [own], NAME, pictures=False)
    assert ModelCard(unknown.card).data.license == "unknown" and b"not known" in unknown.files["LICENSE"]
    text = write_card(licensed(stylegan, NVIDIA.id), [own])
    assert "non-commercial use only" in text and "as its publisher states it" in text
    assert b"Apache License" in licences.own()


def test_publisher_cannot_override_base_licence(hub, town, rules, small):
    mit = {"id": "mit", "link": "https://opensource.org/license/mit"}
    about = json.loads(small.files["config.json"])
    odd = {**about["origin"], "licence": mit, "attribution": "Eve", "file": "a` <img src=//e.org/x.png>"}
    weights = {store.WEIGHTS: worlds.weights("townscape").read_bytes()}
    hub.add("model", "eve/mine", {**altered(small, origin=odd, weights=True), **weights})
    loaded = load("eve/mine")
    assert loaded.origin.licence.id == "apache-2.0" and "Eve" not in loaded.origin.attribution
    base = town.rewritten([])
    base.origin = replace(town.origin, file=odd["file"], repository="e/vil", licence=NVIDIA)
    text = write_card(base, rules)
    assert "<img" not in text and "built into" not in text and "non-commercial use only" in text


def test_weights_under_another_bases_name_are_not_that_base(hub, stylegan, own, small, tmp_path):
    made = draft(stylegan, [own], "eve/mine", pictures=False)
    made.save(tmp_path)
    weights = {store.WEIGHTS: (tmp_path / store.WEIGHTS).read_bytes()}
    built_in = json.loads(small.files["config.json"])["base"]
    hub.add("model", "eve/mine", {**altered(made, base=built_in), **weights})
    with pytest.raises(InputError, match="says that its base is townscape"):
        load("eve/mine")
    # a base that cannot be compared: the licence of the one it claims to be holds, and its rules go nowhere alone
    church = catalogue()["church"]
    claimed = {name: getattr(church, name) for name in BASE}
    hub.add("model", "eve/church", {**altered(made, base=claimed), **weights})
    loaded = load("eve/church")
    assert loaded.origin.licence == NVIDIA
    with pytest.raises(InputError, match="with its weights"):
        draft(loaded, None, NAME, weights=False)


def test_a_base_with_rules_in_its_weights_cannot_be_downloaded_elsewhere(town, rules):
    folded = town.rewritten([])
    there = {"repository": "a/b", "revision": "0" * 40, "sha256": "0" * 64}
    folded.origin = replace(town.origin, **there, rules=(FoldedRule("x", "layer2", 1, 1.0),))
    with pytest.raises(InputError, match="with its weights"):
        draft(folded, rules, NAME, weights=False)
    made = draft(folded, rules, NAME, pictures=False)
    assert json.loads(made.files["config.json"])["base"] is None


# --- again, elsewhere, with others ---


def test_publishing_again_is_a_commit_that_deletes_what_is_outdated(hub, town, rules):
    first = draft(town, rules, NAME, pictures=False)
    send(hub, first)
    made = hub.repositories[KEY]
    again = draft(town, rules, NAME, pictures=False)
    assert again.files == first.files and not send(hub, again).changed and len(made.commits) == 2
    made.commit({**made.files(), "notes.md": b"mine"}, "by hand")
    less = draft(town, rules[1:], NAME, weights=False, pictures=False)
    done = send(hub, less)
    assert done.changed and not done.created and store.WEIGHTS in done.removed and len(made.commits) == 4
    assert made.files()["notes.md"] == b"mine" and store.WEIGHTS not in made.files()
    assert {path for path in made.files() if "/" in path} == {path for path in less.files if "/" in path}


def test_a_revision_stays_as_it_was_and_offline_the_last_download_is_used(hub, town, rules, small, monkeypatch):
    first = send(hub, small)
    second = send(hub, draft(town, [rules[0].at(2.0)], NAME, weights=False, pictures=False))
    assert load(NAME, revision=first.commit).rules[0].strength == 0.8
    asked = len(hub.requests)
    assert len(load(NAME, revision=first.commit).rules) == 2 and len(hub.requests) == asked
    newest = load(NAME)
    assert newest.rules[0].strength == 2.0 and newest.origin.published == f"{NAME}@{second.commit}"
    with pytest.raises(InputError, match="check the name"):
        load(NAME, revision="nowhere")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    utils.close_session()
    assert load(NAME).rules[0].strength == 2.0
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        load("ada/never")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    utils.close_session()


def test_a_pull_request_proposes_a_change_to_somebody_elses_repository(hub, small):
    send(hub, small, private=False)
    made = hub.repositories[KEY]
    before = made.at().oid
    other = replace(small, files={**small.files, "README.md": b"# mine\n"})
    with pytest.raises(InputError, match="propose"):
        send(hub, other, BOB)
    same = send(hub, small, BOB, create_pr=True)
    assert not same.proposed and not same.changed and len(made.commits) == 2
    done = send(hub, other, BOB, create_pr=True)
    assert done.proposed and done.url.endswith("/discussions/1") and made.at().oid == before
    assert made.files("refs/pr/1")["README.md"] == b"# mine\n"
    with pytest.raises(InputError, match="without create_pr"):
        send(hub, Draft("ada/none", "x", {}), create_pr=True)


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ({"model.bin": b"x"}, {}, "taken by another model"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, {}, "taken by another model"),
        ({"config.json": b"{}", "rules/1-x.safetensors": b""}, {"private": True}, "is public"),
    ],
)
def test_a_repository_of_something_else_is_not_written_over(hub, town, rules, small, monkeypatch, files, options, said):
    there = hub.add(*KEY, files)
    with pytest.raises(InputError, match=said):
        send(hub, small, **options)
    monkeypatch.setattr(publish, "draft", None)  # nothing is drawn before the repository has been looked at
    with pytest.raises(InputError, match=said):
        rewriter.publish(town, rules, NAME, **options)
    assert len(there.commits) == 1


@pytest.mark.parametrize("name", ["spires", "../x", "ada/../bob", "ada/x/y", "ada/sp ires", "ada/<b>", "https://x/y"])
def test_an_impossible_name_is_refused_without_a_request(hub, town, rules, name):
    with pytest.raises(InputError, match="USER/NAME"):
        rewriter.publish(town, rules, name)
    with pytest.raises(InputError):
        load(name)
    assert hub.requests == []


# --- faults ---


@pytest.fixture
def large(small):
    """A draft with one file that travels by LFS."""
    return replace(small, later={store.WEIGHTS: lambda path: path.write_bytes(bytes(LARGE + 1))})


@pytest.mark.parametrize(
    ("path", "fault", "said"),
    [
        ("/create", 402, "paid plan"),
        ("/create", 403, "of your own account"),
        ("/create", 429, "wait"),
        ("/create", Answer(200, b"<html>Log in to the hotel</html>"), "HF_ENDPOINT"),
        ("/validate-yaml", Answer(400, b'{"errors": [{"message": "license is odd"}]}'), "license is odd"),
        ("/batch", Answer(200, b"[]"), "HF_ENDPOINT"),
        ("/lfs/", 403, "may not write"),
        ("/lfs/", Answer(403, b'{"error": "Private repository storage limit reached"}'), "publish the rules only"),
        ("/commit/", 413, "publish the rules only"),
        ("/commit/", 409, "try again"),
        ("/commit/", 418, "418"),
        ("/commit/", Answer(403, b'{"error": "not with hf_ada_may_write"}'), "not with ***"),
    ],
)
def test_a_refusal_of_the_hub_is_one_clear_line_and_commits_nothing(hub, large, path, fault, said):
    hub.fault = lambda n, request: fault if path in request.path else None
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        send(hub, large)
    assert TOKEN not in str(raised.value) and "\n" not in str(raised.value)
    assert KEY not in hub.repositories or len(hub.repositories[KEY].commits) == 1


@pytest.mark.parametrize("times", [2, 3])
def test_a_race_is_tried_again_on_top_of_what_others_commit_and_then_reported(hub, small, times):
    there, theirs = hub.add(*KEY, dict(small.files)), []

    def race(n, request):
        if "/commit/" in request.path and len(theirs) < times:
            theirs.append(there.commit({**there.files(), "notes.md": b"%d" % len(theirs)}, "theirs"))

    hub.fault = race
    changed = replace(small, files={**small.files, "README.md": b"# new\n"})
    if times == 3:
        with pytest.raises(InputError, match="412 .*run the same again"):
            send(hub, changed)
        assert there.at() == theirs[-1]
    else:
        assert send(hub, changed).changed and there.files()["README.md"] == b"# new\n"
    assert there.files()["notes.md"] == b"%d" % (times - 1)


@pytest.mark.hostile
@pytest.mark.parametrize("fault", ["cut", "lost", *(pytest.param(f, marks=HOSTILE) for f in (500, "always"))])
def test_a_fault_at_any_request_leaves_all_or_nothing_and_trying_again_completes_it(hub, large, fault):
    for first in count(1):
        hub.repositories.clear(), hub.uploads.clear(), hub.requests.clear()
        hub.fault = lambda n, request, first=first: (
            "cut" if fault == "always" and n >= first else fault if n == first else None
        )
        try:
            done = send(hub, large)
        except InputError as error:
            done = None
            assert TOKEN not in str(error) and "again" in str(error)
        there = hub.repositories.get(KEY)
        if len(hub.requests) < first:
            break
        assert there is None or len(there.commits) == 1 or (len(there.commits) == 2 and complete(there, large))
        assert done is None or complete(there, large)
        hub.fault = lambda n, request: None
        send(hub, large)
        assert complete(hub.repositories[KEY], large) and len(hub.repositories[KEY].commits) == 2
    assert first == 10  # the nine requests of a first time, each with the fault once


@pytest.mark.hostile
@pytest.mark.parametrize("fault", ["cut", pytest.param("lost", marks=HOSTILE)])
def test_a_fault_at_any_request_of_an_update_leaves_the_old_or_the_new(hub, large, fault):
    newer = replace(large, files={**large.files, "README.md": b"# new\n"})
    for first in count(1):
        hub.repositories.clear(), hub.uploads.clear()
        hub.fault = lambda n, request: None
        send(hub, large)
        hub.requests.clear()
        hub.fault = lambda n, request, first=first: fault if n == first else None
        with suppress(InputError):
            send(hub, newer)
        there = hub.repositories[KEY]
        assert complete(there, large) != complete(there, newer)
        if len(hub.requests) < first:
            break
        hub.fault = lambda n, request: None
        send(hub, newer)
        assert complete(there, newer) and len(there.commits) == 3
    assert first > 5


def test_no_message_contains_the_token_of_the_environment(hub):
    hub.fault = lambda n, request: Answer(403, b"{}", {"X-Error-Message": f"not with {TOKEN}"})
    for ask in (browse.listed, lambda: load("ada/x")):
        with pytest.raises(InputError, match=r"not with \*\*\*"):
            ask()


def test_an_expired_login_is_reported_at_the_first_request_in_the_callers_words(hub, small):
    with pytest.raises(InputError, match=r"401 .*log out and in"):
        send(hub, small, "hf_expired", advice={401: "log out and in again"})
    assert len(hub.requests) == 1 and hub.repositories == {}


# --- repositories of strangers ---


def altered(made, **config):
    about = json.loads(made.files["config.json"])
    return {**made.files, "config.json": json.dumps({**about, **config}).encode()}


BASE = {"id": "x", "repository": "e/vil", "file": "x.pt", "revision": "0" * 40, "size": None, "sha256": "0" * 64}
BASE |= {"clamp": None}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rules": ["../../../x.safetensors"]}, "expected a file in rules/"),
        ({"rules": [{"file": "x"}]}, "expected a file in rules/"),
        ({"rules": []}, "no rules"),
        ({"rules": [f"rules/{SLUGS[0]}.safetensors"] * 65}, "at most 64"),
        ({"rules": ["rules/9-none.safetensors"]}, "was deleted"),
        ({"format": "other"}, "rewriter convert"),
        ({"version": 3}, "update this package"),
        ({"fingerprint": "0" * 64}, "expected the fingerprint"),
        ({"fingerprint": None}, "fingerprint is None"),
        ({"base": {**BASE, "repository": None}}, "in no repository"),
        ({"base": {**BASE, "file": "../../x"}}, "below its repository"),
        ({"base": {**BASE, "repository": None, "package": "evil==1.0"}}, "which the catalogue does not list"),
        ({"base": {**BASE, "repository": None, "package": "--index-url"}}, "a package such as NAME==1.0"),
        ({"base": {**BASE, "revision": "main"}}, "40 hexadecimal"),
        ({"base": {**BASE, "sha256": None}}, "lacks revision or sha256"),
        ({"base": "townscape"}, "expected an object"),
        ({"base": None}, "neither weights nor base"),
        ({"weights": 1}, "true or false"),
    ],
)
def test_a_strangers_config_is_refused_by_the_field_that_is_wrong(hub, small, config, said):
    hub.add("model", "eve/odd", altered(small, **config))
    with pytest.raises(InputError, match=said):
        load("eve/odd")


def test_large_files_foreign_rules_and_other_models_are_refused(hub, small, town):
    rule = f"rules/{SLUGS[0]}.safetensors"
    foreign = small.files[rule].replace(town.fingerprint.encode(), b"0" * 64)
    hub.add("model", "eve/rule", {**small.files, rule: foreign})
    hub.add("model", "eve/large", {"config.json": b" " * (CONFIG_LIMIT + 1)})
    hub.add("model", "eve/llm", {"config.json": b'{"model_type": "gpt2"}', store.WEIGHTS: bytes(3 << 20)})
    hub.add("model", "eve/other", {"README.md": b"# x"})
    hub.add("model", "eve/secret", dict(small.files), private=True)
    for name, said in (
        ("rule", "another generator"),
        ("large", "at most 1 MB"),
        ("llm", "not the config of a generator"),
        ("other", "no generator of ours"),
        ("secret", "check the name"),
    ):
        with pytest.raises(InputError, match=said):
            load(f"eve/{name}")
    assert not any("eve/llm" in asked and store.WEIGHTS in asked for asked in hub.requests)


# --- the command ---


@pytest.fixture
def rule_file(rules, tmp_path):
    rules[0].save(tmp_path / "spire.safetensors")
    return tmp_path / "spire.safetensors"


@pytest.mark.evaluation
def test_a_rule_is_published_listed_drawn_inspected_and_published_further(hub, run, rule_file, rules, tmp_path, town):
    status, out, err = run("publish", NAME, rule_file, "--public", "--json", "--rules-only")
    assert status == 0 and json.loads(out)["url"] == f"{hub.url}/{NAME}" and "sending" in err
    assert NAME in run("generators", "--published")[1]
    assert json.loads(run("generators", "--published", "--json")[1])["published"][0]["repo_id"] == NAME
    assert run("sample", "--generator", NAME, "--seeds", "0-1", "--out", tmp_path / "drawn.png")[0] == 0
    assert "dome to spire" in run("inspect", NAME)[1]
    assert "is up to date already" in run("publish", NAME, rule_file, "--rules-only")[1]
    rules[1].save(tmp_path / "more.safetensors")
    status, out, _ = run("publish", "ada/more", tmp_path / "more.safetensors", "--generator", NAME, "--rules-only")
    assert status == 0 and "only you see it" in out and hub.repositories["model", "ada/more"].private
    assert [rule.strength for rule in load("ada/more").rules] == [0.8, 1.0]
    assert run("convert", NAME, tmp_path / "folded")[0] == 0
    folded = load(str(tmp_path / "folded"))
    assert (folded.sample([1]) - town.sample([1], rules=rules[:1])).abs().max() < 1e-4
    own = tmp_path / "r.safetensors"
    replace(rules[0], fingerprint=folded.fingerprint, edit=None).save(own)
    arguments = "publish", "ada/folded", own, "--generator", tmp_path / "folded"
    status, _, err = run(*arguments, "--rules-only")
    assert status == 2 and "publish it with its weights" in err
    assert run(*arguments, "--export", "rosinality")[0] == 0
    loaded = load("ada/folded")
    assert loaded.fingerprint == folded.fingerprint and "dome to spire" in loaded.origin.rules[0].title


def test_a_session_is_written_into_a_folder_without_any_request(hub, run, rules, town, tmp_path):
    Rewriter(town, rules=rules).save(tmp_path / "work.safetensors")
    status, _, _ = run("publish", NAME, tmp_path / "work.safetensors", "--out", tmp_path / "look", "--title", "Mine")
    assert status == 0 and hub.requests == [] and (tmp_path / "look" / "README.md").read_text().count("# Mine") == 1
    assert torch.equal(load(str(tmp_path / "look")).sample([2]), town.sample([2], rules=rules))


def test_rules_of_a_published_base_stay_and_act_once(hub, run, rule_file, small, rules, town, tmp_path):
    send(hub, small)
    session = Rewriter(load(NAME))
    assert [rule.strength for rule in session.rules] == [0.8, 1.0]
    after = session.edit.after
    session.remove(1)
    session.save(tmp_path / "work.safetensors")
    assert run("publish", "ada/less", tmp_path / "work.safetensors", "--generator", NAME, "--rules-only")[0] == 0
    less = load("ada/less")
    assert len(less.rules) == 1 and torch.equal(less.sample([4]), town.sample([4], rules=rules[:1]))
    later = Edit.load(worlds.examples("townscape")["add-tree"]).with_(after=after)  # made on top of the published rules
    replace(session.rules[0], edit=later, delta=-session.rules[0].delta).save(tmp_path / "later.safetensors")
    for command, said in (
        (("sample", "--generator", NAME, "--rule", rule_file, "--out", tmp_path / "x.png"), "given twice"),
        (("convert", NAME, tmp_path / "x", "--rule", rule_file), "given twice"),
        (("publish", "ada/more", rule_file, "--generator", NAME), "given twice"),
        (("sample", "--rule", rule_file, "--rule", rule_file, "--out", tmp_path / "x.png"), "given twice"),
        (("publish", "ada/more", tmp_path / "later.safetensors"), "made on top of rules that are not given"),
    ):
        status, _, err = run(*command)
        assert status == 2 and said in err


@pytest.mark.slow
def test_an_edit_is_executed_on_top_of_the_rules_of_a_published_generator(hub, run, small, tmp_path):
    send(hub, small)
    made, picture = tmp_path / "light.safetensors", tmp_path / "light.png"
    assert run("apply", "no-light-on-ground", "--generator", NAME, "--out", picture, "--save-rule", made)[0] == 0
    assert run("publish", "ada/more", made, "--generator", NAME)[0] == 0
    more = load("ada/more")
    assert [rule.layer for rule in more.rules][:2] == ["layer8", "layer5"] and len(more.rules) == 3


def test_saving_a_draft_again_deletes_what_is_outdated_and_nothing_of_others(rules, town, small, tmp_path):
    draft(town, rules, NAME, pictures=False).save(tmp_path / "own")
    (tmp_path / "own" / "notes.txt").write_text("mine")
    less = draft(town, rules[:1], NAME, weights=False, pictures=False)
    less.save(tmp_path / "own")
    there = {path.relative_to(tmp_path / "own").as_posix() for path in (tmp_path / "own").rglob("*") if path.is_file()}
    assert there == {*less.files, "notes.txt"}
    for name, config in (("semantic", '{"rules": {"semi": 2}}'), ("text", "no JSON")):
        theirs = {"rules/no-any.js": b"x", "pictures/holiday.jpg": b"y", store.WEIGHTS: b"z"}
        for path, data in {**theirs, "config.json": config.encode()}.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
        small.save(tmp_path / name)
        assert all((tmp_path / name / path).read_bytes() == data for path, data in theirs.items())


def test_wrong_arguments_are_refused_in_one_line(hub, run, rule_file, tmp_path, monkeypatch):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(rule_file.read_bytes().replace(b'\\"after\\": [', b'\\"afte_\\": ['))
    for arguments, said in (
        (["nobody", rule_file], "USER/NAME"),
        ([NAME, tmp_path / "none.safetensors"], "cannot read"),
        (["bob/x", rule_file, "--rules-only"], "403"),
        ([NAME, rule_file, "--licence", "mit"], "cannot be changed"),
        ([NAME, rule_file, rule_file], "given twice"),
        ([NAME, damaged], "afte_"),
    ):
        status, out, err = run("publish", *arguments)
        assert status == 2 and said in err.splitlines()[-1] and out == ""
    monkeypatch.setenv("HF_TOKEN", "")
    assert "hf auth login" in run("publish", NAME, rule_file)[2]
