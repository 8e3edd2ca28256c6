"""The page's steps as endpoints for scripts and as tools for MCP.

Each client has a visitor of its own, by its session hash; all MCP clients together have one. Pictures, files and masks
are data URLs; a mask is a PNG whose opaque part is painted. A step that changes the work returns what comes next or
the verdict, and the rules.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from inspect import signature
from typing import Any

import gradio as gr

from asked import address_of
from guard import Listeners
from handlers import MARKS, STEPS
from rewriter.cache import Cache
from rewriter.masks import disc, encode
from view import Shown
from work_queue import Who, WorkQueue

CLIENT_BYTES, CLIENT_SECONDS = 64 << 20, 3600.0  # of scripts' work that is remembered by their session
UNHEARD = 1.5  # seconds that work goes on while nobody listens
DESCRIPTIONS = {
    "copy": "Copy the thing under the mask from picture `seed`.",
    "paste": "Paste the copied thing where the mask is on picture `seed`.",
    "context": "Add the place under the mask on picture `seed` to the context: places like it will follow the rule.",
    "keep": "Protect the place under the mask on picture `seed`.",
    "erase": "Erase what is under the mask on picture `seed`; nothing has to be copied.",
    "forget_context": "Make the layer forget what singles the context out; only a context is needed.",
    "undo": "Undo the last step.",
    "redo": "Redo the step that was undone last.",
    "new_rule": "Begin a new rule on top of the present ones.",
    "remove_all_rules": "Remove every rule: the original generator.",
}
NAMES = {"zero": "forget_context", "begin": "new_rule", "revert": "remove_all_rules"}  # of steps, where they differ


class Endpoints:
    """Each public method is an endpoint of that name; long ones are generators, which end with their client."""

    def __init__(self, queue: WorkQueue, listeners: Listeners) -> None:
        self._queue, self._listeners, self._clients = queue, listeners, Cache(CLIENT_BYTES, CLIENT_SECONDS)

    def generator(self, name: str, request: gr.Request) -> Iterator[Any]:
        """Switch to another generator, which is downloaded if necessary; the work on this one is kept."""
        for _ in self._queue.fetch(name):
            yield gr.skip()
        yield from self._follow(request, outcome, "choose", name)

    def pictures(self, seeds: str, original: bool, request: gr.Request) -> dict[str, str]:
        """Draw pictures such as 0-11, 40, 97: with the rules that are on, or by the original generator."""
        return self._result(request, "drawn", seeds, "original" if original else "now")["pictures"]

    def matches(self, seeds: str, request: gr.Request) -> dict[str, str]:
        """Draw pictures with everything dimmed that does not match the context."""
        return self._result(request, "drawn", seeds, "matches")["pictures"]

    def preview(self, request: gr.Request) -> dict[str, str]:
        """Draw the picture that is pasted on or erased: before, and as it is wanted."""
        return self._result(request, "preview")["pictures"]

    def setting(self, name: str, value: Any, request: gr.Request) -> Any:
        """Change a setting of the edit: layer, rank, smoothness, method, truncation, title, form or budget.

        form: auto, weight, gated or template. budget: the most that may change elsewhere, in 1/255; 0: the usual limit.
        """
        return self._work(request, "set", name, value)

    def execute(self, request: gr.Request) -> Iterator[Any]:
        """Turn the edit into a rule: the generator is rewritten."""
        yield from self._follow(request, outcome, "execute")

    def example(self, name: str, request: gr.Request) -> Iterator[Any]:
        """Load an example's edits and execute them."""
        yield from self._follow(request, outcome, "example", name)

    def things(self, request: gr.Request) -> Any:
        """What can be painted with: the name of each thing, and the layer and units that draw it."""
        return self._result(request, "things")["things"]

    def point(self, name: str, places: Any, request: gr.Request) -> Iterator[Any]:
        """Find the units that draw a thing of your own, pointed at on 1 to 5 pictures: [[seed, mask], …]."""
        pairs = places if isinstance(places, list) else [places]  # the handler says what is wrong with others
        marks = [":".join(map(str, pair)) if isinstance(pair, list) else pair for pair in pairs]
        yield from self._follow(
            request, lambda shown: [one["name"] for one in shown["inside"]["things"]], "point", name, marks
        )

    def stroke(self, name: str, seed: int, mask: str, remove: bool, strength: float, request: gr.Request) -> Any:
        """Draw a thing under the mask on picture `seed`, or remove it; `execute` makes what was painted a rule."""
        return self._work(request, "stroke", name, f"{seed}:{mask or ''}", remove, strength)

    def switch_units(self, name: str, level: str, units: Any, request: gr.Request) -> Iterator[Any]:
        """Switch units of a thing everywhere: level off, on or "as made".

        units: a list of their numbers; null: all of them, or as few as suffice to remove the thing.
        """
        yield from self._follow(request, outcome, "switch", name, level, units)

    def change_rule(self, rule: int, action: str, value: Any, request: gr.Request) -> Any:
        """Change a rule. action: strength (-1 to 2), switch (true or false), move (to a position) or remove."""
        return self._work(request, "rule", action, rule, value)

    def find(self, request: gr.Request) -> Iterator[Any]:
        """The twelve pictures of 2,000 that match the context best, best first."""
        yield from self._follow(request, lambda shown: [tile["seed"] for tile in shown["film"]["tiles"]], "find")

    def layers(self, request: gr.Request) -> Iterator[Any]:
        """The layers, best first, and how far the edit comes towards what was asked for at each."""
        yield from self._follow(
            request, lambda shown: [one["words"] for one in shown["suggested"]["layers"]], "suggest"
        )

    def save(self, what: str, rule: int, request: gr.Request) -> dict[str, str]:
        """Your work as a file: edit, session, rule (by its number), sheet or animation."""
        return self._result(request, "save", what, rule)["download"]

    def load(self, file: str, request: gr.Request) -> Iterator[Any]:
        """Load a file: an edit, a recording of the original implementation, a rule or a session."""
        yield from self._follow(request, outcome, "load_file", file)

    def _work(self, request: gr.Request, name: str, *arguments: Any) -> Any:
        """What comes next or the verdict, and the rules."""
        return outcome(self._result(request, name, *arguments))

    def _result(self, request: gr.Request, name: str, *arguments: Any) -> Shown:
        *_, shown = self._shown(request, name, *arguments)
        assert shown is not None  # progress comes before it
        return shown

    def _follow(self, request: gr.Request, answer: Callable[[Shown], Any], name: str, *arguments: Any) -> Iterator[Any]:
        """Nothing new from time to time, so that Gradio notices when the client has left; then the answer."""
        for shown in self._shown(request, name, *arguments):
            yield gr.skip() if shown is None else answer(shown)

    def _shown(self, request: gr.Request, name: str, *arguments: Any) -> Iterator[Shown | None]:
        """None while work goes on, then what its handler returned."""
        key = request.session_hash or secrets.token_hex(8)  # without a session: one for this call
        visitor = self._clients.peek(key) or self._queue.shared.newcomer()
        who = Who(
            request.session_hash or "no session",
            address_of(request.request) if request.request else "",
            request.request,
        )
        shown: Shown | None = None
        queued = request.request is not None and "/mcp" not in request.request.url.path
        heard = time.monotonic()
        with closing(self._queue.follow(name, visitor, *arguments, who=who)) as following:
            for one in following:
                shown = one if isinstance(one, dict) else shown
                if not queued or (request.session_hash or "") in self._listeners:
                    heard = time.monotonic()
                elif time.monotonic() > heard + UNHEARD:
                    raise gr.Error("cancelled: nobody waits for it", print_exception=False)
                yield None
        assert shown is not None
        if "visitor" in shown and request.session_hash:
            self._clients.replace(key, shown["visitor"])
        yield shown

    def _step(self, handler: str, what: str) -> Callable[..., Any]:
        """A step as an endpoint; MCP shows its name and its description."""

        def mark(seed: int, mask: str, request: gr.Request) -> Any:
            return self._work(request, handler, what, f"{seed}:{mask or ''}")

        def step(request: gr.Request) -> Any:
            return self._work(request, handler, what)

        run = mark if handler == "mark" else step
        run.__name__ = NAMES.get(what, what)
        run.__doc__ = DESCRIPTIONS[run.__name__]
        return run


