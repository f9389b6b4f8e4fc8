"""How the page looks, where that is Gradio's to say."""

import gradio as gr

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
    # Dark and light enough for WCAG's AA, which the hue's middle, Gradio's choice, is not.
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color_dark="*neutral_400",
    color_accent="*primary_700",
    border_color_accent="*primary_700",
    link_text_color="*primary_700",
    link_text_color_hover="*primary_800",
    link_text_color_visited="*primary_700",
    link_text_color_dark="*primary_300",
    link_text_color_hover_dark="*primary_200",
    link_text_color_visited_dark="*primary_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    slider_color="*primary_600",
    slider_color_dark="*primary_500",
    checkbox_background_color_selected="*primary_700",
    checkbox_background_color_selected_dark="*primary_700",
    block_info_text_size="*text_sm",
)
