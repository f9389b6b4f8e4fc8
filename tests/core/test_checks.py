"""What a refusal says of a value and of what there is instead: short, whatever they are."""

import pytest

from flowturbo_core.checks import brief, check_known, few, unknown
from flowturbo_core.plan import SamplePlan, parse_distinct
from flowturbo_core.requests import class_label

THOUSAND = [f"bird of kind {k}, Avis {k}" for k in range(998)] + ["Persian cat", "tiger cat"]


def test_few_names_are_listed_and_many_are_not():
    listed = unknown("class", "dog", ["cat", "boat"], "classes")
    assert listed == "class 'dog' is not known; the classes are cat, boat"
    near = unknown("class", "tigr cat", THOUSAND, "classes")
    assert "there are 1,000 classes, the nearest are 'tiger cat'" in near and len(near) < 300
    assert "'Persian cat', 'tiger cat'" in unknown("class", "Cat", THOUSAND, "classes")
    far = unknown("class", "x" * 10**6, THOUSAND, "classes")
    assert "there are 1,000 classes, such as 'bird of kind 0, Avis 0'" in far and len(far) < 300


def test_an_unknown_class_of_many_is_a_short_sentence():
    with pytest.raises(ValueError, match="the nearest are 'tiger cat'") as refusal:
        class_label("tiger-cat", THOUSAND)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "refused",
    [
        lambda text: SamplePlan.parse(text[:400]),
        lambda text: SamplePlan.parse(text),
        lambda text: SamplePlan(text),
        lambda text: parse_distinct(["E1", "E1", *[f"E{k}" for k in range(2, 90)]]),
        lambda text: check_known("metrics", [text], ["fid"]),
        lambda text: SamplePlan("E").time_grid(text),
        lambda text: SamplePlan.from_counts(text),
    ],
)
def test_a_megabyte_is_not_echoed(refused):
    with pytest.raises(ValueError) as refusal:
        refused("x" * 10**6)
    assert len(str(refusal.value)) < 350


def test_a_value_is_cut_and_of_many_the_others_are_counted():
    assert brief("a" * 99) == "'" + 56 * "a" + "..." and brief(10**5000).startswith("a number")
    assert few("abcd") == "'a', 'b', 'c' and 1 more" and few("abc") == "'a', 'b', 'c'"
