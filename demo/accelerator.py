"""The one thread that touches the device, and how what it makes reaches a slow consumer."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Condition, Event, Thread
from typing import Any

from demo.events import Awaited, Passing

# The page runs on the machine it measures. Encoding, sending and showing four previews beside the
# blocks made those take twice as long on 2 cores, so the two take turns: blocks run undisturbed for
# a while, then their previews are handed over, and the thread stands still until the consumer has
# dealt with each, though no longer than its patience, and a browser has had time to show it.
_UNDISTURBED_S = 1.0
_PATIENCE_S = 0.25
_SETTLING_S = 0.1
# The pictures of a comparison take seconds to encode: in that time neither plan is to be timed.
_LONG_PATIENCE_S = 20.0


@dataclass
class _Task:
    work: Callable[[], Iterator[Any]]
    cancelled: Event
    events: SimpleQueue = field(default_factory=SimpleQueue)
    open: int = 0  # events that the consumer has not dealt with
    dealt: Condition = field(default_factory=Condition)

    def give(self, event: Any) -> None:
        """Give the consumer an event."""
        with self.dealt:
            self.open += 1
        self.events.put(event)

    def hand_over(self, held: list[Any]) -> None:
        """Give the consumer what was held back, and time to deal with it."""
        for event in held:
            self.give(event)
            patience = _LONG_PATIENCE_S if isinstance(event, Awaited) else _PATIENCE_S
            with self.dealt:
                self.dealt.wait_for(lambda: not self.open or self.cancelled.is_set(), patience)
        self.cancelled.wait(_SETTLING_S * len(held))

    def deal(self) -> None:
        """Say that the consumer has dealt with an event."""
        with self.dealt:
            self.open -= 1
            self.dealt.notify_all()

    def cancel(self) -> None:
        """Say that nothing more is wanted."""
        self.cancelled.set()
        with self.dealt:
            self.dealt.notify_all()


class Accelerator:
    """The one thread that touches the device; what it is given waits its turn.

    CUDA graphs may only be replayed on the thread that captured them, and Gradio advances
    generators on any thread it likes.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        Thread(target=self._serve, name="accelerator", daemon=True).start()

    def stream(self, work: Callable[[], Iterator[Any]], stop: Event | None = None) -> Iterator[Any]:
        """Run the generator that `work` returns on the thread, and yield what it yields.

        Closing this generator stops the work where it next yields; so does `stop`, after which
        nothing more is yielded. What the work raises is raised here.
        """
        task = _Task(work, Event() if stop is None else stop)
        self._tasks.put(partial(self._finish, task))
        try:
            while True:
                event = task.events.get()
                if event is None or task.cancelled.is_set():
                    return
                if isinstance(event, Exception):
                    raise event
                yield event
                task.deal()
        finally:
            task.cancel()

    def submit(self, work: Callable[[], Any]) -> Future:
        """Run `work` on the thread, in its turn; the future holds what it returns or raises."""
        future: Future = Future()

        def settle() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # for whoever asks for the result
                future.set_exception(error)

        self._tasks.put(settle)
        return future

    def _serve(self) -> None:
        while True:
            self._tasks.get()()

    def _finish(self, task: _Task) -> None:
        try:
            self._advance(task)
            task.events.put(None)
        except Exception as error:  # the request's own; the thread serves the next one
            task.events.put(error)

    @staticmethod
    def _advance(task: _Task) -> None:
        if task.cancelled.is_set():  # while it waited its turn
            return
        held: list[Any] = []
        began = time.monotonic()
        with closing(task.work()) as events:
            try:
                for event in events:
                    if held and isinstance(held[-1], Passing):
                        held.pop()
                    held.append(event)
                    if time.monotonic() - began >= _UNDISTURBED_S:
                        task.hand_over(held)
                        held, began = [], time.monotonic()
                    if task.cancelled.is_set():
                        return
            finally:
                for event in held:  # nothing is left to disturb
                    task.give(event)
