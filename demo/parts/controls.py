"""The groups of controls that every tab shares."""

import math
from collections.abc import Callable
from html import escape
from typing import NamedTuple

import gradio as gr
from gradio.components import Component

from demo.parts.class_picker import ClassPicker
from demo.says import readout
from demo.service.events import PlanSummary
from demo.service.service import GUIDANCE_SCALE, Service
from demo.service.slider_plans import PSEUDO_STEPS, REFINER_STEPS, SOLVER_STEPS
from flowturbo_core.models.catalog import CLASSES
from flowturbo_core.plan import SamplePlan

# Events that only move controls: no place in the queue, nothing in the API's documentation.
HELPER = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

ARCHIVE = "Download all (zip)"

# What is said of the presets, and of the steps, of each solver that the first slider can be of.
_SOLVERS = {
    "H": (
        "H8 is plain Heun, the others are FlowTurbo's.",
        "Accurate: 2 predictor evaluations each.",
    ),
    "E": (
        "Euler's steps alone, as InstaFlow takes them.",
        "Of the first order: 1 predictor evaluation each.",
    ),
}

_PRESSED_RUN = """element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-index]");
    if (button) trigger("select", { index: Number(button.dataset.index) });
});"""


# Says of each preset in plain words what its plan does.
_EXPLAINED_PRESETS = """
const plan = element.closest(".plan");
const explain = () => plan.querySelectorAll(".preset input").forEach((input) => {
    const words = props.words[input.value];
    input.parentElement.title = words;
    input.setAttribute("aria-description", words);
});
new MutationObserver(explain).observe(plan, { childList: true, subtree: true });
explain();
"""


class PlanControls(NamedTuple):
    """The plan: presets, three sliders for the steps of each kind, and whether they are live.

    `budget` chooses it by the milliseconds an image; `moves` counts what was changed while live.
    """

    preset: gr.Radio
    budget: gr.Slider
    heun: gr.Slider
    pseudo: gr.Slider
    refiner: gr.Slider
    live: gr.Checkbox
    moves: gr.Number

    @property
    def sliders(self) -> list[gr.Slider]:
        """The three sliders."""
        return [self.heun, self.pseudo, self.refiner]


class PlanText(NamedTuple):
    """A plan of any form: presets, and the text that they write."""

    preset: gr.Radio
    text: gr.Textbox


class SeedControls(NamedTuple):
    """The seed, and whether to draw a new one each time."""

    seed: gr.Number
    randomise: gr.Checkbox


class RunControls(NamedTuple):
    """The two buttons; `presses` counts those of the first."""

    generate: gr.Button
    stop: gr.Button
    presses: gr.Number


class Results(NamedTuple):
    """Where a request's results go, in the order its handler gives them; the seed comes third."""

    gallery: gr.Gallery
    readout: gr.HTML
    trajectory: gr.HTML
    record: gr.JSON
    latest: gr.State


class VisitControls(NamedTuple):
    """What remains of a visit's runs, and what takes their settings back."""

    runs: gr.State
    chart: gr.HTML
    archive: gr.DownloadButton
    picture: gr.UploadButton
    address: gr.Textbox


def class_picker(service: Service) -> ClassPicker:
    """Add the classes, the first ones chosen."""
    names = service.default_settings.class_names
    return ClassPicker(service.class_names, service.model.class_pictures, names)


def things(service: Service) -> Component:
    """Add what there are to be pictures of: classes to choose, or a prompt to write."""
    if service.TASK == CLASSES:
        return class_picker(service)
    with gr.Group():
        prompt = gr.Textbox(service.default_settings.prompts[0], label="Prompt", lines=2)
        warning = gr.HTML("", apply_default_css=False, elem_classes="warning")
    warn_of(service, warning, prompt)
    return prompt


def warn_of(service: Service, warning: gr.HTML, *texts: gr.Textbox) -> None:
    """Say in `warning` why the texts are refused, or what of them is not read.

    The boxes themselves have no limit: they would cut what is pasted without a word.
    """
    told = {"trigger_mode": "always_last", **HELPER}

    def hint(*written: str) -> str:
        return readout.hints(service.cut_warnings(*written))

    gr.on([text.change for text in texts], hint, texts, warning, **told)


