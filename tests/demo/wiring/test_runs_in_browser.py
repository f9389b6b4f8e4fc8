"""How requests are started, stopped and overtaken, in a browser."""

import re
import threading

import pytest
from playwright.sync_api import expect

from demo.service.engine import Engine
from demo.service.service import Service
from flowturbo_core.metadata import read_png
from flowturbo_core.models.catalog import ModelDescription
from tests.demo.visits import LOOKS, SIZES, Visit, seldom, visiting


@pytest.fixture(params=SIZES)
def visit(request, browser, address):
    with visiting(Visit(browser, address, SIZES[request.param])) as visit:
        yield visit


@pytest.fixture
def computed(service, monkeypatch):
    """Return the list of events that the accelerator's thread has come to, in this test."""
    engine = service.wait()
    events, generate = [], engine.generate

    def noted(request):
        for event in generate(request):
            events.append(event)
            yield event

    monkeypatch.setattr(engine, "generate", noted)
    return events


def test_stop_in_the_middle(visit, computed):
    visit.slide(heun=24, pseudo=24, refiner=8, images=8)
    visit.expect_cost("H24P24R8")
    visit.generate.click()
    visit.expect_readout("[2-9] of 56 blocks")
    visit.stop.click()
    visit.expect_readout("Stopped")
    expect(visit.generate).to_be_enabled()
    expect(visit.stop).to_be_disabled()
    visit.slide(heun=1, pseudo=0, refiner=0, images=1)
    visit.expect_cost("H1 1 block")
    visit.run()
    visit.expect_readout("H1 · ")
    assert len(computed) < 56


@pytest.mark.parametrize(("size", "colours"), LOOKS)
def test_a_slider_let_go_samples_again_with_the_same_seed(
    browser, address, computed, size, colours
):
    visit = Visit(browser, address, SIZES[size], colours)
    visit.slide(heun=1, pseudo=0, refiner=0)
    visit.run()
    seed = visit.seed.input_value()
    expect(visit.page.get_by_label("Random")).to_be_checked()
    visit.live.check()
    steps = visit.drag("heun", 5)
    visit.expect_readout(f"H{steps} · ")
    assert visit.seed.input_value() == seed
    # Let go twice, the first time for a plan that takes long: the last one wins.
    visit.slide(images=8, pseudo=24)
    visit.drag("heun", 22)
    visit.expect_readout(r"\d of \d\d blocks")
    visit.slide(images=1, pseudo=0)
    steps = visit.drag("heun", 3)
    visit.expect_readout(f"H{steps} · ")
    expect(visit.generate).to_be_enabled()
    visit.choose_preset("H1P5R3")
    visit.expect_readout("H1P5R3 · ")
    assert visit.seed.input_value() == seed
    visit.live.uncheck()
    done = len(computed)
    visit.drag("heun", 9)
    visit.page.wait_for_timeout(500)
    assert len(computed) == done and visit.complaints == []
    visit.page.close()


LONG = {"heun": 24, "pseudo": 24, "refiner": 8, "images": 8}
SHORT = {"heun": 1, "pseudo": 0, "refiner": 0, "images": 1}
# Presses Stop, and Generate as soon as that can be pressed: sooner than a hand could.
AT_ONCE = """([stop, generate]) => {
    const press = () => (generate.disabled ? setTimeout(press) : generate.click());
    stop.click();
    setTimeout(press);
}"""


def error_marks(visit):
    return visit.page.locator(".readout .error:visible")


@pytest.mark.parametrize(
    ("pause_ms", "latency_ms"),
    [
        (None, 400),
        (200, 0),
        *seldom((None, 0), (0, 0), (0, 400), (200, 400), (1000, 0), (1000, 400)),
    ],
)
def test_generate_right_after_stop_is_not_lost(browser, address, pause_ms, latency_ms):
    visit = Visit(browser, address, SIZES["desk"])
    visit.slide(**LONG)
    visit.generate.click()
    visit.expect_readout("[2-9] of 56 blocks")
    visit.slide(**SHORT)
    visit.slow_down(latency_ms)
    if pause_ms is None:
        buttons = [button.element_handle() for button in (visit.stop, visit.generate)]
        visit.page.evaluate(AT_ONCE, buttons)
    else:
        visit.stop.click()
        visit.page.wait_for_timeout(pause_ms)
        visit.generate.click()
    visit.expect_readout("H1 · ")
    expect(visit.generate).to_be_enabled()
    expect(error_marks(visit)).to_have_count(0)
    assert visit.complaints == []
    visit.page.close()


@pytest.mark.parametrize("pause_ms", [200, *seldom(0, 600)])
def test_stop_is_not_lost_on_a_slow_line(browser, address, computed, pause_ms):
    visit = Visit(browser, address, SIZES["desk"])
    visit.slide(**LONG)
    visit.expect_cost("H24P24R8")
    visit.slow_down(400)
    visit.generate.click()
    visit.page.wait_for_timeout(pause_ms)
    visit.stop.click()
    visit.expect_readout("Stopped|Ready")
    visit.page.wait_for_timeout(2500)
    visit.expect_readout("Stopped")
    expect(visit.generate).to_be_enabled()
    expect(visit.stop).to_be_disabled()
    assert len(computed) < 56 and visit.complaints == []
    visit.page.close()


def test_stop_ends_what_is_about_to_be_sampled_again(browser, address, computed):
    visit = Visit(browser, address, SIZES["desk"])
    visit.slide(**LONG)
    visit.live.check()
    visit.drag("heun", 22)
    visit.expect_readout("of 5[0-9] blocks")
    visit.drag("heun", 17)
    visit.stop.click()
    visit.page.wait_for_timeout(2500)
    visit.expect_readout("Stopped")
    done = len(computed)
    visit.page.wait_for_timeout(500)
    assert len(computed) == done
    expect(visit.generate).to_be_enabled()
    assert visit.complaints == []
    visit.page.close()


