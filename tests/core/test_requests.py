"""What a person may ask for: every wrong value is one sentence, every right one is taken."""

import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowturbo_core.fields import Whole
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import (
    GENERATE,
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    MAX_SIDE,
    MAX_TEXT,
    SUBJECTS,
    TASKS,
    Classes,
    Edit,
    Generate,
    Inpaint,
    Prompts,
    Request,
    Size,
    Texts,
    defaults,
    fields_of,
)

NAMES = ("sailboat", "cat", "beach umbrella")
MODEL = ModelDescription("tiny", Path(), Classes, NAMES, True, "H1P2R1", 2.0)
TEXT_MODEL = ModelDescription("t2i", Path(), Texts, (), False, "H2P1", 1.5, 96, 16)
GOOD = {
    "class_names": [0, 2],
    "plan": "H1P2",
    "guidance_scale": 1.5,
    "num_images": 2,
    "seed": 7,
}
HUGE = 10**400
NEVER_A_NUMBER = [math.nan, math.inf, -math.inf, None, True, "2", "", [], [1], {}, 1j, HUGE, -HUGE]


def create(**changes):
    return Request.read(MODEL, GOOD | changes)


def refusal(model=MODEL, /, **changes):
    good = GOOD if model.subject is Classes else {"prompts": "a cat"}
    with pytest.raises(ValueError) as caught:
        Request.read(model, good | changes)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence and len(sentence) < 400
    return sentence


def written(value):
    """Return what a refusal calls a value."""
    return "nothing" if value is None else repr(value)


def test_a_good_request_is_taken_as_it_is():
    request = create()
    assert (request.model, request.task, request.size) == ("tiny", GENERATE, None)
    assert request.subject == Classes(("sailboat", "beach umbrella"))
    assert request.captions == ("sailboat", "sailboat", "beach umbrella", "beach umbrella")
    assert list(request.seeds) == [7, 8, 9, 10]
    assert request.plan == SamplePlan("HPP")
    assert (request.guidance_scale, request.num_images, request.seed) == (1.5, 2, 7)


@pytest.mark.parametrize("value", [*NEVER_A_NUMBER, -1, 0, 0.5, 1.5, MAX_IMAGES + 1, "two"])
def test_wrong_image_counts(value):
    sentence = refusal(num_images=value)
    assert "number of images" in sentence
    assert written(value)[:40] in sentence
    assert str(MAX_IMAGES) in sentence


@pytest.mark.parametrize("value", [*NEVER_A_NUMBER, -1, 0.5, MAX_SEED + 1, "random"])
def test_wrong_seeds(value):
    sentence = refusal(seed=value)
    assert "seed" in sentence
    assert written(value)[:40] in sentence
    assert str(MAX_SEED) in sentence


@pytest.mark.parametrize("value", [*NEVER_A_NUMBER, -0.01, MAX_GUIDANCE_SCALE + 0.01, "strong"])
def test_wrong_guidance(value):
    sentence = refusal(guidance_scale=value)
    assert "guidance scale" in sentence
    assert written(value)[:40] in sentence
    assert str(MAX_GUIDANCE_SCALE) in sentence


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, None, True, [], {}, HUGE, -1, 3, 0.5, "3", "-1", "dog", "", "nan"]
)
def test_wrong_classes(value):
    sentence = refusal(class_names=[0, value])
    assert "class" in sentence
    assert (written(value) in sentence) or (str(value)[:40] in sentence)


@pytest.mark.parametrize("value", [[], (), "", None, 3.5, math.nan, np.array([]), np.array(1)])
def test_wrong_lists_of_classes(value):
    assert "class" in refusal(class_names=value)


@pytest.mark.parametrize(
    "value", ["H0", "", "R3", "H101", "X1", None, 8, math.nan, ["H8"], True, "H" + "9" * 400]
)
def test_wrong_plans(value):
    assert "plan" in refusal(plan=value)


def test_a_number_too_long_to_print_is_still_refused_by_name():
    # Python refuses to turn a number of more than 4300 digits into text.
    assert "seed" in refusal(seed=10**5000)


