"""The mask painter: a picture under a canvas, for mouse, finger and keyboard.

A gr.HTML component, because gr.ImageEditor uploads every stroke, compresses masks with losses and is slow. The picture
and its seed are properties. The value is what was painted, or None: "SEED:" and a PNG data URL whose alpha channel is
the mask. The seed is part of it because another picture may be chosen by the time the server reads the mask. Masks stay
in the browser until a button is pressed.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from torch import Tensor

from rewriter import masks
from rewriter.errors import InputError
from rewriter.generators.latents import parse_seeds

HTML = """
<div class="painter">
  <div class="stage" tabindex="0" role="img" aria-label="Picture to paint on: arrow keys move the brush, space paints">
    <img alt="">
    <canvas></canvas>
    <div class="brush" hidden></div>
    <p class="empty">Click a picture to paint on it.</p>
  </div>
  <div class="tools" role="toolbar" aria-label="Painting tools">
    <button type="button" data-tool="paint" aria-pressed="true">Paint</button>
    <button type="button" data-tool="eraser" aria-pressed="false">Eraser</button>
    <button type="button" data-tool="undo">Undo stroke</button>
    <button type="button" data-tool="clear">Clear all</button>
    <label>Brush <input type="range" min="1" max="40" value="10" aria-label="Brush size"></label>
  </div>
</div>
"""

CSS = """
.painter { display: flex; flex-direction: column; gap: 8px; }
.stage { position: relative; width: 100%; max-width: 512px; aspect-ratio: 1; border-radius: 8px; overflow: hidden;
  background: var(--background-fill-secondary); }
.stage:focus-visible { outline: 3px solid var(--color-accent); }
.stage img, .stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0;
  user-select: none; -webkit-user-drag: none; }
.stage img:not([src]) { display: none; }
.stage canvas { touch-action: none; cursor: crosshair; opacity: 0.55; }
.stage .brush { position: absolute; border: 2px solid white; outline: 1px solid black; border-radius: 50%;
  transform: translate(-50%, -50%); pointer-events: none; }
.stage .empty { position: absolute; inset: 0; margin: 0; display: grid; place-items: center;
  color: var(--body-text-color-subdued); pointer-events: none; }
.stage img[src] ~ .empty { display: none; }
.tools { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; max-width: 512px; }
.tools button { padding: 4px 10px; border-radius: 6px; border: 1px solid var(--border-color-primary);
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); cursor: pointer; }
.tools button[aria-pressed="true"] { border-color: var(--color-accent);
  box-shadow: inset 0 0 0 1px var(--color-accent); }
.tools label { display: flex; align-items: center; gap: 6px; flex: 1 1 120px; min-width: 0; }
.tools input { flex: 1; min-width: 0; accent-color: var(--color-accent); }
"""

# The canvas has the picture's resolution, but at least 256 pixels a side, so that strokes on small pictures are round.
JS = """
const stage = element.querySelector('.stage'), img = element.querySelector('img');
const canvas = element.querySelector('canvas'), ring = element.querySelector('.brush');
const size = element.querySelector('input'), pen = canvas.getContext('2d', { willReadFrequently: true });
const tools = Object.fromEntries([...element.querySelectorAll('[data-tool]')].map(b => [b.dataset.tool, b]));
let erasing = false, last = null, strokes = [], cursor = [0.5, 0.5], shown = null;

