"""What programs call: an endpoint of its own for each task, as they have no use for a page's HTML.

Its arguments reach the core as they come, to be refused there by value; here they are described.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from inspect import getdoc
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.components import Component

from demo import readout
from demo.class_service import ClassService
from demo.events import Done, Preview
from demo.pictures import Unwritable, captioned, preview_file, setting_files
from demo.service import GUIDANCE_SCALE, Service
from demo.slider_plans import PSEUDO_STEPS, REFINER_STEPS, SOLVER_STEPS
from demo.text_service import TextService
from demo.wiring import GPU, in_a_sentence, told
from flowturbo_core.requests import MAX_SEED, MAX_SIDE, MAX_TEXT

Arguments = Mapping[str, tuple[object, dict[str, Any]]]


def answered(
    service: Service,
    ask: Callable[..., Iterator[Any]],
    answer: Callable[[Any], tuple | None],
    num_outputs: int,
    *values: object,
) -> Iterator[tuple]:
    """Ask the service, and turn its events by `answer` into outputs; None says nothing of one.

    A refusal becomes the sentence that the caller is told.
    """
    with (
        in_a_sentence(_in_words, Unwritable),
        closing(told(service, ask, _in_words, *values)) as events,
    ):
        for event in events:
            outputs = (None,) * num_outputs if event is None else answer(event)
            if outputs is not None:
                yield outputs


def _in_words(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def publish(
    handler: Callable[..., Iterator[tuple]], arguments: Arguments, pictures: Sequence[str]
) -> None:
    """Serve `handler` under its own name; its docstring is the documentation.

    `arguments` gives, for each of its parameters, the value where none is given and a JSON schema;
    `pictures` names the galleries that it returns, and a record follows them.
    """
    gr.Button(visible=False).click(
        handler,
        [_argument(name, *described) for name, described in arguments.items()],
        [
            *(gr.Gallery(label=label, visible=False) for label in pictures),
            gr.JSON(label="Record", visible=False),
        ],
        api_name=handler.__name__,
        api_description=getdoc(handler),  # all of it: Gradio alone would leave the ranges out
        preprocess=False,
        **GPU,
    )


def arguments(
    things: Arguments,
    plan: Arguments,
    service: Service,
    num_images: tuple[int, int],
    sizes: Arguments = MappingProxyType({}),
) -> Arguments:
    """Return the default and the JSON schema of what every task takes, around its own.

    `things` says of what there are to be pictures, `sizes` how large they may be, where that is
    to be chosen, and `num_images` how many of each.
    """
    low, high = GUIDANCE_SCALE
    return {
        **things,
        **plan,
        "guidance_scale": (
            service.default_settings.guidance_scale,
            {
                "type": "number",
                "minimum": low,
                "maximum": high,
                "description": f"classifier-free guidance, from {low} to {high}; 1 is none",
            },
        ),
        **sizes,
        "num_images": (1, whole(num_images, "images of each class or text")),
        "seed": (0, whole((0, MAX_SEED), "image k draws its noise from seed + k")),
        "randomise": (
            False,
            {"type": "boolean", "description": "draw a seed, and leave the given one unused"},
        ),
    }


def classes(service: ClassService) -> Arguments:
    """Return the default and the JSON schema of the classes."""
    label = {"type": "integer", "minimum": 0, "maximum": len(service.class_names) - 1}
    name = {"type": "string", "description": "a class's name"}
    return {
        "class_names": (
            list(service.default_settings.class_names),
            {
                "type": "array",
                "items": {"anyOf": [name, label]},
                "description": "names or labels of classes; images come in their order",
            },
        )
    }


def prompt(service: TextService) -> Arguments:
    """Return the default and the JSON schema of a prompt."""
    described = {"type": "string", "maxLength": MAX_TEXT, "description": "what to show"}
    return {"prompt": (service.default_settings.prompts[0], described)}


def prompts(service: TextService) -> Arguments:
    """Return the default and the JSON schema of a prompt and a negative prompt."""
    described = {"type": "string", "maxLength": MAX_TEXT, "description": "what to lead away from"}
    return {**prompt(service), "negative_prompt": ("", described)}


def sizes(service: TextService) -> Arguments:
    """Return the default and the JSON schema of the two sides."""
    default = service.default_settings
    factor = service.model.factor
    side = {"type": "integer", "minimum": factor, "maximum": MAX_SIDE, "multipleOf": factor}
    side["description"] = f"in pixels, a multiple of {factor}"
    return {"height": (default.height, side), "width": (default.width, side)}


def steps(service: Service) -> Arguments:
    """Return the default and the JSON schema of the steps of each kind."""
    heun, pseudo, refiner = service.default_counts
    return {
        "heun": (heun, whole(SOLVER_STEPS, f"{service.slider_plans.solver_name} steps")),
        "pseudo": (pseudo, whole(PSEUDO_STEPS, "pseudo-corrector steps")),
        "refiner": (refiner, whole(REFINER_STEPS, "refiner steps")),
    }


def pictures_and_record(event: Preview | Done) -> tuple:
    """Return the pictures and, of a result, the record that programs get."""
    if isinstance(event, Done):
        files = setting_files(event.pictures, event.settings, event.versions)
        return captioned(files, event.captions), readout.record(event)
    return captioned([preview_file(p) for p in event.pictures], event.captions), None


def whole(limits: tuple[int, int], text: str) -> dict[str, Any]:
    """Return the JSON schema of a whole number within limits."""
    low, high = limits
    text = f"{text}, a whole number from {low} to {high}"
    return {"type": "integer", "minimum": low, "maximum": high, "description": text}


def _argument(name: str, default: object, schema: dict[str, Any]) -> Component:
    kinds = {
        bool: gr.Checkbox,
        int: gr.Number,
        float: gr.Number,
        list: gr.JSON,
        str: gr.Textbox,
    }
    component = kinds[type(default)](default, label=name, visible=False)
    component.api_info = lambda: schema  # Gradio's says what the component is, not what is allowed
    return component
