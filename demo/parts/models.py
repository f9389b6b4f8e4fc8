"""Several models in one tab: a menu, and a pane for each; of one that is on a hub, its download."""

from collections.abc import Callable, Sequence

import gradio as gr

from demo.parts.run import HELPER
from demo.says import readout
from demo.service.events import Fetching
from demo.service.service import Service

_LOOK_AGAIN_S = 1.0


def build(
    services: Sequence[Service], page: gr.Blocks, build_pane: Callable[[Service], None]
) -> None:
    """Add a pane for each model, the first in view, and what chooses another.

    An address that names a model opens the page on it. In place of a pane whose model's weights
    are not here stands what the model is, and what fetches it.
    """
    names = [service.name for service in services]
    menu = gr.Radio(
        names, value=names[0], label="Model", visible=len(names) > 1, elem_classes="models"
    )
    panes = []
    for service in services:
        with gr.Column(visible=service is services[0]) as pane:
            if service.download is None:
                build_pane(service)
            else:
                _build_remote(service, page, menu, build_pane)
        panes.append(pane)
    if len(services) == 1:
        return

    def choose(name: str) -> list[gr.Column]:
        return [gr.Column(visible=item == name) for item in names]

    def open_named(request: gr.Request) -> list:
        name = request.query_params.get("model")
        if name not in names[1:]:
            return [gr.skip()] * (1 + len(names))
        return [name, *choose(name)]

    menu.input(choose, menu, panes, trigger_mode="always_last", **HELPER)
    page.load(open_named, None, [menu, *panes], **HELPER)


def _build_remote(
    service: Service,
    page: gr.Blocks,
    menu: gr.Radio,
    build_pane: Callable[[Service], None],
) -> None:
    """Add the download of a model, and its pane; which of them is in view, visits find out."""
    download = service.download
    with gr.Column(visible=not service.is_here, elem_classes="download") as absent:
        card = gr.HTML(readout.download(download.model, download.state), apply_default_css=False)
        button = gr.Button("Download", variant="primary", elem_classes="fetch")
    with gr.Column(visible=service.is_here) as present:
        build_pane(service)
    # Asked again and again while it arrives, and by no other way: an event that followed it would
    # hold one of the few that the server runs at once, for as long as that takes.
    timer = gr.Timer(_LOOK_AGAIN_S, active=False)

    def show() -> tuple:
        state = download.state
        again, can_begin = state.status == "failed", state.status in ("absent", "failed")
        return (
            readout.download(download.model, state),
            gr.Button("Try again" if again else "Download", interactive=can_begin),
            gr.Column(visible=state.status != "here"),
            gr.Column(visible=state.status == "here"),
            look_again(state),
        )

    outputs = [card, button, absent, present, timer]
    button.click(download.begin, None, None, **HELPER).then(show, None, outputs, **HELPER)
    for looks in (page.load, menu.change, timer.tick):
        looks(show, None, outputs, **HELPER)


def look_again(state: Fetching) -> gr.Timer:
    """Return the timer that looks again while a model arrives.

    What says that the model is absent leaves it alone: that may come late, when its download has
    begun.
    """
    return gr.skip() if state.status == "absent" else gr.Timer(active=state.status == "arriving")
