"""The page's one component of its own: the wall, the pictures, the canvas, the slots, the verdict, rules and settings.

`page.html` is its skeleton and `page.css` its style; `page.js`, `inside.js` for the second tab and `photo.js` for a
visitor's own photo draw it from PARTS, JSON. The first ones come with the page. From then on each click is a step, an
HTTP request that `page.js` sends by itself: `POST rewriter/step` takes the step's name and arguments, a name for the
browser tab, the names of its photos, and the record, a text in which the server keeps all of the visitor's work, so
that any server can answer. The answer has one JSON object of parts a line, and in its last one `end` and the new
record. The tab keeps the record in memory and over a reload; steps wait for each other, and a step is sent again until
it is answered. Aborting a request cancels its work.

Masks stay in the browser until a button is pressed; then they are "SEED:" and a PNG data URL, whose opaque part is the
mask. The seed is part of it because another picture may be chosen by the time the server reads the mask.

It is made by a function: Gradio writes a stub file beside every module that subclasses a component.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent
CSS = (HERE / "page.css").read_text(encoding="utf-8")
FILES = ("page.html", "page.js", "inside.js", "photo.js")  # each script goes on where the one before ends
PARTS = (  # what steps update; see `view`, and `routes` for the last ones
    *"wall cards about film canvas slots bar rules hints settings suggested_name".split(),
    *"inside strokes why units pointed pending found chosen suggested link download progress trouble".split(),
    *"photo opened sides square".split(),
)


def studio(parts: Mapping[str, Any]) -> gr.HTML:
    """The component with its first parts."""
    html, *scripts = ((HERE / name).read_text(encoding="utf-8") for name in FILES)
    values = {name: json.dumps(parts.get(name)) for name in PARTS}
    options: dict[str, Any] = {"elem_id": "studio", "apply_default_css": False, **values}
    return gr.HTML("", html_template=html, js_on_load="\n".join(scripts), **options)
