"""How settings come back in a browser: of a run, a picture, or the address."""

import json
import re
from io import BytesIO
from urllib.parse import quote
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from flowturbo_core.metadata import png_info, to_query
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import GENERATE, Classes, Request
from tests.demo.visits import LOOKS, SIZES, Visit


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
    request = Request(script, Classes((script,)), GENERATE, SamplePlan.parse("H1"), 1.5, None)
    info = png_info(request, {})
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


@pytest.mark.parametrize(("size", "colours"), LOOKS)
def test_a_picture_dropped_anywhere_is_sampled_again_while_live(
    browser, address, service, tmp_path, size, colours
):
    visit = Visit(browser, address, SIZES[size], colours)
    picture = tmp_path / "picture.png"
    values = {"class_names": ["fish"], "plan": "H2P1R1", "guidance_scale": 2.5, "seed": 7}
    info = png_info(service.request(values), {})
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
    page.goto(f"{address}?{to_query(service.opening)}")  # as everything opens anyway
    expect(readout).to_have_text(re.compile("H1P5R3 · "))
    expect(page.get_by_label("Seed", exact=True)).to_have_value("0")
    page.close()
