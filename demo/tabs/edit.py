"""The tab that changes a picture into what the subject says, and keeps the rest."""

from functools import partial

import gradio as gr
from gradio.components import Component

from demo.parts.run import add_number
from demo.service.service import Service
from demo.tabs import generate
from flowturbo_core.fields import declared_fields
from flowturbo_core.requests import EDIT_METHODS, Classes, Edit, Texts


def add_controls(service: Service) -> dict[str, Component]:
    """Add the picture, how it is changed, and what it shows, by the names of the task's fields."""
    with gr.Group():
        picture = gr.Image(
            label="Picture", type="filepath", sources=["upload", "clipboard"], elem_classes="source"
        )
        source = _add_source(service)
        method = gr.Radio(
            list(EDIT_METHODS),
            value=declared_fields(Edit)["method"].default,
            label="Method",
            elem_classes="method",
        )
        about = "0 returns the picture, 1 forgets it."
        strength = add_number(Edit, "strength", "Strength", about, step=0.05)
    with gr.Accordion("More of FlowEdit", open=False):
        label = "Guidance of the source"
        guidance = add_number(Edit, "source_guidance_scale", label, None, step=0.1)
        about = "The last part follows the target alone."
        plain_end = add_number(Edit, "plain_end", "Plain end", about, step=0.05)
        find_mask = gr.Checkbox(label="Find out first where to change the picture")
    return {
        "picture": picture,
        "source": source,
        "method": method,
        "strength": strength,
        "source_guidance_scale": guidance,
        "plain_end": plain_end,
        "find_mask": find_mask,
    }


def _add_source(service: Service) -> Component:
    label = "What the picture shows"
    if service.model.subject is Classes:
        names = list(service.model.class_names)
        return gr.Dropdown(names, value=names[0], label=label, elem_classes="source-thing")
    return gr.Textbox(label=label, elem_classes="source-thing")


EDITING = generate.Work(
    Edit,
    "Edit",
    "Change a picture into one of {}",
    add_controls,
    has_before=True,
    endpoints={Classes: "edit_image_of_class", Texts: "edit_image"},
)
build = partial(generate.build, work=EDITING)
