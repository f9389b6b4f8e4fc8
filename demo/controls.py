"""The groups of controls that every tab shares, and how a request is started, stopped, restored."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from html import escape
from inspect import getdoc
from typing import NamedTuple

import gradio as gr
from gradio.components import Component

from demo import readout
from demo.metadata import Settings
from demo.pictures import png_file, zip_file
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
from flowturbo_core.devices import VERSIONS

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
# Generate and Stop, by whether something runs.
_BUTTONS = """((running) => [!running, running]
    .map((interactive) => ({ __type__: "update", interactive })))"""
_RUNNING = f"() => {_BUTTONS}(true)"
_IDLE = f"() => {_BUTTONS}(false)"
_AS_READOUT = f"(html) => {_BUTTONS}(html.includes({json.dumps(readout.BAR)}))"
# At once and in the browser: an answer from the server could come after the next result.
_INTERRUPTED = f"""(html) => html.includes({json.dumps(readout.BAR)})
    ? {json.dumps(readout.interrupted())} : html"""
# Counts how often a plan was changed while live; a change of the count samples.
_MOVED = "(live, moves) => live ? moves + 1 : moves"
# The address always says what is shown, so that it can be kept and passed on.
_FOLLOW_ADDRESS = """(record) => {
    if (record) history.replaceState(null, "", "?" + record.query + location.hash);
}"""
_READ_ADDRESS = "() => [location.search.slice(1)]"
_PRESSED_RUN = """element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-index]");
    if (button) trigger("select", { index: Number(button.dataset.index) });
});"""

_MAX_RUNS = 50  # that a visit remembers
_MAX_STRIPS = 8  # pictures of a run whose trajectory is kept


class PlanControls(NamedTuple):
    """The plan: presets, three sliders for the steps of each kind, and whether they are live.

    `moves` counts what was changed while they were.
    """

    preset: gr.Radio
    heun: gr.Slider
    pseudo: gr.Slider
    refiner: gr.Slider
    live: gr.Checkbox
    moves: gr.Number

    @property
    def sliders(self) -> list[gr.Slider]:
        """The three sliders."""
        return [self.heun, self.pseudo, self.refiner]


class SeedControls(NamedTuple):
    """The seed, and whether to draw a new one each time."""

    seed: gr.Number
    randomise: gr.Checkbox


class RunControls(NamedTuple):
    """The two buttons."""

    generate: gr.Button
    stop: gr.Button


class Inputs(NamedTuple):
    """What a class-conditional request is made of, in the order its handler takes them."""

    class_names: Component
    heun: gr.Slider
    pseudo: gr.Slider
    refiner: gr.Slider
    guidance_scale: gr.Slider
    num_images: gr.Slider
    seed: gr.Number
    randomise: gr.Checkbox


class Results(NamedTuple):
    """Where a request's results go, in the order its handler gives them; the seed comes third."""

    gallery: gr.Gallery
    readout: gr.HTML
    trajectory: gr.HTML
    record: gr.JSON
    latest: gr.State


_UNCHANGED = (gr.skip(),) * (1 + len(Results._fields))


class VisitControls(NamedTuple):
    """What remains of a visit's runs, and what takes their settings back."""

    runs: gr.State
    chart: gr.HTML
    archive: gr.DownloadButton
    picture: gr.File
    address: gr.Textbox


@dataclass(frozen=True)
class Result:
    """A finished request, for what the page does with it afterwards.

    Args:
        run: what the list of runs shows.
        files: its pictures.
        trajectories: the strip of each of its first pictures.
    """

    run: readout.Run
    files: tuple[str, ...]
    trajectories: tuple[str, ...]


