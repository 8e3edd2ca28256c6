"""Chromium, and what a visitor does on the page: for the browser tests and the screenshots."""

import base64
import io
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "space"))

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
--disable-component-update --disable-sync"
HINT = "no browser: install Debian's chromium, or Chrome, to run the browser tests"


def find():
    """The path of Chromium, or None; where CI=true it must be there."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found or not os.environ.get("CI"), HINT
    return found


@contextmanager
def chromium(path):
    """A running browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@contextmanager
def served(names, **options):
    """The page with these generators, served by this process; yields its address."""
    from app import LAUNCH, Page
    from state import Shared

    page = Page(Shared(names, device="cpu"), **options)
    launch = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1", **LAUNCH}
    yield page.demo.queue().launch(**launch)[1]
    page.demo.close()


class Visit:
    """One tab. `errors` are those of its scripts."""

    def __init__(self, browser, url, *, width=1400, height=1000, touch=False, dark=False):
        options = {"has_touch": touch, "is_mobile": touch, "color_scheme": "dark" if dark else "light"}
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page, self.touch, self.errors = self.context.new_page(), touch, []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.goto(url, wait_until="domcontentloaded")
        self.wait_until_loaded()

    def wait_until_loaded(self):
        self.page.wait_for_selector("#board [data-key]")
        self.page.wait_for_selector("#painter [data-ready]")

    def press(self, selector):
        getattr(self.page, "tap" if self.touch else "click")(selector)

    def pick(self, seed):
        old = self.page.get_attribute("#painter img", "src")
        if self.page.get_attribute(f'#board [data-key="{seed}"]', "aria-pressed") == "true":
            return
        self.press(f'#board [data-key="{seed}"]')
        self.page.wait_for_function("old => document.querySelector('#painter img').src !== old", arg=old)
        self.page.wait_for_selector("#painter [data-ready]")

    def paint(self, across, top, bottom):
        """A vertical stroke, in shares of the picture, by mouse or by finger."""
        self.page.locator("#painter canvas").scroll_into_view_if_needed()
        box = self.page.locator("#painter canvas").bounding_box()
        x, y0, y1 = box["x"] + across * box["width"], *(box["y"] + y * box["height"] for y in (top, bottom))
        if not self.touch:
            self.page.mouse.move(x, y0)
            self.page.mouse.down()
            self.page.mouse.move(x, y1, steps=4)
            self.page.mouse.up()
            return
        finger = self.context.new_cdp_session(self.page)
        for step in range(6):
            points = [{"x": x, "y": y0 + (y1 - y0) * min(step, 4) / 4}] if step < 5 else []
            kind = "touchStart" if not step else "touchMove" if points else "touchEnd"
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        self.page.wait_for_timeout(400)  # the browser takes a sooner tap for the second half of a double tap

    def mark(self, what, seed, across, top, bottom):
        tray = {"context": "context-tray", "keep": "keep-tray"}.get(what, "tray")
        tiles = f"document.querySelectorAll('#{tray} [data-key]').length"
        self.pick(seed)
        self.paint(across, top, bottom)
        before = self.page.evaluate(tiles)
        self.press(f"#{what}")
        self.page.wait_for_function(f"before => {tiles} > before", arg=before)

    def mark_edit(self):
        """Copy a spire, paste it over a dome, and mark another dome."""
        self.mark("copy", 1, 0.35, 0.2, 0.33)
        self.mark("paste", 0, 0.24, 0.3, 0.36)
        self.mark("context", 7, 0.63, 0.28, 0.32)
        self.page.wait_for_selector("#execute:not([disabled])")

    def execute(self):
        rules = self.page.locator("#rules .rule").count()
        self.press("#execute")
        self.wait_for_rules(rules + 1)

    def example(self, name="no-light-on-ground"):
        self.press(f'#cards [data-key="{name}"]')
        self.wait_for_rules(1)

    def wait_for_rules(self, count):
        self.page.wait_for_function("n => document.querySelectorAll('#rules .rule').length === n", arg=count)

    def pictures(self):
        """The board: number of the picture → data URL."""
        read = "tiles => Object.fromEntries(tiles.map(t => [t.dataset.key, t.querySelector('img').src]))"
        return self.page.eval_on_selector_all("#board [data-key]", read)

    def wait_for_board(self, pictures, *, same=True):
        """Until the board shows these pictures, or others."""
        test = """([wanted, same]) => same === [...document.querySelectorAll('#board [data-key]')]
            .every(t => !(t.dataset.key in wanted) || t.querySelector('img').src === wanted[t.dataset.key])"""
        self.page.wait_for_function(test, arg=[pictures, same])

    def show(self, view):
        self.press(f'#view label:has-text("{view}")')

    def scrolls_sideways(self):
        return self.page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth")

    def download(self, selector, folder):
        with self.page.expect_download() as waiting:
            self.press(selector)
        target = folder / waiting.value.suggested_filename
        waiting.value.save_as(target)
        return target

    def publish(self, **fields):
        if not self.page.is_visible("#publish"):
            self.press("#publisher > button")
            self.page.wait_for_selector("#publish", state="visible")
        for name, value in fields.items():
            box = self.page.locator(f"#publish-{name} :is(input, textarea)")
            box.set_checked(value) if isinstance(value, bool) else box.fill(value)
        self.press("#publish")

    def published(self):
        self.page.wait_for_selector("#published pre", timeout=60_000)  # the lines that load the generator
        return self.page.text_content("#published")

    def error(self):
        self.page.wait_for_selector(".toast-body", timeout=60_000)
        message = self.page.text_content(".toast-body")
        self.page.click(".toast-close")
        self.page.wait_for_selector(".toast-body", state="detached")
        return message

    def close(self):
        self.context.close()


def as_tensor(url):
    """A picture's data URL → (3, H, W) in 0…255."""
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3).permute(2, 0, 1)
