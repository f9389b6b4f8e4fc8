"""How a request is made, shown block by block, and made again when a control moves."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import gradio as gr
from gradio.components import Component

from demo.parts.controls import HELPER, PlanControls, Results, RunControls, budgeted, sentence
from demo.says import readout
from demo.says.pictures import captioned, preview_file, setting_files
from demo.service.events import Done, Kept, Preview, Stopped
from demo.service.service import Service
from demo.wiring.runs import ONCE_LOADED, connect_runs, in_a_sentence, loaded, told
from flowturbo_core.files import Unwritable
from flowturbo_core.metadata import QUERY_NAMES

# Counts how often a plan was changed while live; a change of the count samples. A plan that has
# nothing to begin with is only passed through: the line under the sliders says so already.
_MOVED = "(live, moves, heun, pseudo) => live && heun + pseudo > 0 ? moves + 1 : moves"
# What the page opens with makes room for what the address asks for.
_UNLESS_ASKED = f"""(html) => {{
    const asked = new URLSearchParams(location.search);
    return {json.dumps(QUERY_NAMES)}.some((name) => asked.has(name))
        ? {json.dumps(readout.idle())} : html;
}}"""
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
