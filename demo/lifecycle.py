"""How the program ends: by Ctrl+C, by SIGTERM, or because something cannot be loaded.

An interpreter that ends while a thread computes in torch's C++ aborts the process. So what runs
is ended first, within one block, and the thread is waited for.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import enumerate as living_threads
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from demo.service import Service

# What the program ends with: Ctrl+C as shells know it; SIGTERM asks for what then was done.
EXIT_CODES = {signal.SIGINT: 128 + signal.SIGINT, signal.SIGTERM: 0}

_PATIENCE_S = 10.0  # for a block, or for a model that is being loaded
_ANSWERS_S = 2.0  # for those who wait to be told that nothing more is computed
_LOOK_AGAIN_S = 0.05


class Interrupted(BaseException):
    """The program is asked to end; a second time, it ends at once.

    Args:
        code: what it ends with.
    """

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def watch_signals() -> None:
    """From now on, let Ctrl+C and SIGTERM raise Interrupted, once, wherever the program is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in EXIT_CODES:
            signal.signal(each, end_at_once)
        raise Interrupted(EXIT_CODES[signal.Signals(number)])

    def end_at_once(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    for number in EXIT_CODES:
        signal.signal(number, interrupt)


def close(page: "gr.Blocks | None", services: "Sequence[Service]") -> None:
    """End what runs within one block, tell those who wait, and close the page."""
    until = time.monotonic() + _PATIENCE_S
    for service in services:
        service.close()
    for service in services:
        service.close(max(0, until - time.monotonic()))
    if page is None or not page.is_running:
        return
    queue, until = page._queue, time.monotonic() + _ANSWERS_S
    while (len(queue) or queue.get_active_worker_count()) and time.monotonic() < until:
        time.sleep(_LOOK_AGAIN_S)
    page.close(verbose=False)

    from gradio.tunneling import CURRENT_TUNNELS

    for tunnel in CURRENT_TUNNELS:
        tunnel.kill()


@contextmanager
def leaving() -> Iterator[None]:
    """End the process as SystemExit says, though a thread may still be inside torch."""
    try:
        yield
    except SystemExit as end:
        from demo.accelerator import THREAD

        sys.stdout.flush()
        sys.stderr.flush()
        if any(thread.name == THREAD for thread in living_threads()):
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
