"""How a request is started and stopped."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from demo.parts.run import (
    ASKED,
    HELPER,
    IDLE,
    REFUSED,
    RUNNING,
    WAITING,
    RunControls,
    sentence,
)
from demo.service.service import Service
from demo.service.tickets import Ticket
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

# Generate and Stop, by the state.
_BUTTONS = f"""((state) => {{
    const runs = {json.dumps([ASKED, WAITING, RUNNING])}.includes(state);
    return [!runs, runs].map((interactive) => ({{ __type__: "update", interactive }}));
}})"""
_ASK = f"""(state) => {{
    const next = {json.dumps([WAITING, RUNNING])}.includes(state) ? state : "{ASKED}";
    return [...{_BUTTONS}(next), next];
}}"""

# By the component that shows it: what a request's event changes on the page.
Updates = Mapping[Component, Any]


@dataclass(frozen=True)
class Way:
    """A way to ask.

    Args:
        count: counts the requests of this kind; a change of it asks.
        ask: is given values by name and a ticket, and yields what changes on the page.
    """

    count: gr.Number
    ask: Callable[[dict[str, Any], Ticket], Iterator[Updates]]


async def wait_until_loaded(service: Service) -> None:
    """Wait until the model is loaded, or cannot be; no thread is held."""
    while service.health()["status"] == "loading":
        await asyncio.sleep(_LOOK_AGAIN_S)


def follow(
    make: Callable[[], Iterator[Any]], in_words: Callable[[Exception], str]
) -> Iterator[Any]:
    """Yield the events of a request that `make` begins.

    A refusal becomes the sentence that is shown, by `in_words`. Closing this closes the events.
    """
    with refuse_in_words(in_words, ValueError, FloatingPointError), closing(make()) as events:
        yield from events


@contextmanager
def refuse_in_words(
    in_words: Callable[[Exception], str], *refusals: type[Exception]
) -> Iterator[None]:
    """Turn refusals of these kinds into what Gradio tells whoever asked."""
    try:
        yield
    except refusals as error:
        raise gr.Error(in_words(error), print_exception=False) from error


def connect_runs(
    service: Service,
    tab: str,
    ways: Sequence[Way],
    inputs: Mapping[str, Component],
    outputs: Sequence[Component],
    controls: RunControls,
    readout: gr.HTML,
    stopped: tuple[str, str],
) -> None:
    """Make the first button, and whatever else counts up, start a request, and Stop end it.

    Args:
        service: what is asked.
        tab: its own name: a visitor's requests of one tab overtake each other.
        ways: how requests are asked for.
        inputs: their values come unchecked, as the core wants them: Gradio would round some.
        outputs: what the ways change, `readout` and the state aside.
        controls: the buttons, and whether something runs.
        readout: what is said of the request.
        stopped: what the readout says after Stop, of a request that ran and of one that did not.
    """
    tickets, state = [way.count for way in ways], controls.state
    desk = _Desk(service, tab)
    both = [controls.generate, controls.stop]
    asked = {"fn": None, "inputs": state, "outputs": [*both, state], "js": _ASK}
    # First the buttons: a click's listeners run one after the other, in this order.
    controls.generate.click(**asked)
    controls.generate.click(None, controls.presses, controls.presses, js="(count) => count + 1")
    computing = {
        "inputs": tickets,
        "inputs_kwargs": dict(inputs),
        "outputs": [readout, *outputs, state],
        "preprocess": False,
        "trigger_mode": "always_last",
        "show_progress": "full",
        "show_progress_on": readout,
        "api_visibility": "private",
        **GPU,
    }
    ended = {"fn": None, "inputs": [readout, state], "outputs": [readout, state]}
    # What is under way is ended first: of several requests, the last one counts.
    for way in ways:
        counted = way.count.change(desk.overtake, tickets, None, **HELPER)
        counted.then(**asked)
        run = counted.then(desk.begin_by(way), **computing)
        run.failure(**ended, js=_end_js(stopped, REFUSED))
    # The state decides what can be pressed, rather than that a request ended: one that was
    # overtaken ends while the one that overtook it runs.
    for item in (state, readout):
        item.change(None, [state, readout], both, js=_follow_js(tab))
    # Not Gradio's own cancelling: it has nothing to cancel before the request's number is back,
    # and loses what is pressed before its answer is. First of the listeners: the tickets are read
    # before the browser comes to a click on Generate that follows at once.
    controls.stop.click(desk.stop, tickets, None, **HELPER)
    controls.stop.click(**ended, js=_end_js(stopped, IDLE))


@dataclass(frozen=True)
class _Desk:
    """Gives the requests of one tab their tickets, and ends them by these.

    The number of a ticket counts what was pressed and moved: it is higher than those before.
    """

    service: Service
    tab: str

    def begin_by(self, way: Way) -> Callable[..., Iterator[Updates]]:
        """Return what begins a request of one way."""

        def begin(request: gr.Request, *counts: object, **values: object) -> Iterator[Updates]:
            yield from way.ask(values, self._ticket(request, counts))

        return begin

    def overtake(self, request: gr.Request, *counts: object) -> None:
        """End what was asked for before."""
        ticket = self._ticket(request, counts)
        self.service.overtake(Ticket(ticket.visitor, ticket.number - 1))

    def stop(self, request: gr.Request, *counts: object) -> None:
        """End all that was asked for."""
        self.service.stop(self._ticket(request, counts))

    def _ticket(self, request: gr.Request, counts: Sequence[object]) -> Ticket:
        return Ticket(f"{request.session_hash} {self.tab}", _number(counts))


def _end_js(stopped: tuple[str, str], state: str) -> str:
    """Return the script that ends a request in a state, and says what is left of it.

    What was refused before it began leaves the readout as it is.
    """
    of_running, of_none = map(json.dumps, stopped)
    of_asked = "html" if state == REFUSED else of_none
    return f"""(html, state) => {{
        const words = {{ {RUNNING}: {of_running}, {WAITING}: {of_none}, {ASKED}: {of_asked} }};
        return state in words ? [words[state], "{state}"] : [html, state];
    }}"""


def _follow_js(pane: str) -> str:
    """Return the script that sets the buttons; page.js says aloud what came of the request."""
    return f"""(state, html) => {{
        const detail = {{ pane: {json.dumps(pane)}, state, html }};
        document.dispatchEvent(new CustomEvent("state", {{ detail }}));
        return {_BUTTONS}(state);
    }}"""


def _number(counts: Sequence[object]) -> int:
    """Return the number of what was pressed and moved so often, as a page counts it."""
    try:
        return sum(whole_number("a page's count", count, 0, MAX_SEED) for count in counts)
    except ValueError as error:
        raise gr.Error(sentence(error), print_exception=False) from error
