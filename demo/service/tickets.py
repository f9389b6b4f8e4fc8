"""Which requests are still wanted: what Stop and newer requests end."""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Event
from weakref import WeakValueDictionary

_MAX_VISITORS = 1000  # whose last Stop is remembered


@dataclass(eq=False)
class End:
    """How one request is told to end, and whether because it was stopped."""

    ticket: int
    event: Event = field(default_factory=Event)
    stopped: bool = False

    def tell(self, stopped: bool) -> None:
        """End the request."""
        self.stopped = stopped
        self.event.set()


class Wanted:
    """Which of the visitors' requests are still wanted.

    A visitor numbers requests by tickets that rise. What ends them names the last it means: it may
    arrive before them, as a click on Stop does while a request still travels or waits its turn.
    """

    def __init__(self) -> None:
        self._current: WeakValueDictionary[str, End] = WeakValueDictionary()
        self._ended: OrderedDict[str, tuple[int, bool]] = OrderedDict()

    def begin(self, visitor: str | None, ticket: int) -> End:
        """Return what tells the request to end; at once, if it no longer is wanted."""
        end = End(ticket)
        if visitor is None:
            return end
        last, stopped = self._ended.get(visitor, (-1, False))
        if ticket <= last:
            end.tell(stopped)
        self._current[visitor] = end
        return end

    def end(self, visitor: str, ticket: int, stopped: bool) -> None:
        """End what the visitor asked for up to `ticket`."""
        last, _ = self._ended.get(visitor, (-1, False))
        if ticket >= last:  # messages may overtake each other on the way
            self._ended[visitor] = (ticket, stopped)
            self._ended.move_to_end(visitor)
        if len(self._ended) > _MAX_VISITORS:
            self._ended.popitem(last=False)
        current = self._current.get(visitor)
        if current is not None and current.ticket <= ticket:
            current.tell(stopped)
