"""Boards of pictures, the list of rules, and file downloads: gr.HTML components whose value is a JSON object.

They are made by functions: Gradio writes a stub file beside every module that subclasses a component.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

BOARD_CSS = """
.board { display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 8px; }
.board.wide { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.board button { padding: 0; border: 2px solid transparent; border-radius: 8px; overflow: hidden; cursor: pointer;
  background: var(--background-fill-secondary); display: flex; flex-direction: column; text-align: left; }
.board button:hover, .board button:focus-visible { border-color: var(--color-accent); }
.board button[aria-pressed="true"] { border-color: var(--color-accent);
  box-shadow: 0 0 0 1px var(--color-accent); }
.board img { display: block; width: 100%; aspect-ratio: 1; margin: 0; }
.board.wide img { aspect-ratio: 65 / 32; }
.board span { display: block; padding: 2px 6px; font-size: 12px; color: var(--body-text-color-subdued); }
.board.wide span { padding: 4px 8px; font-size: 14px; color: var(--body-text-color); }
@media (max-width: 700px) {
  .board.wide { display: flex; overflow-x: auto; }
  .board.wide button { flex: 0 0 150px; }
}
.board p { grid-column: 1 / -1; margin: 0; color: var(--body-text-color-subdued); }
"""

# value: {"tiles": [{"key", "caption", "title", "image", "other"?, "match"?}], "chosen"?, "note"?}
BOARD_JS = """
const board = element.querySelector('.board');
let showing = element.dataset.showing || 'image';
const draw = () => {
  const value = JSON.parse(props.value || '{}'), tiles = value.tiles || [], focused = board.querySelector(':focus');
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
  if (value.note) board.append(Object.assign(document.createElement('p'), { textContent: value.note }));
  if (focused) board.querySelector(`[data-key="${focused.dataset.key}"]`)?.focus();
  element.dataset.tiles = tiles.length; element.dataset.showing = showing;
};
element.addEventListener('showing', event => { showing = event.detail; draw(); });
watch('value', draw);
draw();
"""

# A radio's JavaScript: choose which picture of each tile the board with this id shows, without asking the server.
SHOW = """view => {
  const showing = { Original: 'other', Matches: 'match' }[view] || 'image';
  document.querySelector('#%s .board').dispatchEvent(new CustomEvent('showing', { detail: showing, bubbles: true }));
  return view;
}"""


def _component(value: dict[str, Any] | None, html: str, css: str, js: str, **options: Any) -> gr.HTML:
    text = json.dumps(value or {})
    return gr.HTML(text, html_template=html, css_template=css, js_on_load=js, apply_default_css=False, **options)


def board(value: dict[str, Any] | None = None, *, wide: bool = False, **options: Any) -> gr.HTML:
    """Pictures to choose from, such as `view.tiles` makes; the event `pick` has the key of the clicked one."""
    return _component(value, f'<div class="board{" wide" * wide}"></div>', BOARD_CSS, BOARD_JS, **options)


RULES_CSS = """
.rules { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 12px; }
.rule { padding: 10px 14px; border: 1px solid var(--border-color-primary); border-radius: 10px;
  background: var(--background-fill-primary); }
.rule header { display: flex; align-items: center; gap: 6px; }
.rule header b { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.rule input[type=checkbox] { appearance: auto; width: 18px; height: 18px; accent-color: var(--color-accent); }
.rule button { padding: 4px 10px; border-radius: 6px; border: 1px solid var(--border-color-primary); cursor: pointer;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); }
.rule button:disabled { opacity: 0.4; cursor: default; }
.rule label { display: flex; align-items: center; gap: 8px; font-size: 14px; margin: 6px 0; }
.rule input[type=range] { flex: 1; min-width: 0; accent-color: var(--color-accent); }
.rule output { width: 3em; text-align: right; font-variant-numeric: tabular-nums; }
.rules p { margin: 2px 0 0; font-size: 13px; color: var(--body-text-color-subdued); }
.rules .verdict { color: var(--body-text-color); }
.rules .remark { color: var(--body-text-color); border-left: 3px solid var(--color-accent); padding-left: 8px; }
"""

# value: {"rules": [{"title", "strength", "on", "verdict", "words": [...], "remarks": [...]}], "remarks": [...]}.
# While a slider is dragged, `attempt` shows one strength at a time; releasing it sets the last one. The browser warns
# before the page is left with rules that were not saved.
RULES_JS = """
const list = element.querySelector('.rules');
let busy = false, wanted = null, armed = '';
const make = (name, text, more) => Object.assign(document.createElement(name), { textContent: text || '', ...more });
const draw = () => {
  const { rules = [], remarks = [] } = JSON.parse(props.value || '{}');
  const focused = list.querySelector(':focus')?.ariaLabel;
  busy = false; wanted = null;
  list.replaceChildren(...rules.map((rule, i) => {
    const act = (what, value) => trigger('act', { do: what, rule: i, value });
    const box = make('section', '', { className: 'rule' }), header = make('header'), label = make('label', 'Strength');
    const on = make('input', '', { type: 'checkbox', checked: rule.on, title: 'Switch on or off' });
    on.setAttribute('aria-label', `Rule ${i + 1} on`);
    on.addEventListener('change', () => act('switch', on.checked));
    const button = (text, title, click, idle) => {
      const b = make('button', text, { type: 'button', title, disabled: idle });
      b.setAttribute('aria-label', `${title}: rule ${i + 1}`);
      b.addEventListener('click', click);
      return b;
    };
    header.append(
      on, make('b', `${i + 1}. ${rule.title}`), button('↑', 'Move up', () => act('move', i - 1), i === 0),
      button('↓', 'Move down', () => act('move', i + 1), i + 1 === rules.length),
      button('Save', 'Download', () => trigger('fetch', { rule: i })), button('✕', 'Remove', () => act('remove')),
    );
    const slider = make('input', '', { type: 'range', min: -1, max: 2, step: 0.05, value: rule.strength });
    const shown = make('output', rule.strength.toFixed(2));
    slider.setAttribute('aria-label', `Strength of rule ${i + 1}`);
    slider.addEventListener('input', () => {
      shown.textContent = Number(slider.value).toFixed(2);
      wanted = { rule: i, value: Number(slider.value) };
      next();
    });
    slider.addEventListener('change', () => { wanted = null; act('strength', Number(slider.value)); });
    label.append(slider, shown);
    box.append(header, make('p', rule.verdict, { className: 'verdict' }), label);
    box.append(...rule.words.map(words => make('p', words)));
    box.append(...rule.remarks.map(words => make('p', words, { className: 'remark' })));
    return box;
  }), ...remarks.map(words => make('p', words, { className: 'remark' })));
  if (!rules.length) list.append(make('p', 'No rules yet: this is the original generator.'));
  element.dataset.rules = rules.length;
  if (focused) list.querySelector(`[aria-label="${focused}"]`)?.focus();
  if (props.value !== armed) window.onbeforeunload = rules.length ? event => event.preventDefault() : null;
  armed = props.value;
};
const next = () => {
  if (busy || !wanted) return;
  busy = true; trigger('attempt', wanted); wanted = null;
};
element.addEventListener('tried', () => { busy = false; next(); });
watch('value', draw);
draw();
"""

# After an attempt was shown: the list with this id may send the next one.
TRIED = "() => { document.querySelector('#%s .rules').dispatchEvent(new CustomEvent('tried', { bubbles: true })); }"


def rule_list(**options: Any) -> gr.HTML:
    """The rules.

    Event `act`: a rule was changed, {"do": strength | switch | move | remove, "rule", "value"}. Event `attempt`: a
    slider passes over a strength, {"rule", "value"}. Event `fetch`: a rule should be downloaded, {"rule"}.
    """
    html = '<div class="rules" role="group" aria-label="Rules"></div>'
    return _component(None, html, RULES_CSS, RULES_JS, **options)


DOWNLOAD_JS = """
watch('value', () => {
  const { name, url, whole } = JSON.parse(props.value || '{}');
  if (!url) return;
  const link = Object.assign(document.createElement('a'), { href: url, download: name });
  document.body.append(link); link.click(); link.remove();
  if (whole) window.onbeforeunload = null;
});
"""


def file_download(**options: Any) -> gr.HTML:
    """Hands a file to the browser: {"name", "url" with its content, "whole": whether it holds all of the work}."""
    return _component(None, "<i hidden></i>", "", DOWNLOAD_JS, **options)
