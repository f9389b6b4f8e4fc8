"""What the readout says of a request, while it runs and once it has ended."""

from dataclasses import replace

import pytest

from demo.says import readout
from demo.service.events import Done
from flowturbo_core.plan import SamplePlan
from flowturbo_core.timing import Timing
from tests.demo.fakes import DONE, PICTURES, PREVIEW, REQUEST


def done_of(plan):
    request = replace(REQUEST, plan=SamplePlan.parse(plan))
    count = len(request.plan)
    return Done(PICTURES, request, Timing(1, (812.0 / count,) * count, 8.2), None, {})


def test_without_a_speed_up_it_is_said_why_unless_that_is_plain():
    result = readout.finished(done_of("H8"))
    assert "<b>820</b>" in result and "16 predictor evaluations" in result
    assert "fast" not in result and "no measure" not in result
    result = readout.finished(done_of("E1"))
    assert "fast" not in result and "H8 is no measure of this model" in result


def test_a_result_is_said_in_a_sentence_once():
    assert readout.said(DONE) == "1 picture, 38.3 ms each, 1.9 times as fast as H8"
    warned = replace(DONE, pictures=PICTURES * 4, heun_ms_per_image=None, warnings=("Mind.",))
    assert readout.said(warned) == "4 pictures, 38.3 ms each. Mind."
    assert f'data-said="{readout.said(DONE)}"' in readout.finished(DONE)
    assert "data-said" not in readout.in_progress(PREVIEW)
    assert 'data-said="Stopped. ' in readout.interrupted(False)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("H8", "8 accurate steps"),
        ("H1P5R4", "1 accurate step, 5 at half the price, 4 nearly free"),
        ("P8", "1 accurate step, 7 at half the price"),  # the first has nothing to reuse
        ("E1", "1 rough step at half the price"),
        ("E25", "25 rough steps at half the price"),
        ("[H1P1R2]x3", "3 times: 1 accurate step, 1 at half the price, 2 nearly free"),
        ("H1R1P1", "1 accurate step, 1 nearly free, 1 accurate step"),  # nothing fresh to reuse
    ],
)
def test_a_plan_in_plain_words(plan, words):
    parsed = SamplePlan.parse(plan)
    assert readout.in_words(parsed) == words
    assert words in readout.plan_cost(parsed)
    assert readout.name_plan(parsed).count(words) == 2  # for who points at it, and for who hears it


def test_only_a_readout_of_work_in_progress_has_a_bar():
    assert readout.BAR in readout.in_progress(PREVIEW)
    assert readout.BAR in readout.loading()
    for html in (readout.idle(), readout.finished(DONE), readout.interrupted(True)):
        assert readout.BAR not in html
