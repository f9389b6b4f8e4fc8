"""The page in a real browser, on a desk and on a telephone."""

import json
import re
import threading
from io import BytesIO
from urllib.parse import quote
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from demo.service.class_service import ClassService
from demo.service.engine import Engine
from flowturbo_core.data.postcards.scene import CLASSES
from flowturbo_core.metadata import Settings
from flowturbo_core.models.catalog import ModelDescription
from tests.demo.visits import (
    LOOKS,
    OTHER_LOOKS,
    SIZES,
    Visit,
    seldom,
    serious_violations,
    visiting,
)

# Notes what the readout says, where the pictures come from, and how tall their box is, always.
WATCH = """() => {
    const readout = document.querySelector(".readout");
    const gallery = document.querySelector(".gallery");
    window.seen = { texts: [], pictures: new Set(), heights: new Set() };
    const note = () => {
        seen.texts.push(readout.innerText);
        gallery.querySelectorAll("img").forEach((image) => seen.pictures.add(image.src));
        seen.heights.add(gallery.offsetHeight + " " + readout.offsetHeight);
    };
    note();
    const observer = new MutationObserver(note);
    for (const watched of [readout, gallery]) {
        const all = { subtree: true, childList: true, characterData: true, attributes: true };
        observer.observe(watched, all);
    }
}"""


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


def test_from_choosing_to_pictures(visit):
    visit.choose_classes("cat", "fish")
    visit.choose_preset("H2P4R2")
    visit.slides_at(heun=2, pseudo=4, refiner=2)
    visit.expect_cost("H2P4R2 8 blocks, 8 predictor + 4 refiner evaluations")
    visit.page.locator(".heun input[type=range]").press("ArrowRight")
    visit.expect_cost("H3P4R2 9 blocks, 10 predictor + 4 refiner evaluations")
    expect(visit.page.locator(".preset label.selected")).to_have_count(0)

    visit.page.evaluate(WATCH)
    visit.run()
    visit.expect_readout(
        r"ms / image.*× as fast as H8 \(about .* ms\).*H3P4R2 · sampling .* \+ decoding"
    )
    expect(visit.pictures).to_have_count(2)
    assert [picture.get_attribute("alt") for picture in visit.pictures.all()] == ["cat", "fish"]
    assert visit.pictures.first.evaluate("async (i) => (await i.decode(), i.naturalWidth)") == 128
    assert visit.pictures.first.evaluate("(i) => i.offsetWidth") >= 128

    seen = visit.page.evaluate(
        "() => ({ texts: seen.texts, pictures: seen.pictures.size, heights: seen.heights.size })"
    )
    blocks = [int(n) for n in re.findall(r"(\d+) of 9 blocks", "\n".join(seen["texts"]))]
    assert blocks == sorted(blocks) and len(set(blocks)) >= 4
    assert seen["pictures"] >= 2 * 4  # of two images, at least four previews
    assert seen["heights"] == 2  # its place was made when it was asked for; then nothing jumped


def test_the_seed_is_drawn_until_one_is_written(visit):
    visit.choose_classes("cat")
    visit.slide(heun=1, pseudo=0, refiner=0)
    visit.run()
    drawn = visit.seed.input_value()
    assert drawn != "0"
    visit.seed.fill("7")
    expect(visit.page.get_by_label("Random")).not_to_be_checked()
    visit.page.evaluate(WATCH)
    visit.run()
    assert visit.seed.input_value() == "7"


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


def test_a_refusal_is_said_and_the_page_goes_on(visit):
    visit.slide(heun=0, pseudo=0, refiner=0)
    visit.expect_cost("A plan needs at least one step")
    visit.generate.click()
    visit.expect_toast("A plan needs at least one step")
    expect(visit.generate).to_be_enabled()
    visit.choose_preset("H8")
    visit.expect_cost("H8 8 blocks, 16 predictor evaluations")
    visit.run()
    visit.expect_readout("H8 · .* 16 predictor evaluations(?! [+])")


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
    settings = Settings.from_png(kept)
    assert (settings.class_names, settings.plan) == (("fish",), "H24P24R8")
    assert str(settings.seed - 1) == visit.seed.input_value()
    visit.page.close()


