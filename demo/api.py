"""What programs call: an endpoint of its own for each task, as they have no use for a page's HTML.

Its arguments reach the core as they come, to be refused there by value; here they are described.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from inspect import getdoc
from typing import Any

import gradio as gr
from gradio.components import Component

from demo import readout
from demo.events import Done, Preview, Stopped
from demo.pictures import captioned, png_file, setting_files
from demo.service import Service
from demo.wiring import GPU


def answered(
    service: Service, ask: Callable[..., Iterator[Preview | Done | Stopped]], *values: object
) -> Iterator[tuple]:
    """Ask the service, and turn its events into pictures and a record.

    A refusal becomes the sentence that the caller is told.
    """
    try:
        with closing(ask(*values)) as events:
            for _ in service.until_loaded():
                yield None, None
            for event in events:
                if isinstance(event, Done):
                    files = setting_files(event.pictures, event.settings, event.versions)
                    yield captioned(files, event), readout.record(event)
                else:
                    yield captioned([png_file(p) for p in event.pictures], event), None
    except (ValueError, FloatingPointError) as error:
        text = str(error)
        raise gr.Error(text[:1].upper() + text[1:], print_exception=False) from error


def publish(
    handler: Callable[..., Iterator[tuple]], arguments: Mapping[str, tuple[object, dict[str, Any]]]
) -> None:
    """Serve `handler` under its own name; its docstring is the documentation.

    `arguments` gives, for each of its parameters, the value where none is given and a JSON schema.
    """
    gr.Button(visible=False).click(
        handler,
        [_argument(name, *described) for name, described in arguments.items()],
        [gr.Gallery(label="Pictures", visible=False), gr.JSON(label="Record", visible=False)],
        api_name=handler.__name__,
        api_description=getdoc(handler),  # all of it: Gradio alone would leave the ranges out
        preprocess=False,
        **GPU,
    )


def _argument(name: str, default: object, schema: dict[str, Any]) -> Component:
    kinds = {bool: gr.Checkbox, int: gr.Number, float: gr.Number, list: gr.JSON}
    component = kinds[type(default)](default, label=name, visible=False)
    component.api_info = lambda: schema  # Gradio's says what the component is, not what is allowed
    return component
