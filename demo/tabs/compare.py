"""The tab that runs two plans from the same noise, side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import gradio as gr
from pandas import DataFrame

from demo import api
from demo.parts import models
from demo.parts.plan import add_plan_text
from demo.parts.run import (
    HELPER,
    IDLE,
    RUNNING,
    WAITING,
    add_guidance,
    add_num_images,
    add_run,
    add_seed,
    sentence,
)
from demo.parts.subject import add_compared_subject
from demo.says import comparison, readout
from demo.says.pictures import REMOVED, Difference, are_kept, png_file, request_files, with_captions
from demo.service.events import Advanced, Comparison, Stopped
from demo.service.service import NARROWED_TO_COMPARE, Service
from demo.service.studio import first_of_each_subject
from demo.service.tickets import Ticket
from demo.wiring.runs import (
    Updates,
    Way,
    connect_runs,
    follow,
    refuse_in_words,
)
from flowturbo_core.fields import declared_fields
from flowturbo_core.files import Unwritable
from flowturbo_core.models.front import Front
from flowturbo_core.requests import Classes, Generate, Size, fields_of

_CHART_HEIGHT = 300
_ROOM = 1.08  # beyond the last dot, which would be cut in half


class Report(NamedTuple):
    """What is said of a comparison."""

    readout: gr.HTML
    figures: gr.HTML
    chart: gr.ScatterPlot
    note: gr.HTML
    pairs: gr.State


class PairViews(NamedTuple):
    """Where the pictures of a comparison are shown."""

    slider: gr.ImageSlider
    difference: gr.Gallery
    first: gr.Gallery
    second: gr.Gallery


@dataclass(frozen=True)
class ComparisonView:
    """Where a comparison's events are shown: what is said, the seed, and whether it runs."""

    report: Report
    seed: gr.Number
    state: gr.Textbox


@dataclass(frozen=True, eq=False)  # Gradio hashes what it keeps
class ComparedPairs:
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
    def of(cls, made: Comparison, difference: Difference | None) -> "ComparedPairs":
        """Write the pictures of a comparison; `difference` is None while it has one plan's."""
        pairs = cls(
            tuple(str(side.plan) for side in made.sides),
            tuple(_files(made, k) for k in range(len(made.sides))),
            made.captions,
        )
        if difference is None:
            return pairs
        label = f"Difference × {difference.factor}"
        return replace(pairs, differences=_differences(made, difference), label=label)

    def view_pair(self, index: int) -> tuple[gr.ImageSlider, gr.Gallery]:
        """Return what slider and difference show of pair `index`."""
        pair = tuple(files[index] for files in self.files)
        return (
            gr.ImageSlider(pair, label=" | ".join(self.plans)),
            gr.Gallery([self.differences[index]], label=self.label),
        )


def build(
    tab: str, services: Sequence[Service], page: gr.Blocks, takes: Callable[[str], bool]
) -> None:
    """Add controls and results of each model, the first in view, and what chooses another."""
    models.build(services, page, partial(_build_pane, tab))
    for service in first_of_each_subject(services):
        api.publish(endpoint(service))


def _build_pane(tab: str, service: Service) -> None:
    first_plan, second_plan = service.plans.compared
    with gr.Row(elem_classes="workbench compare"):
        with gr.Column(scale=2, min_width=320):
            subject = add_compared_subject(service)
            grammar = "H, P, R or E with a number after each: H1P5R3, [H1P1R1]x3, E25."
            first = add_plan_text(service, first_plan, "First plan", grammar)
            second = add_plan_text(service, second_plan, "Second plan", "From the same noise.")
            with gr.Group():
                guidance_scale = add_guidance(service)
                num_images = add_num_images(service, NARROWED_TO_COMPARE, 1)
            seed = add_seed(is_random=False)
            run = add_run("Compare")
        with gr.Column(scale=3, min_width=320):
            report, pictures = _results(service)
    plans = {"first_plan": first.text, "second_plan": second.text}
    shared = {"guidance_scale": guidance_scale, "num_images": num_images, **seed._asdict()}
    view = ComparisonView(report, seed.seed, run.state)
    connect_runs(
        service,
        f"{tab} {service.name}",
        [Way(run.presses, partial(show, service, view))],
        {**subject.inputs, **plans, **shared},
        [*report[1:], seed.seed],
        run,
        report.readout,
        (comparison.stopping(), readout.interrupted(False)),
    )
    # Not by the request's own events, which say of most that pictures stay as they are: where a
    # browser is behind, Gradio's client writes that over what it had not shown yet.
    report.pairs.change(_open, report.pairs, [*pictures], **HELPER)
    for gallery in (pictures.first, pictures.second):
        gallery.select(_pick, report.pairs, [*pictures], trigger_mode="always_last", **HELPER)


def _results(service: Service) -> tuple[Report, PairViews]:
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
        height = "var(--gallery-height)"
        first, second = (_pictures(plan, height) for plan in service.plans.compared)
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
    report = Report(text, figures, chart, note, gr.State(None))
    return report, PairViews(slider, difference, first, second)


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


def ask(
    service: Service, values: Mapping[str, object], ticket: Ticket | None = None
) -> Iterator[Advanced | Comparison | Stopped | None]:
    """Ask for a comparison, of unchecked values by name."""
    shared = dict(values)
    plans = [shared.pop("first_plan"), shared.pop("second_plan")]
    request = service.request(shared, narrowed=NARROWED_TO_COMPARE)
    return service.compare(request, plans, ticket)


