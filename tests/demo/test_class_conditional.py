"""The tab against a service that only pretends."""

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from demo import ui
from demo.says import readout
from demo.says.pictures import png_file
from demo.service import service, slider_plans
from demo.service.class_service import ClassService
from demo.service.events import Done, PlanSummary, Preview, Stopped
from demo.service.slider_plans import SliderPlans
from demo.tabs import class_conditional
from demo.wiring import live
from flowturbo_core.metadata import Settings
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import MAX_SEED
from flowturbo_core.timing import Timing

PICTURES = (Image.new("RGB", (8, 8)),)
SETTINGS = Settings("fake", ("cat",), "H1P5R3", 1.5, 1, 5)
PREVIEW = Preview(PICTURES, ("cat",), 3, num_blocks=9, kind="P", curvature=None, settings=SETTINGS)
DONE = Done(
    PICTURES,
    ("cat",),
    Timing(1, (10.0, 20.1), 8.2),
    PlanSummary("H1P5R3", 9, 7, 6),
    kinds="HP",
    settings=SETTINGS,
    heun_ms_per_image=73.04,
    versions={"torch": "2"},
)
MODEL = ModelDescription("<fake>", Path("nowhere"), "classes", ("cat", "dog"), True, "H1P5R3", 1.5)


class FakeService:
    """What a tab knows of the service, without a model."""

    model = MODEL
    name, class_names, has_refiner = MODEL.name, MODEL.class_names, True
    presets = ["H8", "H1P5R3"]
    default_counts = (1, 5, 3)
    default_plans = ("H8", "H1P5R3")
    default_settings = SETTINGS
    note = ""
    THING, TASK = "class", "classes"
    front_plans, budget, download, example = (), None, None, None
    slider_plans = SliderPlans()
    describe_plan = ClassService.describe_plan
    read_plan = ClassService.read_plan
    compare_plans = within = None

    def __init__(self, *events):
        self.events, self.asked, self.closed = events, None, False

    def health(self):
        return {"status": "ready", "model": self.name, "device": "paper", "dtype": "ink"}

    def generate_class_conditional(self, *asked):
        self.asked = asked
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True


ASKED = (["cat"], 1, 5, 3, 1.5, 1, 0, False)


def asked_of(fake):
    return live.shown(fake, fake.generate_class_conditional, *ASKED, "visitor", 1)


def test_programs_get_pictures_and_a_record():
    fake = FakeService(PREVIEW, DONE)
    (preview, nothing), (((file, caption),), record) = class_conditional.handler(fake)(*ASKED)
    assert nothing is None and [c for _, c in preview] == ["cat"]
    assert caption == "cat" and Settings.from_png(file) == SETTINGS
    assert Path(file).name == "cat-H1P5R3-seed5.png"
    assert record["plan"] == "H1P5R3" and record["heun_ms_per_image"] == 73.04
    assert fake.asked == ASKED


def test_events_become_pictures_readout_and_seed():
    fake = FakeService(PREVIEW, DONE)
    (pictures, progress, seed, *_), (_, result, *_) = asked_of(fake)
    ((file, caption),) = pictures
    assert (caption, seed) == ("cat", 5)
    with Image.open(file) as opened:
        assert opened.format == "PNG" and opened.tobytes() == PICTURES[0].tobytes()
    assert "<b>3</b> of 9 blocks" in progress and "pseudo corrector" in progress
    assert "<b>38.3</b> ms / image" in result
    assert "sampling 30.1 + decoding 8.2 ms" in result
    assert "7 predictor + 6 refiner evaluations" in result
    assert "1.9× as fast as H8 (about 73.0 ms)" in result
    assert fake.asked == (["cat"], 1, 5, 3, 1.5, 1, 0, False, "visitor", 1)


def test_a_picture_is_written_once_and_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    file = Path(png_file(red))
    before = file.stat()
    assert png_file(red) == str(file) and file.stat() == before
    assert png_file(blue) != str(file)
    assert {f.name for f in tmp_path.rglob("*") if f.is_file()} == {"picture.png"}


def done_of(plan, kinds):
    summary = PlanSummary.of(SamplePlan.parse(plan))
    timing = Timing(1, (812.0 / len(kinds),) * len(kinds), 8.2)
    return Done(PICTURES, ("cat",), timing, summary, kinds, SETTINGS, None, {})


