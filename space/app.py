"""Rewrite the rules of a generator in the browser: `python space/app.py`, or `rewriter demo`."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from importlib.util import find_spec
from threading import Event
from typing import Any

import gradio as gr

import api
from handlers import LINK, LONG, QUICK, SETTINGS, Handlers
from publish_panel import LOGIN, PublishPanel
from rewriter.checkpoints.catalogue import BUILT_INS, catalogue
from rewriter.checkpoints.client import connect, in_words
from rewriter.editing.edit import AUTO
from rewriter.errors import InputError
from rewriter.memory import SOLVERS
from rewriter.memory.solve import SMOOTHNESS
from state import Shared, Visitor, unknown
from studio import OPENING, PARTS, studio
from style import LAUNCH, PRIVATE
from view import FORM_LABELS, Shown, cards
from wall import wall
from work_queue import ZERO_GPU, Following, WorkQueue

FORM_INFO = "Automatic tries several forms and layers. Setting rank, smoothness or method changes the weights instead."
OTHERS = ("visitor", "fetched", "suggested_name", *SETTINGS)  # what handlers update besides the studio
PROPERTIES = ("suggested_name", "layer")  # updated by property
FILES = {"edit": "Save edit", "session": "Save session"}
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "trigger_mode": "multiple"}
QUEUED: dict[str, Any] = {**QUIET, "concurrency_id": "gpu"}
BACKGROUND: dict[str, Any] = {**QUIET, "concurrency_id": "background", "concurrency_limit": 8}
INTERVAL = 0.2  # seconds between progress reports
HARMLESS = ("pick", "browse", "more", "look", "save", "link")  # steps that do not change the edit


class Page:
    """The page: its layout, then what each part does. `demo` is the Gradio app."""

    def __init__(self, shared: Shared, *, login: bool = LOGIN) -> None:
        self.shared, self.queue = shared, WorkQueue(Handlers(shared))
        shared.background = not ZERO_GPU  # whose seconds are the visitor's own
        self._running: dict[tuple[str, str | None], Event] = {}  # by kind of work and session; set to cancel
        with gr.Blocks(title="rewriter", analytics_enabled=False, delete_cache=(600, 3600)) as self.demo:
            visitor = Visitor(shared.names[0])
            self.visitor, self.fetched, self.opening = gr.State(visitor), gr.State(), gr.JSON(visible=False)
            first = {} if ZERO_GPU else self.queue.call("first", visitor)  # the page arrives with its pictures
            self.studio = studio({**first, "wall": wall(shared), "cards": cards(shared)})
            with gr.Column(elem_id="below"):
                self._advanced(first)
                self._files()
                self.panel = PublishPanel(self.demo, self.queue, self.visitor, login=login)
            self.suggested_name = self.panel.name
            self._outputs = [self.studio, *(getattr(self, name) for name in OTHERS)]
            self._wire()
            api.expose(self.queue)

    # --- layout ---

    def _advanced(self, first: Shown) -> None:
        with gr.Accordion("Advanced: what the machine chose, and choosing by hand", open=False, elem_id="advanced"):
            with gr.Row():
                self.title = gr.Textbox(label="Title of this rule", max_length=200, elem_id="title")
                self.layer = gr.Dropdown(**first.get("layer", {}), label="Layer", elem_id="layer")
                forms = [(label, form) for form, label in FORM_LABELS.items()]
                self.form = gr.Dropdown(forms, value=AUTO, label="Form of the rule", info=FORM_INFO, elem_id="form")
                self.method = gr.Dropdown(SOLVERS, value=SOLVERS[0], label="Method", elem_id="method")
            with gr.Row():
                self.rank = gr.Slider(1, 8, value=1, step=1, label="Rank of the rule", elem_id="rank")
                smoothness = {"value": first.get("smoothness", SMOOTHNESS), "label": "Smoothness (protects the rest)"}
                self.smoothness = gr.Slider(0, 100, step=0.5, elem_id="smoothness", **smoothness)
                budget: dict[str, Any] = {
                    "label": "Most change elsewhere, in 1/255",
                    "info": "0: the usual limit.",
                }
                self.budget = gr.Number(0, minimum=0, maximum=255, step=0.5, elem_id="budget", **budget)
                self.truncation = gr.Slider(0.3, 1.2, value=1, step=0.1, label="Truncation", elem_id="truncation")
            with gr.Row():
                self.suggest = gr.Button("Try every layer", size="sm", elem_id="suggest")
                self.zero = gr.Button("Forget the context (remove its response)", size="sm", elem_id="zero")

    def _files(self) -> None:
        with gr.Accordion("Files: save or load an edit, a rule, a session or a recording", open=False, elem_id="files"):
            with gr.Row():
                self.saves = {
                    what: gr.Button(label, size="sm", min_width=80, elem_id=f"save-{what}")
                    for what, label in FILES.items()
                }
                kinds = [".json", ".safetensors"]
                self.load = gr.UploadButton("Load …", file_types=kinds, size="sm", min_width=80, elem_id="load")

    # --- updates ---

    def _show(self, shown: Shown) -> dict[Any, Any]:
        """What a handler returned, as updates of components."""
        parts: dict[str, Any] = {name: json.dumps(shown[name]) for name in PARTS if name in shown}
        updates: dict[Any, Any] = {self.studio: gr.update(**parts)} if parts else {}
        for name in OTHERS:
            if name in shown:
                updates[getattr(self, name)] = gr.update(**shown[name]) if name in PROPERTIES else shown[name]
        return updates or gr.skip()

    def _failed(self, error: gr.Error) -> Shown:
        """The message on the page; `at` makes it another one even if it says the same."""
        return {"trouble": {"message": html.unescape(str(error.message)), "at": time.time_ns()}}

    # --- events ---

    def _call(self, request: gr.Request, name: str, visitor: Visitor, *values: Any) -> dict[Any, Any]:
        """Show what a handler returns, or its error."""
        if name not in HARMLESS:
            self._cancel("background", request)
        try:
            return self._show({"trouble": {}, **self.queue.call(name, visitor, *values)})
        except gr.Error as error:
            return self._show(self._failed(error))

    def _follow(
        self, request: gr.Request, work: Callable[[], Following], visitor: Visitor, kind: str = "work"
    ) -> Iterator[dict[Any, Any]]:
        """Show the progress of long work, its result or error; the pictures as before if it is cancelled."""
        after: Shown = {} if kind == "background" else {"progress": None}
        if kind == "work":
            self._cancel("background", request)
        try:
            stopped = yield from self._followed(work(), kind, request)
            after |= self.queue.call("refresh", visitor) if stopped and kind == "work" else {}
        except gr.Error as error:
            after |= self._failed(error) | (self.queue.call("refresh", visitor) if kind == "work" else {})
        yield self._show(after)

    def _followed(self, work: Following, kind: str, request: gr.Request) -> Generator[dict[Any, Any], None, bool]:
        """Update the page with results, and from time to time with progress, until the work ends or is cancelled.

        Returns whether it was cancelled. Gradio's own `cancels` would also cancel what the visitor starts while the
        cancelled work has not ended.
        """
        key, last = (kind, request.session_hash), 0.0
        self._cancel(kind, request)
        mine = self._running[key] = Event()
        try:
            with closing(work):
                for one in work:
                    if mine.is_set():
                        return True
                    if isinstance(one, dict):
                        yield self._show(one)
                    elif time.monotonic() > last + INTERVAL:
                        last = time.monotonic()
                        if kind != "background":
                            yield self._show({"progress": {"share": one[0], "words": f"{one[1]} …"}})
                        else:
                            yield gr.skip()  # lets Gradio notice a closed tab
            return False
        finally:
            if self._running.get(key) is mine:
                del self._running[key]

    def _cancel(self, kind: str, request: gr.Request) -> None:
        if running := self._running.get((kind, request.session_hash)):
            running.set()

    def _wire(self) -> None:
        self._wire_studio()
        self._wire_opening()
        for name in SETTINGS:
            setting: Any = getattr(self, name)
            event = setting.blur if name in ("title", "budget") else setting.input
            self._on(event, "set", name, inputs=[setting], trigger_mode="always_last")
        for what, button in self.saves.items():
            self._on(button.click, "save", what)
        for event, name, inputs in (
            (self.suggest.click, "suggest", []),
            (self.zero.click, "zero", []),
            (self.load.upload, "load", [self.load]),
        ):
            event(self._long(name), [self.visitor, *inputs], self._outputs, **QUEUED)

    def _on(self, event: Any, name: str, *fixed: Any, inputs: Sequence[Any] = (), **options: Any) -> None:
        """Show what a handler returns for the visitor, the fixed values and the inputs."""

        def run(visitor: Visitor, request: gr.Request, *values: Any) -> dict[Any, Any]:
            return self._call(request, name, visitor, *fixed, *values)

        event(run, [self.visitor, *inputs], self._outputs, **{**QUEUED, **options})

    def _long(self, name: str) -> Callable[..., Iterator[dict[Any, Any]]]:
        def run(visitor: Visitor, request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
            yield from self._follow(request, lambda: self.queue.follow(name, visitor, *values), visitor)

        return run

    def _wire_studio(self) -> None:
        def act(visitor: Visitor, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
            name, arguments = requested(event, QUICK)
            return self._call(request, name, visitor, *arguments)

        def work(visitor: Visitor, request: gr.Request, event: gr.EventData) -> Iterator[dict[Any, Any]]:
            name, arguments = requested(event, LONG)
            yield from self._follow(request, lambda: self.queue.follow(name, visitor, *arguments), visitor)

        def prepare(visitor: Visitor, request: gr.Request) -> Iterator[dict[Any, Any]]:
            following = partial(self.queue.follow, "prepare", visitor)
            yield from self._follow(request, following, visitor, "background")

        def attempt(visitor: Visitor, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
            data = event._data
            shown = {"tried": time.time_ns()}
            with suppress(gr.Error):
                shown |= self.queue.call("rule", visitor, "try", data.get("rule"), data.get("value"))
            return self._show(shown)

        def cancel(request: gr.Request) -> None:
            for kind in ("work", "download"):
                self._cancel(kind, request)

        own, shown = [self.visitor], self._outputs
        self.studio.act(act, own, shown, **QUEUED)
        self.studio.work(work, own, shown, **QUEUED)
        self.studio.attempt(attempt, own, shown, **QUEUED)
        self.studio.prepare(prepare, own, self.studio, **BACKGROUND)
        self.studio.cancel(cancel, None, None, **BACKGROUND)

    def _wire_opening(self) -> None:
        """What a reload or an address asks for, and downloads, which do not hold up the queue."""

        def opened(visitor: Visitor, opening: Any, request: gr.Request) -> dict[Any, Any]:
            opening = opening if isinstance(opening, dict) else {}
            link = opening.get("link") if isinstance(opening.get("link"), dict) else {}
            if f"{opening.get('hash')}".startswith(LINK):
                link = {"work": opening["hash"]}
            if not (opening.get("kept") or link or ZERO_GPU):
                return gr.skip()
            return self._call(request, "open", visitor, opening.get("kept"), link)

        def fetch(visitor: Visitor, request: gr.Request, event: gr.EventData) -> Iterator[dict[Any, Any]]:
            wanted, flags = f"{event._data.get('wanted', '')}", (event._data.get(k) for k in ("linked", "on_top"))
            linked, on_top = map(bool, flags)
            yield self._show({"fetched": None, "progress": {"share": 0, "words": "Opening …"}})
            following = partial(self.queue.fetch_wanted, wanted, linked=linked, on_top=on_top)
            yield from self._follow(request, following, visitor, "download")

        def go_on(visitor: Visitor, fetched: Any, request: gr.Request) -> Iterator[dict[Any, Any]]:
            yield from self._follow(request, lambda: self.queue.continue_with(visitor, fetched), visitor)

        self.demo.load(opened, [self.visitor, self.opening], self._outputs, js=OPENING, **QUEUED)
        fetching = self.studio.fetch(fetch, [self.visitor], self._outputs, **{**QUIET, **api.DOWNLOADS})
        fetching.success(go_on, [self.visitor, self.fetched], self._outputs, **QUEUED)


def requested(event: gr.EventData, known: Sequence[str]) -> tuple[str, list[Any]]:
    """What the page asks for: the name of a handler and its arguments, which the handler checks."""
    name, arguments = event._data.get("name"), event._data.get("args")
    if name not in known or not isinstance(arguments, list):
        raise gr.Error(unknown("step", name, known), print_exception=False)
    return name, arguments


def main(generators: Sequence[str] = (), *, mcp: bool = False, login: bool = LOGIN, **options: Any) -> None:
    """Serve the page with the generators of the catalogue and the given ones; options are those of Gradio's launch.

    Raises:
        InputError: a file does not exist, the port is taken, or a package for MCP or the login is not installed.
    """
    if login and find_spec("authlib") is None:
        raise InputError("the login needs another package: pip install 'gradio[oauth]'")
    if login and not LOGIN:  # before Gradio asks the same, with a less helpful error
        hub = connect()
        with in_words("log in", hub):
            hub.whoami()
    if mcp and find_spec("mcp") is None:
        raise InputError("MCP needs another package: pip install 'gradio[mcp]'")
    known = [entry.id for entry in catalogue().values() if entry.remote or entry.local.is_file()]
    page = Page(Shared(dict.fromkeys([*reversed(BUILT_INS), *generators, *known])), login=login)
    try:
        page.demo.queue(max_size=64).launch(**LAUNCH, mcp_server=mcp, **options)
    except OSError as error:
        raise InputError(f"the page cannot be served ({error}): choose another port or host") from error


if __name__ == "__main__":
    main()
