"""The slider of milliseconds an image, and how it and those of the steps follow each other."""

import re

import pytest
from playwright.sync_api import expect

from demo.parts.plan import update_budget
from tests.demo.visits import SIZES, Visit


def test_the_slider_shows_what_the_plan_takes_and_has_room_for_it(tuned):
    steps = {"H1P5R3": (1, 5, 3), "H24": (24, 0, 0), "none": (0, 0, 3)}
    own, dear, none = (
        update_budget(tuned, heun=heun, pseudo=pseudo, refiner=refiner)
        for heun, pseudo, refiner in steps.values()
    )
    assert (own.minimum, own.value, own.maximum) == (25, 81, 165)
    assert (dear.minimum, dear.value, dear.maximum) == (25, 485, 485)
    assert none.value == 25  # no plan: the line below says so


@pytest.mark.parametrize("size", SIZES)
def test_milliseconds_move_the_steps_and_steps_the_milliseconds(browser, serve, tuned, size):
    visit = Visit(browser, serve(tuned), SIZES[size])
    budget = visit.page.locator(".budget input[type=number]")
    expect(budget).to_have_value("81")  # the plan that the page opens with
    visit.slide(heun=8, pseudo=0, refiner=0)
    expect(budget).to_have_value("165")
    visit.choose_preset("H1P5R3")
    expect(budget).to_have_value("81")
    visit.drag_share("budget", 0.3)  # about 67 ms
    visit.slides_at(heun=1, pseudo=1, refiner=1)
    expect(budget).to_have_value("37")
    visit.live.check()
    visit.drag_share("budget", 1.0)
    visit.slides_at(heun=8, pseudo=0, refiner=0)
    visit.expect_readout(r"16 \+ 0|16 predictor")
    expect(visit.readout).to_have_text(re.compile("ms"))
    assert visit.complaints == [] and visit.sideways_scroll() == 0
    visit.page.close()


def test_without_a_front_there_is_no_such_slider(browser, address):
    visit = Visit(browser, address, SIZES["desk"])
    expect(visit.page.locator(".budget")).to_have_count(0)
    visit.page.close()


def test_milliseconds_can_be_typed(browser, serve, tuned):
    visit = Visit(browser, serve(tuned), SIZES["desk"])
    budget = visit.page.locator(".budget input[type=number]")
    expect(budget).to_have_value("81")
    for typed, key, counts, shown in (
        ("", "Tab", (1, 5, 3), "81"),  # a press alone changes nothing
        ("60", "Enter", (1, 1, 1), "37"),
        ("16800", "Tab", (8, 0, 0), "165"),
    ):
        budget.click()
        if typed:
            budget.press("ControlOrMeta+a")
        visit.page.keyboard.type(typed, delay=50)
        budget.press(key)
        visit.slides_at(heun=counts[0], pseudo=counts[1], refiner=counts[2])
        expect(budget).to_have_value(shown)
    assert visit.complaints == []
    visit.page.close()
