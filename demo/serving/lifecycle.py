"""How the program ends: by Ctrl+C, by SIGTERM, or because something cannot be loaded.

An interpreter that is taken down while a thread computes in torch's C++ aborts the process. So
whoever waits is told, and then the process ends without that, whatever a thread is doing.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from demo.service.service import Service

# What the program ends with: Ctrl+C as shells know it; SIGTERM asks for what then was done.
EXIT_CODES = {signal.SIGINT: 128 + signal.SIGINT, signal.SIGTERM: 0}

_PATIENCE_S = 5.0  # until all who wait have read that nothing more is computed
_LOOK_AGAIN_S = 0.05


class Interrupted(BaseException):
    """The program is asked to end; a second time, it ends at once.

    Args:
        code: what it ends with.
    """

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def _watch_signals() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in EXIT_CODES:
            signal.signal(each, end_at_once)
        os.write(2, b"stopping; a second time ends at once\n")  # Python's own may be in use
        raise Interrupted(EXIT_CODES[signal.Signals(number)])

    def end_at_once(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    for number in EXIT_CODES:
        signal.signal(number, interrupt)


def close(page: "gr.Blocks | None", services: "Sequence[Service]") -> None:
    """Refuse what is under way, what waits and what comes, tell so, and close the page."""
    for service in services:
        service.close()
    if page is None or not page.is_running:
        return
    until = time.monotonic() + _PATIENCE_S
    while any(list(page._queue.pending_event_ids_session.values())) and time.monotonic() < until:
        time.sleep(_LOOK_AGAIN_S)
    page.close(verbose=False)

    from gradio.tunneling import CURRENT_TUNNELS

    for tunnel in CURRENT_TUNNELS:
        tunnel.kill()


@contextmanager
def leaving() -> Iterator[None]:
    """Let Ctrl+C and SIGTERM raise Interrupted, once, wherever the program is, and then end it.

    It ends as that or SystemExit says, and does not take the interpreter down before: there is
    nothing left to save, and a thread may be inside torch.
    """
    try:
        _watch_signals()
        yield
    except (SystemExit, Interrupted) as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
