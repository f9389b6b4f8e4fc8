"""Checks values, and writes them so briefly that a sentence of refusal can hold them."""

import difflib
import numbers
import unicodedata
from collections.abc import Iterable, Sequence

_LISTED = 400  # characters; a longer list of names is not read
_NEAREST = 5


def brief(value: object, most: int = 60) -> str:
    """Return `value` as Python writes it, cut to `most` characters, for a sentence."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        return "a number of thousands of digits"
    return cut(text, most)


def cut(text: str, most: int = 200) -> str:
    """Return the beginning of a text, for a sentence."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def few(values: Iterable[object], many: int = 3) -> str:
    """Return the first of `values` for a sentence, and how many others there are."""
    each = [brief(value) for value in values]
    rest = f" and {len(each) - many:,} more" if len(each) > many else ""
    return ", ".join(each[:many]) + rest


def unknown(what: str, value: object, names: Sequence[str], plural: str | None = None) -> str:
    """Return the sentence that refuses `value` because it is not one of `names`.

    It lists all names if the list is short, or else the few that are spelt most alike.
    """
    begin, plural = f"{what} {brief(value)} is not known", plural or f"{what}s"
    listed = ", ".join(names)
    if len(listed) <= _LISTED:
        return f"{begin}; the {plural} are {listed}" if names else f"{begin}; there are none"
    near = _nearest(str(value)[:100], names)
    such = f"the nearest are {few(near, _NEAREST)}" if near else f"such as {few(names[:3])}"
    return f"{begin}; there are {len(names):,} {plural}, {such}"


def check_known(plural: str, values: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError unless `values` are at least one, and all of them among `names`."""
    wrong = [value for value in values if value not in names]
    if wrong or not values:
        raise ValueError(f"{plural} {brief(', '.join(wrong))}: choose from {', '.join(names)}")


def _nearest(text: str, names: Sequence[str]) -> list[str]:
    """Return the few names that contain `text`, or else those that are spelt most alike."""
    wanted, by_lower = text.strip().lower(), {name.lower(): name for name in names}
    holding = [item for name, item in by_lower.items() if wanted and wanted in name]
    alike = difflib.get_close_matches(wanted, by_lower, _NEAREST)
    return (holding or [by_lower[name] for name in alike])[:_NEAREST]


def in_short(error: Exception) -> str:
    """Return what a library says of a failure, on one line and cut to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as an int from `low` to `high`; 3.0 is whole, 3.5, NaN and True are not."""
    if not (_is_number(value) and low <= value <= high and value == int(value)):
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {_tell(value)}")
    return int(value)


def real_number(name: str, value: object, low: float, high: float) -> float:
    """Return `value` as a float from `low` to `high`, or raise ValueError saying so."""
    if not (_is_number(value) and low <= value <= high):  # false for NaN and the infinities too
        raise ValueError(f"{name} must be a number from {low} to {high}, not {_tell(value)}")
    return float(value)


def one_line(name: str, value: object, longest: int) -> str:
    """Return a text of at most `longest` characters on one line, without the blanks around it."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {brief(value)}")
    if len(value) > longest:
        raise ValueError(f"{name} has {len(value):,} characters; at most {longest:,} are read")
    # Cc: control characters; Cs: halves of characters, which no file and no model can hold. U+FEFF
    # is the mark at the start of a file, and is left in the middle of files that were joined.
    wrong = [
        c
        for c in value
        if c == "\ufeff" or (unicodedata.category(c) in ("Cc", "Cs") and not c.isspace())
    ]
    if wrong:
        raise ValueError(f"{name} holds the control character {wrong[0]!r}; write text alone")
    return " ".join(value.split())


def _tell(value: object) -> str:
    return "nothing" if value is None else brief(value)  # an empty field, or a null


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
