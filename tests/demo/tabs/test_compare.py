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

from demo.service.engine import Engine
from demo.service.events import Advanced, Comparison, Stopped
from demo.service.service import Service
from demo.service.tickets import Ticket
from demo.tabs import compare
from flowturbo_core.metadata import read_png
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.requests import MAX_SEED
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


def ask(service, ticket=None, **changes):
    return compare.ask(service, ASKED | changes, ticket)


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
        expected = direct(["cat", "fish"], str(its.plan), 1.5, 2, seed=3).images
        for ours, theirs in zip(its.pictures, expected, strict=True):
            assert np.array_equal(ours, theirs)
        assert its.request.to_json() == {
            "model": "tiny-postcards", "task": "generate", "class_names": ["cat", "fish"],
            "plan": str(its.plan), "guidance_scale": 1.5, "num_images": 2, "seed": 3,
        }  # fmt: skip
        assert len(its.timings) == 4 and its.timings[0].num_images == 4


def test_stop_ends_it_within_one_block(scripted, scripted_service):
    events = ask(scripted_service, Ticket("one", 1), first_plan="H20")
    next(events)
    scripted_service.stop(Ticket("one", 1))
    assert list(events) == [Stopped()]
    assert len(scripted.blocks) <= 3
    *_, done = ask(scripted_service, Ticket("one", 2))
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
    service = Service(plain, lambda: Engine(pipeline))
    assert service.plans.compared == ("H8", "H1P7")
    with pytest.raises(ValueError, match="plan H1P1R1 has refiner steps, but this model has no"):
        ask(service)
    *_, done = ask(service, second_plan="E2")
    assert done.is_done and done.rates().refiner_ms is None


@pytest.fixture
def tuned_service(postcards_folder, service, tmp_path):
    """Return a service of the tiny model with a front beside it; it shares the loaded model."""
    folder = shutil.copytree(postcards_folder, tmp_path / "tuned")
    write_front(folder, FRONT)
    description = ModelDescription.read(folder)
    return Service(description, lambda: Engine(service.wait().pipeline))


TOLD = compare.Report(gr.HTML(), gr.HTML(), gr.ScatterPlot(), gr.HTML(), gr.State())
VIEW = compare.ComparisonView(TOLD, gr.Number(), gr.Textbox())
NAMES = {**dict(zip(TOLD, TOLD._fields, strict=True)), VIEW.seed: "seed", VIEW.state: "state"}


def show(service, ticket=None, **changes):
    """Yield what each event changes on the page, by name."""
    for update in compare.show(service, VIEW, ASKED | changes, ticket):
        yield {NAMES[component]: value for component, value in update.items()}


def compared(updates):
    """Return those that say more than how far the plans have come."""
    return [update for update in updates if "figures" in update]


def test_the_page_gets_pictures_first_and_the_chart_last(tuned_service):
    updates = compared(show(tuned_service, seed=7))
    first, second, third, _, last = updates
    assert [update["seed"] for update in updates] == [7] * 5
    assert [update["chart"].visible for update in updates] == [False] * 4 + [True]
    slider, difference, pictures, others = compare._open(first["pairs"])
    assert slider is difference is others is None
    assert (pictures.label, pictures.selected_index, len(pictures.value)) == ("H2", 0, 1)
    pairs = second["pairs"]
    assert pairs.plans == ("H2", "H1P1R1") and pairs.label.startswith("Difference × ")
    slider, difference, *galleries = compare._open(pairs)
    assert slider.label == "H2 | H1P1R1" and difference.label == pairs.label
    assert [(its.label, len(its.value)) for its in galleries] == [("H2", 1), ("H1P1R1", 1)]
    ((file, caption),) = pairs.differences
    with Image.open(file) as opened:
        assert opened.size == (128, 128)
    assert re.fullmatch(r"cat: RMS [\d.]+ of 255 levels", caption)
    for files, plan in zip(pairs.files, pairs.plans, strict=True):
        written = read_png(files[0])
        assert written.model == "tuned" and written.values == {
            "class_names": ["cat"], "plan": plan, "guidance_scale": 1.5, "num_images": 1, "seed": 7,
        }  # fmt: skip
    assert "pairs" not in third and "pairs" not in last
    assert "as fast" in last["readout"]
    assert {row[2] for row in last["chart"].value["data"]} == {"H1P1R1", "H4"}
    assert "The error of H2 is not measured" in last["note"]


