"""A visitor's own photo on the page: found, edited like other pictures, and kept nowhere but in memory."""

import base64
import io
import json
import time
from dataclasses import replace
from functools import partial
from threading import Event

import httpx
import pytest
import torch
from clicks import Tab, connected, served
from conftest import DATA, square
from PIL import Image

import photos
import view
from album import EACH, MOST, Album
from photos import Photos, close
from received import from_record, to_record
from rewriter import Rewriter, Rule, masks
from rewriter.errors import AbsentPhotoError, CancelledError, InputError
from rewriter.generators.inverted import named
from rewriter.photo import portable
from rewriter.photo.opening import inverted, open_photo
from rewriter.photo.square import Crop
from rewriter.pictures import to_image
from rewriter.serving.shelf import Shelf
from state import Shared, Visitor
from work import ERROR, Work

SMALL, TOWN = str(DATA / "nvidia_stylegan2_16px_plain.pt"), "townscape"
THERE = masks.disc(64, 0.7, 0.2, 0.12)
pytestmark = pytest.mark.filterwarnings("ignore")


def file_of(picture, side=96, kind="PNG"):
    """A picture as an image file."""
    buffer = io.BytesIO()
    to_image(picture).resize((side, side), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def text(data):
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module", autouse=True)
def hasty():
    """Searches of a few steps, from a few pictures: how well they find is no subject here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "open_photo", partial(open_photo, effort=0.02))
        patch.setattr("rewriter.photo.nearest.SEEDS", 16)
        yield


@pytest.fixture(scope="module")
def do():
    return Photos(Shared((TOWN, SMALL), device="cpu"))


@pytest.fixture(scope="module")
def sent(stylegan):
    """A photo, as a browser sends it."""
    return text(file_of(stylegan.sample([777])[0]))


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def found(do, sent, said):
    """What the page gets once it is found, and before that what is `said`."""
    return do.photo(Visitor(SMALL), "me.png", sent, notify=lambda *report: said.append(report) or True)


def with_photo(do, name=SMALL, seed=5):
    """A visitor with a photo, and its name, without a search."""
    generator = do.shared.model(name)
    size = (3, generator.resolution, generator.resolution)
    noise = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed)).byte()
    with torch.no_grad():
        photo = inverted(generator, noise, generator.embed(generator.latents([seed]), 1.0)[0])
    return Visitor(name, photos={photo.name: portable.to_bytes(photo, generator)}, selected=photo.name), photo.name


def painted(name, mask=THERE):
    return f"{name}:{masks.encode(masks.as_mask(mask))}"


def kept(shelf):
    """The names of all pictures on a shelf."""
    return {name for (name,) in shelf._database().execute("SELECT name FROM files")}


def remembered(shared):
    """The names of the photos of which something is remembered."""
    return {name for key in shared._private for name, _ in key}


# --- finding ---


def test_the_photo_is_shown_at_once_then_what_was_found_and_at_last_it_is_chosen(found, said):
    parts = [report[3]["photo"] for report in said if len(report) > 3]
    assert "original" in parts[0] and "so_far" in parts[1] and any(part.get("found") for part in parts)
    shares = [done / of for done, of, *_ in said if of == 1000]
    assert shares == sorted(shares) and shares[-1] == 1
    name, first = found["opened"]["name"], found["film"]["tiles"][0]
    assert found["visitor"].selected == name == found["canvas"]["seed"] == first["seed"]
    assert first["label"] == "Your photo" and len(found["film"]["tiles"]) == 13
    assert {*found["sides"]["pictures"]} == {"original", "found", "adapted", "edited"}
    assert {*found["sides"]["differences"]} == {"found", "adapted", "edited"} == {*found["sides"]["words"]}
    assert found["sides"]["words"]["edited"] == "nothing changes it yet"


def test_its_square_is_the_one_that_was_chosen(do, sent, stylegan):
    crop = [8.0, 16.0, 64.0]
    shown = do.photo(Visitor(SMALL), "me.png", sent, crop, 0.2)
    expected = open_photo(stylegan, base64.b64decode(sent), crop=Crop(*crop), faithful=0.2, effort=0.02)
    assert shown["opened"]["name"] == expected.name and "adapted" not in shown["sides"]["pictures"]
    proposal = do.square(Visitor(SMALL), "me.png", text(file_of(stylegan.sample([3])[0], 40)))["square"]
    assert proposal == {"left": 0, "top": 0, "side": 1}


def test_it_is_saved_as_a_whole_with_what_edits_changed(do, stylegan, sent):
    visitor, name = with_photo(do)
    session = do.shared.session(visitor)
    session.add(strong_rule(stylegan))
    visitor = visitor.with_history(session.history)
    whole = Image.new("RGB", (90, 60), "grey")
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    saved = do.photo_file(visitor, name, "me at sea.png", text(buffer.getvalue()), [40, 20, 32])["download"]
    assert saved["name"] == "me-at-sea-edited.png"
    image = Image.open(io.BytesIO(base64.b64decode(saved["url"].partition(",")[2])))
    grey = (torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(60, 90, 3) == 128).all(-1)
    assert image.size == whole.size and grey[:, :39].all() and not grey[22:50, 42:70].all()
    alone = do.photo_file(visitor, name)["download"]
    assert alone["name"] == "photo-edited.png" and alone["url"].startswith("data:image/png")
    for arguments in (("photo-0123456789abcdef",), (name, "x.png", "%%%"), (name, "x.png", sent, [1, 2])):
        with pytest.raises(InputError):
            do.photo_file(visitor, *arguments)


def strong_rule(generator):
    """A rule that changes much."""
    delta = torch.randn(
        *generator.memory("layer4").weight.shape[:1], 1, 3, 3, generator=torch.Generator().manual_seed(0)
    )
    directions = torch.nn.functional.normalize(torch.ones(1, generator.layers["layer4"].in_channels))
    return Rule("layer4", delta, directions, fingerprint=generator.fingerprint)


@pytest.mark.parametrize(
    ("data", "crop", "words"),
    [
        ("%%%", None, "me.heic did not arrive as a whole"),
        (7, None, "did not arrive"),
        (text(b"\0\0\0\x18ftypheic" + bytes(64)), None, "me.heic is HEIC"),
        (text(b"nonsense"), None, "no image that can be read"),
        (None, [1, 2], "left, top and side"),
        (None, ["a", 2, 3], "the square"),
        (None, [900, 900, 20], "not on the photo"),
    ],
)
def test_what_cannot_be_opened_says_why(do, sent, data, crop, words):
    with pytest.raises(InputError, match=words):
        do.photo(Visitor(SMALL), "C:\\secret\\me.heic", sent if data is None else data, crop)


def test_a_cancelled_search_leaves_nothing_behind(do, sent):
    before = {**do.shared._private}
    with pytest.raises(CancelledError):
        do.photo(Visitor(SMALL), "me.png", sent, [0, 0, 90], notify=lambda done, of, *_: done < 100)
    assert do.shared._private == before
    visitors = [with_photo(do, seed=seed)[0] for seed in range(MOST)]
    full = Visitor(SMALL, photos={name: data for each in visitors for name, data in each.photos.items()})
    with pytest.raises(InputError, match="4 photos open"):
        do.photo(full, "me.png", sent)


def test_closeness_is_said_in_words():
    assert close(45).startswith("the same to the eye (45") and close(33).startswith("very close")
    assert close(5).startswith("hardly alike") and close(float("inf")) == "the same to the eye"


# --- a picture like the others, for its visitor alone ---


def test_rules_marks_and_crops_work_on_a_photo_and_stay_off_every_shared_cache(do, stylegan):
    visitor, name = with_photo(do)
    for kind, place in (("copy", square(2, 2, 9, 9)), ("paste", square(6, 7, 13, 14))):
        visitor = do.mark(visitor, kind, painted(name, place))["visitor"]
    visitor = do.set(visitor, "form", "weight")["visitor"]
    do.refresh(visitor)  # the pictures as they are, without rules, are nobody's
    shared, before = do.shared, kept(do.shared.shelf)
    caches = [{*cache._kept} for cache in (shared.pages, shared.keys, shared.made)]
    done = do.execute(visitor)
    shown = do.look(done["visitor"], True)
    session = shared.session(done["visitor"])
    now = view.picture_url(session.sample([name])[0], view.FULL)
    assert shown["canvas"]["now"] == now != shown["canvas"]["then"] and shown["film"]["tiles"][0]["match"]
    assert shown["canvas"]["then"] == view.picture_url(session.generator.photo(name).original, view.FULL)
    assert done["slots"]["copy"]["image"].startswith("data:") and done["slots"]["paste"]["image"].startswith("data:")
    assert kept(shared.shelf) == before  # nothing: what was copied from the photo is on other pictures too
    assert all(tile["image"].startswith("data:") for tile in done["film"]["tiles"])
    new = [{*cache._kept} - old for cache, old in zip((shared.pages, shared.keys, shared.made), caches, strict=True)]
    assert not [key for keys in new for key in keys if "photo" in f"{key}"]
    assert do.rule(done["visitor"], "switch", 0, False)["canvas"]["now"] == shown["canvas"]["then"]


def test_strokes_on_a_photo_are_those_of_the_library(do, town):
    visitor, name = with_photo(do, TOWN)
    shown = do.stroke(visitor, "tree", painted(name))
    session = Rewriter(town)
    session.open(portable.from_bytes(visitor.photos[name], town))
    session.history = do.shared.session(shown["visitor"]).history
    assert shown["canvas"]["now"] == view.picture_url(session.painted([name])[0])
    assert shown["canvas"]["now"] != shown["canvas"]["then"] and shown["strokes"]["count"] == 1
    sides = do.sides(shown["visitor"], name)["sides"]
    assert "of it changed" in sides["words"]["edited"] and sides["pictures"]["edited"] == shown["canvas"]["now"]
    undone = do.step(shown["visitor"], "undo")
    assert undone["canvas"]["now"] == do.refresh(visitor)["canvas"]["now"]


def test_without_the_photo_the_page_goes_on_and_says_what_is_missing(do):
    work, (visitor, name) = Work(do), with_photo(do, TOWN)
    visitor = do.stroke(visitor, "tree", painted(name))["visitor"]
    record = to_record(visitor)
    assert len(record) < 6000 < len(visitor.photos[name])
    again = from_record(record, ours=True)
    assert again.selected == name and not again.photos
    opened = work("open", again)
    assert opened["canvas"]["seed"] == 0 and opened["slots"]["paste"]["image"] == "" and ERROR not in opened
    for step in ("execute", "why", "pick"):
        assert "drop the same photo again" in work(step, again, *([name] if step == "pick" else []))[ERROR]
    back = replace(again, photos=visitor.photos)
    assert work("open", back)["canvas"]["now"] == do.refresh(visitor)["canvas"]["now"]


def test_files_and_links_name_the_photo_and_do_not_hold_it(do, town):
    visitor, name = with_photo(do, TOWN)
    visitor = do.stroke(visitor, "tree", painted(name))["visitor"]
    with pytest.raises(InputError, match="photo, which a link cannot hold"):
        do.link(visitor)
    pixels = portable.from_bytes(visitor.photos[name], town).photo.numpy().tobytes()
    for what in ("edit", "session"):
        saved = base64.b64decode(do.save(visitor, what)["download"]["url"].partition(",")[2])
        assert pixels[500:540] not in saved and (what == "session" or name.encode() in saved)


def test_damaged_photos_and_those_of_other_generators_are_left_out(do):
    (visitor, name), (stranger, other) = with_photo(do, TOWN), with_photo(do)
    data = visitor.photos[name]
    for photos_ in ({name: data[:-1]}, {name: b"x"}, {"photo-0123456789abcdef": data}, stranger.photos):
        shown = do.refresh(Visitor(TOWN, photos=photos_))
        assert [tile["seed"] for tile in shown["film"]["tiles"]] == [*range(12)]
    both = do.refresh(Visitor(TOWN, photos={other: stranger.photos[other], name: data}))
    assert both["film"]["tiles"][0]["seed"] == name
    with pytest.raises(AbsentPhotoError):
        do.pick(Visitor(TOWN), name)


def test_forgetting_drops_what_is_remembered(do):
    visitor, name = with_photo(do, seed=9)
    do.refresh(visitor)
    assert name in remembered(do.shared)
    shown = do.forget_photo(visitor, name)
    assert shown["canvas"]["seed"] == 0 and not shown["visitor"].photos
    do.shared.forget([name])
    assert name not in remembered(do.shared)


def test_whoever_knows_a_photos_name_and_a_rule_made_on_it_sees_nothing_of_it(do):
    visitor, name = with_photo(do, seed=11)
    for kind, place in (("copy", square(2, 2, 9, 9)), ("paste", square(6, 7, 13, 14))):
        visitor = do.mark(visitor, kind, painted(name, place))["visitor"]
    done = do.execute(do.set(visitor, "form", "weight")["visitor"])
    assert done["bar"]["crops"]
    works = done["visitor"].works
    for sent in ({}, {name: b"junk"}, {name: with_photo(do, seed=12)[0].photos.popitem()[1]}):
        other = Visitor(SMALL, works=works, photos=sent)
        assert do.view.show(other, do.shared.session(other), "bar")["bar"]["crops"] == []
    again = Visitor(SMALL, works=works, photos=visitor.photos)
    assert do.view.show(again, do.shared.session(again), "bar")["bar"]["crops"] == done["bar"]["crops"]


def test_what_is_remembered_of_photos_ages_while_others_work(do, monkeypatch):
    visitor, name = with_photo(do, seed=13)
    do.refresh(visitor)
    (private,) = (cache for key, cache in do.shared._private.items() if name in dict(key))
    assert private.size
    monkeypatch.setattr(private, "seconds", -1.0)
    do.refresh(Visitor(SMALL))
    assert not private.size


# --- the album ---


def test_an_album_keeps_a_few_photos_of_a_tab_for_some_time():
    album = Album(limit=100, seconds=60)
    album.put("a", {f"{n}": bytes(10) for n in range(MOST + 1)})
    assert [*album.look_up("a", "01234")] == [*"1234"] and album.look_up("b", "1") == {}
    album.put("b", {"1": bytes(70)})  # a's are gone: there is no room
    assert album.look_up("a", "1") == {} and album.size == 70
    album.put("b", {"2": bytes(EACH + 1)})
    assert [*album.look_up("b", "12")] == ["1"]
    assert album.forget("b", "2") == [] and album.forget("b") == ["1"] and album.size == 0
    album.put("c", {"1": b"x"})
    album.seconds = -1.0
    album.sweep()
    assert album.size == 0


def test_an_album_takes_nothing_from_work_that_began_before_its_tab_was_closed():
    album, began = Album(), time.monotonic()
    assert album.put("a", {"1": b"x"}, since=began)
    album.forget("a")
    assert not album.put("a", {"2": b"x"}, since=began) and album.size == 0
    assert album.put("b", {"2": b"x"}, since=began) and album.put("a", {"2": b"x"}, since=time.monotonic() + 1)


@pytest.fixture(scope="module")
def page():
    with served(SMALL) as page:
        yield page


@pytest.fixture
def http(page):
    with connected(page) as client:
        yield client


def test_a_tab_sends_its_photo_once_and_nobody_else_gets_it(page, http):
    tab, other = Tab(http), Tab(http)
    noise = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(3)) * 2 - 1
    shown = tab.step("photo", "noise.png", text(file_of(noise, 40)), None, 0.5)
    assert "original" in next(line for line in tab.lines if "photo" in line)["photo"]
    name, data = shown["opened"]["name"], base64.b64decode(shown["opened"]["data"])
    assert page.album.look_up(tab.name, [name]) == {name: data} and data not in tab.record.encode()
    picked = tab.step("pick", name, photos=[name])
    assert picked["canvas"]["seed"] == name and picked["canvas"]["now"].startswith("data:")
    assert "drop the same photo again" in tab.step("pick", name)["trouble"]["message"]
    asked = http.post("rewriter/step", json=other.asks("pick", name, photos=[name]))
    assert asked.status_code == 409 and "send them along" in asked.json()["message"]
    for _ in range(2):
        http.post("rewriter/step", content=json.dumps({"tab": tab.name, "name": "unload"})).raise_for_status()
    assert page.album.size == 0 and not page.shared._private
    assert http.post("rewriter/step", json=tab.asks("refresh", photos=[name])).status_code == 409
    sent = {name: text(data)}
    assert tab.step("pick", name, photos=sent)["canvas"]["now"] == picked["canvas"]["now"]
    assert tab.step("refresh", photos=[name])["film"]["tiles"][0]["seed"] == name  # it is there again
    tab.step("forget_photo", name, photos=[name])
    assert page.album.size == 0


def test_a_tab_that_is_closed_while_its_photo_is_found_leaves_nothing(page, http, monkeypatch):
    closed, quickly = Event(), photos.open_photo
    monkeypatch.setattr(photos, "open_photo", lambda *args, **more: closed.wait(20) and quickly(*args, **more))
    tab = Tab(http)
    noise = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(4)) * 2 - 1
    asked = tab.asks("photo", "noise.png", text(file_of(noise, 40)), None, 0.5)
    with (
        httpx.Client(base_url=http.base_url, timeout=60) as another,
        another.stream("POST", "rewriter/step", json=asked) as lines,
    ):
        ended = False
        for line in lines.iter_lines():  # through a proxy that does not tell that nobody waits any more
            if "original" in line and not closed.is_set():
                http.post("rewriter/step", json={"tab": tab.name, "name": "unload"}).raise_for_status()
                closed.set()
            ended |= "opened" in line
    assert ended and page.album.size == 0 and not remembered(page.shared)


def test_a_photo_is_forgotten_whatever_becomes_of_the_rest_of_the_request(page, http):
    tab, (visitor, name) = Tab(http), with_photo(Photos(page.shared))
    tab.step("refresh", photos={name: text(visitor.photos[name])})
    assert page.album.size and name in remembered(page.shared)
    shown = http.post("rewriter/step", json={**tab.asks("forget_photo", name), "record": "damaged"}).text
    assert "cannot be restored" in shown and page.album.size == 0 and name not in remembered(page.shared)


def test_a_found_photo_is_saved_over_the_network(page, http):
    tab, (visitor, name) = Tab(http), with_photo(Photos(page.shared))
    shown = tab.step("photo_file", name, photos={name: text(visitor.photos[name])})
    assert shown["download"]["url"].startswith("data:image/png") and not shown["trouble"]
    http.post("rewriter/step", json={"tab": tab.name, "name": "unload"}).raise_for_status()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (["../x"], 400),
        ([7], 400),
        ("photo-0123456789abcdef", 400),
        ([f"photo-{n:016x}" for n in range(MOST + 1)], 400),
        ({"photo-0123456789abcdef": "%"}, 400),
        ({"photo-0123456789abcdef": 7}, 413),
        ({"photo-0123456789abcdef": "A" * (EACH * 4 // 3 + 8)}, 413),
    ],
    ids=lambda value: f"{value}"[:40],
)
def test_photos_that_make_no_sense_are_refused(http, sent, status):
    assert http.post("rewriter/step", json=Tab(http).asks("refresh", photos=sent)).status_code == status


def test_a_strangers_bytes_are_opened_as_such(page, http):
    """Bytes that are no photo are left out, and the page goes on."""
    tab, name = Tab(http), named(torch.zeros(3, 16, 16, dtype=torch.uint8))
    shown = tab.step("refresh", photos={name: text(b"no photo")})
    assert shown["canvas"]["seed"] == 0 and Shelf(page.shared.shelf.path).get(name) is None
