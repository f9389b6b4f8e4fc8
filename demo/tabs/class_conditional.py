"""The tab that makes images of classes."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from demo import api, controls, wiring
from demo.class_picker import ClassPicker
from demo.service import (
    GUIDANCE_SCALE,
    HEUN_STEPS,
    NUM_IMAGES,
    PSEUDO_STEPS,
    REFINER_STEPS,
    Service,
)
from flowturbo_core.metadata import Settings
from flowturbo_core.requests import MAX_SEED


def build(service: Service, page: gr.Blocks) -> None:
    """Add the tab's controls and pictures to `page`, served by `service`."""
    with gr.Row(elem_classes="workbench"):
        with gr.Column(scale=2, min_width=320):
            classes = ClassPicker(
                service.class_names,
                service.model.class_pictures,
                service.default_settings.class_names,
            )
            plan = controls.plan_controls(service)
            with gr.Group():
                guidance_scale = controls.guidance_control(service)
                num_images = controls.images_control("Images per class")
            seed = controls.seed_controls()
            buttons = controls.run_controls()
        with gr.Column(scale=3, min_width=320):
            results = controls.results()
            visit = controls.visit_controls()
    # In the order in which the handler takes them.
    inputs = [classes, *plan.sliders, guidance_scale, num_images, *seed]

    def values_of(settings: Settings) -> tuple:
        names, counts = service.restored(settings)
        values = settings.guidance_scale, settings.num_images, settings.seed
        return names, *counts, *values, False

    ask = service.generate_class_conditional
    wiring.connect(service, ask, inputs, plan, buttons, results)
    wiring.connect_visit(page, service, values_of, inputs, plan, results, visit)
    api.publish(handler(service), arguments(service))


def arguments(service: Service) -> dict[str, tuple[object, dict[str, Any]]]:
    """Return the default and the JSON schema of each of the handler's arguments."""
    default, counts = service.default_settings, service.default_counts
    label = {"type": "integer", "minimum": 0, "maximum": len(service.class_names) - 1}
    name = {"type": "string", "description": "a class's name"}

    def whole(limits: tuple[int, int], text: str) -> dict[str, Any]:
        low, high = limits
        text = f"{text}, a whole number from {low} to {high}"
        return {"type": "integer", "minimum": low, "maximum": high, "description": text}

    low, high = GUIDANCE_SCALE
    return {
        "class_names": (
            list(default.class_names),
            {
                "type": "array",
                "items": {"anyOf": [name, label]},
                "description": "names or labels of classes; images come in their order",
            },
        ),
        "heun": (counts[0], whole(HEUN_STEPS, "Heun steps")),
        "pseudo": (counts[1], whole(PSEUDO_STEPS, "pseudo-corrector steps")),
        "refiner": (counts[2], whole(REFINER_STEPS, "refiner steps")),
        "guidance_scale": (
            default.guidance_scale,
            {
                "type": "number",
                "minimum": low,
                "maximum": high,
                "description": f"classifier-free guidance, from {low} to {high}; 1 is none",
            },
        ),
        "num_images": (1, whole(NUM_IMAGES, "images of each class")),
        "seed": (0, whole((0, MAX_SEED), "image k draws its noise from seed + k")),
        "randomise": (
            False,
            {"type": "boolean", "description": "draw a seed, and leave the given one unused"},
        ),
    }


def handler(service: Service) -> Callable[..., Iterator[tuple]]:
    """Return what programs call; its docstring documents the API, to people and to MCP."""

    def generate_class_conditional(
        class_names,
        heun,
        pseudo,
        refiner,
        guidance_scale,
        num_images,
        seed,
        randomise,
    ):
        """Generate images of classes; streams a preview after every block, then the result.

        Args:
            class_names: list of class names, or of labels counted from 0.
            heun: Heun steps, a whole number from 0 to 24.
            pseudo: pseudo-corrector steps, a whole number from 0 to 24.
            refiner: refiner steps, a whole number from 0 to 8.
            guidance_scale: classifier-free guidance, a number from 0 to 15; 1 is none.
            num_images: images of each class, a whole number from 1 to 8.
            seed: a whole number from 0 to 4294967295; image k draws its noise from seed + k.
            randomise: true to draw a seed and leave the given one unused.

        Returns:
            The pictures with their classes (PNG, with their settings in them) and, at the end, a
            record: settings, times in milliseconds, evaluations, speed-up.
        """
        yield from api.answered(
            service,
            service.generate_class_conditional,
            class_names,
            heun,
            pseudo,
            refiner,
            guidance_scale,
            num_images,
            seed,
            randomise,
        )

    return generate_class_conditional
