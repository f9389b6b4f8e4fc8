"""Milliseconds of parts, out of runs, and into plans."""

import pytest

from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.timing import Timing

H2P1R1 = SamplePlan.parse("H2P1R1")
H2 = SamplePlan.parse("H2")


def run(plan, *block_ms, images=2, decode_ms=6.0):
    return plan, plan.kinds, Timing(images, block_ms, decode_ms)


def test_rates_are_milliseconds_an_image():
    rates = Rates.of([run(H2P1R1, 40.0, 40.0, 20.0, 8.0)])
    assert rates == Rates(predictor_ms=10.0, refiner_ms=2.0, decode_ms=3.0)


def test_one_slow_run_does_not_count():
    slow = run(H2P1R1, 400.0, 40.0, 20.0, 80.0, decode_ms=60.0)
    rates = Rates.of([slow, *[run(H2P1R1, 40.0, 40.0, 20.0, 8.0)] * 2])
    assert rates == Rates(10.0, 2.0, 3.0)


def test_without_a_refiner_step_its_rate_is_not_known():
    rates = Rates.of([run(H2, 40.0, 40.0)])
    assert rates == Rates(10.0, None, 3.0)
    assert rates.covers(H2) and not rates.covers(H2P1R1)
    assert rates.ms_of(H2) == 43.0
    with pytest.raises(ValueError, match="milliseconds are not known"):
        rates.ms_of(H2P1R1)


def test_a_plan_takes_what_its_parts_take():
    rates = Rates(10.0, 2.0, 3.0)
    assert rates.ms_of(H2P1R1) == 5 * 10 + 2 * 2 + 3
    assert rates.ms_of(SamplePlan.parse("E25")) == 253