def test_images_and_classes_together_are_limited():
    assert str(3 * 100) in refusal(class_names=[0, 1, 2], num_images=100)
    assert len(create(class_names=[0, 1], num_images=MAX_IMAGES // 2).captions) == MAX_IMAGES


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), Fraction(6, 2)])
def test_whole_numbers_of_every_kind(value):
    request = create(num_images=value, seed=value)
    assert request.num_images == request.seed == 3
    assert type(request.num_images) is type(request.seed) is int


@pytest.mark.parametrize("value", [0, 1, 15, 1.5, np.float32(1.5), np.float64(4), np.int32(2)])
def test_guidance_of_every_kind(value):
    request = create(guidance_scale=value)
    assert request.guidance_scale == float(value)
    assert type(request.guidance_scale) is float


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ([0, 1, 2], (0, 1, 2)),
        ((2, 2), (2, 2)),
        (range(3), (0, 1, 2)),
        (np.array([0, 2]), (0, 2)),
        ([1.0, np.int64(2)], (1, 2)),
        (["cat", "sailboat"], (1, 0)),
        (["Beach Umbrella ", "1", 0], (2, 1, 0)),
        ("cat", (1,)),
        (2, (2,)),
        (np.int64(2), (2,)),
    ],
)
def test_classes_by_number_or_name(value, labels):
    assert create(class_names=value).subject.things == tuple(NAMES[label] for label in labels)


def test_a_class_whose_name_has_capitals_is_found():
    model = replace(MODEL, class_names=("Tench", "Golden Retriever"))
    for name in ("Golden Retriever", "golden retriever "):
        request = Request.read(model, {"class_names": [name]})
        assert request.subject.class_names == ("Golden Retriever",)


def test_a_plan_may_be_a_plan():
    plan = SamplePlan.parse("H2P3")
    assert create(plan=plan).plan is plan


def test_the_largest_seed_and_the_decimals_nobody_sends():
    assert create(seed=MAX_SEED, class_names=[0], num_images=1).seed == MAX_SEED
    assert "seed must leave room" in refusal(seed=MAX_SEED, class_names=[0], num_images=2)
    assert "guidance scale" in refusal(guidance_scale=Decimal("1.5"))


def test_what_is_not_given_is_the_models():
    request = Request.read(MODEL, {"class_names": "cat"})
    assert (str(request.plan), request.guidance_scale) == ("H1P2R1", 2.0)
    assert (request.num_images, request.seed) == (1, 0)
    request = Request.read(TEXT_MODEL, {"prompts": "a cat"})
    assert request.subject == Texts(("a cat",), "") and request.size == Size(96, 96)
    assert defaults(TEXT_MODEL) == {
        "negative_prompt": "", "plan": "H2P1", "guidance_scale": 1.5, "height": 96, "width": 96,
        "num_images": 1, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda its: its.NAME)
def test_what_a_page_opens_with_is_a_request(subject):
    model = {Classes: MODEL, Texts: TEXT_MODEL}[subject]
    assert Request.read(model, subject.opening(model)).subject.things


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("model", [MODEL, TEXT_MODEL], ids=["classes", "texts"])
def test_every_field_describes_itself(model, task):
    fields = fields_of(model.subject, task)
    assert next(iter(fields)) == model.subject.field().name
    for called in ("words", "address", "option", "argument"):  # no two fields the same
        assert len({getattr(its, called) for its in fields.values()}) == len(fields)
    for field in fields.values():
        about = field.about.format(thing=model.subject.NOUN)
        assert field.schema(model)["description"].startswith(about)
        assert field.about and not field.about.endswith(".")


def test_a_side_says_what_the_model_takes():
    fields = fields_of(Texts, Generate)
    about = fields["width"].schema(TEXT_MODEL)["description"]
    assert about == "in pixels; a multiple of 16 from 16 to 2048"
    assert "height" not in fields_of(Classes, Generate)


