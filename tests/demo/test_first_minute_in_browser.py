"""The first minute at the page, by keyboard, by ear, and on a telephone."""

import re
import threading

import pytest
from playwright.sync_api import expect

from demo.service.engine import Engine
from demo.service.service import Service
from flowturbo_core.models.catalog import ModelDescription
from tests.demo.visits import LISTEN, SIZES, Visit, serious_violations, visiting

LONG = {"heun": 24, "pseudo": 24, "refiner": 8, "images": 8}
SHORT = {"heun": 1, "pseudo": 0, "refiner": 0, "images": 1}
NUMBERS = (*SHORT, "guidance", "seed")

# What lies over the middle of what has the focus, if anything else does.
COVER = """() => {
    const focused = document.activeElement;
    const { x, y, width, height } = focused.getBoundingClientRect();
    const top = document.elementFromPoint(x + width / 2, y + height / 2);
    const cover = top?.closest(".run, .gallery");
    return cover && !cover.contains(focused) ? cover.className : null;
}"""


@pytest.fixture
def asked(service, monkeypatch):
    """Return the list of what the service is asked for, in this test."""
    return note_requests(service, monkeypatch)


def note_requests(service, monkeypatch):
    """Return the list of the requests that a service is asked for from now on."""
    requests, read = [], service.request

    def noted(values, *others):
        request = read(values, *others)
        if "seed" in values:  # of texts alone, a page wants to know what is not read of them
            requests.append(request)
        return request

    monkeypatch.setattr(service, "request", noted)
    return requests


@pytest.fixture
def held(service):
    """Keep the accelerator busy, so that nothing comes to its first block, until this is set."""
    free = threading.Event()
    service._accelerator.submit(lambda: free.wait(60))
    yield free
    free.set()


@pytest.fixture(scope="module")
def shipped_address(serve, service):
    """Return the address of a page of the model that ships, which a tiny one stands in for."""
    pipeline, description = service.wait().pipeline, ModelDescription.read("postcards-sit")
    shipped = Service(description, lambda: Engine(pipeline))
    shipped.wait()
    return serve(shipped)


@pytest.fixture
def visit(browser, address):
    with visiting(Visit(browser, address, SIZES["desk"])) as visit:
        yield visit


def box(visit, name):
    return visit.page.locator(f".{name} input[type=number]")


def test_a_number_that_nobody_changed_does_nothing_and_none_is_not_nought(visit, asked):
    visit.slide(**SHORT)
    visit.run()
    visit.live.check()
    asked.clear()
    for name in NUMBERS:
        box(visit, name).focus()
        visit.page.keyboard.press("Tab")
    for name in ("heun", "guidance", "seed"):
        before = box(visit, name).input_value()
        box(visit, name).fill("")
        box(visit, name).press("Tab")
        expect(box(visit, name)).to_have_value(before)
    box(visit, "heun").fill("3")
    box(visit, "heun").fill("1")  # written back before it was let go
    box(visit, "heun").press("Enter")
    visit.page.locator(".pseudo input[type=range]").press("Home")  # it is there
    visit.page.locator(".images input[type=range]").click(position={"x": 1, "y": 4})
    # What is asked comes in order: had anything been, it would have been before this.
    box(visit, "heun").fill("2")
    box(visit, "heun").press("Enter")
    expect(box(visit, "heun")).to_be_focused()
    visit.expect_readout("H2 · ")
    box(visit, "heun").press("Tab")  # and not a second time
    box(visit, "pseudo").fill("1")
    box(visit, "pseudo").press("Tab")
    visit.expect_readout("H2P1 · ")
    assert [str(request.plan) for request in asked] == ["H2", "H2P1"]


