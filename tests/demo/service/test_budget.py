"""Plans by milliseconds an image: which is chosen, and when one can be."""

import shutil
import threading

import pytest

from demo.service.budget import PlanBudget
from demo.service.service import Service
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import Rates
from tests.demo.conftest import ERRORS, MODEL, RATES, front_plan

PLANS = tuple(front_plan(text, error) for text, error in ERRORS.items())


def test_it_takes_the_most_exact_plan_that_is_fast_enough():
    budget = PlanBudget.of(PLANS, RATES)
    chosen = {ms: budget.best_within(ms) for ms in (0, 25, 36.9, 37, 80.9, 81, 164.9, 1e6)}
    assert list(chosen.values()) == [
        "H1", "H1", "H1", "H1P1R1", "H1P1R1", "H1P5R3", "H1P5R3", "H8",
    ]  # fmt: skip
    assert budget.limits == (25, 165)


def test_what_was_not_measured_is_not_offered():
    without = PlanBudget.of(PLANS, Rates(10.0, None, 5.0))
    assert [its.plan for its in without.plans] == ["H1", "H8"]
    assert without.expected_ms(SamplePlan.parse("H1P1R1")) is None
    assert PlanBudget.of(PLANS, None) is None and PlanBudget.of((), RATES) is None


def test_the_service_offers_what_its_sliders_can_make(tuned):
    assert [its.plan for its in tuned.front_plans] == list(ERRORS)
    assert [str(tuned.plan_within(ms)) for ms in (90, 40)] == ["H1P5R3", "H1P1R1"]
    for wrong in ("40", None, float("nan"), -1):
        with pytest.raises(ValueError, match="milliseconds per image must be"):
            tuned.plan_within(wrong)


def test_a_loaded_model_knows_what_its_parts_take(service):
    rates = service.wait().rates
    assert min(rates.predictor_ms, rates.refiner_ms, rates.decode_ms) > 0


def test_nothing_is_offered_before_the_model_is_loaded():
    gate = threading.Event()
    waiting = Service(MODEL, lambda: gate.wait(20))
    assert waiting.budget is None
    with pytest.raises(ValueError, match="not known of this model yet"):
        waiting.plan_within(100)
    gate.set()


def test_a_front_that_cannot_be_read_offers_nothing(postcards_folder, tmp_path):
    folder = shutil.copytree(postcards_folder, tmp_path / "broken")
    (folder / "front.json").write_text("{}")
    assert Service(ModelDescription.read(folder), lambda: None).front_plans == ()
