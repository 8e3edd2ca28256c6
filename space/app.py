"""Rewrite the rules of a generator in the browser: `python space/app.py`, or `rewriter demo`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import gradio as gr

import api
from board import SHOW, TRIED, Board, Cards, Download, RuleList
from handlers import MARKS, SETTINGS, Handlers
from lane import ZERO, Lane
from looks import LAUNCH
from painter import Painted, Painter
from publisher import LOGIN, Publisher
from rewriter.checkpoints.catalogue import catalogue
from rewriter.checkpoints.client import connect, in_words
from rewriter.errors import InputError
from rewriter.memory import SOLVERS
from rewriter.memory.solve import SMOOTHNESS
from rewriter.worlds import townscape
from studio import BUILT_IN, Studio, Visitor
from view import Shown, data_url, offers

INTRO = """# Rewrite the rules of a generator
An image generator obeys rules it was never told: domes sit on towers, lit windows light the ground. Copy a thing from
one picture, paste it into another, mark the context in a few more, execute: **the model changes**, and with it every
picture it will ever draw."""
PAINTING = """### 2 · Paint on it, and say what it is
Over a thing: **Copy**. Where it should be, on another picture: **Paste**. More places like that: **Add context**."""
LABELS = dict(zip(MARKS, ("Copy", "Paste", "Add context", "Keep as it is", "Erase"), strict=True))
STEPS = {"undo": "Undo", "redo": "Redo", "begin": "Next rule", "revert": "Revert all"}
SAVED = {"edit": "Edit", "session": "Session", "sheet": "Before and after", "animation": "Animation"}
VIEWS = ("Rewritten", "Original", "Matches")
PARTS = (
    *("visitor", "pending", "kept", "generator", "about", "seeds", "board", "painter", "tray", "context", "keep"),
    *("next", "execute", "cancel", "rules", "suggested", "download", "brought"),
    *SETTINGS,
)
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "concurrency_id": "gpu"}
PROGRESS = gr.Progress()  # Gradio wants it as a default
PULSE = 0.2  # seconds between two pieces of news


class Page:
    """The page on one studio: layout first, then what each part does. `demo` is the Gradio app."""

    def __init__(self, studio: Studio, *, login: bool = LOGIN) -> None:
        self.studio, self.lane, self.running = studio, Lane(Handlers(studio)), []
        first = {} if ZERO else self.lane.call("open", Visitor())  # drawn already when the page arrives
        with gr.Blocks(title="rewriter", analytics_enabled=False, delete_cache=(600, 3600)) as self.demo:
            self.visitor, self.pending, self.brought = gr.State(Visitor()), gr.State(""), gr.State()
            self.kept = gr.BrowserState(storage_key="rewriter-work", secret="rewriter")
            self._head(first)
            with gr.Row(equal_height=False, elem_id="work"):
                self._pictures(first)
                self._painter(first)
                self._edit(first)
                self._rules()
            self.publisher = Publisher(self.demo, self.lane, self.visitor, login=login)
            self._wire_opening()
            self._wire_pictures()
            self._wire_edit()
            self._wire_rules()
            self._wire_files()
            api.expose(self.lane)

    # --- layout ---

    def _head(self, first: Shown) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                gr.Markdown(INTRO)
            with gr.Column(scale=2, min_width=240):
                choices = {"choices": offers(self.studio), "value": self.studio.names[0]}
                self.generator = gr.Dropdown(**choices, label="Generator", elem_id="generator")
                self.about = gr.Markdown(first.get("about"), elem_id="about")
                self.stop = gr.Button("Cancel", visible=False, size="sm", elem_id="stop")
        gr.Markdown("### See it happen: a rule rewritten at a click")
        self.cards = Cards({"tiles": [_card(name) for name in townscape.examples()]}, elem_id="cards")

    def _pictures(self, first: Shown) -> None:
        with gr.Column(elem_id="pictures"):
            gr.Markdown("### 1 · Choose a picture")
            with gr.Row():
                self.view = gr.Radio(VIEWS, value=VIEWS[0], show_label=False, container=False, elem_id="view")
            self.board = Board(first.get("board"), elem_id="board")
            with gr.Row():
                plain = {"show_label": False, "container": False, "max_lines": 1, "placeholder": "0-11, 40, 97"}
                self.seeds = gr.Textbox("0-11", label="Picture numbers", elem_id="seeds", **plain)
                self.more = gr.Button("More pictures", size="sm", min_width=80, elem_id="more")
                self.find = gr.Button("Find similar", size="sm", min_width=80, elem_id="find")

    def _painter(self, first: Shown) -> None:
        with gr.Column(elem_id="painting"):
            gr.Markdown(PAINTING)
            self.painter = Painter(**first.get("picture", {}), elem_id="painter")
            with gr.Row():
                self.marks = {
                    what: gr.Button(label, elem_id=what, size="md", min_width=110) for what, label in LABELS.items()
                }

    def _edit(self, first: Shown) -> None:
        with gr.Column(elem_id="edit"):
            gr.Markdown("### 3 · Look, and execute")
            self.tray = Board(first.get("tray"), elem_id="tray")
            gr.Markdown("**Context**: where the rule is to hold. Click a place to take it back.")
            self.context = Board(first.get("context"), elem_id="context-tray")
            self.next = gr.Markdown(first.get("next"), elem_id="next")
            with gr.Row():
                self.execute = gr.Button("Execute", variant="primary", elem_id="execute", interactive=False, scale=3)
                self.cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1, min_width=80)
            with gr.Accordion("Kept as it is", open=False):
                self.keep = Board(first.get("keep"), elem_id="keep-tray")
            self._advanced(first)

    def _advanced(self, first: Shown) -> None:
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.title = gr.Textbox(label="What this rule is called", max_length=200, elem_id="title")
            self.layer = gr.Dropdown(**first.get("layer", {}), label="Layer", elem_id="layer")
            self.suggest = gr.Button("Try every layer", size="sm", elem_id="suggest")
            self.suggested = Board(elem_id="suggested")
            self.rank = gr.Slider(1, 8, value=1, step=1, label="Rank of the rule", elem_id="rank")
            smooth = first.get("smoothness", SMOOTHNESS)
            self.smoothness = gr.Slider(
                0, 100, value=smooth, step=0.5, label="Smoothness: what else is to stay", elem_id="smoothness"
            )
            self.method = gr.Dropdown(SOLVERS, value=SOLVERS[0], label="Method", elem_id="method")
            self.truncation = gr.Slider(0.3, 1.2, value=1, step=0.1, label="Truncation", elem_id="truncation")
            self.zero = gr.Button("Zero: let the layer forget the context", size="sm", elem_id="zero")

    def _rules(self) -> None:
        with gr.Column(elem_id="made"):
            gr.Markdown("### The rules so far")
            with gr.Row():
                self.steps = {
                    what: gr.Button(label, elem_id=what, size="sm", min_width=80) for what, label in STEPS.items()
                }
            self.rules = RuleList(elem_id="rules")
            gr.Markdown("**Save** what you made, or **load** an edit, a rule, a session or a recording.")
            with gr.Row():
                self.saves = {
                    what: gr.Button(label, elem_id=f"save-{what}", size="sm", min_width=80)
                    for what, label in SAVED.items()
                }
                kinds = [".json", ".safetensors"]
                self.load = gr.UploadButton("Load …", file_types=kinds, size="sm", min_width=80, elem_id="load")
            self.download = Download(container=False)

    # --- what is shown ---

    def _show(self, shown: Shown) -> dict[Any, Any]:
        return dict(self._update(name, value) for name, value in shown.items()) or gr.skip()

    def _update(self, name: str, value: Any) -> tuple[Any, Any]:
        """A part of what is shown as a component and its update."""
        match name:
            case "picture":
                return self.painter, Painter(**value)
            case "mask":
                return self.painter, Painter(value=None)
            case "ready":
                return self.execute, gr.Button(interactive=value)
            case "busy":
                return self.cancel, gr.Button(interactive=value)
            case "proposal":
                return self.publisher.name, gr.Textbox(placeholder=value)
            case "layer" | "generator":
                return getattr(self, name), gr.Dropdown(**value)
            case _:
                return getattr(self, name), value

    @property
    def _everything(self) -> list[Any]:
        return [self.publisher.name, *(getattr(self, name) for name in PARTS)]

    # --- what is done ---

    def _on(
        self,
        event: Callable[..., Any],
        name: str,
        *fixed: Any,
        given: Sequence[Any] = (),
        said: Sequence[str] = (),
        **how: Any,
    ) -> Any:
        """On the event, do what the handler of that name does, and show what it returns.

        The handler gets the visitor, the fixed arguments, and what the event said under the keys `said` or else the
        values of the components `given`.
        """

        def told(visitor: Visitor, event: gr.EventData) -> dict[Any, Any]:
            return run(visitor, *(event._data.get(key) for key in said))

        def run(visitor: Visitor, *values: Any) -> dict[Any, Any]:
            return self._show(self.lane.call(name, visitor, *fixed, *_unfolded(values)))

        how = {**QUIET, "trigger_mode": "multiple", **how}
        return event(told if said else run, [self.visitor, *given], self._everything, **how)

    def _on_long(
        self, event: Callable[..., Any], name: str, *, given: Sequence[Any] = (), said: Sequence[str] = ()
    ) -> None:
        """As `_on`, for what takes longer: with its news on the way, and to be cancelled."""
        arriving = name == "arrived"
        idle = {"busy": False, **({"brought": None} if arriving else {})}
        follow = self.lane.arrived if arriving else partial(self.lane.follow, name)

        def told(visitor: Visitor, event: gr.EventData, progress: gr.Progress = PROGRESS) -> Iterator[dict[Any, Any]]:
            yield from run(visitor, progress, *(event._data.get(key) for key in said))

        def run(visitor: Visitor, progress: gr.Progress = PROGRESS, *values: Any) -> Iterator[dict[Any, Any]]:
            last = time.monotonic()
            try:
                for news in follow(visitor, *_unfolded(values)):
                    if isinstance(news, dict):
                        yield self._show(news)
                    elif time.monotonic() > last + PULSE:
                        last = time.monotonic()
                        yield self._show({"busy": True})  # here it can be cancelled
                        progress(news[0], desc=news[1])  # what is yielded hides it
            except gr.Error:
                yield self._show({**self.lane.call("refresh", visitor), **idle})  # as if nothing had been tried
                raise
            yield self._show(idle)

        how = {**QUIET, "show_progress": "full", "show_progress_on": self.about if arriving else self.next}
        self.running.append(event(told if said else run, [self.visitor, *given], self._everything, **how))

    def _wire_opening(self) -> None:
        def opened(visitor: Visitor, kept: Any, request: gr.Request) -> dict[Any, Any]:
            link = dict(request.query_params)
            return self._show(self.lane.call("open", visitor, kept, link)) if kept or link or ZERO else gr.skip()

        self.demo.load(opened, [self.visitor, self.kept], self._everything, **QUIET)
        self._on_long(self.cards.pick, "example", said=["key"])
        self._wire_chooser()

    def _wire_chooser(self) -> None:
        """What the chooser or a link asks for is brought first, aside from everybody's work, and then drawn with."""
        parts = [self.stop, self.generator, self.brought]
        how = {**PRIVATE, **api.DOWNLOADS}
        seen = {"show_progress": "full", "show_progress_on": self.about}
        # Gradio's `input` comes a second time when the chooser is left
        chosen = self.generator.select(self._bringing(False), [self.visitor, self.generator], parts, **seen, **how)
        linked = self.pending.change(self._bringing(True), [self.visitor, self.pending], parts, **seen, **how)
        for one in (chosen, linked):
            self._on_long(one.success, "arrived", given=[self.brought])
            one.failure(_at_rest, self.visitor, parts, show_progress="hidden", **how)
        self.stop.click(None, cancels=[chosen, linked], **PRIVATE)
        self.stop.click(_at_rest, self.visitor, parts, show_progress="hidden", **how)

    def _bringing(self, linked: bool) -> Callable[..., Iterator[Any]]:
        """What an event does that asks for something: bring it, with the news, and lay it down in `brought`."""

        def bring(visitor: Visitor, asked: str, progress: gr.Progress = PROGRESS) -> Iterator[Any]:
            last, brought = 0.0, None
            if not asked or asked == visitor.generator:  # the page has set it back itself
                yield _at_rest(visitor)
                return
            for news in self.lane.bring(asked, linked=linked):
                if isinstance(news, dict):
                    brought = news["brought"]
                elif time.monotonic() > last + PULSE:
                    last = time.monotonic()
                    yield [gr.Button(visible=True), gr.Dropdown(interactive=False), None]
                    progress(news[0], desc=news[1])  # what is yielded hides it
            yield [gr.Button(visible=False), gr.Dropdown(interactive=True), brought]

        return bring

    def _wire_pictures(self) -> None:
        self._on(self.seeds.submit, "browse", given=[self.seeds])
        self._on(self.more.click, "more")
        self._on(self.board.pick, "pick", said=["key"])
        self._on_long(self.find.click, "find", given=[self.painter])
        self.view.change(None, self.view, None, js=SHOW % "board")
        self._on(self.view.input, "look", given=[self.view])

    def _wire_edit(self) -> None:
        for what, button in self.marks.items():
            self._on(button.click, "mark", what, given=[self.painter])
        for what, board in (("context", self.context), ("keep", self.keep)):
            self._on(board.pick, "unmark", what, said=["key"])
        for name in SETTINGS:
            setting: Any = getattr(self, name)
            event = setting.blur if name == "title" else setting.input
            self._on(event, "set", name, given=[setting], trigger_mode="always_last")
        self._on_long(self.suggest.click, "suggest")
        self._on(self.suggested.pick, "set", "layer", said=["key"])

    def _wire_rules(self) -> None:
        self._on_long(self.execute.click, "execute")
        for what, button in {**self.steps, "zero": self.zero}.items():
            self._on(button.click, "step", what)
        self._on(self.rules.act, "rule", said=["do", "rule", "value"])
        trying = self._on(self.rules.attempt, "rule", "try", said=["rule", "value"])
        trying.then(None, js=TRIED % "rules")

    def _wire_files(self) -> None:
        for what, button in self.saves.items():
            self._on(button.click, "save", what)
        self._on(self.rules.fetch, "save", "rule", said=["rule"])
        self._on_long(self.load.upload, "load", given=[self.load])
        self.cancel.click(None, cancels=self.running, **PRIVATE)  # with a function it would come too late
        self.cancel.click(lambda: gr.Button(interactive=False), None, self.cancel, **PRIVATE)
        self._on(self.cancel.click, "refresh")


