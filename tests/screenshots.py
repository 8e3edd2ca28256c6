"""Screenshots of the page's main states, and how long a visitor waits: `python tests/screenshots.py FOLDER`."""

import io
import itertools
import sys
import time
from pathlib import Path

from browser import HINT, Visit, chromium, find
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "space"))

from app import LAUNCH, Page  # noqa: E402 (the Space's files lie beside each other)
from studio import Studio  # noqa: E402


def timed(what, act, then, repeat=5):
    """Print the median time from an act until then."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        act()
        then()
        times.append(time.perf_counter() - started)
    print(f"{what}: {sorted(times)[len(times) // 2]:.2f} s (of {repeat}: {min(times):.2f} … {max(times):.2f})")


def measure(browser, url):
    """How long a visitor waits on the built-in generator."""
    visits = []
    timed("page ready", lambda: visits.append(Visit(browser, url)), lambda: None)
    v = visits.pop()
    v.mark("copy", 1, 0.35, 0.2, 0.33)
    v.pick(0)
    wanted = "document.querySelectorAll('#tray [data-key]').length === %d"

    def paste():
        v.paint(0.24, 0.3, 0.36)
        started = time.perf_counter()
        v.press("#paste")
        v.page.wait_for_function(wanted % 4)
        return time.perf_counter() - started

    def unpaste():
        v.press("#undo")
        v.page.wait_for_function(wanted % 2)

    times = []
    for _ in range(5):
        times.append(paste())
        unpaste()
    print(f"paste → preview: {sorted(times)[2]:.2f} s (of 5: {min(times):.2f} … {max(times):.2f})")
    paste()
    v.mark("context", 7, 0.63, 0.28, 0.32)
    v.page.wait_for_selector("#execute:not([disabled])")
    before = v.sources()
    v.execute()  # the layer is known from here on
    after = v.sources()
    drawn, figures = [], []
    for _ in range(5):
        v.press("#undo")
        v.wait_for_board(before)
        v.wait_for_rules(0)
        started = time.perf_counter()
        v.press("#execute")
        v.wait_for_board(after)
        drawn.append(time.perf_counter() - started)
        v.wait_for_rules(1)
        figures.append(time.perf_counter() - started)
    for what, times in (("gallery of 12 redrawn", drawn), ("rule with its effect", figures)):
        print(f"execute → {what}: {sorted(times)[2]:.2f} s (of 5: {min(times):.2f} … {max(times):.2f})")
    shown = itertools.cycle((("Original", "other"), ("Rewritten", "image")))

    def toggle():
        view, picture = next(shown)
        v.look(view)
        v.page.wait_for_selector(f'#board [data-showing="{picture}"]')

    timed("toggle original", toggle, lambda: None)
    v.close()


def best(browser, url, folder):
    """The README's picture: a shipped edit, executed."""
    v = Visit(browser, url, width=1280)
    v.press('#cards [data-key="dome-to-spire"]')
    v.wait_for_rules(1)
    v.page.mouse.move(0, 0)
    v.page.wait_for_timeout(1000)
    with Image.open(io.BytesIO(v.page.screenshot(full_page=True))) as image:
        image.convert("RGB").save(folder / "page.webp", quality=85)
    v.close()


def shoot(browser, url, folder):
    """The main states, wide and narrow, light and dark."""

    def keep(v, name, *, whole=True):
        v.page.mouse.move(0, 0)
        v.page.wait_for_timeout(600)
        v.page.screenshot(path=folder / f"{name}.png", full_page=whole)

    v = Visit(browser, url)
    keep(v, "first", whole=False)
    v.mark("copy", 1, 0.35, 0.2, 0.33)
    v.mark("paste", 0, 0.24, 0.3, 0.36)
    v.pick(7)
    v.paint(0.63, 0.28, 0.32)
    keep(v, "painted")
    v.press("#context")
    v.page.wait_for_selector("#execute:not([disabled])")
    v.execute()
    keep(v, "executed")
    v.look("Matches")
    v.page.wait_for_function("[...document.querySelectorAll('#board img')].every(i => i.complete)")
    v.page.wait_for_timeout(3000)
    keep(v, "matches")
    v.press("#advanced button")
    v.press("#suggest")
    v.page.wait_for_selector("#suggested [data-key]", timeout=60_000)
    keep(v, "layers")
    v.close()
    for width, dark in ((1400, False), (1400, True), (800, False), (400, False), (400, True)):
        v = Visit(browser, f"{url}?__theme={'dark' if dark else 'light'}", width=width, dark=dark)
        v.press('#cards [data-key="grand-tour"]')
        v.wait_for_rules(3)
        keep(v, f"tour-{width}{'-dark' if dark else ''}")
        v.close()


def main(folder):
    """Serve the page, look at it, measure."""
    path = find()
    if path is None:
        sys.exit(HINT)
    Path(folder).mkdir(parents=True, exist_ok=True)
    page = Page(Studio(device="cpu"))
    _, url, _ = page.demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **LAUNCH)
    with chromium(path) as browser:
        measure(browser, url)
        best(browser, url, Path(folder))
        shoot(browser, url, Path(folder))
    page.demo.close()


if __name__ == "__main__":
    main(sys.argv[1])
