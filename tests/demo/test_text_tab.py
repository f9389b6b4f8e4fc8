"""The tab of texts, its service, its endpoints: real pictures, refusals, settings that return."""

import random
import re
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

from demo.says import comparison, readout
from demo.says.pictures import Difference
from demo.service.events import Comparison, Done, Preview, Stopped
from demo.service.text_service import TextService
from flowturbo_core.metadata import TextSettings
from tests.demo.visits import SIZES, Visit, seldom, serious_violations, visiting

ASKED = {
    "prompt": "a red boat",
    "negative_prompt": "",
    "heun": 1,
    "pseudo": 1,
    "refiner": 1,
    "guidance_scale": 1.5,
    "height": 128,
    "width": 128,
    "num_images": 2,
    "seed": 5,
    "randomise": False,
}
ENDPOINT = "/generate_text_to_image"
SETTINGS = TextSettings("tiny-texts", ("a red boat",), "", "H1P1R1", 1.5, 2, 5, 128, 128)
BAD = [
    ({"prompt": ""}, "write a prompt"),
    ({"prompt": "  "}, "write a prompt"),
    ({"prompt": None}, "write a prompt"),
    ({"prompt": "a\0b"}, "control character"),
    ({"prompt": "x" * 2**20}, "1,048,576 characters; at most 2,000"),
    ({"prompt": 3}, "prompt must be a text"),
    ({"prompt": {"a": 1}}, "prompt must be a text"),
    ({"prompt": ["a cat", "a fish"]}, "prompt must be a text, not ['a cat', 'a fish']"),
    ({"negative_prompt": "\x1b[2J"}, "control character"),
    ({"height": 100}, "height must be a multiple of 8, not 100"),
    ({"width": 0}, "width must be a whole number from 8 to 2048, not 0"),
    ({"width": 4096}, "width must be a whole number from 8 to 2048, not 4096"),
    ({"height": "tall"}, "height must be a whole number"),
    ({"height": 2048, "width": 2048, "num_images": 8}, "fewer images"),
    ({"num_images": 9}, "number of images must be a whole number from 1 to 8, not 9"),
    ({"heun": 0, "pseudo": 0}, "begins with R"),
    ({"guidance_scale": float("nan")}, "guidance scale must be a number"),
]


def ask(service, **changes):
    return service.generate_text_to_image(**ASKED | changes)


def test_previews_and_then_pictures_with_their_text(text_service):
    *previews, done = ask(text_service)
    assert all(isinstance(event, Preview) for event in previews) and len(previews) == 3
    assert isinstance(done, Done) and done.settings == SETTINGS
    assert done.captions == ("a red boat",) * 2
    assert [picture.size for picture in done.pictures] == [(128, 128)] * 2
    *_, wide = ask(text_service, width=192, height=64, num_images=1)
    assert wide.pictures[0].size == (192, 64)


def test_an_example_is_kept_for_whoever_asks_the_very_same(text_service, monkeypatch):
    monkeypatch.setattr("demo.service.text_service._MAX_KEPT", 2)
    asked, show = ASKED, partial(text_service.generate_text_to_image, is_example=True)
    *previews, done = show(**asked)
    assert isinstance(done, Done) and len(previews) == 3
    with closing(show(**asked, visitor="somebody else", ticket=3)) as events:
        (kept,) = events
    assert kept.done is done and len(kept.previews) == 3
    assert {picture.size for its in kept.previews for picture in its.pictures} == {(72, 72)}
    *_, other = show(**asked | {"seed": 6})
    assert isinstance(other, Done)
    text_service.stop("one", 4)
    assert list(show(**asked, visitor="one", ticket=4)) == [Stopped()]  # before it came
    *_, third = show(**asked | {"seed": 7})
    *_, again = show(**asked)  # the oldest made room
    assert isinstance(third, Done) and isinstance(again, Done)
    monkeypatch.setattr("demo.service.text_service._MAX_KEPT_PIXELS", 1)
    for _ in range(2):
        *_, large = show(**asked | {"seed": 8})
        assert isinstance(large, Done)
    *_, anew = ask(text_service)
    assert isinstance(anew, Done) and anew is not again


