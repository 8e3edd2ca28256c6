"""Screenshots of the page's main states: `python tests/screenshots.py FOLDER`."""

import io
import sys
from pathlib import Path

from browser import HINT, Visit, chromium, find, served
from PIL import Image


def shoot(browser, url, folder):
    """The main states, wide and narrow, light and dark; and page.webp, the README's picture."""

    def keep(v, name):
        v.page.mouse.move(0, 0)
        v.page.wait_for_timeout(600)  # until what fades has faded
        v.page.screenshot(path=folder / f"{name}.png", full_page=True)

    for width, dark in ((1280, False), (1280, True), (800, False), (400, False), (400, True)):
        v = Visit(browser, f"{url}?__theme={'dark' if dark else 'light'}", width=width, dark=dark, touch=width == 400)
        name = f"{width}{'-dark' if dark else ''}"
        keep(v, f"first-{name}")
        v.mark_edit()
        v.paint(0.4, 0.3, 0.5)
        v.execute()
        v.show("Matches")
        v.press("#advanced button")
        v.press("#suggest")
        v.page.wait_for_selector("#suggested [data-key]", timeout=60_000)
        v.press("#publisher > button")
        keep(v, f"executed-{name}")
        v.close()
    v = Visit(browser, url, width=1280)
    v.example("dome-to-spire")
    keep(v, "page")
    v.close()
    with Image.open(io.BytesIO((folder / "page.png").read_bytes())) as image:
        image.convert("RGB").save(folder / "page.webp", quality=85)


def main(folder):
    """Serve the page and look at it."""
    path = find() or sys.exit(HINT)
    folder.mkdir(parents=True, exist_ok=True)
    with served(["townscape"]) as url, chromium(path) as browser:
        shoot(browser, url, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
