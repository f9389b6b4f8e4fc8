"""Fields: declared once, each checks values, reads texts, and describes itself."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from flowturbo_core.fields import Called, Flag, Line, Real, Whole, declared_fields


@dataclass(frozen=True)
class Kettle:
    """One field of each kind, and what is no field."""

    owner: str
    cups: Annotated[int, Whole(1, 8), "how many it fills"]
    degrees: Annotated[float, Real(0, 99.5), "how hot", Called(words="heat")]
    label_text: Annotated[str, Line(12), "what stands on it; may be empty"] = ""
    is_on: Annotated[bool, Flag(), "whether it heats", Called(address="on", option="heating")] = (
        True
    )


FIELDS = declared_fields(Kettle)
CUPS, DEGREES, LABEL, IS_ON = FIELDS.values()


def refusal(field, value):
    with pytest.raises(ValueError) as caught:
        field.read(value, None)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 200
    return sentence


def test_the_fields_are_those_annotated_in_their_order():
    assert list(FIELDS) == ["cups", "degrees", "label_text", "is_on"]
    assert [its.about for its in FIELDS.values()] == [
        "how many it fills", "how hot", "what stands on it; may be empty", "whether it heats",
    ]  # fmt: skip
    missing = dataclasses.MISSING
    assert [its.default for its in FIELDS.values()] == [missing, missing, "", True]


@pytest.mark.parametrize(
    ("field", "names"),
    [
        (CUPS, ("cups", "cups", "cups", "cups")),
        (DEGREES, ("degrees", "heat", "degrees", "degrees")),
        (LABEL, ("label_text", "label text", "label_text", "label_text")),
        (IS_ON, ("is_on", "is on", "on", "heating")),
    ],
)
def test_a_field_is_called_by_its_name_where_nothing_else_is_said(field, names):
    assert (field.name, field.words, field.address, field.option) == names


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        (CUPS, 1, 1),
        (CUPS, 8.0, 8),
        (CUPS, np.int64(3), 3),
        (DEGREES, 0, 0.0),
        (DEGREES, 99.5, 99.5),
        (DEGREES, np.float32(1.5), 1.5),
        (LABEL, " tea\n time ", "tea time"),
        (LABEL, "", ""),
        (IS_ON, False, False),
        (IS_ON, True, True),
    ],
)
def test_right_values_are_taken_in_one_type(field, value, read):
    found = field.read(value, None)
    assert found == read and type(found) is type(read)
    assert field.kind.to_json(found) == read


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (CUPS, 0, "cups must be a whole number from 1 to 8, not 0"),
        (CUPS, 9, "cups must be a whole number from 1 to 8, not 9"),
        (CUPS, 2.5, "cups must be a whole number from 1 to 8, not 2.5"),
        (CUPS, "2", "cups must be a whole number from 1 to 8, not '2'"),
        (CUPS, True, "cups must be a whole number from 1 to 8, not True"),
        (CUPS, None, "cups must be a whole number from 1 to 8, not nothing"),
        (DEGREES, -0.5, "heat must be a number from 0 to 99.5, not -0.5"),
        (DEGREES, math.nan, "heat must be a number from 0 to 99.5, not nan"),
        (DEGREES, math.inf, "heat must be a number from 0 to 99.5, not inf"),
        (DEGREES, "hot", "heat must be a number from 0 to 99.5, not 'hot'"),
        (LABEL, 3, "label text must be a text, not 3"),
        (LABEL, "x" * 13, "label text has 13 characters; at most 12 are read"),
        (LABEL, "a\0b", r"label text holds the control character '\x00'; write text alone"),
        (IS_ON, 1, "is on must be true or false, not 1"),
        (IS_ON, "true", "is on must be true or false, not 'true'"),
        (IS_ON, None, "is on must be true or false, not None"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_calls_the_field_by_its_words(field, value, sentence):
    assert refusal(field, value) == sentence


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_a_value_without_end_is_told_in_short(field):
    for value in ("9" * 100_000, [1] * 100_000, 10**5000):
        assert refusal(field, value).startswith(field.words)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        (CUPS, "3", 3),
        (CUPS, "three", "three"),
        (CUPS, "1.5", "1.5"),
        (CUPS, "", ""),
        (CUPS, "9" * 5000, "9" * 5000),
        (DEGREES, "1.5", 1.5),
        (DEGREES, "3", 3.0),
        (DEGREES, "1e400", math.inf),
        (DEGREES, "warm", "warm"),
        (LABEL, " 3 ", " 3 "),
        (IS_ON, "True", True),
        (IS_ON, "false", False),
        (IS_ON, "0", "0"),
    ],
)
def test_a_text_that_stands_for_no_value_is_left_to_be_refused(field, text, value):
    assert field.kind.parse(text) == value and type(field.kind.parse(text)) is type(value)


@pytest.mark.parametrize("value", [Kettle("a", 1, 0.1), Kettle("b", 8, 99.5, "tea", False)])
def test_values_come_back_from_their_texts(value):
    for name, field in FIELDS.items():
        held = getattr(value, name)
        assert field.read(field.kind.parse(str(field.kind.to_json(held))), None) == held


@pytest.mark.parametrize(
    ("field", "schema", "sentence"),
    [
        (
            CUPS,
            {"type": "integer", "minimum": 1, "maximum": 8},
            "how many it fills; a whole number from 1 to 8",
        ),
        (
            DEGREES,
            {"type": "number", "minimum": 0, "maximum": 99.5},
            "how hot; a number from 0 to 99.5",
        ),
        (
            LABEL,
            {"type": "string", "maxLength": 12},
            "what stands on it; may be empty; at most 12 characters",
        ),
        (IS_ON, {"type": "boolean"}, "whether it heats; true or false"),
    ],
)
def test_a_field_says_what_it_means_and_may_be(field, schema, sentence):
    assert field.schema(None)["description"] == sentence
    assert field.schema(None) == schema | {"description": sentence}
