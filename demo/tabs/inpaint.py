"""The tab that keeps what a mask leaves of a picture, and samples the rest anew."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from gradio.components.image_editor import EditorData
from PIL import Image

from demo.parts.run import add_number
from demo.service.service import Service
from demo.tabs import generate
from flowturbo_core.requests import Classes, Inpaint, Texts

_BRUSH, _MOST_FEATHER = 24, 32  # pixels


def add_controls(service: Service) -> dict[str, Component]:
    """Add the picture that is painted on, and how much of what it covers is forgotten."""
    canvas = gr.ImageEditor(
        label="Picture: paint over what is to change",
        type="pil",
        layers=False,
        transforms=(),
        sources=["upload", "clipboard"],
        brush=gr.Brush(_BRUSH, colors=["#ffffff"], color_mode="fixed"),
        eraser=gr.Eraser(_BRUSH),
        elem_classes="canvas",
    )
    with gr.Group():
        about = "1 forgets what was there; less keeps some of it."
        strength = add_number(Inpaint, "strength", "Strength", about, step=0.05)
        about = "Pixels over which the paint fades in, inside the mask."
        feather = add_number(Inpaint, "feather", "Feather", about, step=1, most=_MOST_FEATHER)
    return {"canvas": canvas, "strength": strength, "feather": feather}


def read_canvas(controls: Mapping[str, Component], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the picture and the mask in place of the canvas that holds both."""
    drawn = values.pop("canvas")
    painted = None if drawn is None else controls["canvas"].preprocess(EditorData(**drawn))
    if painted is None or painted["background"] is None:
        raise ValueError("upload a picture, and paint over what is to change")
    picture = painted["background"].convert("RGB")
    return {**values, "picture": picture, "mask": _join(painted["layers"], picture.size)}


def _join(layers: list[Image.Image], size: tuple[int, int]) -> Image.Image:
    """Return what any of the layers paints, white on black."""
    mask = np.zeros((size[1], size[0]), bool)
    for layer in layers:
        alpha = layer.convert("RGBA").getchannel("A").resize(size, Image.Resampling.NEAREST)
        mask |= np.asarray(alpha) > 0
    if not mask.any():
        raise ValueError("paint over what is to change: nothing is painted yet")
    return Image.fromarray(mask.astype(np.uint8) * 255)


INPAINTING = generate.Work(
    Inpaint,
    "Paint",
    "Paint one of {} into what a mask covers of a picture, and keep the rest",
    add_controls,
    has_before=True,
    read=read_canvas,
    endpoints={Classes: "inpaint_image_of_class", Texts: "inpaint_image"},
)
build = partial(generate.build, work=INPAINTING)
