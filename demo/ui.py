"""The page as a whole: header, tabs, how it looks, and how one asks whether it is well."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from demo import api
from demo.parts.run import HELPER
from demo.service.service import Service
from demo.serving.cache import Keeping
from demo.serving.gate import Gate, Hosts, hosts, refuse_body
from demo.serving.upkeep import MAX_SESSIONS, upkeep
from demo.tabs import about, compare, edit, generate, inpaint
from demo.theme import THEME
from demo.wiring.runs import ONCE_LOADED, wait_until_loaded
from flowturbo_core.metadata import read_query
from flowturbo_core.requests import SUBJECTS, Classes, Edit, Generate, Inpaint, Subject, Texts

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Tab:
    """A tab of the page.

    Args:
        name: what programs, scripts and addresses call it.
        label: what a person reads.
        build: adds it to the page: of these services, where `takes` tells whether an address's
            query is for it.
        task: what is done in it, if it makes pictures.
        subjects: what it draws; of models of others it knows nothing.
        has_downloads: whether it offers models that are on a hub: each makes the page heavier.
    """

    name: str
    label: str
    build: Callable[[str, Sequence[Service], gr.Blocks, Callable[[str], bool]], None]
    task: type | None = None
    subjects: tuple[type[Subject], ...] = SUBJECTS
    has_downloads: bool = True

    def serves(self, service: Service) -> bool:
        """Whether the tab has a place for a model."""
        is_there = self.has_downloads or service.download is None
        return is_there and service.model.subject in self.subjects


TABS = (
    Tab("class-conditional", "Class-conditional", generate.build, Generate, (Classes,)),
    Tab("text-to-image", "Text to image", generate.build, Generate, (Texts,)),
    Tab("edit", "Edit", edit.build, Edit, has_downloads=False),
    Tab("inpaint", "Inpaint", inpaint.build, Inpaint, has_downloads=False),
    Tab("compare", "Compare", compare.build),
    Tab("about", "About", about.build),
)


def build(*services: Service) -> gr.Blocks:
    """Return the page, served by these services; the first is of the tab that it opens with."""

    def tab_of(query: str) -> Tab:
        return find_tab(query, services)

    with api.Page(title="FlowTurbo Studio", analytics_enabled=False) as page:
        with gr.Row(elem_classes="page-header"):
            gr.HTML(
                "<h1>FlowTurbo Studio</h1>"
                "<p>Pictures from a flow, and the milliseconds each one takes.</p>",
                apply_default_css=False,
            )
            status = gr.HTML(_status(services), apply_default_css=False, elem_classes="status")
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            for item in TABS:
                served = [service for service in services if item.serves(service)]
                if served:
                    with gr.Tab(item.label, id=item.name):
                        item.build(
                            item.name, served, page, lambda query, item=item: tab_of(query) is item
                        )

        async def report_status() -> AsyncIterator[str]:
            for item in services:  # they are loaded in this order
                yield _status(services)
                await wait_until_loaded(item)
            yield _status(services)

        def select_tab(request: gr.Request) -> gr.Tabs:
            tab = tab_of(str(request.query_params))
            return gr.skip() if tab is TABS[0] else gr.Tabs(selected=tab.name)

        page.load(report_status, None, status, **ONCE_LOADED)
        page.load(select_tab, None, tabs, **HELPER)
    return page


def find_tab(query: str, services: Sequence[Service]) -> Tab:
    """Return the tab that an address's query is for; the first, of one that nobody can read.

    An address that says nothing which only one subject has is for the subject of its model.
    """
    try:
        written = read_query(query)
    except ValueError:  # which the first tab then says
        return TABS[0]
    if written is None:
        return TABS[0]
    of_model = {item.name: item.model.subject for item in services}
    subject = written.subject or of_model.get(str(written.model), services[0].model.subject)
    served = {item.model.subject for item in services}
    fits = (item for item in TABS if item.task is written.task and subject in item.subjects)
    return next((item for item in fits if subject in served), TABS[0])


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
    # Which tab takes a picture of what was done, and of what.
    takers = [
        (tab.task.NAME, subject.field().name, tab.name)
        for tab in TABS
        if tab.task is not None
        for subject in tab.subjects
    ]
    return {
        "theme": THEME,
        "css_paths": _HERE / "style.css",
        "js": script.replace("KEPT", str(keeping)).replace("TAKERS", json.dumps(takers)),
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
        state = next((item for item in states if item["status"] != "ready"), states[0])
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
