"""The tab of texts, in a browser, and its endpoints."""

import re
import secrets
from itertools import pairwise
from urllib.parse import urlencode

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

from flowturbo_core.metadata import png_info, read_png
from tests.demo.service.test_service_of_texts import ASKED, BAD, VALUES, request
from tests.demo.visits import SIZES, Visit, seldom, serious_violations, visiting

ENDPOINT = "/generate_text_to_image"
QUERY = urlencode({"model": "tiny-texts", "prompt": "a red boat"} | VALUES | {"prompts": ""})


@pytest.fixture(scope="module")
def texts_address(serve, service, text_service):
    return serve(service, text_service)


def test_programs_ask_for_texts(texts_address):
    client = Client(texts_address, verbose=False)
    pictures, record = client.predict(**ASKED, api_name=ENDPOINT)
    assert [picture["caption"] for picture in pictures] == ["a red boat"] * 2
    assert read_png(pictures[1]["image"]).values["seed"] == 6
    assert record["prompts"] == ["a red boat"] and record["plan"] == "H1P1R1"
    for changes, sentence in BAD[:-1]:  # the client cannot send a NaN
        if None in changes.values():  # which is the default here
            continue
        with pytest.raises(AppError, match=re.escape(sentence[1:])):
            client.predict(**ASKED | changes, api_name=ENDPOINT)
    client.predict(**ASKED, api_name=ENDPOINT)  # the server keeps serving
    plans = {"first_plan": "H2", "second_plan": "H1P1R1", "num_images": 1}
    compared = {name: ASKED[name] for name in ("prompt", "seed", "randomise")}
    *_, record = client.predict(
        **compared | plans, guidance_scale=0, api_name="/compare_plans_of_text"
    )
    assert [row["plan"] for row in record["plans"]] == ["H2", "H1P1R1"]
    assert record["warnings"][0].startswith("at guidance 0 the prompt has no effect; 1 is no")


class TextVisit(Visit):
    """A visit to the tab of texts."""

    def __init__(self, browser, address, size, colours="light"):
        super().__init__(browser, address, size, colours)
        self.open_tab("Text to image")
        panel = self.page.get_by_role("tabpanel").filter(has=self.page.locator(".prompt"))
        self.panel = panel
        self.prompt = panel.get_by_label("Prompt", exact=True)
        self.generate = panel.get_by_role("button", name="Generate")
        self.stop = panel.get_by_role("button", name="Stop")
        self.readout = panel.locator(".card")
        self.pictures = panel.locator(".gallery img")
        self.seed = panel.get_by_label("Seed", exact=True)
        self.live = panel.get_by_label("Live")
        expect(self.generate).to_be_enabled()
        self.live.uncheck()

    def slide(self, **values):
        for name, value in values.items():
            number = self.panel.locator(f".{name} input[type=number]")
            number.fill(str(value))
            number.press("Tab")


@pytest.fixture(params=["desk", *seldom("telephone")])
def texts(browser, texts_address, request):
    with visiting(TextVisit(browser, texts_address, SIZES[request.param])) as visit:
        yield visit


@pytest.mark.parametrize("texts", SIZES, indirect=True)
def test_a_prompt_becomes_pictures(texts):
    texts.prompt.fill("a cat, by day")
    texts.slide(heun=1, pseudo=1, refiner=1, images=2)
    texts.run()
    expect(texts.pictures).to_have_count(2)
    expect(texts.pictures.first).to_have_attribute("alt", "a cat, by day")
    texts.page.wait_for_url("**prompt=a+cat%2C+by+day&**")
    assert serious_violations(texts.page) == []


# Notes every text that is in the prompt, and when it came to be.
WATCH_TYPING = """(box) => {
    window.typed = [];
    box.addEventListener("input", () => typed.push([performance.now(), box.value]));
}"""
PAUSE_MS = 400  # a little less than the page waits


def test_while_live_what_is_typed_is_sampled_once_the_typing_pauses(
    texts, text_service, monkeypatch
):
    engine, asked = text_service.wait(), []
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda its: (asked.append(its), generate(its))[1])
    texts.slide(heun=1, pseudo=0, refiner=0, images=1)
    texts.live.check()
    texts.prompt.fill("")
    texts.prompt.evaluate(WATCH_TYPING)
    texts.prompt.press_sequentially("a red boat at night", delay=30)
    typed = texts.page.evaluate("typed")
    texts.page.locator(".heun input[type=range]").locator("visible=true").press("ArrowRight")
    expect(texts.pictures.first).to_have_attribute("alt", "a red boat at night")
    texts.expect_readout(r"H2 · ")
    expect(texts.generate).to_be_enabled()
    # Nobody paused, but for a browser that had no time to go on.
    pauses = [text for (at, text), (next_at, _) in pairwise(typed) if next_at - at >= PAUSE_MS]
    assert asked[-1].subject.prompts == ("a red boat at night",)
    assert len(asked) <= 2 + len(pauses)  # the slider's, and what had been typed
    texts.prompt.press_sequentially("!", delay=30)
    expect(texts.pictures.first).to_have_attribute("alt", "a red boat at night!")


