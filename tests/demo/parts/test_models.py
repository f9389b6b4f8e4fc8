"""The choice of a model: told what it is, fetched on demand, and then used."""

import re

import gradio as gr
from playwright.sync_api import expect

from demo.parts import models
from demo.service.events import Fetching
from tests.demo.visits import Visit, serious_violations
from tests.local_hub import MODEL


def test_a_late_answer_from_before_a_download_does_not_end_looking_for_it():
    absent, arriving, here, failed = (
        models.look_again(Fetching(status)) for status in ("absent", "arriving", "here", "failed")
    )
    assert absent == gr.skip()
    assert [its.active for its in (arriving, here, failed)] == [True, False, False]


def test_the_page_fetches_a_model_and_makes_pictures_with_it(
    browser, serve, service, text_service, remote
):
    other, server = remote
    server.broken = {"unet/diffusion_pytorch_model.bin"}
    address = serve(service, text_service, other)
    visit = Visit(browser, address, (1400, 1024))
    page = visit.page
    visit.open_tab("Text to image")
    told = page.locator(".status p")
    expect(told).to_have_text([re.compile("^tiny-postcards on cpu"), re.compile("^tiny-texts on")])
    page.get_by_role("radio", name=MODEL.name).locator("visible=true").check()
    card = page.locator(".download .card").locator("visible=true")
    for text in (MODEL.name, "4.3 GB", MODEL.repository, MODEL.licence):
        expect(card).to_contain_text(text)
    assert serious_violations(page) == []
    fetching = page.locator(".fetch").locator("visible=true")
    fetching.click()
    bar = page.locator(".download .bar div").locator("visible=true")
    expect(bar).to_have_count(1)
    assert bar.bounding_box()["height"] > 0
    expect(card).to_contain_text("could not be fetched")
    expect(fetching).to_have_text("Try again")
    server.broken = set()
    fetching.click()
    generate = page.get_by_role("button", name="Generate").locator("visible=true")
    expect(generate).to_be_enabled()
    assert card.count() == 0
    prompt = page.get_by_label("Prompt", exact=True).locator("visible=true")
    prompt.fill("a cat in the snow")
    generate.click()
    readout = page.locator(".readout .card").locator("visible=true")
    expect(readout).to_contain_text("evaluations")
    # Of a model that was distilled to Euler's steps, the first slider counts these.
    expect(page.get_by_role("slider", name="Euler steps")).to_have_value("1")
    expect(readout.locator(".legend")).to_contain_text("Euler")
    page.wait_for_url(re.compile(r"[?&]plan=E1(&|$)"))  # the readout may be there before
    assert re.search(rf"[?&]model={re.escape(MODEL.name)}(&|$)", page.url)
    # Its address opens on it, and Compare has it too.
    visit.leave_for(page.url)
    expect(told).to_have_count(2)
    expect(page.get_by_role("radio", name=MODEL.name).locator("visible=true")).to_be_checked()
    expect(prompt).to_have_value("a cat in the snow")
    visit.open_tab("Compare")
    page.get_by_role("radio", name=MODEL.name).locator("visible=true").check()
    expect(page.get_by_role("button", name="Compare").locator("visible=true")).to_be_enabled()
    assert visit.complaints == []
    page.close()
