"""The tab that makes images, against a service that only pretends."""

from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from demo.parts.plan import add_plan
from demo.parts.results import add_results
from demo.parts.run import IDLE, RUNNING
from demo.says import readout
from demo.service.events import Stopped
from demo.service.service import NARROWED
from demo.tabs import generate
from demo.wiring import live
from flowturbo_core.metadata import read_png
from flowturbo_core.requests import MAX_GUIDANCE_SCALE, MAX_SEED
from tests.demo.fakes import DONE, PICTURES, PREVIEW, REQUEST, FakeService

ASKED = {
    "class_names": ["cat"], "heun": 1, "pseudo": 5, "refiner": 3, "guidance_scale": 1.5,
    "num_images": 1, "seed": 5, "randomise": False,
}  # fmt: skip


def view_of(fake):
    with gr.Blocks():
        return live.View(add_results(fake, "Generate"), gr.Number(), gr.Textbox())


def updates_of(fake):
    """Return what changes on the page with each event, by the name of what shows it."""
    view = view_of(fake)
    names = {its: name for name, its in view.results._asdict().items()}
    names |= {view.seed: "seed", view.state: "state"}
    for updates in live.show(view, lambda: fake.run(fake.request(ASKED))):
        yield {names[component]: value for component, value in updates.items()}


def called(fake):
    return generate.endpoint(fake).call(gr.Request(session_hash="somebody"), *ASKED.values())


def test_programs_get_pictures_and_a_record():
    fake = FakeService(PREVIEW, DONE)
    (preview, nothing), (((file, caption),), record) = called(fake)
    assert nothing is None and [c for _, c in preview] == ["cat"]
    assert caption == "cat" and read_png(file).values == REQUEST.json_values()
    assert Path(file).name == "cat-H1P5R3-seed5.png"
    assert record["plan"] == "H1P5R3" and record["heun_ms_per_image"] == 73.04
    assert (record["task"], record["class_names"]) == ("generate", ["cat"])
    request, ticket = fake.asked
    assert request == REQUEST and ticket.visitor.startswith("somebody ")


def test_a_call_that_is_stopped_is_told_so():
    with pytest.raises(gr.Error) as raised:
        list(called(FakeService(PREVIEW, Stopped())))
    assert raised.value.message == "This was stopped"


def test_calls_of_one_visitor_have_tickets_that_rise():
    fake, numbers = FakeService(DONE), []
    for _ in range(3):
        list(called(fake))
        numbers.append(fake.asked[1].number)
    assert numbers == sorted(set(numbers))


def test_events_become_pictures_readout_and_seed():
    progress, result = updates_of(FakeService(PREVIEW, DONE))
    ((file, caption),) = progress["gallery"]
    assert (caption, progress["seed"], progress["state"]) == ("cat", 5, RUNNING)
    with Image.open(file) as opened:
        assert opened.format == "PNG" and opened.tobytes() == PICTURES[0].tobytes()
    assert "<b>3</b> of 9 blocks" in progress["readout"]
    assert "pseudo corrector" in progress["readout"]
    assert "<b>38.3</b> ms / image" in result["readout"]
    assert "sampling 30.1 + decoding 8.2 ms" in result["readout"]
    assert "7 predictor + 6 refiner evaluations" in result["readout"]
    assert "1.9× as fast as H8 (about 73.0 ms)" in result["readout"]
    assert (result["seed"], result["state"]) == (5, IDLE)


@pytest.mark.parametrize(
    "error",
    [ValueError("seed must be smaller"), FloatingPointError("seed must be smaller")],
)
def test_a_refusal_is_the_sentence_and_not_a_traceback(error):
    with pytest.raises(gr.Error) as raised:
        list(updates_of(FakeService(error)))
    assert raised.value.message == "Seed must be smaller"
    assert not raised.value.print_exception


def test_what_was_stopped_keeps_its_pictures_with_their_settings():
    progress, stopped = updates_of(FakeService(PREVIEW, Stopped()))
    assert readout.BAR in progress["readout"]
    assert "Stopped" in stopped["readout"] and "how far" in stopped["readout"]
    assert read_png(stopped["gallery"][0][0]).values == REQUEST.json_values()
    (stopped,) = updates_of(FakeService(Stopped()))
    assert "Nothing was sampled" in stopped["readout"]
    assert "gallery" not in stopped and stopped["state"] == IDLE


def test_what_was_overtaken_at_once_changes_nothing():
    (updates,) = updates_of(FakeService())
    assert updates == {"state": gr.skip()}


def test_programs_are_refused_in_plain_text():
    with pytest.raises(gr.Error) as raised:
        list(called(FakeService(ValueError("class '<b>' is not"))))
    assert raised.value.message == "Class '<b>' is not"


def test_a_mistake_in_the_program_is_not_dressed_up():
    with pytest.raises(RuntimeError):
        list(updates_of(FakeService(PREVIEW, RuntimeError("bug"))))


def test_closing_the_handler_closes_the_service():
    fake = FakeService(PREVIEW, PREVIEW)
    events = updates_of(fake)
    next(events)
    assert not fake.closed
    events.close()
    assert fake.closed


LIMITS = {
    "heun": (0, 24), "pseudo": (0, 24), "refiner": (0, 8), "num_images": (1, 8),
    "guidance_scale": (0, MAX_GUIDANCE_SCALE), "seed": (0, MAX_SEED),
}  # fmt: skip


def test_the_documentation_gives_the_limits():
    endpoint = generate.endpoint(FakeService())
    described = {its.name: its for its in endpoint.arguments}
    assert list(described) == list(ASKED)
    for name, (low, high) in LIMITS.items():
        lines = [its.strip() for its in endpoint.documentation.splitlines()]
        (line,) = [its for its in lines if its.startswith(f"{name}:")]
        assert f"from {low} to {high}" in line
        default, schema = described[name].default, described[name].schema
        assert (schema["minimum"], schema["maximum"]) == (low, high)
        assert low <= default <= high and f"from {low} to {high}" in schema["description"]
    assert described["randomise"].default is False  # a seed that is given is taken


def test_the_sliders_have_the_limits_that_are_checked():
    with gr.Blocks():
        sliders = add_plan(FakeService(), FakeService().plans.default).steps
    for name, slider in sliders.items():
        assert (slider.minimum, slider.maximum) == LIMITS[name]
    assert (NARROWED["num_images"].low, NARROWED["num_images"].high) == LIMITS["num_images"]
