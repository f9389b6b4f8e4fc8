"""What programs call: an endpoint of its own for each task, as they have no use for a page's HTML.

Its arguments reach the core as they come, to be refused there by value; here they are described.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import wraps
from inspect import getdoc
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.components import Component

from demo.says import readout
from demo.says.pictures import captioned, preview_file, setting_files
from demo.service.class_service import ClassService
from demo.service.events import Done, Preview
from demo.service.service import GUIDANCE_SCALE, Service
from demo.service.slider_plans import PSEUDO_STEPS, REFINER_STEPS, SOLVER_STEPS
from demo.service.text_service import TextService
from demo.serving.gate import REFUSED, in_one_line
from demo.wiring.runs import GPU, in_a_sentence, told
from flowturbo_core.files import Unwritable
from flowturbo_core.requests import MAX_SEED, MAX_SIDE, MAX_TEXT

_MAX_WORDS = 2000  # characters of an answer
_log = logging.getLogger(__name__)

Arguments = Mapping[str, tuple[object, dict[str, Any]]]


class Page(gr.Blocks):
    """A page on which whatever does not fit an event is refused in one sentence, at every door."""

    def validate_inputs(self, block_fn: BlockFunction, inputs: list[Any]) -> None:
        """Refuse too few or too many values. A page's script may pass more, which are left out."""
        taken = len(block_fn.inputs)
        is_public = block_fn.api_visibility == "public"
        if len(inputs) == taken or (len(inputs) > taken and not is_public):
            return
        what = f"{block_fn.api_name if is_public else 'this'} takes {taken} values"
        names = ", ".join(str(its.label) for its in block_fn.inputs)
        hint = f": {names}; null stands for a default" if is_public else ""
        raise gr.Error(f"{what}, not {len(inputs)}{hint}", print_exception=False)

    async def preprocess_data(self, block_fn: BlockFunction, *args: Any, **options: Any) -> Any:
        """Read what was sent; Gradio's own words for what it cannot read name files and objects."""
        try:
            if block_fn.fn is None:
                raise LookupError("this event is the browser's own")
            return await super().preprocess_data(block_fn, *args, **options)
        except gr.Error:
            raise
        except Exception as error:  # foreign values fail in every way there is
            _log.warning("%s: %s", block_fn.name, in_one_line(error))
            raise gr.Error(
                "What was sent does not fit what is taken here", print_exception=False
            ) from error

    async def process_api(
        self, block_fn: BlockFunction | int, *args: Any, request: Any = None, **options: Any
    ) -> Any:
        """Serve an event; a fault that nobody foresaw is logged in a line."""
        asked = request[0] if isinstance(request, list) else request
        scope = getattr(getattr(asked, "request", None), "scope", {})
        try:
            return await super().process_api(block_fn, *args, request=request, **options)
        except gr.Error as error:
            scope[REFUSED] = True
            error.print_exception = False
            error.message = error.message[:_MAX_WORDS]  # Gradio repeats values whole
            raise
        except Exception as error:
            _log.error("%s: %s", getattr(block_fn, "name", block_fn), in_one_line(error))
            raise gr.Error(
                f"This could not be done ({type(error).__name__}); the server's log has the reason",
                print_exception=False,
            ) from error


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

    `arguments` gives, for each of its parameters, the value where none is given, or null, and a
    JSON schema; `pictures` names the galleries that it returns, and a record follows them.
    """
    defaults = [default for default, _ in arguments.values()]

    @wraps(handler)
    def with_defaults(*values: object) -> Iterator[tuple]:
        given = zip(values, defaults, strict=True)
        yield from handler(*(default if value is None else value for value, default in given))

    gr.Button(visible=False).click(
        with_defaults,
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
                "description": f"classifier-free guidance, from {low} to {high}; 1 is none; "
                f"0 leaves the class or prompt out",
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