def test_keys(visit):
    visit.slide(heun=24, pseudo=24, refiner=8, images=8)
    visit.page.keyboard.press("Control+Enter")
    visit.expect_readout("of 56 blocks")
    expect(visit.stop).to_be_enabled()
    visit.page.keyboard.press("Escape")
    visit.expect_readout("Stopped")


def test_an_address_a_picture_and_a_run_bring_their_settings_back(browser, address, tmp_path):
    there = address + "?class=fish&class=ringed+planet&plan=H2P1R1&guidance_scale=2.5&seed=7"
    visit = Visit(browser, there + "&num_images=2&utm_source=elsewhere", SIZES["desk"])
    first = {"heun": 2, "pseudo": 1, "refiner": 1, "guidance": 2.5, "images": 2}
    visit.slides_at(**first)
    expect(visit.seed).to_have_value("7")
    expect(visit.page.get_by_label("Random")).not_to_be_checked()
    visit.run()
    expect(visit.pictures).to_have_count(4)
    third = visit.pictures.nth(2)
    expect(third).to_have_attribute("alt", "ringed planet")
    expect(third).to_have_attribute("src", re.compile("seed9"))  # no preview any more
    made = tmp_path / "picture.png"
    made.write_bytes(visit.page.request.get(third.get_attribute("src")).body())

    visit.slide(heun=1, pseudo=0, refiner=0, images=1, guidance=1)
    visit.seed.fill("3")
    visit.run()
    visit.page.wait_for_url("**plan=H1&**seed=3**")
    expect(visit.page.locator(".visit li").first).to_contain_text("seed 3")
    with visit.page.expect_download() as download:
        visit.page.get_by_text("Download all").click()
    with ZipFile(download.value.path()) as archive:
        names = archive.namelist()
        assert json.loads(archive.read("settings.json"))["seed"] == 3
    assert len(names) == 2 + 1

    visit.restore.set_input_files(made)
    visit.slides_at(**first | {"images": 1})  # that picture alone
    expect(visit.seed).to_have_value("9")
    visit.run()
    expect(visit.pictures).to_have_count(1)
    again = visit.page.request.get(visit.pictures.first.get_attribute("src")).body()
    one, other = (Image.open(BytesIO(content)) for content in (made.read_bytes(), again))
    assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2

    visit.expect_toast("The settings are back")
    visit.page.locator(".visit li button").last.click()
    visit.slides_at(**first)
    expect(visit.seed).to_have_value("7")
    assert visit.complaints == []
    visit.page.close()


def test_hostile_settings_are_refused_in_a_sentence_and_nothing_else_happens(
    browser, address, tmp_path
):
    script = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
    visit = Visit(browser, f"{address}?plan={quote(script)}", SIZES["desk"])
    visit.expect_toast("is not understood")
    visit.slides_at(heun=1, pseudo=5, refiner=3)
    picture = tmp_path / "hostile.png"
    info = Settings(script, (script,), "H1", 1.5, 1, 0).png_info({})
    Image.new("RGB", (8, 8)).save(picture, pnginfo=info)
    visit.restore.set_input_files(picture)
    visit.expect_toast("this page runs")
    assert visit.page.evaluate("window.hacked") is None
    visit.slides_at(heun=1, pseudo=5, refiner=3)
    assert visit.complaints == []
    visit.page.close()


def test_after_stop_the_pictures_of_an_earlier_run_are_not_handed_out(browser, address):
    visit = Visit(browser, address, SIZES["desk"])
    archive = visit.page.get_by_role("button", name="Download all")
    visit.slide(heun=1, pseudo=0, refiner=0)
    visit.run()
    expect(archive).to_be_enabled()
    visit.slide(heun=24, pseudo=24, images=8)
    visit.generate.click()
    visit.expect_readout("of 48 blocks")
    visit.stop.click()
    visit.expect_readout("Stopped")
    expect(archive).to_be_disabled()
    visit.slide(heun=1, pseudo=0, images=1)
    visit.run()
    expect(archive).to_be_enabled()
    visit.page.close()


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


