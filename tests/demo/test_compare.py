"""Comparing two plans: in turn, from one noise, on the page's terms and on programs'."""

import re
import shutil
import threading
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from gradio.components import Component
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from demo.says import comparison, readout
from demo.says.pictures import Difference
from demo.service.class_service import ClassService
from demo.service.engine import Engine
from demo.service.events import Advanced, Comparison, PlanSummary, Side, Stopped
from demo.service.service import NUM_COMPARED
from demo.tabs import compare
from flowturbo_core.metadata import Settings
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.front import Front, FrontPlan
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.requests import MAX_SEED
from flowturbo_core.timing import Timing
from tests.conftest import write_front
from tests.demo.conftest import MODEL, make_pipeline

ASKED = {
    "class_names": ["cat"],
    "first_plan": "H2",
    "second_plan": "H1P1R1",
    "guidance_scale": 1.5,
    "num_images": 1,
    "seed": 0,
    "randomise": False,
}
ENDPOINT = "/compare_plans"
FRONT = {
    "plans": [
        {"plan": "H1P1R1", "predictor_evaluations": 3, "refiner_evaluations": 2,
         "solver_error": 0.4},
        {"plan": "H4", "predictor_evaluations": 8, "refiner_evaluations": 0, "solver_error": 0.2},
    ],
    "guidance_scale": 1.5,
}  # fmt: skip


def ask(service, **changes):
    return service.compare_plans(**ASKED | changes)


def side(plan, *each_ms, refiner_ms=1.0):
    """Return a side of one picture whose runs took so many milliseconds, 5 of them to decode."""
    parsed = SamplePlan.parse(plan)
    refining = [refiner_ms] * parsed.kinds.count("R")
    timings = []
    for ms in each_ms:
        others = len(parsed) - len(refining)
        block_ms = ((ms - 5 - sum(refining)) / others,) * others
        timings.append(Timing(1, (*block_ms, *refining), 5.0))
    return Side(
        PlanSummary.of(parsed),
        parsed.kinds,
        Settings("fake", ("cat",), plan, 1.5, 1, 0),
        (Image.new("RGB", (8, 8)),),
        tuple(timings),
    )


def made(*sides, num_rounds=3):
    return Comparison(sides, ("cat",), num_rounds, {})


DONE = made(side("H8", 100.0, 90.0, 110.0), side("H1P5R3", 50.0, 60.0, 40.0))


def test_the_plans_run_in_turn_and_the_order_swaps(scripted, scripted_service):
    events = list(ask(scripted_service, first_plan="H2", second_plan="E1"))
    assert "".join(kind for _, kind in scripted.blocks) == "HHE" + "EHH" + "HHE" + "EHH"
    compared = [event for event in events if isinstance(event, Comparison)]
    assert [len(event.sides) for event in compared] == [1, 2, 2, 2, 2]
    assert [event.rounds for event in compared] == [0, 1, 2, 3, 4]
    assert [event.is_done for event in compared] == [False] * 4 + [True]
    assert scripted.threads == {"accelerator"}
    passing = [event for event in events if isinstance(event, Advanced)]
    assert [(p.plan, p.block, p.round) for p in passing][:4] == [
        ("H2", 1, 1), ("H2", 2, 1), ("E1", 1, 1), ("E1", 1, 2),
    ]  # fmt: skip