def test_a_request_comes_back_from_its_values():
    request = create(class_names=["cat", 2])
    assert Request.read(MODEL, request.values()) == request
    assert Request.read(MODEL, request.json_values()) == request
    assert request.to_json() == {
        "model": "tiny", "task": "generate", "class_names": ["cat", "beach umbrella"],
        "plan": "H1P2", "guidance_scale": 1.5, "num_images": 2, "seed": 7,
    }  # fmt: skip
    values = {"prompts": ["a cat", "rain"], "negative_prompt": " blurred ", "height": 32}
    request = Request.read(TEXT_MODEL, values)
    assert Request.read(TEXT_MODEL, request.json_values()) == request
    assert request.to_json()["negative_prompt"] == "blurred" and request.to_json()["width"] == 96


@pytest.mark.parametrize(
    ("index", "name", "seed"), [(0, "sailboat", 7), (1, "sailboat", 8), (3, "beach umbrella", 10)]
)
def test_each_picture_has_a_request_of_its_own(index, name, seed):
    assert create().of_picture(index) == create(class_names=name, num_images=1, seed=seed)


def test_values_of_other_fields_are_refused_by_name():
    assert "field 'prompts' is not known; the fields are class_names, " in refusal(prompts="a cat")


def test_an_interface_may_take_less():
    one = {"prompts": Prompts(most=1), "num_images": Whole(1, 4)}
    read = Request.read(TEXT_MODEL, {"prompts": "a cat", "num_images": 4}, narrowed=one)
    assert read.captions == ("a cat",) * 4
    for values, sentence in (
        ({"prompts": ["a cat", "a dog"]}, "prompt must be a text, not \\['a cat', 'a dog'\\]"),
        ({"prompts": None}, "prompt must be a text, not None"),
        ({"prompts": "a cat", "num_images": 5}, "number of images must be .* from 1 to 4, not 5"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Request.read(TEXT_MODEL, values, narrowed=one)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"prompts": None}, "prompt must be a text, or a list of them, not None"),
        ({"prompts": 3}, "prompt must be a text, or a list of them, not 3"),
        ({"prompts": b"a cat"}, "prompt must be a text, or a list of them, not b'a cat'"),
        ({"prompts": {"a": 1}}, "prompt must be a text, or a list of them, not {'a': 1}"),
        ({"prompts": ["a cat", 3]}, "prompt must be a text, not 3"),
        ({"prompts": ["a cat"] * 300}, "prompt must be at most 256 texts, not 300"),
        ({"prompts": []}, "write a prompt: what should the picture show?"),
        ({"prompts": ["a cat", " "]}, "write a prompt: what should the picture show?"),
        ({"prompts": "x" * (MAX_TEXT + 1)}, "prompt has 2,001 characters; at most 2,000 are read"),
        ({"negative_prompt": 3}, "negative prompt must be a text, not 3"),
        ({"height": 40}, "height must be a multiple of 16, not 40"),
        ({"width": 0}, f"width must be a whole number from 16 to {MAX_SIDE}, not 0"),
        ({"width": "wide"}, f"width must be a whole number from 16 to {MAX_SIDE}, not 'wide'"),
        ({"plan": "H1R1"}, "plan H1R1 has refiner steps, but this model has no refiner"),
    ],
)  # fmt: skip
def test_wrong_values_of_texts(values, sentence):
    assert refusal(TEXT_MODEL, **values) == sentence


PICTURE = Image.new("RGB", (24, 16), "teal")
MASK = Image.new("L", (24, 16), 255)
OF_TASK = {
    Edit: {"picture": PICTURE, "source": "cat"},
    Inpaint: {"picture": PICTURE, "mask": MASK},
}


def task_refusal(task, **changes):
    with pytest.raises(ValueError) as caught:
        Request.read(MODEL, GOOD | OF_TASK[task] | changes, task)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence and len(sentence) < 400
    return sentence


@pytest.mark.parametrize("task", OF_TASK)
@pytest.mark.parametrize("value", [*NEVER_A_NUMBER, -1, -0.01, 1.01, 2, "strong"])
def test_wrong_strengths(task, value):
    sentence = task_refusal(task, strength=value)
    assert sentence.startswith("strength must be a number from 0 to 1, not ")
    assert written(value)[:40] in sentence


