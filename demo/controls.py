"""The groups of controls that every tab shares, and how Generate and Stop are wired."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from html import escape
from inspect import getdoc
from typing import NamedTuple

import gradio as gr
from gradio.components import Component

from demo.pictures import png_file
from demo.service import (
    GUIDANCE_SCALE,
    HEUN_STEPS,
    NUM_IMAGES,
    PSEUDO_STEPS,
    REFINER_STEPS,
    Done,
    PlanSummary,
    Preview,
    Service,
)

# Every event that computes shares this: one at a time on the accelerator, the others wait.
GPU = {"concurrency_id": "gpu", "concurrency_limit": 1}
# Events that only move controls: no place in the queue, nothing in the API's documentation.
HELPER = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

# On a narrow page the pictures are below the controls: go there.
_SHOW_READOUT = """() => {
    if (!matchMedia("(max-width: 900px)").matches) return;
    const shown = [...document.querySelectorAll(".readout")].find((e) => e.offsetParent);
    shown.scrollIntoView({ behavior: "smooth" });
}"""

_BAR = '<div class="bar">'  # only a readout of work in progress has one


class PlanControls(NamedTuple):
    """Three sliders: how many steps of each kind."""

    heun: gr.Slider
    pseudo: gr.Slider
    refiner: gr.Slider


class SeedControls(NamedTuple):
    """The seed, and whether to draw a new one each time."""

    seed: gr.Number
    randomise: gr.Checkbox


class RunControls(NamedTuple):
    """The two buttons."""

    generate: gr.Button
    stop: gr.Button


def plan_controls(service: Service) -> PlanControls:
    """Add the presets, the sliders, and the line that says what the plan costs."""
    counts = service.default_counts
    summary = service.describe_plan(*counts)
    with gr.Group(elem_classes="plan"):
        preset = gr.Radio(
            service.presets,
            value=_preset(service, summary),
            label="Sampling plan",
            info="Presets from the FlowTurbo paper; H8 is plain Heun.",
            elem_classes="preset",
        )
        heun = gr.Slider(
            *HEUN_STEPS,
            value=counts[0],
            step=1,
            label="Heun steps",
            info="Accurate: 2 predictor evaluations each.",
            buttons=[],
            elem_classes="heun",
        )
        pseudo = gr.Slider(
            *PSEUDO_STEPS,
            value=counts[1],
            step=1,
            label="Pseudo-corrector steps",
            info="Reuse the last velocity: 1 predictor evaluation each.",
            buttons=[],
            elem_classes="pseudo",
        )
        refiner = gr.Slider(
            *REFINER_STEPS,
            value=counts[2],
            step=1,
            label="Refiner steps",
            info="A small network corrects the last velocity: almost free."
            if service.has_refiner
            else "This model has no refiner.",
            buttons=[],
            interactive=service.has_refiner,
            elem_classes="refiner",
        )
        cost = gr.HTML(_cost(summary), apply_default_css=False, elem_classes="plan-cost")
    controls = PlanControls(heun, pseudo, refiner)

    def describe(*counts: object) -> tuple[str, str | None]:
        try:
            summary = service.describe_plan(*counts)
        except ValueError as error:
            return f'<p class="cost refused">{escape(_sentence(error))}</p>', None
        return _cost(summary), _preset(service, summary)

    # `input` is a person's choice only, so that sliders and presets do not chase each other.
    preset.input(service.step_counts, preset, list(controls), **HELPER)
    gr.on(
        [slider.change for slider in controls],
        describe,
        list(controls),
        [cost, preset],
        trigger_mode="always_last",
        **HELPER,
    )
    return controls


def guidance_control(service: Service) -> gr.Slider:
    """Add the guidance scale."""
    return gr.Slider(
        *GUIDANCE_SCALE,
        value=service.default_guidance_scale,
        step=0.1,
        label="Guidance scale",
        info="How closely to follow the class; 1 is none.",
        buttons=[],
        elem_classes="guidance",
    )


def images_control(label: str) -> gr.Slider:
    """Add the number of images."""
    return gr.Slider(*NUM_IMAGES, value=1, step=1, label=label, buttons=[], elem_classes="images")


def seed_controls() -> SeedControls:
    """Add the seed; writing one means wanting that one."""
    with gr.Group(elem_classes="seed-row"):
        seed = gr.Number(0, label="Seed", elem_classes="seed")
        randomise = gr.Checkbox(True, label="Random", show_label=False, elem_classes="randomise")
    seed.input(None, None, randomise, js="() => false")
    return SeedControls(seed, randomise)


def run_controls() -> RunControls:
    """Add Generate, and Stop, which has nothing to stop yet."""
    with gr.Row(elem_classes="run"):
        generate = gr.Button("Generate", variant="primary", size="lg", scale=3)
        stop = gr.Button("Stop", variant="stop", size="lg", interactive=False, min_width=96)
    return RunControls(generate, stop)


def readout() -> gr.HTML:
    """Add the readout."""
    return gr.HTML(idle_readout(), label="Readout", apply_default_css=False, elem_classes="readout")


def gallery() -> gr.Gallery:
    """Add the pictures: a box of fixed height, so that nothing jumps while previews stream."""
    return gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=4,
        height="var(--gallery-height)",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        interactive=False,
        elem_classes="gallery",
    )


def shown(ask: Callable[..., Iterator[Preview | Done]], *values: object) -> Iterator[tuple]:
    """Ask the service, and turn its events into (gallery, readout, seed).

    A refusal becomes the sentence the page shows. Closing this closes the service's iterator.
    """
    try:
        with closing(ask(*values)) as events:
            for event in events:
                files = map(png_file, event.pictures)
                pictures = list(zip(files, event.captions, strict=True))
                text = done_readout(event) if isinstance(event, Done) else progress_readout(event)
                yield pictures, text, event.seed
    except (ValueError, FloatingPointError) as error:
        raise gr.Error(_sentence(error), print_exception=False) from error


def connect(
    buttons: RunControls,
    generate: Callable,
    inputs: Sequence[Component],
    outputs: Sequence[Component],
    readout: gr.HTML,
) -> None:
    """Make Generate run the generator `generate`, under its own name in the API, and Stop end it.

    Inputs reach it unchecked, as the core wants them: Gradio would round some of them.
    """
    both = list(buttons)
    # First the buttons: a click's listeners run one after the other, in this order.
    buttons.generate.click(None, None, both, js=_set_interactive(False, True))
    buttons.generate.click(None, None, None, js=_SHOW_READOUT)
    event = buttons.generate.click(
        generate,
        inputs,
        outputs,
        api_name=generate.__name__,
        api_description=getdoc(generate),  # all of it: Gradio alone would leave the ranges out
        preprocess=False,
        show_progress="full",
        show_progress_on=readout,
        **GPU,
    )
    for ended in (event.success, event.failure, buttons.stop.click):
        ended(None, None, both, js=_set_interactive(True, False))
    event.failure(interrupted_readout, readout, readout, **HELPER)
    buttons.stop.click(interrupted_readout, readout, readout, cancels=[event], **HELPER)


def _set_interactive(*flags: bool) -> str:
    updates = (f"{{__type__: 'update', interactive: {str(flag).lower()}}}" for flag in flags)
    return f"() => [{', '.join(updates)}]"


def idle_readout() -> str:
    """Return the readout before the first request."""
    return _readout("Ready", "", "Choose a plan, press Generate, and see what each picture costs.")


def interrupted_readout(html: str) -> str:
    """Return the readout after a request was stopped or failed, from what it said before."""
    if _BAR not in html:  # the request never got to its first block
        return html
    return _readout("Stopped", "", "The pictures show how far sampling came.")


def progress_readout(preview: Preview) -> str:
    """Return the readout while blocks are computed."""
    share = 100 * preview.block / preview.num_blocks
    return _readout(
        f"{preview.block}",
        f"of {preview.num_blocks} blocks",
        f"Last block: {preview.kind}",
        f'{_BAR}<div style="width: {share:.0f}%"></div></div>',
    )


def done_readout(done: Done) -> str:
    """Return the readout of finished images: milliseconds, evaluations, speed-up."""
    total, decoding = done.timing.ms_per_image, done.timing.decode_ms_per_image
    facts = (
        done.plan.plan,
        f"sampling {_ms(total - decoding)} + decoding {_ms(decoding)} ms",
        _evaluations(done.plan),
    )
    badge = ""
    if done.speed_up is not None:
        baseline = f"H{done.plan.num_blocks} ({_ms(done.heun_ms_per_image)} ms)"
        badge = f'<span class="badge">{done.speed_up:.1f}× as fast as {baseline}</span>'
    return _readout(_ms(total), "ms / image", " · ".join(facts), badge)


def _readout(number: str, unit: str, text: str, extra: str = "") -> str:
    return (
        f'<div class="card"><p class="headline"><b>{escape(number)}</b> {escape(unit)}</p>'
        f'{extra}<p class="facts">{escape(text)}</p></div>'
    )


def _preset(service: Service, summary: PlanSummary) -> str | None:
    return summary.plan if summary.plan in service.presets else None


def _cost(summary: PlanSummary) -> str:
    blocks = "1 block" if summary.num_blocks == 1 else f"{summary.num_blocks} blocks"
    text = f"{blocks}, {_evaluations(summary)}"
    return f'<p class="cost"><code>{escape(summary.plan)}</code> {escape(text)}</p>'


def _evaluations(summary: PlanSummary) -> str:
    kinds = ((summary.predictor_evaluations, "predictor"), (summary.refiner_evaluations, "refiner"))
    return " + ".join(f"{n} {kind}" for n, kind in kinds if n) + " evaluations"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