@pytest.mark.parametrize("prompt", ["🚀", "قارب أحمر", "ein rotes Boot\nam Abend", "e\u0301" * 40])
def test_any_writing_is_a_prompt(text_service, prompt):
    *_, done = ask(text_service, prompt=prompt, num_images=1)
    assert done.captions == (" ".join(prompt.split()),)


@pytest.mark.parametrize(("changes", "sentence"), BAD)
def test_refused_before_anything_runs(text_service, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        ask(text_service, **changes)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 200


def test_settings_come_back(text_service):
    request, counts = text_service.restored(SETTINGS)
    assert (request.prompts, request.num_images, request.seed) == (("a red boat",), 2, 5)
    assert counts == (1, 1, 1)
    with pytest.raises(ValueError, match="takes one prompt at a time, not 2"):
        text_service.restored(TextSettings("tiny-texts", ("a", "b"), "", "H1", 1, 1, 0, 128, 128))
    with pytest.raises(ValueError, match="settings of the model 'another'"):
        text_service.restored(TextSettings("another", ("a",), "", "H1", 1, 1, 0, 128, 128))


def test_what_is_not_read_of_a_prompt_is_said(text_service):
    assert text_service.cut_warnings("a red boat") == []
    (warning,) = text_service.cut_warnings("a red boat " * 6 + "<b>")
    assert "left out" in warning and "<b>" in warning
    shown = readout.hints([warning])
    assert "&lt;b&gt;" in shown and "<b>" not in shown
    (warning,) = text_service.cut_warnings("a cat", "a red boat " * 6)
    assert "left out" in warning
    assert text_service.cut_warnings("") == [] and readout.hints([]) == ""


def test_a_text_beyond_the_limit_is_refused_where_it_is_written(text_service):
    (said,) = text_service.cut_warnings("x" * 2001)
    assert "prompt has 2,001 characters; at most 2,000 are read" in said
    (said,) = text_service.cut_warnings("a cat", "x" * 3000)
    assert "negative_prompt has 3,000" in said


def test_what_was_not_read_is_said_with_the_result(text_service):
    long = "a red boat " * 6
    for changes in ({"prompt": long}, {"negative_prompt": long}):
        *_, done = ask(text_service, num_images=1, **changes)
        (warning,) = done.warnings
        assert "left out" in warning and "left out" in readout.finished(done)
        assert readout.record(done)["warnings"] == [warning]
    *_, done = ask(text_service, num_images=1)
    assert done.warnings == () and "left out" not in readout.finished(done)
    *_, made = text_service.compare_plans(long, "H2", "H1P1R1", 1.5, 1, 0, False)
    difference = Difference.of(made.sides[0].pictures, made.sides[1].pictures)
    assert "left out" in comparison.finished(made, difference)
    assert len(comparison.record(made, difference, None)["warnings"]) == 1


def test_sides_are_multiples_of_what_the_autoencoder_makes_one_latent_of(text_service):
    model = replace(text_service.model, factor=16)
    coarse = TextService(model, text_service.wait, text_service._accelerator)
    with pytest.raises(ValueError, match="height must be a multiple of 16, not 136"):
        ask(coarse, height=136)


def test_two_plans_are_compared_on_a_text(text_service):
    *_, made = text_service.compare_plans("a red boat", "H2", "H1P1R1", 1.5, 1, 0, False)
    assert isinstance(made, Comparison) and made.is_done
    assert [side.settings.plan for side in made.sides] == ["H2", "H1P1R1"]
    assert made.captions == ("a red boat",)


@pytest.fixture(scope="module")
def texts_address(serve, service, text_service):
    return serve(service, text_service)


def test_programs_ask_for_texts(texts_address):
    client = Client(texts_address, verbose=False)
    pictures, record = client.predict(**ASKED, api_name=ENDPOINT)
    assert [picture["caption"] for picture in pictures] == ["a red boat"] * 2
    assert TextSettings.from_png(pictures[1]["image"]).seed == 6
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
    assert {its.prompts for its in asked} <= {(text,) for text in (*pauses, "a red boat at night")}
    assert asked[-1].prompts == ("a red boat at night",)
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
    texts.seed.fill(str(random.randrange(10**9)))  # what another visit made is kept, too
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
    page.goto(f"{texts_address}?{SETTINGS.to_query()}")
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
def picture_of_a_text(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture, pnginfo=SETTINGS.png_info({}))
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
        expect(prompt).to_have_value(SETTINGS.prompts[0])


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