def test_while_live_whatever_changes_the_pictures_samples_them_again(texts):
    texts.slide(heun=1, pseudo=0, refiner=0, images=1)
    texts.run()
    texts.live.check()
    texts.prompt.press("Control+Enter")  # a key that writes nothing
    expect(texts.generate).to_be_enabled()
    texts.prompt.press("Control+a")
    texts.page.keyboard.insert_text("a cat")  # at once and without keys, as a paste
    expect(texts.pictures.first).to_have_attribute("alt", "a cat")
    texts.prompt.press("Backspace")
    expect(texts.pictures.first).to_have_attribute("alt", "a ca")
    texts.panel.get_by_label("Negative prompt").press_sequentially("dog", delay=30)
    texts.page.wait_for_url("**&negative_prompt=dog&**")
    texts.slide(guidance=3)
    texts.page.wait_for_url("**&guidance_scale=3.0&**")
    texts.slide(height=96)
    texts.page.wait_for_url("**&height=96&**")


def test_an_example_is_made_once_and_then_comes_back_at_once(texts):
    texts.slide(heun=1, pseudo=1, refiner=0, images=1)
    texts.seed.fill(str(secrets.randbelow(10**9)))  # what another visit made is kept, too
    example = texts.page.locator(".examples").get_by_text("white lighthouse, rain")
    example.click()
    expect(texts.prompt).to_have_value("white lighthouse, rain")
    expect(texts.pictures.first).to_have_attribute("alt", "white lighthouse, rain")
    expect(texts.readout).to_contain_text("evaluations")
    expect(texts.readout).not_to_contain_text("made earlier")
    texts.prompt.fill("a cat")
    example.click()
    expect(texts.readout).to_contain_text("made earlier")
    expect(texts.prompt).to_have_value("white lighthouse, rain")
    expect(texts.generate).to_be_enabled()
    expect(texts.page.get_by_test_id("toast-body")).to_have_count(0)
    texts.run()
    expect(texts.readout).not_to_contain_text("made earlier")


def test_a_text_that_is_too_long_is_warned_of(texts):
    texts.prompt.fill("a red boat " * 8)
    expect(texts.page.locator(".warning .hint")).to_contain_text("left out")


def test_no_prompt_is_refused_in_a_sentence(texts):
    texts.prompt.fill("")
    texts.generate.click()
    texts.expect_toast("Write a prompt")
    expect(texts.generate).to_be_enabled()


def test_an_address_of_a_text_opens_its_tab_and_samples(browser, texts_address):
    page = browser.new_page()
    page.goto(f"{texts_address}?{QUERY}")
    readout = page.get_by_role("tabpanel").filter(has=page.locator(".prompt")).locator(".card")
    expect(readout).to_have_text(re.compile("H1P1R1 · "))
    expect(page.get_by_role("tab", name="Text to image")).to_have_attribute("aria-selected", "true")
    page.close()


def test_an_address_of_a_models_name_alone_is_no_mistake(browser, texts_address):
    page = browser.new_page()
    page.goto(f"{texts_address}?model=tiny-texts")
    tab = page.get_by_role("tab", name="Text to image")
    expect(tab).to_have_attribute("aria-selected", "true")
    expect(page.locator(".status p")).to_have_count(2)
    assert page.get_by_test_id("toast-body").count() == 0
    page.close()


@pytest.fixture
def picture_of_a_text(text_service, tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture, pnginfo=png_info(request(text_service), {}))
    return picture


def test_a_picture_of_a_text_opened_among_classes_says_where_it_belongs(
    browser, texts_address, picture_of_a_text
):
    with visiting(Visit(browser, texts_address, SIZES["desk"])) as visit:
        visit.restore.first.set_input_files(picture_of_a_text)
        visit.expect_toast("This picture is of texts, not of classes")


@pytest.mark.parametrize("size", ["desk", *seldom("telephone")])
def test_a_picture_of_a_text_dropped_on_classes_opens_its_tab(
    browser, texts_address, picture_of_a_text, size
):
    with visiting(Visit(browser, texts_address, SIZES[size])) as visit:
        visit.drop(picture_of_a_text)
        prompt = visit.page.get_by_label("Prompt", exact=True).locator("visible=true")
        expect(prompt).to_have_value(VALUES["prompts"][0])


def test_what_is_dropped_and_is_no_picture_is_refused_in_a_sentence(
    browser, texts_address, tmp_path
):
    (tmp_path / "notes.txt").write_text("no picture")
    with visiting(Visit(browser, texts_address, SIZES["desk"])) as visit:
        visit.drop(tmp_path / "notes.txt")
        visit.expect_toast("This file is not a PNG picture")


def test_compare_offers_both_models(browser, texts_address):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(texts_address)
    page.get_by_role("tab", name="Compare").click()
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_label("tiny-texts"))
    expect(panel.locator(".tile").first).to_be_visible()
    panel.get_by_label("tiny-texts").check()
    expect(panel.locator(".tile").first).to_be_hidden()
    prompt = panel.get_by_label("Prompt", exact=True)
    prompt.fill("a cat, by day")
    panel.get_by_role("button", name="Compare").locator("visible=true").click()
    card = panel.locator(".card").locator("visible=true")
    expect(card).to_have_text(re.compile("as fast|RMS"), timeout=60_000)
    page.close()


@pytest.mark.slow  # `make screenshots` runs it
def test_screenshots(browser, bundled_address, tmp_path):
    """Save what the README shows."""
    with visiting(TextVisit(browser, bundled_address, SIZES["desk"])) as visit:
        visit.seed.fill("0")
        visit.run()
        visit.live.check()
        visit.photograph("text_to_image", tmp_path)