def show(
    service: Service,
    view: ComparisonView,
    values: Mapping[str, object],
    ticket: Ticket | None = None,
) -> Iterator[Updates]:
    """Turn the events of a comparison into what changes in `view`.

    Closing this closes the service's iterator.
    """
    latest: Comparison | None = None
    yielded = False
    with (
        refuse_in_words(sentence, Unwritable),
        closing(follow(lambda: ask(service, values, ticket), sentence)) as events,
    ):
        for event in events:
            if event is None:
                yield {view.report.readout: readout.loading(), view.state: WAITING}
            elif isinstance(event, Advanced):
                yield {view.report.readout: comparison.in_progress(event), view.state: RUNNING}
            elif isinstance(event, Stopped):
                yield {**_show_stopped(service, view, latest), view.state: IDLE}
            else:
                latest = event
                state = IDLE if event.is_done else RUNNING
                yield {**_show_comparison(service, view, event), view.state: state}
            yielded = True
        if not yielded:  # overtaken at once; yielding nothing would empty the page
            yield {view.state: gr.skip()}


def _show_stopped(service: Service, view: ComparisonView, latest: Comparison | None) -> Updates:
    """Keep what is there, and draw the chart if a round was finished."""
    text = {view.report.readout: comparison.interrupted(latest)}
    if latest is None:
        return text
    chart, note = _chart(service, latest) if latest.rounds else _no_chart(service)
    return {**text, view.report.chart: chart, view.report.note: note}


def _show_comparison(service: Service, view: ComparisonView, made: Comparison) -> Updates:
    """Return what changes on the page: the table each time, pictures as soon as they are there.

    The chart comes last, and is hidden till then: to draw it while plans are timed would slow them
    down.
    """
    report = view.report
    updates = {report.figures: comparison.figures(made, _front(service)[0])}
    updates[view.seed] = made.sides[0].request.seed
    difference, (chart, note) = None, _no_chart(service)
    if made.is_done or made.rounds == 1:
        difference = Difference.of(made.sides[0].pictures, made.sides[1].pictures)
    if made.rounds <= 1:
        updates[report.pairs] = ComparedPairs.of(made, difference)
    if made.is_done:
        updates[report.readout] = comparison.finished(made, difference)
        chart, note = _chart(service, made)
    return {**updates, report.chart: chart, report.note: note}


def _open(pairs: ComparedPairs) -> tuple:
    """Return all the pictures, the first pair under the slider; what is not there yet is empty."""
    galleries = [
        gr.Gallery(with_captions(files, pairs.captions), label=plan, selected_index=0)
        for plan, files in zip(pairs.plans, pairs.files, strict=True)
    ]
    if not pairs.differences:
        return None, None, *galleries, None
    return *pairs.view_pair(0), *galleries


def _files(made: Comparison, index: int) -> list[str]:
    side = made.sides[index]
    return request_files(side.pictures, side.request, made.versions)


def _differences(made: Comparison, difference: Difference) -> list[tuple[str, str]]:
    notes = [
        f"{name}: RMS {comparison.levels(rms)} of 255 levels"
        for name, rms in zip(made.captions, difference.rms, strict=True)
    ]
    files = [png_file(picture, "difference") for picture in difference.pictures]
    return with_captions(files, notes)


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


def _pick(pairs: ComparedPairs | None, picked: gr.SelectData) -> tuple:
    if pairs is None or picked.index >= len(pairs.differences):
        return (gr.skip(),) * 4
    shown = [
        files[picked.index] for files in (*pairs.files, [file for file, _ in pairs.differences])
    ]
    if not are_kept(shown):
        raise gr.Error(REMOVED, print_exception=False)
    return *pairs.view_pair(picked.index), *(gr.Gallery(selected_index=picked.index),) * 2


def endpoint(service: Service) -> api.Endpoint:
    """Return what programs call to compare two plans."""
    of_classes, plans = service.model.subject is Classes, []
    schema = fields_of(service.model.subject, Generate)["plan"].schema(service.model)
    for name, plan in zip(("first_plan", "second_plan"), service.plans.compared, strict=True):
        plans.append(api.Argument(name, name, plan, schema))
    plans[1] = replace(
        plans[1], schema=schema | {"description": f"another: {schema['description']}"}
    )
    # Of texts, a prompt alone.
    without = [] if of_classes else ["negative_prompt", *declared_fields(Size)]
    return api.Endpoint(
        "compare_plans" if of_classes else "compare_plans_of_text",
        "Run two sampling plans in turn, four times, from the same noise, and compare them.",
        api.arguments(service, Generate, plans, NARROWED_TO_COMPARE, without),
        "The pictures of the first plan and those of the second (PNG, with their settings in "
        "them), their differences, amplified, and a record: of each plan the median, lowest and "
        "highest milliseconds an image, evaluations, speed-up over the other, and solver error "
        "where it is known; the factor of the differences, and their root mean square in levels "
        "of 255.",
        ["Pictures of the first plan", "Pictures of the second plan", "Differences"],
        partial(ask, service),
        partial(answer, service),
    )


def answer(service: Service, event: Advanced | Comparison) -> tuple | None:
    """Return the pictures, differences and, at the end, the record that programs get."""
    if isinstance(event, Advanced) or 1 <= event.rounds < event.num_rounds:
        return None
    first = with_captions(_files(event, 0), event.captions)
    if not event.is_done:
        return first, None, None, None
    difference = Difference.of(event.sides[0].pictures, event.sides[1].pictures)
    record = comparison.record(event, difference, _front(service)[0])
    second = with_captions(_files(event, 1), event.captions)
    return first, second, _differences(event, difference), record
