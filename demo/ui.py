"""The page as a whole: header, tabs, how it looks, and how one asks whether it is well."""

from collections.abc import AsyncIterator, Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from demo import api
from demo.parts.controls import HELPER
from demo.service.class_service import ClassService
from demo.service.service import Service
from demo.service.text_service import TextService
from demo.serving.cache import Keeping
from demo.serving.gate import Gate, Hosts, hosts, refuse_body
from demo.serving.upkeep import MAX_SESSIONS, upkeep
from demo.tabs import about, class_conditional, compare, text_to_image
from demo.wiring import runs
from flowturbo_core.metadata import is_of_texts

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
_HERE = Path(__file__).parent


def build(service: ClassService, *texts: TextService) -> gr.Blocks:
    """Return the page, served by `service` and, where there are models of texts, by `texts`."""
    services = (service, *texts)
    models_of_text = {its.name for its in texts}

    def of_text(query: str) -> bool:
        return bool(texts) and is_of_texts(query, models_of_text)

    with api.Page(title="FlowTurbo Studio", analytics_enabled=False) as page:
        with gr.Row(elem_classes="page-header"):
            gr.HTML(
                "<h1>FlowTurbo Studio</h1>"
                "<p>Pictures from a flow, and the milliseconds each one takes.</p>",
                apply_default_css=False,
            )
            status = gr.HTML(_status(services), apply_default_css=False, elem_classes="status")
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            with gr.Tab("Class-conditional", id="class-conditional"):
                class_conditional.build(service, page, lambda query: not of_text(query))
            if texts:
                with gr.Tab("Text to image", id="text-to-image"):
                    text_to_image.build(texts, page, of_text)
            with gr.Tab("Compare", id="compare"):
                compare.build(services, page)
            with gr.Tab("About", id="about"):
                about.build(*services)

        async def follow() -> AsyncIterator[str]:
            for its in services:  # they are loaded in this order
                yield _status(services)
                await runs.loaded(its)
            yield _status(services)

        def opened(request: gr.Request) -> gr.Tabs:
            is_of_text = of_text(str(request.query_params))
            return gr.Tabs(selected="text-to-image") if is_of_text else gr.skip()

        page.load(follow, None, status, **runs.ONCE_LOADED)
        if texts:
            page.load(opened, None, tabs, **HELPER)
    return page


def launch_options(
    *services: Service, keeping: Keeping | None = None, answers_to: Hosts | None = None
) -> dict[str, Any]:
    """Return what `launch()` takes and a page therefore cannot carry itself.

    `keeping` says for how long pictures are kept, and how many bytes of them. The server answers
    to the names `answers_to`; where there are none, to localhost.
    """
    keeping = Keeping() if keeping is None else keeping
    gate = Middleware(Gate, hosts=hosts("localhost") if answers_to is None else answers_to)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return {
        "theme": THEME,
        "css_paths": _HERE / "style.css",
        "js": script.replace("KEPT", str(keeping)),
        "max_file_size": "10mb",
        "footer_links": ["api"],
        "run_history": False,
        "show_error": True,
        "ssr_mode": False,
        "state_session_capacity": MAX_SESSIONS,
        "app_kwargs": {
            "routes": [_health_route(services)],
            "lifespan": upkeep(keeping),
            "middleware": [gate],
            "exception_handlers": {RequestValidationError: refuse_body},
        },
    }


def _health_route(services: Sequence[Service]) -> APIRoute:
    """Return what answers /health; two methods of one route would have one name in a schema."""
    methods = ["GET", "HEAD"]
    return APIRoute("/health", _health(services), methods=methods, include_in_schema=False)


def _health(services: Sequence[Service]) -> Callable[[], JSONResponse]:
    def health() -> JSONResponse:
        """Tell whether the models that the page opens with are loaded: 200 once they are, else 503.

        It says so of the first that is not, or of the first.
        """
        states = [service.health() for service in services if service.download is None]
        state = next((its for its in states if its["status"] != "ready"), states[0])
        return JSONResponse(state, 200 if state["status"] == "ready" else 503)

    return health


def _status(services: Sequence[Service]) -> str:
    """Return the models that the page opens with, and whether they are loaded, for the header."""
    words = {
        "loading": "loading {model} …",
        "ready": "{model} on {device}, {dtype}",
        "failed": "{model} cannot be loaded: {error}",
    }
    states = [service.health() for service in services if service.download is None]
    lines = [
        f'<p class="{state["status"]}">{escape(words[state["status"]].format(**state))}</p>'
        for state in states
    ]
    return f'<div role="status">{"".join(lines)}</div>'
