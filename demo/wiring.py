"""How a request is started, stopped, shown and remembered, and how its settings come back."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import gradio as gr
from gradio.components import Component

from demo import readout
from demo.controls import (
    ARCHIVE,
    HELPER,
    PlanControls,
    Results,
    RunControls,
    VisitControls,
    budgeted,
    sentence,
)
from demo.events import Done, Kept, Preview, Stopped
from demo.pictures import captioned, preview_file, setting_files, zip_file
from demo.service import Service
from flowturbo_core.files import Unwritable
from flowturbo_core.metadata import QUERY_NAMES, AnySettings
from flowturbo_core.requests import MAX_SEED, whole_number

# Every event that computes shares this: one at a time on the accelerator, the others wait.
GPU = {"concurrency_id": "gpu", "concurrency_limit": 1}

# What happens to each visit's page when the model is loaded: as many may wait as there are.
ONCE_LOADED = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}
_LOOK_AGAIN_S = 0.3

# Generate and Stop, by whether something runs.
_BUTTONS = """((running) => [!running, running]
    .map((interactive) => ({ __type__: "update", interactive })))"""
_IDLE = f"() => {_BUTTONS}(false)"
_BAR, _STARTING = json.dumps(readout.BAR), json.dumps(readout.STARTING)
_RUNS = f"[{_BAR}, {_STARTING}].some((mark) => html.includes(mark))"
# A request was made: what is there stays until the first of it comes, and is marked.
_STARTED = f"(html) => [...{_BUTTONS}(true), {_RUNS} ? html : html + {_STARTING}]"
# page.js says it aloud, and where the pictures are seen without it.
_AS_READOUT = f"""(html) => {{
    document.dispatchEvent(new CustomEvent("readout", {{ detail: html }}));
    return {_BUTTONS}({_RUNS});
}}"""
_REFUSED = 'document.dispatchEvent(new CustomEvent("refused"))'  # page.js calls it no result
# Counts how often a plan was changed while live; a change of the count samples. A plan that has
# nothing to begin with is only passed through: the line under the sliders says so already.
_MOVED = "(live, moves, heun, pseudo) => live && heun + pseudo > 0 ? moves + 1 : moves"
# The address always says what is shown, so that it can be kept and passed on.
_FOLLOW_ADDRESS = f"""(record) => {{
    if (!record) return;
    const others = new URLSearchParams(location.search);
    {json.dumps(QUERY_NAMES)}.forEach((name) => others.delete(name));
    const query = [record.query, others.toString()].filter((part) => part).join("&");
    history.replaceState(null, "", "?" + query + location.hash);
}}"""
_READ_ADDRESS = "(live, moves) => [live, moves, location.search.slice(1)]"
# What the page opens with makes room for what the address asks for.
_UNLESS_ASKED = f"""(html) => {{
    const asked = new URLSearchParams(location.search);
    return {json.dumps(QUERY_NAMES)}.some((name) => asked.has(name))
        ? {json.dumps(readout.idle())} : html;
}}"""
_MAX_RUNS = 50  # that a visit remembers
_MAX_STRIPS = 8  # pictures of a run whose trajectory is kept


_UNCHANGED = (gr.skip(),) * (1 + len(Results._fields))


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


async def loaded(service: Service) -> None:
    """Wait until the model is loaded, or cannot be; no thread is held."""
    while service.health()["status"] == "loading":
        await asyncio.sleep(_LOOK_AGAIN_S)


def told(
    service: Service,
    ask: Callable[..., Iterator[Any]],
    in_words: Callable[[Exception], str],
    *values: object,
) -> Iterator[Any]:
    """Ask the service: yield None while the model is being loaded, and then its events.

    A refusal becomes the sentence that is shown, by `in_words`. Closing this closes the service's
    iterator.
    """
    with in_a_sentence(in_words, ValueError, FloatingPointError), closing(ask(*values)) as events:
        yield from events


@contextmanager
def in_a_sentence(
    in_words: Callable[[Exception], str], *refusals: type[Exception]
) -> Iterator[None]:
    """Turn refusals of these kinds into what Gradio tells whoever asked."""
    try:
        yield
    except refusals as error:
        raise gr.Error(in_words(error), print_exception=False) from error


def shown(
    service: Service, ask: Callable[..., Iterator[Preview | Done | Stopped]], *values: object
) -> Iterator[tuple]:
    """Ask the service, and turn its events into what `Results` and, third, the seed show.

    Closing this closes the service's iterator.
    """
    previews: list[Preview] = []
    thumbnails: list[tuple[str, ...]] = []  # each encoded once, however often it is shown
    yielded = False
    with (
        in_a_sentence(sentence, Unwritable),
        closing(told(service, ask, sentence, *values)) as events,
    ):
        for event in events:
            if event is None:
                yield gr.skip(), readout.loading(), *_UNCHANGED[2:]
            elif isinstance(event, Done):
                yield _finished(event, previews, thumbnails)
            elif isinstance(event, Kept):
                yield _made_before(event)
            elif isinstance(event, Stopped):
                yield _stopped(previews)
            else:
                previews.append(event)
                thumbnails.append(readout.thumbnails(event, _MAX_STRIPS))
                files = [preview_file(picture) for picture in event.pictures]
                pictures = captioned(files, event.captions)
                text = readout.in_progress(event)
                strip = readout.trajectory(previews, thumbnails, 0)
                yield pictures, text, event.settings.seed, strip, None, None
            yielded = True
        if not yielded:  # overtaken at once; yielding nothing would empty the page
            yield _UNCHANGED


def connect_example(page: gr.Blocks, service: Service, results: Results) -> None:
    """Open the page with what the model made before, unless the address asks for something."""
    example = service.example
    if example is None:
        return

    @cache
    def made() -> tuple:
        pictures, text, _, strip, _, latest = _made_before(example)
        return pictures, text, strip, replace(latest, is_of_visit=False)

    def open_with(request: gr.Request) -> tuple:
        if set(request.query_params) & set(QUERY_NAMES):
            return (gr.skip(),) * 4
        done = example.done
        setting_files(done.pictures, done.settings, done.versions)  # they may have been swept away
        return made()

    outputs = [results.gallery, results.readout, results.trajectory, results.latest]
    page.load(None, results.readout, results.readout, js=_UNLESS_ASKED, **HELPER)
    page.load(open_with, None, outputs, **HELPER)


def _stopped(previews: Sequence[Preview]) -> tuple:
    """Keep what is there, as pictures that carry their settings like finished ones."""
    text = readout.interrupted(bool(previews))
    if not previews:
        return gr.skip(), text, *_UNCHANGED[2:]
    last = previews[-1]
    files = setting_files(last.pictures, last.settings, {})
    return captioned(files, last.captions), text, *_UNCHANGED[2:]


def _made_before(kept: Kept) -> tuple:
    """Show a result as if it had just been made, but for what the readout says of its times."""
    small = [readout.thumbnails(preview, _MAX_STRIPS) for preview in kept.previews]
    pictures, _, *others = _finished(kept.done, kept.previews, small)
    return pictures, readout.finished(kept.done, kept), *others


def _finished(
    done: Done, previews: Sequence[Preview], thumbnails: Sequence[tuple[str, ...]]
) -> tuple:
    files = setting_files(done.pictures, done.settings, done.versions)
    strips = tuple(
        readout.trajectory(previews, thumbnails, k) for k in range(min(len(files), _MAX_STRIPS))
    )
    text, record = readout.finished(done), readout.record(done)
    result = Result(readout.Run.of(done), record, tuple(files), strips)
    return captioned(files, done.captions), text, done.settings.seed, strips[0], record, result


def connect(
    service: Service,
    task: str,
    ask: Callable[..., Iterator[Preview | Done | Stopped]],
    inputs: Sequence[Component],
    plan: PlanControls,
    buttons: RunControls,
    results: Results,
    more_ways: Sequence[tuple[gr.Number, Callable[..., Iterator[Any]]]] = (),
) -> None:
    """Make Generate ask the service by `ask`, and Stop end it; `task` is the tab's own name.

    So do the plan and every slider, while live, with the seed that is there. The last two of
    `inputs` are the seed and whether to draw one. `more_ways` are what counts other requests, and
    what is asked for them, with the seed that is there.
    """
    *_, seed, _ = inputs

    def with_the_seed(ask: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[tuple]]:
        def again(*values: object) -> Iterator[tuple]:
            *asked, _, visitor, ticket = values
            return shown(service, ask, *asked, False, visitor, ticket)

        return again

    # What a person chose, only, so that sliders and presets do not chase each other.
    # The last of several: arrows choose faster than the server answers.
    last = {"outputs": plan.sliders, "trigger_mode": "always_last", **HELPER}
    chosen = plan.preset.input(service.slider_plans.counts, plan.preset, **last)
    afforded = plan.budget.release(service.within, plan.budget, preprocess=False, **last)
    watched = [plan.live, plan.moves, plan.heun, plan.pseudo]
    let_go = {"fn": None, "inputs": watched, "outputs": plan.moves, "js": _MOVED}
    gr.on([its.release for its in inputs if isinstance(its, gr.Slider)], **let_go)
    chosen.then(**let_go)
    afforded.then(**let_go)
    seeded = [(plan.moves, ask), *more_ways]
    ways = [
        (buttons.presses, partial(shown, service, ask)),
        *((count, with_the_seed(its)) for count, its in seeded),
    ]
    connect_runs(
        service,
        task,
        ways,
        inputs,
        [*results[:2], seed, *results[2:]],
        buttons,
        results.readout,
        readout.interrupted(True),
    )


def connect_budget(page: gr.Blocks, service: Service, plan: PlanControls) -> None:
    """Set the budget's slider once the model is loaded: until then, nobody knows its rates."""

    async def afford(*counts: object) -> gr.Slider:
        await loaded(service)
        return budgeted(service, *counts)

    page.load(afford, plan.sliders, plan.budget, **ONCE_LOADED)


