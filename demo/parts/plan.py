"""The plan: presets, sliders for the steps of each kind, a budget, or a text."""

import math
from collections.abc import Callable
from typing import NamedTuple

import gradio as gr

from demo.parts.run import HELPER, sentence
from demo.says import readout
from demo.service.service import Service
from flowturbo_core.plan import SamplePlan

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
    """The plan: presets, a slider for the steps of each kind by name, and whether they are live.

    `budget` chooses it by the milliseconds an image; `moves` counts what was changed while live.
    """

    preset: gr.Radio
    budget: gr.Slider
    steps: dict[str, gr.Slider]
    live: gr.Checkbox
    moves: gr.Number


class PlanText(NamedTuple):
    """A plan of any form: presets, and the text that they write."""

    preset: gr.Radio
    text: gr.Textbox


def add_plan_text(service: Service, plan: str, label: str, info: str) -> PlanText:
    """Add a plan that is written, or taken from the presets, and the line that says its cost."""
    with gr.Group(elem_classes="plan"):
        preset = _presets(service, service.read_plan(plan), label, info)
        text = gr.Textbox(
            plan, label=f"{label}, as text", show_label=False, max_lines=1, elem_classes="plan-text"
        )
        cost = _plan_cost(service, service.read_plan(plan))

    def describe(text: str) -> dict:
        line, chosen = _describe(service, lambda: service.read_plan(text))
        return {cost: line, preset: chosen}

    text.change(describe, text, [cost, preset], trigger_mode="always_last", **HELPER)
    preset.input(None, preset, text, js="(plan) => plan", **HELPER)
    return PlanText(preset, text)


def add_plan(service: Service, opening: SamplePlan) -> PlanControls:
    """Add the presets, the sliders, and the line that says what the plan costs; `opening` first."""
    menu = service.plans
    with gr.Group(elem_classes="plan"):
        about = f"{_SOLVERS[menu.solver][0]} While live, moving a slider samples the same seed "
        about += f"again.{menu.note}"
        preset = _presets(service, opening, "Sampling plan", about)
        budget = _budget_slider(service)
        steps = _steps_sliders(service, opening)
        with gr.Row(elem_classes="plan-foot"):
            cost = _plan_cost(service, opening)
            live = gr.Checkbox(True, label="Live", elem_classes="live", min_width=80)

    def describe(**counts: object) -> dict:
        line, chosen = _describe(service, lambda: menu.plan(counts))
        return {cost: line, preset: chosen, budget: update_budget(service, **counts)}

    gr.on(
        [slider.change for slider in steps.values()],
        describe,
        None,
        [cost, preset, budget],
        inputs_kwargs=dict(steps),
        preprocess=False,  # what is being typed may be out of range: the line says so
        trigger_mode="always_last",
        **HELPER,
    )
    moves = gr.Number(0, visible=False, label="Moves")
    return PlanControls(preset, budget, steps, live, moves)


def _budget_slider(service: Service) -> gr.Slider:
    return gr.Slider(
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


def _steps_sliders(service: Service, opening: SamplePlan) -> dict[str, gr.Slider]:
    menu, has_refiner = service.plans, service.model.has_refiner
    counts = menu.steps(opening)
    about = {
        "heun": _SOLVERS[menu.solver][1],
        "pseudo": "Reuse the last velocity: 1 predictor evaluation each.",
        "refiner": "A small network corrects the last velocity: almost free."
        if has_refiner
        else "This model has no refiner.",
    }
    return {
        name: gr.Slider(
            field.kind.low,
            field.kind.high,
            value=counts[name],
            step=1,
            label=field.words[:1].upper() + field.words[1:],
            info=about[name],
            buttons=[],
            interactive=has_refiner or name != "refiner",
            elem_classes=name,
        )
        for name, field in menu.fields.items()
    }


def update_budget(service: Service, **counts: object) -> gr.Slider:
    """Return the budget's slider at what the plan of these steps takes here, if that is known."""
    budget = service.budget
    if budget is None:
        return gr.skip()
    low, high = budget.limits
    step = 1 if high >= 50 else 0.1
    try:
        ms = budget.expected_ms(service.plans.plan(counts))
    except ValueError:  # no plan, which the line under the sliders says
        ms = None
    # Whatever the sliders say has a place; the ends are rounded so that both plans there can be
    # chosen.
    low, high = min(low, ms or low), max(high, ms or high)
    low, high = step * math.floor(low / step), step * math.ceil(high / step)
    value = low if ms is None else step * math.ceil(ms / step)
    # Visible, though it may not have been: tuning may have ended since the page was built.
    return gr.Slider(low, high, value=value, step=step, interactive=True, visible=True)


def _presets(service: Service, plan: SamplePlan, label: str, info: str) -> gr.Radio:
    return gr.Radio(
        service.plans.presets,
        value=_preset(service, plan),
        label=label,
        info=info,
        elem_classes="preset",
    )


def _describe(service: Service, read: Callable[[], SamplePlan]) -> tuple[str, str | None]:
    """Return the line that says what a plan costs, or why it is none, and its preset."""
    try:
        plan = read()
    except ValueError as error:
        return f'<p class="cost refused">{sentence(error)}</p>', None
    return readout.plan_cost(plan), _preset(service, plan)


def _plan_cost(service: Service, plan: SamplePlan) -> gr.HTML:
    """Add the line under a plan, which explains the presets above it, too."""
    return gr.HTML(
        readout.plan_cost(plan),
        js_on_load=_EXPLAINED_PRESETS,
        apply_default_css=False,
        elem_classes="plan-cost",
        words={item: readout.in_words(SamplePlan.parse(item)) for item in service.plans.presets},
    )


def _preset(service: Service, plan: SamplePlan) -> str | None:
    return str(plan) if str(plan) in service.plans.presets else None