@pytest.mark.parametrize("name", ["source_guidance_scale", "plain_end"])
@pytest.mark.parametrize("value", [*NEVER_A_NUMBER, -1, 16])
def test_wrong_numbers_of_an_edit(name, value):
    words = name.replace("_", " ")
    assert task_refusal(Edit, **{name: value}).startswith(f"{words} must be a number from 0 to ")


@pytest.mark.parametrize("value", [*NEVER_A_NUMBER, -1, 0.5, 129])
def test_wrong_feathers(value):
    assert "feather must be a whole number from 0 to 128" in task_refusal(Inpaint, feather=value)


@pytest.mark.parametrize("value", [None, "", "SDEdit", "euler", 3, [], {}])
def test_wrong_methods(value):
    sentence = task_refusal(Edit, method=value)
    allowed = "sdedit, flowedit, flowalign"
    assert sentence == f"method must be one of {allowed}, not {value!r}"


@pytest.mark.parametrize("value", [None, 1, "true", "yes", 0.0])
def test_wrong_flags(value):
    assert task_refusal(Edit, find_mask=value) == f"find mask must be true or false, not {value!r}"


@pytest.mark.parametrize("value", ["dog", 3, -1, None, [0], math.nan])
def test_wrong_sources(value):
    assert "class" in task_refusal(Edit, source=value)


@pytest.mark.parametrize("task", OF_TASK)
@pytest.mark.parametrize(
    "value",
    [
        None, "", 3, math.nan, True, [PICTURE], b"png", "nowhere.png", "\0", "x" * 5000,
        "https://example.org/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA",
    ],
    ids=lambda its: str(its)[:30],
)  # fmt: skip
def test_wrong_pictures(task, value):
    assert "picture" in task_refusal(task, picture=value)


@pytest.mark.parametrize(
    "value",
    [
        None, "", 3, math.nan, True, [MASK], b"png", "nowhere.png", "\0",
        "https://example.org/a.png", "data:image/png;base64,AAAA",
    ],
    ids=lambda its: str(its)[:30],
)  # fmt: skip
def test_wrong_masks(value):
    assert "mask" in task_refusal(Inpaint, mask=value)


@pytest.mark.parametrize("name", ["picture", "mask"])
@pytest.mark.parametrize("content", [b"", b"just a text\n", b"\x89PNG\r\n\x1a\n and no more"])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path, name, content):
    file = tmp_path / "mine.png"
    file.write_bytes(content)
    sentence = task_refusal(Inpaint, **{name: str(file)})
    assert f"the {name} 'mine.png'" in sentence and str(tmp_path) not in sentence


def test_a_mask_is_of_its_pictures_size_and_paints_something():
    sentence = task_refusal(Inpaint, mask=Image.new("L", (24, 24), 255))
    assert "the mask has 24 x 24 pixels and the picture 24 x 16" in sentence
    sentence = task_refusal(Inpaint, mask=Image.new("L", (24, 16)))
    assert "the mask paints nothing" in sentence
    values = GOOD | {"picture": PICTURE, "mask": Image.new("L", (48, 32), 255)}
    assert Request.read(MODEL, values, Inpaint).task.mask.size == (24, 16)


def test_pictures_and_masks_are_files_too(tmp_path):
    PICTURE.save(tmp_path / "picture.png")
    MASK.save(tmp_path / "mask.png")
    for kind in (str, Path):
        files = {name: kind(tmp_path / f"{name}.png") for name in ("picture", "mask")}
        task = Request.read(MODEL, GOOD | files, Inpaint).task
        assert np.array_equal(task.picture, PICTURE) and np.array_equal(task.mask, MASK)


@pytest.mark.parametrize("task", OF_TASK)
def test_settings_hold_no_picture_and_say_that_it_is_missing(task):
    request = Request.read(MODEL, GOOD | OF_TASK[task], task)
    assert Request.read(MODEL, request.values(), task) == request
    written_down = request.json_values()
    for name in {"picture", "mask"} & written_down.keys():
        held = written_down[name]
        assert len(held) == 64 and set(held) <= set("0123456789abcdef")
        sentence = task_refusal(task, **{name: held})
        assert f"the {name} itself is not in the settings, only its hash" in sentence
    assert request.to_json()["task"] == task.NAME