def plan_text(service: Service, plan: str, label: str, info: str) -> PlanText:
    """Add a plan that is written, or taken from the presets, and the line that says its cost."""
    with gr.Group(elem_classes="plan"):
        preset = _presets(service, service.read_plan(plan), label, info)
        text = gr.Textbox(
            plan, label=f"{label}, as text", show_label=False, max_lines=1, elem_classes="plan-text"
        )
        cost = _plan_cost(service, service.read_plan(plan))

    def describe(text: str) -> tuple[str, str | None]:
        return _described(service, service.read_plan, text)

    text.change(describe, text, [cost, preset], trigger_mode="always_last", **HELPER)
    preset.input(None, preset, text, js="(plan) => plan", **HELPER)
    return PlanText(preset, text)


def plan_controls(service: Service) -> PlanControls:
    """Add the presets, the sliders, and the line that says what the plan costs."""
    counts, plans = service.default_counts, service.slider_plans
    summary = service.describe_plan(*counts)
    about_presets, about_steps = _SOLVERS[plans.solver]
    with gr.Group(elem_classes="plan"):
        preset = _presets(
            service,
            summary,
            "Sampling plan",
            f"{about_presets} While live, moving a slider samples the same seed again."
            f"{service.note}",
        )
        budget = gr.Slider(
            0,
            1,
            label="Milliseconds per image",
            info="Takes the most exact plan within them, of those found worth their time; told "
            "from what four images took here at the model's own guidance.",
            interactive=False,  # until it is known what plans take here
            visible=bool(service.front_plans),
            buttons=[],
            elem_classes="budget",
        )
        heun = gr.Slider(
            *SOLVER_STEPS,
            value=counts[0],
            step=1,
            label=f"{plans.solver_name} steps",
            info=about_steps,
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
        with gr.Row(elem_classes="plan-foot"):
            cost = _plan_cost(service, summary)
            live = gr.Checkbox(True, label="Live", elem_classes="live", min_width=80)
    moves = gr.Number(0, visible=False, label="Moves")
    controls = PlanControls(preset, budget, heun, pseudo, refiner, live, moves)

    def describe(*counts: object) -> tuple:
        return *_described(service, service.describe_plan, *counts), budgeted(service, *counts)

    gr.on(
        [slider.change for slider in controls.sliders],
        describe,
        controls.sliders,
        [cost, preset, budget],
        preprocess=False,  # what is being typed may be out of range: the line says so
        trigger_mode="always_last",
        **HELPER,
    )
    return controls


def budgeted(service: Service, *counts: object) -> gr.Slider:
    """Return the budget's slider at what the plan of these steps takes here, if that is known."""
    budget = service.budget
    if budget is None:
        return gr.skip()
    low, high = budget.limits
    step = 1 if high >= 50 else 0.1
    try:
        ms = budget.expected_ms(service.describe_plan(*counts))
    except ValueError:  # no plan, which the line under the sliders says
        ms = None
    # Whatever the sliders say has a place; the ends are rounded so that both plans there can be
    # chosen.
    low, high = min(low, ms or low), max(high, ms or high)
    low, high = step * math.floor(low / step), step * math.ceil(high / step)
    value = low if ms is None else step * math.ceil(ms / step)
    # Visible, though it may not have been: tuning may have ended since the page was built.
    return gr.Slider(low, high, value=value, step=step, interactive=True, visible=True)


def guidance_control(service: Service) -> gr.Slider:
    """Add the guidance scale."""
    thing = service.THING
    return gr.Slider(
        *GUIDANCE_SCALE,
        value=service.default_settings.guidance_scale,
        step=0.1,
        label="Guidance scale",
        info=f"How closely to follow the {thing}: 1 is none; 0 leaves the {thing} out.",
        buttons=[],
        elem_classes="guidance",
    )


def images_control(
    limits: tuple[int, int], label: str = "Images per class", value: int = 1
) -> gr.Slider:
    """Add the number of images of each thing asked for."""
    return gr.Slider(*limits, value=value, step=1, label=label, buttons=[], elem_classes="images")


def seed_controls(is_random: bool = True) -> SeedControls:
    """Add the seed; writing one means wanting that one."""
    with gr.Group(elem_classes="seed-row"):
        seed = gr.Number(0, label="Seed", elem_classes="seed")
        randomise = gr.Checkbox(
            is_random, label="Random", show_label=False, elem_classes="randomise"
        )
    seed.input(None, None, randomise, js="() => false")
    return SeedControls(seed, randomise)


def run_controls(label: str) -> RunControls:
    """Add the button that starts, and Stop, which has nothing to stop yet."""
    with gr.Row(elem_classes="run"):
        generate = gr.Button(label, variant="primary", size="lg", scale=3, elem_classes="generate")
        stop = gr.Button(
            "Stop", variant="stop", size="lg", interactive=False, min_width=96, elem_classes="stop"
        )
    return RunControls(generate, stop, gr.Number(0, visible=False, label="Presses"))


def results(service: Service) -> Results:
    """Add the readout, the pictures, and what is known of them."""
    example = service.example
    opening = readout.idle() if example is None else readout.finished(example.done, example)
    text = gr.HTML(opening, label="Readout", apply_default_css=False, elem_classes="readout")
    # A box of fixed height, so that nothing jumps while previews stream; none while it is empty,
    # but for the moment until the example is there.
    gallery = gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=4,
        height="var(--gallery-height)",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        interactive=False,
        elem_classes=["gallery", *([] if example is None else ["awaited"])],
    )
    trajectory = gr.HTML(readout.no_trajectory(), label="Trajectory", apply_default_css=False)
    record = gr.JSON(label="Record", visible=False)
    return Results(gallery, text, trajectory, record, gr.State(None))


