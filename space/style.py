"""The style of the page, and the options with which it is served."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio import CSS

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
    **{"css": CSS, "theme": THEME, "max_file_size": "32mb", "show_error": False, "ssr_mode": False},
    "state_session_capacity": 2000,
    "run_history": False,
    "max_threads": 256,  # they wait for the work, which is done elsewhere
    "_frontend": False,  # else Gradio gives up when a busy machine needs three seconds for the first page
}
