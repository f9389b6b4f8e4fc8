"""The page in a real browser, on a desk and on a telephone."""

import json
import os
import re
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, urlsplit
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from demo.metadata import Settings
from demo.service import Service
from flowturbo_core.models.catalog import DEFAULT_MODEL, bundled_models

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
SIZES = {"desk": (1400, 1024), "telephone": (390, 844)}
PATIENCE_MS = 60_000

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


# Tells when Stop was enabled and no longer is: a small run is over before one could look twice.
WATCH_STOP = """(stop) => {
    window.ran = false;
    let enabled = false;
    new MutationObserver(() => {
        window.ran ||= enabled && stop.disabled;
        enabled = !stop.disabled;
    }).observe(stop, { attributes: true });
}"""


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM.exists(), f"there is no {CHROMIUM}: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One page, and everything it did that it should not."""

    def __init__(self, browser, address, size):
        self.complaints = []
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("response", self._response)
        self.page.goto(address)
        self.generate = self.page.get_by_role("button", name="Generate")
        self.stop = self.page.get_by_role("button", name="Stop")
        self.readout = self.page.locator(".card")
        self.pictures = self.page.locator(".gallery img")
        self.seed = self.page.get_by_label("Seed")
        self.live = self.page.get_by_label("Live")
        expect(self.generate).to_be_enabled(timeout=PATIENCE_MS)
        self.live.uncheck()

    def _console(self, message):
        gradios_own = message.text == "Method not implemented."  # with every file that is uploaded
        if message.type in ("error", "warning") and not gradios_own:
            self.complaints.append(message.text)

    def _request(self, request):
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.complaints.append(f"a request left for {request.url}")

    def _response(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url} {response.request.post_data}")

    def slide(self, **values):
        for name, value in values.items():
            number = self.page.locator(f".{name} input[type=number]")
            number.fill(str(value))
            number.press("Tab")

    def drag(self, name, value):
        track = self.page.locator(f".{name} input[type=range]")
        box, highest = track.bounding_box(), int(track.get_attribute("max"))
        place = [box["x"] + box["width"] * share / highest for share in (0.5, value)]
        height = box["y"] + box["height"] / 2
        self.page.mouse.move(place[0], height)
        self.page.mouse.down()
        self.page.mouse.move(place[1], height, steps=3)
        self.page.mouse.up()
        return int(self.page.locator(f".{name} input[type=number]").input_value())

    def expect_toast(self, text):
        toast = self.page.get_by_test_id("toast-body")
        expect(toast).to_contain_text(text, timeout=PATIENCE_MS)

    def slides_at(self, **values):
        for name, value in values.items():
            number = self.page.locator(f".{name} input[type=number]")
            expect(number).to_have_value(str(value), timeout=PATIENCE_MS)

    def choose_classes(self, *names):
        self.page.get_by_label("Clear").or_(self.page.get_by_title("Clear")).first.click()
        field = self.page.get_by_label("Classes")
        for name in names:
            field.fill(name)
            self.page.get_by_role("option", name=name, exact=True).click()
        field.press("Escape")

    def expect_cost(self, text):
        expect(self.page.locator(".cost")).to_contain_text(text, timeout=PATIENCE_MS)

    def expect_readout(self, pattern):
        expect(self.readout).to_have_text(re.compile(pattern), timeout=PATIENCE_MS)

    def run(self):
        self.stop.evaluate(WATCH_STOP)
        self.generate.click()
        self.page.wait_for_function("window.ran")
        self.expect_readout("evaluations")
        expect(self.generate).to_be_enabled(timeout=PATIENCE_MS)

    def sideways_scroll(self):
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )


@pytest.fixture(params=SIZES)
def visit(request, browser, address):
    visit = Visit(browser, address, SIZES[request.param])
    yield visit
    assert visit.complaints == []
    assert visit.sideways_scroll() == 0
    visit.page.close()