def test_the_focus_goes_to_stop_and_back_unless_the_person_moved_on(visit):
    visit.slide(**LONG)
    visit.expect_cost("H24P24R8")
    visit.generate.press("Enter")
    expect(visit.stop).to_be_focused()
    visit.expect_readout("of 56 blocks")
    visit.stop.press("Enter")
    visit.expect_readout("Stopped")
    expect(visit.generate).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(visit.stop).to_be_focused()
    visit.seed.focus()
    visit.page.keyboard.press("Escape")
    visit.expect_readout("Stopped")
    expect(visit.generate).to_be_enabled()
    expect(visit.seed).to_be_focused()
    visit.slide(**SHORT)
    visit.expect_cost("H1 1 block")
    visit.generate.press("Enter")
    visit.expect_readout("H1 · ")
    expect(visit.generate).to_be_focused()


def test_before_the_first_block_stop_is_said_too(visit, held):
    visit.page.evaluate(LISTEN)
    visit.generate.press("Enter")
    expect(visit.stop).to_be_focused()
    visit.page.keyboard.press("Escape")
    visit.expect_readout("Stopped.*Nothing was sampled")
    visit.page.wait_for_function("heard.length === 2")
    assert visit.page.evaluate("heard") == ["Sampling.", "Stopped. Nothing was sampled."]
    expect(visit.generate).to_be_focused()
    held.set()
    visit.slide(**SHORT)
    visit.run()
    visit.expect_readout("H1 · ")


def test_waiting_for_the_model_is_heard_and_so_is_what_stop_leaves(browser, serve, service):
    engine, may_load = service.wait(), threading.Event()

    def load():
        assert may_load.wait(60)
        return engine

    with visiting(Visit(browser, serve(Service(service.model, load)), SIZES["desk"])) as visit:
        visit.slide(**SHORT)
        visit.page.evaluate(LISTEN)
        visit.generate.click()
        visit.page.wait_for_function("heard.length === 2")
        visit.stop.click()
        visit.page.wait_for_function("heard.at(-1) === 'Stopped. Nothing was sampled.'")
        started, waits, *stopped = visit.page.evaluate("heard")
        assert started == "Sampling."
        assert waits == "The model is being loaded; sampling starts by itself."
        assert set(stopped) == {"Stopped. Nothing was sampled."}
        may_load.set()
        visit.run()


def test_what_fails_on_its_way_is_heard_and_so_is_what_is_left(visit, service, monkeypatch):
    engine = service.wait()
    generate = engine.generate

    def fall_over(request):
        events = generate(request)
        yield next(events)
        raise ValueError("the device fell over")

    visit.slide(**LONG)
    visit.expect_cost("H24P24R8")
    visit.page.evaluate(LISTEN)
    with monkeypatch.context() as broken:
        broken.setattr(engine, "generate", fall_over)
        visit.generate.click()
        visit.expect_toast("The device fell over")
        visit.expect_readout("Stopped")
    visit.page.wait_for_function("heard.length === 3")
    left = "Stopped. The pictures show how far sampling came."
    started, *told = visit.page.evaluate("heard")
    assert started == "Sampling." and sorted(told) == sorted([left, "The device fell over"])
    expect(visit.generate).to_be_enabled()


def test_a_run_is_heard_from_its_start_to_its_result_and_so_is_a_refusal(visit):
    visit.choose_classes("cat", "fish")
    visit.slide(heun=2, pseudo=6, refiner=0)
    visit.page.evaluate(LISTEN)
    visit.run()
    visit.page.wait_for_function("heard.length === 2")
    started, result = visit.page.evaluate("heard")
    assert started == "Sampling."
    assert re.fullmatch(r"2 pictures, [\d.]+ ms each, [\d.]+ times as fast as H8", result)
    visit.slide(heun=0, pseudo=0)
    visit.generate.click()
    visit.page.wait_for_function("heard.at(-1).startsWith('A plan needs at least one step')")
    # What was there before is no result of what was refused.
    assert [its for its in visit.page.evaluate("heard") if "pictures" in its] == [result]
    visit.expect_readout("H2P6 · ")  # what was there is there still
    regions = visit.page.locator("[role=status], [role=alert], [aria-live=polite]")
    expect(regions.locator("visible=true").filter(has_text="ommon.")).to_have_count(0)
    expect(visit.page.locator(".sr-only[role=status]").locator("visible=true")).to_have_count(0)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_that_has_the_focus_is_covered(browser, address, size):
    with visiting(Visit(browser, address, SIZES[size])) as visit:
        visit.slide(**SHORT)
        visit.run()
        visit.page.get_by_role("tab", name="About").focus()
        for _ in range(40):
            visit.page.keyboard.press("Tab")
            assert visit.page.evaluate(COVER) is None
            if visit.page.evaluate("document.activeElement.matches('.generate')"):
                break
        else:
            raise AssertionError("Generate is more than 40 presses of Tab away")


