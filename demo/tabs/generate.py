"""The tab that makes images: of classes, or of texts, and by whatever task has controls to add."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from demo import api
from demo.parts import models
from demo.parts.plan import add_plan
from demo.parts.results import add_results, add_visit
from demo.parts.run import add_guidance, add_num_images, add_run, add_seed
from demo.parts.subject import add_sizes, add_subject
from demo.says import readout
from demo.says.pictures import preview_file, request_files, with_captions
from demo.service.events import Done, Preview
from demo.service.service import NARROWED, Service
from demo.service.studio import first_of_each_subject
from demo.wiring import live
from demo.wiring.uploads import find_files, read_files
from demo.wiring.visit import connect_visit
from flowturbo_core.metadata import model_in
from flowturbo_core.requests import Generate


@dataclass(frozen=True)
class Work:
    """What is done in a tab.

    Args:
        task: the task.
        button: what starts it.
        about: what an endpoint does, with a place for what is drawn.
        controls: adds the task's own controls, and returns them by the names of its fields.
        has_before: whether it works on a picture, which is then shown beside the result.
        read: turns the values of the controls into values of the task's fields; it is given the
            task's own controls, too.
        endpoints: what programs call it by what is drawn, where that is not derived.
    """

    task: type
    button: str
    about: str
    controls: Callable[[Service], dict[str, Component]]
    has_before: bool = False
    read: Callable[[Mapping[str, Component], dict[str, Any]], dict[str, Any]] = read_files
    endpoints: Mapping[type, str] = field(default_factory=dict)


GENERATING = Work(Generate, "Generate", "Generate images of {}", lambda service: {})


def build(
    tab: str,
    services: Sequence[Service],
    page: gr.Blocks,
    takes: Callable[[str], bool],
    work: Work = GENERATING,
) -> None:
    """Add controls and pictures of each model, and what chooses one.

    Programs reach the first of each subject. `takes` tells whether an address's query is for this
    tab, which is called `tab`.
    """
    others = [item.name for item in services[1:]]

    def build_pane(service: Service) -> None:
        def takes_it(query: str) -> bool:
            model, is_first = model_in(query), service is services[0]
            is_own = model not in others if is_first else model == service.name
            return is_own and takes(query)

        _build_pane(tab, service, page, takes_it, work)

    models.build(services, page, build_pane)
    for service in first_of_each_subject(services):
        api.publish(endpoint(service, work))


def _build_pane(
    tab: str, service: Service, page: gr.Blocks, takes: Callable[[str], bool], work: Work
) -> None:
    with gr.Row(elem_classes="workbench"):
        with gr.Column(scale=2, min_width=320):
            subject = add_subject(service)
            own = work.controls(service)
            plan = add_plan(service, work.task.suit(service.plans.default))
            with gr.Group():
                guidance_scale = add_guidance(service)
                num_images = add_num_images(service, NARROWED, service.opening.num_images)
                sizes = add_sizes(service)
            seed = add_seed()
            run = add_run(work.button)
        with gr.Column(scale=3, min_width=320):
            shown = add_results(service, work.button, work.has_before)
            visit = add_visit(tab)
    shared = {"guidance_scale": guidance_scale, "num_images": num_images, **sizes}
    inputs = {**subject.inputs, **own, **plan.steps, **shared, **seed._asdict()}
    view = live.View(shown, seed.seed, run.state)
    live.connect(
        service,
        live.Asking(work.task, f"{tab} {service.name}", inputs, partial(work.read, own)),
        subject,
        plan,
        run,
        view,
    )
    connect_visit(page, service, work.task, inputs, plan, shown, visit, takes)
    live.connect_budget(page, service, plan)
    if not work.has_before:
        live.connect_example(page, service, view)


def endpoint(service: Service, work: Work = GENERATING) -> api.Endpoint:
    """Return what programs call to make images."""
    subject, task = service.model.subject, work.task
    return api.Endpoint(
        work.endpoints.get(subject, f"{task.NAME}_{subject.NAME}"),
        f"{work.about.format(subject.PLURAL)}; streams a preview after every block, then the "
        "result.",
        api.arguments(service, task, api.steps(service)),
        f"The pictures with their {subject.PLURAL} (PNG, with their settings in them) and, at the "
        "end, a record: settings, times in milliseconds, evaluations, speed-up.",
        ["Pictures"],
        lambda values, ticket: service.run(service.request(find_files(values), task), ticket),
        answer,
    )


def answer(event: Preview | Done) -> tuple:
    """Return the pictures and, of a result, the record that programs get."""
    captions = event.request.captions
    if isinstance(event, Done):
        files = request_files(event.pictures, event.request, event.versions)
        return with_captions(files, captions), readout.record(event)
    return with_captions([preview_file(item) for item in event.pictures], captions), None
