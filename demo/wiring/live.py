"""How a request is made, shown block by block, and made again when a control moves."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import gradio as gr
from gradio.components import Component

from demo.parts.plan import PlanControls, update_budget
from demo.parts.results import Results
from demo.parts.run import HELPER, IDLE, RUNNING, WAITING, RunControls, sentence
from demo.parts.subject import SubjectControls
from demo.says import readout
from demo.says.pictures import png_file, preview_file, request_files, with_captions
from demo.service.events import Done, Kept, Preview, Stopped
from demo.service.service import Service
from demo.service.tickets import Ticket
from demo.wiring.runs import (
    ONCE_LOADED,
    Updates,
    Way,
    connect_runs,
    follow,
    refuse_in_words,
    wait_until_loaded,
)
from flowturbo_core.files import Unwritable
from flowturbo_core.metadata import query_names
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import MAX_TEXT, Request

# Counts how often a plan was changed while live; a change of the count samples. A plan that has
# nothing to begin with is only passed through: the line under the sliders says so already.
_MOVED = "(live, moves, heun, pseudo) => live && heun + pseudo > 0 ? moves + 1 : moves"
# What the page opens with makes room for what the address asks for.
_UNLESS_ASKED = """(html) => {
    const asked = new URLSearchParams(location.search);
    return NAMES.some((name) => asked.has(name)) ? IDLE : html;
}"""
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
_MAX_STRIPS = 8  # pictures of a run whose trajectory is kept


@dataclass(frozen=True, eq=False)  # Gradio hashes what it keeps
class Result:
    """A finished request, for what the page does with it afterwards.

    Args:
        run: what the list of runs shows.
        record: what the archive of its pictures says of them.
        files: its pictures.
        trajectories: the strip of each of its first pictures.
        is_of_visit: whether somebody asked for it; what the page opens with, nobody did.
    """

    run: readout.Run
    record: dict[str, Any]
    files: tuple[str, ...]
    trajectories: tuple[str, ...]
    is_of_visit: bool = True


@dataclass(frozen=True)
class View:
    """Where a request's events are shown: its results, its seed, and whether it runs."""

    results: Results
    seed: gr.Number
    state: gr.Textbox

    @property
    def outputs(self) -> list[Component]:
        """All but the readout and the state, which every request has."""
        _, *others = filter(None.__ne__, self.results)
        return [*others, self.seed]


def show(view: View, make: Callable[[], Iterator[Any]]) -> Iterator[Updates]:
    """Turn the events of a request that `make` begins into what changes in `view`.

    Closing this closes the events.
    """
    shown, previews = view.results, []
    thumbnails: list[tuple[str, ...]] = []  # each encoded once, however often it is shown
    yielded = False
    with (
        refuse_in_words(sentence, Unwritable),
        closing(follow(make, sentence)) as events,
    ):
        for event in events:
            if event is None:
                yield {shown.readout: readout.loading(), view.state: WAITING}
            elif isinstance(event, Done):
                yield {**_show_done(view, event, previews, thumbnails), view.state: IDLE}
            elif isinstance(event, Kept):
                yield {**_show_kept(view, event), view.state: IDLE}
            elif isinstance(event, Stopped):
                yield {**_show_stopped(view, previews), view.state: IDLE}
            else:
                previews.append(event)
                thumbnails.append(readout.thumbnails(event, _MAX_STRIPS))
                yield _show_progress(view, previews, thumbnails)
            yielded = True
        if not yielded:  # overtaken at once; yielding nothing would empty the page
            yield {view.state: gr.skip()}


def _show_progress(
    view: View, previews: Sequence[Preview], thumbnails: Sequence[tuple[str, ...]]
) -> Updates:
    shown, last = view.results, previews[-1]
    files = [preview_file(picture) for picture in last.pictures]
    return {
        shown.readout: readout.in_progress(last),
        shown.gallery: with_captions(files, last.request.captions),
        shown.trajectory: readout.trajectory(previews, thumbnails, 0),
        shown.record: None,
        shown.latest: None,
        view.seed: last.request.seed,
        view.state: RUNNING,
    }


def _show_stopped(view: View, previews: Sequence[Preview]) -> Updates:
    """Keep what is there, as pictures that carry their settings like finished ones."""
    text = {view.results.readout: readout.interrupted(bool(previews))}
    if not previews:
        return text
    last = previews[-1]
    files = request_files(last.pictures, last.request, {})
    return {**text, view.results.gallery: with_captions(files, last.request.captions)}


def _show_kept(view: View, kept: Kept) -> Updates:
    """Show a result as if it had just been made, but for what the readout says of its times."""
    small = [readout.thumbnails(preview, _MAX_STRIPS) for preview in kept.previews]
    updates = _show_done(view, kept.done, kept.previews, small)
    return {**updates, view.results.readout: readout.finished(kept.done, kept)}


def _show_done(
    view: View, done: Done, previews: Sequence[Preview], thumbnails: Sequence[tuple[str, ...]]
) -> Updates:
    files = request_files(done.pictures, done.request, done.versions)
    strips = tuple(
        readout.trajectory(previews, thumbnails, k) for k in range(min(len(files), _MAX_STRIPS))
    )
    record, shown = readout.record(done), view.results
    pair = {} if shown.pair is None else {shown.pair: (png_file(done.before()), files[0])}
    return {
        **pair,
        shown.readout: readout.finished(done),
        shown.gallery: with_captions(files, done.request.captions),
        shown.trajectory: strips[0],
        shown.record: record,
        shown.latest: Result(readout.Run.of(done), record, tuple(files), strips),
        view.seed: done.request.seed,
    }