def test_classes_are_found_by_name_and_chosen_all_at_once(visit):
    search = visit.page.get_by_label("Search classes")
    search.fill("  PLAN")
    expect(visit.page.locator(".tile:visible")).to_have_text(["ringed planet"])
    visit.page.get_by_role("button", name="None", exact=True).click()
    visit.tile("ringed planet").click()
    assert search.input_value() == "  PLAN"
    search.fill("")
    visit.chosen("ringed planet")
    visit.page.get_by_role("button", name="One of each").click()
    visit.chosen(*CLASSES)
    visit.slide(heun=1, pseudo=0, refiner=0)
    visit.run()
    captions = [picture.get_attribute("alt") for picture in visit.pictures.all()]
    assert sorted(captions) == sorted(CLASSES)
    gallery = visit.page.locator(".gallery .grid-wrap")
    assert gallery.evaluate("(box) => box.scrollHeight - box.clientHeight") <= 4  # all in sight
    visit.page.get_by_role("button", name="None", exact=True).click()
    visit.generate.click()
    visit.expect_toast("Choose at least one class")


@pytest.mark.parametrize(("size", "colours"), LOOKS)
def test_a_picture_dropped_anywhere_is_sampled_again_while_live(
    browser, address, tmp_path, size, colours
):
    visit = Visit(browser, address, SIZES[size], colours)
    picture = tmp_path / "picture.png"
    info = Settings("tiny-postcards", ("fish",), "H2P1R1", 2.5, 1, 7).png_info({})
    Image.new("RGB", (8, 8)).save(picture, pnginfo=info)
    visit.live.check()
    visit.open_tab("Compare")  # which takes no picture: the first tab does
    visit.drop(picture)
    readout = visit.page.locator(".card").first
    expect(readout).to_have_text(re.compile("H2P1R1 · "))
    expect(readout).to_be_visible()
    expect(visit.pictures).to_have_count(1)
    chosen = visit.page.locator(".tile[aria-pressed=true]:visible")
    expect(chosen).to_have_text(["fish"])
    visit.page.wait_for_url("**class=fish&**seed=7")
    assert visit.complaints == []
    visit.page.close()


@pytest.mark.parametrize("size", SIZES)
def test_an_address_is_sampled_at_once_and_keeps_what_is_not_ours(browser, address, service, size):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(f"{address}?__theme=dark&class=+Cat&plan=H1P1&seed=5")
    readout = page.locator(".card")
    expect(readout).to_have_text(re.compile("H1P1 · "))
    expect(page.locator(".gallery img")).to_have_attribute("alt", "cat")
    expect(page.locator(".tile[aria-pressed=true]")).to_have_text(["cat"])
    page.wait_for_url("**class=cat**__theme=dark")
    page.goto(f"{address}?{service.default_settings.to_query()}")  # as everything opens anyway
    expect(readout).to_have_text(re.compile("H1P5R3 · "))
    expect(page.get_by_label("Seed", exact=True)).to_have_value("0")
    page.close()


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

    address = serve(ClassService(description, load))
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


@pytest.mark.parametrize(("size", "colours"), [*LOOKS, *seldom(*OTHER_LOOKS)])
def test_axe_finds_no_serious_violation(browser, address, size, colours):
    visit = Visit(browser, address, SIZES[size], colours)
    visit.slide(heun=2, pseudo=1, refiner=1)
    visit.run()
    expect(visit.page.locator(".visit li")).to_have_count(1)
    expect(visit.page.locator("body")).to_have_class(
        re.compile("dark") if colours == "dark" else re.compile("^(?!.*dark)")
    )
    found = serious_violations(visit.page)
    visit.page.get_by_role("tab", name="About").click()
    expect(visit.page.get_by_role("heading", name="Licence")).to_be_visible()
    assert found + serious_violations(visit.page) == []
    assert visit.complaints == [] and visit.sideways_scroll() == 0
    visit.page.close()


SCREENSHOTS = {
    "class_conditional": ("desk", "light"),
    "class_conditional_dark": ("desk", "dark"),
    "class_conditional_phone": ("telephone", "light"),
}


@pytest.mark.slow  # `make screenshots` runs it
def test_screenshots(browser, bundled_address, tmp_path):
    """Save what the README shows."""
    for name, (size, colours) in SCREENSHOTS.items():
        visit = Visit(browser, bundled_address, SIZES[size], colours)
        visit.seed.fill("0")
        visit.run()
        visit.choose_preset("H8")
        visit.run()
        visit.choose_preset("H1P5R3")
        visit.run()
        visit.live.check()
        visit.photograph(name, tmp_path)
        assert visit.complaints == []
        visit.page.close()
