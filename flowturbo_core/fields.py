"""Fields of a request: each is declared once, as an annotation, and everything is read from there.

    seed: Annotated[int, Whole(0, MAX_SEED), "image k draws its noise from seed + k"] = 0

The annotation holds the kind of value with its range, one sentence, and what other interfaces call
the field where that is not its name. An interface asks the field to check a value, to take one from
a text, and to describe itself to people and to programs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from flowturbo_core.checks import brief, one_line, real_number, whole_number


class Kind:
    """What values a field takes. `model` says what depends on the model that is asked.

    `OPTION` is the type of the command line's option, and `IS_WRITTEN` says whether a person writes
    the value into a box of text.
    """

    OPTION: ClassVar[Any] = str
    IS_WRITTEN: ClassVar = False
    IS_CARRIED: ClassVar = True  # by settings; of a picture they hold the name alone

    def read(self, words: str, value: object, model: Any) -> Any:
        """Return the checked value. Raises ValueError: what it is called, and what is allowed."""
        raise NotImplementedError  # pragma: no cover

    def schema(self, model: Any) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        raise NotImplementedError  # pragma: no cover

    def parse(self, text: str) -> object:
        """Return what a text stands for; a text that stands for nothing is left for `read`."""
        return text

    def to_json(self, value: Any) -> Any:
        """Return a checked value as JSON holds it."""
        return value


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from `low` to `high`."""

    OPTION: ClassVar = int

    low: int
    high: int

    def read(self, words: str, value: object, model: Any) -> int:
        """Return the number as an int; 3.0 is whole."""
        return whole_number(words, value, self.low, self.high)

    def schema(self, model: Any) -> dict[str, Any]:
        """Return the JSON schema of the numbers."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def parse(self, text: str) -> object:
        """Return the number that a text stands for."""
        return _number(int, text)


@dataclass(frozen=True)
class Real(Kind):
    """A number from `low` to `high`."""

    OPTION: ClassVar = float

    low: float
    high: float

    def read(self, words: str, value: object, model: Any) -> float:
        """Return the number as a float."""
        return real_number(words, value, self.low, self.high)

    def schema(self, model: Any) -> dict[str, Any]:
        """Return the JSON schema of the numbers."""
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def parse(self, text: str) -> object:
        """Return the number that a text stands for."""
        return _number(float, text)


@dataclass(frozen=True)
class Line(Kind):
    """A text of one line."""

    IS_WRITTEN: ClassVar = True

    longest: int

    def read(self, words: str, value: object, model: Any) -> str:
        """Return the text without needless blanks; None is no text."""
        return one_line(words, value, self.longest)

    def schema(self, model: Any) -> dict[str, Any]:
        """Return the JSON schema of the texts."""
        return {"type": "string", "maxLength": self.longest}


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    OPTION: ClassVar = bool

    def read(self, words: str, value: object, model: Any) -> bool:
        """Return the value: true and false are no numbers here, nor texts."""
        if not isinstance(value, bool):
            raise ValueError(f"{words} must be true or false, not {brief(value)}")
        return value

    def schema(self, model: Any) -> dict[str, Any]:
        """Return the JSON schema of the two."""
        return {"type": "boolean"}

    def parse(self, text: str) -> object:
        """Return what `true` or `false` stands for, in whatever letters."""
        return {"true": True, "false": False}.get(text.lower(), text)


@dataclass(frozen=True)
class Choice(Kind):
    """One of these words."""

    options: tuple[str, ...]

    def read(self, words: str, value: object, model: Any) -> str:
        """Return the word, as it is."""
        if value not in self.options:
            raise ValueError(
                f"{words} must be one of {', '.join(self.options)}, not {brief(value)}"
            )
        return value

    def schema(self, model: Any) -> dict[str, Any]:
        """Return that of a text, with the words."""
        return {"type": "string", "enum": list(self.options)}


@dataclass(frozen=True)
class Called:
    """What others call a field: sentences, an address, the command line and Python, programs.

    `note` is what the command line says of it beside.
    """

    words: str = ""
    address: str = ""
    option: str = ""
    argument: str = ""
    note: str = ""


@dataclass(frozen=True)
class Field:
    """One field.

    Args:
        name: what pictures and records call it.
        kind: which values it takes.
        about: what it means, in a sentence without capital and full stop.
        words: what refusals call it.
        address: what an address calls it.
        option: what the command line and Python call it.
        argument: what programs call it.
        note: what the command line says of it beside.
        default: the value where none is given; `dataclasses.MISSING` where the model has it.
    """

    name: str
    kind: Kind
    about: str
    words: str
    address: str
    option: str
    argument: str
    note: str
    default: Any

    def read(self, value: object, model: Any, in_words: bool = True) -> Any:
        """Return the checked value.

        Raises ValueError, in one sentence, which calls the field by its words, or as Python does.
        """
        return self.kind.read(self.words if in_words else self.option, value, model)

    def schema(self, model: Any, kind: Kind | None = None) -> dict[str, Any]:
        """Return the JSON schema, its description included; `kind` stands for a narrower one."""
        schema = (kind or self.kind).schema(model)
        limits = _in_words(schema)
        thing = "class or prompt" if model is None else model.subject.NOUN
        about = self.about.format(thing=thing)
        return schema | {"description": f"{about}; {limits}" if limits else about}


@cache
def declared_fields(owner: type) -> Mapping[str, Field]:
    """Return the fields that a dataclass declares by annotations of this module, in order."""
    hints = get_type_hints(owner, include_extras=True)
    fields = {}
    for item in dataclasses.fields(owner):
        if get_origin(hints[item.name]) is not Annotated:
            continue
        _, kind, about, *names = get_args(hints[item.name])
        called = names[0] if names else Called()
        fields[item.name] = Field(
            item.name,
            kind,
            about,
            called.words or item.name.replace("_", " "),
            called.address or item.name,
            called.option or item.name,
            called.argument or item.name,
            called.note,
            item.default,
        )
    return fields


def _number(kind: type, text: str) -> object:
    try:
        return kind(text)
    except ValueError:
        return text


def _in_words(schema: Mapping[str, Any]) -> str:
    """Return what a JSON schema allows, in words."""
    kind = schema.get("type")
    if kind == "boolean":
        return "true or false"
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if kind == "string" and "maxLength" in schema:
        return f"at most {schema['maxLength']} characters"
    if kind not in ("integer", "number"):
        return ""
    number = "a whole number" if kind == "integer" else "a number"
    if "multipleOf" in schema:
        number = f"a multiple of {schema['multipleOf']}"
    return f"{number} from {schema['minimum']} to {schema['maximum']}"
