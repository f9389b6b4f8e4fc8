"""The Compare tab in a real browser, on a desk and on a telephone."""

import re
import shutil

import pytest
from playwright.sync_api import expect

from demo.service.engine import Engine
from demo.service.service import Service
from flowturbo_core.data.postcards.scene import CLASSES
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.plan import SamplePlan
from tests.conftest import write_front
from tests.demo.visits import (
    LISTEN,
    LOOKS,
    OTHER_LOOKS,
    PATIENCE_MS,
    SIZES,
    Visit,
    seldom,
    serious_violations,
    visiting,
)

# Plausible, as only tuning measures them: error falls as time rises.
ERRORS = {
    "E4": 0.62, "H1P3": 0.41, "H1P4R1": 0.36, "H1P5R3": 0.33, "H2P4R2": 0.27, "H8": 0.12,
    "H5P7R3": 0.1, "H8P9R5": 0.055,
}  # fmt: skip
HOW = "python -m flowturbo_core tune --model tiny-postcards"

# Notes the heights of what changes, always.
WATCH_HEIGHTS = """() => {
    window.heights = new Set();
    const boxes = [...document.querySelectorAll(".compare .card, .compare .gallery")];
    const note = () => heights.add(boxes.map((box) => box.offsetHeight).join(" "));
    note();
    for (const box of document.querySelectorAll(".compare .readout, .compare .gallery")) {
        new MutationObserver(note).observe(box, { subtree: true, childList: true });
    }
}"""


def write_errors(folder):
    plans = []
    for text, error in ERRORS.items():
        plan = SamplePlan.parse(text)
        plans.append(
            {
                "plan": text,
                "predictor_evaluations": plan.predictor_evaluations,
                "refiner_evaluations": plan.refiner_evaluations,
                "solver_error": error,
            }
        )
    write_front(folder, {"plans": plans, "guidance_scale": 2.0})


@pytest.fixture(scope="module")
def tuned_address(serve, service, postcards_folder, tmp_path_factory):
    """Return the address of a page whose model has a front; it shares the loaded model."""
    folder = shutil.copytree(postcards_folder, tmp_path_factory.mktemp("tuned") / "tuned")
    write_errors(folder)
    pipeline = service.wait().pipeline
    return serve(Service(ModelDescription.read(folder), lambda: Engine(pipeline)))


class Comparing(Visit):
    """A visit to the tab."""

    finished = "as fast: "

    def __init__(self, browser, address, size, colours="light"):
        super().__init__(browser, address, size, colours)
        self.page.get_by_role("tab", name="Compare").click()
        self.area = self.page.locator(".compare")
        self.generate = self.area.get_by_role("button", name="Compare", exact=True)
        self.stop = self.area.get_by_role("button", name="Stop")
        self.readout = self.area.locator(".card")
        self.first = self.area.get_by_label("First plan, as text")
        self.second = self.area.get_by_label("Second plan, as text")
        self.difference, *self.galleries = (
            self.area.locator(".gallery").nth(k).locator("img") for k in range(3)
        )
        self.rows = self.area.locator("section.figures tbody tr")
        self.dots = self.area.locator(".mark-symbol path")
        self.seed = self.area.get_by_label("Seed", exact=True)
        expect(self.generate).to_be_enabled()

    def tile(self, name):
        return self.area.get_by_role("button", name=name, exact=True)

    def choose_classes(self, *names):
        self.area.get_by_role("button", name="None", exact=True).click()
        for name in names:
            self.tile(name).click()

    def write_plans(self, first, second):
        self.first.fill(first)
        self.second.fill(second)


@pytest.fixture(params=["desk", *seldom("telephone")])
def visit(request, browser, address):
    with visiting(Comparing(browser, address, SIZES[request.param])) as visit:
        yield visit


@pytest.mark.parametrize("visit", SIZES, indirect=True)
def test_from_two_plans_to_pictures_and_times(visit):
    visit.choose_classes("cat", "fish", "tree")
    visit.area.locator(".preset").nth(1).get_by_text("H2P4R2", exact=True).click()
    expect(visit.second).to_have_value("H2P4R2")
    visit.first.fill("[H1P1R1]x3")
    costs = visit.area.locator(".cost")
    expect(costs.nth(0)).to_have_text(
        "[H1P1R1]x3 9 blocks, 9 predictor + 6 refiner evaluations"
        "3 times: 1 accurate step, 1 at half the price, 1 nearly free"
    )
    expect(costs.nth(1)).to_contain_text("H2P4R2 8 blocks, 8 predictor + 4 refiner evaluations")
    expect(visit.area.locator(".preset").nth(0).locator("label.selected")).to_have_count(0)
    visit.seed.fill("7")

    visit.page.evaluate(WATCH_HEIGHTS)
    visit.run()
    assert visit.page.evaluate("heights.size") == 2  # once they were asked for, nothing jumped
    expect(visit.rows).to_have_count(2)
    expect(visit.rows.nth(0)).to_contain_text(
        re.compile(r"\[H1P1R1\]x3.*\d×.* – .*9 predictor \+ 6 refiner")
    )
    for pictures in visit.galleries:
        expect(pictures).to_have_count(3)
    expect(visit.difference).to_have_attribute("alt", re.compile("^cat: RMS .* of 255 levels$"))
    slider = visit.area.locator(".slider-wrap img, .slider img")
    visit.galleries[1].nth(1).click()
    expect(visit.difference).to_have_attribute("alt", re.compile("^fish: RMS "))
    expect(slider.first).to_have_attribute("src", re.compile("fish-"))
    expect(visit.area).to_contain_text(HOW)
    assert visit.seed.input_value() == "7"


