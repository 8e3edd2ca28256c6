"""The page's one component of its own: the wall, the pictures, the canvas, the slots, the verdict and the rules.

`page.html` is its skeleton and `page.css` its style; `page.js` draws it from PARTS, JSON, and triggers EVENTS.
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
PARTS = (  # what handlers update; see `view`, and `app` for the last ones
    *(
        "wall",
        "cards",
        "about",
        "film",
        "canvas",
        "slots",
        "bar",
        "rules",
        "hints",
        "kept",
        "pending",
        "found",
        "chosen",
        "suggested",
        "settings",
        "suggested_name",
    ),
    *("link", "download", "progress", "trouble", "tried"),
)
EVENTS = (
    "act",  # a quick step: {"name", "args"}
    "work",  # a step that takes long: {"name", "args"}
    "fetch",  # an example, a generator or a link to open: {"wanted", "linked", "on_top"}
    "prepare",  # the edit is complete: time to choose a form and to look for more places
    "attempt",  # a slider passes over a strength: {"rule", "value"}
    "cancel",  # of what takes long
)
# What a reload and an address bring along, for the first event. Each tab keeps its own work.
OPENING = """(visitor, opening) => {
  let kept = null;
  try { kept = JSON.parse(sessionStorage.getItem('rewriter')); } catch { }
  return [visitor, { kept, hash: location.hash, link: Object.fromEntries(new URLSearchParams(location.search)) }];
}"""


def studio(parts: Mapping[str, Any]) -> gr.HTML:
    """The component with its first parts."""
    html, js = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    values = {name: json.dumps(parts.get(name)) for name in PARTS}
    options: dict[str, Any] = {"elem_id": "studio", "apply_default_css": False, **values}
    return gr.HTML("", html_template=html, js_on_load=js, **options)
