"""The accelerator's one thread: turns, a slow consumer, and work that ends or fails."""

import threading
import time
from types import SimpleNamespace

import pytest

from demo.service import accelerator as accelerator_module
from demo.service.events import Done, Preview
from flowturbo_core import devices
from tests.demo.conftest import BLOCK_MS, CLASSES
from tests.demo.service.asking import ask


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_one_thread_does_all_of_the_work(scripted, scripted_service):
    list(ask(scripted_service))
    assert scripted.threads == {"accelerator"}


def test_previews_and_a_slow_consumer_are_not_timed(scripted, scripted_service, monkeypatch):
    decode, now = scripted.decode, [0.0]

    def pass_by(seconds):
        now[0] += seconds

    monkeypatch.setattr(devices, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(scripted, "decode", lambda *asked: pass_by(0.02) or decode(*asked))
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 20)  # the consumer's time is its own
    events = []
    for event in ask(scripted_service):
        events.append(event)
        pass_by(0.03)
    done = events[-1]
    assert done.timing.block_ms == (BLOCK_MS,) * 9
    assert done.timing.decode_ms == pytest.approx(20)  # one decoding, not nine
    assert done.timing.preview_ms == pytest.approx(8 * 20)


def test_a_slow_consumer_holds_nothing_up(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 0.01)
    events = ask(scripted_service, heun=24)
    next(events)
    wait_until(lambda: len(scripted.blocks) == 24 + 5 + 3)
    assert len(list(events)) == 24 + 5 + 3


def test_a_consumer_gets_a_moment_before_the_next_block(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 20)
    previews = (event for event in ask(scripted_service) if isinstance(event, Preview))
    assert [len(scripted.blocks) for _ in previews] == list(range(1, 10))


def test_blocks_run_undisturbed_before_their_previews_are_shown(
    scripted, scripted_service, monkeypatch
):
    monkeypatch.setattr(accelerator_module, "_UNDISTURBED_S", 20)
    events = ask(scripted_service, seed=4)
    assert next(events).block == 1
    assert len(scripted.blocks) == 9
    assert [event.block for event in list(events)[:-1]] == list(range(2, 10))


def test_what_was_done_comes_before_what_went_wrong(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_UNDISTURBED_S", 20)
    scripted.fail_at = 4
    seen = []
    with pytest.raises(RuntimeError, match="fell over"):
        for event in ask(scripted_service):
            seen.append(event.block)
    assert seen == [1, 2, 3, 4]


def test_stop_ends_the_work_within_one_block(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 0.0)
    events = ask(scripted_service, heun=24, pseudo=0, refiner=0)
    next(events)
    scripted.gate.clear()
    started = len(scripted.blocks)
    events.close()
    scripted.gate.set()
    *_, done = ask(scripted_service, class_names=["dog"], heun=1, pseudo=0, refiner=0)
    assert isinstance(done, Done)
    # One that had passed the gate, and the one that stood before it.
    assert [name for name, _ in scripted.blocks].count((0,)) <= started + 2


def test_what_goes_wrong_reaches_the_caller_and_the_thread_goes_on(scripted, scripted_service):
    for k in (0, 4):
        scripted.fail_at = k
        previews = []
        with pytest.raises(RuntimeError, match="fell over"):
            previews.extend(ask(scripted_service))
    scripted.fail_at = None
    assert isinstance(list(ask(scripted_service))[-1], Done)


def test_requests_wait_their_turn(scripted, scripted_service):
    scripted.gate.clear()
    results = {}

    def consume(name):
        results[name] = list(ask(scripted_service, class_names=[name], heun=3))

    threads = [threading.Thread(target=consume, args=(name,)) for name in CLASSES]
    for thread in threads:
        thread.start()
    wait_until(lambda: scripted_service._accelerator._tasks.qsize() == 1)  # behind the other
    scripted.gate.set()
    for thread in threads:
        thread.join(20)
    served = [name for name, _ in scripted.blocks]
    assert served == sorted(served) or served == sorted(served, reverse=True)
    assert {len(events) for events in results.values()} == {3 + 5 + 3 + 1}
