"""What is forgotten so that neither memory nor disk fill up, and how pages go on that it was of."""

import logging
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import expect

from demo import ui
from demo.serving import upkeep
from demo.serving.cache import Keeping, folder, sweep
from demo.serving.upkeep import forget_answered
from tests.demo.conftest import free_port
from tests.demo.serving.test_cache import fill
from tests.demo.test_api import ENDPOINT, GOOD, asked, post
from tests.demo.visits import SIZES, Visit


@contextmanager
def served(service, **options):
    page = ui.build(service)
    launched = ui.launch_options(service, keeping=Keeping(hours=3, megabytes=2000)) | options
    page.queue(max_size=20).launch(
        server_port=free_port(), prevent_thread_lock=True, quiet=True, **launched
    )
    try:
        yield page
    finally:
        page.close(verbose=False)


@pytest.fixture(scope="module")
def page(service):
    with served(service, state_session_capacity=3) as page:
        yield page


def test_a_call_leaves_nothing_behind_once_it_is_answered(page):
    holder, queue = page.app.state_holder, page._queue

    def known():
        """Return the sessions that Gradio keeps: other tests have opened pages, too."""
        sessions, used = holder.session_data, holder.time_last_used
        queued = queue.pending_event_ids_session, queue.pending_messages_per_session
        return [set(names) for names in (sessions, used, *queued)]

    before = known()
    for seed in range(3):
        event, _ = post(page.local_url, [*GOOD[:-2], seed, False])
        assert event == "complete"
    assert known()[0] - before[0]
    while queue.event_ids_to_events:  # the last is put away after it was answered
        time.sleep(0.01)
    forget_answered(page.app)
    assert all(now <= then for now, then in zip(known(), before, strict=True))
    assert not page.app.iterators and not page.app.iterators_to_reset


def test_what_is_under_way_is_not_forgotten(page):
    client = Client(page.local_url, verbose=False)
    job = client.submit(**asked(heun=24, pseudo=24, num_images=8), api_name=ENDPOINT)
    next(iter(job))
    forget_answered(page.app)
    assert client.session_hash in page.app.state_holder.session_data
    assert client.session_hash in page._queue.pending_event_ids_session
    job.cancel()


def test_messages_that_nobody_reads_any_more_are_not_counted_for_ever(page):
    queue = page._queue
    queue.pending_event_ids_session["0" * 32] = {"0" * 32}  # its messages were dropped
    forget_answered(page.app)
    assert "0" * 32 not in queue.pending_event_ids_session


def test_a_session_holds_no_copy_of_the_page(page):
    session = page.app.state_holder["a page's"]
    assert session.config_values == {}
    assert session.blocks_config.blocks.keys() == page.blocks.keys()
    assert session.blocks_config.fns.keys() == page.fns.keys()


def test_no_more_sessions_are_held_than_may_be(page):
    for k in range(5):
        page.app.state_holder[f"page {k}"]
    assert list(page.app.state_holder.session_data) == ["page 2", "page 3", "page 4"]


def test_upkeep_survives_what_goes_wrong(monkeypatch, service, caplog):
    monkeypatch.setattr(upkeep, "_EVERY_S", 0.01)
    calls = []

    def fail(*_):
        calls.append(1)
        raise OSError("the folder fell over")

    monkeypatch.setattr(upkeep, "_sweep", fail)
    with caplog.at_level(logging.ERROR), served(service):
        until = time.monotonic() + 20
        while len(calls) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(calls) >= 3
    assert "the folder fell over" in caplog.text


def test_a_former_processs_files_go_when_a_page_is_served(monkeypatch, tmp_path, service):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    old = folder() / "a" / "old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    with served(service) as page:
        until = time.monotonic() + 20
        while old.exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert not old.exists()
        event, data = post(page.local_url, list(asked().values()))
        assert event == "complete"
        assert Path(data[0][0]["image"]["path"]).is_relative_to(folder())


def test_a_full_disk_is_a_sentence_and_the_next_request_is_served(monkeypatch, page):
    values = list(asked(seed=int(time.time())).values())  # whose pictures are not there yet
    with monkeypatch.context() as full:
        fill(full)
        event, data = post(page.local_url, values)
    assert event == "error"
    assert f"{folder()} cannot be written: the disk is full" in data["error"]
    assert post(page.local_url, values)[0] == "complete"


@pytest.fixture
def visit(browser, page):
    visit = Visit(browser, f"{page.local_url}", SIZES["desk"])
    visit.slide(heun=1, pseudo=0, refiner=0)
    yield visit
    visit.page.close()


def test_a_page_whose_session_was_forgotten_goes_on(visit, page):
    visit.run()
    expect(visit.page.locator(".runs li")).to_have_count(1)
    page.app.state_holder.session_data.clear()
    visit.run()
    expect(visit.page.locator(".runs li")).to_have_count(1)  # the list began anew
    expect(visit.page.get_by_role("button", name="Download all")).to_be_enabled()
    assert visit.complaints == []


def test_a_page_says_that_its_pictures_were_removed(visit):
    visit.run()
    archive = visit.page.get_by_role("button", name="Download all")
    expect(archive).to_be_enabled()
    sweep(Keeping(hours=3), now=time.time() + 3 * 3600 + 60)
    archive.click()
    notice = visit.page.locator(".removed").locator("visible=true")
    expect(notice).to_have_text(
        "These pictures were removed: they are kept for 3 h, and up to 2,000 MB of them. "
        "Press Generate, with the same seed, to make them again."
    )
    assert all("403" in its for its in visit.complaints), visit.complaints
    visit.run()
    expect(notice).to_have_count(0)
    with visit.page.expect_download() as download:
        archive.click()
    assert download.value.suggested_filename.endswith(".zip")


def test_a_full_disk_is_said_on_the_page(visit, monkeypatch):
    visit.seed.fill("918273")  # of which no picture is there yet
    with monkeypatch.context() as full:
        fill(full)
        visit.generate.click()
        visit.expect_toast("cannot be written: the disk is full")
        expect(visit.generate).to_be_enabled()
    visit.run()