def connect_runs(
    service: Service,
    task: str,
    ways: Sequence[tuple[gr.Number, Callable[..., Iterator[tuple]]]],
    inputs: Sequence[Component],
    outputs: Sequence[Component],
    buttons: RunControls,
    text: gr.HTML,
    interrupted: str,
) -> None:
    """Make the first button, and whatever else counts up, start a request, and Stop end it.

    Args:
        service: what is asked.
        task: a name of the tab's own: a visitor's requests of one tab overtake each other.
        ways: what counts the requests of each kind, with what makes one: it is given the values
            of `inputs`, the visitor and the ticket, and yields what `outputs` show.
        inputs: their values come unchecked, as the core wants them: Gradio would round some.
        outputs: among them `text`.
        buttons: the two buttons.
        text: the readout, which has a bar while something runs.
        interrupted: what the readout says after Stop.
    """
    both = [buttons.generate, buttons.stop]
    # Each request has a ticket, higher than those before: it counts what was pressed and moved.
    tickets = [count for count, _ in ways]
    computing = {
        "inputs": [*inputs, *tickets],
        "outputs": outputs,
        "preprocess": False,
        "show_progress": "full",
        "show_progress_on": text,
        "api_visibility": "private",
        **GPU,
    }
    # At once and in the browser: an answer from the server could come after the next result.
    nothing = json.dumps(readout.interrupted(False))
    until_then = f"html.includes({_BAR}) ? {json.dumps(interrupted)}"
    both_ways = {"fn": None, "inputs": text, "outputs": text}
    end = {**both_ways, "js": f"(html) => {until_then} : {_RUNS} ? {nothing} : html"}
    # What was refused never began: what was there before is there still.
    refused = f"(html) => ({_REFUSED}, {until_then} : html.replace({_STARTING}, ''))"
    fail = {**both_ways, "js": refused}

    def visitor(request: gr.Request) -> str:
        return f"{request.session_hash} {task}"

    def begun(make: Callable[..., Iterator[tuple]]) -> Callable[..., Iterator[tuple]]:
        def begin(request: gr.Request, *values: object) -> Iterator[tuple]:
            asked, counts = values[: len(inputs)], values[len(inputs) :]
            yield from make(*asked, visitor(request), _ticket(counts))

        return begin

    def overtake(request: gr.Request, *counts: int) -> None:
        service.overtake(visitor(request), _ticket(counts) - 1)

    def stop(request: gr.Request, *counts: int) -> None:
        service.stop(visitor(request), _ticket(counts))

    # First the buttons: a click's listeners run one after the other, in this order.
    started = {"fn": None, "inputs": text, "outputs": [*both, text], "js": _STARTED}
    buttons.generate.click(**started)
    buttons.generate.click(None, buttons.presses, buttons.presses, js="(presses) => presses + 1")
    # What is under way is ended first: of several requests, the last one counts.
    for count, make in ways:
        counted = count.change(overtake, tickets, None, **HELPER)
        counted.then(**started)
        run = counted.then(begun(make), trigger_mode="always_last", **computing)
        run.failure(None, None, both, js=_IDLE)
        run.failure(**fail)
    # What the readout says decides what can be pressed, rather than that a request ended: one that
    # was overtaken ends while the one that overtook it runs.
    text.change(None, text, both, js=_AS_READOUT)
    # Not Gradio's own cancelling: it has nothing to cancel before the request's number is back,
    # and loses what is pressed before its answer is. First of the listeners: the tickets are read
    # before the browser comes to a click on Generate that follows at once.
    buttons.stop.click(stop, tickets, None, **HELPER)
    buttons.stop.click(None, None, both, js=_IDLE)
    buttons.stop.click(**end)