def connect_example(page: gr.Blocks, service: Service, view: View) -> None:
    """Open the page with what the model made before, unless the address asks for something."""
    example, shown, names = service.example, view.results, query_names()
    if example is None:
        return

    @cache
    def updates() -> Updates:
        made = _show_kept(view, example)
        latest = replace(made[shown.latest], is_of_visit=False)
        opened = {item: made[item] for item in (shown.gallery, shown.readout, shown.trajectory)}
        return {**opened, shown.latest: latest}

    def open_with(request: gr.Request) -> Updates:
        if set(request.query_params) & set(names):
            return {shown.readout: gr.skip()}
        done = example.done
        request_files(done.pictures, done.request, done.versions)  # they may have been swept away
        return updates()

    outputs = [shown.gallery, shown.readout, shown.trajectory, shown.latest]
    written = {"NAMES": names, "IDLE": readout.idle()}
    js = re.sub("NAMES|IDLE", lambda name: json.dumps(written[name[0]]), _UNLESS_ASKED)
    page.load(None, shown.readout, shown.readout, js=js, **HELPER)
    page.load(open_with, None, outputs, **HELPER)


@dataclass(frozen=True)
class Asking:
    """What a tab asks for.

    Args:
        task: what is done.
        tab: the tab's own name.
        inputs: the controls by name.
        read: turns their values into those of a request's fields.
    """

    task: type
    tab: str
    inputs: Mapping[str, Component]
    read: Callable[[dict[str, Any]], dict[str, Any]]


def connect(
    service: Service,
    asking: Asking,
    subject: SubjectControls,
    plan: PlanControls,
    controls: RunControls,
    view: View,
) -> None:
    """Make the first button ask the service, and Stop end it.

    So do, while live, the plan, every slider, and what is written, with the seed that is there.
    """

    def ask_by(
        run: Callable[[Request, Ticket], Iterator[Any]], **held: object
    ) -> Callable[[dict[str, Any], Ticket], Iterator[Updates]]:
        def ask(values: dict[str, Any], ticket: Ticket) -> Iterator[Updates]:
            def make() -> Iterator[Any]:
                asked = asking.read({**values, **held})
                return run(service.request(asked, asking.task), ticket)

            return show(view, make)

        return ask

    again = ask_by(service.run, randomise=False)
    ways = [Way(controls.presses, ask_by(service.run)), Way(plan.moves, again)]
    if subject.typed is not None:
        ways.append(Way(subject.typed, again))
        _connect_typing(subject, plan)
    if subject.examples is not None:
        ways.append(Way(subject.examples, ask_by(service.run_example, randomise=False)))
    _connect_plan(service, plan, asking.inputs)
    connect_runs(
        service,
        asking.tab,
        ways,
        asking.inputs,
        view.outputs,
        controls,
        view.results.readout,
        (readout.interrupted(True), readout.interrupted(False)),
    )


def _connect_plan(service: Service, plan: PlanControls, inputs: Mapping[str, Component]) -> None:
    """Make presets and budget move the sliders, and count, while live, what a person moved."""

    def slide(text: str) -> Updates:
        return _steps(service, plan, service.read_plan(text))

    def afford(ms: object) -> Updates:
        return _steps(service, plan, service.plan_within(ms))

    # What a person chose, only, so that sliders and presets do not chase each other.
    # The last of several: arrows choose faster than the server answers.
    last = {"outputs": [*plan.steps.values()], "trigger_mode": "always_last", **HELPER}
    chosen = plan.preset.input(slide, plan.preset, **last)
    affording = plan.budget.release(afford, plan.budget, preprocess=False, **last)
    watched = [plan.live, plan.moves, plan.steps["heun"], plan.steps["pseudo"]]
    let_go = {"fn": None, "inputs": watched, "outputs": plan.moves, "js": _MOVED}
    sliders = (item for item in inputs.values() if isinstance(item, gr.Slider))
    gr.on([item.release for item in sliders], **let_go)
    chosen.then(**let_go)
    affording.then(**let_go)


def _steps(service: Service, controls: PlanControls, plan: SamplePlan) -> Updates:
    counts = service.plans.steps(plan)
    return {slider: counts[name] for name, slider in controls.steps.items()}


def _connect_typing(subject: SubjectControls, plan: PlanControls) -> None:
    paused = {"js": _TYPED, "trigger_mode": "multiple", **HELPER}
    for text in subject.texts:
        text.input(None, [plan.live, subject.typed, *subject.texts], subject.typed, **paused)


def connect_budget(page: gr.Blocks, service: Service, plan: PlanControls) -> None:
    """Set the budget's slider once the model is loaded: until then, nobody knows its rates."""

    async def afford(**counts: object) -> gr.Slider:
        await wait_until_loaded(service)
        return update_budget(service, **counts)

    page.load(afford, None, plan.budget, inputs_kwargs=dict(plan.steps), **ONCE_LOADED)