const resize = () => { canvas.width = canvas.height = Math.max(256, img.naturalWidth || 256); };
const width = () => Number(size.value) / 100 * canvas.width;
const empty = () => !pen.getImageData(0, 0, canvas.width, canvas.height).data.some((v, i) => i % 4 === 3 && v);
const publish = () => {
  props.value = empty() ? null : `${props.seed}:${canvas.toDataURL('image/png')}`;
  trigger('input');
};
const remember = () => {
  strokes.push(pen.getImageData(0, 0, canvas.width, canvas.height));
  if (strokes.length > 30) strokes.shift();
};
const clear = () => {  // can be undone while the picture stays the same
  if (!empty()) remember();
  pen.clearRect(0, 0, canvas.width, canvas.height);
};
const at = event => {
  const box = canvas.getBoundingClientRect();
  const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  return share.map(v => v * canvas.width);
};
const stroke = (from, to) => {
  pen.globalCompositeOperation = erasing ? 'destination-out' : 'source-over';
  pen.strokeStyle = 'white'; pen.lineCap = pen.lineJoin = 'round'; pen.lineWidth = width();
  pen.beginPath(); pen.moveTo(...from); pen.lineTo(to[0] + 0.01, to[1]); pen.stroke();
};
const hover = ([x, y]) => {
  ring.hidden = !img.getAttribute('src');
  ring.style.left = 100 * x / canvas.width + '%'; ring.style.top = 100 * y / canvas.height + '%';
  ring.style.width = ring.style.height = size.value + '%';
};
canvas.addEventListener('pointerdown', event => {
  if (!img.getAttribute('src') || event.button > 0) return;
  canvas.setPointerCapture(event.pointerId); remember(); last = at(event); stroke(last, last); event.preventDefault();
});
canvas.addEventListener('pointermove', event => {
  const points = (event.getCoalescedEvents?.() || []).concat(event).map(at);
  hover(points.at(-1));
  if (last) for (const point of points) { stroke(last, point); last = point; }
});
const lift = () => { if (last) { last = null; publish(); } };
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, lift);
canvas.addEventListener('pointerleave', () => { if (!last) ring.hidden = true; });
stage.addEventListener('keydown', event => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step) cursor = cursor.map((v, i) => Math.min(1, Math.max(0, v + step[i] / 50)));
  const point = cursor.map(v => v * canvas.width);
  if (event.key === ' ' && img.getAttribute('src')) { remember(); stroke(point, point); publish(); }
  if (step || event.key === ' ') { hover(point); event.preventDefault(); }
});
const choose = eraser => {
  erasing = eraser;
  tools.paint.setAttribute('aria-pressed', !eraser); tools.eraser.setAttribute('aria-pressed', eraser);
};
tools.paint.addEventListener('click', () => choose(false));
tools.eraser.addEventListener('click', () => choose(true));
const undo = () => { if (strokes.length) { pen.putImageData(strokes.pop(), 0, 0); publish(); } };
tools.undo.addEventListener('click', undo);
tools.clear.addEventListener('click', () => { clear(); publish(); });
const look = () => {
  delete element.dataset.ready;
  if (props.picture) img.src = props.picture; else img.removeAttribute('src');
};
img.addEventListener('load', () => {  // with other rules, the same picture keeps its mask
  if (shown !== props.seed) { resize(); strokes = []; last = null; shown = props.seed; publish(); }
  element.dataset.ready = 'yes';
});
watch('picture', look);
watch('value', () => { if (!props.value) clear(); });
resize(); look();
"""


def painter(*, picture: str | None = None, seed: int | None = None, **options: Any) -> gr.HTML:
    """The component, with a picture (a data URL) and its seed. Setting its value to None clears the mask."""
    options |= {"picture": picture, "seed": seed, "apply_default_css": False}
    return gr.HTML(None, html_template=HTML, css_template=CSS, js_on_load=JS, **options)


def read_painted(value: Any) -> tuple[Tensor, int | None]:
    """The mask (H, W) in [0, 1] and its picture's seed, None if the value lacks it: the one place where it is checked.

    Raises:
        InputError: nothing is painted, or the value is damaged.
    """
    if value is None or isinstance(value, str) and value[-1:] in ("", ":"):
        raise InputError("nothing is painted yet: paint on the picture first")
    seed, colon, url = value.partition(":") if isinstance(value, str) and value[0].isdecimal() else ("", "", value)
    return masks.decode(url), parse_seeds(seed, most=1)[0] if colon else None