def _ticket(counts: Sequence[object]) -> int:
    """Return the ticket of what was pressed and moved so often, as a page counts it."""
    try:
        return sum(whole_number("a page's count", count, 0, MAX_SEED) for count in counts)
    except ValueError as error:
        raise gr.Error(sentence(error), print_exception=False) from error


def connect_visit(
    page: gr.Blocks,
    service: Service,
    values_of: Callable[[AnySettings], tuple],
    inputs: Sequence[Component],
    plan: PlanControls,
    results: Results,
    visit: VisitControls,
    takes: Callable[[str], bool] = lambda _: True,
) -> None:
    """Remember what was made, and take settings back: of a run, a picture, or the address.

    `values_of` gives settings as values of `inputs`, or raises ValueError. While live, what comes
    back is sampled at once. `takes` tells whether an address's query is for this one of several.
    """

    def remember(latest: Result | None, runs: list[readout.Run]) -> tuple:
        if latest is None or not latest.is_of_visit:  # those in view are of no finished run
            return gr.skip(), gr.skip(), gr.DownloadButton(interactive=False)
        if runs and runs[-1] is latest.run:
            return gr.skip(), gr.skip(), gr.DownloadButton(interactive=True)
        runs = [*runs, latest.run][-_MAX_RUNS:]
        settings = latest.run.settings
        name = f"flowturbo-{settings.plan}-seed{settings.seed}"
        try:
            archive = zip_file(latest.files, name, latest.record)
        except Unwritable as error:
            label = f"No archive: {error}"
            return runs, readout.visit(runs), gr.DownloadButton(label, interactive=False)
        button = gr.DownloadButton(ARCHIVE, value=archive, interactive=True)
        return runs, readout.visit(runs), button

    def strip_of(latest: Result | None, picked: gr.SelectData) -> str:
        if latest is None or picked.index >= len(latest.trajectories):
            return gr.skip()
        return latest.trajectories[picked.index]

    kind = type(service.default_settings)

    def restored(settings: AnySettings, live: bool, moves: int) -> tuple:
        values = values_of(settings)
        if not live:
            gr.Info("The settings are back; Generate makes their pictures.")
        return *values, moves + 1 if live else gr.skip()

    def from_run(live: bool, moves: int, runs: list[readout.Run], pressed: gr.EventData) -> tuple:
        index = pressed.index
        if not isinstance(index, int) or not 0 <= index < len(runs):
            raise gr.Error("This visit has no such run.", print_exception=False)
        return restored(runs[index].settings, live, moves)

    def from_picture(live: bool, moves: int, file: str) -> tuple:
        try:
            return restored(kind.from_png(file), live, moves)
        except ValueError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    def from_address(live: bool, moves: int, query: str) -> tuple:
        nothing = (gr.skip(),) * len(restores["outputs"])
        try:
            if not takes(query):
                return nothing
            settings = kind.from_query(query, service.default_settings)
            return nothing if settings is None else restored(settings, live, moves)
        except ValueError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    results.latest.change(
        remember, [results.latest, visit.runs], [visit.runs, visit.chart, visit.archive], **HELPER
    )
    results.record.change(None, results.record, None, js=_FOLLOW_ADDRESS)
    last = {"trigger_mode": "always_last", **HELPER}
    results.gallery.select(strip_of, results.latest, results.trajectory, **last)
    both = [plan.live, plan.moves]
    # In the queue, as all must be that shows a message.
    restores = HELPER | {"queue": True, "outputs": [*inputs, plan.moves]}
    visit.chart.select(from_run, [*both, visit.runs], **restores)
    visit.picture.upload(from_picture, [*both, visit.picture], **restores)
    page.load(from_address, [*both, visit.address], js=_READ_ADDRESS, **restores)
