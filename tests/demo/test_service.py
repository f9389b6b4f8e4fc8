"""The service: events in order, honest times, Stop, and a thread that survives everything."""

import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from demo.service import accelerator as accelerator_module
from demo.service import tickets
from demo.service.class_service import ClassService
from demo.service.engine import Engine, heun_ms_per_image
from demo.service.events import Done, Preview, Stopped
from flowturbo_core import devices
from flowturbo_core.data.postcards import scene
from flowturbo_core.metadata import Settings
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import MAX_SEED
from flowturbo_core.timing import Timing
from tests.demo.conftest import BLOCK_MS, CLASSES, MODEL, ScriptedPipeline, make_pipeline

ASKED = {
    "class_names": ["cat"],
    "heun": 1,
    "pseudo": 5,
    "refiner": 3,
    "guidance_scale": 1.5,
    "num_images": 1,
    "seed": 0,
    "randomise": False,
}
ROOT = Path(__file__).parents[2]


def ask(service, **changes):
    return service.generate_class_conditional(**ASKED | changes)


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_a_preview_after_every_block_and_then_the_result(service):
    names = ["cat", "sailboat"]
    *previews, done = ask(service, class_names=names, num_images=2, seed=7)
    assert all(isinstance(preview, Preview) for preview in previews)
    assert [preview.block for preview in previews] == list(range(1, 10))
    assert "".join(preview.kind for preview in previews) == "HPPPPPRRR" == done.kinds
    assert previews[0].curvature is None
    assert all(len(p.curvature) == 4 and min(p.curvature) > 0 for p in previews[1:])
    for event in (*previews, done):
        assert event.captions == ("cat", "cat", "sailboat", "sailboat")
        assert [picture.size for picture in event.pictures] == [(128, 128)] * 4
        assert event.settings == Settings("tiny-postcards", tuple(names), "H1P5R3", 1.5, 2, 7)
    assert isinstance(done, Done)
    assert (done.plan.plan, done.plan.num_blocks) == ("H1P5R3", 9)
    assert (done.plan.predictor_evaluations, done.plan.refiner_evaluations) == (7, 6)
    assert len(done.timing.block_ms) == 9 and done.timing.num_images == 4
    assert done.timing.decode_ms > 0 and done.speed_up > 0


def test_the_pictures_are_the_pipelines(postcards_folder, service):
    direct = ClassConditionalPipeline.from_pretrained(postcards_folder)
    expected = direct(["cat", "fish"], "H2P4R2", 4.0, 1, seed=3).images
    plan = {"heun": 2, "pseudo": 4, "refiner": 2}
    *_, preview, done = ask(service, class_names=["cat", "fish"], guidance_scale=4, seed=3, **plan)
    for ours, theirs, last in zip(done.pictures, expected, preview.pictures, strict=True):
        assert np.array_equal(ours, theirs) and np.array_equal(last, theirs)


def test_one_thread_does_all_of_the_work(scripted, scripted_service):
    list(ask(scripted_service))
    assert scripted.threads == {"accelerator"}


def test_previews_and_a_slow_consumer_are_not_timed(scripted, scripted_service, monkeypatch):
    decode, now = scripted.decode, [0.0]

    def pass_by(seconds):
        now[0] += seconds

    monkeypatch.setattr(devices, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(scripted, "decode", lambda *asked: pass_by(0.02) or decode(*asked))
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 20)  # the consumer's time is its own
    events = []
    for event in ask(scripted_service):
        events.append(event)
        pass_by(0.03)
    done = events[-1]
    assert done.timing.block_ms == (BLOCK_MS,) * 9
    assert done.timing.decode_ms == pytest.approx(20)  # one decoding, not nine
    assert done.timing.preview_ms == pytest.approx(8 * 20)


def test_a_slow_consumer_holds_nothing_up(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 0.01)
    events = ask(scripted_service, heun=24)
    next(events)
    wait_until(lambda: len(scripted.blocks) == 24 + 5 + 3)
    assert len(list(events)) == 24 + 5 + 3


def test_a_consumer_gets_a_moment_before_the_next_block(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 20)
    previews = (event for event in ask(scripted_service) if isinstance(event, Preview))
    assert [len(scripted.blocks) for _ in previews] == list(range(1, 10))


def test_blocks_run_undisturbed_before_their_previews_are_shown(
    scripted, scripted_service, monkeypatch
):
    monkeypatch.setattr(accelerator_module, "_UNDISTURBED_S", 20)
    events = ask(scripted_service, seed=4)
    assert next(events).block == 1
    assert len(scripted.blocks) == 9
    assert [event.block for event in list(events)[:-1]] == list(range(2, 10))


