"""The tab that makes images of classes."""

from collections.abc import Callable, Iterator

import gradio as gr

from demo import controls
from demo.service import Service


def build(service: Service, page: gr.Blocks) -> None:
    """Add the tab's controls and pictures to `page`, served by `service`."""
    with gr.Row(elem_classes="workbench"):
        with gr.Column(scale=2, min_width=320):
            classes = gr.Dropdown(
                service.class_names,
                value=list(service.default_settings.class_names),
                multiselect=True,
                label="Classes",
                elem_classes="classes",
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
    inputs = controls.Inputs(classes, *plan.sliders, guidance_scale, num_images, *seed)
    controls.connect(service, handler(service), inputs, plan, buttons, results)
    controls.connect_visit(page, service, inputs, results, visit)


def handler(service: Service) -> Callable[..., Iterator[tuple]]:
    """Return what Generate calls."""

    def generate_class_conditional(
        class_names,
        heun,
        pseudo,
        refiner,
        guidance_scale,
        num_images,
        seed,
        randomise,
        request: gr.Request = None,
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
            request: who asks; the server knows.

        Returns:
            The pictures with their classes, the readout (HTML), the seed that was used, the
            trajectory (HTML) and, at the end, a record: settings, times in milliseconds,
            evaluations, speed-up.
        """
        yield from controls.shown(
            service.generate_class_conditional,
            class_names,
            heun,
            pseudo,
            refiner,
            guidance_scale,
            num_images,
            seed,
            randomise,
            None if request is None else request.session_hash,
        )

    return generate_class_conditional
