"""The same steps for scripts and for MCP: typed endpoints beside the page's own events.

Each client has a session of its own, as each visitor has. Pictures and files are data URLs; so are masks: PNGs whose
opaque part is painted. What changes the work answers with what is next and the rules so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from torch import Tensor

from handlers import MARKS, STEPS
from lane import Lane
from painter import Painter
from studio import Visitor
from view import Shown

Answer = tuple[Visitor, Any]
SAYS = {
    "copy": "Copy the thing under the mask from picture `seed`.",
    "paste": "Paste the copied thing where the mask is on picture `seed`.",
    "context": "Add the place under the mask on picture `seed` to the context: places like it will follow the rule.",
    "keep": "Keep the place under the mask on picture `seed` as it is.",
    "erase": "Erase what is under the mask on picture `seed`; needs no copy.",
    "zero": "Let the layer forget what singles the context out; needs a context alone.",
    "undo": "Take back the last step.",
    "redo": "Do again what was taken back.",
    "begin": "Begin the next edit, on top of the rules made so far.",
    "revert": "Drop every rule: the generator as it was.",
}


def work(shown: Shown) -> Answer:
    """The visitor, and what is next with the rules so far."""
    return shown["visitor"], {"next": shown["next"], **shown["rules"]}


class Endpoints:
    """Each method whose name does not begin with an underscore is an endpoint of that name."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def generator(self, visitor: Visitor, name: str) -> Answer:
        """Work on another generator; the work on this one is kept."""
        return work(self._lane.call("choose", visitor, name))

    def pictures(self, visitor: Visitor, seeds: str, original: bool) -> Answer:
        """Draw pictures such as 0-11, 40, 97: with the rules that are on, or as the generator was."""
        shown = self._lane.call("browse", visitor, seeds)
        return shown["visitor"], {
            tile["key"]: tile["other" if original else "image"] for tile in shown["board"]["tiles"]
        }

    def setting(self, visitor: Visitor, name: str, value: Any) -> Answer:
        """Change a setting of the edit: layer, rank, smoothness, method, truncation or title."""
        return work(self._lane.call("set", visitor, name, value))

    def execute(self, visitor: Visitor) -> Answer:
        """Turn copy, paste and context into a rule: the generator is rewritten."""
        return work(self._last("execute", visitor))

    def example(self, visitor: Visitor, name: str) -> Answer:
        """Take up a shipped edit and execute it."""
        return work(self._last("example", visitor, name))

    def rule(self, visitor: Visitor, rule: int, do: str, value: Any) -> Answer:
        """Change the list of rules. do: strength (-1 to 2), switch (true or false), move (to a place) or remove."""
        return work(self._lane.call("rule", visitor, do, rule, value))

    def find(self, visitor: Visitor) -> Answer:
        """The twelve pictures of 2,000 in which the context fires most, the strongest first."""
        shown = self._last("find", visitor)
        return shown["visitor"], [int(tile["key"]) for tile in shown["board"]["tiles"]]

    def layers(self, visitor: Visitor) -> Answer:
        """The same edit at every layer, the best first, with the score of each."""
        shown = self._last("suggest", visitor)
        return visitor, [tile["caption"] for tile in shown["suggested"]["tiles"]]

    def save(self, visitor: Visitor, what: str, rule: int) -> Answer:
        """A file to keep: edit, session, rule (say which), sheet or animation."""
        return visitor, self._lane.call("save", visitor, what, rule)["download"]

    def load(self, visitor: Visitor, file: str) -> Answer:
        """Go on from a file: an edit, a recording of the original implementation, a rule or a session."""
        return work(self._last("load", visitor, file))

    def _last(self, *named: Any) -> Shown:
        *_, shown = self._lane.follow(*named)
        return shown


def expose(lane: Lane, visitor: gr.State) -> None:
    """Make the endpoints, in the Blocks that are being laid out."""
    unseen = gr.Button(visible=False)
    said = gr.JSON(visible=False, label="outcome")
    seed = gr.Number(0, precision=0, visible=False, label="number of a picture, 0 to 999,999")
    rule = gr.Number(0, precision=0, visible=False, label="place of a rule in the list, from 0")
    value = gr.JSON(visible=False, label="the new value")
    words = {name: gr.Textbox(visible=False, label=name) for name in ("generator", "setting", "example", "do", "what")}
    inputs: dict[str, list[Any]] = {
        "generator": [words["generator"]],
        "pictures": [gr.Textbox("0-11", visible=False, label="seeds"), gr.Checkbox(visible=False, label="original")],
        "setting": [words["setting"], value],
        "example": [words["example"]],
        "rule": [rule, words["do"], value],
        "save": [words["what"], rule],
        "load": [gr.File(visible=False, label="file", file_types=[".json", ".safetensors"])],
    }

    def endpoint(name: str, run: Callable[..., Any], given: list[Any]) -> None:
        unseen.click(run, [visitor, *given], [visitor, said], api_name=name, concurrency_id="gpu")

    def marking(what: str) -> Callable[..., Answer]:
        def mark(visitor: Visitor, seed: int, mask: Tensor | None) -> Answer:
            return work(lane.call("mark", visitor, what, mask, seed))

        return mark

    def stepping(what: str) -> Callable[..., Answer]:
        def step(visitor: Visitor) -> Answer:
            return work(lane.call("step", visitor, what))

        return step

    for what in (*MARKS, *STEPS):
        run = marking(what) if what in MARKS else stepping(what)
        run.__doc__ = SAYS[what]
        endpoint(what, run, [seed, Painter(visible=False, label="mask")] if what in MARKS else [])
    endpoints = Endpoints(lane)
    for name in (name for name in vars(Endpoints) if not name.startswith("_")):
        endpoint(name, getattr(endpoints, name), inputs.get(name, []))