def test_what_was_done_comes_before_what_went_wrong(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_UNDISTURBED_S", 20)
    scripted.fail_at = 4
    seen = []
    with pytest.raises(RuntimeError, match="fell over"):
        for event in ask(scripted_service):
            seen.append(event.block)
    assert seen == [1, 2, 3, 4]


def test_stop_ends_the_work_within_one_block(scripted, scripted_service, monkeypatch):
    monkeypatch.setattr(accelerator_module, "_PATIENCE_S", 0.0)
    events = ask(scripted_service, heun=24, pseudo=0, refiner=0)
    next(events)
    scripted.gate.clear()
    started = len(scripted.blocks)
    events.close()
    scripted.gate.set()
    *_, done = ask(scripted_service, class_names=["dog"], heun=1, pseudo=0, refiner=0)
    assert isinstance(done, Done)
    # One that had passed the gate, and the one that stood before it.
    assert [name for name, _ in scripted.blocks].count((0,)) <= started + 2


@pytest.fixture
def held(scripted, scripted_service):
    """Return the events of visitor one's long request, ticket 3, of which one preview is there."""
    events = ask(scripted_service, heun=24, pseudo=0, refiner=0, visitor="one", ticket=3)
    next(events)
    yield events
    events.close()


def test_a_visitor_stops_its_own_requests_up_to_a_ticket(scripted, scripted_service, held):
    scripted_service.stop("two", 9)
    scripted_service.stop("one", 2)
    assert isinstance(next(held), Preview)
    scripted_service.stop("one", 3)
    assert list(held) == [Stopped()]
    assert len(scripted.blocks) <= 4
    assert isinstance(list(ask(scripted_service, visitor="one", ticket=4))[-1], Done)


def test_what_is_overtaken_ends_without_a_word(scripted, scripted_service, held):
    scripted_service.overtake("one", 3)
    assert list(held) == [] and len(scripted.blocks) <= 3


def test_a_stop_may_come_before_what_it_stops(scripted, scripted_service):
    scripted_service.stop("one", 5)
    assert list(ask(scripted_service, visitor="one", ticket=5)) == [Stopped()]
    scripted_service.overtake("one", 6)
    assert list(ask(scripted_service, visitor="one", ticket=6)) == []
    assert scripted.blocks == []
    assert isinstance(list(ask(scripted_service, visitor="one", ticket=7))[-1], Done)
    assert isinstance(list(ask(scripted_service, visitor="two", ticket=1))[-1], Done)


def test_what_arrives_late_takes_no_stop_back(scripted_service):
    scripted_service.stop("one", 5)
    scripted_service.overtake("one", 4)
    assert list(ask(scripted_service, visitor="one", ticket=5)) == [Stopped()]


def test_only_so_many_visitors_are_remembered(scripted_service, monkeypatch):
    monkeypatch.setattr(tickets, "_MAX_VISITORS", 2)
    for visitor in ("one", "two", "three"):
        scripted_service.stop(visitor, 1)
    assert list(ask(scripted_service, visitor="three", ticket=1)) == [Stopped()]
    assert isinstance(list(ask(scripted_service, visitor="one", ticket=1))[-1], Done)


RESTORED = Settings("scripted", ("dog", "cat"), "H1P5R3", 1.5, 2, 7)


def test_settings_that_this_page_can_run(scripted_service):
    assert scripted_service.restored(RESTORED) == (["dog", "cat"], (1, 5, 3))
    assert scripted_service.restored(scripted_service.default_settings)[1] == (1, 5, 3)


def test_classes_come_back_as_the_model_names_them(scripted_service):
    names, _ = scripted_service.restored(replace(RESTORED, class_names=(" Cat ", "1")))
    assert names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "<b>else</b>"}, "model '<b>else</b>'; this page runs 'scripted'"),
        ({"model": "x" * 9000}, "this page runs 'scripted'"),
        ({"class_names": ("horse",)}, "class 'horse' is not known"),
        ({"class_names": ()}, "choose at least one class"),
        ({"plan": "what"}, "plan 'what' is not understood"),
        ({"plan": "[H1P1R1]x3"}, "is none of H..P..R.."),
        ({"plan": "E25"}, "is none of H..P..R.."),
        ({"plan": "H25"}, "Heun steps must be a whole number from 0 to 24, not 25"),
        ({"guidance_scale": float("nan")}, "guidance scale must be a number from 0 to 15"),
        ({"num_images": 9}, "number of images must be a whole number from 1 to 8, not 9"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, not -1"),
    ],
)
def test_settings_that_it_cannot(scripted_service, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        scripted_service.restored(replace(RESTORED, **changes))
    assert len(str(refusal.value)) < 200


def test_a_request_that_nobody_reads_is_not_started(scripted, scripted_service):
    ask(scripted_service).close()
    list(ask(scripted_service, class_names=["dog"], heun=1, pseudo=0, refiner=0))
    assert scripted.blocks == [((1,), "H")]


def test_what_goes_wrong_reaches_the_caller_and_the_thread_goes_on(scripted, scripted_service):
    for k in (0, 4):
        scripted.fail_at = k
        previews = []
        with pytest.raises(RuntimeError, match="fell over"):
            previews.extend(ask(scripted_service))
    scripted.fail_at = None
    assert isinstance(list(ask(scripted_service))[-1], Done)


def test_memory_that_runs_out_is_a_sentence_and_the_thread_goes_on(scripted, scripted_service):
    run = scripted.run

    def greedy(job, plan):
        for progress in run(job, plan):
            yield progress
            torch.empty(10**15, dtype=torch.uint8)  # more than a process can address

    scripted.run = greedy
    for names, sentence in (
        (["cat"], "this image does not fit into the memory of cpu: ask for a smaller one"),
        (["cat", "dog"], "2 images at once do not fit into the memory of cpu: ask for fewer, or"),
    ):
        with pytest.raises(ValueError, match=sentence):
            list(ask(scripted_service, class_names=names))
    scripted.run = run
    assert isinstance(list(ask(scripted_service))[-1], Done)


def test_requests_wait_their_turn(scripted, scripted_service):
    scripted.gate.clear()
    results = {}

    def consume(name):
        results[name] = list(ask(scripted_service, class_names=[name], heun=3))

    threads = [threading.Thread(target=consume, args=(name,)) for name in CLASSES]
    for thread in threads:
        thread.start()
    wait_until(lambda: scripted_service._accelerator._tasks.qsize() == 1)  # behind the other
    scripted.gate.set()
    for thread in threads:
        thread.join(20)
    served = [name for name, _ in scripted.blocks]
    assert served == sorted(served) or served == sorted(served, reverse=True)
    assert {len(events) for events in results.values()} == {3 + 5 + 3 + 1}


def test_the_speed_up_is_over_eight_heun_blocks(scripted_service):
    *_, done = ask(scripted_service, num_images=2)
    # H and P took as long here, so that seven evaluations took the time of six blocks.
    expected = (8 * 2 * BLOCK_MS * 6 / 7 + done.timing.decode_ms) / 2
    assert done.heun_ms_per_image == pytest.approx(expected)
    assert done.speed_up == pytest.approx(expected / done.timing.ms_per_image)


def test_a_hiccup_of_the_machine_does_not_make_a_plan_slower_than_heun():
    plan = SamplePlan.parse("H2P4R2")
    times = [2000.0, 20.0, 10.0, 10.0, 10.0, 10.0, 1.0, 1.0]
    slow = Timing(1, tuple(times), 5.0)
    assert heun_ms_per_image(plan, slow) > slow.ms_per_image
    times[0] = 20.0
    assert heun_ms_per_image(plan, Timing(1, tuple(times), 5.0)) == 8 * 20 + 5


def test_h8_is_not_compared_with_itself_and_other_plans_of_heun_are(scripted_service):
    *_, done = ask(scripted_service, heun=8, pseudo=0, refiner=0)
    assert done.speed_up is None
    *_, done = ask(scripted_service, heun=4, pseudo=0, refiner=0)
    # Only decoding keeps it from being twice as fast.
    assert 1 < done.speed_up <= 2
    assert done.speed_up * done.timing.ms_per_image == pytest.approx(done.heun_ms_per_image)


def test_h8_is_no_measure_of_a_model_of_few_euler_steps(scripted, scripted_service):
    scripted.default_plan = "E1"
    *_, done = ask(scripted_service, heun=1, pseudo=0, refiner=0)
    assert done.speed_up is None


def test_a_random_seed_is_drawn_and_told(scripted_service):
    seeds = {list(ask(scripted_service, randomise=True))[-1].settings.seed for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= seed <= MAX_SEED for seed in seeds)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heun": 0, "pseudo": 0, "refiner": 0}, "at least one step"),
        ({"heun": 0, "pseudo": 0}, "begins with R"),
        ({"heun": 25}, "Heun steps must be a whole number from 0 to 24, not 25"),
        ({"pseudo": 2.5}, "pseudo-corrector steps must be a whole number from 0 to 24, not 2.5"),
        ({"refiner": None}, "refiner steps must be a whole number from 0 to 8, not nothing"),
        ({"guidance_scale": float("nan")}, "guidance scale must be a number from 0 to 15, not nan"),
        ({"num_images": 9}, "number of images must be a whole number from 1 to 8, not 9"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, not -1"),
        ({"randomise": "no"}, "randomise must be true or false, not 'no'"),
        ({"class_names": []}, "choose at least one class"),
        ({"class_names": None}, "choose at least one class"),
        ({"class_names": ["horse"]}, "'horse' is not known; the classes are cat, dog"),
        ({"class_names": [2]}, "class label must be a whole number from 0 to 1, not 2"),
    ],
)
def test_refused_before_anything_runs(scripted, scripted_service, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask(scripted_service, **changes)
    assert scripted.blocks == []


@pytest.mark.parametrize(
    ("plan", "counts"),
    [("H1P5R3", (1, 5, 3)), ("H8", (8, 0, 0)), ("E1", (1, 0, 0)), ("E2P3", (2, 3, 0)),
     ("[H1P1R1]x3", None), ("H50", None), ("E25", None)],
)  # fmt: skip
def test_the_sliders_open_on_the_models_plan(plan, counts):
    service = ClassService(replace(MODEL, default_plan=plan), lambda: None)
    assert service.default_counts == (counts or (8, 0, 0))
    assert service.describe_plan(*service.default_counts).plan == (plan if counts else "H8")
    assert plan in service.note and ("stands in" in service.note) == (counts is None)


def test_the_models_own_plan_is_a_preset():
    paper = ["H8", "H2P4R2", "H1P5R3", "H5P7R3", "H8P9R5"]
    for own, presets in (
        ("H1P5R3", paper),
        ("E25", paper),
        ("H1P5R4", ["H8", "H1P5R4", *paper[1:]]),
        ("E1", ["E1", "E2", "E4"]),
        ("E3", ["E1", "E3", "E2", "E4"]),
    ):
        assert ClassService(replace(MODEL, default_plan=own), lambda: None).presets == presets


def test_a_distilled_model_is_sampled_by_eulers_steps():
    distilled = replace(MODEL, default_plan="E1")
    service = ClassService(distilled, lambda: Engine(ScriptedPipeline(), "scripted"))
    *_, done = service.generate_class_conditional(["cat"], 1, 0, 0, 1, 1, 0, False)
    assert (done.settings.plan, done.kinds) == ("E1", "E")
    settings = replace(done.settings, plan="E2P1")
    assert service.restored(settings)[1] == (2, 1, 0)
    with pytest.raises(ValueError, match="plan 'H2' is none of E..P..R.."):
        service.restored(replace(settings, plan="H2"))
    with pytest.raises(ValueError, match="Euler steps must be a whole number from 0 to 24, not 25"):
        service.restored(replace(settings, plan="E25"))


def test_a_model_without_refiner():
    plain = replace(MODEL, class_names=tuple(scene.CLASSES), has_refiner=False)
    service = ClassService(plain, lambda: Engine(make_pipeline("H8", with_refiner=False), "plain"))
    assert service.presets == ["H8"] and not service.has_refiner
    with pytest.raises(ValueError, match="no refiner"):
        ask(service)
    assert isinstance(list(ask(service, refiner=0))[-1], Done)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "tpu"}, "device 'tpu' is not on this machine"),
        ({"dtype": "int4"}, "dtype 'int4' is not known"),
    ],
)
def test_what_cannot_be_loaded_is_told_to_whoever_waits(postcards_folder, options, sentence):
    service = ClassService.load(str(postcards_folder), **{"device": "cpu"} | options)
    for waiting in (service.wait, lambda: list(ask(service))):
        with pytest.raises(ValueError, match=sentence):
            waiting()
    health = service.health()
    assert health["status"] == "failed" and sentence in health["error"]


def test_a_model_that_is_not_there_is_refused_at_once():
    with pytest.raises(ValueError, match="there is no model 'no-such'"):
        ClassService.load("no-such")


def test_a_request_waits_for_the_model(scripted):
    may_load = threading.Event()

    def load():
        assert may_load.wait(20)
        return Engine(scripted, "scripted")

    service = ClassService(MODEL, load)
    assert next(ask(service)) is None and service.engine is None
    assert service.health() == {"status": "loading", "model": "scripted"}
    threading.Timer(0.2, may_load.set).start()
    assert isinstance(list(ask(service))[-1], Done)
    assert service.engine is service.wait()
    assert service.health() == {
        "status": "ready", "model": "scripted", "device": "cpu", "dtype": "float32",
    }  # fmt: skip


def test_a_page_is_described_without_torch():
    program = (
        "import concurrent.futures, sys\n"
        "from demo import ui\n"
        "from demo.service.accelerator import Accelerator\n"
        "from demo.service.class_service import ClassService\n"
        "Accelerator.submit = lambda self, work: concurrent.futures.Future()\n"
        "ui.build(ClassService.load()); print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.stdout == "False\n", ended.stderr