def visit_controls(service: Service) -> VisitControls:
    """Add the archive of the last run, where pictures go back, and the visit's runs."""
    with gr.Row(elem_classes="files"):
        archive = gr.DownloadButton(ARCHIVE, interactive=False, size="md", elem_classes="archive")
        picture = gr.UploadButton(
            "Settings from a picture",
            file_types=[".png"],
            size="md",
            elem_classes=["restore", f"of-{service.default_settings.THINGS}"],
        )
    gr.HTML(
        '<p class="hint">Every picture made here carries its settings: drop it anywhere on the '
        'page, and they are back. So does the address.<span class="keys"> '
        "Ctrl+Enter generates, Esc stops.</span></p>",
        apply_default_css=False,
    )
    runs = gr.HTML(
        readout.visit([]), js_on_load=_PRESSED_RUN, apply_default_css=False, elem_classes="runs"
    )
    address = gr.Textbox(visible=False, label="Address")
    return VisitControls(gr.State([]), runs, archive, picture, address)


def sentence(error: Exception) -> str:
    """Return what an error says, for a page that takes it for HTML."""
    text = escape(str(error), quote=False)
    return text[:1].upper() + text[1:]


def _presets(service: Service, summary: PlanSummary, label: str, info: str) -> gr.Radio:
    return gr.Radio(
        service.presets,
        value=_preset(service, summary),
        label=label,
        info=info,
        elem_classes="preset",
    )


def _described(
    service: Service, read: Callable[..., PlanSummary], *values: object
) -> tuple[str, str | None]:
    """Return the line that says what a plan costs, or why it is none, and its preset."""
    try:
        summary = read(*values)
    except ValueError as error:
        return f'<p class="cost refused">{sentence(error)}</p>', None
    return readout.plan_cost(summary), _preset(service, summary)


def _plan_cost(service: Service, summary: PlanSummary) -> gr.HTML:
    """Add the line under a plan, which explains the presets above it, too."""
    return gr.HTML(
        readout.plan_cost(summary),
        js_on_load=_EXPLAINED_PRESETS,
        apply_default_css=False,
        elem_classes="plan-cost",
        words={plan: readout.in_words(SamplePlan.parse(plan)) for plan in service.presets},
    )


def _preset(service: Service, summary: PlanSummary) -> str | None:
    return summary.plan if summary.plan in service.presets else None
