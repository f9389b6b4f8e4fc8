"""How a request is started and stopped."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import gradio as gr
from gradio.components import Component

from demo.parts.controls import (
    HELPER,
    RunControls,
    sentence,
)
from demo.says import readout
from demo.service.service import Service
from flowturbo_core.checks import whole_number
from flowturbo_core.requests import MAX_SEED

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