def test_a_wrong_address_is_told_once_and_before_anything_is_made_no_box_is_empty(
    browser, serve, service, text_service
):
    address = serve(service, text_service)
    with visiting(Visit(browser, f"{address}?plan=banana", SIZES["desk"])) as visit:
        page = visit.page
        visit.expect_readout("Ready.*Press Generate")
        expect(page.locator(".gallery")).to_be_hidden()
        expect(page.locator(".trajectory")).to_be_hidden()
        told = page.get_by_test_id("toast-text")
        expect(told.first).to_contain_text("Plan 'banana' is not understood")
        visit.open_tab("Text to image")
        prompt = page.get_by_label("Prompt", exact=True).locator("visible=true")
        live = page.get_by_label("Live").locator("visible=true")
        expect(live).to_be_checked()
        prompt.fill("x" * 2001)
        hint = page.locator(".warning .hint").locator("visible=true")
        expect(hint).to_contain_text("rompt has 2,001 characters; at most 2,000 are read")
        assert len(prompt.input_value()) == 2001  # and nothing is cut
        assert told.filter(has_text="banana").count() <= 1
        page.get_by_role("button", name="Generate").locator("visible=true").click()
        expect(told.last).to_contain_text("Prompt has 2,001 characters")
        prompt.fill("a cat")
        pictures = page.locator(".gallery img").locator("visible=true")
        expect(pictures.first).to_have_attribute("alt", "a cat")


_WRITE_IN_TURN = """(box, texts) => texts.forEach((text) => {
    box.value = text;
    box.dispatchEvent(new InputEvent("input", { bubbles: true }));
})"""


def test_a_text_that_comes_back_to_what_it_was_makes_nothing_new(
    browser, serve, service, text_service, monkeypatch
):
    requests = note_requests(text_service, monkeypatch)
    with visiting(Visit(browser, serve(service, text_service), SIZES["desk"])) as visit:
        visit.open_tab("Text to image")
        prompt = visit.page.get_by_label("Prompt", exact=True).locator("visible=true")
        pictures = visit.page.locator(".gallery img").locator("visible=true")
        prompt.fill("a cat")
        expect(pictures.first).to_have_attribute("alt", "a cat")
        # At once: on a busy machine, keys may come a pause apart. What is left is a blank.
        prompt.evaluate(_WRITE_IN_TURN, ["a cat b", "a cat "])
        prompt.evaluate("() => new Promise((resolve) => setTimeout(resolve, 600))")  # the pause
        prompt.fill("a dog")
        expect(pictures.first).to_have_attribute("alt", "a dog")
    assert [request.subject.things for request in requests] == [("a cat",), ("a dog",)]


