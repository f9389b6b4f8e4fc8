"""The tab that changes a picture into what the subject says, and keeps the rest."""

from functools import partial

import gradio as gr
from gradio.components import Component

from demo.service.service import Service
from demo.tabs import generate
from flowturbo_core.fields import declared_fields
from flowturbo_core.requests import EDIT_METHODS, Classes, Edit, Texts


def add_controls(service: Service) -> dict[str, Component]:
    """Add the picture, how it is changed, and what it shows, by the names of the task's fields."""
    fields = declared_fields(Edit)
    with gr.Group():
        picture = gr.Image(
            label="Picture", type="filepath", sources=["upload", "clipboard"], elem_classes="source"
        )
        source = _add_source(service)
        method = gr.Radio(
            list(EDIT_METHODS),
            value=fields["method"].default,
            label="Method",
            elem_classes="method",
        )
        strength = _add_share("strength", "Strength", "0 returns the picture, 1 forgets it.")
    with gr.Accordion("More of FlowEdit", open=False):
        guidance = gr.Slider(
            0,
            15,
            fields["source_guidance_scale"].default,
            step=0.1,
            label="Guidance of the source",
            buttons=[],
        )
        plain_end = _add_share("plain_end", "Plain end", "The last part follows the target alone.")
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


def _add_share(name: str, label: str, info: str) -> gr.Slider:
    field = declared_fields(Edit)[name]
    limits, classes = field.kind, name.replace("_", "-")
    return gr.Slider(
        limits.low,
        limits.high,
        field.default,
        step=0.05,
        label=label,
        info=info,
        buttons=[],
        elem_classes=classes,
    )


EDITING = generate.Work(
    Edit,
    "Edit",
    "Change a picture into one of {}",
    add_controls,
    has_before=True,
    endpoints={Classes: "edit_image_of_class", Texts: "edit_image"},
)
build = partial(generate.build, work=EDITING)
