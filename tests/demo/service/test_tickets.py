"""A visitor's tickets: what Stop ends, what is overtaken, and in which order they may come."""

import pytest

from demo.service import tickets
from demo.service.events import Done, Preview, Stopped
from demo.service.tickets import Ticket
from tests.demo.service.asking import ask


@pytest.fixture
def held(scripted, scripted_service):
    """Return the events of visitor one's long request, ticket 3, of which one preview is there."""
    events = ask(scripted_service, heun=24, pseudo=0, refiner=0, visitor="one", number=3)
    next(events)
    yield events
    events.close()


def test_a_visitor_stops_its_own_requests_up_to_a_ticket(scripted, scripted_service, held):
    scripted_service.stop(Ticket("two", 9))
    scripted_service.stop(Ticket("one", 2))
    assert isinstance(next(held), Preview)
    scripted_service.stop(Ticket("one", 3))
    assert list(held) == [Stopped()]
    assert len(scripted.blocks) <= 4
    assert isinstance(list(ask(scripted_service, visitor="one", number=4))[-1], Done)


def test_what_is_overtaken_ends_without_a_word(scripted, scripted_service, held):
    scripted_service.overtake(Ticket("one", 3))
    assert list(held) == [] and len(scripted.blocks) <= 3


def test_a_stop_may_come_before_what_it_stops(scripted, scripted_service):
    scripted_service.stop(Ticket("one", 5))
    assert list(ask(scripted_service, visitor="one", number=5)) == [Stopped()]
    scripted_service.overtake(Ticket("one", 6))
    assert list(ask(scripted_service, visitor="one", number=6)) == []
    assert scripted.blocks == []
    assert isinstance(list(ask(scripted_service, visitor="one", number=7))[-1], Done)
    assert isinstance(list(ask(scripted_service, visitor="two", number=1))[-1], Done)


def test_what_arrives_late_takes_no_stop_back(scripted_service):
    scripted_service.stop(Ticket("one", 5))
    scripted_service.overtake(Ticket("one", 4))
    assert list(ask(scripted_service, visitor="one", number=5)) == [Stopped()]


def test_only_so_many_visitors_are_remembered(scripted_service, monkeypatch):
    monkeypatch.setattr(tickets, "_MAX_VISITORS", 2)
    for visitor in ("one", "two", "three"):
        scripted_service.stop(Ticket(visitor, 1))
    assert list(ask(scripted_service, visitor="three", number=1)) == [Stopped()]
    assert isinstance(list(ask(scripted_service, visitor="one", number=1))[-1], Done)