def test_the_page_opens_with_pictures_that_say_that_they_were_made_before(browser, shipped_address):
    with visiting(Visit(browser, shipped_address, SIZES["desk"])) as visit:
        expect(visit.pictures).to_have_count(4)
        visit.expect_readout(
            r"ms / image, made before.*as fast as H8.*made before on .*cores.*Generate makes new"
        )
        assert visit.page.url == shipped_address  # nobody asked for them
        expect(visit.stop).to_be_disabled()
        visit.page.set_viewport_size({"width": 1400, "height": 900})
        visit.page.evaluate("scrollTo(0, 0)")
        for picture in visit.pictures.all():
            expect(picture).to_be_in_viewport(ratio=1)
        visit.pictures.nth(2).click()
        expect(visit.page.locator(".trajectory h2")).to_have_text("Trajectory of city")
        visit.page.keyboard.press("Escape")
        assert serious_violations(visit.page) == []
        visit.slide(**SHORT)
        visit.run()
        visit.expect_readout(r"ms / image(?!, made).*H1 · ")
        expect(visit.page.locator(".visit li")).to_have_count(1)  # what was made before is of none
    page = browser.new_page()
    page.goto(f"{shipped_address}?class=cat&plan=H1P1&seed=5")
    expect(page.locator(".card")).to_contain_text("H1P1 · ")
    expect(page.locator(".gallery img")).to_have_count(1)
    expect(page.locator(".gallery img")).to_have_attribute("alt", "cat")
    page.close()


def test_on_a_telephone_the_pictures_stay_in_sight_while_a_slider_moves(browser, shipped_address):
    width, height = SIZES["telephone"]
    with visiting(Visit(browser, shipped_address, (width, height))) as visit:
        expect(visit.pictures).to_have_count(4)
        gallery, run = visit.page.locator(".gallery"), visit.page.locator(".run")
        for name in ("refiner", "images"):
            visit.drag(name, 3)
            top, bottom = gallery.bounding_box(), run.bounding_box()
            assert top["y"] >= 0 and visit.pictures.first.bounding_box()["height"] > 100
            slider = visit.page.locator(f".{name} input[type=range]").bounding_box()
            assert top["y"] + top["height"] <= slider["y"] <= bottom["y"]
            assert height - top["height"] - bottom["height"] >= height / 2
        visit.slide(**SHORT)
        visit.run()
        expect(gallery).to_have_attribute("data-headline", re.compile(r"^[\d.]+ ms / image$"))


def test_plans_are_said_in_words_and_chosen_by_arrows(visit):
    for tab, preset in (("Class-conditional", ".preset"), ("Compare", ".compare .preset")):
        visit.open_tab(tab)
        presets = visit.page.locator(preset).locator("visible=true").first
        radio = presets.get_by_role("radio", name="H1P5R3")
        words = "1 accurate step, 5 at half the price, 3 nearly free"
        expect(radio).to_have_attribute("aria-description", words)
        expect(presets.locator("label").filter(has_text="H1P5R3")).to_have_attribute("title", words)
        plain = presets.get_by_role("radio", name="H8", exact=True)
        cost = visit.page.locator(".cost").locator("visible=true").first
        plain.check(force=True)
        expect(cost).to_contain_text("8 accurate steps")
        plain.focus()
        visit.page.keyboard.press("ArrowRight")
        expect(presets.get_by_role("radio", name="H2P4R2")).to_be_checked()
        expect(cost).to_contain_text("2 accurate steps, 4 at half the price, 2 nearly free")
    compare = visit.page.locator(".compare")
    expect(compare.get_by_label("Seed", exact=True)).to_have_value("0")
    expect(compare.get_by_label("Random")).not_to_be_checked()
    expect(compare).to_contain_text("The same noise can end in another picture")
    expect(compare.locator(".gallery").first).to_be_hidden()


def test_classes_are_one_stop_of_tab_and_chosen_by_arrows(visit):
    visit.choose_classes("cat")
    search = visit.page.get_by_label("Search classes")
    search.focus()
    visit.page.keyboard.press("Tab")
    expect(visit.tile("cat")).to_be_focused()  # the one that was chosen last
    visit.page.keyboard.press("Home")
    expect(visit.tile("sailboat")).to_be_focused()
    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("Space")
    visit.chosen("cat", "mountains")
    expect(visit.tile("mountains")).to_be_focused()
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowUp")
    expect(visit.tile("mountains")).to_be_focused()
    search.fill("planet")
    visit.page.keyboard.press("Tab")
    expect(visit.tile("ringed planet")).to_be_focused()
    visit.page.keyboard.press("Tab")
    assert not visit.page.evaluate("document.activeElement.matches('.tile')")