def outcome(shown: Shown) -> Any:
    """What comes next or the verdict, and the rules."""
    words = {key: shown["bar"][key] for key in ("next", "verdict") if key in shown["bar"]}
    return {**words, "details": shown["bar"].get("details", []), **shown["rules"]}


def expose(queue: WorkQueue, listeners: Listeners) -> None:
    """Add the endpoints to the Blocks that are being laid out."""
    endpoints, button = Endpoints(queue, listeners), gr.Button(visible=False)
    answer = gr.JSON(visible=False, label="outcome")
    inputs = {
        "seed": gr.Number(0, precision=0, visible=False, label="seed of a picture, 0 to 99,999"),
        "mask": _mask(),
        "rule": gr.Number(0, precision=0, visible=False, label="number of a rule in the list, from 0"),
        "value": gr.JSON(visible=False, label="the new value"),
        "seeds": gr.Textbox("0-11", visible=False, label="seeds"),
        "original": gr.Checkbox(visible=False, label="original"),
        "remove": gr.Checkbox(visible=False, label="remove instead of draw"),
        "strength": gr.Number(1.0, visible=False, label="strength, 0 to 1"),
        "units": gr.JSON(visible=False, label="units"),
        "places": gr.JSON(visible=False, label="places: [[seed, mask], …]"),
        "level": gr.Textbox("off", visible=False, label="off, on or as made"),
        "file": gr.File(visible=False, label="file", file_types=[".json", ".safetensors"]),
        **{name: gr.Textbox(visible=False, label=name) for name in ("name", "action", "what")},
    }
    runs = {what: endpoints._step("mark" if what in MARKS else "step", what) for what in (*MARKS, *STEPS)}
    runs |= {name: getattr(endpoints, name) for name in vars(Endpoints) if not name.startswith("_")}
    for run in runs.values():
        name = run.__name__
        given = [inputs[each] for each in signature(run).parameters if each in inputs]
        button.click(run, given, answer, api_name=name, concurrency_limit=None)


def _mask() -> gr.Textbox:
    """The mask of a step; the generated documentation shows a small one as its sample."""
    box = gr.Textbox(visible=False, label="mask: a PNG data URL whose opaque part is painted")
    sample = encode(disc(16, 0.3, 0.3, 0.2))
    vars(box)["example_payload"] = lambda: sample
    return box
