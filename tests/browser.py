"""Chromium, and what a visitor does on the page: for the browser tests and the screenshots."""

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
WATCH = """() => {
    window.answered = null;
    document.querySelector('.paint').addEventListener('pointerup', () => {
        const start = performance.now();
        new MutationObserver((changes, watcher) => {
            watcher.disconnect();
            window.answered = (performance.now() - start) / 1000;
        }).observe(document.querySelector('.stage .now'), { attributeFilter: ['src'] });
    }, { once: true });
}"""
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
def served(names, *, port=None, launch=None, **options):
    """The page with these generators, served by this process; yields its address. `launch`: more options of Gradio."""
    from app import Page
    from state import Shared

    page = Page(Shared(names, device="cpu"), **options)
    where = {"server_name": "127.0.0.1", "server_port": port, **(launch or {})}
    page.launch(prevent_thread_lock=True, quiet=True, **where)
    yield page.demo.local_url
    page.close()


class Visit:
    """One tab. `errors` are those of its scripts."""

    def __init__(
        self,
        browser,
        url,
        *,
        width=1400,
        height=1000,
        touch=False,
        dark=False,
        reduced=False,
        context=None,
        through=None,
    ):
        options = {"has_touch": touch, "is_mobile": touch, "color_scheme": "dark" if dark else "light"}
        options["reduced_motion"] = "reduce" if reduced else "no-preference"
        self.own = context is None
        self.context = context or browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page, self.touch, self.errors = self.context.new_page(), touch, []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        if through:
            self.page.route("**/*", through)
        self.page.goto(url, wait_until="domcontentloaded")
        self.wait_until_loaded()

    def wait_until_loaded(self):
        self.page.wait_for_selector(".tile", state="attached")
        self.page.wait_for_selector(".stage[data-ready]", state="attached")

    def press(self, selector):
        getattr(self.page, "tap" if self.touch else "click")(selector)

    def edit(self):
        """From the wall of pictures to the canvas."""
        if self.page.get_attribute(".rw", "data-mode") == "home":
            self.press('.home [data-go="edit"]')

    def pick(self, seed):
        self.edit()
        if f"picture {seed}" != self.page.text_content(".stage .seed"):
            self.press(f'.tile[data-seed="{seed}"]')
        self.page.wait_for_selector(f'.stage[data-ready="{seed}"]')

    def paint(self, across, top, bottom, to=None):
        """A stroke, upright unless it ends elsewhere across, in shares of the picture, by mouse or by finger."""
        self.edit()
        self.page.locator(".paint").scroll_into_view_if_needed()
        box = self.page.locator(".paint").bounding_box()
        (x0, x1), (y0, y1) = (
            (box[o] + a * box[side], box[o] + b * box[side])
            for o, side, a, b in (("x", "width", across, across if to is None else to), ("y", "height", top, bottom))
        )
        if not self.touch:
            self.page.mouse.move(x0, y0)
            self.page.mouse.down()
            self.page.mouse.move(x1, y1, steps=4)
            self.page.mouse.up()
            return
        finger = self.context.new_cdp_session(self.page)
        for step in range(6):
            share = min(step, 4) / 4
            points = [{"x": x0 + (x1 - x0) * share, "y": y0 + (y1 - y0) * share}] if step < 5 else []
            kind = "touchStart" if not step else "touchMove" if points else "touchEnd"
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def inside(self):
        """To the second tab of the canvas."""
        self.edit()
        self.press('[data-tab-of="inside"]')

    def draw(self, thing, *stroke, **more):
        """Paint with a thing; returns the seconds from the end of the stroke until the picture is there."""
        self.press(f'[data-thing="{thing}"]')
        self.page.evaluate(WATCH)
        self.paint(*stroke, **more)
        self.page.wait_for_function("window.answered !== null")
        return self.page.evaluate("window.answered")

    def mark(self, what, seed, *stroke, **more):
        slot = f".slot[data-slot={'paste' if what == 'erase' else what}] .crop"
        self.pick(seed)
        self.paint(*stroke, **more)
        before = self.page.locator(slot).count() if what in ("context", "keep") else 0
        self.press(f'[data-mark="{what}"]')
        self.page.wait_for_function(f"n => document.querySelectorAll('{slot}').length > n", arg=before)

    def mark_edit(self):
        """Copy a spire, paste it over a dome, and mark another dome."""
        self.mark("copy", 1, 0.35, 0.2, 0.33)
        self.mark("paste", 0, 0.24, 0.3, 0.36)
        self.mark("context", 7, 0.63, 0.28, 0.32)
        self.page.wait_for_selector("[data-execute]:not([disabled])")

    def wait_until_chosen(self):
        """Until the machine has chosen in the background."""
        self.page.wait_for_selector(".rw[data-chosen]", timeout=120_000)

    def execute(self):
        self.press("[data-execute]")
        self.page.wait_for_selector(".verdict:not([data-verdict=''])", timeout=120_000)

    def example(self, name="no-light-on-ground"):
        if self.page.get_attribute(".rw", "data-mode") == "edit":
            self.press('[data-go="home"]')
        self.press(f'.card[data-key="{name}"]')
        self.page.wait_for_selector(".verdict:not([data-verdict=''])", timeout=120_000)

    def wait_for_rules(self, count):
        self.page.wait_for_function("n => document.querySelectorAll('.rules .rule').length === n", arg=count)

    def says(self):
        """What the bar says: what comes next, or the verdict."""
        return self.page.text_content(".next")

    def wait_until_says(self, words):
        """Until the bar says this; pictures may arrive before the words."""
        self.page.wait_for_selector(f'.next:has-text("{words}")')

    def pictures(self):
        """The filmstrip: number of the picture → address of its file, or data URL."""
        read = "tiles => Object.fromEntries(tiles.map(t => [t.dataset.seed, t.querySelector('img').src]))"
        return self.page.eval_on_selector_all(".tile", read)

    def wait_for_pictures(self, pictures, *, same=True):
        """Until the filmstrip shows these pictures, or others."""
        test = """([wanted, same]) => same === [...document.querySelectorAll('.tile')]
            .every(t => !(t.dataset.seed in wanted) || t.querySelector('img').src === wanted[t.dataset.seed])"""
        self.page.wait_for_function(test, arg=[pictures, same])

    def picture(self, address):
        """The picture at this address, as the browser gets it → (3, H, W) in 0…255."""
        read = """async address => [...new Uint8Array(await (await fetch(address)).arrayBuffer())]"""
        image = Image.open(io.BytesIO(bytes(self.page.evaluate(read, address)))).convert("RGB")
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(*image.size[::-1], 3).permute(2, 0, 1)

    def steps(self):
        """The steps that the tab sends from now on, as they are sent: JSON objects."""
        sent = []
        self.page.on("request", lambda request: sent.append(request.post_data_json) if is_step(request.url) else None)
        return sent

    def answer(self, *answers):
        """Answer the next steps so, each a function of Playwright's route, and what comes later by the server."""
        left = list(answers)
        self.page.route(is_step, lambda route: left.pop(0)(route) if left else route.continue_())

    def toggle(self, view="other"):
        self.press(f'[data-view="{view}"]')

    def share(self, what):
        if self.page.is_hidden("#rw-share"):
            self.press("[data-share]")
        self.press(f'[data-save="{what}"]')

    def link(self):
        self.share("link")
        self.page.wait_for_selector(".share output input")
        return self.page.input_value(".share output input")

    def scrolls_sideways(self):
        return self.page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth")

    def height(self):
        return self.page.evaluate("document.scrollingElement.scrollHeight")

    def download(self, selector, folder):
        with self.page.expect_download() as waiting:
            self.press(selector)
        target = folder / waiting.value.suggested_filename
        waiting.value.save_as(target)
        return target

    def open_panel(self, name):
        if not self.page.is_visible(f"#{name}:is([open], :has(.open))"):
            self.press(f"#{name} > :is(summary, button)")

    def publish(self, **fields):
        self.edit()
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

    def trouble(self):
        self.page.wait_for_selector(".trouble:not(:empty)", timeout=60_000)
        return self.page.text_content(".trouble")

    def close(self):
        (self.context if self.own else self.page).close()


def is_step(address):
    return address.endswith("/rewriter/step")
