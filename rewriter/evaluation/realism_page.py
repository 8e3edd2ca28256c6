"""The page on which people judge a study's pairs: two pictures, three buttons, and no word of what is compared."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from rewriter.errors import InputError
from rewriter.evaluation.realism import Showing, Study
from rewriter.evaluation.realism_answers import CANNOT_TELL, Answer

SIDE = 384  # px: about as large as small pictures are shown
THEME = gr.themes.Soft(primary_hue="emerald", neutral_hue="stone", font=("system-ui", "sans-serif")).set(
    body_text_color_subdued="*neutral_600", border_color_primary="*neutral_300"
)
LAUNCH: dict[str, Any] = {
    **{"theme": THEME, "footer_links": [], "run_history": False, "ssr_mode": False},
    "_frontend": False,  # Gradio would give up on its own page where a busy machine takes three seconds for it
}
INTRO = """# Which looks more real?
Look at both pictures, then say which one looks more real to you. Go by your own eye: there is no trick, and you cannot
be wrong. If you really see no difference, say that you cannot tell. You may stop at any time: every answer is saved at
once, under a random number and without your name."""
UNSAVED = "This did not work, and your answer is not saved. Please tell the person who gave you this page."
RELOAD = "This page has been open for too long: please reload it, and go on where you were."

HTML = """
<div class="judging" aria-busy="true">
  <p class="progress" role="status"></p>
  <div class="bar"><i></i></div>
  <div class="pair">
    <img class="left" alt="left picture" draggable="false"><img class="right" alt="right picture" draggable="false">
    <button type="button" data-choice="left" disabled><kbd>←</kbd> Left looks more real</button>
    <button type="button" data-choice="right" disabled>Right looks more real <kbd>→</kbd></button>
  </div>
  <button type="button" data-choice="neither" disabled>I cannot tell <kbd>↓</kbd></button>
</div>
<div class="thanks" hidden>
  <h2>Thank you!</h2><p>That was the last pair. All your answers are saved; you can close this page.</p>
</div>
"""
CSS = """
.judging { display: flex; flex-direction: column; align-items: center; gap: 12px; }
.judging[hidden], .thanks[hidden] { display: none; }
.progress { margin: 0; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; min-height: 1.5em; }
.bar { width: min(100%, 792px); height: 4px; border-radius: 2px; background: var(--border-color-primary); }
.bar i { display: block; height: 100%; width: 0; border-radius: 2px; background: var(--color-accent); }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, max-content)); gap: 12px 24px; max-width: 100%; }
.pair img { display: block; margin: 0; width: auto; max-width: 100%; max-height: 68vh; min-height: 100px;
  border-radius: 6px; justify-self: center; background: var(--background-fill-secondary); }
.judging[aria-busy="true"] img { opacity: 0.35; }
.judging button { padding: 12px 20px; border-radius: 8px; border: 1px solid var(--border-color-primary);
  cursor: pointer; font-size: 16px;
  background: var(--button-secondary-background-fill); color: var(--body-text-color); }
.judging .pair button { font-weight: 600; }
.judging button:hover:enabled, .judging button:focus-visible { border-color: var(--color-accent);
  outline: 1px solid var(--color-accent); }
