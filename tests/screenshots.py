"""Screenshots of the page's main states, and how long a visitor waits: `python tests/screenshots.py FOLDER`."""

import io
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from browser import HINT, Visit, chromium, find, served
from PIL import Image

WIDTHS, HEIGHT = (390, 1024, 1400, 1920), 900


class Clock:
    """Seconds and heights that were measured, by name; the longest counts."""

    def __init__(self):
        self.found = {}

    @contextmanager
    def measure(self, name):
        start = time.perf_counter()
        yield
        self.note(name, time.perf_counter() - start)

    def note(self, name, value):
        self.found.setdefault(name, []).append(value)

    def table(self):
        lines = ["| what | median | longest |", "| --- | ---: | ---: |"]
        for name, values in self.found.items():
            unit = " px" if "tall" in name else " s"
            middle, most = sorted(values)[len(values) // 2], max(values)
            lines.append(f"| {name} | {middle:.4g}{unit} | {most:.4g}{unit} |")
        return "\n".join(lines)


def shoot(browser, url, folder, clock):
    """The main states, wide and narrow, light and dark; and page.webp, the README's picture."""
    for width in WIDTHS:
        for dark in (False, True):
            walk(browser, url, folder, clock, width, dark)
    v = Visit(browser, url, width=1400, height=HEIGHT)
    v.example("frown-to-smile")
    v.page.wait_for_timeout(800)
    with Image.open(io.BytesIO(v.page.screenshot())) as image:
        image.convert("RGB").save(folder / "page.webp", quality=55, method=6)
    v.close()


def walk(browser, url, folder, clock, width, dark):
    """Open the page, make a rule, compare, share."""
    phone = width < 720
    theme = "dark" if dark else "light"

    def keep(name):
        v.page.mouse.move(0, 0)
        v.page.wait_for_timeout(600)  # until what fades has faded
        v.page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=phone)
        if phone:
            clock.note("a phone's page is tall", v.height())

    with clock.measure("open → ready"):
        v = Visit(browser, f"{url}?__theme={theme}", width=width, height=HEIGHT, dark=dark, touch=phone)
    with clock.measure("ready → the wall moves"):
        v.page.wait_for_selector(".wall.on")
    v.page.wait_for_timeout(2000)
    keep("1-home")
    v.edit()
    keep("2-edit")
    with clock.measure("picture, stroke and Copy"):
        v.mark("copy", 6, 0.42, 0.63, 0.63, to=0.58)  # a smile
    with clock.measure("picture, stroke and Paste"):
        v.mark("paste", 9, 0.42, 0.66, 0.66, to=0.58)  # over a frown
    with clock.measure("Paste → places found"):
        v.page.wait_for_selector(".too .crop", timeout=60_000)
    with clock.measure("places found → the machine has chosen"):
        v.wait_until_chosen()
    keep("3-chosen")
    clock.note("Execute → pictures", shown_after(v, "[data-execute]", "document.querySelector('.tile.changed')"))
    v.page.wait_for_selector(".triple")
    keep("4-verdict")
    original = "document.querySelector('.stage').matches('.original')"
    clock.note("toggle original", shown_after(v, '[data-view="other"]', original))
    v.toggle()
    v.link()
    keep("5-shared")
    v.close()


def shown_after(v, button, condition):
    """Seconds from a click to the second frame in which the condition holds, as the browser counts them."""
    wait = f"""button => new Promise(done => {{
        const start = performance.now(), look = () => requestAnimationFrame(() => ({condition}) ?
            requestAnimationFrame(() => done((performance.now() - start) / 1000)) : look());
        document.querySelector(button).click(); look(); }})"""
    return v.page.evaluate(wait, button)


def main(folder):
    """Serve the page and look at it."""
    path = find() or sys.exit(HINT)
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    with served(["portraits", "townscape-128", "townscape"]) as url, chromium(path) as browser:
        shoot(browser, url, folder, clock)
    print(clock.table())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
