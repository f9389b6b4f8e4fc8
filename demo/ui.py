"""The page as a whole: header, tabs, footer, and how it looks."""

from html import escape
from pathlib import Path

import gradio as gr

from demo.service import Service
from demo.tabs import class_conditional

# Fonts the reader already has: the page downloads nothing from elsewhere.
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")
_FONT_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    spacing_size=gr.themes.sizes.spacing_md,
    font=_FONT,
    font_mono=_FONT_MONO,
).set(
    body_background_fill="*neutral_50",
    block_background_fill="white",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_shadow="none",
    block_padding="7px 12px",
    block_label_text_weight="500",
    block_title_text_weight="600",
    block_title_text_color="*neutral_800",
    block_info_text_color="*neutral_500",
    block_info_text_size="*text_sm",
)
# Ctrl+Enter generates and Esc stops, on the tab in view.
_KEYS = """() => {
    document.addEventListener("keydown", (event) => {
        const generates = event.key === "Enter" && (event.ctrlKey || event.metaKey);
        if (!generates && event.key !== "Escape") return;
        const buttons = document.querySelectorAll(generates ? ".generate" : ".stop");
        [...buttons].find((button) => button.offsetParent && !button.disabled)?.click();
    });
}"""
# What launch() takes, and a page therefore cannot carry itself.
LAUNCH = {
    "theme": THEME,
    "css_paths": Path(__file__).with_name("style.css"),
    "js": _KEYS,
    "max_file_size": "10mb",
    "footer_links": ["api"],
    "run_history": False,
    "show_error": True,
    "ssr_mode": False,
}

_CACHE_SECONDS = 3600


def build(service: Service) -> gr.Blocks:
    """Return the page, served by `service`."""
    with gr.Blocks(
        title="FlowTurbo Studio",
        analytics_enabled=False,
        delete_cache=(_CACHE_SECONDS, _CACHE_SECONDS),
    ) as page:
        gr.HTML(
            '<header class="page-header"><h1>FlowTurbo Studio</h1>'
            "<p>Pictures from a flow, and the milliseconds each one takes.</p></header>",
            apply_default_css=False,
        )
        with gr.Tabs():
            with gr.Tab("Class-conditional", id="class-conditional"):
                class_conditional.build(service, page)
        gr.HTML(
            f'<footer class="page-footer">{escape(service.description)}</footer>',
            apply_default_css=False,
        )
    return page
