"""The tab that runs two plans from the same noise, side by side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import gradio as gr
from pandas import DataFrame

from demo import api
from demo.parts import controls, panes
from demo.parts.controls import HELPER, sentence
from demo.says import comparison, readout
from demo.says.pictures import REMOVED, Difference, are_kept, captioned, png_file, setting_files
from demo.service.events import Advanced, Comparison, Stopped
from demo.service.service import NUM_COMPARED, Service
from demo.wiring import runs
from flowturbo_core.files import Unwritable
from flowturbo_core.models.catalog import CLASSES
from flowturbo_core.models.front import Front

_CHART_HEIGHT = 300
_ROOM = 1.08  # beyond the last dot, which would be cut in half


class Told(NamedTuple):
    """What a comparison's handler gives, in this order; the seed comes third."""

    readout: gr.HTML
    figures: gr.HTML
    chart: gr.ScatterPlot
    note: gr.HTML
    pairs: gr.State


class Pictures(NamedTuple):
    """Where the pictures of a comparison are shown."""

    slider: gr.ImageSlider
    difference: gr.Gallery
    first: gr.Gallery
    second: gr.Gallery


_UNCHANGED = (gr.skip(),) * (1 + len(Told._fields))


@dataclass(frozen=True, eq=False)  # Gradio hashes what it keeps
class Pairs:
    """The pictures as files, for whichever pair a person wants to look at.

    Args:
        plans: the plans that have pictures: the first alone, at the very beginning, then both.
        files: the pictures of each of them.
        captions: what each picture is of.
        differences: the difference of each pair, with what is to be said of it.
        label: what all of the differences are.
    """

    plans: tuple[str, ...]
    files: tuple[Sequence[str], ...]
    captions: tuple[str, ...]
    differences: Sequence[tuple[str, str]] = ()
    label: str = "Difference"

    @classmethod
    def of(cls, made: Comparison, difference: Difference | None) -> "Pairs":
        """Write the pictures of a comparison; `difference` is None while it has one plan's."""
        pairs = cls(
            tuple(side.plan.plan for side in made.sides),
            tuple(_files(made, k) for k in range(len(made.sides))),
            made.captions,
        )
        if difference is None:
            return pairs
        label = f"Difference × {difference.factor}"
        return replace(pairs, differences=_differences(made, difference), label=label)

    def shown(self, index: int) -> tuple[gr.ImageSlider, gr.Gallery]:
        """Return what slider and difference show of pair `index`."""
        pair = tuple(files[index] for files in self.files)
        return (
            gr.ImageSlider(pair, label=" | ".join(self.plans)),
            gr.Gallery([self.differences[index]], label=self.label),
        )


def build(services: Sequence[Service], page: gr.Blocks) -> None:
    """Add controls and results of each model, the first in view, and what chooses another."""
    published: set[str] = set()

    def build_pane(service: Service) -> None:
        # Of several models of a task, programs reach the first.
        _build_pane(service, service.TASK not in published)
        published.add(service.TASK)

    panes.build(services, page, build_pane)


def _build_pane(service: Service, has_endpoint: bool) -> None:
    first_plan, second_plan = service.default_plans
    with gr.Row(elem_classes="workbench compare"):
        with gr.Column(scale=2, min_width=320):
            things = controls.things(service)
            grammar = "H, P, R or E with a number after each: H1P5R3, [H1P1R1]x3, E25."
            first = controls.plan_text(service, first_plan, "First plan", grammar)
            second = controls.plan_text(service, second_plan, "Second plan", "From the same noise.")
            with gr.Group():
                guidance_scale = controls.guidance_control(service)
                num_images = controls.images_control(NUM_COMPARED, f"Images per {service.THING}")
            seed = controls.seed_controls(is_random=False)
            buttons = controls.run_controls("Compare")
        with gr.Column(scale=3, min_width=320):
            told, pictures = _results(service)
    # In the order in which the handler takes them.
    inputs = [things, first.text, second.text, guidance_scale, num_images, *seed]
    runs.connect_runs(
        service,
        f"compare {service.name}",
        [(buttons.presses, partial(shown, service))],
        inputs,
        [*told[:2], seed.seed, *told[2:]],
        buttons,
        told.readout,
        comparison.stopping(),
    )
    # Not by the handler itself, which says of most events that pictures stay as they are: where a
    # browser is behind, Gradio's client writes that over what it had not shown yet.
    told.pairs.change(_opened, told.pairs, [*pictures], **HELPER)
    for gallery in (pictures.first, pictures.second):
        gallery.select(_picked, told.pairs, [*pictures], trigger_mode="always_last", **HELPER)
    if has_endpoint:
        labels = ["Pictures of the first plan", "Pictures of the second plan", "Differences"]
        api.publish(handler(service), arguments(service), labels)


