"""Rewrite the rules of a generator in the browser: `python space/app.py`, or `rewriter demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr

from board import SHOW_OTHER, Board, RuleList
from handlers import MARKS, Handlers
from painter import Painter
from rewriter import townscape
from rewriter.errors import RewriterError
from studio import Studio, Visitor

CSS = ".gradio-container { max-width: 1280px !important; } #next { min-height: 1.6em; }"
INTRO = """# Rewrite the rules of a generator
Copy a thing from one picture, paste it into another, mark the context in a few more, execute. Not one picture changes
but **the model**, so that every picture it will ever draw follows the new rule."""
LABELS = dict(zip(MARKS, ("Copy", "Paste", "Add to context", "Keep as it is", "Erase"), strict=True))
STEPS = {"undo": "Undo", "redo": "Redo", "begin": "Next rule", "revert": "Revert all"}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}


def in_words(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The library's own errors become messages on the page; the signature stays the handler's."""

    @wraps(handler)
    def run(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except RewriterError as error:
            raise gr.Error(str(error), duration=10) from error

    return run


class Page:
    """The page on one studio: layout first, then what each part does. `demo` is the Gradio app."""

    def __init__(self, studio: Studio) -> None:
        self.do = Handlers(studio)
        with gr.Blocks(title="rewriter", analytics_enabled=False, delete_cache=(600, 3600)) as self.demo:
            self.visitor = gr.State(Visitor())
            gr.Markdown(INTRO)
            with gr.Row():
                self._pictures()
                self._painter()
                self._edit()
            gr.Markdown("### Or try an edit that is made already")
            with gr.Row():
                names = townscape.examples()
                self.cards = {name: gr.Button(name, size="sm", elem_id=f"card-{name}") for name in names}
            self.trays = [self.copied, self.pasted, self.context, self.keep, self.next_step, self.execute]
            self.everything = [self.visitor, self.board, self.painter, *self.trays, self.rules]
            self.demo.load(lambda: self._all(Visitor()), None, self.everything, **PRIVATE)
            self._wire_pictures()
            self._wire_edit()
            self._wire_rules()

    # --- layout ---

    def _pictures(self) -> None:
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### 1 · Choose a picture")
            with gr.Row():
                self.seeds = gr.Textbox("0-11", label="Pictures, such as 0-11, 40, 97", scale=3)
                self.more = gr.Button("More", scale=1)
            self.board = Board(elem_id="board")
            self.original = gr.Checkbox(label="Show the original", elem_id="original")

    def _painter(self) -> None:
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### 2 · Paint on it, and say what it is")
            self.painter = Painter(elem_id="painter")
            with gr.Row():
                self.marks = {what: gr.Button(label, elem_id=what, size="sm") for what, label in LABELS.items()}

    def _edit(self) -> None:
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### 3 · Look, and execute")
            self.next_step = gr.Markdown(elem_id="next")
            self.execute = gr.Button("Execute", variant="primary", elem_id="execute", interactive=False)
            with gr.Row():
                self.copied, self.pasted = (Board(elem_id=f"tray-{name}") for name in ("copied", "pasted"))
            self.context, self.keep = (Board(elem_id=f"tray-{name}") for name in ("context", "keep"))
            gr.Markdown("### The rules so far")
            with gr.Row():
                self.steps = {what: gr.Button(label, elem_id=what, size="sm") for what, label in STEPS.items()}
            self.rules = RuleList(elem_id="rules")

    # --- what is shown ---

    def _tray(self, v: Visitor) -> tuple[Any, ...]:
        missing = self.do.missing(v)
        words = f"**Next:** {missing[0]}." if missing else "**Ready:** execute."
        return *self.do.trays(v).values(), words, gr.Button(interactive=not missing)

    def _all(self, v: Visitor) -> tuple[Any, ...]:
        return v, self.do.board(v), Painter(picture=self.do.picture(v)), *self._tray(v), self.do.rules(v)

    def _told(self, news: Iterator[Any], progress: gr.Progress) -> tuple[Any, ...]:
        for item in news:
            if isinstance(item, Visitor):
                return self._all(item)
            progress(item[0], desc=item[1])
        raise gr.Error("the work ended without a result: try again")

    # --- what is done ---

    def _wire_pictures(self) -> None:
        visitor, board = self.visitor, self.board

        def browse(v: Visitor, text: str) -> tuple[Visitor, Any]:
            v = self.do.browse(v, text)
            return v, self.do.board(v)

        def following(v: Visitor) -> tuple[Visitor, Any, str]:
            v = self.do.more(v)
            return v, self.do.board(v), f"{v.seeds[0]}-{v.seeds[-1]}"

        def pick(v: Visitor, event: gr.EventData) -> tuple[Visitor, Any, Any]:
            v = self.do.pick(v, str(event._data["key"]))
            return v, self.do.board(v), Painter(picture=self.do.picture(v), value=None)

        self.seeds.submit(in_words(browse), [visitor, self.seeds], [visitor, board], api_name="browse")
        self.more.click(in_words(following), visitor, [visitor, board, self.seeds], **PRIVATE)
        board.pick(in_words(pick), visitor, [visitor, board, self.painter], **PRIVATE)
        self.original.change(None, self.original, None, js=SHOW_OTHER % "board")

    def _wire_edit(self) -> None:
        visitor, painter = self.visitor, self.painter

        def marking(what: str) -> Callable[..., Any]:
            def mark(v: Visitor, mask: Any) -> tuple[Any, ...]:
                v = self.do.mark(v, what, mask)
                return v, Painter(value=None), *self._tray(v)

            return in_words(mark)

        def unmarking(what: str) -> Callable[..., Any]:
            def unmark(v: Visitor, event: gr.EventData) -> tuple[Any, ...]:
                v = self.do.unmark(v, what, str(event._data["key"]))
                return v, *self._tray(v)

            return in_words(unmark)

        for what, button in self.marks.items():
            button.click(marking(what), [visitor, painter], [visitor, painter, *self.trays], api_name=what)
        for what, board in (("context", self.context), ("keep", self.keep)):
            board.pick(unmarking(what), visitor, [visitor, *self.trays], **PRIVATE)

    def _wire_rules(self) -> None:
        visitor = self.visitor

        def execute(v: Visitor, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008 (Gradio's way)
            return self._told(self.do.execute(v), progress)

        def trying(name: str) -> Callable[..., Any]:
            def example(v: Visitor, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
                return self._told(self.do.example(v, name), progress)

            return in_words(example)

        def stepping(what: str) -> Callable[..., Any]:
            def step(v: Visitor) -> tuple[Any, ...]:
                return self._all(self.do.step(v, what))

            return in_words(step)

        def act(v: Visitor, event: gr.EventData) -> tuple[Any, ...]:
            asked = event._data
            return self._all(self.do.rule(v, asked["do"], asked["rule"], asked.get("value")))

        everything: dict[str, Any] = {"inputs": visitor, "outputs": self.everything}
        self.execute.click(in_words(execute), **everything, api_name="execute", concurrency_id="gpu")
        for name, button in self.cards.items():
            button.click(trying(name), **everything, api_name=name.replace("-", "_"), concurrency_id="gpu")
        for what, button in self.steps.items():
            button.click(stepping(what), **everything, api_name=what)
        self.rules.act(in_words(act), **everything, **PRIVATE)


def main(**options: Any) -> None:
    """Serve the page; options are those of Gradio's launch."""
    page = Page(Studio())
    page.demo.queue(max_size=64).launch(
        css=CSS, theme=gr.themes.Soft(), max_file_size="16mb", show_error=True, **options
    )


if __name__ == "__main__":
    main()
