"""What is done beside serving, day after day, so that neither memory nor disk fill up."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace

import gradio as gr
from gradio.routes import App

from demo.serving import cache
from demo.serving.cache import Keeping

_log = logging.getLogger(__name__)

# Pages and clients whose state is held, those that were last heard of. One that was forgotten goes
# on: only the list of its visit's runs begins anew. Calls over HTTP are forgotten once answered.
MAX_SESSIONS = 200

_EVERY_S = 20
_SHARE = 0.005  # of the time, at most, goes into sweeping: the page runs on what it measures
_SELDOM_S = 300  # but it is done as often as that
# A call that brought no session has that of its event, and is called as that is.
_OF_ONE_EVENT = re.compile("[0-9a-f]{32}")


def upkeep(keeping: Keeping) -> Callable[[App], AbstractAsyncContextManager[None]]:
    """Return the lifespan of a server that forgets sessions, and sweeps the folder of pictures."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        lighten_sessions(app)
        task = asyncio.create_task(_keep_tidy(app, keeping))
        try:
            yield
        finally:
            task.cancel()

    return lifespan


def lighten_sessions(app: App) -> None:
    """Let sessions hold no copy of what each component looks like.

    Gradio makes one, of 0.9 MB here, with every session and so with every call over HTTP, which
    takes longer than a picture. Only `gr.DeepLinkButton` reads it, and there is none here. It is
    made of the components in `blocks`: of none.
    """
    page = app.get_blocks()
    app.state_holder.blocks = SimpleNamespace(default_config=page.default_config, blocks={})


def forget_answered(app: App) -> None:
    """Forget what Gradio keeps of calls over HTTP that were answered, or that nobody reads."""
    holder, queue = app.state_holder, app.get_blocks()._queue

    def is_over(session: str) -> bool:
        is_call = _OF_ONE_EVENT.fullmatch(session) is not None
        return is_call and session not in queue.event_ids_to_events

    for session in filter(is_over, list(holder.session_data)):
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)
    for session, unread in list(queue.pending_event_ids_session.items()):
        if not unread and is_over(session):
            queue.pending_messages_per_session.pop(session, None)
        # Of those that nobody reads, Gradio drops the messages after a while, but not the name.
        if not unread or session not in queue.pending_messages_per_session:
            del queue.pending_event_ids_session[session]
    app.iterators_to_reset &= queue.event_ids_to_events.keys()


async def _keep_tidy(app: App, keeping: Keeping) -> None:
    """Forget, and sweep, again and again, whatever goes wrong; at once what others left."""
    sweep_at = 0.0
    while True:
        try:
            forget_answered(app)
            if time.monotonic() >= sweep_at:
                took_s = await asyncio.to_thread(_sweep, app.get_blocks(), keeping)
                sweep_at = time.monotonic() + min(took_s / _SHARE, _SELDOM_S)
        except Exception:
            _log.exception("upkeep failed, and is tried again")
        await asyncio.sleep(_EVERY_S)


def _sweep(page: gr.Blocks, keeping: Keeping) -> float:
    """Sweep; return what it took of a processor, in seconds."""
    began = time.thread_time()
    shown = set().union(*(getattr(item, "keep_in_cache", ()) for item in page.blocks.values()))
    cache.report(cache.sweep(keeping, shown), keeping)
    for files in page.temp_file_sets:  # for Gradio's own cleaning, which this replaces
        files.clear()
    return time.thread_time() - began
