"""What is said of two plans: the readout, the table, the chart and its note."""

from dataclasses import replace

from PIL import Image

from demo.says import comparison, readout
from demo.says.pictures import Difference
from demo.service.events import Advanced, Comparison, Side
from flowturbo_core.models.front import Front, FrontPlan
from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.requests import Request
from flowturbo_core.timing import Timing
from tests.demo.conftest import MODEL


def side(plan, *each_ms, refiner_ms=1.0):
    """Return a side of one picture whose runs took so many milliseconds, 5 of them to decode."""
    parsed = SamplePlan.parse(plan)
    refining = [refiner_ms] * parsed.kinds.count("R")
    timings = []
    for ms in each_ms:
        others = len(parsed) - len(refining)
        block_ms = ((ms - 5 - sum(refining)) / others,) * others
        timings.append(Timing(1, (*block_ms, *refining), 5.0))
    request = Request.read(MODEL, {"class_names": ["cat"], "plan": plan})
    return Side(request, (Image.new("RGB", (8, 8)),), tuple(timings))


def made(*sides, num_rounds=3):
    return Comparison(sides, num_rounds, {})


DONE = made(side("H8", 100.0, 90.0, 110.0), side("H1P5R3", 50.0, 60.0, 40.0))


def test_the_readout_names_the_faster_plan():
    text = comparison.finished(DONE, Difference(DONE.sides[0].pictures, 8, (2.5,)))
    assert "<b>2.0×</b> as fast: H1P5R3 against H8" in text
    assert "50.0 against 100 ms / image" in text and "RMS difference up to 2.5 levels" in text
    assert readout.BAR not in text
    assert readout.BAR in comparison.in_progress(Advanced("H8", 3, 8, 2, 3))
    for html in (comparison.idle(), comparison.stopping(), comparison.interrupted(DONE)):
        assert readout.BAR not in html


def test_the_table_says_what_is_known_so_far():
    first = comparison.figures(made(side("H8", 100.0)), None)
    assert first.count("<tr>") == 2 and "–" in first and "not measured" in first
    front = Front((FrontPlan("H8", 16, 0, 0.125),), 1.5)
    both = comparison.figures(DONE, front)
    for text in ("90.0 – 110", "2.00×", "0.50×", "7 predictor + 6 refiner", "0.125"):
        assert text in both
    assert both.count("not measured") == 1


def test_the_chart_predicts_the_others_and_marks_the_two():
    front = Front(
        (
            FrontPlan("H8", 16, 0, 0.12),
            FrontPlan("E4", 4, 0, 0.6),
            FrontPlan("H1P4R1", 6, 2, 0.36),
        ),
        2.0,
    )
    e4, own, heun = comparison.points(DONE, front)
    rates = DONE.rates()
    assert (e4.plan, e4.index, e4.solver_error) == ("E4", None, 0.6)
    assert e4.ms_per_image == 4 * rates.predictor_ms + 5
    assert own.ms_per_image == 6 * rates.predictor_ms + 2 * rates.refiner_ms + 5
    assert (heun.plan, heun.index, heun.ms_per_image) == ("H8", 0, 100.0)
    note = comparison.chart_note(DONE, front, "m")
    assert "The error of H1P5R3 is not measured" in note
    assert "measured at guidance 2, and this is 1.5" in note
    assert note.count("<tr>") == 1 + 3


def test_without_a_refiner_step_the_chart_goes_by_what_the_model_took_at_first():
    front = Front((FrontPlan("H8", 16, 0, 0.12), FrontPlan("H1P4R1", 6, 2, 0.36)), 1.5)
    plain = made(side("H8", 100.0), side("E4", 30.0), num_rounds=1)
    assert [point.plan for point in comparison.points(plain, front)] == ["H8"]
    assert "Plans with refiner steps are left out" in comparison.chart_note(plain, front, "m")
    # What a refiner evaluation took when the model was loaded, by how much faster or slower
    # the predictor is now.
    warm = replace(plain, warm=Rates(2.0, 0.5, 1.0))
    rates = warm.rates_of_all()
    assert rates.refiner_ms == rates.predictor_ms / 4 and warm.rates().refiner_ms is None
    own, heun = comparison.points(warm, front)
    assert own.ms_per_image == 6 * rates.predictor_ms + 2 * rates.refiner_ms + 5
    note = comparison.chart_note(warm, front, "m")
    assert "left out" not in note and "its share when the model was loaded" in note
    assert replace(DONE, warm=warm.warm).rates_of_all() == DONE.rates()  # these runs' come first


def test_without_a_front_the_note_says_how_to_make_one():
    note = comparison.chart_note(DONE, None, "<b>")
    assert "python -m flowturbo_core tune --model &lt;b&gt;" in note
