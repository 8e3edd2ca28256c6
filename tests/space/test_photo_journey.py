"""A photo's whole journey in the browser, and that nothing is left of it afterwards."""

import base64
import io
import logging
import sqlite3
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from browser import Visit
from clicks import until
from loopback import Account, LoopbackHub
from PIL import Image

import photos
from app import Page
from rewriter.cache import default_folder
from rewriter.photo import portable
from rewriter.photo.opening import open_photo
from rewriter.pictures import to_image
from rewriter.serving.shelf import Shelf
from state import Shared

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.browser]
TOKEN, HERE = "hf_ada_may_write_0123456789", "given-only-to-the-browser-of-this-machine"
DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), brought = new DataTransfer();
    brought.items.add(new File([bytes], name, { type: 'image/jpeg' }));
    for (const kind of ['dragenter', 'dragover', 'drop']) document.querySelector('.rw')
        .dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: brought }));
}"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with LoopbackHub({TOKEN: Account("ada")}) as hub:
        hub.adopt(monkeypatch, tmp_path / "hub", TOKEN)
        yield hub


@pytest.fixture
def page(monkeypatch, tmp_path):
    """The page in this process, with a cache folder and a folder for temporary files of its own."""
    for name in ("cache", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(photos, "open_photo", partial(open_photo, effort=0.2))
    page = Page(Shared(("townscape",), device="cpu"), login=False, here=HERE)
    page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield page
    page.close()


@pytest.fixture
def photo(town):
    """A photo's file: a town beside a strip of noise, so that no other picture is like it."""
    noise = torch.rand(3, 160, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = torch.nn.functional.interpolate(town.sample([777]), (160, 120), mode="bilinear")[0]
    buffer = io.BytesIO()
    to_image(torch.cat([noise, drawn], 2)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def parts(data, size=48, count=9):
    """Some pieces of data, as they are and in base64: who keeps the data keeps one of them in one piece."""
    middle = [len(data) * (i + 1) // (count + 1) // 3 * 3 for i in range(count)]
    return [each for at in middle for each in (data[at : at + size], base64.b64encode(data[at : at + size]))]


def needles(file, content, town):
    """Pieces of all forms of a photo."""
    found = portable.from_bytes(content, town)
    pixels = found.photo.numpy()
    forms = [file, content, pixels.tobytes(), pixels.transpose(1, 2, 0).tobytes(), found.original.numpy().tobytes()]
    return [piece for form in forms for piece in parts(form) if len(set(piece)) > 8]


def everything(folder):
    """All that lies in a folder, and what is in its databases, row by row."""
    for path in (each for each in Path(folder).rglob("*") if each.is_file()):
        yield path.read_bytes()
        if path.suffix == ".sqlite":
            yield from rows(path)


def rows(path):
    """The files on a shelf."""
    with sqlite3.connect(path) as database:
        return [bytes(data) for (data,) in database.execute("SELECT data FROM files") if data]


def likest(pictures, original):
    """How much the picture differs from a photo that does so least, a mean in 1/255."""
    least = 255.0
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            pixels = torch.frombuffer(bytearray(image.convert("RGB").resize((64, 64)).tobytes()), dtype=torch.uint8)
        other = pixels.view(64, 64, 3).permute(2, 0, 1).float()
        least = min(least, float((other - original).abs().mean()))
    return least


def barriers(v):
    """What keeps people with disabilities from using the page."""
    found = Axe().run(v.page, context=".photo").response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]


def test_a_photo_is_dropped_found_painted_on_and_made_a_rule_and_then_nothing_is_left_of_it(
    browser, page, photo, hub, town, caplog, capfd, tmp_path
):
    caplog.set_level(logging.DEBUG)
    v = Visit(browser, f"{page.demo.local_url}?here={HERE}")
    v.page.evaluate(DROP, ["me.jpg", base64.b64encode(photo).decode()])
    v.page.wait_for_selector('.photo[open][data-at="square"]')
    assert barriers(v) == []
    v.page.focus(".cropper")
    v.page.keyboard.press("ArrowRight")  # at the edge: it cannot move further
    v.press("[data-find]")
    v.page.wait_for_selector('[data-side="so far"] img[src]')
    v.page.wait_for_selector('.photo[data-at="found"] figure:nth-child(4)', timeout=120_000)
    assert barriers(v) == []
    v.press("[data-differ]")
    v.page.wait_for_selector('.photo img[alt^="Differences"]')
    v.press("[data-paint]")
    v.page.wait_for_selector(".stage[data-ready^=photo]")
    name = v.page.get_attribute(".stage", "data-ready")
    assert v.page.text_content(".tile >> nth=0") == "Your photo" and v.page.is_hidden(".photo")
    before = v.pictures()
    v.inside()
    v.draw("tree", 0.75, 0.62, 0.74)
    painted = v.pictures()
    assert [seed for seed in painted if painted[seed] != before[seed]] == [name]
    v.execute()
    v.wait_for_rules(1)
    v.press('[data-step="begin"]')
    v.press('[data-tab-of="rewrite"]')
    v.mark("copy", name, 0.5, 0.2, 0.33)
    v.mark("paste", 0, 0.24, 0.3, 0.36)
    v.execute()
    v.wait_for_rules(2)

    content = base64.b64decode(v.page.evaluate(f"JSON.parse(sessionStorage['rewriter-photos'])['{name}']"))
    pieces = needles(photo, content, town)
    assert len(pieces) > 60 and all(any(piece in form for form in (content, photo)) for piece in parts(content)[::2])
    v.page.reload(wait_until="domcontentloaded")  # the server forgets; the browser sends it again
    v.wait_until_loaded()
    v.page.wait_for_selector(f'.tile[data-seed="{name}"]')
    assert until(lambda: page.album.size == len(content), 5)
    v.publish(name="mine", private=False)
    assert "ada/mine" in v.published()
    assert v.errors == []
    v.page.close(run_before_unload=True)
    assert until(lambda: page.album.size == 0, 10)

    shelf = Shelf(page.shared.shelf.path).path
    commits = hub.repositories["model", "ada/mine"].commits.values()
    published = [data for commit in commits for data in commit.files.values()]
    records = [f"{value}".encode() for value, *_ in page.records._kept._kept.values()]
    said = [caplog.text.encode(), *(text.encode() for text in capfd.readouterr())]
    lying = [*everything(default_folder()), *everything(tmp_path)]
    assert len(rows(shelf)) > 12 and len(published) > 3 and records
    for data in [*lying, *published, *records, *said]:
        assert not any(piece in data for piece in pieces)
    original = (portable.from_bytes(content, town).photo).float()
    buffer = io.BytesIO()
    to_image(original / 127.5 - 1).resize((256, 256)).save(buffer, "JPEG")
    assert likest([buffer.getvalue()], original) < 8 < likest(rows(shelf), original)
    assert not page.shared._private and not any("photo" in f"{key}" for key in page.shared.made._kept)
    v.close()


def test_a_square_is_moved_and_scaled_on_a_phone_and_a_search_is_cancelled(browser, page, photo):
    v = Visit(browser, page.demo.local_url, width=390, height=800, touch=True)
    v.press(".home [data-photo]")
    v.page.wait_for_selector('.photo[data-at="choose"]')
    v.page.set_input_files("#rw-photo-file", {"name": "me.jpg", "mimeType": "image/jpeg", "buffer": photo})
    v.page.wait_for_selector(".cropper img[src]")
    style = "getComputedStyle(document.querySelector('.cropper .square'))"
    wide = float(v.page.evaluate(f"{style}.width").removesuffix("px"))
    v.page.focus(".cropper")
    for _ in range(6):
        v.page.keyboard.press("-")
    assert float(v.page.evaluate(f"{style}.width").removesuffix("px")) < 0.8 * wide
    left = v.page.evaluate(f"{style}.left")
    v.page.keyboard.press("ArrowLeft")
    assert v.page.evaluate(f"{style}.left") != left
    sent = v.steps()
    v.press("[data-find]")
    v.page.wait_for_selector('[data-side="so far"] img[src]')
    v.press("[data-photo-cancel]")
    v.page.wait_for_selector('.photo[data-at="square"]')
    _, _, crop, faithful = next(step["args"] for step in sent if step["name"] == "photo")
    assert 0 < crop[0] < crop[1] and crop[2] < 0.8 * 160 and faithful == 0.5
    assert not v.scrolls_sideways() and page.album.size == 0
    v.press("[data-photo-close]")
    assert v.errors == [] and v.page.is_hidden(".photo")
    v.close()


def test_what_is_no_photo_says_so_and_the_page_goes_on(browser, page):
    v = Visit(browser, page.demo.local_url)
    v.page.evaluate(DROP, ["me.jpg", base64.b64encode(b"nonsense").decode()])
    v.page.wait_for_selector(".photo .wrong:has-text('me.jpg cannot be read here: save it as JPEG or PNG first')")
    assert v.page.locator("[data-find]").is_hidden()
    v.page.keyboard.press("Escape")
    v.edit()
    v.pick(3)
    assert v.errors == []
    v.close()