def test_without_a_speed_up_it_is_said_why_unless_that_is_plain():
    *_, (_, result, *_) = asked_of(FakeService(PREVIEW, done_of("H8", "HHHHHHHH")))
    assert "<b>820</b>" in result and "16 predictor evaluations" in result
    assert "fast" not in result and "no measure" not in result
    *_, (_, result, *_) = asked_of(FakeService(PREVIEW, done_of("E1", "E")))
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
    assert readout.in_words(SamplePlan.parse(plan)) == words
    assert words in readout.plan_cost(PlanSummary.of(SamplePlan.parse(plan)))
    assert readout.named(plan).count(words) == 2  # for who points at it, and for who hears it


@pytest.mark.parametrize(
    "error",
    [ValueError("seed must be smaller"), FloatingPointError("seed must be smaller")],
)
def test_a_refusal_is_the_sentence_and_not_a_traceback(error):
    with pytest.raises(gr.Error) as raised:
        list(asked_of(FakeService(error)))
    assert raised.value.message == "Seed must be smaller"
    assert not raised.value.print_exception


def test_what_was_stopped_keeps_its_pictures_with_their_settings():
    (_, progress, *_), (pictures, text, *rest) = asked_of(FakeService(PREVIEW, Stopped()))
    assert readout.BAR in progress and "Stopped" in text and "how far" in text
    assert Settings.from_png(pictures[0][0]) == SETTINGS
    ((gallery, text, *_),) = asked_of(FakeService(Stopped()))
    assert "Nothing was sampled" in text and gallery == gr.skip()


def test_programs_are_refused_in_plain_text():
    with pytest.raises(gr.Error) as raised:
        list(class_conditional.handler(FakeService(ValueError("class '<b>' is not")))(*ASKED))
    assert raised.value.message == "Class '<b>' is not"


def test_a_mistake_in_the_program_is_not_dressed_up():
    with pytest.raises(RuntimeError):
        list(asked_of(FakeService(PREVIEW, RuntimeError("bug"))))


def test_closing_the_handler_closes_the_service():
    fake = FakeService(PREVIEW, PREVIEW)
    events = asked_of(fake)
    next(events)
    assert not fake.closed
    events.close()
    assert fake.closed


def test_only_a_readout_of_work_in_progress_has_a_bar():
    assert readout.BAR in readout.in_progress(PREVIEW)
    assert readout.BAR in readout.loading()
    for html in (readout.idle(), readout.finished(DONE), readout.interrupted(True)):
        assert readout.BAR not in html


def test_the_documentation_gives_the_limits():
    documented = class_conditional.handler(FakeService()).__doc__
    described = class_conditional.arguments(FakeService())
    for name, (low, high) in {
        "heun": slider_plans.SOLVER_STEPS,
        "pseudo": slider_plans.PSEUDO_STEPS,
        "refiner": slider_plans.REFINER_STEPS,
        "guidance_scale": service.GUIDANCE_SCALE,
        "num_images": service.NUM_IMAGES,
        "seed": (0, MAX_SEED),
    }.items():
        (line,) = [line for line in documented.splitlines() if line.strip().startswith(f"{name}:")]
        assert f"from {low} to {high}" in line
        default, schema = described[name]
        assert (schema["minimum"], schema["maximum"]) == (low, high)
        assert low <= default <= high and f"from {low} to {high}" in schema["description"]
    assert described["randomise"][0] is False  # a seed that is given is taken


def test_the_page_stands_on_a_fake():
    page = ui.build(FakeService())
    public = [fn for fn in page.fns.values() if fn.api_visibility == "public"]
    assert [fn.api_name for fn in public] == ["generate_class_conditional", "compare_plans"]
    assert {(fn.concurrency_id, fn.concurrency_limit) for fn in public} == {("gpu", 1)}
    html = [b.value for b in page.blocks.values() if isinstance(b, gr.HTML)]
    assert any("&lt;fake&gt; on paper, ink" in text for text in html if isinstance(text, str))
    tabs = [b.label for b in page.blocks.values() if isinstance(b, gr.Tab)]
    assert tabs == ["Class-conditional", "Compare", "About"]