def test_no_update_of_a_component_is_taken_back_by_what_follows(tuned_service):
    # Gradio sends what differs from the update before, and its client writes that into the one
    # that it has not shown yet: of an update with keys, nothing must be skipped afterwards but
    # what the next one says again.
    before = {}
    for update in compared(show(tuned_service)):
        said = {name for name, value in update.items() if isinstance(value, Component)}
        assert set(before) <= said
        before = said


def test_what_was_stopped_keeps_its_rounds(scripted, scripted_service):
    updates = show(scripted_service, Ticket("one", 1))
    while "round 2" not in next(updates).get("readout", ""):
        pass
    scripted_service.stop(Ticket("one", 1))
    *_, last = updates
    assert "Stopped" in last["readout"] and "1 of 4" in last["readout"]
    assert "figures" not in last and last["state"] == "idle"


def test_it_runs_until_it_is_done(scripted_service):
    states = [update["state"] for update in show(scripted_service)]
    assert states == ["running"] * (len(states) - 1) + ["idle"]


def test_a_pair_is_looked_at(tuned_service):
    updates = show(tuned_service, class_names=["cat", "fish"])
    single, pairs = (update["pairs"] for update in updates if "pairs" in update)
    picked = type("Picked", (), {"index": 1})
    slider, difference, first, second = compare._pick(pairs, picked)
    assert "fish" in str(slider.value) and difference.value
    assert first.selected_index == second.selected_index == 1
    picked.index = 2
    assert compare._pick(pairs, picked) == (gr.skip(),) * 4
    picked.index = 0  # of one plan's pictures there is no pair
    assert compare._pick(single, picked) == compare._pick(None, picked) == (gr.skip(),) * 4


def test_a_front_that_is_none_is_said_and_the_comparison_goes_on(tuned_service):
    (tuned_service.model.folder / "front.json").write_text("{}")
    *_, last = show(tuned_service)
    assert "as fast" in last["readout"]
    assert "refused" in last["note"] and "plans must be a list" in last["note"]


def test_a_refusal_is_the_sentence_and_not_a_traceback(service):
    with pytest.raises(gr.Error) as raised:
        list(show(service, second_plan="<b>"))
    assert raised.value.message.startswith("Plan '&lt;b&gt;' is not understood")
    assert not raised.value.print_exception


def test_a_request_waits_for_the_model(scripted):
    may_load = threading.Event()

    def load():
        assert may_load.wait(20)
        return Engine(scripted)

    updates = show(Service(MODEL, load))
    first = next(updates)
    assert "Loading" in first["readout"] and first["state"] == "waiting"
    may_load.set()
    *_, last = updates
    assert "as fast" in last["readout"]


def test_the_documentation_gives_the_limits(service):
    endpoint = compare.endpoint(service)
    documented = endpoint.documentation
    described = {its.name: its for its in endpoint.arguments}
    assert list(described) == list(ASKED)
    for name, (low, high) in {"num_images": (1, 4), "seed": (0, MAX_SEED)}.items():
        (line,) = [line for line in documented.splitlines() if line.strip().startswith(f"{name}:")]
        assert f"from {low} to {high}" in line
        schema = described[name].schema
        assert (schema["minimum"], schema["maximum"]) == (low, high)
    assert [described[f"{its}_plan"].default for its in ("first", "second")] == ["H8", "H1P5R3"]


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_programs_get_pictures_differences_and_a_record(client):
    asked = ASKED | {"class_names": ["cat", "fish"], "seed": 11}
    first, second, differences, record = client.predict(**asked, api_name=ENDPOINT)
    for pictures, plan in ((first, "H2"), (second, "H1P1R1")):
        assert [picture["caption"] for picture in pictures] == ["cat", "fish"]
        values = read_png(pictures[1]["image"]).values
        assert (values["plan"], values["seed"]) == (plan, 12)
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
