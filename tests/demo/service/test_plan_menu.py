"""The plans that a page offers of a model."""

from dataclasses import replace

import pytest

from demo.service.service import Service
from tests.demo.conftest import MODEL


@pytest.mark.parametrize(
    ("plan", "counts"),
    [("H1P5R3", (1, 5, 3)), ("H8", (8, 0, 0)), ("E1", (1, 0, 0)), ("E2P3", (2, 3, 0)),
     ("[H1P1R1]x3", None), ("H50", None), ("E25", None)],
)  # fmt: skip
def test_the_sliders_open_on_the_models_plan(plan, counts):
    menu = Service(replace(MODEL, default_plan=plan), lambda: None).plans
    assert tuple(menu.steps(menu.default).values()) == (counts or (8, 0, 0))
    assert str(menu.default) == (plan if counts else "H8")
    assert plan in menu.note and ("stands in" in menu.note) == (counts is None)


def test_the_models_own_plan_is_a_preset():
    paper = ["H8", "H2P4R2", "H1P5R3", "H5P7R3", "H8P9R5"]
    for own, presets in (
        ("H1P5R3", paper),
        ("E25", paper),
        ("H1P5R4", ["H8", "H1P5R4", *paper[1:]]),
        ("E1", ["E1", "E2", "E4"]),
        ("E3", ["E1", "E3", "E2", "E4"]),
    ):
        assert Service(replace(MODEL, default_plan=own), lambda: None).plans.presets == presets


def test_the_tab_opens_on_heun_and_the_models_own_plan(service):
    assert service.plans.compared == ("H8", "H1P5R3")
    other = Service(replace(MODEL, default_plan="[H1P1R1]x3"), lambda: None)
    assert other.plans.compared == ("H8", "[H1P1R1]x3")
    heun = Service(replace(MODEL, default_plan="H8"), lambda: None)
    assert heun.plans.compared == ("H8", "H2P4R2")
