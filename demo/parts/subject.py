"""What is drawn: classes to choose, or texts to write, and how large."""

from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component

from demo.parts.class_picker import ClassPicker
from demo.parts.run import HELPER
from demo.says import readout
from demo.service.service import Service
from flowturbo_core.requests import EXAMPLE_PROMPTS, Classes

_EXAMPLES = (*EXAMPLE_PROMPTS[:5], "white lighthouse, rain")


@dataclass(frozen=True)
class SubjectControls:
    """What is drawn.

    Args:
        inputs: by the names of a request's fields.
        texts: those of them that are written.
        examples: counts the examples that were chosen, where there are any.
        typed: counts the texts that were written while live, where there are any.
    """

    inputs: dict[str, Component]
    texts: list[gr.Textbox] = field(default_factory=list)
    examples: gr.Number | None = None
    typed: gr.Number | None = None


def add_subject(service: Service) -> SubjectControls:
    """Add the classes, or the prompt, the examples that fill it, and the negative prompt."""
    if service.model.subject is Classes:
        return SubjectControls({"class_names": _class_picker(service)})
    with gr.Group(elem_classes="texts"):
        prompt = gr.Textbox(
            service.opening.subject.things[0],
            label="Prompt",
            placeholder=_EXAMPLES[0],
            lines=2,
            max_lines=6,
            elem_classes="prompt",
        )
        negative_prompt = gr.Textbox(
            label="Negative prompt",
            placeholder="what to lead away from",
            lines=1,
            max_lines=3,
            elem_classes="negative-prompt",
        )
        examples = gr.Radio(list(_EXAMPLES), label="Examples", elem_classes="preset examples")
        warning = gr.HTML("", apply_default_css=False, elem_classes="warning")
    pressed = gr.Number(0, visible=False, label="Examples pressed")
    # Chosen no longer, so that it can be pressed again.
    both = {"inputs": [examples, pressed], "outputs": [prompt, examples, pressed]}
    examples.input(None, **both, js="(text, pressed) => [text, null, pressed + 1]")
    inputs = {"prompts": prompt, "negative_prompt": negative_prompt}
    _warn_of_texts(service, warning, inputs)
    typed = gr.Number(0, visible=False, label="Texts typed")
    return SubjectControls(inputs, list(inputs.values()), pressed, typed)


def add_compared_subject(service: Service) -> SubjectControls:
    """Add the classes, or the prompt alone."""
    if service.model.subject is Classes:
        return SubjectControls({"class_names": _class_picker(service)})
    with gr.Group():
        prompt = gr.Textbox(service.opening.subject.things[0], label="Prompt", lines=2)
        warning = gr.HTML("", apply_default_css=False, elem_classes="warning")
    inputs = {"prompts": prompt}
    _warn_of_texts(service, warning, inputs)
    return SubjectControls(inputs, [prompt])


def add_sizes(service: Service) -> dict[str, gr.Slider]:
    """Add the sides of the images by the names of their fields, where these can be chosen."""
    size = service.opening.size
    if size is None:
        return {}
    with gr.Row():
        return {
            name: _side_control(name.title(), value, service.model.factor)
            for name, value in vars(size).items()
        }


def _side_control(label: str, value: int, factor: int) -> gr.Slider:
    """Add one side of the images, a multiple of `factor`; `value` is the one trained on."""
    return gr.Slider(
        factor * max(value // 2 // factor, 1),
        2 * value,
        value=value,
        step=factor,
        label=label,
        info=f"Trained on {value}.",
        buttons=[],
        min_width=120,
        elem_classes=label.lower(),
    )


def _class_picker(service: Service) -> ClassPicker:
    names = service.opening.subject.things
    return ClassPicker(service.model.class_names, service.model.class_pictures, names)


def _warn_of_texts(service: Service, warning: gr.HTML, inputs: dict[str, gr.Textbox]) -> None:
    """Say in `warning` why the texts are refused, or what of them is not read.

    The boxes themselves have no limit: they would cut what is pasted without a word.
    """

    def hint(**texts: str) -> str:
        return readout.hints(service.cut_warnings(**texts))

    changes = [text.change for text in inputs.values()]
    last = {"trigger_mode": "always_last", **HELPER}
    gr.on(changes, hint, None, warning, inputs_kwargs=dict(inputs), **last)
