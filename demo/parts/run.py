"""The controls that start a request, and those of what every request has."""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

import gradio as gr

from demo.service.service import Service
from flowturbo_core.fields import Kind, declared_fields
from flowturbo_core.requests import Generate, fields_of

# Events that only move controls: no place in the queue, nothing in the API's documentation.
HELPER = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


# What `RunControls.state` holds. A request is asked for in the browser, may wait for the model, and
# runs. It is refused where it never began: then what was there before is there still.
IDLE, ASKED, WAITING, RUNNING, REFUSED = "idle", "asked", "waiting", "running", "refused"


class SeedControls(NamedTuple):
    """The seed, and whether to draw a new one each time; named as the fields they are."""

    seed: gr.Number
    randomise: gr.Checkbox


class RunControls(NamedTuple):
    """The two buttons; `presses` counts those of the first, `state` says whether something runs."""

    generate: gr.Button
    stop: gr.Button
    presses: gr.Number
    state: gr.Textbox


def add_guidance(service: Service) -> gr.Slider:
    """Add the guidance scale."""
    thing = service.model.subject.NOUN
    scale = fields_of(service.model.subject, Generate)["guidance_scale"].kind
    return gr.Slider(
        scale.low,
        scale.high,
        value=service.opening.guidance_scale,
        step=0.1,
        label="Guidance scale",
        info=f"How closely to follow the {thing}: 1 is none; 0 leaves the {thing} out.",
        buttons=[],
        elem_classes="guidance",
    )


def add_number(
    task: type, name: str, label: str, info: str | None, step: float, most: int | None = None
) -> gr.Slider:
    """Add a number of a task, by the name of its field and within its limits, or up to `most`."""
    field = declared_fields(task)[name]
    return gr.Slider(
        field.kind.low,
        field.kind.high if most is None else most,
        value=field.default,
        step=step,
        label=label,
        info=info,
        buttons=[],
        elem_classes=name.replace("_", "-"),
    )


def add_num_images(service: Service, narrowed: Mapping[str, Kind], value: int) -> gr.Slider:
    """Add the number of images of each thing asked for, within the limits of `narrowed`."""
    count = narrowed["num_images"]
    return gr.Slider(
        count.low,
        count.high,
        value=value,
        step=1,
        label=f"Images per {service.model.subject.NOUN}",
        buttons=[],
        elem_classes="images",
    )


def add_seed(is_random: bool = True) -> SeedControls:
    """Add the seed; writing one means wanting that one."""
    with gr.Group(elem_classes="seed-row"):
        seed = gr.Number(0, label="Seed", elem_classes="seed")
        randomise = gr.Checkbox(
            is_random, label="Random", show_label=False, elem_classes="randomise"
        )
    seed.input(None, None, randomise, js="() => false")
    return SeedControls(seed, randomise)


def add_run(label: str) -> RunControls:
    """Add the button that starts, and Stop, which has nothing to stop yet."""
    with gr.Row(elem_classes="run"):
        generate = gr.Button(label, variant="primary", size="lg", scale=3, elem_classes="generate")
        stop = gr.Button(
            "Stop", variant="stop", size="lg", interactive=False, min_width=96, elem_classes="stop"
        )
    presses = gr.Number(0, visible=False, label="Presses")
    return RunControls(generate, stop, presses, gr.Textbox(IDLE, visible=False, label="State"))


def in_words(error: Exception) -> str:
    """Return what an error says, as a sentence begins."""
    text = str(error)
    return text[:1].upper() + text[1:]


def sentence(error: Exception) -> str:
    """Return the same, for a page that takes it for HTML."""
    return escape(in_words(error), quote=False)