def _results(service: Service) -> tuple[Told, Pictures]:
    text = gr.HTML(
        comparison.idle(), label="Readout", apply_default_css=False, elem_classes="readout"
    )
    figures = gr.HTML(comparison.figures(None, None), label="Figures", apply_default_css=False)
    gr.HTML(comparison.why_pictures_part(), apply_default_css=False)
    with gr.Row():
        slider = gr.ImageSlider(
            label="One over the other",
            height="var(--pair-height)",
            interactive=False,
            buttons=["fullscreen"],
            min_width=280,
            elem_classes="pair",
        )
        difference = _pictures("Difference", "var(--pair-height)")
    with gr.Row():
        first, second = (_pictures(plan, "var(--gallery-height)") for plan in service.default_plans)
    chart = gr.ScatterPlot(
        x="ms / image",
        y="solver error",
        color="colour",
        color_map={colour: colour for colour in comparison.COLOURS},
        colors_in_legend=[],  # it would be cut off; the note below says what they are
        tooltip=["plan"],
        height=_CHART_HEIGHT,
        visible=False,
    )
    note = gr.HTML(_note(service, None), apply_default_css=False)
    told = Told(text, figures, chart, note, gr.State(None))
    return told, Pictures(slider, difference, first, second)


def _pictures(label: str, height: str) -> gr.Gallery:
    # Pressing a picture takes it under the slider, which shows it larger than a preview would.
    return gr.Gallery(
        label=label,
        columns=4,
        height=height,
        allow_preview=False,
        object_fit="contain",
        buttons=[],
        interactive=False,
        min_width=280,
        elem_classes="gallery",
    )


def shown(service: Service, *values: object) -> Iterator[tuple]:
    """Ask the service, and turn its events into what `Told` and, third, the seed show.

    Closing this closes the service's iterator.
    """
    latest: Comparison | None = None
    yielded = False
    with (
        runs.in_a_sentence(sentence, Unwritable),
        closing(runs.told(service, service.compare_plans, sentence, *values)) as events,
    ):
        for event in events:
            if event is None:
                yield readout.loading(), *_UNCHANGED[1:]
            elif isinstance(event, Advanced):
                yield comparison.in_progress(event), *_UNCHANGED[1:]
            elif isinstance(event, Stopped):
                yield _stopped(service, latest)
            else:
                latest = event
                yield _compared(service, event)
            yielded = True
        if not yielded:  # overtaken at once; yielding nothing would empty the page
            yield _UNCHANGED


def _stopped(service: Service, latest: Comparison | None) -> tuple:
    """Keep what is there, and draw the chart if a round was finished."""
    text = comparison.interrupted(latest)
    if latest is None:
        return text, *_UNCHANGED[1:]
    chart = _chart(service, latest) if latest.rounds else _no_chart(service)
    return text, *_UNCHANGED[1:3], *chart, gr.skip()


def _compared(service: Service, made: Comparison) -> tuple:
    """Return what changes on the page: the table each time, pictures as soon as they are there.

    The chart comes last, and is hidden till then: to draw it while plans are timed would slow them
    down.
    """
    figures = comparison.figures(made, _front(service)[0])
    text, pairs, difference, chart = gr.skip(), gr.skip(), None, _no_chart(service)
    if made.is_done or made.rounds == 1:
        difference = Difference.of(made.sides[0].pictures, made.sides[1].pictures)
    if made.rounds <= 1:
        pairs = Pairs.of(made, difference)
    if made.is_done:
        text, chart = comparison.finished(made, difference), _chart(service, made)
    return text, figures, made.sides[0].settings.seed, *chart, pairs


def _opened(pairs: Pairs) -> tuple:
    """Return all the pictures, the first pair under the slider; what is not there yet is empty."""
    galleries = [
        gr.Gallery(captioned(files, pairs.captions), label=plan, selected_index=0)
        for plan, files in zip(pairs.plans, pairs.files, strict=True)
    ]
    if not pairs.differences:
        return None, None, *galleries, None
    return *pairs.shown(0), *galleries


def _files(made: Comparison, index: int) -> list[str]:
    side = made.sides[index]
    return setting_files(side.pictures, side.settings, made.versions)


def _differences(made: Comparison, difference: Difference) -> list[tuple[str, str]]:
    notes = [
        f"{name}: RMS {comparison.levels(rms)} of 255 levels"
        for name, rms in zip(made.captions, difference.rms, strict=True)
    ]
    files = [png_file(picture, "difference") for picture in difference.pictures]
    return captioned(files, notes)


def _chart(service: Service, made: Comparison) -> tuple[gr.ScatterPlot, str]:
    """Return the chart, hidden if it would be empty, and the note under it."""
    front, _ = _front(service)
    points = [] if front is None else comparison.points(made, front)
    note = _note(service, made)
    if not points:
        return gr.ScatterPlot(visible=False), note
    columns = {
        "ms / image": [point.ms_per_image for point in points],
        "solver error": [point.solver_error for point in points],
        "plan": [point.plan for point in points],
        "colour": [comparison.colour(point.index) for point in points],
    }
    limits = {
        limit: [0, _ROOM * max(columns[name])]
        for limit, name in (("x_lim", "ms / image"), ("y_lim", "solver error"))
    }
    return gr.ScatterPlot(DataFrame(columns), **limits, visible=True), note


