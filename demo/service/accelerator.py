"""The one thread that touches the device, and how what it makes reaches a slow consumer."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Condition, Event, Lock, Thread
from typing import Any, Protocol

from demo.service.events import Awaited, Passing

# The page runs on the machine it measures. Encoding, sending and showing four previews beside the
# blocks made those take twice as long on 2 cores, so the two take turns: blocks run undisturbed for
# a while, then their previews are handed over, and the thread stands still until the consumer has
# dealt with each, though no longer than its patience, and a browser has had time to show it.
_UNDISTURBED_S = 1.0
_PATIENCE_S = 0.25
_SETTLING_S = 0.1
# The pictures of a comparison take seconds to encode: in that time neither plan is to be timed.
_LONG_PATIENCE_S = 20.0


class _Work(Protocol):
    """What waits for the thread: it is run there, or cancelled if the thread ends before."""

    def run(self) -> None: ...

    def cancel(self) -> None: ...


@dataclass
class _Load:
    work: Callable[[], Any]
    future: Future = field(default_factory=Future)

    def run(self) -> None:
        """Settle the future."""
        try:
            self.future.set_result(self.work())
        except Exception as error:  # for whoever asks for the result
            self.future.set_exception(error)

    def cancel(self) -> None:
        """Settle it with a refusal; once it runs, it goes on."""
        if not self.future.done():
            self.future.set_exception(closing_down())


@dataclass
class _Stream:
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
        self.events.put(None)  # for a consumer that waits for the thread

    def run(self) -> None:
        """Advance the generator to its end, or until nothing more is wanted."""
        try:
            self._advance()
            self.events.put(None)
        except Exception as error:  # the request's own; the thread serves the next one
            self.events.put(error)

    def _advance(self) -> None:
        if self.cancelled.is_set():  # while it waited its turn
            return
        held: list[Any] = []
        began = time.monotonic()
        with closing(self.work()) as events:
            try:
                for event in events:
                    if held and isinstance(held[-1], Passing):
                        held.pop()
                    held.append(event)
                    if time.monotonic() - began >= _UNDISTURBED_S:
                        self.hand_over(held)
                        held, began = [], time.monotonic()
                    if self.cancelled.is_set():
                        return
            finally:
                for event in held:  # nothing is left to disturb
                    self.give(event)


def closing_down() -> ValueError:
    """Return the refusal of what comes, or was under way, while the program ends."""
    return ValueError("the server is being stopped, and computes nothing more")


class Accelerator:
    """The one thread that touches the device; what it is given waits its turn.

    CUDA graphs may only be replayed on the thread that captured them, and Gradio advances
    generators on any thread it likes.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = Lock()
        self._running: _Work | None = None
        self.is_closed = False
        Thread(target=self._serve, name="accelerator", daemon=True).start()

    def stream(self, work: Callable[[], Iterator[Any]], stop: Event | None = None) -> Iterator[Any]:
        """Run the generator that `work` returns on the thread, and yield what it yields.

        Closing this generator stops the work where it next yields; so does `stop`, after which
        nothing more is yielded. What the work raises is raised here; ValueError, where the
        accelerator was closed.
        """
        task = _Stream(work, Event() if stop is None else stop)
        self._put(task)
        try:
            while True:
                event = task.events.get()
                if self.is_closed:
                    raise closing_down()
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
        load = _Load(work)
        self._put(load)
        return load.future

    def close(self) -> None:
        """End what runs where it next yields, and refuse it, what waits, and what comes later."""
        with self._lock:
            self.is_closed = True
            if isinstance(self._running, _Stream):
                self._running.cancel()
            with suppress(Empty):
                while (work := self._tasks.get_nowait()) is not None:
                    work.cancel()
            self._tasks.put(None)

    def _put(self, work: _Work) -> None:
        with self._lock:
            if not self.is_closed:
                self._tasks.put(work)
                return
        work.cancel()

    def _serve(self) -> None:
        while (work := self._tasks.get()) is not None:
            with self._lock:
                if self.is_closed:  # since it was taken from the queue
                    work.cancel()
                    continue
                self._running = work
            work.run()
            self._running = None
