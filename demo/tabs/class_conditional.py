"""The tab that makes images of classes."""

from collections.abc import Callable, Iterator

import gradio as gr

from demo import api
from demo.parts import controls
from demo.service.class_service import ClassService
from demo.service.service import NUM_IMAGES
from demo.wiring import live
from demo.wiring.visit import connect_visit
from flowturbo_core.metadata import Settings


def build(
    service: ClassService,
    page: gr.Blocks,
    takes: Callable[[str], bool] = lambda query: True,
) -> None:
    """Add the tab's controls and pictures to `page`, served by `service`.

    `takes` tells whether an address's query is for this tab.
    """
    with gr.Row(elem_classes="workbench"):
        with gr.Column(scale=2, min_width=320):
            classes = controls.class_picker(service)
            plan = controls.plan_controls(service)
            with gr.Group():
                guidance_scale = controls.guidance_control(service)
                num_images = controls.images_control(NUM_IMAGES)
            seed = controls.seed_controls()
            buttons = controls.run_controls("Generate")
        with gr.Column(scale=3, min_width=320):
            results = controls.results(service)
            visit = controls.visit_controls(service)
    # In the order in which the handler takes them.
    inputs = [classes, *plan.sliders, guidance_scale, num_images, *seed]

    def values_of(settings: Settings) -> tuple:
        names, counts = service.restored(settings)
        values = settings.guidance_scale, settings.num_images, settings.seed
        return names, *counts, *values, False

    ask = service.generate_class_conditional
    live.connect(service, "class-conditional", ask, inputs, plan, buttons, results)
    connect_visit(page, service, values_of, inputs, plan, results, visit, takes)
    live.connect_budget(page, service, plan)
    live.connect_example(page, service, results)
    api.publish(handler(service), arguments(service), ["Pictures"])


def arguments(service: ClassService) -> api.Arguments:
    """Return the default and the JSON schema of each of the handler's arguments."""
    return api.arguments(api.classes(service), api.steps(service), service, NUM_IMAGES)


def handler(service: ClassService) -> Callable[..., Iterator[tuple]]:
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
            guidance_scale: classifier-free guidance, a number from 0 to 15; 1 is none; 0 leaves
                the class out.
            num_images: images of each class, a whole number from 1 to 8.
            seed: a whole number from 0 to 4294967295; image k draws its noise from seed + k.
            randomise: true to draw a seed and leave the given one unused.

        A value that is left out, or null over HTTP, is the default.

        Returns:
            The pictures with their classes (PNG, with their settings in them) and, at the end, a
            record: settings, times in milliseconds, evaluations, speed-up.
        """
        yield from api.answered(
            service,
            service.generate_class_conditional,
            api.pictures_and_record,
            2,
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