def _no_chart(service: Service) -> tuple[gr.ScatterPlot, str]:
    return gr.ScatterPlot(visible=False), _note(service, None)


def _note(service: Service, made: Comparison | None) -> str:
    front, refused = _front(service)
    return refused or comparison.chart_note(made, front, service.name)


def _front(service: Service) -> tuple[Front | None, str]:
    """Return the model's front, and in HTML what is wrong with it, if anything is.

    It is read each time: tuning may end while the page is open.
    """
    try:
        return service.model.front, ""
    except ValueError as error:
        return None, f'<p class="hint refused">{sentence(error)}</p>'


def _picked(pairs: Pairs | None, picked: gr.SelectData) -> tuple:
    if pairs is None or picked.index >= len(pairs.differences):
        return (gr.skip(),) * 4
    shown = [
        files[picked.index] for files in (*pairs.files, [file for file, _ in pairs.differences])
    ]
    if not are_kept(shown):
        raise gr.Error(REMOVED, print_exception=False)
    return *pairs.shown(picked.index), *(gr.Gallery(selected_index=picked.index),) * 2


def arguments(service: Service) -> api.Arguments:
    """Return the default and the JSON schema of each of the handler's arguments."""
    first, second = service.default_plans
    grammar = "a plan of 1 to 100 steps, such as H8, H1P5R3, [H1P1R1]x3 or E25"
    plan = {
        "first_plan": (first, {"type": "string", "description": grammar}),
        "second_plan": (second, {"type": "string", "description": f"another; {grammar}"}),
    }
    things = api.classes(service) if service.TASK == CLASSES else api.prompt(service)
    return api.arguments(things, plan, service, NUM_COMPARED)


def answer(service: Service, event: Advanced | Comparison) -> tuple | None:
    """Return the pictures, differences and, at the end, the record that programs get."""
    if isinstance(event, Advanced) or 1 <= event.rounds < event.num_rounds:
        return None
    first = captioned(_files(event, 0), event.captions)
    if not event.is_done:
        return first, None, None, None
    difference = Difference.of(event.sides[0].pictures, event.sides[1].pictures)
    record = comparison.record(event, difference, _front(service)[0])
    second = captioned(_files(event, 1), event.captions)
    return first, second, _differences(event, difference), record


def handler(service: Service) -> Callable[..., Iterator[tuple]]:
    """Return what programs call; its docstring documents the API, to people and to MCP."""
    answered = partial(api.answered, service, service.compare_plans, partial(answer, service), 4)

    def compare_plans(
        class_names,
        first_plan,
        second_plan,
        guidance_scale,
        num_images,
        seed,
        randomise,
    ):
        """Run two sampling plans in turn, four times, from the same noise, and compare them.

        Args:
            class_names: list of class names, or of labels counted from 0.
            first_plan: a plan of 1 to 100 steps, such as H8, H1P5R3, [H1P1R1]x3 or E25.
            second_plan: another plan of 1 to 100 steps.
            guidance_scale: classifier-free guidance, a number from 0 to 15; 1 is none; 0 leaves
                the class out.
            num_images: images of each class, a whole number from 1 to 4.
            seed: a whole number from 0 to 4294967295; image k draws its noise from seed + k.
            randomise: true to draw a seed and leave the given one unused.

        A value that is left out, or null over HTTP, is the default.

        Returns:
            The pictures of the first plan and those of the second (PNG, with their settings in
            them), their differences, amplified, and a record: of each plan the median, lowest and
            highest milliseconds an image, evaluations, speed-up over the other, and solver error
            where it is known; the factor of the differences, and their root mean square in levels
            of 255.
        """
        yield from answered(
            class_names, first_plan, second_plan, guidance_scale, num_images, seed, randomise
        )

    def compare_plans_of_text(
        prompt,
        first_plan,
        second_plan,
        guidance_scale,
        num_images,
        seed,
        randomise,
    ):
        """Run two sampling plans in turn, four times, from the same noise, and compare them.

        Args:
            prompt: what to show, at most 2000 characters.
            first_plan: a plan of 1 to 100 steps, such as H8, H1P6R3, [H1P1R1]x3 or E25.
            second_plan: another plan of 1 to 100 steps.
            guidance_scale: classifier-free guidance, a number from 0 to 15; 1 is none; 0 leaves
                the prompt out.
            num_images: images of the text, a whole number from 1 to 4.
            seed: a whole number from 0 to 4294967295; image k draws its noise from seed + k.
            randomise: true to draw a seed and leave the given one unused.

        A value that is left out, or null over HTTP, is the default.

        Returns:
            What `/compare_plans` returns.
        """
        yield from answered(
            prompt, first_plan, second_plan, guidance_scale, num_images, seed, randomise
        )

    return compare_plans if service.TASK == CLASSES else compare_plans_of_text
