"""The style of the page, and the options with which it is served."""

from __future__ import annotations

from typing import Any

import gradio as gr

CSS = """
.gradio-container { max-width: 1400px !important; }
#next { min-height: 1.6em; }
#published { min-height: 3em; }
:is(#about, #next, #published) :is(.error, .clear-status) { display: none; }
.html-container { padding: 0 !important; }
.gradio-container label:has(:focus-visible), .gradio-container :is(input, textarea):focus-visible {
  outline: 2px solid var(--color-accent); outline-offset: 1px; }
#painting button { padding-inline: 6px; white-space: nowrap; }
#publish-files td:last-child { white-space: nowrap; }
#work { display: grid; gap: 24px; align-items: start;
  grid: "pictures painter edit" auto "rules rules edit" 1fr / 1fr 1fr 1fr; }
#work > * { min-width: 0 !important; }
#seeds :is(input, textarea) { border: 1px solid var(--border-color-primary); }
#pictures { grid-area: pictures; }
#painting { grid-area: painter; }
#edit { grid-area: edit; }
#made { grid-area: rules; }
@media (max-width: 1100px) { #work { grid: "pictures painter" auto "edit edit" auto "rules rules" auto / 1fr 1fr; } }
@media (max-width: 700px) { #work { grid: "pictures" "painter" "edit" "rules" / 1fr; } }
"""
FONT = ("system-ui", "sans-serif")
THEME = gr.themes.Soft(
    primary_hue="emerald", neutral_hue="stone", font=FONT, font_mono=("ui-monospace", "monospace")
).set(
    body_text_color_subdued="*neutral_600",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_600",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    block_title_text_color="*primary_800",
    block_title_text_color_dark="white",
    input_border_width="1px",
    input_border_color="*neutral_300",
    button_secondary_border_color="*neutral_300",
    button_border_width="1px",
)
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # no endpoint for scripts
PROGRESS = gr.Progress()  # Gradio wants it as the default of a parameter
LAUNCH: dict[str, Any] = {
    **{"css": CSS, "theme": THEME, "max_file_size": "64mb", "show_error": True, "ssr_mode": False},
    "state_session_capacity": 2000,
    "_frontend": False,  # else Gradio gives up when a busy machine needs three seconds for the first page
}
