"""The service: what a request comes to, what is refused, and settings that come back."""

import re
import threading
from dataclasses import replace

import numpy as np
import pytest

from demo.service.engine import Engine
from demo.service.events import Done, Preview
from demo.service.service import Service
from flowturbo_core.data.postcards import scene
from flowturbo_core.metadata import Written
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.requests import MAX_SEED, Classes, Generate, Texts
from tests.demo.conftest import MODEL, ScriptedPipeline, make_pipeline
from tests.demo.service.asking import ask


def test_a_preview_after_every_block_and_then_the_result(service):
    names = ["cat", "sailboat"]
    *previews, done = ask(service, class_names=names, num_images=2, seed=7)
    assert all(isinstance(preview, Preview) for preview in previews)
    assert [preview.block for preview in previews] == list(range(1, 10))
    assert "".join(preview.kind for preview in previews) == "HPPPPPRRR" == done.request.plan.kinds
    assert previews[0].curvature is None
    assert all(len(p.curvature) == 4 and min(p.curvature) > 0 for p in previews[1:])
    for event in (*previews, done):
        assert event.request.captions == ("cat", "cat", "sailboat", "sailboat")
        assert [picture.size for picture in event.pictures] == [(128, 128)] * 4
        assert event.request.to_json() == {
            "model": "tiny-postcards",
            "task": "generate",
            "class_names": names,
            "plan": "H1P5R3",
            "guidance_scale": 1.5,
            "num_images": 2,
            "seed": 7,
        }
    assert isinstance(done, Done)
    plan = done.request.plan
    assert (str(plan), len(plan)) == ("H1P5R3", 9)
    assert (plan.predictor_evaluations, plan.refiner_evaluations) == (7, 6)
    assert len(done.timing.block_ms) == 9 and done.timing.num_images == 4
    assert done.timing.decode_ms > 0 and done.speed_up > 0


def test_the_pictures_are_the_pipelines(postcards_folder, service):
    direct = ClassConditionalPipeline.from_pretrained(postcards_folder)
    expected = direct(["cat", "fish"], "H2P4R2", 4.0, 1, seed=3).images
    plan = {"heun": 2, "pseudo": 4, "refiner": 2}
    *_, preview, done = ask(service, class_names=["cat", "fish"], guidance_scale=4, seed=3, **plan)
    for ours, theirs, last in zip(done.pictures, expected, preview.pictures, strict=True):
        assert np.array_equal(ours, theirs) and np.array_equal(last, theirs)


RESTORED = {
    "class_names": ["dog", "cat"], "plan": "H1P5R3", "guidance_scale": 1.5, "num_images": 2,
    "seed": 7,
}  # fmt: skip


def written(model="scripted", **changes):
    return Written(Classes, Generate, model, RESTORED | changes)


def test_settings_that_this_page_can_run(scripted_service):
    request = scripted_service.restore(written())
    shown = scripted_service.control_values(request)
    steps = {"heun": 1, "pseudo": 5, "refiner": 3}
    kept = {name: value for name, value in RESTORED.items() if name != "plan"}
    assert shown == kept | steps | {"randomise": False}
    assert scripted_service.request(shown) == request
    opening = scripted_service.opening
    assert scripted_service.request(scripted_service.control_values(opening)) == opening


def test_classes_come_back_as_the_model_names_them(scripted_service):
    request = scripted_service.restore(written(class_names=(" Cat ", "1")))
    assert request.subject.class_names == ("cat", "dog")


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
        ({"plan": None}, "a plan is a text of at most 400 characters, like H1P5R3, not None"),
        ({"guidance_scale": float("nan")}, "guidance scale must be a number from 0 to 15"),
        ({"guidance_scale": [1]}, "guidance scale must be a number from 0 to 15, not [1]"),
        ({"num_images": 9}, "number of images must be a whole number from 1 to 8, not 9"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, not -1"),
    ],
)
def test_settings_that_it_cannot(scripted_service, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        scripted_service.restore(written(**changes))
    assert len(str(refusal.value)) < 200


def test_settings_of_another_subject_or_task_are_not_this_pages(scripted_service):
    with pytest.raises(ValueError, match="this picture is of texts, not of classes"):
        scripted_service.restore(replace(written(), subject=Texts))

    class Smear:
        NAME = "smear"

    with pytest.raises(ValueError, match="is of the task smear, not of generate"):
        scripted_service.restore(replace(written(), task=Smear))


def test_a_request_that_nobody_reads_is_not_started(scripted, scripted_service):
    ask(scripted_service).close()
    list(ask(scripted_service, class_names=["dog"], heun=1, pseudo=0, refiner=0))
    assert scripted.blocks == [((1,), "H")]


def test_a_random_seed_is_drawn_and_told(scripted_service):
    seeds = {list(ask(scripted_service, randomise=True))[-1].request.seed for _ in range(3)}
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


def test_a_distilled_model_is_sampled_by_eulers_steps():
    distilled = replace(MODEL, default_plan="E1")
    service = Service(distilled, lambda: Engine(ScriptedPipeline()))
    *_, done = ask(service, pseudo=0, refiner=0)
    assert (str(done.request.plan), done.request.plan.kinds) == ("E1", "E")
    shown = service.control_values(service.restore(written(plan="E2P1")))
    assert (shown["heun"], shown["pseudo"], shown["refiner"]) == (2, 1, 0)
    with pytest.raises(ValueError, match="plan 'H2' is none of E..P..R.."):
        service.restore(written(plan="H2"))
    with pytest.raises(ValueError, match="Euler steps must be a whole number from 0 to 24, not 25"):
        service.restore(written(plan="E25"))


def test_a_model_without_refiner():
    plain = replace(MODEL, class_names=tuple(scene.CLASSES), has_refiner=False)
    service = Service(plain, lambda: Engine(make_pipeline("H8", with_refiner=False)))
    assert service.plans.presets == ["H8"]
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
    service = Service.load(str(postcards_folder), **{"device": "cpu"} | options)
    for waiting in (service.wait, lambda: list(ask(service))):
        with pytest.raises(ValueError, match=sentence):
            waiting()
    health = service.health()
    assert health["status"] == "failed" and sentence in health["error"]


def test_a_model_that_is_not_there_is_refused_at_once():
    with pytest.raises(ValueError, match="there is no model 'no-such'"):
        Service.load("no-such")


def test_a_request_waits_for_the_model(scripted):
    may_load = threading.Event()

    def load():
        assert may_load.wait(20)
        return Engine(scripted)

    service = Service(MODEL, load)
    assert next(ask(service)) is None and service.engine is None
    assert service.health() == {"status": "loading", "model": "scripted"}
    threading.Timer(0.2, may_load.set).start()
    assert isinstance(list(ask(service))[-1], Done)
    assert service.engine is service.wait()
    assert service.health() == {
        "status": "ready", "model": "scripted", "device": "cpu", "dtype": "float32",
    }  # fmt: skip