def test_a_live_request_overtaken_in_the_queue_is_not_run(browser, address, computed):
    first, second = (Visit(browser, address, SIZES["desk"]) for _ in range(2))
    first.slide(**LONG)
    first.expect_cost("H24P24R8")
    second.slide(**LONG)
    second.live.check()
    first.generate.click()
    first.expect_readout("of 56 blocks")
    second.drag("heun", 22)
    second.page.wait_for_timeout(500)
    second.slide(pseudo=0, refiner=0, images=1)
    steps = second.drag("heun", 3)
    second.page.wait_for_timeout(300)
    computed.clear()
    first.stop.click()
    second.expect_readout(f"H{steps} · ")
    assert len(computed) < 20
    for visit in (first, second):
        assert visit.complaints == []
        visit.page.close()


def test_what_stop_keeps_carries_its_settings(browser, address, tmp_path):
    visit = Visit(browser, address, SIZES["desk"])
    visit.choose_classes("fish")
    visit.slide(**LONG)
    visit.generate.click()
    visit.expect_readout("[2-9] of 56 blocks")
    visit.stop.click()
    visit.expect_readout("Stopped")
    expect(visit.pictures.first).to_have_attribute("src", re.compile("fish-H24P24R8"))
    kept = tmp_path / "kept.png"
    address = visit.pictures.nth(1).get_attribute("src")
    kept.write_bytes(visit.page.request.get(address).body())
    values = read_png(kept).values
    assert (values["class_names"], values["plan"]) == (["fish"], "H24P24R8")
    assert str(values["seed"] - 1) == visit.seed.input_value()
    visit.page.close()


def test_keys(visit):
    visit.slide(heun=24, pseudo=24, refiner=8, images=8)
    visit.page.keyboard.press("Control+Enter")
    visit.expect_readout("of 56 blocks")
    expect(visit.stop).to_be_enabled()
    visit.page.keyboard.press("Escape")
    visit.expect_readout("Stopped")


def test_a_closed_page_frees_the_accelerator(browser, address, computed):
    leaving = Visit(browser, address, SIZES["desk"])
    leaving.slide(heun=24, pseudo=24, refiner=8, images=8)
    leaving.expect_cost("H24P24R8")
    leaving.generate.click()
    leaving.expect_readout("1 of 56 blocks|2 of 56 blocks")
    leaving.page.close()
    staying = Visit(browser, address, SIZES["desk"])
    staying.slide(heun=1, pseudo=0, refiner=0)
    staying.expect_cost("H1 1 block")
    staying.run()
    staying.page.close()
    assert len(computed) < 56


def test_a_slider_moved_by_key_is_live_and_an_empty_plan_is_passed_through(
    browser, address, computed
):
    visit = Visit(browser, address, SIZES["desk"])
    visit.slide(heun=1, pseudo=0, refiner=0)
    visit.run()
    visit.live.check()
    done = len(computed)
    track = visit.page.locator(".heun input[type=range]")
    track.press("ArrowLeft")
    visit.expect_cost("A plan needs at least one step")
    visit.page.wait_for_timeout(500)
    assert len(computed) == done
    track.press("ArrowRight")
    track.press("ArrowRight")
    visit.expect_readout("H2 · ")
    expect(visit.page.get_by_test_id("toast-body")).to_have_count(0)
    assert visit.complaints == []
    visit.page.close()


def test_of_two_visitors_the_second_sees_its_place_and_is_served_next(browser, address):
    first, second = (Visit(browser, address, SIZES[size], its) for size, its in LOOKS)
    first.slide(heun=24, pseudo=24, refiner=8, images=8)
    first.expect_cost("H24P24R8")
    second.choose_classes("cat")
    second.slide(heun=1, pseudo=0, refiner=0)
    second.run()  # what requests took is what the estimate is made of
    first.generate.click()
    first.expect_readout("of 56 blocks")
    second.generate.click()
    waiting = second.page.locator(".readout .progress-text").first
    expect(waiting).to_contain_text(re.compile(r"queue: 1/1 \| [\d.]+/[\d.]+s"))
    expect(second.readout).not_to_contain_text("of 56 blocks")
    first.stop.click()
    second.expect_readout("H1 · ")
    expect(second.pictures).to_have_count(1)
    first.expect_readout("Stopped")
    for visit in (first, second):
        assert visit.complaints == []
        visit.page.close()


def test_the_page_is_there_before_the_model(browser, serve, postcards_folder, tmp_path):
    may_load = threading.Event()
    description = ModelDescription.read(postcards_folder)

    def load():
        assert may_load.wait(120)
        return Engine.load(description, "cpu", "float32")

    address = serve(Service(description, load))
    visit = Visit(browser, address, SIZES["desk"])
    status = visit.page.locator(".status p")
    expect(status).to_have_text("loading tiny-postcards …")
    response = visit.page.request.get(f"{address}health")
    assert (response.status, response.json()["status"]) == (503, "loading")
    visit.slide(heun=1, pseudo=0, refiner=0)
    visit.generate.click()
    visit.expect_readout("Loading")
    expect(visit.stop).to_be_enabled()
    visit.stop.click()
    visit.expect_readout("Stopped")
    visit.generate.click()
    visit.expect_readout("Loading")
    may_load.set()
    visit.expect_readout("H1 · ")
    expect(status).to_have_text("tiny-postcards on cpu, float32")
    assert visit.page.request.get(f"{address}health").ok
    assert visit.complaints == []
    visit.page.close()
