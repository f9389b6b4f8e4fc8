"""Options of commands that make pictures: every field has one, and none is taken in vain."""

import inspect
from pathlib import Path

import pytest

from flowturbo_core.cli.asking import read_asked, takes_request
from flowturbo_core.cli.sampling import sample_by, sample_captions
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.requests import SUBJECTS, TASKS, Classes, Generate, Request, Texts, fields_of

MODEL = ModelDescription("tiny", Path(), Classes, ("cat", "beach umbrella"), True, "H1R1", 2.0)
TEXT_MODEL = ModelDescription("t2i", Path(), Texts, (), False, "H2", 1.5, 96, 16)
_NO_REFINER = "plan H1R1 has refiner steps, but this model has no refiner"


def options(command):
    return list(inspect.signature(command).parameters)


@pytest.mark.parametrize("task", TASKS.values())
def test_every_field_of_a_task_has_an_option(task):
    found = options(sample_by(task))
    for subject in SUBJECTS:
        assert {its.option for its in fields_of(subject, task).values()} <= set(found)
    assert "asked" not in found


def test_a_command_may_take_some_fields_alone():
    found = options(sample_captions)
    assert {"plan", "guidance_scale", "height", "width", "seed"} <= set(found)
    assert not {"prompt", "class_labels", "num_images", "asked"} & set(found)


def test_a_command_is_given_what_was_asked_by_the_names_of_the_fields():
    seen = []

    @takes_request(Generate)
    def command(asked: dict, model: str = "tiny") -> None:
        seen.append((asked, model))

    nothing = dict.fromkeys(set(options(command)) - {"model"})
    command(**nothing, model="t2i")
    command(**nothing | {"class_labels": "cat", "prompt": ["a cat"], "seed": 7})
    given = {"class_names": "cat", "prompts": ["a cat"], "seed": 7}
    assert seen == [({}, "t2i"), (given, "tiny")]


def test_what_is_the_default_anyway_is_not_asked_for():
    seen = []

    @takes_request(Generate)
    def command(asked: dict) -> None:
        seen.append(asked)

    command(**dict.fromkeys(options(command)) | {"negative_prompt": "", "seed": 0})
    assert seen == [{}]


def test_help_says_what_each_option_means(command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    said = command_line("sample", "--help").out
    for text in (
        "--class-labels", "separated by commas; default: one of each", "--prompt",
        "once for each text", "default: 1",
        "--num-images", "a whole number from 1 to 256", "--guidance-scale", "--height",
        "Image k draws its noise from seed + k; a whole number from 0 to 4294967295; default: 0.",
    ):  # fmt: skip
        assert text in said, text


def test_classes_are_named_between_commas_and_are_one_of_each_where_none_is():
    asked = read_asked(MODEL, {"class_names": " 1, cat ,Beach Umbrella", "seed": 3}, Generate)
    assert asked.captions == ("beach umbrella", "cat", "beach umbrella") and asked.seed == 3
    assert read_asked(MODEL, {}, Generate) == Request.read(
        MODEL, {"class_names": MODEL.class_names}
    )


def test_each_prompt_is_one_text_with_its_commas():
    asked = {"prompts": ["night, city", "a cat"], "height": 32}
    request = read_asked(TEXT_MODEL, asked, Generate)
    assert request.captions == ("night, city", "a cat") and type(request.task) is Generate
    assert (request.size.height, request.size.width) == (32, 96)


@pytest.mark.parametrize(
    ("model", "asked", "sentence"),
    [
        (MODEL, {"prompts": ["a cat"]}, "tiny takes --class-labels, not --prompt"),
        (MODEL, {"negative_prompt": "x"}, "tiny takes --class-labels, not --negative-prompt"),
        (MODEL, {"height": 32}, "tiny takes --class-labels, not --height"),
        (TEXT_MODEL, {"class_names": "cat"}, "t2i takes --prompt, not --class-labels"),
        (TEXT_MODEL, {}, "t2i needs a --prompt: what should it show?"),
        (TEXT_MODEL, {"prompts": [" "]}, "write a prompt: what should the picture show?"),
        (MODEL, {"class_names": " , "}, "choose at least one class; the list of classes is empty"),
        (TEXT_MODEL, {"prompts": ["a"], "plan": "H1R1"}, _NO_REFINER),
    ],
)
def test_what_a_model_does_not_take_is_one_sentence(model, asked, sentence):
    with pytest.raises(ValueError) as refusal:
        read_asked(model, asked, Generate)
    assert str(refusal.value) == sentence
