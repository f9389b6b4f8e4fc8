"""Reads files of captions or prompts: one a line, JSON, JSON lines, or a table with a header."""

import codecs
import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from flowturbo_core.checks import brief, few, one_line
from flowturbo_core.data.folders import refusing
from flowturbo_core.requests import MAX_TEXT

# The keys for the name of a picture and for a text, in the order of preference.
_NAMES = ("file_name", "filename", "image", "file", "image_path")
_TEXTS = ("text", "caption", "prompt")
_FORMS = ".txt (one a line), .json, .jsonl, .csv and .tsv"
# A line of other data sets: the name of a picture, perhaps a number (#0), and a text.
_NAMED = re.compile(r"\S+\.(png|jpe?g|jfif|webp|bmp|gif)(#\d+)?\s*[\t,;|]", re.IGNORECASE)
# The byte-order marks that some editors write. If two begin alike, the longer stands first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Caption:
    """A text of a file, as it stands there, on one line.

    Args:
        text: the text.
        name: the file name of the picture; None if the file of captions has no names.
    """

    text: str
    name: str | None = None


def read_texts(file: Path) -> list[Caption]:
    """Read a file of captions or prompts.

    A .txt file, or one without an ending, has a text on each line. A .json file maps names of
    pictures to texts, or is a list. A list, and a .jsonl file, has texts, or objects with a `text`,
    a `caption` or a `prompt`, and perhaps a `file_name` (or `image`). A .csv or .tsv file names
    such columns in its first line.

    All texts are checked before any is used. Raises ValueError, naming the file and the line.
    """
    ending = file.suffix.lower()
    if ending not in _READERS:
        raise ValueError(f"{file}: captions are read from {_FORMS}, not from {brief(ending)} files")
    found = [_check(file, *item) for item in _READERS[ending](file, _decode(file))]
    if not found:
        raise ValueError(f"{file} holds no captions")
    nameless = sum(item.name is None for item in found)
    if 0 < nameless < len(found):
        raise ValueError(f"{file} names the pictures of some captions and not of {nameless:,}")
    by_name = Counter(_compose(item.name) for item in found if item.name is not None)
    if twice := [name for name, count in by_name.items() if count > 1]:
        raise ValueError(
            f"{file} has several captions for {_pictures(twice)}: leave one for each picture"
        )
    return found


def read_captions(file: Path, source: Path, names: Sequence[str] | None, count: int) -> list[str]:
    """Return the caption of each of the `count` pictures in `source`, in their order.

    If `file` has names, they are matched with `names`, the names of the pictures' files, whatever
    the form of Unicode. If it has none, captions and pictures match by order: that of `names`, or
    of `arr_0`.

    Raises ValueError unless every caption has a picture and every picture a caption, and whenever
    `read_texts` does.
    """
    captions = read_texts(file)
    if captions[0].name is None:
        if len(captions) != count:
            raise ValueError(
                f"{file} has {len(captions):,} captions, and {source} {count:,} pictures"
            )
        return [item.text for item in captions]
    if names is None:
        raise ValueError(
            f"{file} has captions by file name, and the pictures of {source} have none"
        )
    composed = [_compose(name) for name in names]
    if twice := [name for name, many in Counter(composed).items() if many > 1]:
        raise ValueError(f"{source} holds several pictures named {few(twice)}")
    by_name = {_compose(item.name): item.text for item in captions}
    if without := [name for name in composed if name not in by_name]:
        raise ValueError(f"{file}: there is no caption for {_pictures(without)}")
    if left := sorted(by_name.keys() - set(composed)):
        which = "the caption" if len(left) == 1 else f"{len(left):,} of the captions, those"
        raise ValueError(f"{file}: there is no picture for {which} of {few(left)}")
    return [by_name[name] for name in composed]