@pytest.fixture
def computed(service, monkeypatch):
    """Return the list of events that the accelerator's thread has come to, in this test."""
    events, generate = [], service._generate

    def noted(request):
        for event in generate(request):
            events.append(event)
            yield event

    monkeypatch.setattr(service, "_generate", noted)
    return events


def test_from_choosing_to_pictures(visit):
    visit.choose_classes("cat", "fish")
    visit.page.get_by_text("H2P4R2", exact=True).click()
    visit.slides_at(heun=2, pseudo=4, refiner=2)
    visit.expect_cost("H2P4R2 8 blocks, 8 predictor + 4 refiner evaluations")
    visit.page.locator(".heun input[type=range]").press("ArrowRight")
    visit.expect_cost("H3P4R2 9 blocks, 10 predictor + 4 refiner evaluations")
    expect(visit.page.locator(".preset label.selected")).to_have_count(0)

    visit.page.evaluate(WATCH)
    visit.run()
    visit.expect_readout(r"ms / image.*× as fast as H9 \(.* ms\).*H3P4R2 · sampling .* \+ decoding")
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
    assert seen["heights"] == 1  # nothing jumped


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
    visit.page.get_by_text("H8", exact=True).click()
    visit.expect_cost("H8 8 blocks, 16 predictor evaluations")
    visit.run()
    visit.expect_readout("H8 · .* 16 predictor evaluations(?! [+])")


def test_a_slider_let_go_samples_again_with_the_same_seed(browser, address, computed):
    visit = Visit(browser, address, SIZES["desk"])
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
    visit.page.get_by_text("H1P5R3", exact=True).click()
    visit.expect_readout("H1P5R3 · ")
    assert visit.seed.input_value() == seed
    visit.live.uncheck()
    done = len(computed)
    visit.drag("heun", 9)
    visit.page.wait_for_timeout(500)
    assert len(computed) == done and visit.complaints == []
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
    made = tmp_path / "picture.png"
    made.write_bytes(visit.page.request.get(third.get_attribute("src")).body())

    visit.slide(heun=1, pseudo=0, refiner=0, images=1, guidance=1)
    visit.seed.fill("3")
    visit.run()
    visit.page.wait_for_url("**plan=H1&**seed=3")
    with visit.page.expect_download() as download:
        visit.page.get_by_text("Download all").click()
    with ZipFile(download.value.path()) as archive:
        names = archive.namelist()
        assert json.loads(archive.read("settings.json"))["seed"] == 3
    assert len(names) == 2 + 1

    visit.page.locator(".drop input[type=file]").set_input_files(made)
    visit.slides_at(**first | {"images": 1})  # that picture alone
    expect(visit.seed).to_have_value("9")
    visit.run()
    expect(visit.pictures).to_have_count(1)
    again = visit.page.request.get(visit.pictures.first.get_attribute("src")).body()
    one, other = (Image.open(BytesIO(content)) for content in (made.read_bytes(), again))
    assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2

    visit.page.locator(".visit button").last.click()
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
    visit.page.locator(".drop input[type=file]").set_input_files(picture)
    visit.expect_toast("this page runs")
    assert visit.page.evaluate("window.hacked") is None
    visit.slides_at(heun=1, pseudo=5, refiner=3)
    assert visit.complaints == []
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


def test_screenshot(browser, address, serve, tmp_path):
    """Save what the README shows: the bundled model's pictures, or else the tiny one's noise."""
    if DEFAULT_MODEL in bundled_models():
        address = serve(Service.load())
    folder = Path(os.environ.get("FLOWTURBO_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    visit = Visit(browser, address, SIZES["desk"])
    visit.seed.fill("0")
    visit.run()
    visit.live.check()
    for picture in visit.pictures.all():
        picture.evaluate("(image) => image.decode()")
    visit.page.mouse.move(0, 0)
    visit.page.screenshot(path=folder / "class_conditional.png", full_page=True)
    assert visit.complaints == []
    visit.page.close()
