"""Which requests are still wanted: what Stop and newer requests end."""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Event
from weakref import WeakValueDictionary

_MAX_VISITORS = 1000  # whose last Stop is remembered


@dataclass(frozen=True)
class Ticket:
    """Whose request it is, and its number: a visitor's numbers rise."""

    visitor: str
    number: int


@dataclass(eq=False)
class End:
    """How one request is told to end, and whether because it was stopped."""

    number: int
    event: Event = field(default_factory=Event)
    stopped: bool = False

    def tell(self, stopped: bool) -> None:
        """End the request."""
        self.stopped = stopped
        self.event.set()


class Wanted:
    """Which of the visitors' requests are still wanted.

    What ends a visitor's requests names the last ticket that it means. It may arrive before them,
    as a click on Stop does while a request still travels or waits its turn.
    """

    def __init__(self) -> None:
        self._current: WeakValueDictionary[str, End] = WeakValueDictionary()
        self._ended: OrderedDict[str, tuple[int, bool]] = OrderedDict()

    def begin(self, ticket: Ticket | None) -> End:
        """Return what tells the request to end; at once, if it no longer is wanted."""
        if ticket is None:
            return End(0)
        end = End(ticket.number)
        last, stopped = self._ended.get(ticket.visitor, (-1, False))
        if ticket.number <= last:
            end.tell(stopped)
        self._current[ticket.visitor] = end
        return end

    def end(self, ticket: Ticket, stopped: bool) -> None:
        """End what the visitor asked for up to this ticket."""
        last, _ = self._ended.get(ticket.visitor, (-1, False))
        if ticket.number >= last:  # messages may overtake each other on the way
            self._ended[ticket.visitor] = (ticket.number, stopped)
            self._ended.move_to_end(ticket.visitor)
        if len(self._ended) > _MAX_VISITORS:
            self._ended.popitem(last=False)
        current = self._current.get(ticket.visitor)
        if current is not None and current.number <= ticket.number:
            current.tell(stopped)