def plan_controls(service: Service) -> PlanControls:
    """Add the presets, the sliders, and the line that says what the plan costs."""
    counts = service.default_counts
    summary = service.describe_plan(*counts)
    with gr.Group(elem_classes="plan"):
        preset = gr.Radio(
            service.presets,
            value=_preset(service, summary),
            label="Sampling plan",
            info="Presets from the FlowTurbo paper; H8 is plain Heun. While live, moving a slider "
            f"samples the same seed again.{service.note}",
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
        with gr.Row(elem_classes="plan-foot"):
            cost = gr.HTML(
                readout.plan_cost(summary), apply_default_css=False, elem_classes="plan-cost"
            )
            live = gr.Checkbox(True, label="Live", elem_classes="live", min_width=80)
    moves = gr.Number(0, visible=False, label="Moves")
    controls = PlanControls(preset, heun, pseudo, refiner, live, moves)

    def describe(*counts: object) -> tuple[str, str | None]:
        try:
            summary = service.describe_plan(*counts)
        except ValueError as error:
            return f'<p class="cost refused">{_sentence(error)}</p>', None
        return readout.plan_cost(summary), _preset(service, summary)

    gr.on(
        [slider.change for slider in controls.sliders],
        describe,
        controls.sliders,
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
        generate = gr.Button(
            "Generate", variant="primary", size="lg", scale=3, elem_classes="generate"
        )
        stop = gr.Button(
            "Stop", variant="stop", size="lg", interactive=False, min_width=96, elem_classes="stop"
        )
    return RunControls(generate, stop)


def results() -> Results:
    """Add the readout, the pictures, and what is known of them."""
    text = gr.HTML(readout.idle(), label="Readout", apply_default_css=False, elem_classes="readout")
    # A box of fixed height, so that nothing jumps while previews stream.
    gallery = gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=4,
        height="var(--gallery-height)",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        interactive=False,
        elem_classes="gallery",
    )
    trajectory = gr.HTML(readout.no_trajectory(), label="Trajectory", apply_default_css=False)
    record = gr.JSON(label="Record", visible=False)
    return Results(gallery, text, trajectory, record, gr.State(None))


def visit_controls() -> VisitControls:
    """Add the chart of the visit's runs, the archive of the last, and where pictures go back."""
    with gr.Row(elem_classes="files"):
        archive = gr.DownloadButton("Download all (zip)", interactive=False, size="sm")
        picture = gr.File(
            label="A picture made here brings its settings back",
            file_types=[".png"],
            height=104,
            elem_classes="drop",
        )
    chart = gr.HTML(
        readout.visit([]), js_on_load=_PRESSED_RUN, apply_default_css=False, elem_classes="runs"
    )
    address = gr.Textbox(visible=False, label="Address")
    return VisitControls(gr.State([]), chart, archive, picture, address)


def shown(ask: Callable[..., Iterator[Preview | Done]], *values: object) -> Iterator[tuple]:
    """Ask the service, and turn its events into what `Results` and, third, the seed show.

    A refusal becomes the sentence the page shows. Closing this closes the service's iterator.
    """
    previews: list[Preview] = []
    thumbnails: list[tuple[str, ...]] = []  # each encoded once, however often it is shown
    try:
        with closing(ask(*values)) as events:
            for event in events:
                if isinstance(event, Done):
                    yield _finished(event, previews, thumbnails)
                    return
                previews.append(event)
                thumbnails.append(readout.thumbnails(event, _MAX_STRIPS))
                files = [png_file(picture) for picture in event.pictures]
                pictures = list(zip(files, event.captions, strict=True))
                text = readout.in_progress(event)
                strip = readout.trajectory(previews, thumbnails, 0)
                yield pictures, text, event.settings.seed, strip, None, None
            if not previews:  # interrupted at once; yielding nothing would empty the page
                yield _UNCHANGED
    except (ValueError, FloatingPointError) as error:
        raise gr.Error(_sentence(error), print_exception=False) from error


def _finished(
    done: Done, previews: Sequence[Preview], thumbnails: Sequence[tuple[str, ...]]
) -> tuple:
    files = []
    for k, picture in enumerate(done.pictures):
        settings = done.settings.of_picture(k)
        name = f"{settings.class_names[0]}-{settings.plan}-{settings.seed}"
        safe = re.sub(r"[^\w-]+", "-", name)[:80]
        files.append(png_file(picture, safe, settings.png_info(VERSIONS)))
    strips = tuple(
        readout.trajectory(previews, thumbnails, k) for k in range(min(len(files), _MAX_STRIPS))
    )
    result = Result(readout.Run.of(done), tuple(files), strips)
    pictures = list(zip(files, done.captions, strict=True))
    text, record = readout.finished(done), readout.record(done)
    return pictures, text, done.settings.seed, strips[0], record, result


def connect(
    service: Service,
    generate: Callable[..., Iterator[tuple]],
    inputs: Inputs,
    plan: PlanControls,
    buttons: RunControls,
    results: Results,
) -> None:
    """Make Generate run the generator `generate`, under its own name in the API, and Stop end it.

    So do the plan's controls, while they are live, with the seed that is there. Inputs reach it
    unchecked, as the core wants them: Gradio would round some of them.
    """
    both = list(buttons)
    computing = {
        "inputs": list(inputs),
        "outputs": [*results[:2], inputs.seed, *results[2:]],
        "preprocess": False,
        "show_progress": "full",
        "show_progress_on": results.readout,
        **GPU,
    }
    # First the buttons: a click's listeners run one after the other, in this order.
    buttons.generate.click(None, None, both, js=_RUNNING)
    buttons.generate.click(None, None, None, js=_SHOW_READOUT)
    run = buttons.generate.click(
        generate,
        api_name=generate.__name__,
        api_description=getdoc(generate),  # all of it: Gradio alone would leave the ranges out
        **computing,
    )

    def again(request: gr.Request, *values: object) -> Iterator[tuple]:
        *asked, _ = values
        yield from generate(*asked, False, request)

    def interrupt(request: gr.Request) -> None:
        service.interrupt(request.session_hash)

    # `input` is a person's choice only, so that sliders and presets do not chase each other.
    chosen = plan.preset.input(service.step_counts, plan.preset, plan.sliders, **HELPER)
    let_go = {"fn": None, "inputs": [plan.live, plan.moves], "outputs": plan.moves, "js": _MOVED}
    gr.on([slider.release for slider in plan.sliders], **let_go)
    chosen.then(**let_go)
    # What is under way is ended first: of several requests, the last one counts.
    moved = plan.moves.change(interrupt, None, None, **HELPER)
    moved.then(None, None, both, js=_RUNNING)
    sampled = moved.then(again, trigger_mode="always_last", api_visibility="private", **computing)
    runs = [run, sampled]
    # What the readout says decides what can be pressed, rather than that a request ended: one that
    # was overtaken ends while the one that overtook it runs.
    results.readout.change(None, results.readout, both, js=_AS_READOUT)
    for event in runs:
        event.failure(None, None, both, js=_IDLE)
        event.failure(None, results.readout, results.readout, js=_INTERRUPTED)
    buttons.stop.click(None, None, both, js=_IDLE)
    buttons.stop.click(None, results.readout, results.readout, js=_INTERRUPTED, cancels=runs)


def connect_visit(
    page: gr.Blocks,
    service: Service,
    inputs: Inputs,
    results: Results,
    visit: VisitControls,
) -> None:
    """Remember what was made, and take settings back: of a run, a picture, or the address."""
    unchanged = (gr.skip(),) * len(inputs)

    def remember(latest: Result | None, runs: list[readout.Run]) -> tuple:
        if latest is None or (runs and runs[-1] is latest.run):
            return gr.skip(), gr.skip(), gr.skip()
        runs = [*runs, latest.run][-_MAX_RUNS:]
        settings = latest.run.settings
        name = f"flowturbo-{settings.plan}-{settings.seed}"
        archive = zip_file(latest.files, name, asdict(settings))
        return runs, readout.visit(runs), gr.DownloadButton(value=archive, interactive=True)

    def strip_of(latest: Result | None, picked: gr.SelectData) -> str:
        if latest is None or picked.index >= len(latest.trajectories):
            return gr.skip()
        return latest.trajectories[picked.index]

    def values_of(settings: Settings) -> tuple:
        counts = service.counts_of(settings)
        return (
            list(settings.class_names),
            *counts,
            settings.guidance_scale,
            settings.num_images,
            settings.seed,
            False,
        )

    def from_run(runs: list[readout.Run], pressed: gr.EventData) -> tuple:
        index = pressed.index
        if not isinstance(index, int) or not 0 <= index < len(runs):
            return unchanged
        return values_of(runs[index].settings)

    def read(source: Callable[..., Settings], *arguments: object) -> tuple:
        try:
            return values_of(source(*arguments))
        except ValueError as error:
            gr.Warning(_sentence(error))
            return unchanged

    def from_picture(file: str) -> tuple:
        return *read(Settings.from_png, file), None  # and room for the next

    def from_address(query: str) -> tuple:
        return read(Settings.from_query, query, service.default_settings) if query else unchanged

    results.latest.change(
        remember, [results.latest, visit.runs], [visit.runs, visit.chart, visit.archive], **HELPER
    )
    results.record.change(None, results.record, None, js=_FOLLOW_ADDRESS)
    results.gallery.select(strip_of, results.latest, results.trajectory, **HELPER)
    visit.chart.select(from_run, visit.runs, list(inputs), **HELPER)
    warning = HELPER | {"queue": True}  # what warns must be in the queue
    visit.picture.upload(from_picture, visit.picture, [*inputs, visit.picture], **warning)
    page.load(from_address, visit.address, list(inputs), js=_READ_ADDRESS, **warning)


def _preset(service: Service, summary: PlanSummary) -> str | None:
    return summary.plan if summary.plan in service.presets else None


def _sentence(error: Exception) -> str:
    """Return what an error says, for a page that takes it for HTML."""
    text = escape(str(error), quote=False)
    return text[:1].upper() + text[1:]
