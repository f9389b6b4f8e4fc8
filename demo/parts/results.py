"""Where results are shown, and what remains of them."""

from typing import NamedTuple

import gradio as gr

from demo.says import readout
from demo.service.service import Service

ARCHIVE = "Download all (zip)"

_PRESSED_RUN = """element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-index]");
    if (button) trigger("select", { index: Number(button.dataset.index) });
});"""


class Results(NamedTuple):
    """Where a request's results go."""

    readout: gr.HTML
    gallery: gr.Gallery
    trajectory: gr.HTML
    record: gr.JSON
    latest: gr.State
    pair: gr.ImageSlider | None = None


class VisitControls(NamedTuple):
    """What remains of a visit's runs, and what takes their settings back."""

    runs: gr.State
    chart: gr.HTML
    archive: gr.DownloadButton
    picture: gr.UploadButton
    address: gr.Textbox


def add_results(service: Service, button: str, has_before: bool = False) -> Results:
    """Add the readout, the pictures, and what is known of them; what there was before beside it."""
    example = None if has_before else service.example
    opening = readout.idle(button) if example is None else readout.finished(example.done, example)
    text = gr.HTML(opening, label="Readout", apply_default_css=False, elem_classes="readout")
    # A box of fixed height, so that nothing jumps while previews stream; none while it is empty,
    # but for the moment until the example is there.
    gallery = gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=4,
        height="var(--gallery-height)",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        interactive=False,
        elem_classes=["gallery", *([] if example is None else ["awaited"])],
    )
    pair = _add_pair() if has_before else None
    trajectory = gr.HTML(readout.no_trajectory(), label="Trajectory", apply_default_css=False)
    record = gr.JSON(label="Record", visible=False)
    return Results(text, gallery, trajectory, record, gr.State(None), pair)


def _add_pair() -> gr.ImageSlider:
    return gr.ImageSlider(
        label="Before and after",
        height="var(--pair-height)",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes="pair",
    )


def add_visit(tab: str) -> VisitControls:
    """Add the archive of the last run, where pictures of this tab go back, and the visit's runs."""
    with gr.Row(elem_classes="files"):
        archive = gr.DownloadButton(ARCHIVE, interactive=False, size="md", elem_classes="archive")
        picture = gr.UploadButton(
            "Settings from a picture",
            file_types=[".png"],
            size="md",
            elem_classes=["restore", f"of-{tab}"],
        )
    gr.HTML(
        '<p class="hint">Every picture made here carries its settings: drop it anywhere on the '
        'page, and they are back. So does the address.<span class="keys"> '
        "Ctrl+Enter generates, Esc stops.</span></p>",
        apply_default_css=False,
    )
    runs = gr.HTML(
        readout.visit([]), js_on_load=_PRESSED_RUN, apply_default_css=False, elem_classes="runs"
    )
    address = gr.Textbox(visible=False, label="Address")
    return VisitControls(gr.State([]), runs, archive, picture, address)