def test_of_what_passes_only_the_latest_is_handed_over(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr("demo.service.accelerator._UNDISTURBED_S", 20)
    events = list(ask(scripted_service))
    assert [type(event) for event in events] == [Comparison] * 5


def test_neither_plan_is_timed_while_pictures_are_encoded(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr("demo.service.accelerator._UNDISTURBED_S", 0)
    monkeypatch.setattr("demo.service.accelerator._PATIENCE_S", 0)
    events = ask(scripted_service, first_plan="H2", second_plan="E1")
    compared = (event for event in events if isinstance(event, Comparison))
    # However long a consumer takes for one, no block has been begun meanwhile.
    assert [len(scripted.blocks) for _ in compared] == [2, 3, 6, 9, 12]


def test_both_start_from_the_same_noise(postcards_folder, service):
    direct = ClassConditionalPipeline.from_pretrained(postcards_folder)
    *_, done = ask(service, class_names=["cat", "fish"], num_images=2, seed=3)
    assert done.captions == ("cat", "cat", "fish", "fish")
    for its in done.sides:
        expected = direct(["cat", "fish"], its.plan.plan, 1.5, 2, seed=3).images
        for ours, theirs in zip(its.pictures, expected, strict=True):
            assert np.array_equal(ours, theirs)
        assert its.settings == Settings("tiny-postcards", ("cat", "fish"), its.plan.plan, 1.5, 2, 3)
        assert len(its.timings) == 4 and its.timings[0].num_images == 4


def test_times_are_medians_and_the_speed_up_is_of_each_round():
    assert [its.ms_per_image for its in DONE.sides] == [100.0, 50.0]
    assert DONE.speed_up(1) == 2.0 and DONE.speed_up(0) == 0.5  # of 2, 1.5 and 2.75
    assert DONE.rounds == 3 and DONE.is_done


def test_stop_ends_it_within_one_block(scripted, scripted_service):
    events = ask(scripted_service, first_plan="H20", visitor="one", ticket=1)
    next(events)
    scripted_service.stop("one", 1)
    assert list(events) == [Stopped()]
    assert len(scripted.blocks) <= 3
    *_, done = ask(scripted_service, visitor="one", ticket=2)
    assert done.is_done


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"first_plan": "what"}, "plan 'what' is not understood"),
        ({"second_plan": ""}, "plan '' is not understood"),
        ({"second_plan": None}, "a plan is a text of at most 400 characters"),
        ({"second_plan": "E101"}, "at most 100 steps"),
        ({"first_plan": "R3"}, "begins with R"),
        ({"second_plan": " H1H1 "}, "a plan is named twice in H2,  H1H1 "),
        ({"num_images": 5}, "number of images must be a whole number from 1 to 4, not 5"),
        ({"guidance_scale": 16}, "guidance scale must be a number from 0 to 15, not 16"),
        ({"seed": 1.5}, "seed must be a whole number from 0 to 4294967295, not 1.5"),
        ({"randomise": 1}, "randomise must be true or false, not 1"),
        ({"class_names": ["horse"]}, "'horse' is not known"),
    ],
)
def test_refused_before_anything_runs(scripted, scripted_service, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ask(scripted_service, **changes)
    assert scripted.blocks == []


def test_a_model_without_refiner():
    description = replace(MODEL, has_refiner=False, default_plan="H8")
    pipeline = make_pipeline("H8", with_refiner=False)
    plain = replace(description, class_names=tuple(pipeline.class_names))
    service = ClassService(plain, lambda: Engine(pipeline, "plain"))
    assert service.default_plans == ("H8", "H1P7")
    with pytest.raises(ValueError, match="plan H1P1R1 has refiner steps, but this model has no"):
        ask(service)
    *_, done = ask(service, second_plan="E2")
    assert done.is_done and done.rates().refiner_ms is None


def test_the_tab_opens_on_heun_and_the_models_own_plan(service):
    assert service.default_plans == ("H8", "H1P5R3")
    other = ClassService(replace(MODEL, default_plan="[H1P1R1]x3"), lambda: None)
    assert other.default_plans == ("H8", "[H1P1R1]x3")
    heun = ClassService(replace(MODEL, default_plan="H8"), lambda: None)
    assert heun.default_plans == ("H8", "H2P4R2")


def test_the_difference_is_amplified_as_far_as_it_can_be_seen():
    black, grey = (Image.new("RGB", (10, 10), (level,) * 3) for level in (0, 10))
    difference = Difference.of([black, black], [grey, black])
    assert difference.factor == 16 and difference.rms == (10.0, 0.0)
    assert difference.pictures[0].getpixel((0, 0)) == (160,) * 3
    assert difference.pictures[1].getpixel((0, 0)) == (0,) * 3
    assert Difference.of([black], [black]).factor == 64
    far = Difference.of([black], [Image.new("RGB", (10, 10), "white")])
    assert (far.factor, far.rms) == (1, (255.0,))


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


@pytest.fixture
def tuned_service(postcards_folder, service, tmp_path):
    """Return a service of the tiny model with a front beside it; it shares the loaded model."""
    folder = shutil.copytree(postcards_folder, tmp_path / "tuned")
    write_front(folder, FRONT)
    description = ModelDescription.read(folder)
    return ClassService(description, lambda: Engine(service.wait().pipeline, "tuned"))


def shown(service, **changes):
    return list(compare.shown(service, *(ASKED | changes).values(), "visitor", 1))


def test_the_page_gets_pictures_first_and_the_chart_last(tuned_service):
    updates = [
        dict(zip(("readout", "figures", "seed", *compare.Told._fields[2:]), update, strict=True))
        for update in shown(tuned_service, seed=7)
        if update[1] != gr.skip()
    ]
    first, second, third, _, last = updates
    assert [update["seed"] for update in updates] == [7] * 5
    assert [update["chart"].visible for update in updates] == [False] * 4 + [True]
    slider, difference, pictures, others = compare._opened(first["pairs"])
    assert slider is difference is others is None
    assert (pictures.label, pictures.selected_index, len(pictures.value)) == ("H2", 0, 1)
    pairs = second["pairs"]
    assert pairs.plans == ("H2", "H1P1R1") and pairs.label.startswith("Difference × ")
    slider, difference, *galleries = compare._opened(pairs)
    assert slider.label == "H2 | H1P1R1" and difference.label == pairs.label
    assert [(its.label, len(its.value)) for its in galleries] == [("H2", 1), ("H1P1R1", 1)]
    ((file, caption),) = pairs.differences
    with Image.open(file) as opened:
        assert opened.size == (128, 128)
    assert re.fullmatch(r"cat: RMS [\d.]+ of 255 levels", caption)
    for files, plan in zip(pairs.files, pairs.plans, strict=True):
        assert Settings.from_png(files[0]) == Settings("tuned", ("cat",), plan, 1.5, 1, 7)
    assert third["pairs"] == last["pairs"] == gr.skip()
    assert "as fast" in last["readout"]
    assert {row[2] for row in last["chart"].value["data"]} == {"H1P1R1", "H4"}
    assert "The error of H2 is not measured" in last["note"]


def test_no_update_of_a_component_is_taken_back_by_what_follows(tuned_service):
    # Gradio sends what differs from the update before, and its client writes that into the one
    # that it has not shown yet: of an update with keys, nothing must be skipped afterwards but
    # what the next one says again.
    before = {}
    for update in (u for u in shown(tuned_service) if u[1] != gr.skip()):
        said = {k for k, value in enumerate(update) if isinstance(value, Component)}
        assert set(before) <= said
        before = said


def test_what_was_stopped_keeps_its_rounds(scripted, scripted_service):
    updates = compare.shown(scripted_service, *ASKED.values(), "one", 1)
    while "round 2" not in next(updates)[0]:
        pass
    scripted_service.stop("one", 1)
    *_, last = updates
    assert "Stopped" in last[0] and "1 of 4" in last[0]
    assert last[1] == gr.skip()


def test_a_pair_is_looked_at(tuned_service):
    updates = shown(tuned_service, class_names=["cat", "fish"])
    single, pairs = (update[-1] for update in updates if isinstance(update[-1], compare.Pairs))
    picked = type("Picked", (), {"index": 1})
    slider, difference, first, second = compare._picked(pairs, picked)
    assert "fish" in str(slider.value) and difference.value
    assert first.selected_index == second.selected_index == 1
    picked.index = 2
    assert compare._picked(pairs, picked) == (gr.skip(),) * 4
    picked.index = 0  # of one plan's pictures there is no pair
    assert compare._picked(single, picked) == compare._picked(None, picked) == (gr.skip(),) * 4


def test_a_front_that_is_none_is_said_and_the_comparison_goes_on(tuned_service):
    (tuned_service.model.folder / "front.json").write_text("{}")
    *_, last = shown(tuned_service)
    assert "as fast" in last[0]
    assert "refused" in last[-2] and "plans must be a list" in last[-2]


def test_a_refusal_is_the_sentence_and_not_a_traceback(service):
    with pytest.raises(gr.Error) as raised:
        shown(service, second_plan="<b>")
    assert raised.value.message.startswith("Plan '&lt;b&gt;' is not understood")
    assert not raised.value.print_exception


def test_a_request_waits_for_the_model(scripted):
    may_load = threading.Event()

    def load():
        assert may_load.wait(20)
        return Engine(scripted, "scripted")

    updates = compare.shown(ClassService(MODEL, load), *ASKED.values())
    assert "Loading" in next(updates)[0]
    may_load.set()
    *_, last = updates
    assert "as fast" in last[0]


def test_the_documentation_gives_the_limits(service):
    documented = compare.handler(service).__doc__
    described = compare.arguments(service)
    assert list(described) == list(ASKED)
    for name, (low, high) in {"num_images": NUM_COMPARED, "seed": (0, MAX_SEED)}.items():
        (line,) = [line for line in documented.splitlines() if line.strip().startswith(f"{name}:")]
        assert f"from {low} to {high}" in line
        _, schema = described[name]
        assert (schema["minimum"], schema["maximum"]) == (low, high)
    assert described["first_plan"][0] == "H8" and described["second_plan"][0] == "H1P5R3"


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_programs_get_pictures_differences_and_a_record(client):
    asked = ASKED | {"class_names": ["cat", "fish"], "seed": 11}
    first, second, differences, record = client.predict(**asked, api_name=ENDPOINT)
    for pictures, plan in ((first, "H2"), (second, "H1P1R1")):
        assert [picture["caption"] for picture in pictures] == ["cat", "fish"]
        settings = Settings.from_png(pictures[1]["image"])
        assert (settings.plan, settings.seed) == (plan, 12)
    with Image.open(differences[0]["image"]) as opened:
        assert (opened.format, opened.size) == ("PNG", (128, 128))
    assert [its["plan"] for its in record["plans"]] == ["H2", "H1P1R1"]
    for its in record["plans"]:
        assert 0 < its["ms_min"] <= its["ms_per_image"] <= its["ms_max"]
        assert len(its["round_ms"]) == 4 and its["solver_error"] is None
    one, other = (its["speed_up"] for its in record["plans"])
    assert one * other == pytest.approx(1)
    assert record["seed"] == 11 and record["front"] is None
    assert len(record["difference_rms"]) == 2 and record["rates"]["predictor_ms"] > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"second_plan": "H2"}, "A plan is named twice in H2, H2"),
        ({"first_plan": "H8<b>"}, "Plan 'H8<b>' is not understood"),
        ({"first_plan": 8}, "A plan is a text of at most 400 characters, like H1P5R3, not 8"),
        ({"num_images": 0}, "whole number from 1 to 4, not 0"),
    ],
)
def test_the_client_is_told_the_sentence_and_the_server_goes_on(client, changes, sentence):
    with pytest.raises(AppError, match=re.escape(sentence)):
        client.predict(**ASKED | changes, api_name=ENDPOINT)
    *_, record = client.predict(**ASKED, api_name=ENDPOINT)
    assert record["num_rounds"] == 4


def test_what_is_not_given_is_the_models_default(client):
    *_, record = client.predict(class_names=["cat"], api_name=ENDPOINT)
    assert [its["plan"] for its in record["plans"]] == ["H8", "H1P5R3"]
    assert record["guidance_scale"] == 1.5