.judging button:disabled { color: var(--body-text-color-subdued); cursor: default; }
.judging kbd { opacity: 0.6; padding: 0 4px; }
.thanks { text-align: center; padding: 48px 16px; font-size: 16px; }
.thanks h2 { margin: 0 0 8px; font-size: 24px; font-weight: 700; }
@media (max-width: 600px) { .pair { gap: 8px; } .pair button { padding: 12px 6px; font-size: 14px; } }
@media (hover: none) { .judging kbd { display: none; } }
"""

# value: {"left", "right": pictures, "n", "of"}, or {"of"} alone after the last pair. A pair can be judged a moment
# after it is drawn, so that the second half of a double click judges nothing.
JS = """
const judging = element.querySelector('.judging'), thanks = element.querySelector('.thanks');
const buttons = [...element.querySelectorAll('button')], find = name => element.querySelector(name);
let shown = {};
const ready = on => {
  judging.setAttribute('aria-busy', !on);
  buttons.forEach(button => { button.disabled = !on; });
};
const draw = async () => {
  const value = JSON.parse(props.value || '{}'), focused = buttons.find(b => b === document.activeElement);
  if (!value.of) return;
  shown = value; ready(false);
  judging.hidden = !value.n; thanks.hidden = !!value.n;
  if (!value.n) return;
  find('.progress').textContent = `${value.n} of ${value.of}`;
  find('.bar i').style.width = `${100 * (value.n - 1) / value.of}%`;
  const images = ['left', 'right'].map(side => Object.assign(find(`img.${side}`), { src: value[side] }));
  await Promise.all(images.map(image => image.decode().catch(() => {})));
  await new Promise(wait => setTimeout(wait, 300));
  if (shown !== value) return;
  ready(true); focused?.focus();
};
const answer = choice => {
  if (judging.getAttribute('aria-busy') === 'true') return;
  ready(false); trigger('answer', { choice, n: shown.n });
};
buttons.forEach(button => button.addEventListener('click', () => answer(button.dataset.choice)));
document.addEventListener('keydown', event => {
  const choice = { ArrowLeft: 'left', ArrowRight: 'right', ArrowDown: 'neither' }[event.key];
  if (!choice || event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  event.preventDefault(); answer(choice);
});
element.addEventListener('failed', () => ready(true));
watch('value', draw);
draw();
"""
FAILED = "() => document.querySelector('#pair .judging').dispatchEvent(new CustomEvent('failed', { bubbles: true }))"
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Visitor:
    """A rater's random name, what is shown to them, and since when by the server's clock. Never leaves the server."""

    rater: str = ""
    showing: Showing | None = None
    since: float = 0.0


def opened(study: Study, rater: str | None) -> tuple[Visitor, str, str]:
    """A visitor arrives, under the name that their browser kept if any: who they are, their name, what to draw."""
    known = isinstance(rater, str) and re.fullmatch("[0-9a-f]{16}", rater)
    name = rater if known and rater else secrets.token_hex(8)
    visitor, drawn = _next(study, name)
    return visitor, name, drawn


def answered(study: Study, visitor: Visitor, choice: str, n: int) -> tuple[Visitor, str]:
    """A visitor's choice for their n-th pair: left, right or neither. It is written, and the next pair drawn.

    An answer to another pair than the one that is shown (a press that came twice) is not written.

    Raises:
        InputError: it cannot be written.
    """
    showing = visitor.showing
    if showing is None:
        raise gr.Error(RELOAD, print_exception=False)
    chosen = {"left": showing.left, "right": showing.right, "neither": CANNOT_TELL}.get(choice)
    if chosen is not None and n == showing.n:
        seconds = round(time.monotonic() - visitor.since, 3)
        study.record(Answer(visitor.rater, showing.pair, showing.left, showing.right, chosen, seconds))
    return _next(study, visitor.rater)


def _next(study: Study, rater: str) -> tuple[Visitor, str]:
    showing, of = study.next(rater), study.count
    if showing is None:
        return Visitor(rater), json.dumps({"of": of})
    left, right = (data_url(study.picture(method, showing.pair)) for method in (showing.left, showing.right))
    drawn = {"left": left, "right": right, "n": showing.n, "of": of}
    return Visitor(rater, showing, time.monotonic()), json.dumps(drawn)


def data_url(image: Image.Image) -> str:
    """A picture as PNG, its pixels and nothing else; small ones enlarged to about SIDE, each pixel a square."""
    zoom = max(1, round(SIDE / max(image.size)))
    bare = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
    buffer = io.BytesIO()
    bare.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@contextmanager
def _blind() -> Iterator[None]:
    """The library's errors name methods: the rater is told another word, whoever runs the page reads the error."""
    try:
        yield
    except (InputError, OSError) as error:
        raise gr.Error(UNSAVED) from error


def page(study: Study) -> gr.Blocks:
    """The page of a study; launch it with `page(study).launch(**LAUNCH)`."""

    def open_(rater: str | None) -> tuple[Visitor, str, str]:
        with _blind():
            return opened(study, rater)

    def answer(visitor: Visitor, event: gr.EventData) -> tuple[Visitor, str]:
        with _blind():
            return answered(study, visitor, event._data.get("choice"), event._data.get("n"))

    key = hashlib.sha256(f"{study.order}".encode()).hexdigest()[:16]
    with gr.Blocks(title="Which looks more real?", analytics_enabled=False) as demo:
        visitor = gr.State(Visitor())
        kept = gr.BrowserState(storage_key=f"realism-{key}", secret=key)  # who reloads the page goes on
        gr.Markdown(INTRO)
        pair: Any = gr.HTML(
            html_template=HTML, css_template=CSS, js_on_load=JS, apply_default_css=False, elem_id="pair"
        )
        demo.load(open_, [kept], [visitor, kept, pair], **PRIVATE)
        done = pair.answer(answer, [visitor], [visitor, pair], **PRIVATE, trigger_mode="multiple")
        done.failure(None, js=FAILED)
    return demo