def _at_rest(visitor: Visitor) -> list[Any]:
    """Nothing is on its way: the button that stops it, the chooser, what was brought."""
    return [gr.Button(visible=False), gr.Dropdown(value=visitor.generator, interactive=True), None]


def _unfolded(values: Sequence[Any]) -> list[Any]:
    """Values of components as a handler's arguments: what is painted is a mask and a seed."""
    return [part for value in values for part in (value if isinstance(value, Painted) else (value,))]


def _card(name: str) -> dict[str, str]:
    """A shipped edit as a tile: its name, and a picture before and after."""
    image = data_url(townscape.examples()[name].with_suffix(".png").read_bytes(), "image/png")
    resists = " (resists)" if name == "door-in-the-sky" else ""
    return {"key": name, "caption": name.replace("-", " ") + resists, "title": f"Rewrite: {name}", "image": image}


def main(generators: Sequence[str] = (), *, mcp: bool = False, login: bool = LOGIN, **options: Any) -> None:
    """Serve the page; the catalogue and those named are on offer, options are those of Gradio's launch.

    Raises:
        InputError: a file that is not there, a port that is taken, or MCP or a login without its package.
    """
    if login and find_spec("authlib") is None:
        raise InputError("a login needs a package more: pip install 'gradio[oauth]'")
    if login and not LOGIN:  # Gradio asks that too, and says less when it fails
        api = connect()
        with in_words("log in", api):
            api.whoami()
    if mcp and find_spec("mcp") is None:
        raise InputError("MCP needs a package more: pip install 'gradio[mcp]'")
    known = [entry.id for entry in catalogue().values() if entry.repository or entry.local.is_file()]
    page = Page(Studio(dict.fromkeys([BUILT_IN, *generators, *known])), login=login)
    try:
        page.demo.queue(max_size=64).launch(**LAUNCH, mcp_server=mcp, **options)
    except OSError as error:
        raise InputError(f"the page cannot be served ({error}): choose another port or host") from error


if __name__ == "__main__":
    main()
