"""Boards of pictures to choose from, and the list of rules: gr.HTML components that tell Python what was clicked."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

BOARD_CSS = """
.board { display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 8px; }
.board button { padding: 0; border: 2px solid transparent; border-radius: 8px; overflow: hidden; cursor: pointer;
  background: var(--background-fill-secondary); display: block; text-align: left; }
.board button:hover, .board button:focus-visible { border-color: var(--color-accent-soft); }
.board button[aria-pressed="true"] { border-color: var(--color-accent); }
.board img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; }
.board span { display: block; padding: 2px 6px; font-size: 12px; color: var(--body-text-color-subdued); }
.board p { grid-column: 1 / -1; margin: 0; color: var(--body-text-color-subdued); }
"""

# value: {"tiles": [{"key", "caption", "title", "image", "other"?}], "chosen"?, "empty"?}
BOARD_JS = """
const board = element.querySelector('.board');
let showing = 'image';
const draw = () => {
  const value = JSON.parse(props.value || '{}'), tiles = value.tiles || [];
  board.replaceChildren(...tiles.map(tile => {
    const button = document.createElement('button'), image = document.createElement('img');
    button.type = 'button'; button.dataset.key = tile.key; button.title = tile.title || '';
    button.setAttribute('aria-pressed', tile.key === value.chosen);
    image.src = tile[showing] || tile.image; image.alt = tile.title || tile.caption || ''; image.draggable = false;
    button.append(image);
    if (tile.caption) { const s = document.createElement('span'); s.textContent = tile.caption; button.append(s); }
    button.addEventListener('click', () => trigger('pick', { key: tile.key }));
    return button;
  }));
  if (!tiles.length && value.empty) {
    const p = document.createElement('p'); p.textContent = value.empty; board.append(p);
  }
  element.dataset.tiles = tiles.length; element.dataset.showing = showing;
};
element.addEventListener('showing', event => { showing = event.detail ? 'other' : 'image'; draw(); });
watch('value', draw);
draw();
"""

# A checkbox's JavaScript: show the other picture of each tile of the board with that id, without asking the server.
SHOW_OTHER = "on => document.querySelector('#%s .board').dispatchEvent(\
new CustomEvent('showing', { detail: on, bubbles: true }))"


class Board(gr.HTML):
    """Pictures to choose from. Its value is a dict of tiles; `pick` tells the key of the tile that was clicked."""

    def __init__(self, value: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(
            value,
            html_template='<div class="board"></div>',
            css_template=BOARD_CSS,
            js_on_load=BOARD_JS,
            apply_default_css=False,
            **options,
        )

    def postprocess(self, value: dict[str, Any] | None) -> str:
        """A dict of tiles → JSON."""
        return json.dumps(value or {})


RULES_CSS = """
.rules { display: flex; flex-direction: column; gap: 8px; }
.rule { padding: 8px 10px; border: 1px solid var(--border-color-primary); border-radius: 8px; }
.rule header { display: flex; align-items: center; gap: 6px; }
.rule header b { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.rule button { padding: 0 7px; border-radius: 6px; border: 1px solid var(--border-color-primary); cursor: pointer;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); }
.rule label { display: flex; align-items: center; gap: 8px; font-size: 13px; }
.rule input[type=range] { flex: 1; min-width: 0; accent-color: var(--color-accent); }
.rule output { width: 3em; text-align: right; }
.rule p { margin: 2px 0 0; font-size: 12px; color: var(--body-text-color-subdued); }
"""

# value: [{"title", "strength", "on", "words": [...], "remarks": [...]}]
RULES_JS = """
const list = element.querySelector('.rules');
const make = (name, text, more) => Object.assign(document.createElement(name), { textContent: text || '', ...more });
const draw = () => {
  const rules = JSON.parse(props.value || '[]');
  list.replaceChildren(...rules.map((rule, i) => {
    const act = (what, value) => trigger('act', { do: what, rule: i, value });
    const box = make('section', '', { className: 'rule' }), header = make('header'), label = make('label', 'Strength');
    const on = make('input', '', { type: 'checkbox', checked: rule.on, title: 'on or off' });
    on.setAttribute('aria-label', `Rule ${i + 1} on`);
    on.addEventListener('change', () => act('switch', on.checked));
    const button = (text, title, click, idle) => {
      const b = make('button', text, { type: 'button', title, disabled: idle });
      b.setAttribute('aria-label', title);
      b.addEventListener('click', click);
      return b;
    };
    header.append(
      on, make('b', `${i + 1}. ${rule.title}`), button('↑', 'Earlier', () => act('move', i - 1), i === 0),
      button('↓', 'Later', () => act('move', i + 1), i + 1 === rules.length),
      button('✕', 'Remove', () => act('remove')),
    );
    const slider = make('input', '', { type: 'range', min: -1, max: 2, step: 0.05, value: rule.strength });
    const shown = make('output', rule.strength.toFixed(2));
    slider.setAttribute('aria-label', `Strength of rule ${i + 1}`);
    slider.addEventListener('input', () => { shown.textContent = Number(slider.value).toFixed(2); });
    slider.addEventListener('change', () => act('strength', Number(slider.value)));
    label.append(slider, shown);
    box.append(header, label, ...[...rule.words, ...rule.remarks].map(words => make('p', words)));
    return box;
  }));
  if (!rules.length) list.append(make('p', 'No rules yet: the generator is as it was.'));
  element.dataset.rules = rules.length;
};
watch('value', draw);
draw();
"""


class RuleList(gr.HTML):
    """The rules made so far. `act` tells what was done: {"do": strength | switch | move | remove, "rule", "value"}."""

    def __init__(self, value: list[dict[str, Any]] | None = None, **options: Any) -> None:
        super().__init__(
            value,
            html_template='<div class="rules"></div>',
            css_template=RULES_CSS,
            js_on_load=RULES_JS,
            apply_default_css=False,
            **options,
        )

    def postprocess(self, value: list[dict[str, Any]] | None) -> str:
        """A list of rules → JSON."""
        return json.dumps(value or [])