def test_what_comes_all_at_once_is_shown(visit):
    # As to a browser that is behind: each message is read when those after it are there, too.
    visit.page.route("**/queue/data?*", lambda route: route.fulfill(response=route.fetch()))
    visit.choose_classes("cat", "fish")
    visit.write_plans("H2", "E1")
    visit.run()
    expect(visit.difference).to_have_count(1)
    for pictures, plan in zip(visit.galleries, ("H2", "E1"), strict=True):
        expect(pictures).to_have_count(2)
        expect(pictures.first).to_have_attribute("src", re.compile(f"cat-{plan}-"))
    expect(visit.area.locator(".slider-wrap img, .slider img").first).to_be_visible()


@pytest.mark.parametrize(("size", "colours"), [*LOOKS, *seldom(*OTHER_LOOKS)])
def test_the_chart_marks_the_two(browser, tuned_address, size, colours):
    visit = Comparing(browser, tuned_address, SIZES[size], colours)
    visit.choose_classes("cat")
    visit.run()
    expect(visit.dots).to_have_count(len(ERRORS))
    strokes = [dot.get_attribute("stroke") for dot in visit.dots.all()]
    assert sorted(strokes.count(stroke) for stroke in set(strokes)) == [1, 1, len(ERRORS) - 2]
    visit.area.get_by_text("The chart in numbers").click()
    expect(visit.area.locator("details.figures tbody tr")).to_have_count(len(ERRORS))
    expect(visit.page.locator("body")).to_have_class(
        re.compile("dark") if colours == "dark" else re.compile("^(?!.*dark)")
    )
    for pictures in visit.galleries:  # an empty gallery is named as Gradio names it
        expect(pictures).to_have_count(1)
    assert serious_violations(visit.page) == []
    visit.write_plans("H8", "H3P1")
    visit.run()
    expect(visit.area).to_contain_text("The error of H3P1 is not measured")
    expect(visit.area).to_contain_text("Plans with refiner steps are left out")
    assert visit.complaints == [] and visit.sideways_scroll() == 0
    visit.page.close()


def test_stop_keeps_what_was_finished(visit):
    visit.area.get_by_role("button", name="One of each").click()
    visit.area.locator(".images input[type=number]").fill("4")
    visit.write_plans("E1", "E100")
    visit.page.evaluate(LISTEN)
    visit.generate.click()
    visit.expect_readout(r"E100.*round 1 of 4.*\d+ of 100 blocks")
    visit.stop.click()
    visit.expect_readout("Stopped.*Only E1 came to its end")
    visit.page.wait_for_function("heard.at(-1) === 'Stopped. Only E1 came to its end.'")
    assert visit.page.evaluate("heard[0]") == "Sampling."
    expect(visit.galleries[0]).to_have_count(4 * len(CLASSES))
    expect(visit.galleries[1]).to_have_count(0)
    expect(visit.generate).to_be_enabled()
    visit.second.fill("E2")
    visit.page.keyboard.press("Control+Enter")
    visit.expect_readout("as fast: ")
    expect(visit.galleries[1]).to_have_count(4 * len(CLASSES))


def test_a_refusal_is_said_and_the_page_goes_on(visit):
    visit.choose_classes("cat")
    visit.write_plans("H1<b>", "H2")
    refused = visit.area.locator(".cost.refused")
    expect(refused).to_contain_text("Plan 'H1<b>' is not understood")
    visit.generate.click()
    visit.expect_toast("Plan 'H1<b>' is not understood")
    visit.expect_readout("Ready|Stopped")
    visit.write_plans("E2", "E1")
    visit.run()
    visit.page.evaluate(LISTEN)
    visit.write_plans("H2", "H2")
    expect(refused).to_have_count(0)
    visit.generate.click()
    told = visit.page.get_by_test_id("toast-text")
    expect(told.filter(has_text="A plan is named twice in H2, H2")).to_be_visible()
    visit.first.fill("E1")
    visit.run()
    visit.page.wait_for_function("heard.length === 4")
    started, why, again, result = visit.page.evaluate("heard")
    assert started == again == "Sampling." and why.startswith("A plan is named twice in H2, H2")
    assert re.match(r"[\d.]+ times as fast: (E1 against H2|H2 against E1)", result)


def test_the_tabs_do_not_stop_each_other(browser, address):
    visit = Comparing(browser, address, SIZES["desk"])
    visit.area.get_by_role("button", name="One of each").click()
    visit.area.locator(".images input[type=number]").fill("2")
    visit.write_plans("E30", "H15")
    visit.generate.click()
    visit.expect_readout("round 1 of 4")
    visit.page.get_by_role("tab", name="Class-conditional").click()
    own = visit.page.locator(".workbench:not(.compare)")
    own.get_by_role("button", name="Generate").click()
    # Each waits its turn, on whatever machine.
    expect(own.locator(".card")).to_contain_text("evaluations", timeout=2 * PATIENCE_MS)
    own.get_by_role("button", name="Generate").click()
    visit.page.get_by_role("tab", name="Compare").click()
    visit.expect_readout("as fast: ", patience_ms=2 * PATIENCE_MS)
    assert visit.complaints == []
    visit.page.close()


@pytest.mark.slow  # `make screenshots` runs it
def test_screenshots(browser, bundled_address, tmp_path):
    """Save what the README shows."""
    visit = Comparing(browser, bundled_address, SIZES["desk"])
    visit.seed.fill("0")
    visit.run()
    expect(visit.dots.first).to_be_visible()
    visit.photograph("compare", tmp_path)
    assert visit.complaints == []
    visit.page.close()
