"""The tab that makes images of a text."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import gradio as gr

from demo import api
from demo.parts import controls, panes
from demo.service.service import NUM_IMAGES
from demo.service.text_service import EXAMPLES, TextService
from demo.wiring import live
from demo.wiring.visit import connect_visit
from flowturbo_core.metadata import TextSettings, model_in
from flowturbo_core.requests import MAX_TEXT

# Counts what was written while live, once the writing has paused: of several at once, the last.
_PAUSE_MS = 450
_TYPED = f"""(live, typed, ...texts) => new Promise((resolve) => setTimeout(() => {{
    const boxes = [".prompt", ".negative-prompt"].map((name) =>
        [...document.querySelectorAll(`${{name}} textarea`)].find((box) => box.offsetParent));
    const isLast = boxes.every((box, k) => box?.value === texts[k]);
    // page.js notes what was in a box when something was last made of it.
    const inOneLine = (text) => text.trim().split(/\\s+/).join(" ");
    const isNew = () => boxes.some(({{ value, dataset: {{ acted = value }} }}) =>
        inOneLine(value) !== inOneLine(acted));
    const fits = texts[0].trim() && texts.every((text) => [...text].length <= {MAX_TEXT});
    const acts = live && isLast && fits && isNew();
    if (acts) for (const box of boxes) box.dataset.acted = box.value;
    resolve(acts ? typed + 1 : {{ __type__: "update" }});
}}, {_PAUSE_MS}))"""


class TextControls(NamedTuple):
    """What to show, and what to lead away from.

    `pressed` counts the examples that were chosen, `typed` the texts that were written while live.
    """

    prompt: gr.Textbox
    negative_prompt: gr.Textbox
    pressed: gr.Number
    typed: gr.Number


def build(services: Sequence[TextService], page: gr.Blocks, takes: Callable[[str], bool]) -> None:
    """Add controls and pictures of each model, and what chooses one; programs reach the first.

    `takes` tells whether an address's query is for this tab.
    """
    pane = partial(_build_pane, page=page, siblings=services, is_for_texts=takes)
    panes.build(services, page, pane)


def _build_pane(
    service: TextService,
    page: gr.Blocks,
    siblings: Sequence[TextService],
    is_for_texts: Callable[[str], bool],
) -> None:
    default = service.default_settings
    with gr.Row(elem_classes="workbench"):
        with gr.Column(scale=2, min_width=320):
            texts = text_controls(service)
            plan = controls.plan_controls(service)
            with gr.Group():
                guidance_scale = controls.guidance_control(service)
                num_images = controls.images_control(NUM_IMAGES, "Images", default.num_images)
                with gr.Row():
                    height, width = (
                        side_control(name, getattr(default, name.lower()), service.model.factor)
                        for name in ("Height", "Width")
                    )
            seed = controls.seed_controls()
            buttons = controls.run_controls("Generate")
        with gr.Column(scale=3, min_width=320):
            results = controls.results(service)
            visit = controls.visit_controls(service)
    # In the order in which the handler takes them.
    inputs = [*texts[:2], *plan.sliders, guidance_scale, height, width, num_images, *seed]

    def values_of(settings: TextSettings) -> tuple:
        request, counts = service.restored(settings)
        asked = request.prompts[0], request.negative_prompt, *counts, request.guidance_scale
        return *asked, request.height, request.width, request.num_images, request.seed, False

    ask = service.generate_text_to_image
    ways = (texts.typed, ask), (texts.pressed, partial(ask, is_example=True))
    live.connect(
        service, f"text-to-image {service.name}", ask, inputs, plan, buttons, results, ways
    )
    paused = {"js": _TYPED, "trigger_mode": "multiple", **controls.HELPER}
    for text in texts[:2]:
        text.input(None, [plan.live, texts.typed, *texts[:2]], texts.typed, **paused)

    def takes(query: str) -> bool:
        model, others = model_in(query), [its.name for its in siblings[1:]]
        is_own = model not in others if service is siblings[0] else model == service.name
        return is_own and is_for_texts(query)

    connect_visit(page, service, values_of, inputs, plan, results, visit, takes)
    live.connect_budget(page, service, plan)
    live.connect_example(page, service, results)
    if service is siblings[0]:
        api.publish(handler(service), arguments(service), ["Pictures"])


def text_controls(service: TextService) -> TextControls:
    """Add the prompt, the examples that fill it, and the negative prompt."""
    with gr.Group(elem_classes="texts"):
        prompt = gr.Textbox(
            service.default_settings.prompts[0],
            label="Prompt",
            placeholder=EXAMPLES[0],
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
        examples = gr.Radio(list(EXAMPLES), label="Examples", elem_classes="preset examples")
        warning = gr.HTML("", apply_default_css=False, elem_classes="warning")
    pressed = gr.Number(0, visible=False, label="Examples pressed")
    # Chosen no longer, so that it can be pressed again.
    both = {"inputs": [examples, pressed], "outputs": [prompt, examples, pressed]}
    examples.input(None, **both, js="(text, pressed) => [text, null, pressed + 1]")
    controls.warn_of(service, warning, prompt, negative_prompt)
    typed = gr.Number(0, visible=False, label="Texts typed")
    return TextControls(prompt, negative_prompt, pressed, typed)


def side_control(label: str, value: int, factor: int) -> gr.Slider:
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


def arguments(service: TextService) -> api.Arguments:
    """Return the default and the JSON schema of each of the handler's arguments."""
    things, sizes = api.prompts(service), api.sizes(service)
    return api.arguments(things, api.steps(service), service, NUM_IMAGES, sizes)


def handler(service: TextService) -> Callable[..., Iterator[tuple]]:
    """Return what programs call; its docstring documents the API, to people and to MCP."""

    def generate_text_to_image(
        prompt,
        negative_prompt,
        heun,
        pseudo,
        refiner,
        guidance_scale,
        height,
        width,
        num_images,
        seed,
        randomise,
    ):
        """Generate images of a text; streams a preview after every block, then the result.

        Args:
            prompt: what to show, at most 2000 characters.
            negative_prompt: what guidance leads away from; may be empty.
            heun: Heun steps, or Euler steps if the model's own plan is of these; from 0 to 24.
            pseudo: pseudo-corrector steps, a whole number from 0 to 24.
            refiner: refiner steps, a whole number from 0 to 8.
            guidance_scale: classifier-free guidance, a number from 0 to 15; 1 is none; 0 leaves
                the prompt out.
            height: in pixels, a multiple of 8 up to 2048.
            width: in pixels, a multiple of 8 up to 2048.
            num_images: images of the text, a whole number from 1 to 8.
            seed: a whole number from 0 to 4294967295; image k draws its noise from seed + k.
            randomise: true to draw a seed and leave the given one unused.

        A value that is left out, or null over HTTP, is the default.

        Returns:
            The pictures with their text (PNG, with their settings in them) and, at the end, a
            record: settings, times in milliseconds, evaluations, speed-up.
        """
        yield from api.answered(
            service,
            service.generate_text_to_image,
            api.pictures_and_record,
            2,
            prompt,
            negative_prompt,
            heun,
            pseudo,
            refiner,
            guidance_scale,
            height,
            width,
            num_images,
            seed,
            randomise,
        )

    return generate_text_to_image
