"""What a person may ask for: every wrong value is one sentence, every right one is taken."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import (
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    ClassConditionalRequest,
)

NAMES = ("sailboat", "cat", "beach umbrella")
GOOD = {
    "class_labels": [0, 2],
    "plan": "H1P2",
    "guidance_scale": 1.5,
    "num_images": 2,
    "seed": 7,
}
HUGE = 10**400
NEVER_A_NUMBER = [math.nan, math.inf, -math.inf, None, True, "2", "", [], [1], {}, 1j, HUGE, -HUGE]


def create(**changes):
    return ClassConditionalRequest.create(**GOOD | changes, class_names=NAMES)


def refusal(**changes):
    with pytest.raises(ValueError) as caught:
        create(**changes)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence and len(sentence) < 400
    return sentence


def written(value):
    """Return what a refusal calls a value."""
    return "nothing" if value is None else repr(value)


def test_a_good_request_is_taken_as_it_is():
    request = create()
    assert request.class_labels == (0, 2)
    assert request.labels == (0, 0, 2, 2)
    assert request.plan == SamplePlan("HPP")
    assert (request.guidance_scale, request.num_images, request.seed) == (1.5, 2, 7)


@pytest.mark.parametrize("value", [*NEVER_A_NUMBER, -1, 0, 0.5, 1.5, MAX_IMAGES + 1, "two"])
def test_wrong_image_counts(value):
    sentence = refusal(num_images=value)
    assert "num_images" in sentence
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
    assert "guidance_scale" in sentence
    assert written(value)[:40] in sentence
    assert str(MAX_GUIDANCE_SCALE) in sentence


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, None, True, [], {}, HUGE, -1, 3, 0.5, "3", "-1", "dog", "", "nan"]
)
def test_wrong_classes(value):
    sentence = refusal(class_labels=[0, value])
    assert "class" in sentence
    assert (written(value) in sentence) or (str(value)[:40] in sentence)


@pytest.mark.parametrize("value", [[], (), "", None, 3.5, math.nan, np.array([])])
def test_wrong_lists_of_classes(value):
    assert "class" in refusal(class_labels=value)


@pytest.mark.parametrize(
    "value", ["H0", "", "R3", "H101", "X1", None, 8, math.nan, ["H8"], True, "H" + "9" * 400]
)
def test_wrong_plans(value):
    assert "plan" in refusal(plan=value)


def test_a_number_too_long_to_print_is_still_refused_by_name():
    # Python refuses to turn a number of more than 4300 digits into text.
    assert "seed" in refusal(seed=10**5000)


def test_images_and_classes_together_are_limited():
    assert str(3 * 100) in refusal(class_labels=[0, 1, 2], num_images=100)
    assert len(create(class_labels=[0, 1], num_images=MAX_IMAGES // 2).labels) == MAX_IMAGES


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
    request = create(class_labels=value)
    assert request.class_labels == labels
    assert all(type(label) is int for label in request.class_labels)


def test_a_class_whose_name_has_capitals_is_found():
    request = ClassConditionalRequest.create(
        **GOOD | {"class_labels": ["Golden Retriever"]}, class_names=["Tench", "Golden Retriever"]
    )
    assert request.class_labels == (1,)


def test_a_plan_may_be_a_plan():
    plan = SamplePlan.parse("H2P3")
    assert create(plan=plan).plan is plan


def test_the_largest_seed_and_the_decimals_nobody_sends():
    assert create(seed=MAX_SEED, class_labels=[0], num_images=1).seed == MAX_SEED
    assert "seed must leave room" in refusal(seed=MAX_SEED, class_labels=[0], num_images=2)
    assert "guidance_scale" in refusal(guidance_scale=Decimal("1.5"))
