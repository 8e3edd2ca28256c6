"""A visitor at the page: Chromium, and what a hand does there. For the browser tests and the screenshots."""

import base64
import io
import os
import shutil
from contextlib import contextmanager

import torch
from PIL import Image

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


class Visit:
    """One tab. `errors` are those of its scripts."""

    def __init__(self, browser, url, *, width=1400, height=1000, touch=False, dark=False):
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch, color_scheme=scheme
        )
        self.page, self.touch, self.errors = self.context.new_page(), touch, []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.open(url)

    def open(self, url):
        self.page.goto(url, wait_until="domcontentloaded")
        self.ready()

    def ready(self):
        self.page.wait_for_selector("#board [data-key]")
        self.page.wait_for_selector("#painter [data-ready]")

    def press(self, selector):
        getattr(self.page, "tap" if self.touch else "click")(selector)

    def pick(self, seed):
        """Choose a picture; it comes into the painter."""
        old = self.page.get_attribute("#painter img", "src")
        if self.page.get_attribute(f'#board [data-key="{seed}"]', "aria-pressed") == "true":
            return
        self.press(f'#board [data-key="{seed}"]')
        self.page.wait_for_function("old => document.querySelector('#painter img').src !== old", arg=old)
        self.page.wait_for_selector("#painter [data-ready]")

    def paint(self, across, top, bottom):
        """A stroke downwards, in shares of the picture, by mouse or by finger."""
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
        self.page.wait_for_timeout(400)  # sooner, a tap would be the second half of a double tap

    def mark(self, what, seed, across, top, bottom):
        """Paint on a picture, press a button, and wait until it is noted."""
        tray = {"copy": "tray", "paste": "tray", "context": "context-tray", "keep": "keep-tray", "erase": "tray"}[what]
        tiles = f"document.querySelectorAll('#{tray} [data-key]').length"
        self.pick(seed)
        self.paint(across, top, bottom)
        before = self.page.evaluate(tiles)
        self.press(f"#{what}")
        self.page.wait_for_function(f"before => {tiles} > before", arg=before)

    def choose(self, title):
        """Another generator, by how it is called."""
        self.press("#generator input")
        self.page.locator(f'[role="option"]:has-text("{title}")').click()

    def hat(self):
        """Copy a spire, paste it over a dome, mark another dome: then it can be executed."""
        self.mark("copy", 1, 0.35, 0.2, 0.33)
        self.mark("paste", 0, 0.24, 0.3, 0.36)
        self.mark("context", 7, 0.63, 0.28, 0.32)
        self.page.wait_for_selector("#execute:not([disabled])")

    def execute(self):
        """Press Execute and wait for the rule."""
        rules = self.page.locator("#rules .rule").count()
        self.press("#execute")
        self.wait_for_rules(rules + 1)

    def wait_for_rules(self, count, timeout=30_000):
        test = "count => document.querySelectorAll('#rules .rule').length === count"
        self.page.wait_for_function(test, arg=count, timeout=timeout)

    def sources(self):
        """What is on the board: number of picture → data URL."""
        read = "tiles => Object.fromEntries(tiles.map(t => [t.dataset.key, t.querySelector('img').src]))"
        return self.page.eval_on_selector_all("#board [data-key]", read)

    def wait_for_board(self, sources, *, same=True):
        """Until the board shows these pictures, or others."""
        test = """([wanted, same]) => same === [...document.querySelectorAll('#board [data-key]')]
            .every(t => !(t.dataset.key in wanted) || t.querySelector('img').src === wanted[t.dataset.key])"""
        self.page.wait_for_function(test, arg=[sources, same])

    def look(self, view):
        """Rewritten, Original or Matches."""
        self.press(f'#view label:has-text("{view}")')

    def download(self, selector, path):
        """Press something that hands over a file, and keep it in the folder."""
        with self.page.expect_download() as waiting:
            self.press(selector)
        target = path / waiting.value.suggested_filename
        waiting.value.save_as(target)
        return target

    def close(self):
        self.context.close()


def picture(source):
    """A data URL as a picture (3, H, W) in 0…255."""
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3).permute(2, 0, 1)
