"""The tab that makes images, in a browser, on a desk and on a telephone."""

import re

import pytest
from playwright.sync_api import expect

from flowturbo_core.data.postcards.scene import CLASSES
from tests.demo.visits import LOOKS, OTHER_LOOKS, SIZES, Visit, seldom, serious_violations, visiting

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
