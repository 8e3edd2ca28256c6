"""The same steps for scripts and for MCP: typed endpoints beside the page's own events.

Each client has a session of its own, by its session hash; all MCP clients together are one. Pictures and files are data
URLs; so are masks: PNGs whose opaque part is painted. What changes the work answers with what is next and the rules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import gradio as gr

from handlers import MARKS, STEPS
from lane import Lane
from painter import Painted, Painter
from studio import Visitor
from view import Shown

LONG = ("choose", "execute", "example", "find", "suggest", "load")  # what may be stopped when it takes too long
DOWNLOADS: dict[str, Any] = {"concurrency_id": "download", "concurrency_limit": 32}  # who waits for one holds up nobody
CLIENTS = 1000  # whose work is remembered; the one least recently heard of goes first
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


class Endpoints:
    """Each method whose name does not begin with an underscore is an endpoint of that name."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()

    def generator(self, name: str, request: gr.Request) -> Any:
        """Work on another generator, which is downloaded if need be; the work on this one is kept."""
        for _ in self._lane.fetch(name):
            pass
        return self._work(request, "choose", name)

    def pictures(self, seeds: str, original: bool, request: gr.Request) -> dict[str, str]:
        """Draw pictures such as 0-11, 40, 97: with the rules that are on, or as the generator was."""
        tiles = self._did(request, "browse", seeds)["board"]["tiles"]
        return {tile["key"]: original and tile.get("other") or tile["image"] for tile in tiles}

    def setting(self, name: str, value: Any, request: gr.Request) -> Any:
        """Change a setting of the edit: layer, rank, smoothness, method, truncation or title."""
        return self._work(request, "set", name, value)

    def execute(self, request: gr.Request) -> Any:
        """Turn copy, paste and context into a rule: the generator is rewritten."""
        return self._work(request, "execute")

    def example(self, name: str, request: gr.Request) -> Any:
        """Take up a shipped edit and execute it."""
        return self._work(request, "example", name)

    def rule(self, rule: int, do: str, value: Any, request: gr.Request) -> Any:
        """Change the list of rules. do: strength (-1 to 2), switch (true or false), move (to a place) or remove."""
        return self._work(request, "rule", do, rule, value)

    def find(self, request: gr.Request) -> list[int]:
        """The twelve pictures of 2,000 in which the context fires most, the strongest first."""
        return [int(tile["key"]) for tile in self._did(request, "find")["board"]["tiles"]]

    def layers(self, request: gr.Request) -> list[str]:
        """The same edit at every layer, the best first, with the score of each."""
        return [tile["caption"] for tile in self._did(request, "suggest")["suggested"]["tiles"]]

    def save(self, what: str, rule: int, request: gr.Request) -> dict[str, str]:
        """A file to keep: edit, session, rule (say which), sheet or animation."""
        download: dict[str, str] = self._did(request, "save", what, rule)["download"]
        return download

    def load(self, file: str, request: gr.Request) -> Any:
        """Go on from a file: an edit, a recording of the original implementation, a rule or a session."""
        return self._work(request, "load", file)

    def _work(self, request: gr.Request, *named: Any) -> Any:
        """What is next, and the rules so far."""
        shown = self._did(request, *named)
        return {"next": shown["next"], **shown["rules"]}

    def _did(self, request: gr.Request, name: str, *arguments: Any) -> Shown:
        key = request.session_hash or ""
        visitor = self._visitors.get(key, Visitor())
        if name in LONG:
            *_, shown = self._lane.follow(name, visitor, *arguments)
        else:
            shown = self._lane.call(name, visitor, *arguments)
        if "visitor" in shown:
            self._visitors[key] = shown["visitor"]
            self._visitors.move_to_end(key)
            while len(self._visitors) > CLIENTS:
                self._visitors.popitem(last=False)
        return shown


def expose(lane: Lane) -> None:
    """Make the endpoints, in the Blocks that are being laid out."""
    endpoints, unseen = Endpoints(lane), gr.Button(visible=False)
    said = gr.JSON(visible=False, label="outcome")
    seed = gr.Number(0, precision=0, visible=False, label="number of a picture, 0 to 99,999")
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
        how = DOWNLOADS if name == "generator" else {"concurrency_id": "gpu"}
        unseen.click(run, given, said, api_name=name, **how)

    def marking(what: str) -> Callable[..., Any]:
        def mark(seed: int, mask: Painted | None, request: gr.Request) -> Any:
            return endpoints._work(request, "mark", what, mask and mask.mask, seed)

        return mark

    def stepping(what: str) -> Callable[..., Any]:
        def step(request: gr.Request) -> Any:
            return endpoints._work(request, "step", what)

        return step

    for what in (*MARKS, *STEPS):
        run = marking(what) if what in MARKS else stepping(what)
        run.__name__, run.__doc__ = what, SAYS[what]  # as they are named and described to MCP
        endpoint(what, run, [seed, Painter(visible=False, label="mask")] if what in MARKS else [])
    for name in (name for name in vars(Endpoints) if not name.startswith("_")):
        endpoint(name, getattr(endpoints, name), inputs.get(name, []))
