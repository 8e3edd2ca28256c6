"""Rewrite the rules of a generator in the browser: `python space/app.py`, or `rewriter demo`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from threading import Event
from typing import Any

import gradio as gr

import api
from board import SHOW, TRIED, board, file_download, rule_list
from handlers import MARKS, SETTINGS, Handlers
from painter import painter
from publish_panel import LOGIN, PublishPanel
from rewriter.checkpoints.catalogue import BUILT_IN, catalogue
from rewriter.checkpoints.client import connect, in_words
from rewriter.editing.edit import AUTO
from rewriter.errors import InputError
from rewriter.memory import SOLVERS
from rewriter.memory.solve import SMOOTHNESS
from rewriter.worlds import townscape
from state import Shared, Visitor
from style import LAUNCH, PRIVATE, PROGRESS
from view import FORM_LABELS, Shown, data_url, generator_choices
from work_queue import ZERO_GPU, Following, WorkQueue

INTRODUCTION = """# Rewrite the rules of a generator
An image generator obeys rules that nobody wrote down: domes sit on towers, lit windows light the ground. Copy a thing
from one picture, paste it into another, mark the context in a few more, execute: **the model changes**, and with it
every picture it will ever draw."""
PAINTING = """### 2 · Paint on it, then press a button
**Copy** the thing you painted over. On another picture, paint where it should be: **Paste**. Then mark more places
like that one: **Add context**."""
MARK_LABELS = dict(zip(MARKS, ("Copy", "Paste", "Add context", "Protect", "Erase"), strict=True))
STEP_LABELS = {"undo": "Undo", "redo": "Redo", "begin": "New rule", "revert": "Remove all rules"}
SAVE_LABELS = {"edit": "Save edit", "session": "Save session", "sheet": "Save pictures", "animation": "Save animation"}
FORM_INFO = "Automatic tries several forms and layers; rank, smoothness or method by hand change the weights."
VIEWS = ("Rewritten", "Original", "Matches")
PARTS = (  # everything that a handler may update
    *("visitor", "pending", "kept", "generator", "about", "seeds", "board", "painter", "tray", "context", "keep"),
    *("next", "execute", "cancel", "rules", "suggested", "suggested_name", "download"),
    *SETTINGS,
)
PROPERTIES = ("painter", "execute", "cancel", "suggested_name", "layer", "generator", "stop")  # updated by property
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
QUEUED: dict[str, Any] = {**QUIET, "concurrency_id": "gpu"}
INTERVAL = 0.2  # seconds between progress reports


class Page:
    """The page: its layout, then what each part does. `demo` is the Gradio app."""

    def __init__(self, shared: Shared, *, login: bool = LOGIN) -> None:
        self.shared, self.queue = shared, WorkQueue(Handlers(shared))
        self._cancelled: dict[tuple[str, str | None], Event] = {}  # by kind of work and session, while it is running
        first = {} if ZERO_GPU else self.queue.call("open", Visitor())  # the page arrives with its pictures
        with gr.Blocks(title="rewriter", analytics_enabled=False, delete_cache=(600, 3600)) as self.demo:
            self.visitor, self.pending, self.fetched = gr.State(Visitor()), gr.State(""), gr.State()
            self.kept = gr.BrowserState(storage_key="rewriter-work", secret="rewriter")
            self._head(first)
            with gr.Row(equal_height=False, elem_id="work"):
                self._pictures(first)
                self._painting(first)
                self._edit(first)
                self._rules()
            self.panel = PublishPanel(self.demo, self.queue, self.visitor, login=login)
            self.suggested_name = self.panel.name
            self._outputs = [getattr(self, name) for name in PARTS]
            self._wire_opening()
            self._wire_generator()
            self._wire_pictures()
            self._wire_edit()
            self._wire_rules()
            api.expose(self.queue)

    # --- layout ---

    def _head(self, first: Shown) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                gr.Markdown(INTRODUCTION)
            with gr.Column(scale=2, min_width=240):
                choices: dict[str, Any] = {"choices": generator_choices(self.shared), "value": self.shared.names[0]}
                self.generator = gr.Dropdown(**choices, label="Generator", elem_id="generator")
                self.about = gr.Markdown(first.get("about"), elem_id="about")
                self.stop = gr.Button("Cancel download", visible=False, size="sm", elem_id="stop")
        gr.Markdown("### Try an example: one click rewrites a rule")
        self.cards = board({"tiles": [_card(name) for name in townscape.examples()]}, wide=True, elem_id="cards")

    def _pictures(self, first: Shown) -> None:
        with gr.Column(elem_id="pictures"):
            gr.Markdown("### 1 · Choose a picture")
            with gr.Row():
                plain: dict[str, Any] = {"show_label": False, "container": False}
                self.view = gr.Radio(VIEWS, value=VIEWS[0], label="Pictures shown", elem_id="view", **plain)
            self.board = board(first.get("board"), elem_id="board")
            with gr.Row():
                plain |= {"label": "Picture numbers", "placeholder": "0-11, 40, 97", "max_lines": 1}
                self.seeds = gr.Textbox("0-11", elem_id="seeds", **plain)
                self.more = gr.Button("More pictures", size="sm", min_width=80, elem_id="more")
                self.find = gr.Button("Find similar", size="sm", min_width=80, elem_id="find")

    def _painting(self, first: Shown) -> None:
        with gr.Column(elem_id="painting"):
            gr.Markdown(PAINTING)
            self.painter = painter(**first.get("painter", {}), elem_id="painter")
            with gr.Row():
                self.marks = _buttons(MARK_LABELS, size="md", min_width=110)

    def _edit(self, first: Shown) -> None:
        with gr.Column(elem_id="edit"):
            gr.Markdown("### 3 · Check, and execute")
            self.tray = board(first.get("tray"), elem_id="tray")
            gr.Markdown("**Context**: places like these will follow the rule. Click a place to remove it.")
            self.context = board(first.get("context"), elem_id="context-tray")
            self.next = gr.Markdown(first.get("next"), elem_id="next")
            with gr.Row():
                self.execute = gr.Button("Execute", variant="primary", elem_id="execute", interactive=False, scale=3)
                self.cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1, min_width=80)
            with gr.Accordion("Protected", open=False):
                self.keep = board(first.get("keep"), elem_id="keep-tray")
            self._advanced(first)

    def _advanced(self, first: Shown) -> None:
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.title = gr.Textbox(label="Title of this rule", max_length=200, elem_id="title")
            self.layer = gr.Dropdown(**first.get("layer", {}), label="Layer", elem_id="layer")
            self.suggest = gr.Button("Try every layer", size="sm", elem_id="suggest")
            self.suggested = board(elem_id="suggested")
            self.rank = gr.Slider(1, 8, value=1, step=1, label="Rank of the rule", elem_id="rank")
            smoothness = {"value": first.get("smoothness", SMOOTHNESS), "label": "Smoothness (protects the rest)"}
            self.smoothness = gr.Slider(0, 100, step=0.5, elem_id="smoothness", **smoothness)
            forms = [(label, form) for form, label in FORM_LABELS.items()]
            self.form = gr.Dropdown(forms, value=AUTO, label="Form of the rule", info=FORM_INFO, elem_id="form")
            budget: dict[str, Any] = {"label": "Most that may change elsewhere, 1/255", "info": "0: the usual limit."}
            self.budget = gr.Number(0, minimum=0, maximum=255, step=0.5, elem_id="budget", **budget)
            self.method = gr.Dropdown(SOLVERS, value=SOLVERS[0], label="Method", elem_id="method")
            self.truncation = gr.Slider(0.3, 1.2, value=1, step=0.1, label="Truncation", elem_id="truncation")
            self.zero = gr.Button("Zero: remove the layer's response to the context", size="sm", elem_id="zero")

    def _rules(self) -> None:
        with gr.Column(elem_id="made"):
            gr.Markdown("### Rules")
            with gr.Row():
                self.steps = _buttons(STEP_LABELS, size="sm", min_width=80)
            self.rules = rule_list(elem_id="rules")
            gr.Markdown("**Save** your work, or **load** an edit, a rule, a session or a recording.")
            with gr.Row():
                self.saves = _buttons(SAVE_LABELS, "save-", size="sm", min_width=80)
                kinds = [".json", ".safetensors"]
                self.load = gr.UploadButton("Load …", file_types=kinds, size="sm", min_width=80, elem_id="load")
            self.download = file_download()

    # --- updates ---

    def _show(self, shown: Shown) -> dict[Any, Any]:
        return dict(self._update(name, value) for name, value in shown.items()) or gr.skip()

    def _update(self, name: str, value: Any) -> tuple[Any, Any]:
        """The component that shows a part of the page, and its update."""
        component = getattr(self, name)
        if name in PROPERTIES:
            return component, gr.update(**value)
        return component, json.dumps(value) if isinstance(component, gr.HTML) else value

    # --- events ---

    def _on(
        self, event: Any, name: str, *fixed: Any, inputs: Sequence[Any] = (), keys: Sequence[str] = (), **options: Any
    ) -> Any:
        """Show what a handler returns for the visitor, the arguments, the `inputs`, and the event's data at `keys`."""

        def run(visitor: Visitor, event: gr.EventData, *values: Any) -> dict[Any, Any]:
            return self._show(self.queue.call(name, visitor, *fixed, *values, *(event._data.get(key) for key in keys)))

        return event(run, [self.visitor, *inputs], self._outputs, **{**QUEUED, "trigger_mode": "multiple", **options})

    def _on_long(self, event: Any, name: str, *, inputs: Sequence[Any] = (), keys: Sequence[str] = ()) -> None:
        """As `_on`, for a handler that takes long: with progress, and Cancel; Execute has to wait until it is over."""
        after_download = name == "continue_with"
        follow = self.queue.continue_with if after_download else partial(self.queue.follow, name)

        def run(
            visitor: Visitor, event: gr.EventData, request: gr.Request, progress: gr.Progress = PROGRESS, *values: Any
        ) -> Iterator[Any]:
            working = {"cancel": {"interactive": True}, "execute": {"interactive": False}}
            work = follow(visitor, *values, *(event._data.get(key) for key in keys))
            try:
                stopped = yield from self._followed(work, working, "work", request, progress)
                yield self._show(self.queue.call("refresh", visitor) if stopped else {})  # Gradio needs one update
            except gr.Error:
                yield self._show(self.queue.call("refresh", visitor))  # as if nothing had been tried
                raise

        def over(visitor: Visitor) -> list[Any]:
            return [gr.update(interactive=False), gr.update(interactive=visitor.can_execute)]

        where = {**QUEUED, "show_progress": "full", "show_progress_on": self.about if after_download else self.next}
        ran = event(run, [self.visitor, *inputs], self._outputs, **where)
        for ended in (ran.success, ran.failure):  # not before: Gradio ignores clicks on Execute until its event ends
            ended(over, self.visitor, [self.cancel, self.execute], **QUIET)

    def _followed(
        self, work: Following, working: Shown, kind: str, request: gr.Request, progress: gr.Progress
    ) -> Generator[Any, None, bool]:
        """Update the page with results, and from time to time with progress, until the work ends or is cancelled.

        Returns whether this tab's button for that kind of work has cancelled it. Gradio's own `cancels` would also
        cancel what the visitor starts while the cancelled work has not ended.
        """
        key, last = (kind, request.session_hash), 0.0
        cancelled = self._cancelled[key] = Event()
        try:
            with closing(work):
                for one in work:
                    if cancelled.is_set():
                        return True
                    if isinstance(one, dict):
                        yield self._show(one)
                    elif time.monotonic() > last + INTERVAL:
                        yield gr.skip() if last else self._show(working)  # also lets Gradio notice a closed tab
                        progress(one[0], desc=one[1])  # after the update, which hides it
                        last = time.monotonic()
            return False
        finally:
            self._cancelled.pop(key, None)

    def _cancel(self, kind: str) -> Callable[[gr.Request], None]:
        def press(request: gr.Request) -> None:
            if cancelled := self._cancelled.get((kind, request.session_hash)):
                cancelled.set()

        return press

    def _wire_opening(self) -> None:
        def opened(visitor: Visitor, kept: Any, request: gr.Request) -> Any:
            link = dict(request.query_params)
            return self._show(self.queue.call("open", visitor, kept, link)) if kept or link or ZERO_GPU else gr.skip()

        self.demo.load(opened, [self.visitor, self.kept], self._outputs, **QUEUED)
        self._on_long(self.cards.pick, "example", keys=["key"])

    def _wire_generator(self) -> None:
        """What the menu or a link asks for is downloaded first, beside the queue, and then drawn with."""
        parts = [self.stop, self.generator, self.fetched]
        options: dict[str, Any] = {"show_progress": "full", "show_progress_on": self.about, **PRIVATE, **api.DOWNLOADS}
        menu, link = (self.generator.select, self.generator), (self.pending.change, self.pending)
        for (event, wanted), linked in ((menu, False), (link, True)):  # `input` comes again when the menu is left
            ran = event(self._fetching(linked), [self.visitor, wanted], parts, **options)
            self._on_long(ran.success, "continue_with", inputs=[self.fetched])
            ran.failure(lambda visitor: self._show(_no_download(visitor)), self.visitor, parts, **QUIET)
        self.stop.click(self._cancel("download"), None, None, **QUIET)

    def _fetching(self, linked: bool) -> Callable[..., Iterator[Any]]:
        """What an event does to download what is wanted; it leaves in `fetched` how to continue."""

        def run(visitor: Visitor, wanted: str, request: gr.Request, progress: gr.Progress = PROGRESS) -> Iterator[Any]:
            stopped = not wanted or wanted == visitor.generator  # the page itself has reset the menu
            if not stopped:
                work = self.queue.fetch_wanted(wanted, linked=linked)
                working = {"stop": {"visible": True}, "generator": {"interactive": False}, "fetched": None}
                stopped = yield from self._followed(work, working, "download", request, progress)
            done = {"stop": {"visible": False}, "generator": {"interactive": True}}
            yield self._show(_no_download(visitor) if stopped else done)

        return run

    def _wire_pictures(self) -> None:
        self._on(self.seeds.submit, "browse", inputs=[self.seeds])
        self._on(self.more.click, "more")
        self._on(self.board.pick, "pick", keys=["key"])
        self._on_long(self.find.click, "find", inputs=[self.painter])
        self.view.change(None, self.view, None, js=SHOW % "board")
        self._on(self.view.input, "look", inputs=[self.view])

    def _wire_edit(self) -> None:
        for what, button in self.marks.items():
            self._on(button.click, "mark", what, inputs=[self.painter])
        for what, places in (("context", self.context), ("keep", self.keep)):
            self._on(places.pick, "unmark", what, keys=["key"])
        for name in SETTINGS:
            setting: Any = getattr(self, name)
            event = setting.blur if name in ("title", "budget") else setting.input
            self._on(event, "set", name, inputs=[setting], trigger_mode="always_last")
        self._on_long(self.suggest.click, "suggest")
        self._on(self.suggested.pick, "set", "layer", keys=["key"])

    def _wire_rules(self) -> None:
        self._on_long(self.execute.click, "execute")
        self.cancel.click(self._cancel("work"), None, None, **QUIET)
        for what, button in {**self.steps, "zero": self.zero}.items():
            self._on(button.click, "step", what)
        self._on(self.rules.act, "rule", keys=["do", "rule", "value"])
        trying = self._on(self.rules.attempt, "rule", "try", keys=["rule", "value"])
        trying.then(None, js=TRIED % "rules")
        for what, button in self.saves.items():
            self._on(button.click, "save", what)
        self._on(self.rules.fetch, "save", "rule", keys=["rule"])
        self._on_long(self.load.upload, "load", inputs=[self.load])


def _no_download(visitor: Visitor) -> Shown:
    """The generator menu where no download is running, or where one did not succeed."""
    menu = {"value": visitor.generator, "interactive": True}
    return {"stop": {"visible": False}, "generator": menu, "fetched": None}


def _buttons(labels: Mapping[str, str], prefix: str = "", **options: Any) -> dict[str, gr.Button]:
    return {what: gr.Button(label, elem_id=f"{prefix}{what}", **options) for what, label in labels.items()}


def _card(name: str) -> dict[str, str]:
    """An example as a tile: its name, and a picture before and after."""
    image = data_url(townscape.examples()[name].with_suffix(".png").read_bytes(), "image/png")
    resists = " (this edit fails)" if name == "door-in-the-sky" else ""
    return {"key": name, "caption": name.replace("-", " ") + resists, "title": f"Rewrite: {name}", "image": image}


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
    page = Page(Shared(dict.fromkeys([BUILT_IN, *generators, *known])), login=login)
    try:
        page.demo.queue(max_size=64).launch(**LAUNCH, mcp_server=mcp, **options)
    except OSError as error:
        raise InputError(f"the page cannot be served ({error}): choose another port or host") from error


if __name__ == "__main__":
    main()