def _pictures(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the picture {brief(names[0])}"
    return f"{len(names):,} of the pictures: {few(names)}"


def _compose(name: str) -> str:
    """Return a name in one form of Unicode (NFC): macOS writes accents as separate characters."""
    return unicodedata.normalize("NFC", name)


# Where in a file something stands, the name of a picture or None, and a text, all unchecked.
_Found = tuple[str, Any, Any]


def _check(file: Path, where: str, name: Any, text: Any) -> Caption:
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{file}, {where}: a picture's name must be a text, not {brief(name)}")
    try:
        kept = one_line("the caption", text, MAX_TEXT)
        if not kept:
            raise ValueError(f"the caption must be a text, not {brief(text)}")
    except ValueError as error:
        raise ValueError(f"{file}, {where}: {error}") from error
    return Caption(kept, name)


def _decode(file: Path) -> str:
    """Return what a text file holds, in UTF-8 or as its mark says, with one kind of line ends."""
    if not file.exists():
        raise ValueError(f"there is no file {file}")
    with refusing(f"{file} cannot be read as text in UTF-8"):
        content = file.read_bytes()
        encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
        return re.sub("\r\n?", "\n", content.decode(encoding))


def _from_lines(file: Path, content: str) -> Iterable[_Found]:
    lines = content.rstrip("\n").split("\n") if content.strip("\n") else []
    if lines and _is_of_another_form(lines[0]):
        raise ValueError(
            f"{file} holds no plain lines, but begins with {brief(lines[0])}: where pictures are "
            "named, a .json, .jsonl, .csv or .tsv file is read"
        )
    return ((f"line {k}", None, line) for k, line in enumerate(lines, 1))


def _is_of_another_form(line: str) -> bool:
    """Tell whether a first line begins JSON or a table, or names the picture before its text."""
    if line.strip()[:1] in ("{", "[") and (line.strip() in ("{", "[") or _is_json(line)):
        return True
    if _NAMED.match(line):
        return True
    headers = ({name.strip().lower() for name in line.split(mark)} for mark in ",\t;|")
    return any(
        not header.isdisjoint(_TEXTS) and len(header) > 1 and not header.isdisjoint(_NAMES)
        for header in headers
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _from_json(file: Path, content: str) -> Iterable[_Found]:
    content = _parse(f"{file} is no JSON", content)
    if isinstance(content, dict) and {"annotations", "images"} <= content.keys():
        raise ValueError(
            f"{file} holds annotations as COCO's, with several captions for a picture: write a "
            "map of file names to one caption each"
        )
    if isinstance(content, dict):
        return ((brief(name), name, item) for name, item in content.items())
    if isinstance(content, list):
        return (_from_entry(file, f"entry {k}", item) for k, item in enumerate(content, 1))
    kind = type(content).__name__
    raise ValueError(f"{file} must hold a JSON object of captions, or a list, not a {kind}")


def _from_json_lines(file: Path, content: str) -> Iterable[_Found]:
    for k, line in enumerate(content.split("\n"), 1):
        if line.strip():
            entry = _parse(f"{file}, line {k}, is no JSON", line)
            yield _from_entry(file, f"line {k}", entry)


def _from_entry(file: Path, where: str, entry: Any) -> _Found:
    if not isinstance(entry, dict):
        return where, None, entry
    try:
        text, name = _columns(entry) or (None, None)
    except ValueError as error:
        raise ValueError(f"{file}, {where}: {error}") from error
    if text is None:
        raise ValueError(
            f"{file}, {where}: of {', '.join(_TEXTS)} it needs one, and has {few(entry) or 'none'}"
        )
    return where, None if name is None else entry[name], entry[text]


def _columns(names: Iterable[str]) -> tuple[str, str | None] | None:
    """Return the names of the column of texts and of that of pictures; None without the first."""
    known = {name.strip().lower(): name for name in names if isinstance(name, str)}
    texts = [known[name] for name in _TEXTS if name in known]
    if len(texts) > 1:
        raise ValueError(f"it has {' and '.join(texts)}, and one is to be the caption: leave that")
    files = [known[name] for name in _NAMES if name in known]
    return (texts[0], files[0] if files else None) if texts else None


def _parse(refusal: str, text: str) -> Any:
    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"it has several entries for {few(twice)}")
        return dict(pairs)

    with refusing(refusal):
        return json.loads(text, object_pairs_hook=collect)


def _from_table(file: Path, content: str) -> Iterable[_Found]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    rows = csv.reader(StringIO(content, newline=""), delimiter=delimiter, strict=True)
    with refusing(f"{file} is no table"):
        header = next((row for row in rows if row), [])
        columns = _columns(header)
        if columns is None:
            raise ValueError(
                f"its first line must name its columns, one of them {', '.join(_TEXTS)}, and not "
                f"be {few(header) or 'empty'}"
            )
        text, name = (None if item is None else header.index(item) for item in columns)
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} columns, and the first {len(header)}"
                )
            if row:
                yield f"line {rows.line_num}", None if name is None else row[name], row[text]


_READERS = {
    "": _from_lines,
    ".txt": _from_lines,
    ".json": _from_json,
    ".jsonl": _from_json_lines,
    ".ndjson": _from_json_lines,
    ".csv": _from_table,
    ".tsv": _from_table,
}
